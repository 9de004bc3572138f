"""What people do to keys: issue, rotate, revoke, suspend, restore. Each act is checked against the
role of who does it, and goes to the log.

The check says who may, and the log says who did. It does not hold who owns the machine: whoever can
write the records' file can write anything into it.
"""

import json
import math
from dataclasses import dataclass, field
from sqlite3 import Connection

from tacit.crypto.errors import ParameterError
from tacit.server.entries import one_line
from tacit.server.gate import roles
from tacit.server.gate.allowance import DEFAULT_BUDGET
from tacit.server.gate.base import Grant, Role, State
from tacit.server.gate.keys import Key, drawn
from tacit.server.gate.known import (
    Known,
    Share,
    Standing,
    everybody,
    found,
    known,
    organisations,
    standing,
)
from tacit.server.gate.networks import networks_of
from tacit.server.gate.reveal import Detail
from tacit.server.gate.roles import Act
from tacit.server.gate.store import Store, one
from tacit.server.kinds import Judged, KeyIssued, KeyRenewed, KeyRevoked

LABELS_ALONE = frozenset({Detail.LABEL})
# Of a linear model all scores of as many answers as it has inputs are the model: 65 for the digits.
# So `full` is never given with a key, and takes two people: see `approvals.py`.
AT_ISSUE = frozenset({Detail.LABEL, Detail.TOP1, Detail.ROUNDED})
LONGEST_OVERLAP = 30 * 86400.0  # seconds
_LONGEST_NAME = 100  # characters
_GATE = "gate"  # its own organisation


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key to be issued. Its life ends at `expires`, Unix seconds; `networks` in CIDR form.

    Raises ParameterError for details beyond what is given with a key, for networks that are none,
    and for an organisation without a name that fits a line.
    """

    organisation: str
    role: Role
    expires: float
    details: frozenset[Detail] = LABELS_ALONE
    networks: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        name = self.organisation
        if not 0 < len(name) <= _LONGEST_NAME or one_line(name) != name or name != name.strip():
            raise ParameterError("an organisation's name is one line of up to 100 characters")
        if not self.details <= AT_ISSUE:
            raise ParameterError("full scores are not given with a key: ask for them afterwards")
        networks_of(self.networks)


def found_gate(store: Store, rand: bytes, at: float, expires: float) -> Key:
    """The first authority's key, of a gate that has no key yet. Raises ParameterError for another
    one."""
    with store.writing() as db:
        if one(db, "SELECT 1 FROM keys") is not None:
            raise ParameterError("this gate has its first key already")
        key = drawn(rand)
        _insert(store, db, key, Wanted(_GATE, Role.AUTHORITY, expires, frozenset()), at)
        store.say(KeyIssued(key.name, _GATE, Role.AUTHORITY, _GATE), at)
    return key


def issue(store: Store, by: Grant, wanted: Wanted, rand: bytes, at: float) -> Key:
    """A new key; its secret is in what this returns, and nowhere else. Budgets are the default:
    more takes two people. Raises Denial if `by` may not."""
    roles.check(by.role, roles.over(wanted.role, Act.ISSUE))
    if not at < wanted.expires:
        raise ParameterError("a key that has expired already is of no use")
    key = drawn(rand)
    with store.writing() as db:
        _insert(store, db, key, wanted, at)
        store.say(KeyIssued(key.name, wanted.organisation, wanted.role, by.key), at)
    return key


def rotate(store: Store, by: Grant, name: str, overlap: float, rand: bytes, at: float) -> Key:
    """A new secret for a key, by its holder or who may issue it. The secrets of before go on for
    `overlap` seconds; all are one key, of one name and one budget."""
    if not 0.0 <= overlap <= LONGEST_OVERLAP:
        raise ParameterError(f"overlap={overlap} s, expected 0 to {LONGEST_OVERLAP:.0f}")
    with store.writing() as db:
        there = _living(db, name, at)
        if by.key != name:
            roles.check(by.role, roles.over(there.grant.role, Act.ISSUE))
        key = Key(name, drawn(rand).secret)
        db.execute("DELETE FROM secrets WHERE name = ? AND expires <= ?", (name, at))
        db.execute(
            "UPDATE secrets SET expires = min(expires, ?) WHERE name = ?", (at + overlap, name)
        )
        _give_secret(db, key)
        changed(store, db, name)
        store.say(KeyRenewed(name, "secret", by.key), at)
    return key


def revoke(store: Store, by: Grant, name: str, at: float) -> None:
    """The end of a key, at once and for good, by its holder or who may issue it."""
    with store.writing() as db:
        there = _living(db, name, at)
        if by.key != name:
            roles.check(by.role, roles.over(there.grant.role, Act.ISSUE))
        _keep_an_authority(db, there, at)
        db.execute("UPDATE keys SET revoked = ? WHERE name = ?", (at, name))
        changed(store, db, name)
        store.say(KeyRevoked(name, by.key), at)


def suspend(store: Store, by: Grant, name: str, reason: str, at: float) -> None:
    """Nothing more is answered to a key until it is restored."""
    with store.writing() as db:
        there = _living(db, name, at)
        roles.check(by.role, roles.over(there.grant.role, Act.JUDGE))
        _keep_an_authority(db, there, at)
        _judge(store, db, there, State.SUSPENDED, by, reason, at)


def restore(
    store: Store, by: Grant, name: str, reason: str, at: float, excused: float = 0.0
) -> None:
    """A person has looked: the key is as good as new, and what was held against it is gone.

    For `excused` seconds the gate holds nothing against it by itself: what was odd about an honest
    key, such as a camera that is a pixel off, is so tomorrow, too. Budgets hold all the same.
    """
    if not 0.0 <= excused <= 366 * 86400.0:
        raise ParameterError(f"excused={excused} s, expected 0 to a year")
    with store.writing() as db:
        there = _living(db, name, at)
        roles.check(by.role, roles.over(there.grant.role, Act.JUDGE))
        _judge(store, db, there, State.OK, by, reason, at)
        db.execute(
            "UPDATE keys SET risk = 0, excused = ? WHERE name = ?",
            (at + excused if excused else 0.0, name),
        )


def standings(store: Store, by: Grant, at: float) -> list[Standing]:
    """All keys, as who may see them sees them, oldest first."""
    roles.check(by.role, Act.SEE_STATES)
    with store.reading() as db:
        rows = everybody(db)
    return [standing(row, at) for row in rows]


def shares(store: Store, by: Grant, at: float) -> list[Share]:
    """All organisations, as who may see keys sees them."""
    roles.check(by.role, Act.SEE_STATES)
    with store.reading() as db:
        return organisations(db, at)


def changed(store: Store, db: Connection, name: str) -> None:
    """Inside a transaction: tell every process that a key is not what it was."""
    db.execute("UPDATE keys SET changed = ? WHERE name = ?", (store.change(), name))


def _insert(store: Store, db: Connection, key: Key, wanted: Wanted, at: float) -> None:
    db.execute(
        "INSERT OR IGNORE INTO organisations (name, budget, since) VALUES (?, ?, ?)",
        (wanted.organisation, DEFAULT_BUDGET, at),
    )
    if known(db, key.name, at) is not None:
        raise ParameterError("a key of this name is there: the random bytes are none")
    db.execute(
        "INSERT INTO keys (name, organisation, role, details, networks, budget, issued, expires, "
        "changed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            key.name,
            wanted.organisation,
            wanted.role,
            json.dumps(sorted(wanted.details)),
            json.dumps(wanted.networks),
            DEFAULT_BUDGET if roles.may(wanted.role, Act.ASK) else 0,
            at,
            wanted.expires,
            store.change(),
        ),
    )
    _give_secret(db, key)


def _give_secret(db: Connection, key: Key) -> None:
    """It ends with its key, or when another one takes its place."""
    db.execute("INSERT INTO secrets VALUES (?, ?, ?)", (key.digest, key.name, math.inf))


def _judge(
    store: Store, db: Connection, there: Known, now: State, by: Grant, reason: str, at: float
) -> None:
    name, was = there.grant.key, there.grant.state
    if not reason.strip():
        raise ParameterError("say why: it goes to the log")
    db.execute("UPDATE keys SET state = ? WHERE name = ?", (now, name))
    changed(store, db, name)
    store.say(Judged(name, was, now, by.key, reason), at)


def _living(db: Connection, name: str, at: float) -> Known:
    there = found(db, name, at)
    if there.is_revoked:
        raise ParameterError(f"the key {name} was revoked, which is for good")
    return there


def _keep_an_authority(db: Connection, there: Known, at: float) -> None:
    """Without one, nobody can make one."""
    if there.grant.role is Role.AUTHORITY:
        (others,) = one(
            db,
            "SELECT count(*) FROM keys WHERE role = ? AND revoked IS NULL AND state != ? "
            "AND expires > ? AND name != ?",
            Role.AUTHORITY,
            State.SUSPENDED,
            at,
            there.grant.key,
        )
        if not others:
            raise ParameterError("this is the last authority's key: issue another one first")
