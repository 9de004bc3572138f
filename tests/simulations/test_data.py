"""Data sets, their partition among devices, and the documentation's own example."""

import os
import re
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.client.trainer import Examples, LocalPlan
from tacit.crypto.errors import ParameterError
from tacit.simulations.data import hub
from tacit.simulations.data.dataset import Dataset, hold_out, images, split
from tacit.simulations.data.partition import (
    Dirichlet,
    Iid,
    Partition,
    Shards,
    Sites,
    parse,
    partition,
)
from tacit.simulations.data.sources import EMBEDDED, IN_FOLDER, load
from tacit.simulations.data.table import Table
from tacit.simulations.models import trainer

OWN = Path(__file__).parent / "own"
GUIDE = Path(__file__).parents[2] / "docs" / "data-and-models.md"


def toy(count: int = 200, classes: int = 4, sites: int = 0) -> Dataset:
    rng = np.random.default_rng(count)
    y = rng.integers(classes, size=count)
    examples = Examples(np.zeros((count, 2), np.float32), y)
    where = rng.permutation(np.arange(count) % sites) if sites else None
    return Dataset("toy", examples, examples, classes, (2,), where)


# What is built in


@pytest.mark.parametrize(
    ("name", "shape", "train", "test", "classes"),
    [
        ("digits", (1, 8, 8), 1438, 359, 10),
        ("breast-cancer", (30,), 456, 113, 2),
        ("faces", (1, 25, 25), 160, 40, 2),
        ("photos", (3, 32, 32), 752, 188, 4),
    ],
)
def test_embedded(name: str, shape: tuple[int, ...], train: int, test: int, classes: int) -> None:
    data = load(name)
    assert (data.name, data.shape, data.classes) == (name, shape, classes)
    assert (len(data.train), len(data.test)) == (train, test)
    assert len(data.class_names) == classes
    assert data.source
    again = load(name.replace("-", "_"))
    assert np.array_equal(data.train.x, again.train.x)
    assert np.array_equal(data.test.y, again.test.y)
    for y in (data.train.y, data.test.y):  # stratified: the share of a class is that of the whole
        share = np.bincount(y, minlength=classes) / len(y)
        whole = np.bincount(np.concatenate([data.train.y, data.test.y])) / (train + test)
        np.testing.assert_allclose(share, whole, atol=1 / min(train, test) * 1.5)
    if len(shape) == 3:
        assert data.train.x.min() >= 0
        assert 0.95 <= data.train.x.max() <= 1


def test_measurements_are_standardised_by_the_training_half_alone() -> None:
    data = load("breast-cancer")
    np.testing.assert_allclose(data.train.x.mean(0, dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(data.train.x.std(0, dtype=np.float64), 1, atol=1e-6)
    assert np.abs(data.test.x.mean(0)).max() > 0.01  # by its own half it would be 0


def test_no_example_is_in_both_halves() -> None:
    for name in EMBEDDED:
        data = load(name)
        halves = [{row.tobytes() for row in half.x} for half in (data.train, data.test)]
        assert not halves[0] & halves[1], name


def test_faces_are_the_faces() -> None:
    data = load("faces")
    faces, rest = (data.train.x[data.train.y == label] for label in (1, 0))
    # A mean face is a face, brighter in the middle than at the rim; mean background is flat.
    middle = faces[:, 0, 8:17, 8:17].mean() - faces[:, 0, :, :3].mean()
    assert middle > 0.1
    assert abs(rest[:, 0, 8:17, 8:17].mean() - rest[:, 0, :, :3].mean()) < 0.1
    assert data.class_names[1] == "face"


def test_photos_are_lossless_pixels() -> None:
    pixels = load("photos").train.x * 255
    np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-4)


@pytest.mark.parametrize(("name", "model"), [("digits", "mlp"), ("breast-cancer", "softmax")])
def test_embedded_data_can_be_learnt(name: str, model: str) -> None:
    data = load(name)
    net = trainer(model, data.shape, data.classes, backend="numpy")
    plan = LocalPlan(epochs=15, learning_rate=0.1, momentum=0.9)
    trained, _ = net.fit(net.initial(0), data.train, plan)
    assert net.evaluate(trained, data.test)[1] > 0.95


@pytest.mark.needs_data
@pytest.mark.parametrize(
    ("name", "shape", "train", "test", "classes"),
    [
        ("fashion-mnist", (1, 28, 28), 60_000, 10_000, 10),
        ("cifar10-jpeg", (3, 32, 32), 10_000, 2_000, 10),
        ("heart-disease", (35,), 736, 184, 2),
    ],
)
def test_known_files(
    data_folder: Path, name: str, shape: tuple[int, ...], train: int, test: int, classes: int
) -> None:
    data = load(name, root=data_folder)
    assert (data.shape, data.classes, len(data.class_names)) == (shape, classes, classes)
    assert (len(data.train), len(data.test)) == (train, test)
    assert len(np.unique(data.train.y)) == classes


@pytest.mark.needs_data
def test_the_hearts_of_four_hospitals() -> None:
    data = load("heart-disease")  # by the variable this time
    assert data.sites is not None
    assert sorted(set(data.sites)) == ["Cleveland", "Hungary", "Switzerland", "VA Long Beach"]
    parts = partition(data, 4, Sites(), 0)
    assert [len(part) for part in parts] == [243, 235, 98, 160]
    x = data.train.x
    assert set(np.unique(x[:, 6:])) == {0, 1}
    swiss = x[parts[2]]
    assert (swiss[:, 7] == 1).all()  # the indicator of cholesterol: nobody's was measured
    assert (swiss[:, 2] == 0).all()  # so everybody's is the mean
    np.testing.assert_array_equal(x[:, 11:].sum(1), 7)  # one value of each of the 7 categories
    net = trainer("softmax", data.shape, 2, backend="numpy")
    trained, _ = net.fit(net.initial(0), data.train, LocalPlan(epochs=30, learning_rate=0.02))
    assert net.evaluate(trained, data.test)[1] > 0.75


@pytest.mark.needs_data
def test_the_columns_of_the_hearts() -> None:
    data = load("heart-disease")
    assert data.table is not None
    rows = data.table.rows(data.train.x)
    assert rows.shape == (736, 18)
    np.testing.assert_array_equal(rows[:, :11], data.train.x[:, :11])
    assert rows[:, 11:].max(0).tolist() == [1, 3, 2, 3, 2, 3, 3]  # every value is somebody's


@pytest.mark.needs_data
def test_the_speeches_of_shakespeare() -> None:
    data = load("tiny-shakespeare")
    assert (data.shape, data.classes) == ((16,), 65)
    assert (len(data.train), len(data.test)) == (45_317, 11_329)
    assert data.sites is not None
    texts = ["".join(data.class_names[int(token)] for token in row) for row in data.train.x]
    follows = [data.class_names[label] for label in data.train.y]
    assert ("You are all reso", "l", "First Citizen") in zip(
        texts, follows, data.sites, strict=True
    )


def test_a_table_fits_its_data() -> None:
    data = load("breast-cancer")
    with pytest.raises(ParameterError, match=r"table of 5 inputs for examples of \(30,\)"):
        replace(data, table=Table((2, 3)))


# Files


def save(folder: Path, stem: str = "some", **changed: NDArray[Any] | None) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, NDArray[Any] | None] = {
        "x_train": rng.integers(256, size=(12, 5, 4), dtype=np.uint8),
        "y_train": np.arange(12, dtype=np.uint8) % 3,
        "x_test": rng.integers(256, size=(6, 5, 4), dtype=np.uint8),
        "y_test": np.arange(6, dtype=np.uint8) % 3,
    }
    arrays |= changed
    path = folder / f"{stem}.npz"
    np.savez(path, **{name: a for name, a in arrays.items() if a is not None})  # type: ignore[arg-type]
    return path


def test_npz(tmp_path: Path) -> None:
    path = save(tmp_path, sites=np.arange(12) % 2, classes=np.array(["a", "b", "c"]))
    data = load(f"npz:{path}")
    raw = np.load(path)
    assert (data.shape, data.classes, data.class_names) == ((1, 5, 4), 3, ("a", "b", "c"))
    np.testing.assert_array_equal(data.train.x[:, 0], raw["x_train"].astype(np.float32) / 255)
    assert [len(part) for part in partition(data, 2, Sites(), 0)] == [6, 6]


def test_npz_of_features_stays_as_it_is(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(12, 7))
    data = load(f"npz:{save(tmp_path, x_train=x, x_test=x[:6])}")
    assert data.shape == (7,)
    np.testing.assert_array_equal(data.train.x, x.astype(np.float32))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"y_test": None}, "no array 'y_test'"),
        ({"y_train": np.zeros(11, int)}, "12 inputs and 11 labels"),
        ({"y_train": np.zeros(12)}, "y_train is float64.*expected integers"),
        ({"y_train": np.full(12, -1)}, r"labels -1\.\."),
        ({"x_train": np.full((12, 3), np.nan), "x_test": np.ones((6, 3))}, "NaN or infinity"),
        ({"x_train": np.ones((12, 3)), "x_test": np.ones((6, 4))}, r"shape \(4,\), not \(3,\)"),
        ({"x_train": np.array([["a"]] * 12)}, "expected numbers"),
        ({"x_train": np.array([[None]] * 12)}, "cannot be read"),
        ({"x_train": np.ones((12, 3, 9, 3), np.uint8)}, "channels first or last"),
        ({"x_test": np.ones((0, 5, 4)), "y_test": np.ones(0, int)}, "test data is empty"),
        ({"sites": np.zeros(5)}, r"sites have shape \(5,\)"),
        ({"classes": np.array(["a", "b"])}, r"labels 0\.\.2, expected 0\.\.1"),
    ],
)
def test_npz_that_is_no_data_set(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        load(f"npz:{save(tmp_path, **changed)}")


def test_files_that_are_not_there_or_not_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TACIT_DATA", raising=False)
    with pytest.raises(ParameterError, match=r"set TACIT_DATA .*fashion_mnist/fashion_mnist\.npz"):
        load("fashion-mnist")
    monkeypatch.setenv("TACIT_DATA", str(tmp_path))
    where = re.escape(str(tmp_path / "fashion_mnist" / "fashion_mnist.npz"))
    with pytest.raises(ParameterError, match=f"no file {where}; set TACIT_DATA"):
        load("fashion-mnist")
    with pytest.raises(ParameterError, match=r"looked at .*nowhere\.npz"):
        load("npz:nowhere.npz")
    with pytest.raises(ParameterError, match="no such folder"):
        load("folder:nowhere")
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "empty.npz").write_text("")
    for stem in ("text", "empty"):
        with pytest.raises(ParameterError, match=r"cannot be read as \.npz"):
            load(f"npz:{tmp_path / stem}.npz")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "fashion_mnist"
    home.mkdir()
    names = {"y_train": np.arange(12) % 10, "y_test": np.arange(6)}
    path = save(home, "fashion_mnist", **names)
    assert load("fashion-mnist", root=tmp_path).classes == 10  # nothing stated, nothing to check
    (home / "SOURCE.txt").write_text(f"Somewhere.\nsha256: {'0' * 64}\n")
    save(home, "fashion_mnist", **names)
    with pytest.raises(ParameterError, match=rf"{re.escape(str(path))} is damaged.*000 *$|sha256"):
        load("fashion-mnist", root=tmp_path)


def png(path: Path, pixels: NDArray[Any]) -> None:
    import imageio.v3 as imageio

    path.parent.mkdir(parents=True, exist_ok=True)
    imageio.imwrite(path, pixels)


def test_folder_of_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kept = {}
    for name in ("cat", "dog"):
        for i in range(10):
            kept[name, i] = rng.integers(256, size=(6, 5, 3), dtype=np.uint8)
            png(tmp_path / name / f"{i}.png", kept[name, i])
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    data = load(f"folder:{tmp_path}")
    assert (data.shape, data.class_names) == ((3, 6, 5), ("cat", "dog"))
    assert Counter(data.train.y.tolist()) == {0: 8, 1: 8}
    assert Counter(data.test.y.tolist()) == {0: 2, 1: 2}
    expected = {
        (p.transpose(2, 0, 1) / np.float32(255)).astype(np.float32).tobytes() for p in kept.values()
    }
    found = {x.tobytes() for half in (data.train, data.test) for x in half.x}
    assert found == expected
    small = load(f"folder:{tmp_path}", size=4)
    assert small.shape == (3, 4, 4)
    assert 0 <= small.train.x.min() < small.train.x.max() <= 1


def test_folder_with_its_own_halves_and_mixed_kinds(tmp_path: Path) -> None:
    grey, colour = np.full((3, 3), 51, np.uint8), np.zeros((3, 3, 4), np.uint8)
    for half, count in (("train", 3), ("test", 2)):
        for i in range(count):
            png(tmp_path / half / "grey" / f"{i}.png", grey)
            png(tmp_path / half / "see-through" / f"{i}.png", colour)
    data = load(f"folder:{tmp_path}")
    assert (data.shape, len(data.train), len(data.test)) == ((3, 3, 3), 6, 4)
    np.testing.assert_allclose(data.train.x[data.train.y == 0], 0.2)


def test_folders_that_do_not_work(tmp_path: Path) -> None:
    png(tmp_path / "a" / "1.png", np.zeros((3, 3), np.uint8))
    with pytest.raises(ParameterError, match="1 class folders, expected two or more"):
        load(f"folder:{tmp_path}")
    (tmp_path / "b").mkdir()
    with pytest.raises(ParameterError, match="class 'b' has no PNG or JPEG"):
        load(f"folder:{tmp_path}")
    png(tmp_path / "b" / "1.png", np.zeros((3, 4), np.uint8))
    with pytest.raises(
        ParameterError, match=r"b/1.png is 4x3 pixels, .*a/1.png is 3x3: give a size"
    ):
        load(f"folder:{tmp_path}")
    (tmp_path / "b" / "1.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(ParameterError, match=r"b/1.png cannot be read as an image"):
        load(f"folder:{tmp_path}", size=3)


# Names


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("digit", r"unknown data set 'digit' \(did you mean 'digits'\?\)"),
        ("nothing-like-it", "unknown data set 'nothing-like-it'; there are digits"),
        ("npz:", "unknown data set"),
        ("numpy:array", "failed: TypeError"),
        (
            "numpy.random:default_rng",
            "returned Generator, expected a tacit.simulations.data.Dataset",
        ),
    ],
)
def test_names_that_do_not_work(name: str, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        load(name)
    with pytest.raises(ParameterError, match="size=3 only goes with folder:PATH"):
        load(name, size=3)


def test_every_name_is_in_the_guide() -> None:
    text = GUIDE.read_text()
    for name in (*EMBEDDED, *IN_FOLDER):
        assert f"`{name}`" in text


def test_the_guides_example_is_the_one_tried_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"```python\n{(OWN / 'my_project.py').read_text()}```" in GUIDE.read_text()
    monkeypatch.setattr(sys, "path", list(sys.path))
    # So that it is gone afterwards. A copy of all modules in their place would do away with torch,
    # where it is imported here first, and torch cannot be imported twice.
    monkeypatch.setitem(sys.modules, "my_project", None)
    sys.modules.pop("my_project")
    monkeypatch.chdir(OWN)
    data = load("my_project:data")
    assert [len(part) > 50 for part in partition(data, 3, Sites(), 0)] == [True] * 3
    net = trainer("my_project:model", data.shape, data.classes)
    trained, _ = net.fit(net.initial(0), data.train, LocalPlan(epochs=3))
    assert net.evaluate(trained, data.test)[1] > 0.95


# The hub, without one


class Image: ...


class ClassLabel:
    names = ("no", "yes")


class Rows:
    """As much of a Hugging Face data set as is used."""

    def __init__(self, count: int, features: dict[str, object]) -> None:
        rng = np.random.default_rng(count)
        self.features = features
        self._columns: dict[str, list[Any]] = {
            "picture": list(rng.integers(256, size=(count, 4, 4), dtype=np.uint8)),
            "truth": (np.arange(count) % 2).tolist(),
        }

    def __getitem__(self, column: str) -> list[Any]:
        return self._columns[column]


def hub_with(splits: dict[str, Rows] | Exception) -> Callable[[], Any]:
    class Federated:
        def __init__(self, **_: object) -> None: ...

        def load_split(self, name: str) -> Rows:
            if isinstance(splits, Exception):
                raise splits
            if name not in splits:
                raise ValueError(f"no split {name}")
            return splits[name]

    return lambda: Federated


@pytest.mark.parametrize(
    ("counts", "sizes"), [({"train": 10, "test": 4}, (10, 4)), ({"train": 10}, (8, 2))]
)
def test_hub(
    monkeypatch: pytest.MonkeyPatch, counts: dict[str, int], sizes: tuple[int, int]
) -> None:
    features: dict[str, object] = {"id": object(), "picture": Image(), "truth": ClassLabel()}
    splits = {name: Rows(count, features) for name, count in counts.items()}
    monkeypatch.setattr(hub, "federated_dataset", hub_with(splits))
    data = load("hub:somebody/things")
    assert (len(data.train), len(data.test)) == sizes
    assert (data.shape, data.class_names) == ((1, 4, 4), ("no", "yes"))


def test_hub_without_a_network_or_without_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "federated_dataset", hub_with(ConnectionError("no route")))
    with pytest.raises(
        ParameterError, match=r"hub:a/b cannot be loaded: no route\. Is there a net"
    ):
        load("hub:a/b")
    rows = Rows(4, {"text": object(), "truth": ClassLabel()})
    monkeypatch.setattr(hub, "federated_dataset", hub_with({"train": rows}))
    with pytest.raises(ParameterError, match=r"no Image column \(it has text, truth\)"):
        load("hub:a/b")


# Among devices


@settings(max_examples=40)
@given(
    count=st.integers(60, 300),
    classes=st.integers(2, 6),
    devices=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
    how=st.sampled_from([Iid(), Dirichlet(100.0), Dirichlet(1.0), Shards(1), Shards(2), Sites()]),
)
def test_partitions_are_disjoint_complete_and_repeatable(
    count: int, classes: int, devices: int, seed: int, how: Partition
) -> None:
    data = toy(count, classes, sites=devices)
    try:
        parts = partition(data, devices, how, seed)
    except ParameterError:
        if how == Dirichlet(1.0):  # eleven draws may all leave somebody with nothing
            return
        raise
    assert len(parts) == devices
    assert all(len(part) and part.dtype == np.int64 for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    again = partition(data, devices, how, seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


@pytest.mark.parametrize("how", [Iid(), Dirichlet(0.5), Shards(2)])
def test_another_seed_gives_another_partition(how: Partition) -> None:
    first, second = (partition(toy(), 4, how, seed) for seed in (1, 2))
    assert not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def unevenness(parts: list[NDArray[np.int64]], y: NDArray[np.int64]) -> float:
    """Mean over devices of the largest class's share: 1/classes if even, 1 if of one class."""
    return float(np.mean([np.bincount(y[part]).max() / len(part) for part in parts]))


def test_kinds_are_as_uneven_as_they_say() -> None:
    data = toy(4000, 10)
    kinds: list[Partition] = [Iid(), Dirichlet(100), Dirichlet(1.0), Dirichlet(0.1)]
    shares = [unevenness(partition(data, 10, how, 0), data.train.y) for how in kinds]
    assert max(shares[:2]) < 0.2 < shares[2] < 0.5 < shares[3]
    shards = partition(data, 10, Shards(2), 0)
    # 20 shards of 200 over classes of about 400: a shard meets two classes, rarely three.
    assert max(len(np.unique(data.train.y[part])) for part in shards) <= 6
    assert {len(part) for part in shards} == {400}


def test_sites_go_to_their_devices_in_order_of_name() -> None:
    data = toy(40, 2, sites=4)
    assert data.sites is not None
    for device, part in enumerate(partition(data, 4, Sites(), 7)):
        assert set(data.sites[part]) == {device}


@pytest.mark.parametrize(
    ("data", "devices", "how", "least", "says"),
    [
        (toy(20), 30, Iid(), 1, "30 devices .* need 30, but toy has 20: use fewer devices"),
        (toy(20), 4, Iid(), 6, "4 devices with at least 6 examples each need 24"),
        (toy(20), 0, Iid(), 1, "devices=0"),
        (toy(20), 3, Iid(), 0, "min_examples=0"),
        (
            toy(200),
            20,
            Dirichlet(0.01),
            5,
            r"dirichlet:0.01: device \d+ of 20 gets \d of the 200 .* fewer than 5: .*alpha above",
        ),
        (toy(21), 9, Shards(1), 1, "shards:1: 21 examples make too few shards for 9 devices"),
        (toy(22), 4, Shards(2), 5, r"shards:2: device \d of 4 gets 4 of the 22 .* fewer than 5"),
        (toy(20), 3, Sites(), 1, "toy does not say which site"),
        (toy(20, sites=4), 3, Sites(), 1, "has 4 sites, so devices must be 4, not 3"),
        (toy(21, sites=2), 2, Sites(), 10, ""),
    ],
)
def test_too_small_a_partition_names_the_device_and_the_remedy(
    data: Dataset, devices: int, how: Partition, least: int, says: str
) -> None:
    if not says:  # 11 and 10 examples: just enough
        assert len(partition(data, devices, how, 0, min_examples=least)) == devices
        return
    with pytest.raises(ParameterError, match=says):
        partition(data, devices, how, 0, min_examples=least)


@pytest.mark.parametrize("text", ["iid", "dirichlet:0.5", "dirichlet:100", "shards:2", "sites"])
def test_a_partition_is_written_as_it_is_read(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dirichlet", "expected iid, dirichlet:ALPHA"),
        ("dirchlet:0.5", "did you mean 'dirichlet'"),
        ("dirichlet:0", "alpha above 0"),
        ("dirichlet:nan", "alpha above 0"),
        ("dirichlet:inf", "alpha above 0"),
        ("dirichlet:half", "'half' is no number"),
        ("shards:0", "at least 1"),
        ("shards:1.5", "'1.5' is no number"),
        ("iid:3", "expected iid"),
        ("", "expected iid"),
    ],
)
def test_a_partition_misspelt(text: str, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        parse(text)


@pytest.mark.parametrize(("examples", "devices"), [(40, 1), (41, 7), (100, 100), (1000, 33)])
def test_equal_shares_are_those_of_flwr_datasets(examples: int, devices: int) -> None:
    """They are cut here, since it takes a millisecond for each: the same rows all the same."""
    from datasets import Dataset as Rows
    from flwr_datasets.partitioner import IidPartitioner

    rng = np.random.default_rng(5)
    half = Examples(rng.random((examples, 2), np.float32), rng.integers(0, 2, examples))
    found = partition(Dataset("d", half, half, 2, (2,)), devices, Iid(), seed=9)
    theirs = IidPartitioner(devices)
    order = np.random.default_rng(9).permutation(examples)
    theirs.dataset = Rows.from_dict({"index": order})
    for device, share in enumerate(found):
        assert sorted(theirs.load_partition(device)["index"]) == share.tolist()


def test_partitioning_is_quiet_offline_and_light() -> None:
    """No word on either stream, no connection, no plotting library, telemetry off; and the rest
    of flwr-datasets can still be imported afterwards."""
    program = """
import socket, sys
def refuse(*_): raise AssertionError("a connection was tried")
socket.socket.connect = socket.getaddrinfo = refuse
import numpy as np
from tacit.client.trainer import Examples
from tacit.simulations.data.dataset import Dataset
from tacit.simulations.data.partition import parse, partition
e = Examples(np.zeros((90, 1), np.float32), np.arange(90) % 3)
for how in ("iid", "dirichlet:0.5", "shards:2", "sites"):
    partition(Dataset("toy", e, e, 3, (1,), np.arange(90) % 5), 5, parse(how), 0)
assert "matplotlib" not in sys.modules and "torch" not in sys.modules
import flwr_datasets.common.telemetry as t
assert t.FLWR_TELEMETRY_ENABLED == "0"
from flwr_datasets import FederatedDataset, partitioner
"""
    environment = os.environ | {"FLWR_TELEMETRY_ENABLED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Small pieces


@given(count=st.integers(0, 50), fraction=st.floats(0, 0.99), seed=st.integers(0, 9))
def test_hold_out(count: int, fraction: float, seed: int) -> None:
    data = Examples(np.arange(count, dtype=np.float32)[:, None], np.arange(count))
    train, held = hold_out(data, fraction, seed)
    assert sorted([*train.y, *held.y]) == list(range(count))
    np.testing.assert_array_equal(train.x[:, 0], train.y)
    assert len(train) >= min(count, 1)
    assert len(held) == 0 if fraction == 0 or count < 2 else len(held) >= 1
    assert abs(len(held) - fraction * count) <= 1
    np.testing.assert_array_equal(hold_out(data, fraction, seed)[1].y, held.y)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_hold_out_of_an_impossible_fraction(fraction: float) -> None:
    with pytest.raises(ParameterError, match="0 <= fraction < 1"):
        hold_out(toy().train, fraction, 0)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_split_is_complete_and_stratified(strata: list[int]) -> None:
    train, test = split(np.array(strata))
    assert sorted([*train, *test]) == list(range(len(strata)))
    for value, count in Counter(strata).items():
        tested = sum(strata[i] == value for i in test)
        assert tested == 0 if count == 1 else 1 <= tested < count
        assert abs(tested - 0.2 * count) <= 1


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 3, 1, 2)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_images_come_out_channels_first(
    axes: tuple[int, ...], channels: int, dtype: type[np.unsignedinteger[Any]]
) -> None:
    top = np.iinfo(dtype).max
    last = np.random.default_rng(0).integers(top, size=(2, 5, 4, channels), dtype=dtype)
    last[0, 0, 0, 0] = top
    out = images(last.transpose(axes), "x")
    assert out.flags.c_contiguous
    assert out.shape == (2, channels, 5, 4)
    assert out.dtype == np.float32
    assert out.max() == 1.0
    np.testing.assert_allclose(out, last.transpose(0, 3, 1, 2) / top, rtol=1e-6)


def test_float_images_keep_their_values() -> None:
    x = np.random.default_rng(0).normal(size=(2, 1, 5, 4)).astype(np.float32)
    np.testing.assert_array_equal(images(x, "x"), x)


def test_the_split_never_changes() -> None:
    """A new release must not move an example from one half to the other, or results of two
    releases could not be compared."""
    train, test = split(np.arange(1000) % 7)
    assert (len(train), len(test)) == (798, 202)
    assert zlib.crc32(test.astype("<i8").tobytes()) == 3016042087


def test_tables_that_are_read_by_hand_are_what_scikit_learn_reads() -> None:
    from sklearn.datasets import load_breast_cancer, load_digits

    theirs = load_digits()
    ours = load("digits")
    both = np.concatenate([ours.train.x, ours.test.x]) * 16
    labels = np.concatenate([ours.train.y, ours.test.y])
    assert Counter(zip(map(bytes, both.astype(np.uint8)), labels.tolist(), strict=True)) == Counter(
        zip(map(bytes, theirs.images.astype(np.uint8)), theirs.target.tolist(), strict=True)
    )
    cancer, mine = load_breast_cancer(), load("breast-cancer")
    assert list(mine.class_names) == [str(name) for name in cancer.target_names]
    counts = Counter([*mine.train.y.tolist(), *mine.test.y.tolist()])
    assert counts == Counter(cancer.target.tolist())
