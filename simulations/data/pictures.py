"""Image files and decoded images, brought to one size and one number of channels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError


def read(file: Path) -> NDArray[np.uint8]:
    """One image file as uint8 (h, w, 1 or 3). Raises ParameterError if it cannot be read."""
    import imageio.v3 as imageio

    try:
        pixels = np.asarray(imageio.imread(file, plugin="pillow"))
    except (OSError, ValueError, SyntaxError) as unreadable:  # Pillow says SyntaxError of a PNG
        raise ParameterError(f"{file} cannot be read as an image: {unreadable}") from unreadable
    return plain(pixels, str(file))


def plain(pixels: NDArray[Any], what: str) -> NDArray[np.uint8]:
    """Decoded pixels as uint8 (h, w, 1 or 3): transparency dropped, 16 bits brought to 8."""
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise ParameterError(f"{what} is {pixels.dtype} of shape {pixels.shape}, not an image")
    if pixels.ndim == 2:
        return pixels[:, :, None]
    return pixels[:, :, :3] if pixels.shape[2] >= 3 else pixels[:, :, :1]


def stack(
    pictures: Sequence[NDArray[np.uint8]], names: Sequence[str], size: int | None = None
) -> NDArray[Any]:
    """All images in one array (n, channels, h, w); grey ones become RGB if any is RGB.

    uint8, or float32 in [0, 1] if they were resized to `size` x `size`. Raises ParameterError,
    naming two images, if they differ in size and no size is given.
    """
    channels = max(picture.shape[2] for picture in pictures)
    alike = [np.repeat(picture, channels // picture.shape[2], axis=2) for picture in pictures]
    if size is not None:
        from skimage.transform import resize

        resized = [resize(p / 255, (size, size), anti_aliasing=True) for p in alike]
        return np.stack(resized).astype(np.float32).transpose(0, 3, 1, 2)
    for name, picture in zip(names, alike, strict=True):
        if picture.shape != alike[0].shape:
            raise ParameterError(
                f"{name} is {picture.shape[1]}x{picture.shape[0]} pixels, {names[0]} is "
                f"{alike[0].shape[1]}x{alike[0].shape[0]}: give a size to bring all of them to"
            )
    return np.stack(alike).transpose(0, 3, 1, 2)
