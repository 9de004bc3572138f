"""Shamir's sharing: the field, reconstruction from any t shares, and nothing from t - 1."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.crypto import shamir
from tacit.crypto.errors import ParameterError
from tacit.crypto.shamir import Octets, combine, evaluate, rand_size, share
from tests.crypto.federation import Counted


def slow_times(a: int, b: int) -> int:
    """a * b as polynomials over GF(2), then reduced by x^8 + x^4 + x^3 + x + 1."""
    product = 0
    for bit in range(8):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(14, 7, -1):
        if product >> bit & 1:
            product ^= 0x11B << (bit - 8)
    return product


EVERY = np.arange(256, dtype=np.uint8)
TABLE = np.array([[slow_times(a, b) for b in range(256)] for a in range(256)], np.uint8)


INVERSE = [0, *(int(np.flatnonzero(TABLE[a] == 1)[0]) for a in range(1, 256))]


def slow_combinations(constants: Octets, values: Octets) -> Octets:
    """out[i] = the sum of constants[i, j] * values[j], product by product."""
    products = TABLE[constants[:, :, None], values.reshape(1, len(values), -1)]
    return np.bitwise_xor.reduce(products, axis=1).reshape(len(constants), *values.shape[1:])


def test_every_product_of_the_field() -> None:
    rows = EVERY[None]
    assert np.array_equal(shamir._combinations(EVERY[:, None], rows), TABLE)
    one_by_one = [shamir._combinations(np.array([[a]], np.uint8), rows)[0] for a in EVERY]
    assert np.array_equal(one_by_one, TABLE)
    assert shamir._times_x(rows.view(np.uint64)).view(np.uint8).tolist() == [TABLE[2].tolist()]


@settings(max_examples=60)
@given(
    st.integers(1, 4),
    st.integers(1, 20),
    st.integers(0, 21),
    st.sampled_from([1, 40, 1 << 16]),
    st.integers(0, 1 << 32),
)
def test_combinations_are_sums_of_products(
    outputs: int, terms: int, size: int, working: int, seed: int
) -> None:
    """In groups of eight and a rest, in whole words and a rest, at once and in pieces."""
    rng = np.random.default_rng(seed)
    constants = rng.integers(0, 256, (outputs, terms), np.uint8)
    values = rng.integers(0, 256, (terms, 2, size), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shamir, "WORKING_WORDS", working)
        found = shamir._combinations(constants, values)
    assert np.array_equal(found, slow_combinations(constants, values))


def test_logarithms_are_those_of_powers_of_3() -> None:
    power = 1
    for exponent in range(255):
        assert shamir._EXP[exponent] == power
        assert shamir._LOG[power] == exponent
        power = int(TABLE[power, 3])
    assert power == 1


@given(st.lists(st.integers(1, 255), min_size=1, max_size=40, unique=True))
def test_lagrange_coefficients_are_products_of_fractions(points: list[int]) -> None:
    wanted = []
    for here in points:
        value = 1
        for other in points:
            if other != here:
                value = int(TABLE[value, TABLE[other, INVERSE[other ^ here]]])
        wanted.append(value)
    assert shamir._lagrange(np.array(points, np.uint8)).tolist() == wanted


@pytest.mark.parametrize(("points", "threshold"), [(9, 8), (9, 9), (40, 27), (255, 170)])
def test_shares_are_values_of_polynomials(points: int, threshold: int) -> None:
    """By Horner's rule, the first random bytes as the highest coefficients."""
    secrets = np.arange(2 * 32, dtype=np.uint8).reshape(2, 32)
    rand = Counted()(rand_size(2, 32, threshold))
    where = np.roll(EVERY[1 : points + 1], 3)
    wanted = np.zeros((points, 2, 32), np.uint8)
    for coefficient in np.frombuffer(rand, np.uint8).reshape(-1, 2, 32):
        wanted = TABLE[where[:, None, None], wanted ^ coefficient]
    shares = share(secrets, threshold, where.tolist(), rand)
    assert np.array_equal(shares, wanted ^ secrets)
    assert np.array_equal(combine(where[-threshold:].tolist(), shares[-threshold:]), secrets)


def test_the_table_of_these_tests_is_a_field() -> None:
    """Products by FIPS 197, section 4.2; the laws; an inverse for all but 0."""
    assert TABLE[0x57, 0x83] == 0xC1
    assert TABLE[0x57, 0x13] == 0xFE
    assert np.array_equal(TABLE, TABLE.T)
    assert np.array_equal(TABLE[1], EVERY)
    a, b, c = np.meshgrid(EVERY[::7], EVERY[::7], EVERY[::7])
    assert np.array_equal(TABLE[a, TABLE[b, c]], TABLE[TABLE[a, b], c])
    assert np.array_equal(TABLE[a, b ^ c], TABLE[a, b] ^ TABLE[a, c])
    assert all(TABLE[a, INVERSE[a]] == 1 for a in range(1, 256))


@st.composite
def dealt(draw: st.DrawFn) -> tuple[Octets, int, list[int], Octets]:
    """Secrets, a threshold, points, and the shares dealt at them."""
    count, size = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 5, 8]))
    points = draw(st.lists(st.integers(1, 255), min_size=1, max_size=7, unique=True))
    threshold = draw(st.integers(1, len(points)))
    raw = draw(st.binary(min_size=count * size, max_size=count * size))
    need = rand_size(count, size, threshold)
    rand = draw(st.binary(min_size=need, max_size=need))
    secrets = np.frombuffer(raw, np.uint8).reshape(count, size)
    return secrets, threshold, points, share(secrets, threshold, points, rand)


@settings(max_examples=60)
@given(dealt())
def test_any_threshold_of_shares_gives_the_secrets(
    case: tuple[Octets, int, list[int], Octets],
) -> None:
    secrets, threshold, points, shares = case
    assert shares.shape == (len(points), *secrets.shape)
    for chosen in combinations(range(len(points)), threshold):
        where = [points[i] for i in chosen]
        assert np.array_equal(combine(where, shares[list(chosen)]), secrets)
    assert np.array_equal(combine(points, shares), secrets)


@settings(max_examples=60)
@given(dealt())
def test_any_threshold_of_shares_gives_all_others(
    case: tuple[Octets, int, list[int], Octets],
) -> None:
    secrets, threshold, points, shares = case
    for chosen in combinations(range(len(points)), threshold):
        rest = [i for i in range(len(points)) if i not in chosen]
        places = [*(points[i] for i in rest), 0]
        found = evaluate([points[i] for i in chosen], shares[list(chosen)], places)
        assert np.array_equal(found, np.concatenate([shares[rest], secrets[None]]))


@settings(max_examples=60)
@given(dealt(), st.binary(min_size=24, max_size=24))
def test_fewer_shares_are_consistent_with_every_secret(
    case: tuple[Octets, int, list[int], Octets], other: bytes
) -> None:
    """For t - 1 shares and *any* secrets there is a polynomial through both."""
    secrets, threshold, points, shares = case
    if threshold == 1:
        return
    wanted = np.frombuffer(other, np.uint8)[: secrets.size].reshape(secrets.shape)
    held, free = points[: threshold - 1], points[threshold - 1]
    # With the t-th share chosen right, combine gives `wanted`: it is affine in that share.
    base = combine([*held, free], np.concatenate([shares[: threshold - 1], 0 * shares[:1]]))
    one = combine([*held, free], np.concatenate([0 * shares[: threshold - 1], 0 * shares[:1] + 1]))
    slope = int(one.flat[0])
    assert slope != 0
    last = TABLE[INVERSE[slope], base ^ wanted]
    forged = np.concatenate([shares[: threshold - 1], last[None]])
    assert np.array_equal(combine([*held, free], forged), wanted)


def test_one_share_of_two_is_uniform_whatever_the_secret() -> None:
    """Every secret byte with every random byte: each share then takes each value exactly once."""
    secrets = np.repeat(EVERY[:, None], 256, axis=1)  # [secret, random byte]
    rand = np.tile(EVERY, (256, 1))
    shares = share(secrets, 2, [1, 2, 3, 255], rand.tobytes())
    for at_point in shares:
        assert np.array_equal(np.sort(at_point, axis=1), np.tile(EVERY, (256, 1)))


@pytest.mark.parametrize("secret", [0, 1, 0x5A, 0xFF])
def test_two_shares_of_three_are_uniform_together(secret: int) -> None:
    """All 65536 pairs of random bytes give all 65536 pairs of shares, for any two points."""
    high, low = np.meshgrid(EVERY, EVERY)
    secrets = np.full((1, 1 << 16), secret, np.uint8)
    shares = share(secrets, 3, [1, 2, 9], np.concatenate([high.ravel(), low.ravel()]).tobytes())
    for one, other in combinations(shares[:, 0].astype(np.uint16), 2):
        assert len(np.unique(one << 8 | other)) == 1 << 16


def test_secrets_are_shared_with_polynomials_of_their_own() -> None:
    """Two equal secrets in one call: their shares are independent."""
    secrets = np.zeros((2, 32), np.uint8)
    shares = share(secrets, 2, [1, 2], Counted()(rand_size(2, 32, 2)))
    assert not np.array_equal(shares[0, 0], shares[0, 1])
    assert len(set(shares[0].ravel().tolist())) > 16


@pytest.mark.parametrize(
    ("points", "threshold", "rand", "says"),
    [
        ([0, 1], 2, 4, "points must be distinct and 1..255"),  # a share at 0 is the secret
        ([1, 256], 2, 4, "points must be distinct"),
        ([-1, 1], 2, 4, "points must be distinct"),
        ([5, 5], 2, 4, "points must be distinct"),
        ([1, 2], 0, 0, "threshold 0 of 2 points"),
        ([1, 2], 3, 8, "threshold 3 of 2 points"),
        ([], 1, 0, "threshold 1 of 0 points"),
        ([1, 2], 2, 3, "3 random bytes do not fit"),
        ([1, 2], 2, 5, "5 random bytes do not fit"),
    ],
)
def test_an_impossible_sharing_is_refused(
    points: list[int], threshold: int, rand: int, says: str
) -> None:
    with pytest.raises(ParameterError, match=says):
        share(np.zeros((2, 2), np.uint8), threshold, points, bytes(rand))


@pytest.mark.parametrize("points", [[0, 1], [1, 1], [1, 300], [1], [1, 2, 3]])
def test_shares_at_impossible_points_are_not_combined(points: list[int]) -> None:
    with pytest.raises(ParameterError, match="points"):
        combine(points, np.zeros((2, 1, 1), np.uint8))


@pytest.mark.parametrize("place", [1, 2, -1, 256])
def test_shares_say_nothing_new_of_their_own_points_or_of_none(place: int) -> None:
    with pytest.raises(ParameterError, match="places must be"):
        evaluate([1, 2], np.zeros((2, 1, 1), np.uint8), [0, place])


def test_a_vector_for_other_implementations() -> None:
    """Secret 0x42, coefficients 0x01 (x^2) and 0x8D (x): f(p) = 0x42 + 0x8D p + p^2."""
    shares = share(np.array([[0x42]], np.uint8), 3, [1, 2, 3, 0x80], bytes([0x01, 0x8D]))
    wanted = [0x42 ^ TABLE[0x8D, p] ^ TABLE[p, p] for p in (1, 2, 3, 0x80)]
    assert shares.ravel().tolist() == wanted
    assert wanted[:2] == [0xCE, 0x47]
