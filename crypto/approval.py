"""Whom an enrolled machine believes, and a second person's word for what the authority did."""

from dataclasses import dataclass
from itertools import pairwise

from tacit.crypto import labels
from tacit.crypto.enrolment import fingerprint
from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import KEY_BYTES, Identity, Roster, verified

MAX_APPROVERS = 16
ACT_BYTES = 32


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom an enrolled machine believes: the authority, and who has to approve what it does.

    Without `approvers` the authority acts alone. They are public Ed25519 keys, sorted; one of them
    is enough for an act.
    """

    authority: bytes
    approvers: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if len(self.approvers) > MAX_APPROVERS:
            raise ParameterError(f"{len(self.approvers)} approvers, at most {MAX_APPROVERS}")
        if {len(key) for key in (self.authority, *self.approvers)} != {KEY_BYTES}:
            raise ParameterError(f"a public key is {KEY_BYTES} bytes")
        if any(a >= b for a, b in pairwise(self.approvers)) or self.authority in self.approvers:
            raise ParameterError("approvers are sorted, all different, and not the authority")

    @property
    def fingerprint(self) -> str:
        """What a machine's owner and the authority compare by voice."""
        return fingerprint(self.authority + b"".join(self.approvers))


@dataclass(frozen=True, slots=True)
class Approval:
    """A second person's signature: for one roster, and for the acts that led to it. `act` is the
    SHA-256 of their entries in the authority's log."""

    approver: bytes
    act: bytes
    signature: bytes

    @classmethod
    def signed(cls, approver: Identity, roster: Roster, act: bytes) -> "Approval":
        signature = approver.sign(labels.APPROVAL, roster.digest() + act)
        return cls(approver.public, act, signature)

    def is_for(self, roster: Roster, trust: Trust) -> bool:
        """Whether one of the approvers in `trust` approved this roster."""
        return self.approver in trust.approvers and verified(
            self.approver, labels.APPROVAL, roster.digest() + self.act, self.signature
        )
