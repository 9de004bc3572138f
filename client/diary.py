"""A device's diary: what its owner wants to know afterwards, kept in the vault.

    deeds      what the device took part in, and what changed in it
    refusals   what it refused or failed at, and what its node met: others can cause as much of it
               as they like, so it has pages of its own and pushes no deed out

An entry is durable before the answer that it tells of leaves the device; one that cannot be written
is an answer that is not given. A refusal is given all the same: nothing leaves with it.

For an owner it is an account, not a control: what may be spent is decided by the ledgers, of which
it is no copy. Each epsilon in it is that of one sum alone. Neither inputs nor updates are in it,
and no secret. Who may read the vault's key could write it anew (see `tacit.client.journal`): it is
evidence against everybody else.

A simulated device, whose vault is no folder, keeps none.
"""

import logging
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TypeAlias

from tacit.client.journal import Entry, Journal
from tacit.client.vault import FileVault, Vault
from tacit.crypto.secagg.noised import Noised
from tacit.crypto.secagg.session import Session

DEEDS, REFUSALS = "deeds", "refusals"
MAX_WORDS = 500  # characters of a reason

log = logging.getLogger("tacit.client")


@dataclass(frozen=True, slots=True)
class Joined:
    """An authority's answer was taken over: a newer roster, or new keys as well."""

    device: int
    serial: int
    new_keys: bool


@dataclass(frozen=True, slots=True)
class RosterChanged:
    """A server showed a newer roster, signed by the authority."""

    serial: int
    devices: int


@dataclass(frozen=True, slots=True)
class TookPart:
    """A contribution to one sum. `epsilon` is what the sum cost with noise, and `clear_epsilon`
    its part in the clear, both at the owner's delta."""

    run: int
    round: int
    purpose: str
    protocol: str
    cohort: int
    epsilon: float
    clear_epsilon: float


@dataclass(frozen=True, slots=True)
class Opened:
    """As a committee member the device helped to open a sum over so many survivors."""

    run: int
    round: int
    purpose: str
    survivors: int


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer in the clear, outside of any sum, that the owner allows: `policy.plain`."""

    run: int
    kind: str


@dataclass(frozen=True, slots=True)
class BundleAllowed:
    """The owner lets the device run a bundle, or (`allowed` false) no longer."""

    digest: str
    allowed: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that was not answered, at which stage, and why."""

    run: int
    stage: str
    reason: str


@dataclass(frozen=True, slots=True)
class Aborted:
    """Something failed on the device while it answered. A sum that was going on is over for it."""

    run: int
    stage: str
    reason: str


@dataclass(frozen=True, slots=True)
class BundleRefused:
    """A run's bundle is not one that the owner allows."""

    run: int
    digest: str


@dataclass(frozen=True, slots=True)
class NodeBegan:
    """The node was started."""

    version: str


@dataclass(frozen=True, slots=True)
class NodeEnded:
    """The node ended, and how. Two beginnings without one between: it was killed."""

    how: str


@dataclass(frozen=True, slots=True)
class Connected:
    """The server answers; the device is node number `node` there."""

    address: str
    node: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The server no longer answers."""

    reason: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A run's first message since the node began."""

    run: int
    kind: str
    round: str


@dataclass(frozen=True, slots=True)
class NotNow:
    """The owner's rules had a message refused; `times` is how often since the last entry of this
    reason, for messages of whichever run where `run` is 0."""

    run: int
    kind: str
    reason: str
    times: int


Deed: TypeAlias = Joined | RosterChanged | TookPart | Opened | Answered | BundleAllowed
Turn: TypeAlias = (
    Refused
    | Aborted
    | BundleRefused
    | NodeBegan
    | NodeEnded
    | Connected
    | Disconnected
    | Asked
    | NotNow
)
_DEEDS = (Joined, RosterChanged, TookPart, Opened, Answered, BundleAllowed)


@dataclass(frozen=True, slots=True)
class Account:
    """All of a diary, by time. `counts` are of entries ever, those of pages that are gone too."""

    entries: tuple[Entry, ...]
    counts: Counter[str]
    faults: tuple[str, ...]
    lines: dict[str, tuple[str, ...]]

    @property
    def heads(self) -> dict[str, str]:
        """SHA-256 of the last line of each part that has one, in hexadecimal digits: an owner who
        notes it elsewhere can tell later whether what came before it is still there."""
        return {name: lines[-1] for name, lines in self.lines.items() if lines}

    def holds(self, head: str) -> bool:
        """Whether a line whose SHA-256 begins like this is there."""
        return any(line.startswith(head.lower()) for each in self.lines.values() for line in each)


def is_kept(vault: Vault) -> bool:
    """Whether there is a diary in such a vault."""
    return isinstance(vault, FileVault)


def note(vault: Vault, what: Deed | Turn, at: float) -> None:
    """Write down what happened at `at`; it is durable when this returns.

    Raises OSError, with what to do, if it cannot be written.
    """
    if not isinstance(vault, FileVault):
        return
    fields = {key: _short(value) for key, value in asdict(what).items()}
    name = DEEDS if isinstance(what, _DEEDS) else REFUSALS
    try:
        Journal.of(vault, name).append(type(what).__name__, round(at, 6), fields)
    except OSError as bad:
        raise OSError(
            bad.errno,
            f"the diary in {vault.folder} cannot be written ({bad.strerror}), and nothing leaves "
            "the device that is not written down: make room, or give its folder back to this user",
        ) from None


def note_if_possible(vault: Vault, what: Turn, at: float) -> None:
    """As `note`, for what must not fail because it cannot be written down: a refusal, an end."""
    try:
        note(vault, what, at)
    except OSError as bad:
        log.error("%s", bad.strerror)


def took_part(session: Session, epsilon: float, clear_epsilon: float) -> TookPart:
    """The entry of a contribution to a session's sum."""
    return TookPart(
        session.run,
        session.round,
        session.purpose.name.lower(),
        protocol_of(session),
        len(session.cohort),
        epsilon,
        clear_epsilon,
    )


def opened(session: Session, survivors: int) -> Opened:
    """The entry of a sum that this device helped to open."""
    return Opened(session.run, session.round, session.purpose.name.lower(), survivors)


def protocol_of(session: Session) -> str:
    """How a session's sum hides its inputs, in a few words."""
    if session.he:
        words = f"a key of all devices ({session.he})"
    elif session.lattice:
        words = f"lattice keys ({session.lattice})"
    else:
        words = "masks"
    words += ", ML-KEM" * session.hybrid
    words += ", noise" * isinstance(session.codec, Noised)
    return words + ", a part in the clear" * (session.clear is not None)


def read(vault: FileVault) -> Account:
    """The whole diary. Changes nothing, and may be called while others write."""
    books = {name: Journal.of(vault, name).read() for name in (DEEDS, REFUSALS)}
    entries = [entry for book in books.values() for entry in book.entries]
    return Account(
        tuple(sorted(entries, key=lambda entry: entry.at)),
        sum((book.counts for book in books.values()), Counter()),
        tuple(fault for book in books.values() for fault in book.faults),
        {name: tuple(line.hex() for line in book.lines) for name, book in books.items()},
    )


def _short(value: object) -> object:
    return value[:MAX_WORDS] if isinstance(value, str) else value
