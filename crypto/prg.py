"""The key stream of AES-256, and masks made of it, added to a vector chunk by chunk.

The stream is what AES-256-GCM encrypts zeros to under the zero 96-bit nonce: AES in counter mode
from block 00..02 on, NIST SP 800-38D, sections 6.5 and 7.1. Block 00..01 would go into the tag,
which is never asked for. OpenSSL has faster code for this than for plain counter mode, and than
any generator of numpy, so there is no reason for a weaker one. The nonce may be zero because every
key is made for one use and never used again.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import Ring

KEY_BYTES = 32
MAX_BYTES = (1 << 36) - 32  # SP 800-38D, 5.2.1.1: the counter has 32 bits
CHUNK_BYTES = 1 << 17  # between the overhead of a call and the size of a cache
_NONCE = bytes(12)
_ZEROS = memoryview(bytes(CHUNK_BYTES))


class KeyStream:
    """The first `size` bytes that a key gives, read in order."""

    __slots__ = ("_context",)

    def __init__(self, key: bytes, size: int) -> None:
        """Raises ParameterError for a key of another size, or more bytes than one key may give."""
        if len(key) != KEY_BYTES:
            raise ParameterError(f"a key of a stream has {KEY_BYTES} bytes, not {len(key)}")
        if size > MAX_BYTES:
            raise ParameterError(f"{size} bytes from one key, which gives {MAX_BYTES} at most")
        self._context = Cipher(algorithms.AES256(key), modes.GCM(_NONCE)).encryptor()

    def fill(self, out: NDArray[Any]) -> None:
        """Overwrite `out`, a contiguous vector, with the next `out.nbytes` bytes."""
        octets = out.view(np.uint8).data
        for start in range(0, out.nbytes, CHUNK_BYTES):
            self.fill_octets(octets[start : start + CHUNK_BYTES])

    def fill_octets(self, out: memoryview) -> None:
        """As `fill`, for at most CHUNK_BYTES bytes: what is left of it where each call counts."""
        self._context.update_into(_ZEROS[: out.nbytes], out)


def keystream(key: bytes, size: int) -> bytes:
    """The first `size` bytes that a key gives. Raises ParameterError as `KeyStream` does."""
    out = np.empty(size, np.uint8)
    KeyStream(key, size).fill(out)
    return out.tobytes()


def add_masks(vector: Ring, plus: Iterable[bytes], minus: Iterable[bytes]) -> None:
    """Add the masks of the keys in `plus` to `vector` and subtract those in `minus`, in place.

    Chunk-major: each chunk meets every mask while it is in the cache, so memory is one chunk
    whatever the number of keys. Arithmetic wraps at the machine word; the low bits are right for
    any ring up to that width. Raises ParameterError, and changes nothing, for a vector longer than
    a key's stream.
    """
    added = [KeyStream(key, vector.nbytes) for key in plus]
    taken = [KeyStream(key, vector.nbytes) for key in minus]
    step = CHUNK_BYTES // vector.itemsize
    pad = np.empty(min(step, vector.size), vector.dtype.newbyteorder("<"))
    for start in range(0, vector.size, step):
        chunk = vector[start : start + step]
        mask = pad[: chunk.size]
        octets = mask.view(np.uint8).data
        for stream in added:
            stream.fill_octets(octets)
            np.add(chunk, mask, out=chunk)
        for stream in taken:
            stream.fill_octets(octets)
            np.subtract(chunk, mask, out=chunk)
