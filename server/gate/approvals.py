"""Acts that take two people: one asks, and another one of the same right approves, with a code.

Two keys are two people as far as the gate can tell. Who may appoint can make himself a second key:
that is in the log, and has to be looked for there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from sqlite3 import Connection
from types import MappingProxyType

from tacit.crypto.errors import ParameterError
from tacit.server.gate import roles
from tacit.server.gate.allowance import MOST_BUDGET
from tacit.server.gate.base import Denial, Grant, Role, State
from tacit.server.gate.desk import changed
from tacit.server.gate.known import found
from tacit.server.gate.reveal import Detail
from tacit.server.gate.roles import Act
from tacit.server.gate.store import Store, one
from tacit.server.gate.totp import Codes
from tacit.server.kinds import Approved

WITHIN = (
    86400.0  # seconds that a request waits, and that what was approved to be done once may wait
)
MOST_WAITING = 100  # requests of one key: all of them are on everybody's page


class Deed(StrEnum):
    """What is asked for, of a subject."""

    KEY_BUDGET = "key budget"  # a key's name; the amount is answers, before trust and risk
    ORGANISATION_BUDGET = "organisation budget"  # its name; answers, before trust
    FULL_SCORES = "full scores"  # a key's name
    RELEASE = "release"  # SHA-256 of the model's file, in hexadecimal digits
    EXPORT = "export"  # what is to be exported; once


NEEDS: Mapping[Deed, Act] = MappingProxyType(
    {
        Deed.KEY_BUDGET: Act.RAISE,
        Deed.ORGANISATION_BUDGET: Act.RAISE,
        Deed.FULL_SCORES: Act.RAISE,
        Deed.RELEASE: Act.RELEASE,
        Deed.EXPORT: Act.EXPORT,
    }
)


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for, and waits until `ends`, Unix seconds."""

    number: int
    deed: Deed
    subject: str
    amount: int
    asked_by: str
    ends: float


def ask(store: Store, by: Grant, deed: Deed, subject: str, at: float, amount: int = 0) -> Request:
    """Ask for it. Nothing is done before somebody else approves."""
    roles.check(by.role, NEEDS[deed])
    ends = at + WITHIN
    with store.writing() as db:
        _check_subject(db, deed, subject, amount, at)
        _check_room(db, by, at)
        made = db.execute(
            "INSERT INTO requests (act, subject, amount, asked_by, ends) VALUES (?, ?, ?, ?, ?)",
            (deed, subject, amount, by.key, ends),
        )
        return Request(int(made.lastrowid or 0), deed, subject, amount, by.key, ends)


def waiting(store: Store, by: Grant, at: float) -> list[Request]:
    """What this key could approve, and the requests of its own, oldest first."""
    with store.reading() as db:
        rows = db.execute(
            "SELECT id, act, subject, amount, asked_by, ends FROM requests "
            "WHERE approved_by IS NULL AND ends > ? ORDER BY id",
            (at,),
        ).fetchall()
    all_of_them = [Request(row[0], Deed(row[1]), *row[2:]) for row in rows]
    return [each for each in all_of_them if roles.may(by.role, NEEDS[each.deed])]


def approve(codes: Codes, by: Grant, number: int, code: str, at: float) -> Request:
    """Approve a request of somebody else's who still may ask for it. Budgets and details are
    changed by this; a release stands; an export may be done once."""
    store = codes.store
    with store.reading() as db:
        request = _waiting(db, number, at)
        _check_pair(db, request, by, at)
    codes.check(by, code, at)
    with store.writing() as db:
        request = _waiting(db, number, at)  # again: another one may have been as quick
        _check_pair(db, request, by, at)
        ends = at + WITHIN
        db.execute(
            "UPDATE requests SET approved_by = ?, ends = ? WHERE id = ?", (by.key, ends, number)
        )
        _do(store, db, request, at)
        subject = f"{request.subject}: {request.amount}" if request.amount else request.subject
        store.say(Approved(request.deed, subject, request.asked_by, by.key), at)
    return request


def is_released(store: Store, digest: str) -> bool:
    """Whether two people released this file."""
    with store.reading() as db:
        row = one(
            db,
            "SELECT 1 FROM requests WHERE act = ? AND subject = ? AND approved_by IS NOT NULL",
            Deed.RELEASE,
            digest,
        )
    return row is not None


def use(store: Store, by: Grant, deed: Deed, subject: str, at: float) -> None:
    """Use up an approval of what this key asked for: once, and within a day. Raises Denial."""
    roles.check(by.role, NEEDS[deed])
    with store.writing() as db:
        row = one(
            db,
            "SELECT id FROM requests WHERE act = ? AND subject = ? AND asked_by = ? "
            "AND approved_by IS NOT NULL AND used IS NULL AND ends > ? ORDER BY id",
            deed,
            subject,
            by.key,
            at,
        )
        if row is None:
            raise Denial("scope", 403, f"{deed} of {subject} is not approved, or was used")
        db.execute("UPDATE requests SET used = ? WHERE id = ?", (at, row[0]))


def _waiting(db: Connection, number: int, at: float) -> Request:
    row = one(
        db,
        "SELECT id, act, subject, amount, asked_by, ends FROM requests "
        "WHERE id = ? AND approved_by IS NULL AND ends > ?",
        number,
        at,
    )
    if row is None:
        raise ParameterError(f"no request {number} waits: it was approved, or is too old")
    return Request(row[0], Deed(row[1]), *row[2:])


def _check_pair(db: Connection, request: Request, by: Grant, at: float) -> None:
    roles.check(by.role, NEEDS[request.deed])
    if by.key == request.asked_by:
        raise Denial("scope", 403, "nobody approves what he asked for himself")
    asker = found(db, request.asked_by, at)
    if asker.is_revoked or asker.grant.state is State.SUSPENDED or at >= asker.grant.expires:
        raise Denial("scope", 403, "the key that asked for it is no good any more")


def _check_room(db: Connection, by: Grant, at: float) -> None:
    (waiting,) = one(
        db,
        "SELECT count(*) FROM requests WHERE asked_by = ? AND approved_by IS NULL AND ends > ?",
        by.key,
        at,
    )
    if waiting >= MOST_WAITING:
        raise Denial("budget", 429, f"{waiting} requests of this key wait already")


def _check_subject(db: Connection, deed: Deed, subject: str, amount: int, at: float) -> None:
    """Refuse what could not be done once it is approved."""
    match deed:
        case Deed.KEY_BUDGET | Deed.FULL_SCORES:
            there = found(db, subject, at)
            if there.grant.role is not Role.CLIENT or there.is_revoked:
                raise ParameterError(f"{subject} is not a key that asks the model")
        case Deed.ORGANISATION_BUDGET:
            if one(db, "SELECT 1 FROM organisations WHERE name = ?", subject) is None:
                raise ParameterError(f"no organisation {subject!r} has a key")
        case Deed.RELEASE:
            if len(subject) != 64 or set(subject) - set("0123456789abcdef"):
                raise ParameterError("a release is of a SHA-256: 64 hexadecimal digits")
        case Deed.EXPORT:
            if not subject:
                raise ParameterError("say what is to be exported")
    least = 1 if deed in (Deed.KEY_BUDGET, Deed.ORGANISATION_BUDGET) else 0
    most = MOST_BUDGET if least else 0
    if not least <= amount <= most:
        raise ParameterError(f"{amount} answers, expected {least} to {most}")


def _do(store: Store, db: Connection, request: Request, at: float) -> None:
    match request.deed:
        case Deed.KEY_BUDGET:
            db.execute(
                "UPDATE keys SET budget = ? WHERE name = ?", (request.amount, request.subject)
            )
            changed(store, db, request.subject)
        case Deed.ORGANISATION_BUDGET:
            db.execute(
                "UPDATE organisations SET budget = ? WHERE name = ?",
                (request.amount, request.subject),
            )
            # What is reserved for its keys may be more than it has now.
            db.execute(
                "UPDATE keys SET changed = ? WHERE organisation = ?",
                (store.change(), request.subject),
            )
        case Deed.FULL_SCORES:
            details = found(db, request.subject, at).grant.details | {Detail.FULL}
            db.execute(
                "UPDATE keys SET details = ? WHERE name = ?",
                (json.dumps(sorted(details)), request.subject),
            )
            changed(store, db, request.subject)
        case Deed.RELEASE | Deed.EXPORT:
            pass  # it is done elsewhere: `is_released`, `use`
