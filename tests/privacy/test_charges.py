"""What a private sum costs, against the same figures worked out by hand."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.crypto.secagg.noised import Noised
from tacit.privacy.accountants import Adversary, compose
from tacit.privacy.charges import neighbours_of, releases_of, unit_of
from tacit.privacy.gaussian import delta_of, epsilon_of
from tacit.privacy.mechanisms import Mechanism, choose
from tacit.privacy.releases import Neighbours, Source, Unit, Use

SERVER, OUTSIDER = Adversary.SERVER, Adversary.OUTSIDER
DELTA = 1e-5


def agreed(**changed: Any) -> Noised:
    """Twenty devices, four of whom may be missing and three corrupt; noise of one clip."""
    base = {"length": 1000, "clients": 20, "dropouts": 4, "corrupt": 3, "clip": 1.0, "noise": 1.0}
    return choose(**(base | changed)).agreed


def epsilon(noised: Noised, survivors: int, corrupt: int, against: Adversary = SERVER) -> float:
    return compose(releases_of(noised, 1, 1, survivors, corrupt), against).epsilon(DELTA)


def by_hand(noised: Noised, shares: float) -> float:
    """Of a Gaussian mechanism: a sum can be moved by B, under `shares` times V / shares_that_make
    of noise."""
    mechanism = Mechanism.of(noised)
    variance = float(mechanism.share) * shares
    return epsilon_of(math.sqrt(mechanism.bound / variance), DELTA)


# In closed form


@pytest.mark.parametrize("noise", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(("survivors", "corrupt"), [(16, 3), (20, 3), (16, 0), (16, 10), (20, 19)])
def test_figures_are_those_of_the_shares_that_count(
    noise: float, survivors: int, corrupt: int
) -> None:
    noised = agreed(noise=noise)
    found = epsilon(noised, survivors, corrupt)
    exact = by_hand(noised, survivors - corrupt)
    # Skellam noise costs more than a Gaussian's of its variance, by next to nothing on a fine grid.
    assert exact <= found < exact * 1.002
    assert epsilon(noised, survivors, corrupt, OUTSIDER) == found


def test_what_was_promised_is_the_multiplier() -> None:
    """With as many as the session counts on, V is there: epsilon of a multiplier of `noise`."""
    for noise in (0.7, 1.0, 3.0):
        found = epsilon(agreed(noise=noise), 16, 3)
        assert found == pytest.approx(epsilon_of(1 / noise, DELTA), rel=0.002)
        # A tenth less of noise would show.
        assert found < epsilon_of(1 / (0.9 * noise), DELTA)


@given(st.integers(16, 20), st.integers(0, 15), st.integers(0, 3), st.integers(0, 3))
def test_fewer_survivors_and_more_corrupt_never_cost_less(
    survivors: int, corrupt: int, fewer: int, more: int
) -> None:
    noised = agreed()
    survivors_, corrupt_ = max(16, survivors - fewer), min(15, corrupt + more)
    assert epsilon(noised, survivors_, corrupt_) >= epsilon(noised, survivors, corrupt)


def test_what_is_written_down_is_what_happened() -> None:
    noised = agreed()
    (release,) = releases_of(noised, 7, 3, 18, 5)
    mechanism = Mechanism.of(noised)
    assert (release.run, release.round, release.cohort) == (7, 3, 20)
    assert (release.survivors, release.corrupt, release.shares) == (18, 5, 13)
    assert (release.unit, release.neighbours) == (Unit.CLIENT, Neighbours.ZERO_OUT)
    assert (release.source, release.use, release.rate) == (Source.SHARED, Use.TRAIN, 1.0)
    assert release.mechanism.law.variance == mechanism.share  # type: ignore[union-attr]
    assert release.mechanism.square == mechanism.bound  # type: ignore[union-attr]
    assert release.mechanism.length == mechanism.coordinates  # type: ignore[union-attr]
    again = type(release).decode(release.encode())
    assert again == release


# Whose noise


def test_local_noise_counts_alone_however_many_are_there() -> None:
    noised = agreed(corrupt=15)
    assert Mechanism.of(noised).shares == 1
    figures = {epsilon(noised, survivors, corrupt) for survivors in (16, 20) for corrupt in (0, 15)}
    assert len(figures) == 1
    (found,) = figures
    assert found == pytest.approx(epsilon_of(1.0, DELTA), rel=0.002)
    (release,) = releases_of(noised, 1, 1, 20, 4)
    assert (release.source, release.shares, release.corrupt) == (Source.OWN, 1, 0)


def test_noise_of_the_server_hides_nothing_from_it() -> None:
    noised = agreed(central=True, corrupt=0)
    assert epsilon(noised, 16, 0) == math.inf
    found = epsilon(noised, 16, 0, OUTSIDER)
    assert found == pytest.approx(epsilon_of(1.0, DELTA), rel=0.002)
    assert epsilon(noised, 20, 0, OUTSIDER) == epsilon(noised, 16, 6, OUTSIDER) == found
    (release,) = releases_of(noised, 1, 1, 16, 6)
    assert (release.source, release.corrupt) == (Source.SERVER, 0)


def test_nobody_is_honest() -> None:
    with pytest.raises(ParameterError, match="expected corrupt < survivors"):
        releases_of(agreed(), 1, 1, 16, 16)
    with pytest.raises(ParameterError, match="expected corrupt < survivors"):
        releases_of(agreed(), 1, 1, 21, 0)


def test_a_ring_without_room_costs_nothing_because_there_is_no_such_sum() -> None:
    with pytest.raises(ParameterError, match="leave no room"):
        releases_of(replace(agreed(), bits=8, noise=20.0), 1, 1, 16, 3)


# The quantile


def test_what_norms_say_is_charged_beside_updates() -> None:
    plain, asking = agreed(), agreed(quantile=5.0)
    update, norms = releases_of(asking, 1, 1, 16, 3)
    assert (update.use, norms.use) == (Use.TRAIN, Use.CLIP_BIT)
    mechanism = Mechanism.of(asking)
    assert norms.mechanism.square == mechanism.level**2  # type: ignore[union-attr]
    assert norms.mechanism.law.variance == mechanism.quantile_share  # type: ignore[union-attr]
    assert norms.mechanism.length == 1  # type: ignore[union-attr]
    assert norms.shares == update.shares == 13
    # One fifth of the m of an update, whose square is a twenty-fifth: as one release of both.
    both = epsilon(asking, 16, 3)
    assert both == pytest.approx(epsilon_of(math.sqrt(1 + 1 / 25), DELTA), rel=0.003)
    assert both > epsilon(plain, 16, 3) * 1.01
    costs = [compose([each], SERVER).epsilon(DELTA) for each in (update, norms)]
    assert max(costs) < both


def test_a_quantile_may_cost_more_than_the_update() -> None:
    """Whoever asks for it with hardly any noise pays for that."""
    loud = agreed(quantile=0.05)
    assert epsilon(loud, 16, 3) > 5 * epsilon(agreed(), 16, 3)
    assert delta_of(1 / 0.05, epsilon(loud, 16, 3)) < DELTA


# The unit


def test_examples_are_put_against_their_absence() -> None:
    noised = agreed(records=8)
    assert unit_of(noised) is Unit.RECORD
    assert unit_of(agreed()) is Unit.CLIENT
    assert neighbours_of(Unit.RECORD) is Neighbours.ADD_OR_REMOVE
    assert neighbours_of(Unit.CLIENT) is Neighbours.ZERO_OUT
    (release,) = releases_of(noised, 1, 1, 16, 3)
    assert (release.unit, release.neighbours) == (Unit.RECORD, Neighbours.ADD_OR_REMOVE)
    assert release.rate == 1.0  # nobody may count on how a device drew its examples
    assert epsilon(noised, 16, 3) == pytest.approx(epsilon_of(1.0, DELTA), rel=0.002)
