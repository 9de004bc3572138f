"""Privacy loss distributions: against the closed form, and against the laws themselves.

All but the first test need the extra [dp].
"""

import math
import sys
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from tacit.crypto.errors import ParameterError
from tacit.privacy import pld
from tacit.privacy.accountants import Adversary, compose
from tacit.privacy.releases import Concentrated, Discrete, Gaussian, Source, Unit
from tacit.privacy.samplers import DiscreteGaussian, Law, Skellam
from tests.privacy import exact
from tests.privacy.records import gaussian, release

OUTSIDER, DELTA = Adversary.OUTSIDER, 1e-5


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("dp_accounting.pld", reason="needs the extra [dp]")


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ParameterError, match=r"pip install '\.\[dp\]'"):
        pld.epsilon([gaussian(1.0)], DELTA, OUTSIDER)


@pytest.mark.parametrize(("multiplier", "releases"), [(1.0, 1), (4.0, 100), (20.0, 50), (0.5, 3)])
def test_it_is_the_closed_form_where_nobody_is_drawn(
    library: Any, multiplier: float, releases: int
) -> None:
    """From above, as losses are rounded up: each by a grid step at most, and on average over many
    by half of one."""
    records = [gaussian(multiplier)] * releases
    closed = compose(records, OUTSIDER).epsilon(DELTA)
    found = pld.epsilon(records, DELTA, OUTSIDER, interval=1e-4)
    assert closed * (1 - 1e-9) <= found <= closed + releases * 1e-4


def test_it_is_the_closed_form_for_thirty_kinds_of_noise(library: Any) -> None:
    records = [gaussian(2 + t / 10) for t in range(30)]
    closed = compose(records, OUTSIDER).epsilon(DELTA)
    assert closed <= pld.epsilon(records, DELTA, OUTSIDER, interval=1e-4) <= closed + 30e-4


@pytest.mark.parametrize(
    ("multiplier", "rate", "releases", "delta", "published"),
    [
        (1.0, 0.01, 1000, 1e-5, 1.829),
        (0.6, 0.01, 1000, 1e-5, 7.434),
        (1.0, 0.1, 100, 1e-5, 7.047),
    ],
)
def test_it_is_sharper_where_units_are_drawn(
    library: Any, multiplier: float, rate: float, releases: int, delta: float, published: float
) -> None:
    records = [gaussian(multiplier, rate)] * releases
    found = pld.epsilon(records, delta, OUTSIDER)
    assert found == pytest.approx(published, abs=2e-3)
    assert found <= 0.9 * compose(records, OUTSIDER).epsilon(delta)


@pytest.mark.parametrize(
    ("law", "variance", "coordinates", "known"),
    [
        (Skellam, 10, 10, 4.286),
        (Skellam, 100, 25, 1.9928),
        (DiscreteGaussian, 10, 10, None),
        (DiscreteGaussian, 2, 4, None),
    ],
)
def test_noise_of_whole_numbers_hides_what_it_is_counted_for(
    library: Any, law: type[Law], variance: int, coordinates: int, known: float | None
) -> None:
    """By the distribution of its own losses, each coordinate moved by one: below the closed form,
    by 5% at most, and above that of half as many coordinates."""
    from dp_accounting.pld import privacy_loss_distribution

    weights = (exact.skellam if law is Skellam else exact.gaussian)(Fraction(variance))
    both = [*weights[:0:-1], *weights]
    logs = {
        x: math.log(Fraction(weight, sum(both)))
        for x, weight in enumerate(both, 1 - len(weights))
        if weight << 150 > sum(both)
    }
    moved = {x + 1: mass for x, mass in logs.items()}
    one = privacy_loss_distribution.from_two_probability_mass_functions(
        moved, logs, value_discretization_interval=1e-4
    )
    found = one.self_compose(coordinates).get_epsilon_for_delta(DELTA)
    record = release(Discrete(law(Fraction(variance)), coordinates, coordinates), source=Source.OWN)
    closed = compose([record], OUTSIDER).epsilon(DELTA)
    assert 0.95 * closed < found <= closed + coordinates * 1e-4
    if known is not None:
        assert found == pytest.approx(known, abs=1e-3)


def test_against_the_server_drawing_does_not_count(library: Any) -> None:
    record = release(rate=0.01, is_count_hidden=True, unit=Unit.RECORD)
    whole = replace(record, rate=1.0)
    server = pld.epsilon([record] * 3, DELTA, Adversary.SERVER)
    assert server == pld.epsilon([whole] * 3, DELTA, OUTSIDER)
    assert pld.epsilon([record] * 3, DELTA, OUTSIDER) < server / 2
    assert pld.epsilon([gaussian(1.0)], DELTA, Adversary.SERVER) == math.inf


def test_zcdp_has_no_distribution(library: Any) -> None:
    with pytest.raises(ParameterError, match="zCDP"):
        pld.epsilon([release(Concentrated(0.1, 0.0), source=Source.OWN)], DELTA, OUTSIDER)


def test_distances_of_samplers_count_here_too(library: Any) -> None:
    record = release(Discrete(Skellam(Fraction(10**6)), 10**4, 1 << 32), source=Source.OWN)
    assert pld.epsilon([record], record.distance, OUTSIDER) == math.inf
    assert pld.epsilon([record], DELTA, OUTSIDER) == pytest.approx(
        pld.epsilon([release(Gaussian(1.0, 10.0), source=Source.OWN)], DELTA, OUTSIDER), rel=1e-3
    )
