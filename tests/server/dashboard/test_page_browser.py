"""The page in a real browser: it fits, it lives, and strangers' texts are texts."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from tacit.server.dashboard.application import Who, application
from tacit.server.events import RoundStarted
from tacit.server.kinds import Refused
from tests.server.dashboard import stage
from tests.server.gate.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here to look at the page")

OUT = "x.getClientRects().length && x.getBoundingClientRect().right > innerWidth + 1"
WIDE = f"[...document.querySelectorAll('main *')].filter(x => {OUT}).length"
TEXT = "document.body.innerText"
ROUND = "document.querySelector('#summary dd')?.innerText"
SHOT = os.environ.get("TACIT_PAGE_SHOTS")  # a folder, for whoever wants to look himself


@contextmanager
def listening(path: Path, who: Who | None = None, port: int = 0) -> Iterator[str]:
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
        config = uvicorn.Config(application(stage.live(path), who), ws="none", lifespan="off",
                                log_level="critical", timeout_graceful_shutdown=0)  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
        finally:
            server.should_exit = server.force_exit = True
            thread.join(10)


@contextmanager
def shown(path: Path, browser: Browser, who: Who | None = None) -> Iterator[str]:
    """The page, until the browser leaves it: a stream that breaks off would be on its console."""
    with listening(path, who) as address:
        browser.said.clear()
        browser.goto(address)
        yield address
        said = list(browser.said)
        browser.goto("about:blank")
    assert who or said == []  # a token that is not there is an error there, too


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "federation"
    stage.server(path)
    return path


@pytest.fixture
def run(folder: Path) -> stage.Written:
    stage.run(folder / "runs" / "before", rounds=2, status="failed")
    made = stage.run(folder / "runs" / "hospitals", rounds=5)
    made.note(Refused(5, "report", 4, stage.HOSTILE), at=stage.AT + 9)
    made.round(6, out={1: "attest", 2: "reveal", 5: "key"})
    return made


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_strangers_texts_are_texts(
    folder: Path, run: stage.Written, browser: Browser, width: int, scheme: str
) -> None:
    browser.size(width, 1200, dark=scheme == "dark")
    with shown(folder, browser):
        browser.until("document.querySelectorAll('svg.chart').length === 4")
        text = browser.run(TEXT)
        assert text.count(stage.HOSTILE) == 3
        assert browser.run("window.hit") is None
        assert browser.run("document.querySelectorAll('main img, main script').length") == 0
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run(WIDE) == 0
        assert browser.run("document.querySelectorAll('.strip .stage-report').length") == 6
        letters = browser.run("[...document.querySelectorAll('.strip td[class*=stage-]')]"
                              ".map(x => x.innerText).join('')")  # fmt: skip
        assert sorted(letters) == sorted("RRRRRRAVK")
        assert run.log.head.head.root.hex() in text
        background = browser.run("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(19, 22, 24)" if scheme == "dark" else "rgb(250, 249, 246)")
        if SHOT:
            browser.shoot(Path(SHOT) / f"dashboard-{width}-{scheme}.png")


def test_who_cannot_see_it_is_told_as_much(
    folder: Path, run: stage.Written, browser: Browser
) -> None:
    """Every table has a caption, every chart and every section says what it is, headings nest."""
    browser.size(1280, 1200)
    with shown(folder, browser):
        browser.until("document.querySelectorAll('svg.chart').length === 4")
        tables = "[...document.querySelectorAll('main table')]"
        assert browser.run(f"{tables}.length") >= 7
        assert browser.run(f"{tables}.filter(x => !x.caption?.innerText).length") == 0
        charts = browser.run("[...document.querySelectorAll('svg.chart')].map(x => x.ariaLabel)")
        assert charts[
            0
        ] == "Accuracy by round: 85 % after round 6, from 10 % after round 1".replace(
            " %", "\u00a0%"
        )
        names = "[...document.querySelectorAll('section')].map(x => x.ariaLabel ?? document."
        names += "getElementById(x.getAttribute('aria-labelledby')).innerText)"
        assert all(browser.run(names))
        heads = browser.run("[...document.querySelectorAll('h1,h2,h3')].map(x => +x.tagName[1])")
        assert heads[0] == 1
        assert all(b - a <= 1 for a, b in pairwise(heads))
        assert browser.run("document.querySelector('#spoken').ariaLive") == "polite"
        assert "Round 6 of 8, accuracy 85.0" in browser.run(
            "document.querySelector('#spoken').textContent"
        )


def test_it_lives(folder: Path, run: stage.Written, browser: Browser) -> None:
    browser.size(390, 1200)
    with shown(folder, browser):
        browser.until(f"{ROUND} === '6 of 8'")
        line = browser.run("document.querySelector('svg.chart .line').getAttribute('d')")
        run.tell(RoundStarted(7, 8))
        browser.until(f"{ROUND} === '7 of 8'")
        run.round(7, out={9: "filter"})
        browser.until(f"{TEXT}.includes('filter 1 time')")
        browser.until("document.querySelectorAll('.strip .stage-filter').length === 1")
        grown = browser.run("document.querySelector('svg.chart .line').getAttribute('d')")
        assert grown.startswith(line)
        assert len(grown) > len(line)
        run.set_status("finished")
        browser.until("document.querySelector('#summary .badge').innerText === 'finished'")
        assert browser.run("document.querySelector('#link').innerText").startswith("Live")


def test_another_run_is_chosen_by_its_name(
    folder: Path, run: stage.Written, browser: Browser
) -> None:
    browser.size(1280, 1200)
    with shown(folder, browser):
        browser.until("document.querySelector('h1').innerText === 'hospitals'")
        browser.run("[...document.querySelectorAll('#runs a')].find(x => x.innerText.startsWith"
                    "('before')).click()")  # fmt: skip
        browser.until("document.querySelector('h1').innerText === 'before'")
        browser.until(f"{ROUND} === '2 of 8'")
        assert browser.run("location.hash") == "#before"
        browser.until(f"{TEXT}.includes('The run failed')")


def test_a_first_run_comes_while_somebody_looks(folder: Path, browser: Browser) -> None:
    browser.size(390, 900)
    with shown(folder, browser):
        browser.until(f"{TEXT}.includes('No run is here yet')")
        stage.run(folder / "runs" / "first", rounds=1)
        browser.until("document.querySelector('h1').innerText === 'first'")
        browser.until("document.querySelectorAll('svg.chart').length === 4")


def test_a_lost_dashboard_is_told_and_found_again(
    folder: Path, run: stage.Written, browser: Browser
) -> None:
    browser.size(1280, 900)
    with listening(folder) as address:
        browser.goto(address)
        browser.until(f"{ROUND} === '6 of 8'")
    browser.until("document.querySelector('#link').dataset.state === 'lost'")
    assert browser.run(ROUND) == "6 of 8"  # what was known stays, in grey
    run.round(7)
    with listening(folder, port=int(address.rpartition(":")[2].strip("/"))):
        browser.until("document.querySelector('#link').dataset.state === 'live'", within=20)
        browser.until(f"{ROUND} === '7 of 8'")
        assert browser.run("document.querySelectorAll('table.rounds tbody tr').length") == 7


def test_where_a_token_is_wanted_it_is_asked_for_and_kept_in_memory(
    folder: Path, run: stage.Written, browser: Browser
) -> None:
    token = "viewer-" + "k" * 40
    who: Any = {token: "ana"}.get
    browser.size(390, 900)
    with shown(folder, browser, who):
        browser.until("!document.querySelector('#door').hidden")
        assert "hospitals" not in browser.run(TEXT)
        for typed in ("wrong", token):
            browser.run("document.querySelector('#token').focus()")
            browser.type(typed)
            browser.press("Enter", 13)
            if typed == "wrong":
                browser.until("document.querySelector('#refused').innerText.includes('no good')")
        browser.until(f"{ROUND} === '6 of 8'")
        kept = ("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href,"
                "history.state, performance.getEntries(), document.documentElement.outerHTML,"
                "[...document.querySelectorAll('input')].map(x => x.value)])")  # fmt: skip
        assert token not in browser.run(kept)
