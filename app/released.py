"""A released model, from a run's folder or a sealed file, as it may be served."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load

from tacit.app import config, journal, material
from tacit.app.config import Settings
from tacit.app.folder import MODEL
from tacit.app.sealing import SUFFIX, read_key
from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.sealed import unseal
from tacit.server import auditlog, entries
from tacit.server.gate.card import Card
from tacit.server.gate.model import TorchModel
from tacit.server.kinds import Released
from tacit.simulations.data.dataset import Dataset
from tacit.simulations.models import factory

CONFIG = "config.toml"
UNBOUNDED = 1e6  # of features that no scale is known for


@dataclass(frozen=True, slots=True)
class Release:
    """A model that can be asked, its card, and the run it is of. `is_logged` if the run's audit log
    says that it is what was released."""

    model: TorchModel
    card: Card
    settings: Settings
    dataset: Dataset
    is_logged: bool


def opened(path: Path, key: Path | None, most: int) -> Release:
    """`path` is a run's folder, or what `tacit seal` made of its model, which `key` opens; the
    run's settings, and its audit log if there is one, are beside it.

    Raises ParameterError if something is not there or cannot be served; Damaged for a file, or a
    log, that is not what it was, and for a model that the log does not say was released.
    """
    file = path / MODEL if path.is_dir() else path
    folder = file.parent
    content = _content(file, key)
    digest = hashlib.sha256(content).hexdigest()
    is_logged = _check_released(folder / journal.LOG, digest)
    settings = config.load(folder / CONFIG)
    dataset = material.material(settings.data, settings.run.seed).dataset
    card = Card(
        f"{settings.model.name} of {settings.data.name}", digest, dataset.shape, dataset.classes,
        *_range(dataset), most,
    )  # fmt: skip
    return Release(_model(content, settings, dataset), card, settings, dataset, is_logged)


def _content(file: Path, key: Path | None) -> bytes:
    is_sealed = file.name.endswith(SUFFIX)
    if is_sealed and key is None:
        raise ParameterError(f"{file} is sealed: --key names the file with what opens it")
    try:
        with file.open("rb", buffering=0) as source:
            if is_sealed and key is not None:
                return b"".join(unseal(source, read_key(key))[1])
            return source.read()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ParameterError(f"no model at {file}: a finished run's folder has one") from None


def _check_released(log: Path, digest: str) -> bool:
    """Whether a log says so. Raises Damaged if it says something else."""
    if not log.exists():
        return False
    said = None
    with log.open("rb") as file:
        for batch in auditlog.batches(file):
            for each in batch.entries:
                entry = entries.read(each).entry
                if isinstance(entry, Released) and entry.name == MODEL:
                    said = entry.digest
    if said is not None and said != digest:
        raise Damaged(
            f"the model is not the one that {log} says was released: {digest}, not {said}; it is "
            "not served"
        )
    return said is not None


def _range(dataset: Dataset) -> tuple[float, float]:
    """Pictures are from 0 to 1. Of other data nothing is said: their range is their owners'."""
    x = dataset.test.x
    is_picture = len(dataset.shape) == 3 and x.min() >= 0 and x.max() <= 1
    return (0.0, 1.0) if is_picture else (-UNBOUNDED, UNBOUNDED)


def _model(content: bytes, settings: Settings, dataset: Dataset) -> TorchModel:
    module = factory(settings.model.name)(dataset.shape, dataset.classes)
    try:
        module.load_state_dict(load(content))
    except SafetensorError as bad:
        raise Damaged(f"the model is no safetensors file: {bad}") from None
    except RuntimeError:
        raise ParameterError(
            f"the model's arrays are not those of {settings.model.name} for "
            f"{settings.data.name}, which {CONFIG} names"
        ) from None
    return TorchModel(module, dataset.shape)
