"""The codec: sums are exact on its grid and never wrap, and nothing out of bounds gets in."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.crypto.codec import CHUNK, TAIL, Codec, Mean, Ring, _round
from tacit.crypto.errors import ParameterError, ProtocolError
from tacit.crypto.prg import add_masks
from tacit.crypto.vector import Floats
from tests.crypto.test_prg import stream
from tests.strategies import codecs, within

Given = tuple[Floats, Floats, float, bytes]

ULP = Fraction(1, 1 << 53)  # float64 rounds a result by at most this share of it
# decode: integer to float (twice), share, and the division, each rounded once; 5 for the products
# of these roundings.
DECODED = 5 * ULP

rands = st.binary(min_size=32, max_size=32)


def signed(codec: Codec, vector: Ring) -> list[int]:
    """Ring elements as whole numbers around 0, in plain Python."""
    half, full = 1 << (codec.bits - 1), 1 << codec.bits
    return [(int(value) + half) % full - half for value in vector]


def total(codec: Codec, inputs: Sequence[Given]) -> Ring:
    summed: Ring = np.zeros(codec.size, codec.dtype)
    for one in inputs:
        summed += codec.encode(*one)
    return summed


def near(found: float, exact: Fraction, tolerance: Fraction = DECODED) -> bool:
    return abs(Fraction(found) - exact) <= tolerance * abs(exact)


def grid_mean(codec: Codec, inputs: Sequence[Given]) -> tuple[list[Fraction], list[Fraction], Any]:
    """The means of the rounded contributions, in fractions."""
    rows = [signed(codec, codec.encode(*one)) for one in inputs]
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
        weight = max(weight, 1 / codec.weight_scale)  # or it rounds to 0, and is refused
        inputs.append((np.array(update), np.array(metrics), weight, draw(rands)))
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


@given(codecs(), st.sampled_from([-1, 1]), rands)
def test_sums_do_not_wrap_at_the_bounds(codec: Codec, sign: int, rand: bytes) -> None:
    """Everyone at the bound with the largest weight: the sum is as far out as it gets."""
    update = np.full(codec.length, sign * codec.bound)
    metrics = np.full(codec.metrics, sign * codec.metric_bound)
    one = codec.encode(update, metrics, codec.max_weight, rand)
    everyone: Ring = one * np.array(codec.clients, codec.dtype)  # wraps as a sum would
    assert signed(codec, everyone) == [codec.clients * value for value in signed(codec, one)]
    mean = codec.decode(everyone, codec.clients)
    exact = grid_mean(codec, [(update, metrics, codec.max_weight, rand)])
    assert all(near(a, b) for a, b in zip(mean.update.tolist(), exact[0], strict=True))
    assert all(near(a, b) for a, b in zip(mean.metrics.tolist(), exact[1], strict=True))
    assert near(mean.weight, codec.clients * exact[2])


@given(codecs())
def test_the_scale_is_the_largest_that_leaves_room(codec: Codec) -> None:
    def fits(bound: float, scale: float, rounding: Fraction) -> bool:
        reach = codec.clients * (Fraction(bound) * Fraction(scale) + rounding)
        return reach < 1 << (codec.bits - 1)

    for bound, scale, rounding in (
        (codec.bound, codec.scale, Fraction(1)),
        (codec.max_weight, codec.weight_scale, Fraction(1, 2)),
    ):
        assert fits(bound, scale, rounding)
        assert not fits(bound, 2 * scale, rounding)
    steps = Fraction(codec.metric_bound) * Fraction(codec.metric_scale)
    assert steps + Fraction(1, 2) < 1 << (2 * codec.limb - 1) <= 2 * steps + Fraction(1, 2)
    assert codec.clients * ((1 << codec.limb) - 1) < 1 << (codec.bits - 1)


def test_weights_need_room_for_half_a_step_only() -> None:
    """128/40 = 3.2 steps for each device: 2.5 and a half fit, 2.5 and a whole one would not."""
    assert Codec(1, 40, 0, bound=2.0, metric_bound=0.5, max_weight=2.5, bits=8).weight_scale == 1


@given(crowds())
def test_a_contribution_is_rounded_to_a_neighbour(crowd: tuple[Codec, list[Given]]) -> None:
    """Updates to one of the two integers around them, as the dither says; the rest to the nearest.

    Float64 rounds the share, its product with the scale, which is a power of two, not at all, and
    that with the coordinate: two roundings, with their product three.
    """
    codec, inputs = crowd
    for update, metrics, weight, rand in inputs:
        row = signed(codec, codec.encode(update, metrics, weight, rand))
        share = Fraction(weight) / Fraction(codec.max_weight)
        dither = np.frombuffer(stream(rand, 2 * codec.length), "<u2").tolist()
        for x, step, r in zip(update.tolist(), row, dither, strict=False):
            exact = Fraction(x) * share * Fraction(codec.scale)
            assert abs(step - exact) < 1 + 3 * ULP * abs(exact)
            in_floats = Fraction(x * (codec.scale * (weight / codec.max_weight)))
            assert step == (round(in_floats * (1 << 16)) + r) >> 16  # `round` takes ties to even
        for k, x in enumerate(metrics.tolist()):
            high, low = row[codec.length + k], row[codec.length + codec.metrics + k]
            exact = Fraction(x) * share * Fraction(codec.metric_scale)
            step = (high << codec.limb) + low - (1 << (2 * codec.limb - 1))
            assert abs(step - exact) <= Fraction(1, 2) + 3 * ULP * abs(exact)
            assert 0 <= high < 1 << codec.limb
            assert 0 <= low < 1 << codec.limb
        assert abs(row[-2] - Fraction(weight) * Fraction(codec.weight_scale)) <= Fraction(1, 2)
        assert row[-1] == 1


@pytest.mark.parametrize("bits", [32, 62])
def test_each_coordinate_has_a_dither_of_its_own_across_chunks(bits: int) -> None:
    codec = Codec(2 * CHUNK + 5, 2, 0, max_weight=2.0, bits=bits)
    update = np.random.default_rng(bits).uniform(-1, 1, codec.length) * 2.0**20 / codec.scale
    found = codec.encode(update, np.zeros(0), 1.0, bytes(range(32)))[:-TAIL]
    dither = np.frombuffer(stream(bytes(range(32)), 2 * codec.length), "<u2").astype(np.int64)
    fine = np.rint(update * codec.scale / 2 * 2.0**16).astype(np.int64)  # below 2**36: exact
    assert np.array_equal(found, (fine + dither >> 16).astype(codec.dtype))


steps = st.floats(-(2.0**30), 2.0**30) | st.integers(-(1 << 21), 1 << 21).map(lambda n: n / 16)
EVERY_DITHER = np.arange(1 << 16).astype("<u2")


def rounded(step: float, dtype: type) -> list[int]:
    """What `step` becomes with each of the 2**16 dithers."""
    out: Ring = np.empty(1 << 16, dtype)
    _round(np.full(1 << 16, step), EVERY_DITHER, out)
    return out.astype(dtype).view(f"i{out.itemsize}").tolist()


@settings(max_examples=20)
@given(steps, st.sampled_from([np.uint32, np.uint64]))
def test_the_mean_over_all_dithers_is_the_value_to_16_more_bits(step: float, dtype: type) -> None:
    assert sum(rounded(step, dtype)) == round(Fraction(step) * (1 << 16))


@settings(max_examples=20)
@given(st.integers(-(1 << 30), 1 << 30), st.integers(0, 1 << 21))
def test_what_is_on_the_grid_is_not_dithered(whole: int, odd: int) -> None:
    assert set(rounded(float(whole), np.uint32)) == {whole}
    large = (whole << 22) + odd  # up to 2**52: the last place may be any
    assert set(rounded(float(large), np.uint64)) == {large}


@pytest.mark.parametrize(
    "step", [2.0**51 + 0.5, -(2.0**51) - 0.5, 2.0**36 + 2.0**-16, 2.0**52 - 0.5]
)
def test_large_steps_are_dithered_by_what_fraction_they_have(step: float) -> None:
    assert sum(rounded(step, np.uint64)) == Fraction(step) * (1 << 16)


# Hoeffding 1963, theorem 2: the sum of n independent variables, each within an interval of length
# 1, is off its mean by n * s or more with probability at most 2 exp(-2 n s**2). With 2 n s**2 =
# 41 ln 2, a right rounding fails once in 2**40. The mean itself may be off by 2**-17.
TRIES = 1 << 16
OFF = math.sqrt(41 * math.log(2) / (2 * TRIES)) + 2.0**-17


def bias(found: Ring, exact: Floats) -> float:
    return abs(float(np.mean(found.astype(np.int32) - exact)))


@pytest.mark.parametrize("fraction", [0.02, 0.25, 0.5, 0.75, 1 / 3, -0.3, -0.9])
def test_a_mean_is_not_lost_below_half_a_step(fraction: float) -> None:
    codec = Codec(TRIES, 1, 0, max_weight=1.0)
    exact = np.full(TRIES, fraction)
    found = codec.encode(exact / codec.scale, np.zeros(0), 1.0, bytes(range(32)))[:-TAIL]
    assert bias(found, exact) <= OFF


def test_the_bias_test_can_fail() -> None:
    """Rounding to the nearest is biased by 0.25 here; a dither half as wide as a step, by 0.25 too;
    down, by 0.75."""
    exact = np.full(TRIES, 0.75)
    half = EVERY_DITHER / 2.0**17
    for wrong in (np.rint(exact), np.floor(exact + half), np.floor(exact)):
        assert bias(wrong.astype(np.uint32), exact) > 0.2 > 10 * OFF


def test_a_device_with_a_small_weight_keeps_the_precision_of_its_metrics() -> None:
    """Why metrics are sent as two digits: one example in 10 000 at 32 bits."""
    codec = Codec(0, 10, 1)
    mean = codec.decode(codec.encode(np.zeros(0), np.array([0.123456789]), 1.0, bytes(32)), 1)
    assert mean.metrics[0] == pytest.approx(0.123456789, abs=1e-8)


def test_thousands_of_metrics_at_their_bound_do_not_overflow() -> None:
    codec = Codec(0, 1 << 16, 1, metric_bound=1.0, bits=62)
    one = codec.encode(np.zeros(0), np.array([1.0]), codec.max_weight, bytes(32))
    mean = codec.decode(one * np.uint64(codec.clients), codec.clients)
    assert mean.metrics.tolist() == [1.0]


CODEC = Codec(3, 4, 2)
FINE = (np.zeros(3), np.zeros(2), 1.0, bytes(32))


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
        ({3: bytes(31)}, "a key of a stream has 32 bytes, not 31"),
    ],
)
def test_what_is_out_of_bounds_is_refused(changed: dict[int, Any], says: str) -> None:
    CODEC.encode(*FINE)
    update, metrics, weight, rand = (changed.get(k, value) for k, value in enumerate(FINE))
    with pytest.raises(ParameterError, match=says):
        CODEC.encode(update, metrics, weight, rand)


def test_a_refused_value_may_stand_anywhere() -> None:
    """The check runs chunk by chunk: the last chunk is checked too."""
    codec = Codec(CHUNK + 5, 2, 0)
    update = np.zeros(codec.length)
    update[-1] = np.nan
    with pytest.raises(ParameterError, match="not finite"):
        codec.encode(update, np.zeros(0), 1.0, bytes(32))


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
        # Each of the 43 rounds 2.4 up to 3, and 129 wraps: half a step of room was not enough.
        ({"bits": 8, "clients": 43, "bound": 2.4}, r"43 clients with bound=2\.4 leave no room"),
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
    summed = codec.encode(np.zeros(40), np.zeros(0), codec.max_weight, key)
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
    summed = codec.encode(np.array([1.0, -1.0]), np.array([3.0]), 10.0, bytes(32))
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
    one = codec.encode(np.full(4, codec.bound), np.zeros(1), part * codec.max_weight, bytes(32))
    everyone = one * codec.dtype.type(3)
    codec.decode(everyone, 3)
    everyone[coordinate] += codec.dtype.type(extra)
    with pytest.raises(ProtocolError, match="larger than honest devices"):
        codec.decode(everyone, 3)


@pytest.mark.parametrize("sign", [-1, 1])
def test_devices_that_all_round_outwards_are_honest(sign: int) -> None:
    """At the bound, each one 254/255 of a step too far; one step further each, and nobody is.

    The weights are whole and exact, but might have been rounded by half a step of 2**-21 each, a
    255 * 2**21th of the largest: that share of the bound, 2**28 steps, is a quarter of a step.
    """
    codec = Codec(1, 4, 0, max_weight=255.0)
    assert (codec.scale, codec.weight_scale) == (2.0**25, 2.0**21)
    exact = Fraction(16, 255) * (1 << 28)
    assert exact % 1 == Fraction(1, 255)
    rand = next(r for r in map(as_rand, range(1 << 12)) if outwards(r, sign))
    one = codec.encode(np.array([sign * codec.bound]), np.zeros(0), 16.0, rand)
    assert signed(codec, one)[0] == sign * (math.floor(exact) + 1)
    everyone = one * np.uint32(4)
    codec.decode(everyone, 4)
    everyone[:1] += np.int64(4 * sign).astype(np.uint32)
    with pytest.raises(ProtocolError, match="larger than honest devices"):
        codec.decode(everyone, 4)


def as_rand(number: int) -> bytes:
    return number.to_bytes(32, "little")


def outwards(rand: bytes, sign: int) -> bool:
    """Whether the first dither takes 1/255 up to 1, or -1/255 down to -1."""
    first = int.from_bytes(stream(rand, 2), "little")
    return (sign * round(Fraction(1 << 16, 255)) + first) >> 16 == sign


def test_a_weight_that_rounds_to_nothing_is_refused() -> None:
    codec = Codec(3, 64, 2, bound=0.001, metric_bound=0.001, max_weight=0.5, bits=8)
    assert codec.weight_scale == 2
    with pytest.raises(ParameterError, match=r"weight 0\.25 is no step of 0\.5"):
        codec.encode(np.zeros(3), np.zeros(0), 0.25, bytes(32))
    assert codec.encode(np.zeros(3), np.zeros(0), 0.5, bytes(32))[-2] == 1
