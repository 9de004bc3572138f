"""Keys and their shares: any t give the sum, fewer give nothing, and who lies is named."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.crypto.errors import BrokenArithmetic, ParameterError
from tacit.crypto.lattice import keys
from tacit.crypto.lattice.keys import FIELD, add, blame, combine, consistent, draw, share
from tests.crypto.lattice import slow

KEY = bytes(range(32))
COEFFICIENTS = 40


def key_of(number: int) -> bytes:
    return number.to_bytes(32, "little")


def field(key: bytes, count: int) -> list[int]:
    """Numbers of the stream that are in the field."""
    numbers = np.frombuffer(slow.stream(key, 4 * count + 256), "<u2").tolist()
    return [number for number in numbers if number < FIELD][:count]


def test_the_field_is_a_prime_of_two_bytes() -> None:
    assert FIELD == 65521 < 1 << 16
    assert all(FIELD % divisor for divisor in range(2, 256))
    assert not any(
        all(number % divisor for divisor in range(2, 256)) for number in range(FIELD + 1, 1 << 16)
    )


def test_a_key_is_noise_of_its_width() -> None:
    assert draw(2048, 48, KEY).tolist() == slow.samples(KEY, 48, [2048])[0]
    assert draw(64, 41, KEY).tolist() == slow.samples(KEY, 41, [64])[0]


@pytest.mark.parametrize(("points", "threshold"), [(1, 1), (9, 8), (40, 27), (255, 170)])
def test_shares_are_values_of_polynomials(points: int, threshold: int) -> None:
    secret = draw(COEFFICIENTS, 48, KEY)
    where = np.roll(np.arange(1, points + 1), 3).tolist()
    shares = share(secret, threshold, where, key_of(7))
    assert shares.dtype == np.uint16
    random = field(key_of(7), (threshold - 1) * COEFFICIENTS)
    for i in (0, points // 2, points - 1):
        for j in (0, COEFFICIENTS - 1):
            rising = [int(secret[j]), *random[j::COEFFICIENTS]]
            assert shares[i, j] == sum(c * where[i] ** k for k, c in enumerate(rising)) % FIELD
    assert np.array_equal(combine(where[-threshold:], shares[-threshold:]), secret)


def test_uniform_elements_are_the_streams_and_uniform() -> None:
    """Without passing over what is beyond the field, its first 15 elements would be twice as
    likely, and these are looked at one by one."""
    count = 1 << 21
    found = keys._uniform(KEY, count)
    assert found[:5000].tolist() == field(KEY, 5000)
    assert found.min() >= 0
    assert found.max() < FIELD
    low = np.bincount(np.minimum(found, 15), minlength=16)
    expected = count * np.array([1] * 15 + [FIELD - 15]) / FIELD
    assert slow.chi_square(low, expected) < slow.most(15)
    biased = count * np.array([2] * 15 + [FIELD + 15 - 30]) / (1 << 16)
    away = slow.chi_square(biased, expected)
    assert slow.least(15, away) > slow.most(15)
    wide = np.bincount(found // 256, minlength=256)
    shares = np.array([256] * 255 + [FIELD - 255 * 256])
    assert slow.chi_square(wide, count * shares / FIELD) < slow.most(255)


def test_a_stream_that_is_beyond_the_field_too_often_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Stuck:
        """All its bits are 1, in so many of its numbers."""

        def __init__(self, *_: object) -> None:
            pass

        def fill(self, out: np.ndarray) -> None:
            out[:] = 7
            out[:many] = 0xFFFF

    monkeypatch.setattr(keys, "KeyStream", Stuck)
    count = 2048
    many = 64 + count // 1024
    assert keys._uniform(KEY, count).tolist() == [7] * count
    many += 1
    with pytest.raises(BrokenArithmetic, match="not uniform"):
        share(draw(count, 48, KEY), 2, [1, 2], KEY)


@st.composite
def dealt(draw_: st.DrawFn) -> tuple[list[np.ndarray], int, list[int], list[np.ndarray]]:
    """Some keys, a threshold, points, and the shares of each key at them."""
    points = draw_(st.lists(st.integers(1, 255), min_size=1, max_size=7, unique=True))
    threshold = draw_(st.integers(1, len(points)))
    seeds = draw_(
        st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=4, unique=True)
    )
    secrets = [draw(COEFFICIENTS, 48, seed) for seed in seeds]
    shares = [
        share(secret, threshold, points, seed[::-1])
        for secret, seed in zip(secrets, seeds, strict=True)
    ]
    return secrets, threshold, points, shares


@settings(max_examples=60)
@given(dealt())
def test_any_threshold_of_share_sums_gives_the_sum_of_the_keys(
    case: tuple[list[np.ndarray], int, list[int], list[np.ndarray]],
) -> None:
    secrets, threshold, points, shares = case
    sums = np.array([add(np.array([one[i] for one in shares])) for i in range(len(points))])
    total = np.sum(secrets, axis=0, dtype=np.int64)
    for chosen in combinations(range(len(points)), threshold):
        assert np.array_equal(combine([points[i] for i in chosen], sums[list(chosen)]), total)
    assert np.array_equal(combine(points, sums), total)
    assert consistent(points, sums, threshold)
    assert blame(points, sums, threshold, KEY) == ()


@settings(max_examples=60)
@given(dealt(), st.integers(0, FIELD - 1))
def test_fewer_shares_are_consistent_with_every_key(
    case: tuple[list[np.ndarray], int, list[int], list[np.ndarray]], other: int
) -> None:
    """For t - 1 shares and *any* key there is a t-th share that fits both."""
    _, threshold, points, shares = case
    if threshold == 1:
        return
    held = shares[0][: threshold - 1]
    nothing = np.zeros((1, COEFFICIENTS), np.uint16)
    where = points[:threshold]
    base = combine(where, np.concatenate([held, nothing]))
    slope = int(combine(where, np.concatenate([0 * held, nothing + np.uint16(1)]))[0]) % FIELD
    last = (other - base) * pow(slope, -1, FIELD) % FIELD
    forged = np.concatenate([held, last[None].astype(np.uint16)])
    assert set((combine(where, forged) % FIELD).tolist()) == {other}


@pytest.mark.parametrize("secret", [-48, 0, 1])
def test_one_share_of_two_is_uniform_whatever_the_key(
    secret: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With each coefficient once, each share takes each value once."""
    monkeypatch.setattr(keys, "_uniform", lambda rand, count: np.arange(count))
    shares = share(np.full(FIELD, secret, np.int8), 2, [1, 2, 255], KEY)
    for at_point in shares:
        assert np.array_equal(np.sort(at_point), np.arange(FIELD))


def test_coefficients_are_shared_with_polynomials_of_their_own() -> None:
    shares = share(np.zeros(2048, np.int8), 2, [1, 2], KEY)
    assert len(np.unique(shares[0])) > 1900
    assert not np.array_equal(shares[0], share(np.zeros(2048, np.int8), 2, [1, 2], key_of(1))[0])


def test_sums_may_be_as_large_as_half_the_field() -> None:
    for value in (FIELD // 2, -(FIELD // 2)):
        secret = np.full(3, value, np.int64)
        assert combine([4, 9], share(secret, 2, [4, 9], KEY)).tolist() == secret.tolist()
    many = np.full((70_000, 1), FIELD - 1, np.uint16)
    assert add(many).tolist() == [-70_000 % FIELD]


def test_a_committee_of_255() -> None:
    secret = draw(4096, 48, KEY)
    points = list(range(1, 256))
    shares = share(secret, 170, points, key_of(5))
    wrong = shares.copy()
    liars = list(range(3, 255, 6))[:42]
    wrong[liars, 17] += np.uint16(1)
    assert blame(points, wrong, 170, key_of(6)) == tuple(points[i] for i in liars)
    assert not consistent(points, wrong, 170)
    assert np.array_equal(combine(points, shares), secret)


@settings(max_examples=80)
@given(st.data())
def test_up_to_half_of_the_spare_shares_may_be_wrong(data: st.DataObject) -> None:
    """All of them are named, in whatever way they are wrong, and nobody else."""
    count = data.draw(st.integers(1, 16))
    points = data.draw(st.lists(st.integers(1, 255), min_size=count, max_size=count, unique=True))
    threshold = data.draw(st.integers(1, count))
    most = (count - threshold) // 2
    liars = data.draw(st.lists(st.integers(0, count - 1), max_size=most, unique=True))
    shares = share(draw(COEFFICIENTS, 48, KEY), threshold, points, key_of(data.draw(seeds)))
    for liar in liars:
        match data.draw(st.sampled_from(["one", "all", "other key"])):
            case "one":
                at = data.draw(st.integers(0, COEFFICIENTS - 1))
                off = data.draw(st.integers(1, FIELD - 1))
                shares[liar, at] = (int(shares[liar, at]) + off) % FIELD
            case "all":
                shares[liar] = keys._uniform(key_of(data.draw(seeds)), COEFFICIENTS)
            case _:
                other = share(draw(COEFFICIENTS, 48, key_of(1)), threshold, points, key_of(2))
                shares[liar] = other[liar]
    found = blame(points, shares, threshold, key_of(data.draw(seeds)))
    assert found is not None
    assert sorted(found) == sorted(points[i] for i in liars)
    assert consistent(points, shares, threshold) == (not liars)


seeds = st.integers(0, 1 << 60)


@settings(max_examples=80)
@given(st.integers(2, 16), st.data())
def test_one_more_wrong_share_and_nobody_is_named(count: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, count - 1))
    points = list(range(1, count + 1))
    liars = range((count - threshold) // 2 + 1)
    shares = share(draw(COEFFICIENTS, 48, KEY), threshold, points, key_of(data.draw(seeds)))
    for liar in liars:
        shares[liar] = keys._uniform(key_of(1000 + liar + data.draw(seeds)), COEFFICIENTS)
    assert blame(points, shares, threshold, key_of(data.draw(seeds))) is None
    assert not consistent(points, shares, threshold)


def test_shares_that_are_all_needed_cannot_be_checked() -> None:
    shares = share(draw(COEFFICIENTS, 48, KEY), 3, [1, 2, 3], KEY)
    shares[0] = 0
    assert consistent([1, 2, 3], shares, 3)
    assert blame([1, 2, 3], shares, 3, KEY) == ()


def test_who_knows_what_is_looked_at_escapes_being_named_but_not_being_noticed() -> None:
    """Why `rand` is drawn after the shares arrive."""
    points, rand = [1, 2, 3, 4, 5], key_of(9)
    shares = share(draw(COEFFICIENTS, 48, KEY), 2, points, KEY)
    looked = keys._uniform(rand, COEFFICIENTS * keys.CHECKS).reshape(-1, keys.CHECKS)
    # Errors on one coefficient more than there are combinations: some are invisible in all.
    rows = looked[: keys.CHECKS + 1].T.tolist()
    unseen = kernel(rows)
    assert any(unseen)
    shares[3, : len(unseen)] = (shares[3, : len(unseen)] + np.array(unseen)) % FIELD
    assert blame(points, shares, 2, rand) is None
    assert blame(points, shares, 2, key_of(10)) == (4,)


def test_an_error_that_looks_like_a_point_accuses_nobody() -> None:
    """Five shares of four: one is wrong, and there is no telling which. Here every combination's
    only syndrome, taken for a location, is that of point 1."""
    points, rand = [1, 2, 3, 4, 5], key_of(9)
    shares = share(draw(COEFFICIENTS, 48, KEY), 4, points, KEY)
    looked = keys._uniform(rand, COEFFICIENTS * keys.CHECKS).reshape(-1, keys.CHECKS)
    weight = int(keys._parity(np.array(points), 4)[0, 3])
    target = -pow(weight, -1, FIELD) % FIELD
    off = kernel([[*column, target] for column in looked[: keys.CHECKS].T.tolist()])[:-1]
    shares[3, : len(off)] = (shares[3, : len(off)] + np.array(off)) % FIELD
    seen = keys._product(keys._parity(np.array(points), 4), keys._product(shares, looked))
    assert seen.tolist() == [[1] * keys.CHECKS]
    assert blame(points, shares, 4, rand) is None


def test_a_wrong_share_is_missed_by_all_combinations_once_in_2_to_the_56() -> None:
    assert FIELD**keys.CHECKS >= 255 << 56


def kernel(rows: list[list[int]]) -> list[int]:
    """x with rows @ x = 0 in the field, for one column more than rows: Gauss and Jordan."""
    rows = [row[:] for row in rows]
    for i in range(len(rows)):
        pivot = next(r for r in range(i, len(rows)) if rows[r][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        scale = pow(rows[i][i], -1, FIELD)
        rows[i] = [value * scale % FIELD for value in rows[i]]
        for r in range(len(rows)):
            if r != i:
                factor = rows[r][i]
                rows[r] = [(a - factor * b) % FIELD for a, b in zip(rows[r], rows[i], strict=True)]
    return [*(-row[-1] % FIELD for row in rows), 1]


@pytest.mark.parametrize(
    ("points", "threshold", "rand", "says"),
    [
        ([0, 1], 2, KEY, "points must be distinct and 1..255"),  # a share at 0 is the key
        ([1, 256], 2, KEY, "points must be distinct"),
        ([-1, 1], 2, KEY, "points must be distinct"),
        ([FIELD, 1], 2, KEY, "points must be distinct"),
        ([5, 5], 2, KEY, "points must be distinct"),
        ([1, 2], 0, KEY, "threshold 0 of 2 points"),
        ([1, 2], 3, KEY, "threshold 3 of 2 points"),
        ([], 1, KEY, "threshold 1 of 0 points"),
        ([1, 2], 2, bytes(31), "32 bytes, not 31"),
    ],
)
def test_an_impossible_sharing_is_refused(
    points: list[int], threshold: int, rand: bytes, says: str
) -> None:
    with pytest.raises(ParameterError, match=says):
        share(np.zeros(4, np.int8), threshold, points, rand)


@pytest.mark.parametrize("points", [[0, 1], [1, 1], [1, 300], [1], [1, 2, 3]])
def test_shares_at_impossible_points_are_refused(points: list[int]) -> None:
    shares = np.zeros((2, 4), np.uint16)
    with pytest.raises(ParameterError, match="points"):
        combine(points, shares)
    with pytest.raises(ParameterError, match="points"):
        consistent(points, shares, 1)
    with pytest.raises(ParameterError, match="points"):
        blame(points, shares, 1, KEY)


@pytest.mark.parametrize("threshold", [0, 3])
def test_an_impossible_threshold_is_refused(threshold: int) -> None:
    with pytest.raises(ParameterError, match=f"threshold {threshold} of 2 points"):
        blame([1, 2], np.zeros((2, 4), np.uint16), threshold, KEY)
