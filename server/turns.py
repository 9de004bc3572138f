"""Who is in which round, where rounds have noise in common: cohorts in fixed rotation.

Nobody is drawn. A device's place follows from its rank on the roster, so that all of it can be told
in advance, and the distance between two of its rounds, which a device's cost depends on (see
`tacit.privacy.banded`), is no matter of luck.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tacit.crypto.errors import ParameterError


@dataclass(frozen=True, slots=True)
class Turns:
    """`devices` take turns in so many `cohorts`, and noise is correlated over `bands` rounds.

    What is impossible, or of no use, cannot be built (ParameterError).
    """

    bands: int
    cohorts: int
    devices: int

    def __post_init__(self) -> None:
        if self.cohorts < 2 or self.bands < 2:
            raise ParameterError(
                f"bands={self.bands}, cohorts={self.cohorts}: expected 2 or more. Where all are in "
                "every round, noise that is independent is the most accurate: leave bands out"
            )
        if self.bands > self.cohorts:
            raise ParameterError(
                f"{self.bands} bands with {self.cohorts} cohorts: a device's rounds would overlap, "
                "and cost more than is counted"
            )
        if self.devices < 2 * self.cohorts:
            raise ParameterError(
                f"{self.devices} devices in {self.cohorts} cohorts: a sum takes two of them"
            )

    @property
    def size(self) -> int:
        """Devices of the largest cohort: the number that every total is divided by."""
        return -(-self.devices // self.cohorts)

    @property
    def least(self) -> int:
        """Devices of the smallest."""
        return self.devices // self.cohorts

    def most(self, rounds: int) -> int:
        """Rounds that a device may be in, of so many."""
        return -(-rounds // self.cohorts)

    def of(self, members: Sequence[int], number: int) -> frozenset[int]:
        """Those of `members`, in their order, whose turn it is in round 1, 2, ... Who comes after
        the first `devices` has none in this run."""
        return frozenset(members[(number - 1) % self.cohorts : self.devices : self.cohorts])
