"""What there is to know about a device, for its owner: read from its vault, and nothing written.

A vault that is damaged in one place tells all the rest, and what to do about the damage. What is
read here may change meanwhile: a node need not stop for it.
"""

import math
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tacit.client import budget, diary
from tacit.client.checks import ROSTER_SLOT
from tacit.client.device import Device, is_enrolled, load_identity, load_policy
from tacit.client.diary import Account
from tacit.client.enrolment import ADDRESS, CA, NODE_KEY, fingerprint_of, name_of
from tacit.client.files import read_private
from tacit.client.node import bundles, settings
from tacit.client.node.base import NODE_LOCK
from tacit.client.node.bundles import Bundles
from tacit.client.node.settings import Settings
from tacit.client.policy import Policy
from tacit.client.vault import FileVault, is_locked
from tacit.crypto import certificate
from tacit.crypto.errors import ParameterError, TacitError
from tacit.crypto.identity import Roster
from tacit.privacy.accountants import Adversary
from tacit.privacy.ledger import Budget, Ledger
from tacit.privacy.releases import Neighbours, Unit
from tacit.privacy.statement import UNITS

SOON = 14 * 24 * 3600  # seconds before an end that it is time to do something

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spending:
    """One ledger: epsilon at `delta`, of `budget`; that is infinite where none is set. `unit` says
    whom it protects."""

    name: str
    unit: str
    spent: float
    budget: float
    delta: float
    releases: int

    @property
    def left(self) -> float:
        return max(0.0, self.budget - self.spent)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and what to do about it. One that `is_warning` will be wrong soon, or costs
    nothing yet."""

    what: str
    remedy: str
    is_warning: bool = False


@dataclass(slots=True)
class Status:
    """None is what cannot be read, and is among the `faults`, or what is not there yet. Times are
    in seconds since 1970."""

    name: str | None = None
    device: Device | None = field(default=None, repr=False)
    fingerprint: str | None = None
    roster: Roster | None = None
    member_until: int | None = None
    address: str | None = None
    ca_until: int | None = None
    policy: Policy | None = None
    bundles: Bundles | None = None
    settings: Settings | None = None
    is_running: bool = False
    spending: list[Spending] = field(default_factory=list)
    account: Account | None = None
    faults: list[Fault] = field(default_factory=list)


def status(vault: FileVault, now: int, noted: Sequence[str] = ()) -> Status:
    """All of it, and whether the diary has the lines that were `noted`, by the beginning of their
    SHA-256. Raises nothing for a vault that could be opened."""
    found = Status(is_running=is_locked(vault.folder / NODE_LOCK))
    _check_slots(vault, found)
    found.name = _told(found, lambda: name_of(vault))
    found.fingerprint = _told(found, lambda: fingerprint_of(vault))
    if _told(found, lambda: is_enrolled(vault)):
        found.device = _told(found, lambda: load_identity(vault))
    elif vault.slots() and "device" not in vault.slots():
        remedy = "bring its request to the authority, then tacit device join"
        found.faults.append(Fault("the device has not joined a federation", remedy))
    found.policy = _told(found, lambda: load_policy(vault))
    found.bundles = _told(found, lambda: bundles.load(vault))
    found.settings = _told(
        found, lambda: settings.load(vault.folder), "until it is right the device trains never"
    )
    _membership(vault, found, now)
    _files(vault, found, now)
    if found.policy is not None:
        found.spending = _spending(vault, found, found.policy)
    found.account = diary.read(vault)
    found.faults += [
        Fault(f"the diary is damaged: {each}", _REMEDIES["diary"]) for each in found.account.faults
    ]
    found.faults += [
        Fault(f"the diary has no line {each}, which was noted", _REMEDIES["noted"])
        for each in noted
        if not found.account.holds(each)
    ]
    if not found.is_running and (left := vault.leftovers()):
        what = f"{len(left)} files that a crash has left"
        found.faults.append(Fault(what, "tacit device run removes them", is_warning=True))
    return found


def _told(found: Status, read: Callable[[], T], remedy: str = "") -> T | None:
    """What `read` returns. What it raises is a fault, unless it is of a slot that is one already:
    those have a remedy of their own."""
    try:
        return read()
    except (TacitError, OSError, ValueError) as bad:
        what = f"{bad.filename}: {bad.strerror}" if isinstance(bad, OSError) else str(bad)
        if all(fault.what != what for fault in found.faults):
            found.faults.append(Fault(what, remedy or _REMEDIES["any"]))
        return None


def _check_slots(vault: FileVault, found: Status) -> None:
    for slot in vault.slots():
        try:
            vault.read(slot)
        except (ParameterError, OSError) as bad:
            kind = next((kind for kind in _REMEDIES if slot.startswith(kind)), "any")
            found.faults.append(Fault(str(bad), _REMEDIES[kind].format(slot=slot)))


def _membership(vault: FileVault, found: Status, now: int) -> None:
    if found.device is None:
        return
    number = found.device.number
    data = _told(found, lambda: vault.read(ROSTER_SLOT))
    if data is None:
        return
    found.roster = roster = _told(found, lambda: Roster.decode(data))
    if roster is None:
        return
    member = _told(found, lambda: roster.member(number, now=0), _REMEDIES["member"])
    if member is None:
        return
    found.member_until = member.valid_until
    _check_end(found, "its membership", member.valid_until, now, "tacit authority renew")


def _files(vault: FileVault, found: Status, now: int) -> None:
    """The plain ones beside the slots."""
    if found.device is None:
        return
    again = "tacit device join with the authority's newest answer"
    lost = "if it is lost, tacit device rotate makes a new one"
    _told(found, lambda: read_private(vault.folder / NODE_KEY), lost)
    found.address = _told(found, lambda: (vault.folder / ADDRESS).read_text("utf-8").strip(), again)
    content = _told(found, lambda: (vault.folder / CA).read_text("ascii"), again)
    if content is not None:
        found.ca_until = _told(
            found, lambda: certificate.ends_at(ssl.PEM_cert_to_DER_cert(content)), again
        )
    if found.ca_until is not None:
        _check_end(found, "the CA's certificate", found.ca_until, now, "tacit authority renew --ca")


def _check_end(found: Status, what: str, until: int, now: int, act: str) -> None:
    remedy = f"ask the authority for {act}"
    if until < now:
        found.faults.append(Fault(f"{what} is over, by this machine's clock", remedy))
    elif until < now + SOON:
        days = max(1, (until - now) // (24 * 3600))
        found.faults.append(Fault(f"{what} ends in {days} days", remedy, is_warning=True))


def _spending(vault: FileVault, found: Status, policy: Policy) -> list[Spending]:
    """Ledgers that something is in, or that the policy sets a budget for."""
    held = vault.slots()
    accounts: list[Spending] = []

    def add(name: str, unit: str, ledger: Ledger, against: Adversary, wanted: bool) -> None:
        if not wanted and ledger.slot not in held:
            return

        def read() -> Spending:
            delta, limit = ledger.budget.delta, ledger.budget.epsilon
            spent = ledger.epsilon(budget.OURS, delta, against)
            releases = ledger.statement().releases if ledger.slot in held else 0
            return Spending(name, unit, spent, limit, delta, releases)

        if (made := _told(found, read)) is not None:
            accounts.append(made)

    for unit in Unit:
        own = policy.epsilon is not None and policy.unit == unit.name.lower()
        asked = policy.budget()
        ledger = budget.ledger_of(vault, policy, unit)
        add(f"sums with noise, {unit.name.lower()}", UNITS[unit], ledger, asked.against, own)
    limit = policy.clear_epsilon or math.inf  # none is allowed, but there may have been some before
    shown = Ledger(vault, Unit.CLIENT, Neighbours.REPLACE_ONE, Budget(limit, policy.delta))
    add(
        "parts in the clear",
        UNITS[Unit.CLIENT],
        shown,
        Adversary.SERVER,
        bool(policy.clear_epsilon),
    )
    return accounts


_REMEDIES = {
    "ledger": "what was spent is not known any more, and what needs it is refused. Put back a copy "
    "of {slot}.sealed that is newer than the last sum. Without one, what is on this device may "
    "have cost all that its owner allows: a new vault, with what is left of policy.epsilon",
    "device": "its keys are lost: put back a copy, or make a new vault and have the authority "
    "rotate this device's keys. The ledgers of this vault go into no other: count them by hand",
    "policy": "put back a copy, or make a new vault: until then nothing is answered",
    "name": "put back a copy: until then the device works, and cannot join again",
    "roster": "move {slot}.sealed away, then tacit device join with the authority's newest answer",
    "pending": "move {slot}.sealed away, then tacit device rotate",
    "fingerprint": "tacit device join with the authority's newest answer",
    "bundles": "move {slot}.sealed away, then tacit device allow what it is to run",
    "served": "put back a copy. It keeps a round from being answered twice: move {slot}.sealed "
    "away only when all runs that this device was in are over",
    "diary": "what else is in it can be trusted. Copy the file if it is to be looked into; the "
    "device goes on, and begins a new page where it has to",
    "noted": "it is on a page that went by its age, or what is written now is not what was then",
    "member": "the authority has put this device out, or gave it another number: ask it",
    "any": "put back a copy of it. If it is of a run (session, run, kem, agreed, cohort, group, "
    "epoch), moving it away costs the sum that is going on and nothing else",
}
