"""Keys as the records have them: who holds one, what he may, and whether this is his secret."""

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from tacit.crypto.errors import ParameterError
from tacit.server.gate import keys
from tacit.server.gate.allowance import allowance, trust
from tacit.server.gate.base import Denial, Grant, Role, State
from tacit.server.gate.keys import Key
from tacit.server.gate.networks import Network, networks_of
from tacit.server.gate.reveal import Detail
from tacit.server.gate.store import Store, one

_NOBODY = bytes(32)  # is compared with where there is no such key, so that both take as long


@dataclass(frozen=True, slots=True)
class Known:
    """A key's `grant`, the digests of its secrets with the time at which each ends, and until when
    a person excused it from being degraded."""

    grant: Grant
    secrets: tuple[tuple[bytes, float], ...]
    networks: tuple[Network, ...]
    is_revoked: bool
    excused: float


@dataclass(frozen=True, slots=True)
class Standing:
    """How a key stands: its grant, what was `spent` of what it is `allowed` so far (with what is
    reserved), what is `left` of that and of its organisation's, and whether it was revoked."""

    grant: Grant
    spent: int
    allowed: int
    left: int
    is_revoked: bool


@dataclass(frozen=True, slots=True)
class Share:
    """What an organisation's `keys` have `spent` together of what it is `allowed` so far."""

    organisation: str
    keys: int
    spent: int
    allowed: int


_COLUMNS = (
    "k.organisation, k.role, k.details, k.networks, k.budget, k.spent, k.issued, k.expires, "
    "k.revoked, k.state, k.risk, k.excused"
)


def known(db: sqlite3.Connection, name: str, at: float) -> Known | None:
    """None for a key that is not there."""
    row = one(db, f"SELECT {_COLUMNS} FROM keys k WHERE name = ?", name)  # noqa: S608
    if row is None:
        return None
    secrets = db.execute("SELECT digest, expires FROM secrets WHERE name = ?", (name,)).fetchall()
    return Known(
        _grant(name, row, at),
        tuple(secrets),
        networks_of(json.loads(row[3])),
        row[8] is not None,
        row[11],
    )


def everybody(db: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """Rows for `standing`, of all keys, oldest first: in one look, since whoever asks the model
    waits meanwhile."""
    return db.execute(
        f"SELECT k.name, o.budget, o.spent, o.since, {_COLUMNS} "  # noqa: S608
        "FROM keys k JOIN organisations o ON o.name = k.organisation ORDER BY k.issued, k.name"
    ).fetchall()


def organisations(db: sqlite3.Connection, at: float) -> list[Share]:
    """Of all of them, by name. Keys that were revoked are not counted."""
    rows = db.execute(
        "SELECT name, budget, spent, since, (SELECT count(*) FROM keys "
        "WHERE organisation = organisations.name AND revoked IS NULL) "
        "FROM organisations ORDER BY name"
    ).fetchall()
    return [
        Share(name, keys, spent, _of_all(budget, spent, since, at))
        for name, budget, spent, since, keys in rows
    ]


def standing(row: tuple[Any, ...], at: float) -> Standing:
    name, all_budget, all_spent, since, *own = row
    grant, spent, is_revoked = _grant(name, tuple(own), at), own[5], own[8] is not None
    allowed = _of_key(grant)
    left = min(allowed - spent, _of_all(all_budget, all_spent, since, at) - all_spent)
    return Standing(grant, spent, allowed, max(0, left), is_revoked)


def _grant(name: str, row: tuple[Any, ...], at: float) -> Grant:
    organisation, role, details, networks, budget, spent, issued, expires, _, state, risk, _ = row
    return Grant(
        key=name,
        organisation=organisation,
        role=Role(role),
        details=frozenset(map(Detail, json.loads(details))),
        budget=budget,
        issued=issued,
        expires=expires,
        trust=trust_of(budget, spent, at - issued, State(state)),
        risk=risk,
        state=State(state),
        networks=tuple(json.loads(networks)),
    )


def trust_of(budget: int, spent: int, age: float, state: State) -> int:
    """What a key has earned counts as long as nothing is held against it."""
    return trust(budget, spent, age) if state is State.OK else 1


def room(db: sqlite3.Connection, name: str, at: float) -> tuple[int, int]:
    """Answers that are not spent, of a key's budget and of its organisation's. Below 0 where less
    is allowed now than was before."""
    budget, spent, issued, state, risk, all_budget, all_spent, since = one(
        db,
        "SELECT k.budget, k.spent, k.issued, k.state, k.risk, o.budget, o.spent, o.since "
        "FROM keys k JOIN organisations o ON o.name = k.organisation WHERE k.name = ?",
        name,
    )
    state = State(state)
    trusted = trust_of(budget, spent, at - issued, state)
    of_key = allowance(budget, trusted, risk, state)
    return of_key - spent, _of_all(all_budget, all_spent, since, at) - all_spent


def _of_key(grant: Grant) -> int:
    return allowance(grant.budget, grant.trust, grant.risk, grant.state)


def _of_all(budget: int, spent: int, since: float, at: float) -> int:
    """What an organisation is allowed."""
    return allowance(budget, trust(budget, spent, at - since), 0.0, State.OK)


def admit(found: Known | None, key: Key | None, at: float) -> Grant:
    """The grant of a key whose secret this is. Raises Denial: in the same words for a text that is
    no key, for one that nobody has, and for a wrong secret."""
    secrets = found.secrets if found is not None else ((_NOBODY, 0.0),)
    is_right = key is not None and keys.opens(
        key, [digest for digest, ends in secrets if at < ends]
    )
    if found is None or not is_right or found.is_revoked:
        raise Denial("key", 401, "no valid key")
    if at >= found.grant.expires:
        raise Denial("key", 401, "the key has expired")
    if found.grant.state is State.SUSPENDED:
        raise Denial("key", 403, "the key is suspended: an operator has to look at it")
    return found.grant


def identified(store: Store, text: str, at: float) -> Grant:
    """Who acts on this machine, by the key that he shows. Raises Denial as `admit`. Networks are
    not looked at: he is here."""
    key = keys.parse(text.strip())
    with store.reading() as db:
        found = known(db, key.name, at) if key is not None else None
    return admit(found, key, at)


def found(db: sqlite3.Connection, name: str, at: float) -> Known:
    """A key that somebody named. Raises ParameterError if there is none."""
    there = known(db, name, at)
    if there is None:
        raise ParameterError(f"no key {name!r}: tacit gate key list names them")
    return there
