"""The operators' page: who may see and do what by it, what it says of itself, what is logged."""

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from html.parser import HTMLParser
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pyotp
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error

from tacit.crypto.errors import ParameterError
from tacit.server.gate import desk
from tacit.server.gate.allowance import DEFAULT_BUDGET
from tacit.server.gate.base import Denial, Role, State
from tacit.server.gate.known import identified, room
from tacit.server.gate.lately import MOST_DENIALS, MOST_DRIFTS, Lately
from tacit.server.gate.page.overview import MOST_KEYS
from tacit.server.gate.page.routes import _ACTS, MOST_BYTES
from tacit.server.gate.reveal import Detail
from tacit.server.gate.totp import NONCE_BYTES, SEED_BYTES
from tacit.server.kinds import Approved, Denied, Judged, KeyIssued, KeyRenewed, KeyRevoked
from tests.server.gate.gates import AT
from tests.server.gate.paged import Paged, paged

FILES = ["/operator", "/operator/page.css", "/operator/page.js", "/operator/parts.js",
         "/operator/acts.js", "/operator/base.js"]  # fmt: skip
LED, OTHERS = (Role.CLIENT, Role.VIEWER), (Role.OPERATOR, Role.RELEASER, Role.AUTHORITY)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Paged]:
    with paged(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paged]:
    """For what changes nothing."""
    with paged(tmp_path_factory.mktemp("quiet")) as made:
        yield made


# Who may see what

PARTS = ("keys", "organisations", "decisions", "drift")
SEES = {Role.VIEWER, Role.OPERATOR, Role.AUTHORITY}


@pytest.mark.parametrize("role", Role)
def test_a_role_sees_its_parts_and_no_other(quiet: Paged, role: Role) -> None:
    if role is Role.CLIENT:
        refused = quiet.call("GET", "/v1/operator/view", role)
        assert (refused.status_code, refused.json()["stage"]) == (403, "scope")
        return
    told = quiet.view(role)
    assert {part for part in PARTS if told[part] is not None} == set(PARTS if role in SEES else ())
    assert told["me"]["role"] == role
    assert told["gate"]["digest"] == quiet.house.card.digest


def test_a_role_sees_the_requests_that_it_could_approve(page: Paged) -> None:
    page.act("ask", Role.RELEASER, deed="release", subject="ab" * 32)
    page.act("ask", Role.AUTHORITY, deed="key budget", subject=page.names["client"], amount=500)
    seen = {role: [each["deed"] for each in page.view(role)["requests"]] for role in OTHERS}
    assert seen == {
        Role.OPERATOR: [], Role.RELEASER: ["release"], Role.AUTHORITY: ["key budget"],
    }  # fmt: skip
    assert page.view(Role.VIEWER)["requests"] == []


# Who may do what: every role times every act, to a key of every role

DOES: dict[str, dict[str, Any]] = {
    "issue": {"organisation": "new", "role": None},
    "rotate": {"key": None},
    "revoke": {"key": None},
    "suspend": {"key": None, "reason": "odd"},
    "restore": {"key": None, "reason": "looked at it"},
}
ASKS = {
    Role.AUTHORITY: {"key budget", "organisation budget", "full scores"},
    Role.RELEASER: {"release", "export"},
}
SUBJECTS = {"release": "ab" * 32, "export": "audit.key", "organisation budget": "clients"}


def test_no_act_is_left_out() -> None:
    assert {name for name, *_ in _ACTS} == {*DOES, "ask", "approve"}


@pytest.mark.parametrize("act", DOES)
def test_every_role_and_act_and_whose_key(page: Paged, act: str) -> None:
    for role, of in product(Role, Role):
        spare = page.world.issue("spare", of)  # not the last authority's, nor the actor's own
        body = {
            name: value or (of if name == "role" else spare.name)
            for name, value in DOES[act].items()
        }
        told = page.act(act, role, **body)
        is_allowed = role is (Role.OPERATOR if of in LED else Role.AUTHORITY)
        assert told.status_code == (200 if is_allowed else 403), (role, of, told.text)
        if not is_allowed:
            assert told.json()["stage"] == "scope"
            assert page.state_of(spare.name)["state"] == "ok"


def test_every_role_and_what_it_may_ask_for(page: Paged) -> None:
    for role, deed in product(Role, sorted({each for deeds in ASKS.values() for each in deeds})):
        subject = SUBJECTS.get(deed, page.names["client"])
        amount = 500 if "budget" in deed else 0
        told = page.act("ask", role, deed=deed, subject=subject, amount=amount)
        assert told.status_code == (200 if deed in ASKS.get(role, ()) else 403), told.text


@pytest.mark.parametrize("path", ["/v1/operator/view", *(f"/v1/operator/{name}" for name in DOES)])
def test_without_a_key_that_is_good_there_is_nothing(quiet: Paged, path: str) -> None:
    method = "GET" if path.endswith("view") else "POST"
    good = quiet.secrets["operator"]
    for secret in ("", "x", good[:-1], good[:-1] + "g", quiet.secrets["viewer"][:22] + good[22:]):
        refused = quiet.call(method, path, secret)
        assert (refused.status_code, refused.json()["stage"]) == (401, "key")
    for where in (f"{path}?key={good}", f"{path}?access_token={good}"):
        assert quiet.call(method, where, "").status_code == 401
    cookie = {"cookie": f"key={good}; authorization=Bearer {good}"}
    assert quiet.call(method, path, "", headers=cookie).status_code == 401
    assert quiet.call(method, path, "operator", address="192.0.2.1").status_code == 403


def test_a_key_that_has_ended_is_shown_nothing(page: Paged) -> None:
    desk.suspend(page.world.store, page.world.root, page.names["operator"], "left", AT)
    assert page.call("GET", "/v1/operator/view", Role.OPERATOR).status_code == 403
    page.act("revoke", Role.AUTHORITY, key=page.names["operator"])
    assert page.call("GET", "/v1/operator/view", Role.OPERATOR).status_code == 401


def test_all_keys_are_looked_at_by_one_at_a_time(
    page: Paged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a viewer's key, six at once kept the gate for 0.9 s from finding out who asks."""
    inside, most = 0, 0

    def slow(*given: Any) -> dict[str, Any]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        inside -= 1
        return {}

    monkeypatch.setattr("tacit.server.gate.page.routes.overview", slow)

    async def look() -> None:
        through = httpx.ASGITransport(page.app)
        headers = {"authorization": f"Bearer {page.secrets['viewer']}"}
        async with httpx.AsyncClient(transport=through, base_url="http://gate") as client:
            told = [client.get("/v1/operator/view", headers=headers) for _ in range(8)]
            assert {each.status_code for each in await asyncio.gather(*told)} == {200}

    asyncio.run(look())
    assert most == 1


def test_a_key_that_ends_while_it_sends_does_nothing_more(page: Paged) -> None:
    """Else a thief keeps a request half sent, and makes himself a key once his own is revoked."""

    async def body() -> AsyncIterator[bytes]:
        yield b'{"organisation": '
        desk.revoke(page.world.store, page.world.root, page.names["operator"], AT)
        yield b'"thieves"}'

    told = page.call("POST", "/v1/operator/issue", Role.OPERATOR, content=body())
    assert (told.status_code, told.json()["stage"]) == (401, "key")
    names = {each["organisation"] for each in page.view(Role.AUTHORITY)["organisations"]}
    assert "thieves" not in names


# What acts do, and that they are logged


def test_acts_do_what_they_say_and_the_log_says_who(page: Paged) -> None:
    operator, client = page.names["operator"], page.names["client"]
    before = len(page.logged())
    made = page.act("issue", Role.OPERATOR, organisation="clinic", role="client", days=2,
                    details=["top1"], networks=["10.0.0.0/8"]).json()  # fmt: skip
    grant = identified(page.world.store, made["secret"], AT)
    assert (grant.key, grant.organisation) == (made["key"], "clinic")
    assert (set(grant.details), grant.networks) == ({Detail.LABEL, Detail.TOP1}, ("10.0.0.0/8",))
    assert grant.expires == AT + 2 * 86400
    page.act("suspend", Role.OPERATOR, key=client, reason="asks oddly")
    assert page.state_of(client)["state"] == "suspended"
    page.act("restore", Role.OPERATOR, key=client, reason="a new camera", days=3)
    assert page.state_of(client)["state"] == "ok"
    renewed = page.act("rotate", Role.OPERATOR, key=client, hours=0).json()
    assert identified(page.world.store, renewed["secret"], AT).key == client
    with pytest.raises(Denial):
        identified(page.world.store, page.secrets["client"], AT)
    page.act("revoke", Role.OPERATOR, key=made["key"])
    assert page.state_of(made["key"])["state"] == "revoked"
    assert page.logged()[before:] == [
        KeyIssued(made["key"], "clinic", "client", operator),
        Judged(client, "ok", "suspended", operator, "asks oddly"),
        Judged(client, "suspended", "ok", operator, "a new camera"),
        KeyRenewed(client, "secret", operator),
        KeyRevoked(made["key"], operator),
    ]


def code_of(page: Paged, key: str, at: float = AT) -> str:
    grant = identified(page.world.store, key, at)
    address = page.codes.enrol(grant, os.urandom(SEED_BYTES + NONCE_BYTES), at)
    totp = pyotp.parse_uri(address)
    assert isinstance(totp, pyotp.TOTP)
    return totp.at(int(at))


def test_a_second_person_approves_with_a_code_that_is_good_once(page: Paged) -> None:
    client, second = page.names["client"], page.world.issue("board", Role.AUTHORITY)
    asked = page.act("ask", Role.AUTHORITY, deed="key budget", subject=client, amount=500)
    number = int(asked.json()["done"])
    assert page.state_of(client)["allowed"] == DEFAULT_BUDGET
    refused = page.act("approve", second.text, request=number, code="000000")
    assert (refused.status_code, "totp enrol" in refused.text) == (403, True)
    assert not page.view(second.text)["me"]["has_codes"]
    own = code_of(page, page.secrets["authority"])
    refused = page.act("approve", Role.AUTHORITY, request=number, code=own)
    assert (refused.status_code, "for himself" in refused.text) == (403, True)
    code = code_of(page, second.text)
    wrong = f"{(int(code) + 1) % 10**6:06}"
    assert page.act("approve", second.text, request=number, code=wrong).status_code == 403
    assert page.view(second.text)["me"]["has_codes"]
    assert page.act("approve", second.text, request=number, code=code).status_code == 200
    assert page.state_of(client)["allowed"] == 500
    assert page.act("approve", second.text, request=number, code=code).status_code == 422
    assert Approved("key budget", f"{client}: 500", page.names["authority"], second.name) in (
        page.logged()
    )


def test_what_is_refused_is_logged_for_the_key_that_wanted_it(page: Paged) -> None:
    page.call("GET", "/v1/operator/view", Role.CLIENT)
    page.act("revoke", Role.OPERATOR, key=page.names["authority"])
    page.act("revoke", Role.OPERATOR, key="nobody")
    page.call("GET", "/v1/operator/view", "tacit_guess")
    denied = [each for each in page.logged() if isinstance(each, Denied)]
    operator = page.names["operator"]
    assert set(denied) == {
        Denied(page.names["client"], "scope", 1), Denied(operator, "scope", 1),
        Denied(operator, "validate", 1), Denied("", "key", 1),
    }  # fmt: skip
    told = page.view(Role.VIEWER)["decisions"]
    assert told["denied"] == {"scope": 2, "validate": 1, "key": 1}


# What is no request


@pytest.mark.parametrize(
    ("act", "body", "said"),
    [
        ("issue", {}, "organisation"),
        ("issue", {"organisation": "x", "days": 0}, "days"),
        ("issue", {"organisation": "x", "days": 1e9}, "days"),
        ("issue", {"organisation": "x", "days": "90"}, "days"),
        ("issue", {"organisation": "x", "role": "god"}, "role"),
        ("issue", {"organisation": "x", "details": ["full"]}, "ask for them"),
        ("issue", {"organisation": "x", "networks": ["everywhere"]}, "CIDR"),
        ("issue", {"organisation": "a\nb"}, "one line"),
        ("issue", {"organisation": "a\u202eb"}, "one line"),
        ("issue", {"organisation": "x", "budget": 10**9}, "budget"),
        ("suspend", {"key": "nobody", "reason": "x"}, "no key"),
        ("suspend", {"key": "x", "reason": "x" * 501}, "reason"),
        ("suspend", {"key": None, "reason": " "}, "say why"),
        ("restore", {"key": None, "reason": "x", "days": float("nan")}, "days"),
        ("rotate", {"key": None, "hours": -1}, "hours"),
        ("revoke", [], "body"),
    ],
)
def test_what_cannot_be_done_says_why_and_does_nothing(
    quiet: Paged, act: str, body: Any, said: str
) -> None:
    if isinstance(body, dict) and body.get("key", "") is None:
        body = body | {"key": quiet.names["client"]}
    before = quiet.view(Role.AUTHORITY)["keys"]
    refused = quiet.call("POST", f"/v1/operator/{act}", Role.OPERATOR, content=json.dumps(body))
    assert (refused.status_code, refused.json()["stage"]) == (422, "validate")
    assert said in refused.json()["reason"]
    assert quiet.view(Role.AUTHORITY)["keys"] == before


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"key": "\\ud800"}', b"[" * 10000])
def test_bodies_that_are_none(quiet: Paged, content: bytes) -> None:
    refused = quiet.call("POST", "/v1/operator/revoke", Role.OPERATOR, content=content)
    assert (refused.status_code, refused.json()["stage"]) == (422, "validate")


def test_a_body_has_a_bound_and_is_read_for_who_may(quiet: Paged) -> None:
    large = b" " * (MOST_BYTES + 1)
    for role, status in ((Role.OPERATOR, 413), (Role.VIEWER, 403), ("tacit_x", 401)):
        assert quiet.call("POST", "/v1/operator/revoke", role, content=large).status_code == status


def test_a_gate_without_its_key_of_codes_says_so(page: Paged) -> None:
    def none() -> Any:
        raise ParameterError("totp.key cannot be read")

    object.__setattr__(page.house, "codes", none)
    assert not page.view(Role.AUTHORITY)["me"]["has_codes"]
    asked = page.act("ask", Role.AUTHORITY, deed="full scores", subject=page.names["client"])
    second = page.world.issue("board", Role.AUTHORITY)
    refused = page.act("approve", second.text, request=int(asked.json()["done"]), code="123456")
    assert (refused.status_code, "totp.key" in refused.text) == (422, True)


def test_a_gate_that_cannot_log_shows_that_alone(page: Paged) -> None:
    page.journal._is_sound = False
    refused = page.call("GET", "/v1/operator/view", Role.OPERATOR)
    assert (refused.status_code, refused.json()["stage"]) == (503, "log")


# What is told


def test_budgets_risks_and_states(page: Paged) -> None:
    client = page.names["client"]
    page.world.budget(client, 200)
    grant = identified(page.world.store, page.secrets["client"], AT)
    with page.world.store.writing() as db:
        db.execute("UPDATE keys SET spent = 30, risk = 0.25, state = ? WHERE name = ?",
                   (State.DEGRADED, client))  # fmt: skip
        db.execute("UPDATE organisations SET spent = 150 WHERE name = ?", (grant.organisation,))
        desk.changed(page.world.store, db, client)
    page.suspect(client, 0.7, is_flagged=True, distance=3.0, shift=float("inf"))
    told = page.state_of(client)
    assert (told["spent"], told["allowed"], told["left"]) == (30, 75, 45)  # 200 * 0.75 / 2
    assert (told["state"], told["risk"], told["seen"]["is_flagged"]) == ("degraded", 0.25, True)
    figures = {each["name"]: (each["value"], each["excess"]) for each in told["seen"]["figures"]}
    assert figures["distance"] == (3.0, 1.5)
    assert figures["shift"] == (None, None)  # JSON has no word for it
    view = page.view(Role.VIEWER)
    assert view["keys"]["shown"][0]["key"] == client  # what needs a look comes first
    of_all = {each["organisation"]: each for each in view["organisations"]}["clients"]
    assert of_all == {"organisation": "clients", "keys": 1, "spent": 150, "allowed": 200}
    with page.world.store.reading() as db:
        assert room(db, client, AT) == (45, 50)  # whoever asks is held to the same


def test_networks_that_turned_bad_are_told(page: Paged) -> None:
    assert page.view(Role.VIEWER)["gate"]["fault"] is None
    (page.folder / "networks").write_text("let everybody in\n")
    page.call("GET", "/v1/operator/view", "")
    assert "line 1 is no rule" in page.view(Role.VIEWER)["gate"]["fault"]


def test_the_log_is_told_by_its_head(page: Paged) -> None:
    entries = page.logged()
    told = page.view(Role.RELEASER)["gate"]["log"]
    assert told["size"] == len(entries)
    assert told["root"] == page.journal.head.head.root.hex()


def test_a_gate_that_nobody_watches(tmp_path: Path) -> None:
    with paged(tmp_path, is_watched=False) as page:
        told = page.view(Role.VIEWER)
        assert told["drift"] == {"is_watched": False, "share": None, "told": []}
        assert page.state_of(page.names["client"])["seen"] is None


def test_many_keys_are_looked_up_at_once_and_shown_in_part(page: Paged) -> None:
    """One query, whatever their number: who asks the model waits for the same lock."""
    with page.world.store.writing() as db:
        row = db.execute("SELECT * FROM keys WHERE name = ?", (page.names["client"],)).fetchone()
        rows = [(f"{i:016x}", *row[1:]) for i in range(MOST_KEYS)]
        db.executemany(f"INSERT INTO keys VALUES ({','.join('?' * len(row))})", rows)
    queries: list[str] = []
    page.world.store._open().set_trace_callback(queries.append)
    told = page.view(Role.VIEWER)["keys"]
    page.world.store._open().set_trace_callback(None)
    assert told["all"] > len(told["shown"]) == MOST_KEYS
    assert len(queries) < 20


def test_no_secret_is_ever_told_again(page: Paged) -> None:
    made = page.act("issue", Role.OPERATOR, organisation="clinic").json()["secret"]
    code = code_of(page, page.secrets["authority"])
    told = "".join(json.dumps(page.view(role)) for role in OTHERS)
    page.logged()
    written = b"".join(path.read_bytes() for path in page.folder.iterdir()) + told.encode()
    for secret in (made, *page.secrets.values()):
        assert secret[23:].encode() not in written
        assert bytes.fromhex(secret[23:]) not in written
    assert f'"{code}"' not in told


# The page itself


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found[-1:] and self.found[-1][0] in ("script", "style"):
            self.inline += data.strip()


@pytest.mark.parametrize("path", FILES)
def test_the_page_is_public_and_guarded(quiet: Paged, path: str) -> None:
    told = quiet.call("GET", path, "", address="203.0.113.9")
    assert told.status_code == 200
    policy = dict(part.strip().split(" ", 1) for part in
                  told.headers["content-security-policy"].split(";"))  # fmt: skip
    assert policy["default-src"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert policy["frame-ancestors"] == policy["trusted-types"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in told.headers["content-security-policy"]
    assert told.headers["x-content-type-options"] == "nosniff"
    assert told.headers["referrer-policy"] == "no-referrer"
    assert told.headers["x-frame-options"] == "DENY"
    assert "set-cookie" not in told.headers
    assert "access-control-allow-origin" not in told.headers
    assert quiet.call("POST", path, Role.OPERATOR).status_code == 405


def test_what_is_told_is_kept_nowhere_on_the_way(page: Paged) -> None:
    for told in (page.call("GET", "/v1/operator/view", Role.VIEWER),
                 page.act("issue", Role.OPERATOR, organisation="x")):  # fmt: skip
        assert told.headers["cache-control"] == "no-store"
        assert told.headers["content-type"] == "application/json"
        assert told.headers["content-security-policy"].startswith("default-src 'none'")
        assert "access-control-allow-origin" not in told.headers


def test_the_page_has_no_script_of_its_own_and_asks_nobody_else() -> None:
    folder = files("tacit.server.gate.page")
    tags = Tags()
    tags.feed(folder.joinpath("page.html").read_text("utf-8"))
    assert tags.inline == ""
    for _, attributes in tags.found:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("src", "href"):
            where = attributes.get(name) or "#"
            assert where in ("#", "#main", "data:,") or where in FILES
    kinds = (".js", ".css", ".html")
    text = "".join(
        each.read_text("utf-8") for each in folder.iterdir() if each.name.endswith(kinds)
    )
    assert not re.search(r"https?://|//[a-z]+\.|url\(|@import", text)
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser|"
        r"srcdoc|localStorage|sessionStorage|indexedDB|document\.cookie"
    )
    assert not re.search(forbidden, text)


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_what_is_written_can_be_read(scheme: int) -> None:
    """WCAG 2.2, AA: 4.5 for texts (1.4.3), 3 for edges and bars (1.4.11)."""
    sheet = files("tacit.server.gate.page").joinpath("page.css").read_text("utf-8")
    schemes = [dict(re.findall(r"--([\w-]+): (#\w{6})", block))
               for block in re.findall(r":root \{(.*?)\}", sheet, re.DOTALL)]  # fmt: skip
    assert len(schemes) == 2
    colour = schemes[scheme]
    texts = [(ink, ground) for ink in ("ink", "soft", "calm", "warm", "bad")
             for ground in ("paper", "card")]  # fmt: skip
    texts += [(ink, f"{tint}-tint") for tint in ("calm", "warm", "bad") for ink in ("ink", tint)]
    texts += [("on", "calm"), ("on", "bad")]
    for ink, ground in texts:
        assert contrast(colour[ink], colour[ground]) >= 4.5, (ink, ground)
    for edge, ground in [("edge", "card"), ("edge", "paper"), ("calm", "line"), ("warm", "line"),
                         ("bad", "line"), ("soft", "line")]:  # fmt: skip
        assert contrast(colour[edge], colour[ground]) >= 3, (edge, ground)


def test_strangers_do_not_push_decisions_out() -> None:
    lately = Lately(lambda: AT)
    lately.hear({"event": "Judged", "key": "k"})
    for i in range(1000):
        lately.hear({"event": "Denied", "stage": "key", "requests": 3, "at": i})
        lately.hear({"event": "Drift", "at": i})
    told = lately.told()
    assert [each["event"] for each in told.decisions] == ["Judged"]
    assert [each["at"] for each in told.denials] == [*range(999, 999 - MOST_DENIALS, -1)]
    assert len(told.drifts) == MOST_DRIFTS
    assert (told.since, told.denied) == (AT, {"key": 3000})


def test_a_fuzzer_of_its_schema_finds_nothing(page: Paged) -> None:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    (page.folder / "networks").write_text("")  # the fuzzer comes from no address
    schema = schemathesis.openapi.from_asgi("/openapi.json", page.app)
    operations = [each for each in (found.ok() for found in schema.get_all_operations())
                  if each.path.startswith("/v1/operator")]  # fmt: skip
    assert len(operations) == 1 + len(_ACTS)
    cases = st.one_of(
        *(each.as_strategy(generation_mode=mode) for each in operations
          for mode in schemathesis.GenerationMode)
    )  # fmt: skip
    seen = set()

    @settings(max_examples=80, deadline=None, database=None, suppress_health_check=[*HealthCheck],
              phases=[Phase.generate])  # fmt: skip
    @given(cases, st.sampled_from(OTHERS))
    def fuzz(case: Any, role: str) -> None:
        response = case.call(headers={"Authorization": f"Bearer {page.secrets[role]}"})
        seen.add(response.status_code)
        case.validate_response(response, checks=[not_a_server_error])
        if response.status_code >= 400:
            assert response.json().keys() == {"stage", "reason"}

    fuzz()
    assert {200, 403, 422} <= seen
