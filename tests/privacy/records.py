"""Releases to account for, and a storage in memory."""

from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction

from hypothesis import strategies as st

from tacit.privacy.releases import (
    Concentrated,
    Discrete,
    Gaussian,
    Mechanism,
    Neighbours,
    Release,
    Source,
    Unit,
    Use,
)
from tacit.privacy.samplers import DiscreteGaussian, Skellam

SKELLAM = Discrete(Skellam(Fraction(10**6, 7)), square=10**6, length=1 << 20)


def release(mechanism: Mechanism = SKELLAM, **changes: object) -> Release:
    """Shares of ten devices, three of them corrupt, unless something else is asked for."""
    fields = {
        "unit": Unit.CLIENT,
        "neighbours": Neighbours.ZERO_OUT,
        "source": Source.SHARED,
        "use": Use.TRAIN,
        "run": 1,
        "round": 1,
        "cohort": 12,
        "survivors": 10,
        "corrupt": 3,
    }
    return Release(mechanism, **(fields | changes))


def gaussian(multiplier: float, rate: float = 1.0, **changes: object) -> Release:
    """Noise that the server adds, of so many times the sensitivity."""
    central = {"source": Source.SERVER, "corrupt": 0, "rate": rate, "is_count_hidden": True}
    return release(Gaussian(1.0, multiplier), **(central | changes))


positive = st.floats(2.0**-20, 2.0**20)
laws = st.one_of(
    st.builds(Skellam, st.fractions(Fraction(1, 1000), 10**9, max_denominator=10**6)),
    st.builds(DiscreteGaussian, st.fractions(8, 10**9, max_denominator=10**6)),
)
mechanisms = st.one_of(
    st.builds(Gaussian, positive, positive),
    st.builds(Discrete, laws, st.integers(1, 1 << 62), st.integers(1, 1 << 32)),
    st.builds(Concentrated, positive, st.floats(0, 0.5)),
)


@st.composite
def releases(draw: st.DrawFn, given: st.SearchStrategy[Mechanism] = mechanisms) -> Release:
    """Any that can be built."""
    mechanism, unit = draw(given), draw(st.sampled_from(Unit))
    may_share = not isinstance(mechanism, Concentrated)
    source = draw(st.sampled_from([s for s in Source if may_share or s is not Source.SHARED]))
    stays = unit is Unit.RECORD or source is Source.SERVER
    neighbours = draw(
        st.sampled_from([n for n in Neighbours if stays or n is not Neighbours.ADD_OR_REMOVE])
    )
    cohort = draw(st.integers(1, 1 << 20))
    survivors = draw(st.integers(1, cohort))
    return Release(
        mechanism,
        unit,
        neighbours,
        source,
        draw(st.sampled_from(Use)),
        draw(st.integers(0, (1 << 64) - 1)),
        draw(st.integers(0, (1 << 32) - 1)),
        cohort,
        survivors,
        draw(st.integers(0, survivors - 1)),
        draw(st.floats(0, 1, exclude_min=True)),
        neighbours is Neighbours.ADD_OR_REMOVE or draw(st.booleans()),
    )


class Shelf(dict[str, bytes]):
    """A storage that lives as long as the test."""

    def read(self, slot: str) -> bytes | None:
        return self.get(slot)

    def write(self, slot: str, value: bytes) -> None:
        self[slot] = value

    def alone(self) -> AbstractContextManager[None]:
        return nullcontext()
