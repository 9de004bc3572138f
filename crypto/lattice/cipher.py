"""Vectors of ring elements, encrypted under a key each; their sums, opened with the sum of keys.

    c = a * s + e + Delta * m,      m = sum of x_i * 2**(bits * i) over the fields i

Nothing here keeps track of what a key was used for, and everything depends on it: **a key and a
seed are used together once**. Two vectors under one pair differ by nothing but their errors, so the
difference of the ciphertexts is Delta times that of the vectors, for all to see. A retry sends the
same bytes again; another attempt takes another seed and another key.

A block holds `degree` words. Its elements come field by field: those of field 0 first, one for each
word. The last block has only as many words as its elements need; as each coefficient stands for
itself when ciphertexts are added and opened, the others are not missed.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.crypto.lattice.ring import WORKING, Key, Multiplier
from tacit.crypto.lattice.sampler import Noise, Sampler
from tacit.crypto.lattice.sets import Lattice
from tacit.crypto.prg import KeyStream
from tacit.crypto.vector import Ring

Ciphertext = Ring  # of words modulo q


def encrypt(lattice: Lattice, seed: bytes, key: Noise, rand: bytes, vector: Ring) -> Ciphertext:
    """`vector` (length,) under a fresh key, shape (lattice.size(length),).

    `seed`, 32 bytes, is what all devices of one sum have in common, and no other sum: the key of
    the stream that is a. `key` is from `keys.draw` and was never used before. `rand` is 32 fresh
    random bytes, for the errors. The elements need not be reduced above `bits`.
    """
    words: Ciphertext = np.empty(lattice.size(vector.size), lattice.dtype)
    errors = Sampler(rand, lattice.error, words.size)
    start = 0
    for part, masks in _masked(lattice, seed, key, words):
        signed = masks.view(f"i{masks.itemsize}")
        signed += errors.draw(*masks.shape)
        stop = start + lattice.fields * masks.size
        masks += _packed(lattice, vector[start:stop], masks.shape)
        part[:] = masks
        start = stop
    return words


def add(total: Ciphertext, ciphertext: Ciphertext) -> None:
    """Add `ciphertext` to `total`, in place: the sum of all of them is held, and none of them.

    Parts of both, at the same place, do as well. Raises ParameterError, and changes nothing, for
    one of another shape or word.
    """
    if ciphertext.shape != total.shape or ciphertext.dtype != total.dtype:
        raise ParameterError(
            f"a ciphertext of {ciphertext.shape} {ciphertext.dtype} does not fit {total.shape} "
            f"{total.dtype}"
        )
    np.add(total, ciphertext, out=total)


def open_sum(lattice: Lattice, seed: bytes, key: Key, total: Ciphertext, length: int) -> Ring:
    """The sum modulo 2**bits of the vectors whose ciphertexts make up `total`, shape (length,).

    `key` is the sum of just these ciphertexts' keys; with any other, what comes out is noise.
    Raises ParameterError for a total of another size.
    """
    if total.shape != (lattice.size(length),) or total.dtype != lattice.dtype:
        raise ParameterError(f"{total.shape} {total.dtype} is no sum of {length} elements")
    vector: Ring = np.empty(length, lattice.ring)
    of = lattice.dtype.type
    start = 0
    for part, masks in _masked(lattice, seed, key, total):
        np.subtract(part, masks, out=masks)
        masks += of(1 << (lattice.shift - 1))
        masks >>= of(lattice.shift)
        stop = start + lattice.fields * masks.size
        _unpack(lattice, masks, vector[start:stop])
        start = stop
    return vector


def _masked(
    lattice: Lattice, seed: bytes, key: Key, words: Ciphertext
) -> Iterator[tuple[Ciphertext, Ciphertext]]:
    """The words in parts of some rows, a row for each block, and a * s for just these.

    The second is a buffer, to be worked in until the next is asked for.
    """
    if key.shape != (lattice.degree,):
        raise ParameterError(f"a key of {key.shape}, expected ({lattice.degree},)")
    degree = lattice.degree
    blocks, rows = -(-words.size // degree), max(1, WORKING // degree)
    stream = KeyStream(seed, blocks * degree * lattice.dtype.itemsize)
    multiplier = Multiplier(key, lattice.word)
    buffer: Ciphertext = np.empty((min(rows, blocks), degree), lattice.dtype)
    whole = words.size // degree
    for first in range(0, whole, rows):
        part = words[first * degree : min(first + rows, whole) * degree].reshape(-1, degree)
        yield part, _masks(stream, multiplier, buffer[: len(part)])
    if blocks > whole:
        rest = words[whole * degree :][None]
        yield rest, _masks(stream, multiplier, buffer[:1])[:, : rest.shape[1]]


def _masks(stream: KeyStream, multiplier: Multiplier, buffer: Ciphertext) -> Ciphertext:
    stream.fill(buffer.reshape(-1))
    multiplier.multiply(buffer)
    return buffer


def _packed(lattice: Lattice, vector: Ring, shape: tuple[int, ...]) -> Ciphertext:
    """Delta * m for the elements of rows of words."""
    rows, count = shape
    if vector.size < rows * count * lattice.fields:
        vector = np.concatenate([vector, np.zeros(-vector.size % lattice.fields, vector.dtype)])
    parts = vector.reshape(rows, lattice.fields, count)
    out: Ciphertext = np.zeros(0, lattice.dtype)
    up = lattice.word - lattice.bits
    for field in range(lattice.fields):
        element: NDArray[Any] = parts[:, field].astype(lattice.dtype)
        element <<= lattice.dtype.type(up)
        # Back down with its sign: so a sum of m is one of sums, be they negative or not.
        signed = element.view(f"i{element.itemsize}")
        if down := up - lattice.shift - field * lattice.bits:
            signed >>= signed.dtype.type(down)
        out = element if field == 0 else out + element
    return out


def _unpack(lattice: Lattice, masks: Ciphertext, out: Ring) -> None:
    """The elements of m, which is overwritten, for rows of words."""
    rows, count = masks.shape
    of, mask = lattice.dtype.type, (1 << lattice.bits) - 1
    found: Ring = np.empty((rows, lattice.fields, count), out.dtype)
    for field in range(lattice.fields):
        found[:, field] = masks & of(mask)
        if field < lattice.fields - 1:
            negative = masks >> of(lattice.bits - 1) & of(1)  # it has borrowed from the next
            masks >>= of(lattice.bits)
            masks += negative
    out[:] = found.reshape(-1)[: out.size]
