"""All that follows from shares of lattice keys, and of their sums, by exact linear algebra.

A report's key and the other coefficients of the polynomials it is shared by are unknowns, `t` for
each report. A share of a sum that a member opened is one equation, and so is a share that a corrupt
member was dealt. Whatever combination of keys these determine is found here: nothing else follows
from them, as the coefficients are uniform, and every value of the other unknowns fits.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Generic, Protocol, TypeVar

import numpy as np

from tacit.crypto.lattice.keys import FIELD, Elements, Shares
from tacit.crypto.secagg.session import Session


class Dealer(Protocol):
    """A report; each is another one, also of the same device."""

    @property
    def session(self) -> Session: ...


D = TypeVar("D", bound=Dealer)


class Pool(Generic[D]):
    """Equations of one session."""

    def __init__(self) -> None:
        self._dealers: list[D] = []
        self._learnt: list[tuple[int, list[int], Shares]] = []
        self._solved: tuple[int, Elements] | None = None

    def learn(self, member: int, dealers: Sequence[D], share: Shares) -> None:
        """The sum (N,) of the shares that some reports deal to a member."""
        self._dealers += [dealer for dealer in dealers if dealer not in self._dealers]
        self._learnt.append((member, [self._dealers.index(d) for d in dealers], share))
        self._solved = None

    def learnt(self) -> Iterator[tuple[int, list[D], Shares]]:
        """All that was."""
        for member, dealers, share in self._learnt:
            yield member, [self._dealers[at] for at in dealers], share

    def sums(self) -> Iterator[tuple[list[D], Elements]]:
        """Every set of reports the sum of whose keys is known, and that sum, signed."""
        if not self._learnt:
            return
        count, rows = self._solve()
        # As each row has a column in which it alone has a 1, a sum takes it once, or not at all.
        for chosen in product((0, 1), repeat=len(rows)):
            combined = np.array(chosen, np.int64) @ rows % FIELD
            if combined[:count].any() and combined[:count].max() == 1:
                key = combined[count:]
                key[key > FIELD // 2] -= FIELD
                yield [self._dealers[at] for at in np.flatnonzero(combined[:count])], key

    def key(self, dealers: Sequence[D]) -> Elements | None:
        """The sum of the keys of some reports, if it is known."""
        return next((key for found, key in self.sums() if set(found) == set(dealers)), None)

    def _solve(self) -> tuple[int, Elements]:
        """How many reports there are, and what is known of their keys: for each combination the
        factor of each report, and its value."""
        if self._solved is None:
            count = len(self._dealers)
            most = max(dealer.session.threshold for dealer in self._dealers)
            degree = len(self._learnt[0][2])
            rows = np.zeros((len(self._learnt), most * count + degree), np.int64)
            for row, (member, dealers, share) in zip(rows, self._learnt, strict=True):
                row[most * count :] = share
                for at in dealers:
                    session = self._dealers[at].session
                    for power in range(session.threshold):
                        # The keys, powers of 0, come last.
                        place = (most - 1 - power) * count + at
                        row[place] = pow(session.point(member), power, FIELD)
            free = _reduced(rows, (most - 1) * count)[1][:, (most - 1) * count :]
            self._solved = count, _reduced(free, count)[0]
        return self._solved


def _reduced(rows: Elements, columns: int) -> tuple[Elements, Elements]:
    """Gauss and Jordan over the first `columns`: the rows that have a 1 there that is alone in its
    column, and the others, which have nothing left there."""
    rows, done = rows.copy(), 0
    for column in range(columns):
        (places,) = np.nonzero(rows[done:, column])
        if places.size:
            at = done + places[0]
            rows[[done, at]] = rows[[at, done]]
            rows[done] = rows[done] * pow(int(rows[done, column]), -1, FIELD) % FIELD
            factors = rows[:, column].copy()
            factors[done] = 0
            rows = (rows - np.outer(factors, rows[done])) % FIELD
            done += 1
    return rows[:done], rows[done:]
