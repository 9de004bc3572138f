"""Rotations: isometries that anyone can undo and nobody can foresee; sketches right on average."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto import labels
from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import derive
from tacit.privacy.rotation import Rotation, hadamard, width_of
from tests.crypto.lattice import slow

SEED = bytes(range(32))
# A coordinate is a sum of at most 2**9 products here, in some order, twice: 18 additions deep if it
# is a tree, and no worse than 3 * 31 if each product with a matrix adds up one by one. Errors of
# half a unit of 2**-23 each, and a few for what is multiplied.
CLOSE = 100 * 2.0**-24


def matrix(size: int) -> np.ndarray:
    """H by its definition: a sign for the parity of what two numbers have in common."""
    numbers = range(size)
    signs = [[1 - 2 * ((i & j).bit_count() % 2) for j in numbers] for i in numbers]
    return np.array(signs, float) / math.sqrt(size)


def as_matrix(rotation: Rotation) -> np.ndarray:
    """What `turn` multiplies with, by the module's docstring: (size, length)."""
    length, size, width = rotation.length, rotation.size, rotation.width
    bits = slow.stream(derive(rotation.seed, labels.ROTATION), -(-length // 8) + -(-width // 8))
    first, second = bits[: -(-length // 8)], bits[-(-length // 8) :]

    def sign(octets: bytes, i: int) -> int:
        return 1 - 2 * (octets[i // 8] >> i % 8 & 1)

    whole = np.zeros((size, length))
    for i in range(length):
        whole[i % size, i] = sign(first, i)
    whole[:width] = matrix(width) @ whole[:width]
    if width < size:
        signs = np.array([sign(second, i) for i in range(width)])
        whole[-width:] = matrix(width) @ (signs[:, None] * whole[-width:])
    return whole


SIZES = st.integers(1, 70) | st.sampled_from([127, 128, 129, 500, 512])
ROTATIONS = st.tuples(SIZES, st.integers(1, 70), st.binary(min_size=32, max_size=32)).map(
    lambda case: Rotation(case[0], min(case[1], case[0]), case[2])
)
WHOLE = st.tuples(SIZES, st.binary(min_size=32, max_size=32)).map(
    lambda case: Rotation(case[0], case[0], case[1])
)


def vector(size: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size) * 10.0 ** (seed % 5)


@pytest.mark.parametrize("levels", range(10))
def test_hadamard_is_the_matrix_of_signs_and_its_own_inverse(levels: int) -> None:
    x = vector(1 << levels).astype(np.float32)
    y = x.copy()
    hadamard(y)
    error = CLOSE * np.linalg.norm(x)
    assert np.abs(y - matrix(x.size) @ x).max() <= error
    hadamard(y)
    assert np.abs(y - x).max() <= 2 * error


@given(ROTATIONS, st.integers(0, 99))
def test_a_turn_is_what_the_module_says_and_back_is_its_transpose(
    rotation: Rotation, seed: int
) -> None:
    whole, x = as_matrix(rotation), vector(rotation.length, seed)
    error = CLOSE * np.linalg.norm(x) * math.sqrt(rotation.length / rotation.size + 1)
    assert np.abs(rotation.turn(x, 1.0) - whole @ x).max() <= error
    assert np.abs(rotation.turn(x, 8.0) - whole @ x / 8).max() <= error
    y = vector(rotation.size, seed + 1)
    error = CLOSE * np.linalg.norm(y)
    assert np.abs(rotation.back(y.astype(np.float32)) - whole.T @ y).max() <= error


@given(WHOLE, st.integers(0, 99))
def test_without_a_sketch_it_is_an_isometry_that_back_undoes(rotation: Rotation, seed: int) -> None:
    x = vector(rotation.length, seed)
    turned = rotation.turn(x, 1.0)
    norm = np.linalg.norm(x)
    assert np.linalg.norm(turned) == pytest.approx(norm, rel=CLOSE)
    assert np.abs(rotation.back(turned) - x).max() <= 2 * CLOSE * norm
    whole = as_matrix(rotation)
    assert np.allclose(whole.T @ whole, np.eye(rotation.length), atol=1e-12)


@pytest.mark.parametrize("size", [1 << 12, 5000])
def test_no_coordinate_stands_out_whatever_the_vector(size: int) -> None:
    """Beyond 7.6 deviations with a chance of 2 exp(-28) = 2**-40 for each. What H itself makes
    of its own rows is the opposite: all in one coordinate."""
    width = width_of(size)
    row = np.zeros(size, np.float32)
    row[width // 3] = 1
    hadamard(row[:width])  # the row as a vector
    bare = row[:width].copy()
    hadamard(bare)
    assert np.abs(bare).max() > 0.99
    one, flat = np.eye(1, size, size - 1)[0], np.full(size, size**-0.5)
    for x in (one, flat, row.astype(float), np.eye(1, size)[0]):
        turned = Rotation(size, size, SEED).turn(x, 1.0)
        assert np.abs(turned).max() < math.sqrt(2 * 28 / width)


def test_each_seed_has_signs_of_its_own() -> None:
    x = vector(100)
    rotation, other = Rotation(100, 100, SEED), Rotation(100, 100, bytes(32))
    again = Rotation(100, 100, SEED)
    assert np.array_equal(rotation.turn(x, 1.0), again.turn(x, 1.0))
    assert np.linalg.norm(other.back(rotation.turn(x, 1.0)) - x) > np.linalg.norm(x) / 2


@pytest.mark.parametrize(("length", "size"), [(12, 4), (13, 4), (64, 1), (10, 7)])
def test_a_sketch_is_right_on_average_and_off_by_its_buckets(length: int, size: int) -> None:
    """Over 2**12 seeds. A coordinate is off by the others of its bucket, with signs: their squares
    are the variance. Means are within 6 deviations; so are squares, whose own variance is at most
    3 times the square of their mean, for sums of independent signs."""
    x, tries = vector(length, 2), 1 << 12
    errors = np.empty((tries, length))
    for i in range(tries):
        rotation = Rotation(length, size, i.to_bytes(32, "big"))
        errors[i] = rotation.back(rotation.turn(x, 1.0)) - x
    buckets = np.arange(length) % size
    variance = np.array([(x[buckets == b] ** 2).sum() for b in buckets]) - x**2
    near = 6 * np.sqrt(variance / tries) + CLOSE * np.linalg.norm(x)
    assert np.all(np.abs(errors.mean(axis=0)) < near)
    found = (errors**2).mean(axis=0)
    assert np.all(np.abs(found - variance) < 6 * math.sqrt(3 / tries) * variance + 1e-6 * (x @ x))
    if length % size == 0:
        whole = (length / size - 1) * (x @ x)
        assert variance.sum() == pytest.approx(whole)
    assert np.all(variance > 0) or length < 2 * size


@pytest.mark.parametrize(("length", "size"), [(0, 0), (3, 0), (3, 4), (3, -1)])
def test_a_size_that_cannot_be_is_refused(length: int, size: int) -> None:
    with pytest.raises(ParameterError, match="expected 1"):
        Rotation(length, size, SEED)
