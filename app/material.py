"""What the settings name, loaded once per process: the data set, its partition, the trainer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np

from tacit.app.sections import Data, Model
from tacit.client.private_trainer import DescendingTrainer
from tacit.client.signature import SigningTrainer
from tacit.client.trainer import Examples, Trainer
from tacit.crypto.errors import ParameterError, TacitError
from tacit.simulations.data.dataset import Dataset, hold_out, take
from tacit.simulations.data.partition import partition
from tacit.simulations.data.sources import load
from tacit.simulations.models import trainer


@dataclass(frozen=True, slots=True)
class Material:
    """A data set, and which training examples each device holds."""

    dataset: Dataset
    shares: tuple[tuple[int, ...], ...]

    def examples(self, device: int) -> Examples:
        """The training examples of device 0, 1, ... Raises ParameterError for one too many."""
        if not 0 <= device < len(self.shares):
            raise ParameterError(
                f"device {device} of {len(self.shares)}: data.devices must be the number of devices"
            )
        return take(self.dataset.train, np.array(self.shares[device], dtype=np.int64))


@lru_cache(maxsize=4)
def material(data: Data, seed: int) -> Material:
    """Load and divide a data set. Raises ParameterError that says what to do."""
    dataset = load(data.name, root=Path(data.root) if data.root else None)
    shares = partition(dataset, data.devices, data.how, seed, min_examples=data.min_examples)
    if data.limit:
        # A share is sorted, so its head is not a fair sample of it: draw one.
        rng = np.random.default_rng([seed, data.limit])
        shares = [np.sort(rng.permutation(share)[: data.limit]) for share in shares]
    return Material(dataset, tuple(tuple(share.tolist()) for share in shares))


@lru_cache(maxsize=4)
def trainer_for(model: Model, data: Data, seed: int) -> Trainer:
    """The trainer that the settings name, for the shape of their data."""
    dataset = material(data, seed).dataset
    return trainer(model.name, dataset.shape, dataset.classes, backend=model.backend)


@contextmanager
def trying(model: Model, done: str) -> Iterator[None]:
    """Once, before a run starts: whatever a model raises inside is a ParameterError that says what
    could not be `done` to it."""
    try:
        yield
    except TacitError:
        raise
    except Exception as error:  # a user's own model may raise anything at all
        raise ParameterError(
            f"model {model.name} cannot be {done}: {type(error).__name__}: {error}"
        ) from error


def descending(trainer: Trainer) -> DescendingTrainer:
    """The trainer as one that protects examples. Raises ParameterError if it is none."""
    if not hasattr(trainer, "descent"):
        raise ParameterError(
            f"{type(trainer).__name__} cannot tell examples apart: privacy.unit = record takes a "
            "torch.nn.Module, a built-in model, or a trainer with `descent`"
        )
    return cast(DescendingTrainer, trainer)


def signing(trainer: Trainer) -> SigningTrainer:
    """The trainer as one that signs models. Raises ParameterError if it does not."""
    if not hasattr(trainer, "fit_signed"):
        raise ParameterError(
            f"{type(trainer).__name__} cannot sign models: mark.bits takes torch "
            "(model.backend = torch), or a trainer with `fit_signed`"
        )
    return cast(SigningTrainer, trainer)


@lru_cache(maxsize=1024)
def device_data(data: Data, seed: int, device: int) -> tuple[Examples, Examples]:
    """One device's examples: (to train on, held out)."""
    return hold_out(material(data, seed).examples(device), data.hold_out, seed + device)
