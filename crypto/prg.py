"""Masks: AES-256 in counter mode, added to a vector chunk by chunk.

AES through `cryptography` is faster than any generator of numpy, so there is no reason for a
weaker one. The nonce is zero: that is safe because every key is derived for one mask of one
session and never used again.
"""

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from tacit.crypto.codec import Ring

KEY_BYTES = 32
CHUNK_BYTES = 1 << 17  # between the overhead of a call and the size of a cache
_BLOCK_BYTES = 16
_ZEROS = bytes(CHUNK_BYTES)


def add_masks(vector: Ring, plus: Iterable[bytes], minus: Iterable[bytes]) -> None:
    """Add the masks of the keys in `plus` to `vector` and subtract those in `minus`, in place.

    Chunk-major: each chunk meets every mask while it is in the cache, so memory is one chunk
    whatever the number of keys. Arithmetic wraps at the machine word; the low bits are right for
    any ring up to that width.
    """
    added = [_stream(key) for key in plus]
    taken = [_stream(key) for key in minus]
    pad = bytearray(CHUNK_BYTES + _BLOCK_BYTES)  # update_into asks for a block to spare
    word = vector.dtype.newbyteorder("<")
    step = CHUNK_BYTES // vector.dtype.itemsize
    for start in range(0, vector.size, step):
        chunk = vector[start : start + step]
        zeros = memoryview(_ZEROS)[: chunk.nbytes]
        mask = np.frombuffer(pad, word, chunk.size)
        for stream in added:
            stream.update_into(zeros, pad)
            np.add(chunk, mask, out=chunk)
        for stream in taken:
            stream.update_into(zeros, pad)
            np.subtract(chunk, mask, out=chunk)


def _stream(key: bytes) -> CipherContext:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a mask key has {KEY_BYTES} bytes, not {len(key)}")
    return Cipher(algorithms.AES256(key), modes.CTR(bytes(_BLOCK_BYTES))).encryptor()
