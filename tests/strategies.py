"""Hypothesis strategies that tests of several rooms share."""

from collections.abc import Iterable

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.crypto.codec import Codec
from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import Arrays

# Every dtype a model may have, with a range in which float64 differences are exact: multiples of
# 1/4 for floats (float16 has 11 bits), whole numbers up to 2**52 for integers.
RANGES = {
    "f2": (-400, 400, 4),
    "f4": (-(1 << 21), 1 << 21, 4),
    "f8": (-(1 << 40), 1 << 40, 4),
    "i4": (-(1 << 31), (1 << 31) - 1, 1),
    "i8": (-(1 << 52), 1 << 52, 1),
    "u1": (0, 255, 1),
}
SHAPES = st.sampled_from([(), (0,), (1,), (3,), (2, 3), (2, 0, 3), (1, 2, 2)])


def array(code: str, shape: tuple[int, ...]) -> st.SearchStrategy[NDArray]:
    """An array of this dtype and shape whose values are exact in RANGES."""
    low, high, denominator = RANGES[code]
    size = int(np.prod(shape))
    numbers = st.lists(st.integers(low, high), min_size=size, max_size=size)
    return numbers.map(lambda n: (np.array(n, "f8") / denominator).astype(code).reshape(shape))


@st.composite
def two_models(draw: st.DrawFn) -> tuple[Arrays, Arrays]:
    """Two models of one layout: 0 to 4 arrays of any dtype and shape."""
    names = draw(st.lists(st.text(max_size=4), max_size=4, unique=True))
    kinds = [(name, draw(st.sampled_from(sorted(RANGES))), draw(SHAPES)) for name in names]
    first, second = ({name: draw(array(code, shape)) for name, code, shape in kinds} for _ in "ab")
    return first, second


@st.composite
def codecs(draw: st.DrawFn, length: int = 3, metrics: int = 2) -> Codec:
    """Any codec that can be built: every width, crowds small and large, bounds on and off the
    powers of two, where a scale is most easily one power too large."""
    bits = draw(st.integers(8, 62))
    clients = draw(st.integers(1, 40) | st.sampled_from([64, 255, 4096]))
    bounds = st.sampled_from([0.001, 0.5, 1.0, 3.0, 8.0, 1024.0]) | st.floats(1e-6, 1e6)
    try:
        return Codec(
            length,
            clients,
            metrics,
            bound=draw(bounds),
            metric_bound=draw(bounds),
            max_weight=draw(bounds),
            bits=bits,
        )
    except ParameterError:
        assume(False)
        raise


def within(bound: float) -> st.SearchStrategy[float]:
    """|x| <= bound, the ends and 0 more often than others."""
    return st.floats(-bound, bound) | st.sampled_from([-bound, 0.0, bound])


@st.composite
def mutations(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` after a few edits: bytes overwritten, cut out, put in, or the end cut off."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(out)))
        match draw(st.sampled_from("wwwxie")):
            case "w":
                fresh = draw(st.binary(min_size=1, max_size=9))
                out[at : at + len(fresh)] = fresh
            case "x":
                del out[at : at + draw(st.integers(1, 40))]
            case "i":
                out[at:at] = draw(st.binary(min_size=1, max_size=40))
            case "e":
                del out[at:]
    return bytes(out)


def windows(data: bytes) -> Iterable[bytes]:
    """`data` with each window of 1, 4, 8 bytes cleared, filled, flipped; cut short; with a tail."""
    for width in (1, 4, 8):
        for at in range(len(data) - width + 1):
            old = data[at : at + width]
            for new in (bytes(width), b"\xff" * width, bytes(255 - b for b in old)):
                if new != old:
                    yield data[:at] + new + data[at + width :]
    for end in range(len(data)):
        yield data[:end]
    yield data + b"\x00"
    yield data + data
