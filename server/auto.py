"""Sums under masks or under lattice keys, whichever is better for the cohort."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, TypeVar

from tacit.crypto.codec import Codec
from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import Roster, RunKey
from tacit.crypto.lattice.sets import WIDE, named
from tacit.crypto.secagg.choice import choose_way
from tacit.crypto.secagg.clear import Clear
from tacit.crypto.secagg.noised import Noised
from tacit.crypto.secagg.session import Purpose, Session
from tacit.server.encrypted import Encrypted
from tacit.server.pairwise import Binding, Noising, Pairwise

S = TypeVar("S", Pairwise, Encrypted)


@dataclass(frozen=True, slots=True)
class Auto(Pairwise):
    """Each sum under masks, or under lattice keys where `tacit.crypto.secagg.choice` finds them to
    be better: for training and evaluation, and from round to round, it may be the one or the other.

    For devices whose owners allow both, which a server is not told: others refuse sums under
    lattice keys. `parameters` names their set (see `Encrypted`); the rest is what a `Pairwise` has.
    """

    parameters: str = WIDE.name

    name: ClassVar[str] = "auto"

    def __post_init__(self) -> None:
        Pairwise.__post_init__(self)
        named(self.parameters)

    def choice(
        self, devices: int, roster: int, length: int, noising: Noising | None = None
    ) -> Pairwise | Encrypted:
        """What a sum of `devices` out of `roster` is made with, for updates of `length`.

        Masks where the set has no room for so many, or for values as large. Raises as `shape` does.
        """
        shape = self.shape(devices, roster)
        masked: Codec | Noised = self.codec(length, devices)
        if noising is not None:
            masked = noising(self.asked(length, devices, roster)) or masked
        base, members = named(self.parameters), shape.seats or devices
        choice = choose_way(base, devices, masked.size, masked.bits, shape.degree, members)
        if choice.keys is None:
            return self._as(Pairwise)
        try:
            encrypted = self._as(Encrypted)
            encrypted.codec(length, devices)
            if noising is not None:
                noising(encrypted.asked(length, devices, roster))
        except ParameterError:
            return self._as(Pairwise)
        return encrypted

    def session(
        self,
        run: int,
        round: int,
        purpose: Purpose,
        cohort: Sequence[RunKey],
        roster: Roster,
        others: Mapping[int, RunKey],
        length: int,
        binding: Binding,
        epoch: bytes = b"",
        clear: Clear | None = None,
        noising: Noising | None = None,
    ) -> Session:
        hidden = length - (0 if clear is None else clear.size)
        protocol = self.choice(len(cohort), len(roster.members), hidden, noising)
        return protocol.session(
            run, round, purpose, cohort, roster, others, length, binding, epoch, clear, noising
        )

    def kind(self, session: Session) -> str:
        return Encrypted.name if session.lattice else Pairwise.name

    def _as(self, protocol: type[S]) -> S:
        return protocol(**{each.name: getattr(self, each.name) for each in fields(protocol)})
