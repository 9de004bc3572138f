"""Under what a sum is hidden. What is tried of sessions and stages is tried of every kind.

An attack says what it asks of a sum in the words of `Pairwise`; the kind of the running test makes
of that a sum of its own, and a policy that joins it. The mark `kinds` names the kinds that a test,
or all tests of a module, are run under; without it they are run under masks in pairs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

from tacit.client.policy import Policy
from tacit.server.encrypted import Encrypted
from tacit.server.pairwise import SecureSum


@dataclass(frozen=True)
class Kind:
    """`lattice` names a set of parameters, or is empty: masks in pairs."""

    name: str
    hybrid: bool = False
    lattice: str = ""

    def __str__(self) -> str:
        return self.name

    def sum(self, asked: SecureSum) -> SecureSum:
        """A sum of this kind with all that both kinds have in common as it is in `asked`."""
        hybrid = asked.hybrid or self.hybrid
        if not self.lattice:
            return replace(asked, hybrid=hybrid)
        common = {field.name: getattr(asked, field.name) for field in fields(SecureSum)}
        return Encrypted(**(common | {"hybrid": hybrid}), parameters=self.lattice)

    def joined(self, policy: Policy | None) -> Policy | None:
        """The policy of an owner who joins such sums, and is as strict in all else."""
        return replace(policy or Policy(), lattice=True) if self.lattice else policy


PAIRS = Kind("pairs")
HYBRID = Kind("hybrid", hybrid=True)
LATTICE = Kind("lattice", lattice="2048-32-1")  # the set with the shortest key
KINDS = (PAIRS, HYBRID, LATTICE)

_current = [PAIRS]


def current() -> Kind:
    """The kind of the running test."""
    return _current[-1]


@contextmanager
def under(kind: Kind) -> Iterator[Kind]:
    """What is built inside is of this kind."""
    _current.append(kind)
    try:
        yield kind
    finally:
        _current.pop()
