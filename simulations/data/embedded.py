"""Real data that come inside scikit-learn and scikit-image: always there, no download.

scikit-learn's tables are read, and scikit-learn is not loaded: that takes seconds, and a device has
a process for each message.
"""

import gzip
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tacit.client.trainer import Examples
from tacit.simulations.data.dataset import Dataset, divided, images, split
from tacit.simulations.data.table import NUMBER, Table

CROP = 32
PHOTOS = ("astronaut", "chelsea", "coffee", "motorcycle")


def digits() -> Dataset:
    """1,797 handwritten digits, shape (1, 8, 8); the ink values 0..16 become [0, 1]."""
    with gzip.open(_table("digits.csv.gz"), "rt") as file:
        rows = np.loadtxt(file, delimiter=",")
    x = (rows[:, :-1].reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    return divided(
        "digits",
        Examples(x, rows[:, -1].astype(np.int64)),
        [str(digit) for digit in range(10)],
        "Optical Recognition of Handwritten Digits, UCI (Alpaydin 1998), the test part; "
        "shipped with scikit-learn, no licence of its own stated there",
    )


def breast_cancer() -> Dataset:
    """569 tumours, 30 measured features, malignant (0) or benign (1).

    Features are standardised with the mean and deviation of the training half.
    """
    rows = np.loadtxt(_table("breast_cancer.csv"), delimiter=",", skiprows=1)
    measured, y = rows[:, :-1], rows[:, -1].astype(np.int64)
    train, _ = split(y)
    mean, deviation = measured[train].mean(0), measured[train].std(0)
    x = ((measured - mean) / deviation).astype(np.float32)
    data = divided(
        "breast-cancer",
        Examples(x, y),
        ["malignant", "benign"],
        "Breast Cancer Wisconsin (Diagnostic), UCI (Wolberg et al. 1995); "
        "shipped with scikit-learn, no licence of its own stated there",
    )
    return replace(data, table=Table((NUMBER,) * x.shape[1]))


def faces() -> Dataset:
    """100 faces (1) and 100 patches that are none (0), grey, shape (1, 25, 25), in [0, 1]."""
    from skimage.data import lfw_subset

    x = images(lfw_subset(), "lfw_subset")  # already float in [0, 1]
    y = np.repeat(np.array([1, 0], dtype=np.int64), 100)  # faces come first
    return divided(
        "faces",
        Examples(x, y),
        ["no face", "face"],
        "Labeled Faces in the Wild (Huang et al. 2012), a subset, 25x25; shipped with "
        "scikit-image, no licence of its own stated there",
    )


def portraits() -> Dataset:
    """The 100 faces of `faces` alone: one class of two, 80 to train on."""
    both = faces()
    halves = [
        Examples(half.x[half.y == 1], half.y[half.y == 1]) for half in (both.train, both.test)
    ]
    return replace(both, name="portraits", train=halves[0], test=halves[1])


def photos() -> Dataset:
    """940 crops, shape (3, 32, 32), of four photographs stored without loss; the class is the
    photograph.

    The crops tile each photograph without overlap, so no pixel is in both halves; crops of one
    flat colour are left out. Of the stereo pair `motorcycle` only the left image is used: the
    right one shows the same things again.
    """
    from skimage import data

    pictures = (data.astronaut(), data.chelsea(), data.coffee(), data.stereo_motorcycle()[0])
    crops = [_tiles(picture) for picture in pictures]
    y = np.repeat(np.arange(len(PHOTOS)), [len(tiles) for tiles in crops]).astype(np.int64)
    return divided(
        "photos",
        Examples(images(np.concatenate(crops), "photos"), y),
        PHOTOS,
        "shipped with scikit-image: astronaut (NASA, public domain), chelsea (van der Walt, CC0), "
        "coffee (Michetti, CC0), motorcycle (Scharstein et al. 2014, Middlebury stereo, no "
        "licence stated)",
    )


def _table(name: str) -> Path:
    """A file of scikit-learn's. Raises ModuleNotFoundError if that is not installed."""
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    return Path(found.origin).parent / "datasets" / "data" / name


def _tiles(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(h, w, 3) -> (n, 32, 32, 3), row by row; without parts and flat ones."""
    rows, columns = picture.shape[0] // CROP, picture.shape[1] // CROP
    grid = picture[: rows * CROP, : columns * CROP].reshape(rows, CROP, columns, CROP, 3)
    tiles = grid.swapaxes(1, 2).reshape(-1, CROP, CROP, 3)
    varied: NDArray[np.uint8] = tiles[tiles.std((1, 2, 3)) > 0]
    return varied
