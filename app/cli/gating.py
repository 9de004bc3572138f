"""`tacit gate`: who may ask a served model, how much, and who decides that.

Whoever acts shows his own key, in a file or in the environment: an argument would be seen by
everybody on the machine. What is done goes to the gate's audit log at once, or, while the gate is
serving and has the log, by its hand within seconds.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import typer

from tacit.app import sealing
from tacit.app.cli.screen import Screen, complain
from tacit.app.cli.sealing import recipient_of
from tacit.app.gatehouse import GateFolder
from tacit.app.journal import KEY, digest_of
from tacit.client.files import new_file, read_private
from tacit.crypto.errors import ParameterError, TacitError
from tacit.crypto.sealed import NO_ROOT, Context
from tacit.server.gate import approvals, desk
from tacit.server.gate.approvals import Deed, Request
from tacit.server.gate.base import Grant, Role
from tacit.server.gate.desk import Wanted
from tacit.server.gate.keys import DRAW_BYTES, Key
from tacit.server.gate.known import Standing, identified
from tacit.server.gate.reveal import Detail
from tacit.server.gate.store import Store
from tacit.server.gate.totp import NONCE_BYTES, SEED_BYTES

KEY_VARIABLE, CODE_VARIABLE = "TACIT_GATE_KEY", "TACIT_GATE_CODE"
DAY = 86400.0
FIRST_DAYS = 365.0
_SHOWN = ("key", "role", "state", "risk", "spent", "left", "until", "organisation")

Named = TypeVar("Named", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Acting:
    """Somebody at the gate, at this time."""

    folder: GateFolder
    by: Grant
    at: float

    @property
    def store(self) -> Store:
        return self.folder.store


def init(screen: Screen, gate: Path, out: Path | None) -> None:
    """Make a gate and its first authority's key."""
    _check_out(screen, out)
    GateFolder.make(gate)
    at = time.time()
    with GateFolder.open(gate) as folder:
        key = desk.found_gate(folder.store, os.urandom(DRAW_BYTES), at, at + FIRST_DAYS * DAY)
        _hand(screen, key, out)
        _tell(screen, folder)
    screen.say(
        f"{gate} is a gate; this is the key of its first authority, for {FIRST_DAYS:.0f} days"
    )


def issue(
    screen: Screen,
    gate: Path,
    as_file: Path | None,
    organisation: str,
    role: str,
    days: float,
    details: list[str],
    networks: list[str],
    out: Path | None,
) -> None:
    """A new key."""
    _check_out(screen, out)
    named = frozenset({Detail.LABEL, *(_one_of(Detail, each, "detail") for each in details)})
    with _acting(screen, gate, as_file) as me:
        ends = me.at + _days(days) * DAY
        wanted = Wanted(organisation, _one_of(Role, role, "role"), ends, named, tuple(networks))
        key = desk.issue(me.store, me.by, wanted, os.urandom(DRAW_BYTES), me.at)
        _hand(screen, key, out)


def keys(screen: Screen, gate: Path, as_file: Path | None) -> None:
    """All keys, a line each."""
    with _acting(screen, gate, as_file, changes=False) as me:
        standings = desk.standings(me.store, me.by, me.at)
    for each in standings:
        fields = _fields(each, me.at)
        screen.say("  ".join(f"{name} {fields[name]}" for name in _SHOWN))
        screen.fact(**fields)
    screen.result(keys=len(standings))


def rotate(
    screen: Screen, gate: Path, as_file: Path | None, name: str, hours: float, out: Path | None
) -> None:
    """A new secret for a key."""
    _check_out(screen, out)
    with _acting(screen, gate, as_file) as me:
        rand = os.urandom(DRAW_BYTES)
        key = desk.rotate(me.store, me.by, name, hours * 3600.0, rand, me.at)
        _hand(screen, key, out)
        screen.say(f"what it was before goes on for {hours:g} hours")


def revoke(screen: Screen, gate: Path, as_file: Path | None, name: str) -> None:
    """The end of a key."""
    with _acting(screen, gate, as_file) as me:
        desk.revoke(me.store, me.by, name, me.at)
        screen.say(f"{name} is revoked")
        screen.result(revoked=name)


def suspend(screen: Screen, gate: Path, as_file: Path | None, name: str, reason: str) -> None:
    """No more answers to a key."""
    with _acting(screen, gate, as_file) as me:
        desk.suspend(me.store, me.by, name, reason, me.at)
        screen.say(f"{name} is suspended")
        screen.result(suspended=name)


def restore(
    screen: Screen, gate: Path, as_file: Path | None, name: str, reason: str, days: float
) -> None:
    """A key as good as new."""
    with _acting(screen, gate, as_file) as me:
        desk.restore(me.store, me.by, name, reason, me.at, days * DAY)
        screen.say(f"{name} is restored")
        screen.result(restored=name, excused_days=days)


def ask(
    screen: Screen, gate: Path, as_file: Path | None, deed: Deed, subject: str, amount: int = 0
) -> None:
    """Ask for what takes a second person."""
    with _acting(screen, gate, as_file) as me:
        _show(screen, approvals.ask(me.store, me.by, deed, subject, me.at, amount))


def ask_release(screen: Screen, gate: Path, as_file: Path | None, model: Path) -> None:
    """Ask for a model's release, by what is in its file."""
    if not model.is_file():
        raise ParameterError(f"no file at {model}")
    ask(screen, gate, as_file, Deed.RELEASE, digest_of(model))


def requests(screen: Screen, gate: Path, as_file: Path | None) -> None:
    """What waits for somebody of this key's role."""
    with _acting(screen, gate, as_file, changes=False) as me:
        waiting = approvals.waiting(me.store, me.by, me.at)
        for each in waiting:
            _show(screen, each, last=False)
        if not waiting:
            screen.say("nothing waits for this key")
        screen.result(requests=len(waiting))


def approve(screen: Screen, gate: Path, as_file: Path | None, number: int) -> None:
    """Be the second person."""
    with _acting(screen, gate, as_file) as me:
        request = approvals.approve(me.folder.codes(), me.by, number, _code(), me.at)
        screen.say(f"request {number} is approved: {request.deed} of {request.subject}")
        screen.result(approved=number, deed=request.deed, subject=request.subject)


def export(screen: Screen, gate: Path, as_file: Path | None, to: str, out: Path) -> None:
    """The key that signs the gate's log, sealed to somebody's public key, once it is approved."""
    recipient = recipient_of(to)
    if out.exists():
        raise ParameterError(f"there is a file at {out}: name another one")
    with _acting(screen, gate, as_file) as me:
        approvals.use(me.store, me.by, Deed.EXPORT, f"{KEY} to {recipient.hex()}", me.at)
        sealing.seal_file(gate / KEY, out, [recipient], Context(0, 0, NO_ROOT))
        screen.say(f"{out}: the key of the log, for who can open it")
        screen.result(exported=str(out))


def ask_export(screen: Screen, gate: Path, as_file: Path | None, to: str) -> None:
    """Ask for that, naming who is to have it."""
    recipient = recipient_of(to)
    ask(screen, gate, as_file, Deed.EXPORT, f"{KEY} to {recipient.hex()}")


def enrol(screen: Screen, gate: Path, as_file: Path | None) -> None:
    """One-time codes for the holder of this key."""
    with _acting(screen, gate, as_file) as me:
        codes, rand = me.folder.codes(), os.urandom(SEED_BYTES + NONCE_BYTES)
        code = _code() if codes.has(me.by) else None
        address = codes.enrol(me.by, rand, me.at, code)
        screen.say("put this into your telephone now; it is not shown again:")
        screen.say(address)
        screen.result(key=me.by.key, otpauth=address)


@contextmanager
def _acting(
    screen: Screen, gate: Path, as_file: Path | None, *, changes: bool = True
) -> Iterator[Acting]:
    with GateFolder.open(gate) as folder:
        text = (
            read_private(as_file).decode("ascii", "replace")
            if as_file is not None
            else os.environ.get(KEY_VARIABLE, "")
        )
        if not text:
            raise ParameterError(f"who acts? --as FILE, or {KEY_VARIABLE} in the environment")
        at = time.time()
        yield Acting(folder, identified(folder.store, text, at), at)
        if changes:  # who only looks has nothing to be told of
            _tell(screen, folder)


def _tell(screen: Screen, folder: GateFolder) -> None:
    try:
        if not folder.tell():
            screen.say("the gate is serving: its log will say so within seconds")
    except TacitError as bad:
        complain(f"it is done, and waits for the log, which does not take it: {bad}")


def _hand(screen: Screen, key: Key, out: Path | None) -> None:
    """Give a key to who asked for it; nobody can look it up later."""
    if out is not None:
        new_file(out, key.text.encode() + b"\n")
        screen.say(f"the key {key.name} is in {out}, and nowhere else")
        screen.result(key=key.name, file=str(out))
    else:
        screen.say(f"the key {key.name}, which is not shown again:")
        screen.say(key.text)
        screen.result(key=key.name, secret=key.text)


def _check_out(screen: Screen, out: Path | None) -> None:
    if out is None and screen.is_quiet:
        raise ParameterError("--quiet would lose the key: name a file for it with --out")
    if out is not None and out.exists():
        raise ParameterError(f"there is a file at {out}: name another one")
    if out is not None and not out.parent.is_dir():
        raise ParameterError(f"no folder for {out}: make it first")


def _show(screen: Screen, request: Request, *, last: bool = True) -> None:
    amount = f", {request.amount} answers" if request.amount else ""
    screen.say(
        f"request {request.number}: {request.deed} of {request.subject}{amount}, "
        f"asked by {request.asked_by}, waits until {_utc(request.ends)}"
    )
    tell = screen.result if last else screen.fact
    tell(
        request=request.number,
        deed=request.deed,
        subject=request.subject,
        amount=request.amount,
        asked_by=request.asked_by,
        ends=request.ends,
    )


def _fields(standing: Standing, at: float) -> dict[str, object]:
    grant = standing.grant
    state = "revoked" if standing.is_revoked else "expired" if at >= grant.expires else grant.state
    return {
        "key": grant.key,
        "organisation": grant.organisation,
        "role": grant.role,
        "state": state,
        "risk": f"{grant.risk:.2f}",
        "spent": standing.spent,
        "left": standing.left,
        "until": _utc(grant.expires),
        "details": sorted(grant.details),
    }


def _code() -> str:
    """A one-time code, from the environment or by the keyboard: never from the command line."""
    if code := os.environ.get(CODE_VARIABLE):
        return code
    if not sys.stdin.isatty():
        raise ParameterError(f"a one-time code is needed: type it, or set {CODE_VARIABLE}")
    return str(typer.prompt("one-time code", hide_input=True))


def _days(days: float) -> float:
    if not 0.0 < days <= 3660.0:
        raise ParameterError(f"--days {days:g}, expected more than 0, up to 3660")
    return days


def _one_of(kind: type[Named], text: str, what: str) -> Named:
    try:
        return kind(text)
    except ValueError:
        raise ParameterError(f"no {what} {text!r}: {', '.join(kind)}") from None


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
