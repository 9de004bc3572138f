"""What a report says of the privacy that was spent: no figure without what it is of.

Figures are bounds, and are rounded as bounds are: what was spent up, what is tolerated down.
"""

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from math import isinf

from tacit.privacy.accountants import ORDERS, Adversary
from tacit.privacy.releases import Neighbours, Unit

CANDIDATES = 100
UNITS = {
    Unit.CLIENT: "all that one device sends",
    Unit.RECORD: "one example on a device",
}
RELATIONS = {
    Neighbours.ZERO_OUT: "or zeros in its place",
    Neighbours.REPLACE_ONE: "or any other in its place",
    Neighbours.ADD_OR_REMOVE: "or nothing in its place",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """Epsilon of the device that spent most, of the one in the middle (of two, the one that spent
    more), and of somebody who is in every release. inf: nothing is guaranteed. `guessed` is what a
    guess among CANDIDATES about the first is right with at most, None where that is not known."""

    worst: float
    median: float
    everyone: float
    is_renyi: bool
    guessed: float | None = None

    @property
    def accountant(self) -> str:
        if self.is_renyi:
            return f"Rényi divergences at {ORDERS.size} orders, {ORDERS[0]:g} to {ORDERS[-1]:g}"
        return "Gaussian differential privacy, in closed form"


@dataclass(frozen=True, slots=True)
class Statement:
    """All that has to be said. `outsider` is None where the server sees no more than others do;
    the other fields are what `Ledger.statement` says they are."""

    unit: Unit
    neighbours: Neighbours
    delta: float
    budget: float
    budget_against: Adversary
    devices: int
    releases: int
    unsettled: int
    corrupt: float
    distance: float
    server: Figure
    outsider: Figure | None
    loss: float | None
    is_real: bool
    is_drawn: bool

    @property
    def against(self) -> Figure:
        """Against those whom the budget is for."""
        is_outsider = self.budget_against is Adversary.OUTSIDER and self.outsider is not None
        return self.outsider if is_outsider and self.outsider else self.server

    @property
    def worst(self) -> float:
        """Epsilon of the device that spent most, against those whom the budget is for."""
        return self.against.worst

    @property
    def summary(self) -> str:
        """In a few words."""
        return (
            f"epsilon {_number(self.worst)} at delta {self.delta} for "
            f"{'each device' if self.unit is Unit.CLIENT else 'each example'}, against "
            f"{'the server' if self.against is self.server else 'all but the server'}"
        )

    def text(self) -> str:
        """Lines for a report."""
        return "\n".join(
            (
                f"Differential privacy at delta {self.delta}",
                f"Unit: {UNITS[self.unit]}, {RELATIONS[self.neighbours]}",
                *self._against_server(),
                *self._against_outsider(),
                f"Releases: {self.releases}; sums not settled, which count in full: "
                f"{self.unsettled}",
                self._limit(),
                f"Sampler: noise is at most {_rounded(self.distance, 1, ROUND_CEILING)} from its "
                "law, over all releases; delta includes it",
                f"Not covered: {'; '.join(self._not_covered())}",
            )
        )

    def _limit(self) -> str:
        if isinf(self.budget):
            return "Budget: none was set"
        return f"Budget: epsilon {self.budget:g} for each device, against the " + (
            self.budget_against.value
        )

    def _against_server(self) -> list[str]:
        who = "a server that keeps to the protocol"
        if self.corrupt < 1:
            part = _rounded(self.corrupt, 3, ROUND_FLOOR)
            who += f", in league with at most {part} of the devices in a sum"
        if self.outsider is None:
            who += ", and anybody who sees less"
        return [f"Adversary: {who}", *self._told(self.server)]

    def _against_outsider(self) -> list[str]:
        if self.outsider is None:
            return []
        who = "somebody outside, who sees all that is released and not who was drawn"
        if self.is_drawn:
            who += ", nor how many where drawing counts"
        lines = [f"Adversary: {who}", *self._told(self.outsider)]
        if self.loss is not None:
            figure = _number(self.loss)
            lines.append(f"  epsilon in every release: {figure}, by privacy loss distributions")
        return lines

    def _told(self, figure: Figure) -> list[str]:
        return [
            f"  epsilon of the worst of {self.devices} devices: {_number(figure.worst)}; of the "
            f"median one: {_number(figure.median)}; in every release: {_number(figure.everyone)}",
            f"  by {figure.accountant}",
            *([] if figure.guessed is None else [_chances(figure.guessed)]),
        ]

    def _not_covered(self) -> list[str]:
        found = ["what was tried to choose settings", "time, power and traffic"]
        if self.is_real:
            found.append("floating-point noise, whose gaps give away what it was added to")
        if self.is_drawn and self.outsider is None:
            found.append("drawing at random, which is not proven to help here")
        return found


def _chances(guessed: float) -> str:
    after = _rounded(100 * guessed, 2, ROUND_CEILING)
    return (
        f"  a guess among {CANDIDATES} candidates, as likely as each other: right in "
        f"{100 // CANDIDATES} % of cases without all this, and in {after} % with it, at most"
    )


def _number(epsilon: float) -> str:
    return "no bound" if isinf(epsilon) else _rounded(epsilon, 4, ROUND_CEILING)


def _rounded(number: float, digits: int, way: str) -> str:
    """To so many digits, in the direction that claims no more than the number does."""
    return f"{float(Context(prec=digits, rounding=way).create_decimal(repr(number))):.{digits}g}"
