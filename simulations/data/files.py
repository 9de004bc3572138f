"""Data sets in files: known ones under one folder, and any `.npz` or folder of images.

Nothing is ever downloaded, and nothing made up takes the place of a file that is missing.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.client.trainer import Examples
from tacit.crypto.errors import ParameterError
from tacit.simulations.data.dataset import Dataset, divided, images, labels, scaled, split, take
from tacit.simulations.data.pictures import read, stack
from tacit.simulations.data.table import FLAG, NUMBER, Table
from tacit.simulations.data.texts import alphabet, passages

VARIABLE = "TACIT_DATA"
PICTURES = frozenset({".png", ".jpg", ".jpeg"})
PASSAGE = 16  # characters of a passage of tiny-shakespeare
HALVES = ("x_train", "y_train", "x_test", "y_test")


def known_file(name: str, root: Path | None) -> Path:
    """Where the data set `name` lies: `<root>/<name_>/<name_>.npz`, underscores for hyphens.

    `root` None means the environment variable TACIT_DATA. Raises ParameterError, naming the path
    looked at and the variable, if it is not there.
    """
    stem = name.replace("-", "_")
    if root is None:
        given = os.environ.get(VARIABLE)
        if not given:
            raise ParameterError(
                f"data set {name!r} is read from a folder: set {VARIABLE} to the folder that "
                f"holds {stem}/{stem}.npz"
            )
        root = Path(given)
    path = root / stem / f"{stem}.npz"
    if not path.is_file():
        raise ParameterError(
            f"data set {name!r}: no file {path}; set {VARIABLE} to the folder that holds "
            f"{stem}/{stem}.npz"
        )
    return path


def fashion_mnist(root: Path | None = None) -> Dataset:
    """70,000 pictures of clothes in ten classes, shape (1, 28, 28), in [0, 1]; 60,000 to train."""
    names = "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle-boot"
    return _halves(
        "fashion-mnist",
        _known_arrays("fashion-mnist", root),
        class_names=tuple(names.split()),
        source="Fashion-MNIST (Xiao, Rasul & Vollgraf 2017), MIT licence",
    )


def cifar10_jpeg(root: Path | None = None) -> Dataset:
    """12,000 pictures in ten classes, shape (3, 32, 32), in [0, 1]; 10,000 to train.

    CAUTION: from JPEG copies of CIFAR-10, so not the original pixels. Numbers from it cannot be
    compared with published ones.
    """
    arrays = _known_arrays("cifar10-jpeg", root)
    return _halves(
        "cifar10-jpeg",
        arrays,
        class_names=tuple(str(name) for name in arrays["classes"]),
        source="CIFAR-10 (Krizhevsky 2009), a subset out of JPEG copies (lossy, quality 75); "
        "no licence stated",
    )


def heart_disease(root: Path | None = None) -> Dataset:
    """920 patients of four hospitals, with heart disease (1) or without (0); shape (35,).

    The hospitals are the sites. Features, in this order: 6 measurements, standardised with the
    mean and deviation of the training half, 0 where missing; 5 indicators (1 = missing) of the
    measurements that can be missing, which is all but age; the 7 categories, each one-hot, with
    "missing" as a value of its own. A cholesterol or a resting blood pressure of 0 is no
    measurement (Switzerland has no other cholesterol) and counts as missing. Diagnoses 1..4 are
    one class here. The split is stratified by hospital and class.
    """
    arrays = _known_arrays("heart-disease", root)
    columns = [str(column) for column in arrays["num_columns"]]
    measured = arrays["x_num"].astype(np.float64)
    for column in ("chol", "trestbps"):
        values = measured[:, columns.index(column)]
        values[values == 0] = np.nan
    y = (arrays["y"] > 0).astype(np.int64)
    train, test = split(arrays["site"].astype(np.int64) * 2 + y)
    mean, deviation = np.nanmean(measured[train], 0), np.nanstd(measured[train], 0)
    missing = np.isnan(measured)
    filled = np.where(missing, 0, (measured - mean) / deviation)
    can_be_missing = [i for i, column in enumerate(columns) if column != "age"]
    x = np.hstack([filled, missing[:, can_be_missing], *_one_hot(arrays)]).astype(np.float32)
    examples = Examples(x, y)
    return Dataset(
        name="heart-disease",
        train=take(examples, train),
        test=take(examples, test),
        classes=2,
        shape=x.shape[1:],
        sites=arrays["sites"][arrays["site"]][train],
        class_names=("healthy", "heart disease"),
        source="Heart Disease, UCI (Janosi, Steinbrunn, Pfisterer & Detrano 1989); "
        "no licence stated where this copy came from",
        table=Table(
            (NUMBER,) * len(columns) + (FLAG,) * len(can_be_missing) + _category_sizes(arrays)
        ),
    )


def tiny_shakespeare(root: Path | None = None) -> Dataset:
    """56,646 passages of 16 characters, shape (16,), and the character that follows as the class.

    Whole numbers: each is a character's place among the 65 of the text, which `class_names` lists.
    Speeches are cut up one by one, without the names of the speakers, who are the sites.
    """
    arrays = _known_arrays("tiny-shakespeare", root)
    text = arrays["text"].tobytes().decode("ascii")
    characters = alphabet(text)
    spans = zip(arrays["start"], arrays["end"], strict=True)
    parts = [passages(text[start:end], characters, PASSAGE) for start, end in spans]
    x, y = (np.concatenate([getattr(part, half) for part in parts]) for half in ("x", "y"))
    speakers = np.repeat(arrays["speaker"], [len(part) for part in parts])
    train, test = split(y)
    examples = Examples(x, y)
    return Dataset(
        name="tiny-shakespeare",
        train=take(examples, train),
        test=take(examples, test),
        classes=len(characters),
        shape=(PASSAGE,),
        sites=arrays["speakers"][speakers][train],
        class_names=tuple(characters),
        source="Shakespeare's plays, public domain; the sample of char-rnn (Karpathy 2015), MIT",
    )


def npz(path: Path) -> Dataset:
    """Any `.npz` with x_train, y_train, x_test, y_test, and if you like sites and classes.

    Inputs of two axes are rows of features, as they are; of three or four axes, images (see
    `images`). Labels are integers from 0. `sites` holds the site of each training example,
    `classes` the name of each class. Pickled objects are never read.
    """
    if not path.is_file():
        raise ParameterError(f"npz:{path}: no such file (looked at {path.absolute()})")
    return _halves(f"npz:{path}", _arrays(path))


def folder(path: Path, size: int | None = None) -> Dataset:
    """A folder of PNG or JPEG images, one sub-folder per class, in [0, 1], channels first.

    If it holds just `train` and `test`, each with a folder per class, these are the halves;
    otherwise one image in five of each class goes to the test half. With `size` every image is
    resized to size x size; without it they must agree. All are grey if all files are.
    """
    if not path.is_dir():
        raise ParameterError(f"folder:{path}: no such folder (looked at {path.absolute()})")
    if size is not None and size < 1:
        raise ParameterError(f"size={size}, expected at least 1")
    name = f"folder:{path}"
    source = f"images in {path}"
    inside = {entry.name for entry in path.iterdir() if entry.is_dir()}
    parts = [path / "train", path / "test"] if inside == {"train", "test"} else [path]
    files = [_classified(part) for part in parts]
    class_names = list(files[0])
    if list(files[-1]) != class_names:
        raise ParameterError(f"{name}: train and test hold different classes")
    every = [file for part in files for found in part.values() for file in found]
    x = scaled(stack([read(file) for file in every], [str(file) for file in every], size))
    y = np.array([class_names.index(file.parent.name) for file in every], dtype=np.int64)
    if len(parts) == 1:
        return divided(name, Examples(x, y), class_names, source)
    first = sum(len(found) for found in files[0].values())
    return Dataset(
        name=name,
        train=Examples(x[:first], y[:first]),
        test=Examples(x[first:], y[first:]),
        classes=len(class_names),
        shape=x.shape[1:],
        class_names=tuple(class_names),
        source=source,
    )


def _known_arrays(name: str, root: Path | None) -> dict[str, NDArray[Any]]:
    path = known_file(name, root)
    _require_checksum(path, path.stat().st_mtime_ns)
    return _arrays(path)


@cache
def _require_checksum(path: Path, _changed: int) -> None:
    """Compare with the sha256 in the SOURCE.txt beside `path`, if there is one; once per change."""
    note = path.parent / "SOURCE.txt"
    stated = (
        re.search(r"^sha256: ([0-9a-f]{64})$", note.read_text(), re.M) if note.exists() else None
    )
    if stated is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != stated[1]:
        raise ParameterError(
            f"{path} is damaged or another version: its sha256 is {found}, {note} says {stated[1]}"
        )


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, AttributeError, EOFError) as unreadable:
        raise ParameterError(f"{path} cannot be read as .npz: {unreadable}") from unreadable


def _halves(
    name: str,
    arrays: Mapping[str, NDArray[Any]],
    class_names: tuple[str, ...] = (),
    source: str = "",
) -> Dataset:
    missing = [half for half in HALVES if half not in arrays]
    if missing:
        raise ParameterError(f"{name} has no array {missing[0]!r}; it needs {', '.join(HALVES)}")
    y_train = labels(arrays["y_train"], f"{name}: y_train")
    y_test = labels(arrays["y_test"], f"{name}: y_test")
    if not class_names and "classes" in arrays:
        class_names = tuple(str(value) for value in arrays["classes"])
    train = Examples(_inputs(arrays["x_train"], f"{name}: x_train"), y_train)
    return Dataset(
        name=name,
        train=train,
        test=Examples(_inputs(arrays["x_test"], f"{name}: x_test"), y_test),
        classes=len(class_names) or int(max(y_train.max(initial=0), y_test.max(initial=0))) + 1,
        shape=train.x.shape[1:],
        sites=arrays.get("sites"),
        class_names=class_names,
        source=source or f"arrays in {name.removeprefix('npz:')}",
    )


def _inputs(values: NDArray[Any], what: str) -> NDArray[np.float32]:
    if values.dtype.kind not in "fiu":
        raise ParameterError(f"{what} is {values.dtype}, expected numbers")
    return values.astype(np.float32) if values.ndim == 2 else images(values, what)


def _one_hot(arrays: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
    """One (n, values) block per category of the heart data."""
    sizes = _category_sizes(arrays)
    return [np.eye(k, dtype=np.float32)[arrays["x_cat"][:, i]] for i, k in enumerate(sizes)]


def _category_sizes(arrays: Mapping[str, NDArray[Any]]) -> tuple[int, ...]:
    return tuple(len(arrays[f"values_{column}"]) for column in arrays["cat_columns"])


def _classified(path: Path) -> dict[str, list[Path]]:
    """Image files per class, both in order of name."""
    found: dict[str, list[Path]] = {}
    for entry in sorted(path.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            files = sorted(f for f in entry.iterdir() if f.suffix.lower() in PICTURES)
            if not files:
                raise ParameterError(f"folder:{path}: class {entry.name!r} has no PNG or JPEG file")
            found[entry.name] = files
    if len(found) < 2:
        raise ParameterError(
            f"folder:{path} holds {len(found)} class folders, expected two or more, each with "
            "PNG or JPEG files"
        )
    return found
