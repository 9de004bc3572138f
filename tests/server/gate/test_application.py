"""The gate over HTTP, with real keys: who gets in, what he is told, how he is refused."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from schemathesis.checks import not_a_server_error

from tacit.server.gate.application import application
from tacit.server.gate.base import Role
from tacit.server.gate.desk import revoke, suspend
from tacit.server.gate.reveal import Detail
from tacit.server.kinds import Answered
from tests.server.gate.fakes import CARD, Gate, rows
from tests.server.gate.gates import AT, HERE, World, records, world

LARGE = 10**9
TIMEOUT = 20.0


@dataclass
class Served:
    """An application over a world of keys; `secrets` by role."""

    app: FastAPI
    gate: Gate
    world: World
    secrets: dict[str, str]

    def call(self, method: str, path: str, role: str = "client", **more: Any) -> httpx.Response:
        return self.calls([(method, path, role, more)])[0]

    def calls(self, wanted: list[tuple[str, str, str, dict]]) -> list[httpx.Response]:
        async def run() -> list[httpx.Response]:
            through = httpx.ASGITransport(self.app, client=(HERE, 1), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=through, base_url="http://gate") as client:
                return await asyncio.gather(
                    *(
                        client.request(m, p, **self.headed(role, more))
                        for m, p, role, more in wanted
                    )
                )

        return asyncio.run(run())

    def headed(self, role: str, more: dict) -> dict:
        secret = self.secrets.get(role, role)
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        return more | {"headers": headers | more.get("headers", {})}

    def ask(self, x: Any, role: str = "client", query: str = "", **more: Any) -> httpx.Response:
        return self.call("POST", f"/v1/answers{query}", role, json={"inputs": x.tolist()}, **more)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = world(tmp_path)
    secrets = {"": ""}
    for role in Role:
        details = frozenset(Detail) - {Detail.FULL}
        key = made.issue(f"{role}s", role, details=details)
        made.budget(key.name, LARGE)
        secrets[role] = key.text
    kept = records(made.store)
    gate = Gate(tmp_path, records=kept, clock=lambda: AT)
    yield Served(application(gate.chain, kept, kept.close), gate, made, secrets)
    asyncio.run(gate.chain.close())
    made.store.close()


def test_an_answer(served: Served) -> None:
    told = served.ask(rows(1, 3, 0))
    assert told.status_code == 200
    assert told.json() == {"labels": [1, 3, 0], "detail": "label"}
    told = served.ask(rows(2), query="?detail=top1")
    assert told.json() == {"labels": [2], "detail": "top1", "bands": [2]}
    told = served.ask(rows(2), query="?detail=rounded")
    assert told.json() == {
        "labels": [2], "detail": "rounded", "scores": [[0.05, 0.05, 0.85, 0.05]]
    }  # fmt: skip
    binary = {"content-type": "application/octet-stream"}
    told = served.call("POST", "/v1/answers", content=rows(3, 1).tobytes(), headers=binary)
    assert told.json()["labels"] == [3, 1]
    assert served.gate.logged() == 7


def test_the_card(served: Served) -> None:
    served.ask(rows(1, 2))
    card = served.call("GET", "/v1/model").json()
    assert card == CARD.fields() | {
        "shape": [1, 2, 3], "details": ["label", "top1", "rounded"], "state": "ok",
        "left": LARGE - 2,
    }  # fmt: skip


ASKS = {("POST", "/v1/answers"), ("GET", "/v1/model")}
SEES = {("GET", "/metrics")}
MAY = {
    Role.CLIENT: ASKS, Role.VIEWER: SEES, Role.OPERATOR: SEES, Role.AUTHORITY: SEES,
    Role.RELEASER: set(),
}  # fmt: skip


@pytest.mark.parametrize("role", Role)
def test_each_role_may_what_its_row_says_and_nothing_else(served: Served, role: Role) -> None:
    for method, path in ASKS | SEES:
        more = {"json": {"inputs": rows(1).tolist()}} if method == "POST" else {}
        told = served.call(method, path, role, **more)
        assert told.status_code == (200 if (method, path) in MAY[role] else 403), path
        if told.status_code == 403:
            assert told.json()["stage"] == "scope"


@pytest.mark.parametrize(("method", "path"), sorted(ASKS | SEES))
def test_without_a_key_that_is_good_there_is_nothing(
    served: Served, method: str, path: str
) -> None:
    """And no wrong key is told from another one."""
    client, viewer = served.secrets[Role.CLIENT], served.secrets[Role.VIEWER]
    other_role = viewer if (method, path) in ASKS else client
    wrong = ["", "x", client[:-1], client + "0", client.upper(), client[:-1] + "g",
             client[:22] + viewer[22:], "tacit_" + "0" * 16 + "_" + "0" * 64]  # fmt: skip
    said = {served.call(method, path, secret).text for secret in wrong}
    assert len(said) == 1
    assert json.loads(said.pop())["stage"] == "key"
    for secret in wrong:
        refused = served.call(method, path, secret)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
    assert served.call(method, path, other_role).status_code == 403
    basic = {"headers": {"authorization": f"Basic {client}"}}
    assert served.call(method, path, "", **basic).status_code == 401
    in_query = served.call(method, f"{path}?key={client}&access_token={client}", "")
    assert in_query.status_code == 401


def test_keys_that_are_no_good_any_more(served: Served) -> None:
    name = served.secrets[Role.CLIENT].split("_")[1]
    operator = served.world.by[Role.OPERATOR]
    suspend(served.world.store, operator, name, "looks odd", AT)
    assert served.ask(rows(1)).status_code == 403
    revoke(served.world.store, operator, name, AT)
    assert served.ask(rows(1)).status_code == 401
    old = served.world.issue("late", expires=AT + 1)
    served.gate.chain._clock = lambda: AT + 2
    assert served.ask(rows(1), old.text).status_code == 401
    far = served.world.issue("far", networks=("192.168.0.0/16",))
    refused = served.ask(rows(1), far.text)
    assert (refused.status_code, refused.json()["stage"]) == (403, "key")


def test_a_budget_ends(served: Served) -> None:
    key = served.world.issue("poor")
    served.world.budget(key.name, 3)
    assert served.ask(rows(1, 2), key.text).status_code == 200
    refused = served.ask(rows(1, 2), key.text)
    assert (refused.status_code, refused.json()["stage"]) == (429, "budget")
    assert served.ask(rows(1)[..., :1], key.text).status_code == 422  # and that cost nothing
    assert served.ask(rows(1), key.text).status_code == 200
    assert served.ask(rows(1), key.text).status_code == 429
    assert served.call("GET", "/v1/model", key.text).json()["left"] == 0


@pytest.mark.parametrize(
    ("more", "status", "stage"),
    [
        ({"content": b"{"}, 422, "validate"),
        ({"content": b"{}", "headers": {"content-type": "text/plain"}}, 415, "validate"),
        ({"content": b"x" * (CARD.body_bytes + 1)}, 413, "validate"),
        ({"content": b"x", "headers": {"content-length": "9" * 30}}, 413, "validate"),
    ],
)
def test_what_is_no_request_is_refused_in_one_shape(
    served: Served, more: dict, status: int, stage: str
) -> None:
    refused = served.call("POST", "/v1/answers", **more)
    assert refused.status_code == status
    assert refused.json().keys() == {"stage", "reason"}
    assert refused.json()["stage"] == stage
    assert served.call("GET", "/v1/model").json()["left"] == LARGE


def test_a_body_without_a_length_is_cut_off_at_the_limit(served: Served) -> None:
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += 1024
            yield b" " * 1024

    refused = served.call("POST", "/v1/answers", content=endless())
    assert refused.status_code == 413
    assert sent <= CARD.body_bytes + 2048


def test_what_is_not_there_and_what_is_not_meant(served: Served) -> None:
    for method, path, status in [
        ("GET", "/nothing", 404), ("GET", "/docs", 404), ("PUT", "/v1/answers", 405),
        ("GET", "/v1/answers", 405), ("DELETE", "/v1/model", 405),
    ]:  # fmt: skip
        refused = served.call(method, path)
        assert refused.status_code == status
        assert refused.json()["stage"] == "http"


def test_nobody_is_sent_elsewhere_with_his_key(served: Served) -> None:
    """A redirection would go to where the request's Host says, and to http behind a proxy."""
    told = served.call("POST", "/v1/answers/", headers={"host": "evil.example"})
    assert (told.status_code, "location" in told.headers) == (404, False)


def test_a_bug_is_told_without_a_word_about_it(served: Served) -> None:
    served.gate.model.broken = RuntimeError("secret innards")
    refused = served.ask(rows(1))
    assert refused.status_code == 500
    assert "innards" not in refused.text
    assert refused.json()["stage"] == "gate"


def test_health(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert served.call("GET", "/health", "").json() == {"status": "ok"}
    monkeypatch.setattr(served.gate.journal, "_is_sound", False)
    told = served.call("GET", "/health", "")
    assert (told.status_code, told.json()["stage"]) == (503, "log")
    assert served.ask(rows(1)).status_code == 503


def test_no_secret_and_no_input_is_anywhere(served: Served, tmp_path: Path) -> None:
    x = rows(1)
    x[0, 0, 1, 2] = 0.8642864  # more digits than a digest has by chance
    served.ask(x)
    served.ask(x, query="?detail=full")
    served.ask(x * 100)
    key = served.secrets["client"]
    served.ask(x, key[:-1] + ("1" if key.endswith("0") else "0"))
    told = served.call("GET", "/metrics", "viewer").text + served.call("GET", "/v1/model").text
    asyncio.run(served.gate.chain.close())
    written = [path.read_bytes() for path in tmp_path.iterdir()]
    everything = b"".join([told.encode(), repr(served.gate.chain).encode(), *written])
    for secret in served.secrets.values():
        if secret:
            assert secret.encode() not in everything
            assert secret[23:].encode() not in everything
            assert bytes.fromhex(secret[23:]) not in everything
    assert str(x[0, 0, 1, 2]).encode() in repr(x.tolist()).encode()  # it would be seen
    assert b"8642864" not in everything
    assert x.tobytes() not in everything
    events = (tmp_path / "events.jsonl").read_text().splitlines()
    assert {json.loads(line)["stage"] for line in events} == {"key", "scope", "validate"}
    by_stage = {json.loads(line)["stage"]: json.loads(line)["atlas"] for line in events}
    assert by_stage["scope"] == ["AML.T0024.000", "AML.T0024.001"]


def test_metrics_count_and_have_no_label_without_bound(served: Served) -> None:
    served.ask(rows(1, 2, 3))
    served.ask(rows(1), "wrong")
    text = served.call("GET", "/metrics", "viewer").text
    assert "gate_answers_total 3.0" in text
    assert 'gate_requests_total{stage="log",status="200"} 1.0' in text
    assert 'gate_requests_total{stage="key",status="401"} 1.0' in text
    assert "gate_seconds_count 1.0" in text
    names = {secret.split("_")[1] for secret in served.secrets.values() if secret}
    assert not any(name in text for name in names)


def test_many_at_once_are_all_logged(served: Served) -> None:
    one = ("POST", "/v1/answers", "client", {"json": {"inputs": rows(1, 2).tolist()}})
    told = served.calls([one] * 50)
    assert [each.status_code for each in told] == [200] * 50
    assert served.gate.logged() == 100
    answered = [each for each in served.gate.entries() if isinstance(each, Answered)]
    assert len(answered) < 50


def test_openapi_says_all_of_it(served: Served) -> None:
    said = served.call("GET", "/openapi.json", "").json()
    assert set(said["paths"]) == {"/v1/answers", "/v1/model", "/health", "/metrics"}
    asked = said["paths"]["/v1/answers"]["post"]
    schema = asked["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["inputs"]["maxItems"] == CARD.most
    assert {"401", "403", "413", "415", "422", "429", "503"} <= asked["responses"].keys()
    assert asked["security"] == [{"key": []}]
    assert said["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


def test_a_fuzzer_of_its_schema_finds_nothing(served: Served) -> None:
    """Requests by and against the OpenAPI: never a 5xx, and always what the schema says."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    schema = schemathesis.openapi.from_asgi("/openapi.json", served.app)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 4
    cases = st.one_of(
        *(each.as_strategy(generation_mode=mode) for each in operations
          for mode in schemathesis.GenerationMode)
    )  # fmt: skip
    seen = set()

    @settings(max_examples=120, deadline=None, database=None, suppress_health_check=[*HealthCheck],
              phases=[Phase.generate])  # fmt: skip
    @given(cases, st.sampled_from([*Role, "", None]))
    def fuzz(case: Any, role: str | None) -> None:
        headers = {} if role is None else {"Authorization": f"Bearer {served.secrets[role]}"}
        response = case.call(headers=headers)
        seen.add(response.status_code)
        case.validate_response(response, checks=[not_a_server_error])
        assert response.status_code < 500
        if response.status_code >= 400:
            assert response.json().keys() == {"stage", "reason"}

    fuzz()
    assert {200, 401, 422} <= seen


def test_life_ends_with_everything_closed(served: Served) -> None:
    async def run() -> None:
        async with served.app.router.lifespan_context(served.app):
            pass

    asyncio.run(run())
    assert not served.gate.chain.is_sound
    assert served.ask(rows(1)).status_code == 503
