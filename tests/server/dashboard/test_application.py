"""Who may look, what they are told, and what is never told."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tacit.server.dashboard import application as module
from tacit.server.dashboard import live as live_module
from tacit.server.dashboard.application import _FILES, application
from tacit.server.dashboard.house import House
from tacit.server.dashboard.live import STILL_HERE, Live
from tacit.server.events import RoundStarted
from tests.server.dashboard import stage

FILES = sorted(_FILES)
TOLD = ["/v1/live?run=hospitals", "/metrics"]
TOKEN = "viewer-" + "k" * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "federation"
    stage.server(path)
    stage.run(path / "runs" / "hospitals", rounds=3)
    return path


def who(token: str) -> str | None:
    return "ana" if token == TOKEN else None


async def ask(app: Any, path: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Status, headers, and what came of the body at first: a stream does not end by itself."""
    told: dict[str, Any] = {"body": b""}
    come = asyncio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            told["status"] = message["status"]
            told["headers"] = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            told["body"] += message["body"]
            if b"data: " in told["body"] or not message.get("more_body"):
                come.set()

    async def receive() -> Any:
        await asyncio.sleep(60)

    route, _, query = path.partition("?")
    given = {"host": "localhost:8844"} | (headers or {})
    scope = {
        "type": "http", "method": "GET", "path": route, "raw_path": route.encode(),
        "query_string": query.encode(), "scheme": "http", "http_version": "1.1",
        "headers": [(k.encode(), v.encode()) for k, v in given.items()],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8844), "asgi": {"version": "3.0"},
    }  # fmt: skip
    running = asyncio.create_task(app(scope, receive, send))
    await asyncio.wait({running, asyncio.create_task(come.wait())},
                       return_when=asyncio.FIRST_COMPLETED, timeout=20)  # fmt: skip
    if not running.done():
        running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    return told


def asked(app: Any, path: str, **headers: str) -> dict[str, Any]:
    return asyncio.run(ask(app, path, headers))


@pytest.mark.parametrize("path", FILES)
def test_the_page_s_files_are_strict(folder: Path, path: str) -> None:
    told = asked(application(stage.live(folder)), path)
    assert told["status"] == 200
    policy = told["headers"]["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert told["headers"]["x-content-type-options"] == "nosniff"
    text = told["body"].decode()
    assert "innerHTML" not in text
    assert "http://www.w3.org/2000/svg" in text or "http" not in text.replace("https://", "http")
    if path == "/":
        assert "<style" not in text
        assert "onclick" not in text
        assert "style=" not in text
        assert text.count("<script") == 1


OTHER_NAMES = ["evil.example", "evil.example:8844", "localhost.evil.example", "127.0.0.1.nip.io",
               "", "169.254.169.254", "[::2]:8844", "localhost:8844.evil.example"]  # fmt: skip


@pytest.mark.parametrize("host", OTHER_NAMES)
def test_a_name_that_means_this_address_is_not_answered(folder: Path, host: str) -> None:
    """DNS rebinding: the browser says by which name it came."""
    app = application(stage.live(folder))
    for path in (*FILES, *TOLD, "/health", "/nothing"):
        told = asked(app, path, host=host)
        assert told["status"] == 421
        assert b"hospitals" not in told["body"]


def test_the_loopback_s_names_are_answered(folder: Path) -> None:
    app = application(stage.live(folder))
    for host in ("localhost", "LOCALHOST:8844", "127.0.0.1:1", "[::1]:8844", "[::1]"):
        assert asked(app, "/health", host=host)["status"] == 200


@pytest.mark.parametrize("path", TOLD)
@pytest.mark.parametrize(
    "given", ["", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}",
              "Bearer " + "x" * 10_000],
)  # fmt: skip
def test_where_others_reach_it_a_token_is_wanted(folder: Path, path: str, given: str) -> None:
    app = application(stage.live(folder), who)
    told = asked(app, path, authorization=given) if given else asked(app, path)
    assert told["status"] == 401
    assert told["headers"]["www-authenticate"] == "Bearer"
    assert b"hospitals" not in told["body"]


@pytest.mark.parametrize("path", TOLD)
def test_a_viewer_s_token_opens_it_under_any_name(folder: Path, path: str) -> None:
    """No site that a browser has open knows the token, which is in no cookie."""
    app = application(stage.live(folder), who)
    told = asked(app, path, authorization=f"bearer {TOKEN}", host="tacit.example")
    assert told["status"] == 200
    assert b"hospitals" in told["body"]
    assert "set-cookie" not in told["headers"]


def test_a_token_in_an_address_opens_nothing(folder: Path) -> None:
    app = application(stage.live(folder), who)
    assert asked(app, f"/v1/live?run=hospitals&token={TOKEN}")["status"] == 401


def test_whose_token_is_withdrawn_is_told_no_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "EVERY", 0.01)
    monkeypatch.setattr(live_module, "ASK_AGAIN", 0.02)
    good = {TOKEN}

    async def run() -> None:
        live = stage.live(folder)
        events = live.events("hospitals", "", lambda: TOKEN in good)
        await anext(events)
        await anext(events)
        good.clear()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(events), 10)
        assert live.viewers == 0

    asyncio.run(run())


def test_there_is_nothing_to_do_but_look(folder: Path) -> None:
    async def run() -> set[int]:
        through = httpx.ASGITransport(application(stage.live(folder)))
        async with httpx.AsyncClient(transport=through, base_url="http://localhost") as client:
            return {
                (await client.request(method, path)).status_code
                for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS")
                for path in ("/", "/v1/live", "/metrics")
            }

    assert asyncio.run(run()) == {405}


def test_there_is_nothing_else(folder: Path) -> None:
    app = application(stage.live(folder))
    for path in ("/docs", "/openapi.json", "/page/../../run.py", "/page/%2e%2e/run.py", "/v1"):
        assert asked(app, path)["status"] == 404


def test_a_run_is_named_and_no_path(folder: Path) -> None:
    told = asked(application(stage.live(folder)), "/v1/live?run=../../federation")
    assert set(data(told["body"].partition(b"\n\n")[2])[1]) == {"house"}


def test_pages_have_a_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_VIEWERS", 0)
    assert asked(application(stage.live(folder)), "/v1/live")["status"] == 503


def data(event: bytes) -> tuple[str, dict[str, Any]]:
    """The number of an event, and what it tells."""
    head, said, *rest = event.decode().splitlines()
    assert (head[:4], said[:6], rest) == ("id: ", "data: ", [""])
    return head[4:], json.loads(said[6:])


class Ticking:
    """A clock that moves as the loop sleeps."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Ticking:
    made, slept = Ticking(), asyncio.sleep

    async def sleep(seconds: float) -> None:
        made.at += seconds
        await slept(0)

    monkeypatch.setattr("tacit.server.dashboard.live.asyncio.sleep", sleep)
    return made


async def first(events: AsyncIterator[bytes]) -> bytes:
    assert (await anext(events)).startswith(b"retry: ")
    return await anext(events)


def test_a_viewer_is_told_all_and_then_what_is_new(folder: Path, clock: Ticking) -> None:
    async def run() -> None:
        written = stage.Written(folder / "runs" / "hospitals", None)
        events = stage.live(folder, clock).events("hospitals", "")
        _, told = data(await first(events))
        assert told["run"]["anew"]
        assert told["house"]["anew"]
        assert told["run"]["values"]["round 3"]["state"] == "done"
        written.tell(RoundStarted(4, 8))
        _, told = data(await anext(events))
        assert not told["run"]["anew"]
        assert set(told["run"]["values"]) == {"round 4", "now"}

    asyncio.run(run())


def test_who_comes_back_is_told_what_he_missed_and_nothing_twice(
    folder: Path, clock: Ticking
) -> None:
    async def run() -> None:
        live = stage.live(folder, clock)
        written = stage.Written(folder / "runs" / "hospitals", None)
        events = live.events("hospitals", "")
        last, _ = data(await first(events))
        await events.aclose()
        assert live.viewers == 0
        written.tell(RoundStarted(4, 8))
        clock.at += 60
        again = live.events("hospitals", last)
        last, told = data(await first(again))
        assert set(told["run"]["values"]) == {"round 4", "now"}
        await again.aclose()
        quiet = live.events("hospitals", last)
        assert await first(quiet) == b": nothing is new\n\n"
        assert clock.at >= STILL_HERE

    asyncio.run(run())


@pytest.mark.parametrize("last", ["", "x", "-", "0123-5", f"{stage.SESSION}-", f"{stage.SESSION}-x",
                                  f"{stage.SESSION}-99999999", f"{stage.SESSION}-" + "9" * 40,
                                  f"{stage.SESSION}-\u0663"])  # fmt: skip
def test_a_number_of_another_process_means_nothing(folder: Path, clock: Ticking, last: str) -> None:
    async def run() -> None:
        _, told = data(await first(stage.live(folder, clock).events("hospitals", last)))
        assert told["run"]["anew"]

    asyncio.run(run())


def test_nor_does_one_that_would_fit(folder: Path, clock: Ticking) -> None:
    async def run() -> None:
        live = stage.live(folder, clock)
        await first(live.events("hospitals", ""))
        last = f"another-{live.house.version.now}"
        _, told = data(await first(live.events("hospitals", last)))
        assert told["run"]["anew"]

    asyncio.run(run())


def test_many_viewers_cost_one_look_and_one_text(
    folder: Path, clock: Ticking, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[House] = []
    made: list[Any] = []
    look, make = House.look, Live._made

    def looking(house: House) -> None:
        looks.append(house)
        look(house)

    def making(*given: Any) -> bytes:
        made.append(given)
        return make(*given)

    monkeypatch.setattr(House, "look", looking)
    monkeypatch.setattr(Live, "_made", making)

    async def run() -> None:
        live = stage.live(folder, clock)
        many = [live.events("hospitals", "") for _ in range(100)]
        told = [await first(events) for events in many]
        assert live.viewers == 100
        assert len({id(each) for each in told}) == 1

    asyncio.run(run())
    assert len(looks) == 1
    assert len(made) == 1


def test_a_run_that_is_not_there_yet_is_told_when_it_comes(folder: Path, clock: Ticking) -> None:
    async def run() -> None:
        events = stage.live(folder, clock).events("later", "")
        _, told = data(await first(events))
        assert "run" not in told
        stage.run(folder / "runs" / "later", rounds=1)
        _, told = data(await anext(events))
        assert told["run"]["anew"]
        assert told["run"]["values"]["round 1"]["state"] == "done"

    asyncio.run(run())
