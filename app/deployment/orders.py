"""Orders of operators: signed, put into a folder, taken from there once.

An operator signs an order where his key is, and `place` puts it into the server's inbox as a file
of its own. The supervisor asks `taken` for what is new. A file is nobody's word: what counts is the
signature in it, for this server, by a key that has the role, from the last day, and not seen
before. All else is `Rejected`, with a reason, and removed.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tacit.app.deployment import inbox
from tacit.app.deployment.memory import AGAIN, AHEAD, WINDOW, Memory
from tacit.app.deployment.operators import Operators, load, may, read_key, role_for
from tacit.app.deployment.places import Places
from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.order import MAX_ORDER, NONCE_BYTES, Act, SignedOrder


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done, `by` an operator's name. It may do it: that was checked.

    `is_again`: it was handed out before, and whoever had it was killed. It may be done already, in
    part or whole; nothing else was handed out since.
    """

    signed: SignedOrder
    by: str
    is_again: bool = False

    @property
    def act(self) -> Act:
        return self.signed.act

    @property
    def name(self) -> str:
        """Of the run, or of the operator who is granted something or withdrawn."""
        return self.signed.name

    @property
    def text(self) -> str:
        """What it asks for, as an `OrderRefused` says it."""
        return _text(self.signed)

    @property
    def settings(self) -> str:
        """TOML, which nobody looked into yet."""
        return self.signed.settings

    @property
    def digest(self) -> str:
        """SHA-256 of the settings, in hexadecimal digits."""
        return self.signed.digest


@dataclass(frozen=True, slots=True)
class Rejected:
    """An order that is not carried out: what it asked for, by whom it says it is, and why not. The
    three fields of an `OrderRefused`."""

    order: str
    by: str
    reason: str


def place(places: Places, key_file: Path | None, act: Act, name: str, settings: str = "") -> Path:
    """Sign an order and put it into the inbox; returns its file, which is gone once it was taken.

    Without a key file it is the one that was made with the server. Raises ParameterError for a key
    that may not order this, so that it is known at once, and where nothing can be put.
    """
    operators = load(places)
    key = read_key(key_file or _made(places, act))
    operator = operators.of_key(key.public)
    if operator is None:
        raise ParameterError(f"this key is not registered in {places.folder}: tacit server grant")
    if operator.is_withdrawn:
        raise ParameterError(f"the key of {operator.name} was withdrawn: a new one takes a role")
    if not may(operator, act):
        raise ParameterError(f"{operator.name} may not order a {act}: {_takes(act)}")
    signed = SignedOrder.signed(
        key,
        act,
        name,
        settings,
        server=operators.server,
        issued=time.time_ns() // 1_000_000,
        nonce=os.urandom(NONCE_BYTES),
    )
    return inbox.put(places.inbox, _file(signed), signed.encode())


def _made(places: Places, act: Act) -> Path:
    """The key that was made with the server, for who names none."""
    path = places.keys / f"{role_for(act)}.key"
    if not path.exists():
        raise ParameterError(
            f"there is no {path}: name your key of the role {role_for(act)}; "
            "tacit server key and tacit server grant make one"
        )
    return path


def taken(places: Places, now: float) -> Iterator[Order | Rejected]:
    """What is new, the oldest first: a bounded number, so ask again. `now` is Unix time.

    An order is noted durably before it is handed out, and done with when the next one is asked for;
    if the process dies in between it is handed out again, before all others, as `is_again`. One
    that was handed out three times and never got done is rejected. So is a copy of one, after
    whatever restarts. One supervisor may be at it at a time.
    """
    memory = Memory(places.orders)
    for data, times in memory.unfinished():
        found = SignedOrder.decode(data)
        inbox.remove(places.inbox, _file(found))  # where it was killed just before that
        by = load(places).of_key(found.key)
        if times >= AGAIN or by is None:
            why = f"it was begun {times} times, and whoever carried it out was killed each time"
            yield Rejected(_text(found), "" if by is None else by.name, why)
        else:
            memory.note(found, times + 1)
            yield Order(found, by.name, is_again=True)
        memory.finish(found)
    for name in inbox.names(places.inbox, now):
        judged = _judged(places, memory, name, now)
        if isinstance(judged, Rejected):
            yield judged
            inbox.remove(places.inbox, name)
            continue
        memory.note(judged.signed, 1)
        inbox.remove(places.inbox, name)
        yield judged
        memory.finish(judged.signed)
    memory.forget(now)


def _judged(places: Places, memory: Memory, name: str, now: float) -> Order | Rejected:
    try:
        order = SignedOrder.decode(inbox.content(places.inbox, name, MAX_ORDER))
    except Damaged as bad:
        return Rejected(name, "", str(bad))
    operators = load(places)  # anew: the order before it may have changed it
    by = operators.of_key(order.key)
    fault = _fault(order, operators, memory, now)
    if by is not None and fault is None:
        return Order(order, by.name)
    who = f"key {order.key.hex()[:16]}" if by is None else by.name
    return Rejected(_text(order), who, fault or "")


def _fault(order: SignedOrder, operators: Operators, memory: Memory, now: float) -> str | None:
    """Why it is not carried out, None if it is. What is genuine and refused is remembered: it must
    not become good by a role that its operator is granted later."""
    by, age = operators.of_key(order.key), now - order.issued / 1000
    if order.server != operators.server:
        return "it is for another server"
    if by is None:
        return "its key is not registered"
    if not order.is_signed:
        return "it is not signed by its key: it was altered"
    if age < -AHEAD:
        return f"it was made {-age:.0f} s from now: set the clocks"
    if age > WINDOW:
        return f"it is {age:.0f} s old, and good for {WINDOW} s: order it anew"
    if memory.forgot(order.issued):
        return "it is older than what is remembered of orders: order it anew"
    if memory.has(order):
        return "it is a copy of one that was taken before"
    if by.is_withdrawn:
        return "its operator was withdrawn"
    if not may(by, order.act):
        memory.finish(order)
        return f"{by.name} is a {by.role}: {_takes(order.act)}"
    return None


def _text(order: SignedOrder) -> str:
    return f"{order.act} {order.name}"


def _takes(act: Act) -> str:
    return f"that takes the role {role_for(act)}"


def _file(order: SignedOrder) -> str:
    """In the order in which they were made, and not to be guessed by others."""
    return f"{order.issued:015d}-{order.nonce.hex()}{inbox.SUFFIX}"
