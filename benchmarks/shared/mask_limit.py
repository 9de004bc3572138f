"""How fast masks can be added at all, by a bare loop, and how fast Tacit's own loop adds them."""

import os
import statistics
import time

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Words = np.ndarray[tuple[int], np.dtype[np.uint32]]

CHUNK_BYTES = 1 << 17
REPEATS = 7


def seconds_per_mask(length: int, masks: int) -> tuple[float, float]:
    """CPU seconds for one coordinate of one mask: of the bare loop, AES-256 in counter mode over a
    buffer of zeros that stays in the cache, and an addition of 32-bit words; and of Tacit's. The
    medians of REPEATS runs, in turn."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
        for loop, times in zip((_add_masks, _tacits), taken, strict=True):
            vector = np.zeros(length, np.uint32)
            began = time.process_time()
            loop(vector, masks)
            times.append(time.process_time() - began)
    bare, own = (statistics.median(times) / (length * masks) for times in taken)
    return bare, own


def _tacits(vector: Words, masks: int) -> None:
    from tacit.crypto.prg import add_masks

    add_masks(vector, [os.urandom(32) for _ in range(masks)], [])


def _add_masks(vector: Words, masks: int) -> None:
    zeros = memoryview(bytes(CHUNK_BYTES))
    keys = [(os.urandom(32), os.urandom(16)) for _ in range(masks)]
    streams = [Cipher(algorithms.AES256(key), modes.CTR(start)).encryptor() for key, start in keys]
    step = CHUNK_BYTES // vector.itemsize
    pad = np.empty(step, np.uint32)
    for at in range(0, vector.size, step):
        chunk = vector[at : at + step]
        mask = pad[: chunk.size]
        for stream in streams:
            stream.update_into(zeros[: mask.nbytes], mask.view(np.uint8).data)
            np.add(chunk, mask, out=chunk)
