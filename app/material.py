"""What the settings name, loaded once per process: the data set, its partition, the trainer."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from tacit.app.config import Data, Model, Settings
from tacit.client.trainer import Examples, Trainer
from tacit.crypto.errors import ParameterError
from tacit.server.pairwise import MAX_COHORT
from tacit.simulations.data import Dataset, hold_out, take
from tacit.simulations.faults import check_devices
from tacit.simulations.models import trainer
from tacit.simulations.partition import partition
from tacit.simulations.sources import load


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


@lru_cache(maxsize=1024)
def device_data(data: Data, seed: int, device: int) -> tuple[Examples, Examples]:
    """One device's examples: (to train on, held out)."""
    return hold_out(material(data, seed).examples(device), data.hold_out, seed + device)


def check(settings: Settings) -> None:
    """Load everything a run needs. Raises ParameterError before any folder is made."""
    check_devices(settings.fault_plan, settings.data.devices)
    if settings.secure.protocol != "plain":
        _check_cohort(settings)
    trainer_for(settings.model, settings.data, settings.run.seed)


def _check_cohort(settings: Settings) -> None:
    """A cohort that no device would join, or that is too large for one sum, is no use to start."""
    settings.secure.pairwise()
    policy = settings.policy.policy(plain=False)
    cohort = max(2, int(settings.data.devices * settings.strategy.fraction_train))
    if cohort > MAX_COHORT:
        raise ParameterError(
            f"{cohort} devices in a round, a secure sum is over at most {MAX_COHORT}: "
            f"set strategy.fraction_train to {MAX_COHORT / settings.data.devices:.2g} or less"
        )
    if cohort < policy.min_cohort:
        raise ParameterError(
            f"{cohort} devices in a round, each asks for {policy.min_cohort} (policy.min_cohort): "
            "use more devices, or lower it"
        )
