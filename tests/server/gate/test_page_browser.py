"""The operators' page in a real browser: what it shows, does, and does not let strangers do."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyotp
import pytest
import uvicorn

from tacit.server.gate import desk
from tacit.server.gate.base import Role, State
from tacit.server.gate.drift import _ADVICE, Moved, Proposal
from tacit.server.gate.known import identified
from tacit.server.gate.patience import Patient
from tacit.server.gate.totp import NONCE_BYTES, SEED_BYTES
from tacit.server.kinds import Denied, Judged
from tests.server.gate.browser import CHROMIUM, Browser
from tests.server.gate.gates import AT
from tests.server.gate.paged import Paged, paged

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here to look at the page")

NAME = "<img src=x onerror=alert(1)>"
REASON = "<script>window.hit=1</script>\"'><svg/onload=window.hit=1>{{7*7}}"
ROW = "[...document.querySelectorAll('table.keys tbody tr')].find(x=>x.innerText.includes({!r}))"
OUT = "x.getClientRects().length && x.getBoundingClientRect().right > innerWidth + 1"
SHOT = os.environ.get("TACIT_PAGE_SHOTS")  # a folder, for whoever wants to look himself


@contextmanager
def listening(page: Paged, port: int = 0) -> Iterator[str]:
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
        config = uvicorn.Config(page.app, http=Patient, ws="none", lifespan="off",
                                log_level="warning", server_header=False)  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join(10)


@contextmanager
def shown(page: Paged, browser: Browser, role: str) -> Iterator[str]:
    """The page, opened by a key that is typed in."""
    with listening(page) as address:
        browser.goto(f"{address}/operator")
        enter(browser, page.secrets.get(role, role))
        browser.until("!document.querySelector('#view').hidden")
        yield address


def enter(browser: Browser, secret: str) -> None:
    browser.run("document.querySelector('#key').focus()")
    browser.type(secret)
    browser.press("Enter", 13)


def lived_in(page: Paged) -> None:
    """A gate where something has happened."""
    world, store = page.world, page.world.store
    odd = world.issue(NAME)
    clinic = world.issue("St. Anne's Clinic, Department of Radiology", networks=("10.0.0.0/8",))
    lab = world.issue("Lab")
    rest = [world.issue("Lab"), world.issue("University")]
    for key, budget, spent, risk in ((odd, 300, 140, 0.55), (clinic, 5000, 3400, 0.05),
                                     (lab, 100, 99, 0.15), (rest[0], 100, 3, 0.0)):  # fmt: skip
        world.budget(key.name, budget)
        with store.writing() as db:
            db.execute("UPDATE keys SET spent = ?, risk = ? WHERE name = ?",
                       (spent, risk, key.name))  # fmt: skip
            db.execute("UPDATE organisations SET spent = spent + ? WHERE name = ?",
                       (spent, world.grant(key).organisation))  # fmt: skip
            if key is odd:
                db.execute("UPDATE keys SET state = ? WHERE name = ?", (State.DEGRADED, odd.name))
            desk.changed(store, db, key.name)
    operator, now = world.by[Role.OPERATOR], time.time()
    desk.suspend(store, operator, rest[1].name, REASON, now)
    page.suspect(odd.name, 0.72, is_flagged=True, distance=2.9, shift=2.4, coverage=1.1)
    page.suspect(clinic.name, 0.05, is_flagged=False, near=0.9)
    page.act("ask", Role.AUTHORITY, deed="key budget", subject=clinic.name, amount=20_000)
    for stage, requests in (("key", 241), ("budget", 38), ("scope", 4), ("validate", 12)):
        page.journal.keep([Denied("" if stage == "key" else lab.name, stage, requests)])
    for moved, keys, share in (
        (Moved.KEY, (odd.name,), 0.2),
        (Moved.WORLD, (odd.name, clinic.name, lab.name), 0.75),
    ):
        told = Proposal(moved, keys, share, now, _ADVICE[moved], (0.94, 0.71))
        page.journal._events.propose(told)
    page.logged()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Paged]:
    with paged(tmp_path, time.time) as made:
        yield made


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_strangers_texts_are_texts(
    page: Paged, browser: Browser, width: int, scheme: str
) -> None:
    lived_in(page)
    browser.said.clear()
    browser.size(width, 1400, dark=scheme == "dark")
    with shown(page, browser, Role.AUTHORITY):
        text = browser.run("document.body.innerText")
        assert NAME in text
        assert REASON in text
        assert (
            browser.run("document.querySelectorAll('main img, main script, main svg').length") == 0
        )
        assert browser.run("window.hit") is None
        assert browser.run("document.documentElement.scrollWidth") <= width
        wide = f"[...document.querySelectorAll('main *')].filter(x => {OUT}).length"
        assert browser.run(wide) == 0
        assert browser.run("getComputedStyle(document.body).backgroundColor") == (
            "rgb(19, 22, 24)" if scheme == "dark" else "rgb(250, 249, 246)"
        )
        browser.run("document.querySelector('table.keys summary').click()")
        assert browser.run("document.documentElement.scrollWidth") <= width
        shoot(browser, f"page-{width}-{scheme}")
    assert browser.said == []


BUTTONS = "[...document.querySelectorAll('button')]"
CLICK = f"(x => {{{{ x.focus(); x.click() }}}})({BUTTONS}.find(x => x.dataset.focus === {{!r}}))"
NOW = "document.dispatchEvent(new Event('visibilitychange'))"  # it looks at once
OPEN = "document.querySelector('#dialog').open"


def fill(browser: Browser, name: str, text: str) -> None:
    browser.run(f"document.querySelector('#field-{name}').select()")
    browser.type(text)


def shoot(browser: Browser, name: str) -> None:
    if SHOT:
        browser.shoot(Path(SHOT) / f"{name}.png")


def test_an_operator_acts_by_the_page(page: Paged, browser: Browser) -> None:
    browser.size(1280, 1000)
    with shown(page, browser, Role.OPERATOR):
        assert browser.run("document.querySelector('#requests').hidden")
        browser.run("document.querySelector('[data-focus=\"Issue a key\"]').focus()")
        browser.press("Enter", 13)
        assert browser.until(OPEN)
        assert browser.run("document.activeElement.id") == "field-organisation"
        fill(browser, "organisation", NAME)
        shoot(browser, "dialog")
        browser.press("Enter", 13)
        secret = browser.until("document.querySelector('#secret')?.value")
        name = identified(page.world.store, secret, time.time()).key
        shoot(browser, "handed")
        browser.press("Escape", 27)
        browser.until(f"!{OPEN}")
        # A dialog is emptied by its event of closing, which comes after it is no longer open.
        browser.until(f"!document.documentElement.outerHTML.includes({secret!r})")
        assert browser.run("document.activeElement.dataset.focus") == "Issue a key"
        browser.until(f"document.body.innerText.includes({name!r})")
        browser.run(CLICK.format(f"suspend {name}"))
        fill(browser, "reason", REASON)
        browser.press("Enter", 13)
        browser.until(f"!{OPEN}")
        browser.until(f"{ROW.format(name)}.innerText.includes('suspended')")
        browser.until("document.activeElement.id === 'main'")  # its button is gone
        judged = Judged(name, "ok", "suspended", page.names["operator"], REASON)
        assert judged in page.logged()
        browser.run(CLICK.format(f"restore {name}"))
        fill(browser, "reason", " ")
        browser.press("Enter", 13)
        browser.until("document.querySelector('dialog .fault').innerText.includes('say why')")
        browser.press("Escape", 27)
        browser.run(CLICK.format(f"revoke {name}"))
        browser.run("document.querySelector('dialog .hard').click()")
        browser.until(f"!{ROW.format(name)}")
        browser.run("document.querySelector('#ended').click()")
        browser.until(f"{ROW.format(name)}?.innerText.includes('revoked')")
        browser.run("document.querySelector('#find').focus()")
        browser.type("authorit")
        browser.until("document.querySelectorAll('table.keys tbody tr').length === 3")
        assert browser.run("document.activeElement.id") == "find"


def test_a_second_person_approves_by_the_page(page: Paged, browser: Browser) -> None:
    browser.size(390, 1000, dark=True)
    at, client = time.time(), page.names["client"]
    page.act("ask", Role.AUTHORITY, deed="key budget", subject=client, amount=500)
    second = page.world.issue("board", Role.AUTHORITY)
    rand = os.urandom(SEED_BYTES + NONCE_BYTES)
    totp = pyotp.parse_uri(page.codes.enrol(page.world.grant(second, at), rand, at))
    assert isinstance(totp, pyotp.TOTP)
    with shown(page, browser, second.text):
        browser.run("document.querySelector('#requests li button').click()")
        fill(browser, "code", f"{(int(totp.now()) + 1) % 10**6:06}")
        browser.press("Enter", 13)
        browser.until("document.querySelector('dialog .fault').innerText.includes('wrong')")
        fill(browser, "code", totp.now())
        shoot(browser, "approve")
        browser.press("Enter", 13)
        browser.until("document.querySelector('#requests').innerText.includes('Nothing waits')")
    assert page.state_of(client)["allowed"] == 500


def test_the_key_is_in_memory_alone_and_a_lost_gate_is_told(page: Paged, browser: Browser) -> None:
    browser.size(390, 900)
    secret, where = page.secrets[Role.VIEWER], "document.querySelector('#link').innerText"
    with shown(page, browser, Role.VIEWER) as address:
        shoot(browser, "viewer")
        kept = ("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href,"
                "history.state, performance.getEntries(), document.documentElement.outerHTML,"
                "[...document.querySelectorAll('input')].map(x => x.value)])")  # fmt: skip
        assert secret[23:] not in browser.run(kept)
        assert browser.run("indexedDB.databases().then(x => x.length)") == 0
        assert browser("Network.getCookies")["cookies"] == []
        blocked = (
            "(() => { try { document.body.innerHTML = '<b>'; return 0 } catch { return 1 } })()"
        )
        assert browser.run(blocked) == 1
        assert browser.run("document.querySelectorAll('table.keys button').length") == 0
        controls = "[...document.querySelectorAll('input, button, select, [role=meter]')]"
        named = "x.labels?.length || x.getAttribute('aria-label') || x.innerText"
        assert browser.run(f"{controls}.filter(x => !({named})).length") == 0
    browser.run(NOW)
    browser.until(f"{where}.includes('No connection')")
    assert browser.run("document.querySelector('#view').classList.contains('stale')")
    assert browser.run("document.querySelector('#link').ariaLive") == "polite"
    shoot(browser, "lost")
    with listening(page, int(address.rpartition(":")[2])):
        browser.run(NOW)
        browser.until(f"{where}.includes('Live')")
        desk.revoke(page.world.store, page.world.by[Role.OPERATOR], page.names["viewer"], AT)
        browser.run(NOW)
        browser.until("document.querySelector('#refused').innerText.includes('no valid key')")
        shoot(browser, "door")
        assert page.names["client"] not in browser.run("document.documentElement.outerHTML")
        enter(browser, page.secrets[Role.CLIENT])
        browser.until("document.querySelector('#refused').innerText.includes('may not see')")
        assert browser.run("document.querySelector('#view').hidden")
        enter(browser, page.secrets[Role.RELEASER])
        browser.until("!document.querySelector('#view').hidden")
        assert browser.run("document.querySelector('#keys').hidden")
        browser.run("document.querySelector('#forget').click()")
        assert "The key is forgotten" in browser.run("document.body.innerText")
