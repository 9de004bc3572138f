"""Private sums: the bound holds for whatever comes, the noise is there, and the mean is right."""

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.crypto.codec import Codec
from tacit.crypto.errors import ParameterError, ProtocolError, TooFewClients
from tacit.crypto.prg import KeyStream
from tacit.crypto.secagg.memory import Contribution, secure_sum
from tacit.crypto.vector import Difference, Layout
from tacit.privacy import mechanisms
from tacit.privacy.gaussian import epsilon_of
from tacit.privacy.mechanisms import Mechanism, choose
from tacit.privacy.rotation import Rotation, width_of
from tacit.privacy.samplers import Sampler, Skellam
from tests.crypto.federation import Counted
from tests.crypto.lattice import slow

SESSION = bytes(range(32))
RAND = bytes(range(100, 132))
SIGMAS = 7  # of a normal law: a chance of 2**-38
SINGLE = 2.0**-24


def squares(steps: np.ndarray) -> int:
    """In Python's own numbers."""
    return sum(x * x for x in steps.tolist())


def centred(total: np.ndarray, bits: int) -> np.ndarray:
    """Elements of the ring as the whole numbers nearest to 0."""
    half = 1 << (bits - 1)
    return (total.astype(np.int64) + half) % (1 << bits) - half


def mean_of(mechanism: Mechanism, total: Any, survivors: int, session: bytes) -> np.ndarray:
    return mechanism.update(mechanism.decode(total, survivors), session)


def keys(count: int) -> list[bytes]:
    rand = Counted(b"mechanisms")
    return [rand(32) for _ in range(count)]


# The bound


@st.composite
def built(draw: st.DrawFn) -> Mechanism:
    """Any mechanism that can be, on few coordinates."""
    length, clients = draw(st.integers(1, 300)), draw(st.integers(1, 50))
    corrupt = draw(st.integers(0, clients - 1))
    return choose(
        length,
        clients,
        draw(st.integers(0, clients - 1 - corrupt)),
        corrupt,
        draw(st.sampled_from([2.0**-60, 0.1, 1.0, 3.0, 1e9])),
        draw(st.floats(0.01, 30)),
        tolerance=draw(st.sampled_from([0.001, 0.01, 0.5, 20.0])),
        sketch=draw(st.sampled_from([0.0, 0.1, 10.0])),
    )


NUMBERS = st.sampled_from([0.0, 1.0, -1.0, 1e-300, 1e30, -1e300, 5e-324, np.inf, np.nan])
NUMBERS |= st.floats(allow_nan=False, width=32) | st.floats(-2, 2)


def updates(length: int) -> st.SearchStrategy[np.ndarray]:
    """All alike, one that stands out, or anything; in units of the clip."""
    alike = NUMBERS.map(lambda x: np.full(length, x))
    one = st.tuples(NUMBERS, st.integers(0, length - 1)).map(lambda c: np.eye(length)[c[1]] * c[0])
    seeds = st.integers(0, 1 << 32)
    drawn = seeds.map(lambda s: np.random.default_rng(s).normal(size=length))
    return alike | one | drawn | st.tuples(drawn, NUMBERS).map(lambda c: c[0] * c[1])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(max_examples=300)
@given(st.data(), built(), st.binary(min_size=32, max_size=32))
def test_the_bound_holds_whatever_the_update(
    data: st.DataObject, mechanism: Mechanism, rand: bytes
) -> None:
    update = data.draw(updates(mechanism.length)) * mechanism.clip
    steps = mechanism.rounded(update, SESSION, rand)
    assert squares(steps) <= mechanism.bound
    most = min(math.isqrt(mechanism.coordinates * mechanism.bound), mechanism.bound)
    assert np.abs(steps.astype(object)).sum() <= most  # by Cauchy and Schwarz, and |x| <= x**2
    norm = np.linalg.norm(update / mechanism.clip)
    if not math.isfinite(norm) or norm == 0:
        assert not steps.any()


def spiteful() -> tuple[Mechanism, np.ndarray]:
    """An update that is 5/2 in each coordinate after the rotation: squares grow by 1/4 each."""
    found = next(
        mechanism
        for i in range(1 << 10)
        if (mechanism := Mechanism(1 << 16, 30, 0, 0, 1.0, 2 + i / 256, 14)).radius == 640
    )
    return found, np.eye(1, found.length)[0]


def test_the_bound_is_kept_by_the_check_and_by_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """d/4 more, and not d/6, which is above the bound by 6 deviations of what chance does."""
    mechanism, update = spiteful()
    assert mechanism.length / 12 > (2 + 6) * mechanism.radius + 256
    steps = mechanism.rounded(update, SESSION, RAND)
    assert mechanism.bound * 0.995 < squares(steps) <= mechanism.bound
    honest = mechanisms._bound
    monkeypatch.setattr(mechanisms, "_bound", lambda r, d, _: 2 * honest(r, d, 0))
    monkeypatch.setattr(mechanisms, "_radius", lambda *_: 640)
    assert squares(mechanism.rounded(update, SESSION, RAND)) > honest(640, 1 << 16, 0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("lie", [0.0, 0.5, 1e-3, 1e-30, 2.0])
def test_no_float_decides_whether_the_bound_holds(
    lie: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A norm that is taken for far smaller than it is, even so that numbers leave their words."""
    mechanism = choose(3000, 30, 5, 5, 1.0, 1.0)
    update = np.random.default_rng(1).normal(size=3000) * 1e4
    true = mechanisms._norm
    monkeypatch.setattr(mechanisms, "_norm", lambda vector: lie * true(vector))
    assert squares(mechanism.rounded(update, SESSION, RAND)) <= mechanism.bound


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(max_examples=50)
@given(st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=40), st.integers(8, 16))
def test_squares_are_added_up_exactly(numbers: list[int], bits: int) -> None:
    """Over chunks too, and as large as can come out of any float."""
    vector = np.array(numbers * 1000, np.float32)
    out = np.empty(vector.size, np.int32)
    found = mechanisms._round(vector, 2.0**-bits, bits, KeyStream(RAND, 1 << 20), out)
    assert found == squares(out)


def test_one_try_is_nearly_always_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The excess is normal, of a deviation of sqrt(2/3) R, and has 2 R for it: 0.7%."""
    mechanism = choose(10_000, 100, 0, 0, 1.0, 1.0)
    tries, rounds = [], mechanisms._round

    def counted(*args: Any) -> int:
        tries.append(args[1])
        return rounds(*args)

    monkeypatch.setattr(mechanisms, "_round", counted)
    update = np.random.default_rng(2).normal(size=10_000)
    for key in keys(500):
        mechanism.rounded(update, key, key)
    again = len(tries) - 500
    assert 0 < again < 500 * 0.007 + SIGMAS * math.sqrt(500 * 0.007)
    assert min(tries) > max(tries) * 0.999


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_grids_of_any_fineness_take_one_try(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the finest, where float32 and the words of whole numbers have little to spare."""
    mechanism = Mechanism(5000, 2, 0, 0, 1.0, 0.01, bits)
    assert (mechanism.radius == mechanisms.MOST_STEPS) == (bits >= 24)
    tries, rounds = [], mechanisms._round

    def counted(*args: Any) -> int:
        tries.append(rounds(*args))
        return tries[-1]

    monkeypatch.setattr(mechanisms, "_round", counted)
    update = np.random.default_rng(8).normal(size=5000)
    for key in keys(20):
        steps = mechanism.rounded(update, key, key)
        assert squares(steps) == tries[-1] <= mechanism.bound
        shorter = np.linalg.norm(steps / mechanism.radius)
        assert shorter > 1 - 2 * 2.0**-12
    assert len(tries) < 20 + 5


# Rounding


def test_what_is_below_a_step_is_not_lost() -> None:
    """2**10 devices with a fiftieth of a step in each coordinate. The sum of n roundings of x has
    n x (1 - x) for variance."""
    clients, length = 1 << 10, 64
    mechanism = replace(choose(length, clients, 0, 0, 1.0, 1.0), central=True)
    turned = Rotation(length, length, SESSION).back(np.ones(length, np.float32))
    update = turned.astype(float) / 50 / mechanism.scale
    total = np.sum([mechanism.rounded(update, SESSION, key) for key in keys(clients)], axis=0)
    deviation = math.sqrt(clients * 0.02 * 0.98)
    assert np.abs(total - clients / 50).max() < SIGMAS * deviation
    assert not np.rint(Rotation(length, length, SESSION).turn(update, 1 / mechanism.scale)).any()


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 1 << 32), st.floats(0.01, 1))
def test_a_sum_without_noise_is_the_sum_of_the_roundings_modulo_the_ring(
    length: int, clients: int, seed: int, norm: float
) -> None:
    mechanism = choose(length, clients, 0, 0, 2.0, 1.0, central=True)
    rng = np.random.default_rng(seed)
    given_ = rng.normal(size=(clients, length))
    given_ *= 2 * norm / np.linalg.norm(given_, axis=1, keepdims=True)
    total = np.zeros(mechanism.size, mechanism.dtype)
    exact = np.zeros(length, object)
    for update, key in zip(given_, keys(clients), strict=True):
        encoded = mechanism.encode(update, SESSION, key)
        assert encoded.dtype == mechanism.dtype
        steps = mechanism.rounded(update, SESSION, slow.stream(key, 96)[64:])
        assert np.array_equal(encoded[:-1].view(np.int32), steps)
        total += encoded
        exact += steps.astype(object)
    assert centred(total[:-1], mechanism.bits).tolist() == exact.tolist()
    mean = mean_of(mechanism, total, clients, SESSION)
    # A rounding is off by less than a step in each coordinate, so a mean is too; a second try
    # makes a vector shorter by 1%, at most twice here; and float32 is good to 100 units.
    off = math.sqrt(length) / mechanism.scale + 200 * SINGLE * 2 + 0.02 * 2
    assert np.linalg.norm(mean - given_.mean(axis=0)) < off


def test_decoded_means_are_right_on_average() -> None:
    """Over 2**9 rounds with their own rotation, dither and noise, within and beyond the clip. One
    coordinate has z B / (scale n) of noise, and less than one step of rounding."""
    length, clients, rounds = 50, 4, 1 << 9
    mechanism = choose(length, clients, 0, 0, 1.0, 0.05, tolerance=0.001)
    rng = np.random.default_rng(3)
    given_ = rng.normal(size=(clients, length)) / np.array([[5], [10], [70], [700]])
    norms = np.maximum(1, np.linalg.norm(given_, axis=1, keepdims=True))
    assert 0 < (norms > 1).sum() < clients
    mean = np.zeros(length)
    for i, key in enumerate(keys(rounds)):
        session = i.to_bytes(32, "big")
        total = sum(
            mechanism.encode(update, session, bytes([j]) + key[1:])
            for j, update in enumerate(given_)
        )
        mean += mean_of(mechanism, total, clients, session) / rounds
    noise = math.sqrt(mechanism.variance + clients) / (mechanism.scale * clients)
    assert np.abs(mean - (given_ / norms).mean(axis=0)).max() < SIGMAS * noise / math.sqrt(rounds)
    assert np.abs(mean).max() > 3 * SIGMAS * noise / math.sqrt(rounds)


# The sum


class Stand(Codec):
    """A codec of the same size, in whose place a mechanism stands."""

    mechanism: Mechanism
    sent: list[np.ndarray]
    opened: list[np.ndarray]

    def encode(self, update: Any, metrics: Any, weight: float, rand: bytes) -> Any:
        self.sent.append(self.mechanism.encode(update, SESSION, rand))
        return self.sent[-1].copy()

    def decode(self, total: Any, survivors: int) -> Any:
        self.opened.append(total.copy())
        return SimpleNamespace(update=mean_of(self.mechanism, total, survivors, SESSION))


@pytest.mark.parametrize("lattice", ["", "2048-32-1"])
@pytest.mark.parametrize("sketch", [0, 300])
def test_contributions_go_through_both_protocols(lattice: str, sketch: int) -> None:
    mechanism = Mechanism(1000, 5, 1, 1, 1.0, 0.5, 17, sketch)
    codec = Stand(mechanism.size - 2, 5, 0, bits=mechanism.bits)
    assert (codec.size, codec.dtype) == (mechanism.size, mechanism.dtype)
    Stand.mechanism, Stand.sent, Stand.opened = mechanism, [], []
    rng = np.random.default_rng(4)
    given_ = {i: Contribution(rng.normal(size=1000), np.zeros(0), 1.0) for i in range(1, 6)}
    opened = secure_sum(codec, given_, (), Counted(), silent={5: "report"}, lattice=lattice)
    assert opened.survivors == (1, 2, 3, 4)
    total = np.sum(Stand.sent, axis=0, dtype=np.uint32)
    mask = np.uint32((1 << 17) - 1)
    assert np.array_equal(Stand.opened[0] & mask, total & mask)
    assert np.array_equal(opened.mean.update, mean_of(mechanism, total, 4, SESSION))
    mean = np.mean([c.update / np.linalg.norm(c.update) for c in list(given_.values())[:4]], axis=0)
    assert np.dot(opened.mean.update, mean) > np.dot(mean, mean) / 2


@given(st.integers(8, 32), st.data())
def test_decoding_goes_to_the_edges_of_the_ring(bits: int, data: st.DataObject) -> None:
    mechanism = Mechanism(5, 3, 1, 0, 1.0, 0.1, bits)
    half = 1 << (bits - 1)
    numbers = st.sampled_from([-half, 1 - half, -1, 0, 1, half - 1]) | st.integers(-half, half - 1)
    sums = data.draw(st.lists(numbers, min_size=5, max_size=5))
    count = data.draw(st.integers(2, 3))
    high = data.draw(st.integers(0, (1 << 32 - bits) - 1)) << bits  # what a ring does not see
    total = np.array([(x % (1 << bits)) | high for x in (*sums, count)], np.uint32)
    mean = mean_of(mechanism, total, count, SESSION)
    turned = Rotation(5, 5, SESSION).turn(mean, 1.0) * mechanism.scale * count
    assert np.allclose(turned, sums, rtol=0, atol=200 * SINGLE * np.linalg.norm(sums) + 1e-30)


def test_a_radius_is_the_largest_that_leaves_room() -> None:
    """By the formula of the docstring once more, in floats."""
    for case in [(1000, 30, 0, 0, 1.0, 1.0, 16), (1, 1, 0, 0, 1.0, 7.0, 12), (99, 900, 9, 9, 1, 2)]:
        mechanism = Mechanism(*case)
        tail = 21 * math.log(2)

        def reach(radius: int, m: Mechanism = mechanism, tail: float = tail) -> float:
            signal = (m.clients * radius) ** 2 / width_of(m.coordinates) + m.clients / 4
            bound = (radius + 1) ** 2 + math.ceil(m.length / 6) + math.isqrt(m.length)
            noise = m.noise**2 * bound * m.clients / m.shares
            return math.sqrt(2 * tail * (signal + noise)) + tail / 3

        half = (1 << mechanism.bits - 1) - 1
        assert reach(mechanism.radius) <= half * (1 + 1e-6)
        assert reach(mechanism.radius + 1) > half * (1 - 1e-6)


def wrapped(mechanism: Mechanism, rounds: int) -> int:
    """Coordinates outside the ring in sums of updates that are all alike and all at the clip."""
    half, count = 1 << (mechanism.bits - 1), 0
    update = np.ones(mechanism.length)
    for i in range(rounds):
        session = i.to_bytes(32, "big")
        total = np.zeros(mechanism.coordinates, np.int64)
        for key in keys(mechanism.clients):
            encoded = mechanism.encode(update, session, session[-1:] + key[1:])
            total += encoded[:-1].view(np.int32)
        count += int(((total < -half) | (total >= half)).sum())
    return count


@pytest.mark.parametrize("noise", [0.01, 1.0])
def test_sums_leave_the_ring_as_seldom_as_they_say(
    noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a chance of 2**-4 in the place of 2**-20, or less; but with half as many deviations
    as that again, often. Noise that is small leaves the signs of the rotation to chance."""
    monkeypatch.setattr(mechanisms, "WRAP", 4)
    mechanisms._radius.cache_clear()
    try:
        mechanism = Mechanism(1 << 12, 8, 0, 0, 1.0, noise, 12)
        samples = 16 << 12
        assert 0 < wrapped(mechanism, 16) < samples / 16
        radius = mechanism.radius
        monkeypatch.setattr(mechanisms, "_radius", lambda *_: 3 * radius)
        assert wrapped(mechanism, 4) > samples / 16 / 4
    finally:
        monkeypatch.undo()
        mechanisms._radius.cache_clear()
    assert wrapped(Mechanism(1 << 12, 8, 0, 0, 1.0, noise, 12), 16) == 0


# The noise


def test_a_contribution_is_a_share_of_noise_and_the_rounded_update() -> None:
    mechanism = Mechanism(1000, 20, 3, 4, 1.0, 1.0, 20, 300)
    update = np.random.default_rng(5).normal(size=1000)
    keys_ = slow.stream(RAND, 96)
    noise = Sampler(Skellam(mechanism.share), keys_[:32], 300).draw(300)
    steps = mechanism.rounded(update, SESSION, keys_[64:])
    encoded = mechanism.encode(update, SESSION, RAND)
    assert encoded[:-1].view(np.int32).tolist() == (noise + steps).tolist()
    assert encoded[-1] == 1
    assert mechanism.share * (20 - 3 - 4) == mechanism.variance
    assert mechanism.variance == mechanism.bound


def test_noise_is_drawn_before_the_update_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def told(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            order.append(name)
            return function(*args)

        return wrapped

    monkeypatch.setattr(Sampler, "draw", told("draw", Sampler.draw))
    monkeypatch.setattr(mechanisms, "_flat", told("update", mechanisms._flat))
    Mechanism(1 << 18, 2, 0, 0, 1.0, 1.0).encode(np.ones(1 << 18), SESSION, RAND)
    assert order == ["draw", "draw", "update"]


COORDINATES = 1 << 15


def noised(mechanism: Mechanism, survivors: int, known: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The decoded mean over so many devices with nothing to say, in steps of their sum; and the
    same when so many have told their noise."""
    zero, total = np.zeros(mechanism.length), np.zeros(mechanism.size, np.uint32)
    told = total.copy()
    for i, key in enumerate(keys(survivors)):
        encoded = mechanism.encode(zero, SESSION, key)
        total += encoded
        told += encoded if i < known else 0
    unknown = total - told
    unknown[-1] = survivors
    decoded = [mean_of(mechanism, one, survivors, SESSION) for one in (total, unknown)]
    first, second = (mean * mechanism.scale * survivors for mean in decoded)
    return first, second


def is_variance(noise: np.ndarray, variance: float) -> bool:
    """Whether the mean square is within 7 deviations of it, 5.5% for so many of normal ones.
    Skellam noise of a variance above 100 has at most 1% more of a fourth moment."""
    found = float(np.mean(noise**2)) / variance
    return abs(found - 1) < SIGMAS * math.sqrt(2.01 / noise.size)


@pytest.mark.parametrize("corrupt", [0, 8])
@pytest.mark.parametrize("missing", [0, 4, 8, 12])
def test_whoever_drops_out_the_noise_is_what_was_promised(missing: int, corrupt: int) -> None:
    """0 to 30% of 40. What honest survivors add is never below V, and what is counted is there."""
    mechanism = Mechanism(COORDINATES, 40, 12, corrupt, 2.0, 1.0)
    survivors = 40 - missing
    realised = mechanism.realised(survivors)
    assert realised >= mechanism.variance
    assert (realised == mechanism.variance) == (missing == 12)
    assert realised == mechanism.variance * Fraction(survivors - corrupt, 28 - corrupt)
    whole, unknown = noised(mechanism, survivors, corrupt)
    assert is_variance(unknown, float(realised))
    assert is_variance(whole, float(mechanism.share * survivors))
    for wrong in (0.9, 1.1):
        assert not is_variance(unknown, float(realised) * wrong)
    # As is common: shares for all, and nobody told what is missing.
    naive = replace(mechanism, dropouts=0, corrupt=0)
    if survivors - corrupt < 36:
        less = noised(replace(naive, dropouts=0), 40)[0] * math.sqrt((survivors - corrupt) / 40)
        assert float(np.mean(less**2)) < 0.95 * float(naive.variance)


def test_central_noise_is_one_share_of_the_server() -> None:
    mechanism = choose(COORDINATES, 5, 3, 0, 1.0, 1.0, central=True)
    zero = np.zeros(COORDINATES)
    total = sum(mechanism.encode(zero, SESSION, key) for key in keys(2))
    assert not total[:-1].any()
    opened = mechanism.add_noise(mechanism.decode(total, 2), RAND)
    assert is_variance(mechanism.update(opened, SESSION) * mechanism.scale * 2, mechanism.variance)
    assert mechanism.realised(2) == mechanism.realised(5) == mechanism.variance == mechanism.share
    with pytest.raises(ParameterError, match="devices have added"):
        choose(8, 5, 3, 0, 1.0, 1.0).add_noise(opened, RAND)


def test_local_noise_is_that_of_a_cohort_of_one() -> None:
    mechanism = choose(COORDINATES, 1, 0, 0, 1.0, 2.0)
    noise, _ = noised(mechanism, 1)
    assert is_variance(noise, 4.0 * mechanism.bound)


def test_fewer_survivors_than_promised_release_nothing() -> None:
    mechanism = choose(10, 10, 3, 2, 1.0, 1.0)
    total = np.array([0] * 10 + [6], np.uint32)
    with pytest.raises(TooFewClients, match="6 survivors, 7 needed"):
        mean_of(mechanism, total, 6, SESSION)
    with pytest.raises(ParameterError, match="11 survivors of 10"):
        mechanism.realised(11)
    total[-1] = 7
    mean_of(mechanism, total, 7, SESSION)


def test_a_sum_whose_masks_did_not_cancel_is_refused() -> None:
    mechanism = Mechanism(10, 10, 3, 2, 1.0, 1.0, 12)
    total = np.array([0] * 10 + [8], np.uint32)
    with pytest.raises(ProtocolError, match="masks do not cancel"):
        mean_of(mechanism, total, 9, SESSION)
    total[-1] += 1 + (5 << 12)
    mean_of(mechanism, total, 9, SESSION)


# What it costs


def more_epsilon(mechanism: Mechanism, delta: float) -> float:
    """By how much it is above that of a central Gaussian which has the same variance and no
    rounding, so a sensitivity of R, and not B."""
    variance = float(mechanism.variance)
    own = epsilon_of(math.sqrt(mechanism.bound / variance), delta)
    return own / epsilon_of(mechanism.radius / math.sqrt(variance), delta) - 1


def test_the_price_of_rounding_in_epsilon() -> None:
    """Where it was measured: n = 100, d = 2**20."""
    assert epsilon_of(1.0, 1e-5) == pytest.approx(4.3770, abs=3e-4)  # what dp-accounting says
    for bits, most in [(14, 0.05), (16, 0.005), (18, 0.0005)]:
        found = more_epsilon(Mechanism(1 << 20, 100, 0, 0, 1.0, 1.0, bits), 1e-5)
        assert most / 20 < found < most


@pytest.mark.parametrize("noise", [0.3, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("clients", [1, 10, 1000])
@pytest.mark.parametrize("length", [10, 1 << 14, 10**7])
def test_chosen_bits_are_the_fewest_within_the_tolerance(
    noise: float, clients: int, length: int
) -> None:
    for tolerance in (0.1, 0.01, 0.001):
        found = choose(length, clients, clients // 5, clients // 5, 1.0, noise, tolerance=tolerance)
        assert 0 < found.overhead <= Fraction(tolerance)
        fewer = mechanisms._radius(length, clients, 0, found.surplus, noise, found.bits - 1)
        assert mechanisms._bound(fewer, length, 0) > (1 + tolerance) * fewer**2
        for delta in (1e-2, 1e-5, 1e-10):
            if epsilon_of(1 / noise, delta) > 0.1:  # near 0 it rises faster than the variance
                assert more_epsilon(found, delta) <= tolerance


def error(mechanism: Mechanism, given_: np.ndarray, rounds: int) -> float:
    """The squared error of the mean, of what a central Gaussian has at the same epsilon."""
    true, found = given_.mean(axis=0), 0.0
    clients = len(given_)
    for i in range(rounds):
        session = i.to_bytes(32, "big")
        total = sum(
            mechanism.encode(update, session, session[-1:] + key[1:])
            for update, key in zip(given_, keys(clients), strict=True)
        )
        found += float(np.sum((mean_of(mechanism, total, clients, session) - true) ** 2))
    gaussian = (mechanism.noise * mechanism.clip / clients) ** 2 * mechanism.length
    return found / rounds / gaussian


@pytest.mark.parametrize("length", [1 << 17, 100_000])
def test_at_equal_epsilon_the_error_is_that_of_a_central_gaussian(length: int) -> None:
    """30 devices, 14 bits: at most 1.02, and what is said. Rounding itself adds n / 4 at most."""
    mechanism = Mechanism(length, 30, 0, 0, 1.0, 1.0, 14)
    rng = np.random.default_rng(6)
    given_ = rng.normal(size=(30, length))
    given_ /= np.linalg.norm(given_, axis=1, keepdims=True)
    said = 1 + float(mechanism.overhead)
    assert said < 1.02
    found = error(mechanism, given_, 4)
    near = SIGMAS * math.sqrt(2 / (4 * length))
    assert said - near < found < said + 30 / 4 / mechanism.radius**2 + near
    assert abs(found - 1.1) > near  # another tenth would show


@pytest.mark.parametrize("alike", [True, False])
def test_a_sketch_of_a_bit_for_each_parameter_costs_a_tenth(alike: bool) -> None:
    """Updates that are all the same are the worst that there is: their sum is n clips long."""
    length, clients = 1 << 15, 15
    mechanism = choose(length, clients, 0, 0, 1.0, 1.0, sketch=0.08)
    assert mechanism.sketch == math.ceil(clients**2 / 0.08)
    assert mechanism.bits_per_parameter < 1.75
    rng = np.random.default_rng(7)
    given_ = rng.normal(size=(1 if alike else clients, length)).repeat(clients if alike else 1, 0)
    given_ /= np.linalg.norm(given_, axis=1, keepdims=True)
    found = error(mechanism, given_, 24)
    # Noise comes in `sketch` numbers, each of them in length / sketch places.
    near = SIGMAS * math.sqrt(2 / (24 * mechanism.sketch))
    lost = (length / mechanism.sketch - 1) * np.sum(given_.sum(axis=0) ** 2) / length
    assert lost < 0.08
    assert (lost > 0.07) == alike
    assert abs(found - 1 - float(mechanism.overhead) - lost) < near + 0.003
    assert found < 1.10 + near


def test_a_sketch_is_only_taken_where_it_saves() -> None:
    assert choose(1000, 100, 0, 0, 1.0, 1.0, sketch=0.1).sketch == 0
    assert choose(1000, 5, 0, 0, 1.0, 1.0, sketch=0.1).sketch == 250
    assert choose(1000, 5, 0, 0, 1.0, 1.0).sketch == 0


# What is put in


def test_arrays_of_whole_numbers_do_not_move_and_one_without_dimensions_does() -> None:
    old = {"w": np.zeros((2, 3), np.float32), "n": np.array(7), "bias": np.array(0.0)}
    new = {"w": np.full((2, 3), 0.1, np.float32), "n": np.array(10**9), "bias": np.array(0.5)}
    layout = Layout.of(old)
    mechanism = choose(layout.size, 1, 0, 0, 1.0, 0.001, tolerance=1e-4)
    difference = Difference(layout, new, old)
    flat = np.array([0.1] * 6 + [0.0] + [0.5])
    one, other = (mechanism.encode(update, SESSION, RAND) for update in (difference, flat))
    near = np.abs(centred(one, mechanism.bits) - centred(other, mechanism.bits)).max()
    assert near <= 1  # 0.1 is another number in float32
    mean = mean_of(mechanism, one, 1, SESSION)
    assert np.abs(mean - flat).max() < 0.01
    with pytest.raises(ParameterError, match=r"shape \(3,\), expected 8"):
        mechanism.encode(np.zeros(3), SESSION, RAND)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_an_update_that_went_wrong_is_answered_like_any_other(bad: float) -> None:
    """With noise, and nothing else. To refuse would be an answer too."""
    mechanism = choose(100, 5, 0, 0, 1.0, 1.0)
    update = np.ones(100)
    update[17] = bad
    nothing = mechanism.encode(np.zeros(100), SESSION, RAND)
    assert np.array_equal(mechanism.encode(update, SESSION, RAND), nothing)


def test_the_update_is_left_as_it_is() -> None:
    update = np.full(10, 3.0)
    choose(10, 5, 0, 0, 1.0, 1.0).encode(update, SESSION, RAND)
    assert (update == 3.0).all()


def test_an_empty_norm_is_not_made_longer() -> None:
    """Updates within the clip keep their size."""
    mechanism = choose(16, 1, 0, 0, 1.0, 1.0, tolerance=1e-4)
    update = np.full(16, 0.1)
    steps = mechanism.rounded(update, SESSION, RAND)
    turned = Rotation(16, 16, SESSION).turn(update, 1 / mechanism.scale)
    assert np.abs(steps - turned).max() < 1.001


FINE = {"length": 10, "clients": 10, "dropouts": 3, "corrupt": 2, "clip": 1.0, "noise": 1.0}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"length": 0}, "expected 1"),
        ({"length": (1 << 31) + 1}, "expected 1"),
        ({"clients": 0, "dropouts": 0, "corrupt": 0}, "expected 1"),
        ({"clients": (1 << 20) + 1}, "expected 1"),
        ({"dropouts": -1}, "no honest one"),
        ({"corrupt": -1}, "no honest one"),
        ({"dropouts": 8}, "no honest one"),
        ({"dropouts": 0, "corrupt": 10}, "no honest one"),
        ({"central": True}, "corrupt is 0"),
        ({"clip": 0.0}, "expected 5"),
        ({"clip": math.nan}, "expected 5"),
        ({"clip": 1e300}, "expected 5"),
        ({"noise": 0.0}, "above 0 and finite"),
        ({"noise": -1.0}, "above 0 and finite"),
        ({"noise": math.nan}, "above 0 and finite"),
        ({"noise": math.inf}, "above 0 and finite"),
        ({"noise": 1e-9}, "variance"),
        ({"bits": 7}, "expected 8..32"),
        ({"bits": 33}, "expected 8..32"),
        ({"bits": 8, "noise": 20.0}, "leave no room in 8 bits"),
        ({"bits": 8, "clients": 1 << 14}, "leave no room in 8 bits"),
        ({"sketch": 10}, "expected below 10"),
        ({"sketch": -1}, "expected below 10"),
    ],
)
def test_what_cannot_be_is_not_built(changed: dict[str, Any], why: str) -> None:
    Mechanism(**FINE)
    with pytest.raises(ParameterError, match=why):
        Mechanism(**(FINE | changed))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"tolerance": 0.0}, "above 0"),
        ({"tolerance": math.nan}, "above 0"),
        ({"sketch": -0.1}, "above 0"),
        ({"noise": 0.0}, "above 0"),
        ({"noise": 0.0, "sketch": 0.1}, "above 0"),
        ({"tolerance": 1e-12}, "even with 32 bits"),
        ({"noise": 1e8}, "leave no room in 32 bits"),
    ],
)
def test_what_cannot_be_is_not_chosen(changed: dict[str, Any], why: str) -> None:
    choose(**FINE)
    with pytest.raises(ParameterError, match=why):
        choose(**(FINE | changed))


@settings(max_examples=50)
@given(built())
def test_what_an_accountant_counts_fits_together(mechanism: Mechanism) -> None:
    coordinates, radius = mechanism.coordinates, mechanism.radius
    assert radius >= 1
    assert mechanism.bound > radius**2
    assert mechanism.variance == Fraction(mechanism.noise) ** 2 * mechanism.bound
    least = mechanism.clients - mechanism.dropouts
    assert mechanism.realised(least) == mechanism.variance
    assert mechanism.realised(mechanism.clients) >= mechanism.variance
    assert mechanism.scale == radius / mechanism.clip
    samples = coordinates * mechanism.clients
    assert mechanism.distance == pytest.approx(samples * Skellam(mechanism.share).distance)
    assert mechanism.distance < samples * 2.0**-115


# One example


@st.composite
def for_examples(draw: st.DrawFn) -> Mechanism:
    """Any mechanism that protects examples, on few coordinates and grids of any fineness."""
    length, clients = draw(st.integers(1, 300)), draw(st.integers(1, 30))
    clip, records = draw(st.sampled_from([2.0**-60, 0.1, 1.0, 1e9])), draw(st.integers(1, 300))
    for bits in range(draw(st.integers(8, 32)), 33):
        try:
            return Mechanism(length, clients, 0, 0, clip, 0.5, bits, records=records)
        except ParameterError:
            continue
    raise AssertionError("no room in 32 bits")


def apart(mechanism: Mechanism, one: np.ndarray, other: np.ndarray, rand: bytes = RAND) -> int:
    """The square of how far their roundings are apart, with one dither."""
    first, second = (mechanism.rounded(x, SESSION, rand).astype(object) for x in (one, other))
    return squares(first - second)


def shortened(vector: np.ndarray, norm: float) -> np.ndarray:
    """As long as `norm`, or zeros."""
    largest = np.abs(vector).max()
    if not 0 < largest < np.inf:
        return np.zeros(vector.size)
    vector = vector / largest
    return vector * (norm * (1 - 2.0**-50) / np.linalg.norm(vector))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(max_examples=150)
@given(st.data(), for_examples(), st.binary(min_size=32, max_size=32))
def test_one_example_more_moves_a_sum_by_no_more_than_the_bound(
    data: st.DataObject, mechanism: Mechanism, rand: bytes
) -> None:
    """Whatever all others add up to: numbers that are huge, tiny, or none."""
    others = data.draw(updates(mechanism.length)) * mechanism.clip
    others *= data.draw(st.sampled_from([0.0, 1.0, mechanism.records, 1e6, 1e7, 1e8, 1e30]))
    part = data.draw(st.sampled_from([1.0, 0.5, 1e-6])) * mechanism.clip
    example = shortened(data.draw(updates(mechanism.length)), part)
    assert apart(mechanism, others, others + example, rand) <= mechanism.bound


def spiteful_example(mechanism: Mechanism, dither: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A sum whose coordinates, turned, are all just below the next step, and an example that brings
    each of them over it."""
    size, bits = mechanism.length, mechanism._dither_bits
    rotation = Rotation(size, size, SESSION)
    below = ((1 << bits) - 1.0 - dither) / 2.0**bits / mechanism.radius
    example = np.full(size, size**-0.5)
    return tuple(  # type: ignore[return-value]
        rotation.back(x.astype(np.float32)).astype(float) * mechanism.clip for x in (below, example)
    )


def test_the_bound_on_an_example_is_nearly_reached() -> None:
    """By one that knows the dither: one step more in each coordinate, as the formula has it. With
    a bound that forgets the dither it would be too much."""
    size = 1 << 10
    mechanism = next(
        made
        for i in range(1, 2000)
        # A whole number of steps in each of 1024 coordinates, and a hair more.
        if 0 < (made := Mechanism(size, 30, 0, 0, 1.0, i / 64, 13, records=2)).radius % 32 < 4
    )
    dither = np.frombuffer(slow.stream(RAND, 2 * size), "<u2") >> (16 - mechanism._dither_bits)
    sum_, example = spiteful_example(mechanism, dither)
    found = math.sqrt(apart(mechanism, sum_, sum_ + example))
    assert (mechanism.radius + 32) * 0.97 < found
    assert found**2 <= mechanism.bound
    assert found > mechanism.radius + 2 + 1  # all of the formula but the dither


def heavy(size: int, weight: int) -> np.ndarray:
    """All of it in one coordinate once it is turned; each number is an odd one in its last digit as
    a float32, so that half a digit more becomes a whole one."""
    spike = np.eye(1, size, dtype=np.float32)[0]
    signs = np.sign(Rotation(size, size, SESSION).back(spike)).astype(float)
    return signs * (1.25 + 2.0**-23) * 2.0**weight


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_a_sum_of_more_examples_than_expected_is_no_loophole(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2**24 of them: in float32 one more counts for twice as much as it is, if not for more."""
    mechanism = Mechanism(size, 30, 3, 3, 1.0, 1.0, 16, records=1)
    others = heavy(size, 24 - int(math.log2(size)) // 2)
    rng = np.random.default_rng(10)
    examples = [rng.choice([-1, 1], size) * size**-0.5 * (1 - 2.0**-50) for _ in range(20)]
    assert max(apart(mechanism, others, others + g) for g in examples) <= mechanism.bound
    # Each digit of what is left is of an example's own size, and not of the sum's.
    assert squares(mechanism.rounded(others, SESSION, RAND)) <= mechanism.bound
    # As it was: clamped, and not brought back.
    with np.errstate(invalid="ignore"):
        monkeypatch.setattr(mechanisms.Mechanism, "_turned", clamped)
        assert max(apart(mechanism, others, others + g) for g in examples) > 4 * mechanism.bound


def clamped(mechanism: Mechanism, update: np.ndarray, session: bytes) -> tuple[np.ndarray, float]:
    turned = Rotation(mechanism.length, mechanism.length, session).turn(update, mechanism.clip)
    most = mechanisms.MOST_STEPS / mechanism.radius
    return np.clip(turned, -most, most), 1.0


def test_no_scale_depends_on_the_examples() -> None:
    """Two sums that differ in one coordinate of the turned vector differ there and nowhere else."""
    mechanism = Mechanism(256, 10, 0, 0, 1.0, 1.0, 24, records=16)
    rotation = Rotation(256, 256, SESSION)
    turned = np.random.default_rng(1).normal(size=256).astype(np.float32) / 4
    other = turned.copy()
    other[7] += 1
    first, second = (
        mechanism.rounded(rotation.back(x).astype(float), SESSION, RAND) for x in (turned, other)
    )
    # But for the last digit of a float32, which may carry a coordinate over a step.
    assert (np.abs(first - second) > 1).tolist() == [i == 7 for i in range(256)]


def test_a_mechanism_for_examples_has_their_bound_and_room_for_all_of_them() -> None:
    for records in (1, 16, 1000):
        mechanism = Mechanism(1 << 12, 30, 2, 3, 1.0, 1.0, 24, records=records)
        radius = mechanism.radius
        least = radius + (1 + 2.0**-7) * math.sqrt(1 << 12) + radius * records / (1 << 17)
        assert least <= math.sqrt(mechanism.bound) <= least + 5
        assert radius * records <= mechanisms.MOST_STEPS
        assert mechanism.variance == mechanism.bound


def test_a_sum_of_examples_comes_back_whole() -> None:
    """`records` examples, all alike, as long as the clip: no wrap, and no scaling."""
    mechanism = Mechanism(1000, 8, 1, 1, 2.0, 0.25, 24, records=32)
    update = np.ones(1000) / math.sqrt(1000) * 2.0 * 32
    total = sum(mechanism.encode(update, SESSION, key) for key in keys(8))
    mean = mean_of(mechanism, total, 8, SESSION)
    noise = math.sqrt(float(mechanism.share) * 8) / 8 / mechanism.scale
    off = np.linalg.norm(mean - update)
    assert off < 1.5 * noise * math.sqrt(1000) + 64 * 2.0**-12
    assert off < np.linalg.norm(update) / 8


# What norms say


def told(mechanism: Mechanism, update: np.ndarray, rand: bytes = RAND) -> int:
    """What a device says of its norm, with noise if it adds any."""
    return int(mechanism.encode(update, SESSION, rand)[mechanism.coordinates].view(np.int32))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_device_says_whether_its_norm_is_within_the_clip() -> None:
    mechanism = choose(64, 9, 2, 0, 3.0, 1.0, quantile=5.0, central=True)
    assert mechanism.level >= mechanisms.LEAST_LEVEL
    vector = np.ones(64) / 8 * 3.0
    for norm, is_within in [(0.0, True), (1e-30, True), (0.99, True), (1.01, False), (1e9, False)]:
        assert told(mechanism, vector * norm) == (
            mechanism.level if is_within else -mechanism.level
        )
    for bad in (np.nan, np.inf, -np.inf, 1e300):
        assert told(mechanism, vector * bad) == -mechanism.level


def test_what_norms_say_has_noise_of_its_own() -> None:
    """Of the variance that is said, under a key that the update's noise does not have."""
    mechanism = choose(1, 10, 2, 3, 1.0, 1.0, quantile=5.0)
    assert mechanism.quantile_share == (5 * mechanism.level) ** 2 / Fraction(5)
    count, drawn = 2000, []
    both = np.empty((count, 2))
    for i, key in enumerate(keys(count)):
        encoded = mechanism.encode(np.zeros(1), SESSION, key)[:-1].view(np.int32)
        both[i] = encoded - [0, mechanism.level]
        drawn.append(encoded[1])
    variance = float(mechanism.quantile_share)
    near = SIGMAS * math.sqrt(2.01 / count)
    assert abs(np.mean(both[:, 1] ** 2) / variance - 1) < near < 0.25
    assert abs(np.mean(both[:, 0] ** 2) / float(mechanism.share) - 1) < near
    assert abs(np.mean(both[:, 1])) < SIGMAS * math.sqrt(variance / count)
    scaled = both / np.sqrt(np.mean(both**2, axis=0))
    assert abs(np.mean(scaled[:, 0] * scaled[:, 1])) < SIGMAS / math.sqrt(count)
    noise, quantile, dither = (slow.stream(RAND, 96)[at : at + 32] for at in (0, 32, 64))
    assert len({noise, quantile, dither}) == 3
    alone = Sampler(Skellam(mechanism.quantile_share), quantile, 1).draw(1)
    assert told(mechanism, np.zeros(1)) == mechanism.level + int(alone[0])


def test_asking_for_norms_leaves_the_update_as_it_is() -> None:
    asking = Mechanism(100, 10, 2, 3, 1.0, 1.0, 18, quantile=5.0)
    plain = replace(asking, quantile=0.0)
    update = np.random.default_rng(9).normal(size=100)
    one, other = (m.encode(update, SESSION, RAND) for m in (asking, plain))
    assert (one.size, other.size) == (102, 101)
    assert np.array_equal(one[:100], other[:100])
    with pytest.raises(ParameterError, match="does not say how norms compare"):
        plain.unclipped(plain.decode(np.array([0] * 100 + [8], np.uint32), 8))


@pytest.mark.parametrize("central", [True, False])
@pytest.mark.parametrize("within", [0, 13, 50])
def test_the_share_of_short_updates_comes_out(central: bool, within: int) -> None:
    """With noise of quantile * level for a sum, so quantile / 2n for the share."""
    clients = 50
    mechanism = choose(4, clients, 0, 0, 1.0, 1.0, quantile=2.0, central=central)
    total = np.zeros(mechanism.size, np.uint32)
    for i, key in enumerate(keys(clients)):
        total += mechanism.encode(np.full(4, 0.1 if i < within else 10.0), SESSION, key)
    opened = mechanism.decode(total, clients)
    if central:
        assert mechanism.unclipped(opened) == within / clients
        opened = mechanism.add_noise(opened, RAND)
        assert mechanism.unclipped(opened) != within / clients
    off = mechanism.unclipped(opened) - within / clients
    assert abs(off) < SIGMAS * 2.0 / (2 * clients)


def test_the_level_is_the_largest_that_stays_in_the_ring() -> None:
    for bits in (12, 16, 24):
        mechanism = Mechanism(10, 30, 4, 6, 1.0, 0.5, bits, quantile=2.0)
        tail, half = 21 * math.log(2), (1 << bits - 1) - 1

        def reach(level: int, m: Mechanism = mechanism, tail: float = tail) -> float:
            noise = (m.quantile * level) ** 2 * float(m.surplus)
            return m.clients * level + math.sqrt(2 * tail * noise) + tail / 3

        assert reach(mechanism.level) <= half * (1 + 1e-6)
        if mechanism.level < mechanisms.MOST_LEVEL:
            assert reach(mechanism.level + 1) > half * (1 - 1e-6)


# What a session says


@st.composite
def of_any_kind(draw: st.DrawFn) -> Mechanism:
    kind = draw(st.sampled_from(["plain", "records", "quantile", "central"]))
    if kind == "records":
        return draw(for_examples())
    made = draw(built())
    if kind == "central":
        return replace(made, corrupt=0, central=True)
    if kind == "plain":
        return made
    try:
        return replace(made, bits=32, quantile=draw(st.floats(0.1, 100)))
    except ParameterError:
        return made


@given(of_any_kind())
def test_what_a_session_says_makes_the_same_mechanism(mechanism: Mechanism) -> None:
    agreed = mechanism.agreed
    assert type(agreed) is not Mechanism
    again = Mechanism.of(agreed)
    assert again == mechanism
    assert (again.radius, again.bound, again.share) == (
        mechanism.radius,
        mechanism.bound,
        mechanism.share,
    )
    assert Mechanism.of(again) == again
