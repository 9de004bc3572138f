"""An image array as a PNG data URI, with nothing but zlib."""

import struct
from base64 import b64encode
from zlib import compress, crc32

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError

_GREY, _RGB = 0, 2  # PNG colour types (ISO/IEC 15948, table 11.1)


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape is (rows, columns), (1, ...) grey or (3, ...) colour."""
    return len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))


def data_uri(image: NDArray[np.float64]) -> str:
    """`image` in [0, 1], shaped as `is_image` says, as data:image/png;base64,..., 8 bits deep."""
    if not is_image(image.shape):
        raise ParameterError(f"an array of shape {image.shape} is not an image")
    planes = image[None] if image.ndim == 2 else image
    pixels = np.rint(planes.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    rows, columns, channels = pixels.shape
    kind = _GREY if channels == 1 else _RGB
    # Every line starts with its filter type: 0, none.
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), pixels.reshape(rows, -1)], axis=1)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, kind, 0, 0, 0))
        + _chunk(b"IDAT", compress(lines.tobytes(), 9))
        + _chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + b64encode(png).decode("ascii")


def _chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc32(name + content))
    )
