"""Dividing a data set among devices, with the partitioners of flwr-datasets.

They are given the labels and sites alone, in an order shuffled with the seed, and give back which
row goes where.
"""

import io
import warnings
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.simulations.data.dataset import Dataset
from tacit.simulations.data.flower_data import partitioners
from tacit.simulations.named import nearest


@dataclass(frozen=True, slots=True)
class Iid:
    """Every device gets a random, equal share."""

    def __str__(self) -> str:
        return "iid"


@dataclass(frozen=True, slots=True)
class Dirichlet:
    """Each class is spread over the devices in proportions drawn from Dirichlet(alpha).

    The smaller alpha > 0, the more uneven: 0.1 gives devices of one or two classes, 100 almost
    equal ones (Hsu, Qi & Brown 2019).
    """

    alpha: float

    def __post_init__(self) -> None:
        if not 0 < self.alpha < np.inf:
            raise ParameterError(f"dirichlet:{self.alpha}, expected alpha above 0, such as 0.5")

    def __str__(self) -> str:
        return f"dirichlet:{self.alpha:g}"


@dataclass(frozen=True, slots=True)
class Shards:
    """Sorted by label, cut into equal shards, `per_device` to a device (McMahan et al. 2017).

    Where the examples do not come out even, the last shard is smaller and some devices may get a
    shard less.
    """

    per_device: int

    def __post_init__(self) -> None:
        if self.per_device < 1:
            raise ParameterError(f"shards:{self.per_device}, expected at least 1, such as 2")

    def __str__(self) -> str:
        return f"shards:{self.per_device}"


@dataclass(frozen=True, slots=True)
class Sites:
    """One device per place the data come from, in order of the places' names."""

    def __str__(self) -> str:
        return "sites"


Partition: TypeAlias = Iid | Dirichlet | Shards | Sites


def parse(text: str) -> Partition:
    """Read "iid", "dirichlet:0.5", "shards:2" or "sites"; `str` writes it again.

    Raises ParameterError for anything else.
    """
    kind, colon, value = text.strip().partition(":")
    if kind in ("iid", "sites") and not colon:
        return Iid() if kind == "iid" else Sites()
    if kind in ("dirichlet", "shards") and value:
        try:
            return Dirichlet(float(value)) if kind == "dirichlet" else Shards(int(value))
        except ParameterError:  # a ValueError too, and it says more
            raise
        except ValueError as not_a_number:
            raise ParameterError(f"partition {text!r}: {value!r} is no number") from not_a_number
    hint = nearest(kind, ["iid", "dirichlet", "shards", "sites"])
    raise ParameterError(
        f"partition {text!r}{hint}: expected iid, dirichlet:ALPHA, shards:COUNT or sites"
    )


def partition(
    dataset: Dataset, devices: int, how: Partition, seed: int, *, min_examples: int = 1
) -> list[NDArray[np.int64]]:
    """Which training examples each device holds: `devices` ascending index arrays.

    They are disjoint, cover every training example, and depend on the arguments alone.
    Raises ParameterError if a device would get fewer than `min_examples`; it names the device,
    what it would get, and what to change.
    """
    count = len(dataset.train)
    if devices < 1 or min_examples < 1:
        raise ParameterError(f"devices={devices}, min_examples={min_examples}, expected 1 or more")
    if devices * min_examples > count:
        raise ParameterError(
            f"{devices} devices with at least {min_examples} examples each need "
            f"{devices * min_examples}, but {dataset.name} has {count}: use fewer devices"
        )
    if isinstance(how, Sites):
        _require_sites(dataset, devices)
    order = np.random.default_rng(seed).permutation(count)
    found = _assign(dataset, devices, how, seed, order, min_examples)
    for device, indices in enumerate(found):
        if len(indices) < min_examples:
            raise ParameterError(
                f"partition {how}: device {device} of {devices} gets {len(indices)} of the "
                f"{count} examples of {dataset.name}, fewer than {min_examples}: {_remedy(how)}"
            )
    return found


def _require_sites(dataset: Dataset, devices: int) -> None:
    if dataset.sites is None:
        raise ParameterError(
            f"partition sites: {dataset.name} does not say which site an example comes from; "
            "use iid, dirichlet:ALPHA or shards:COUNT"
        )
    sites = len(np.unique(dataset.sites))
    if sites != devices:
        raise ParameterError(
            f"partition sites: {dataset.name} has {sites} sites, so devices must be {sites}, "
            f"not {devices}"
        )


def _remedy(how: Partition) -> str:
    if isinstance(how, Dirichlet):
        return f"use fewer devices, another seed, or an alpha above {how.alpha:g}"
    if isinstance(how, Sites):
        return "lower the minimum, or leave that site out of the data"
    return "use fewer devices"


def _assign(
    dataset: Dataset,
    devices: int,
    how: Partition,
    seed: int,
    order: NDArray[np.int64],
    min_examples: int,
) -> list[NDArray[np.int64]]:
    """What flwr-datasets makes of it; a device may still be left with too little."""
    if isinstance(how, Iid):  # equal runs of rows, as there, where each takes a millisecond
        return [np.sort(part) for part in np.array_split(order, devices)]
    kinds = partitioners()
    from datasets import Dataset as Table

    columns: dict[str, Any] = {"index": order, "label": dataset.train.y[order]}
    if isinstance(how, Sites) and dataset.sites is not None:
        columns["site"] = np.unique(dataset.sites, return_inverse=True)[1][order]
    table = Table.from_dict(columns)
    if not isinstance(how, Dirichlet):
        return _rows(_partitioner(kinds, devices, how, seed, len(order)), table, devices)
    try:
        return _rows(_dirichlet(kinds, devices, how, seed, min_examples), table, devices)
    except ValueError:  # it gave up drawing: let the first draw through, to show what is short
        return _rows(_dirichlet(kinds, devices, how, seed, 0), table, devices)


def _partitioner(kinds: Any, devices: int, how: Shards | Sites, seed: int, count: int) -> Any:
    if isinstance(how, Sites):
        return kinds.NaturalIdPartitioner("site")
    # Given the number of shards instead of their size, it rounds down and drops what is over.
    size = -(-count // (devices * how.per_device))
    if -(-count // size) < devices:
        raise ParameterError(
            f"partition {how}: {count} examples make too few shards for {devices} devices: "
            "use fewer devices or shards"
        )
    return kinds.ShardPartitioner(
        devices, "label", shard_size=size, keep_incomplete_shard=True, seed=seed
    )


def _dirichlet(kinds: Any, devices: int, how: Dirichlet, seed: int, min_examples: int) -> Any:
    return kinds.DirichletPartitioner(
        devices, "label", float(how.alpha), min_partition_size=min_examples, seed=seed
    )


def _rows(partitioner: Any, table: Any, devices: int) -> list[NDArray[np.int64]]:
    partitioner.dataset = table
    # Progress bars of a millisecond's work, and warnings about other libraries' internals.
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        parts = [partitioner.load_partition(device)["index"] for device in range(devices)]
    return [np.sort(np.array(part, dtype=np.int64)) for part in parts]
