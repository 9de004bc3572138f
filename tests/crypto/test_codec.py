"""The codec: sums are exact on its grid and never wrap, and nothing out of bounds gets in."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.codec import TAIL, Codec, Mean, Ring
from tacit.crypto.errors import ParameterError, ProtocolError
from tacit.crypto.prg import add_masks
from tacit.crypto.vector import Floats
from tests.strategies import codecs, within

Given = tuple[Floats, Floats, float]

ULP = Fraction(1, 1 << 53)  # float64 rounds a result by at most this share of it
# decode: integer to float (twice), share, and the division, each rounded once; 5 for the products
# of these roundings.
DECODED = 5 * ULP


def signed(codec: Codec, vector: Ring) -> list[int]:
    """Ring elements as whole numbers around 0, in plain Python."""
    half, full = 1 << (codec.bits - 1), 1 << codec.bits
    return [(int(value) + half) % full - half for value in vector]


def total(codec: Codec, inputs: Sequence[Given]) -> Ring:
    summed: Ring = np.zeros(codec.size, codec.dtype)
    for update, metrics, weight in inputs:
        summed += codec.encode(update, metrics, weight)
    return summed


def near(found: float, exact: Fraction, tolerance: Fraction = DECODED) -> bool:
    return abs(Fraction(found) - exact) <= tolerance * abs(exact)


def grid_mean(codec: Codec, inputs: Sequence[Given]) -> tuple[list[Fraction], list[Fraction], Any]:
    """The means of the rounded contributions, in fractions."""
    rows = [signed(codec, codec.encode(*given)) for given in inputs]
    weight = Fraction(sum(row[-2] for row in rows)) / Fraction(codec.weight_scale)
    share = weight / Fraction(codec.max_weight)
    steps = [sum(row[k] for row in rows) for k in range(codec.length)]
    digits = [row[codec.length : -TAIL] for row in rows]
    offset = 1 << (2 * codec.limb - 1)
    metrics = [
        sum((row[k] << codec.limb) + row[k + codec.metrics] - offset for row in digits)
        for k in range(codec.metrics)
    ]
    return (
        [Fraction(s) / (Fraction(codec.scale) * share) for s in steps],
        [Fraction(m) / (Fraction(codec.metric_scale) * share) for m in metrics],
        weight,
    )


@st.composite
def crowds(draw: st.DrawFn) -> tuple[Codec, list[Given]]:
    """A codec, and up to as many contributions as it has room for."""
    codec = draw(codecs())
    inputs = []
    for _ in range(draw(st.integers(1, min(codec.clients, 6)))):
        update = draw(st.lists(within(codec.bound), min_size=3, max_size=3))
        metrics = draw(st.lists(within(codec.metric_bound), max_size=2))
        weight = draw(st.sampled_from([1.0, 0.5]) | st.floats(0.01, 1.0)) * codec.max_weight
        inputs.append((np.array(update), np.array(metrics), weight))
    return codec, inputs


@given(crowds())
def test_the_decoded_sum_is_the_exact_mean_of_what_was_encoded(
    crowd: tuple[Codec, list[Given]],
) -> None:
    codec, inputs = crowd
    mean = codec.decode(total(codec, inputs), len(inputs))
    update, metrics, weight = grid_mean(codec, inputs)
    assert near(mean.weight, weight)
    assert all(near(a, b) for a, b in zip(mean.update.tolist(), update, strict=True))
    assert all(near(a, b) for a, b in zip(mean.metrics.tolist(), metrics, strict=True))


@given(codecs(), st.sampled_from([-1, 1]))
def test_sums_do_not_wrap_at_the_bounds(codec: Codec, sign: int) -> None:
    """Everyone at the bound with the largest weight: the sum is as far out as it gets."""
    update = np.full(codec.length, sign * codec.bound)
    metrics = np.full(codec.metrics, sign * codec.metric_bound)
    one = codec.encode(update, metrics, codec.max_weight)
    everyone: Ring = one * np.array(codec.clients, codec.dtype)  # wraps as a sum would
    assert signed(codec, everyone) == [codec.clients * value for value in signed(codec, one)]
    mean = codec.decode(everyone, codec.clients)
    exact = grid_mean(codec, [(update, metrics, codec.max_weight)])
    assert all(near(value, exact[0][0]) for value in mean.update.tolist())
    assert all(near(value, exact[1][0]) for value in mean.metrics.tolist())
    assert near(mean.weight, codec.clients * exact[2])


@given(codecs())
def test_the_scale_is_the_largest_that_leaves_room(codec: Codec) -> None:
    def fits(bound: float, scale: float) -> bool:
        reach = codec.clients * (Fraction(bound) * Fraction(scale) + Fraction(1, 2))
        return reach < 1 << (codec.bits - 1)

    for bound, scale in ((codec.bound, codec.scale), (codec.max_weight, codec.weight_scale)):
        assert fits(bound, scale)
        assert not fits(bound, 2 * scale)
    steps = Fraction(codec.metric_bound) * Fraction(codec.metric_scale)
    assert steps + Fraction(1, 2) < 1 << (2 * codec.limb - 1) <= 2 * steps + Fraction(1, 2)
    assert codec.clients * ((1 << codec.limb) - 1) < 1 << (codec.bits - 1)


@given(crowds())
def test_a_contribution_is_rounded_by_half_a_step(crowd: tuple[Codec, list[Given]]) -> None:
    codec, inputs = crowd
    for update, metrics, weight in inputs:
        row = signed(codec, codec.encode(update, metrics, weight))
        share = Fraction(weight) / Fraction(codec.max_weight)
        for x, step in zip(update.tolist(), row, strict=False):
            exact = Fraction(x) * share * Fraction(codec.scale)
            # float64 rounds the share and the product.
            assert abs(step - exact) <= Fraction(1, 2) + 3 * ULP * abs(exact)
        for k, x in enumerate(metrics.tolist()):
            high, low = row[codec.length + k], row[codec.length + codec.metrics + k]
            exact = Fraction(x) * share * Fraction(codec.metric_scale)
            step = (high << codec.limb) + low - (1 << (2 * codec.limb - 1))
            assert abs(step - exact) <= Fraction(1, 2) + 3 * ULP * abs(exact)
            assert 0 <= high < 1 << codec.limb
            assert 0 <= low < 1 << codec.limb
        assert abs(row[-2] - Fraction(weight) * Fraction(codec.weight_scale)) <= Fraction(1, 2)
        assert row[-1] == 1


def test_a_device_with_a_small_weight_keeps_the_precision_of_its_metrics() -> None:
    """Why metrics are sent as two digits: one example in 10 000 at 32 bits."""
    codec = Codec(0, 10, 1)
    mean = codec.decode(codec.encode(np.zeros(0), np.array([0.123456789]), 1.0), 1)
    assert mean.metrics[0] == pytest.approx(0.123456789, abs=1e-8)


def test_thousands_of_metrics_at_their_bound_do_not_overflow() -> None:
    codec = Codec(0, 1 << 16, 1, metric_bound=1.0, bits=62)
    one = codec.encode(np.zeros(0), np.array([1.0]), codec.max_weight)
    mean = codec.decode(one * np.uint64(codec.clients), codec.clients)
    assert mean.metrics.tolist() == [1.0]


CODEC = Codec(3, 4, 2)
FINE = (np.zeros(3), np.zeros(2), 1.0)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({0: np.array([0.0, np.nan, 0.0])}, "update holds a value that is not finite; bound is 8"),
        ({0: np.array([0.0, np.inf, 0.0])}, "update holds a value that is not finite"),
        ({0: np.array([0.0, -np.inf, 0.0])}, "update holds a value that is not finite"),
        ({0: np.array([0.0, -8.1, 0.0])}, r"update holds a value of size 8\.1; bound is 8"),
        ({0: np.array([0.0, np.nextafter(8.0, 9.0), 0.0])}, "bound is 8"),
        ({0: np.zeros(4)}, r"\(4,\) coordinates .* do not fit"),
        ({0: np.zeros((3, 1))}, "do not fit"),
        ({1: np.array([np.nan])}, "metrics holds a value that is not finite; metric_bound is 1000"),
        ({1: np.array([0.0, -1001.0])}, "metrics holds a value of size 1001; metric_bound is 1000"),
        ({1: np.zeros(3)}, r"\(3,\) metrics do not fit"),
        ({1: np.zeros((1, 2))}, "do not fit"),
        ({2: 0.0}, r"weight 0 is outside 0 < weight <= 10000 \(max_weight\)"),
        ({2: -1.0}, "weight -1 is outside"),
        ({2: float("nan")}, "weight nan is outside"),
        ({2: float("inf")}, "weight inf is outside"),
        ({2: 10**12}, r"weight 1e\+12 is outside"),
    ],
)
def test_what_is_out_of_bounds_is_refused(changed: dict[int, Any], says: str) -> None:
    CODEC.encode(*FINE)
    update, metrics, weight = (changed.get(k, value) for k, value in enumerate(FINE))
    with pytest.raises(ParameterError, match=says):
        CODEC.encode(update, metrics, weight)


def test_a_refused_value_may_stand_anywhere() -> None:
    """The check runs chunk by chunk: the last chunk is checked too."""
    codec = Codec((1 << 16) + 5, 2, 0)
    update = np.zeros(codec.length)
    update[-1] = np.nan
    with pytest.raises(ParameterError, match="not finite"):
        codec.encode(update, np.zeros(0), 1.0)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"length": -1}, "impossible"),
        ({"metrics": 256}, "impossible"),
        ({"metrics": -1}, "impossible"),
        ({"clients": 0}, r"expected 1\.\.1048576"),
        ({"clients": (1 << 20) + 1}, r"expected 1\.\.1048576"),
        ({"bits": 7}, r"expected 8\.\.62"),
        ({"bits": 63}, r"expected 8\.\.62"),
        ({"bound": 0.0}, "bound=0"),
        ({"bound": -1.0}, "bound=-1"),
        ({"bound": float("nan")}, "bound=nan"),
        ({"metric_bound": float("inf")}, "metric_bound=inf"),
        ({"max_weight": 5e-324}, "max_weight=5e-324"),
        ({"bound": 1e308}, r"bound=1e\+308"),
        ({"bits": 8, "clients": 200}, "200 clients with bound=8 leave no room in 8 bits"),
        ({"bits": 16}, "max_weight=10000 leave no room in 16 bits: raise bits or lower max_weight"),
        ({"bits": 24, "metric_bound": 1e15, "max_weight": 1.0}, "metric_bound=1e.15 leave no room"),
    ],
)
def test_a_codec_without_room_is_not_built(changed: dict[str, Any], says: str) -> None:
    settings: dict[str, Any] = {"length": 3, "clients": 4, "metrics": 2} | changed
    with pytest.raises(ParameterError, match=says):
        Codec(**settings)


@given(st.binary(min_size=32, max_size=32), codecs(length=40))
def test_a_mask_left_on_does_not_pass_for_a_sum(key: bytes, codec: Codec) -> None:
    """With probability 2**-bits noise has the right count; 40 bits and more are never unlucky."""
    summed = codec.encode(np.zeros(40), np.zeros(0), codec.max_weight)
    add_masks(summed, [key], [])
    if codec.bits >= 40:
        with pytest.raises(ProtocolError, match="its masks do not cancel"):
            codec.decode(summed, 1)


@pytest.mark.parametrize("off", [1, 2, 1 << 31, (1 << 32) - 1])
def test_the_count_is_compared_in_full(off: int) -> None:
    summed = CODEC.encode(*FINE)
    summed += np.uint32(off)
    with pytest.raises(ProtocolError, match="its masks do not cancel"):
        CODEC.decode(summed, 1)


@pytest.mark.parametrize("survivors", [0, 1, 3])
def test_the_count_is_that_of_the_survivors(survivors: int) -> None:
    with pytest.raises(ProtocolError, match="its masks do not cancel"):
        CODEC.decode(total(CODEC, [FINE, FINE]), survivors)


@pytest.mark.parametrize("weight", [0, -5])
def test_a_total_weight_of_nothing_is_refused(weight: int) -> None:
    summed = CODEC.encode(*FINE)
    summed[-2] = np.array(weight).astype(np.uint32)
    with pytest.raises(ProtocolError, match="total weight"):
        CODEC.decode(summed, 1)


def test_bits_above_the_ring_mean_nothing() -> None:
    codec = Codec(2, 3, 1, bits=20, max_weight=10.0)
    summed = codec.encode(np.array([1.0, -1.0]), np.array([3.0]), 10.0)
    dirty = summed ^ np.uint32(0xABC << 20)
    assert_equal(codec.decode(dirty, 1), codec.decode(summed, 1))


def assert_equal(one: Mean, other: Mean) -> None:
    assert np.array_equal(one.update, other.update)
    assert np.array_equal(one.metrics, other.metrics)
    assert one.weight == other.weight


@pytest.mark.parametrize(
    ("coordinate", "part", "extra"),
    [(0, 0.01, 1 << 20), (-2, 1.0, 1 << 27)],
    ids=["update", "weight"],
)
def test_a_sum_beyond_honest_reach_is_refused(coordinate: int, part: float, extra: int) -> None:
    codec = Codec(4, 3, 1)
    one = codec.encode(np.full(4, codec.bound), np.zeros(1), part * codec.max_weight)
    everyone = one * codec.dtype.type(3)
    codec.decode(everyone, 3)
    everyone[coordinate] += codec.dtype.type(extra)
    with pytest.raises(ProtocolError, match="larger than honest devices"):
        codec.decode(everyone, 3)
