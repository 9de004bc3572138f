"""Marks of a run: whose keys there are, what is committed to, and what trains them in.

A mark's key is a file of 32 random bytes that only its owner may read. The server's is named by
mark.key. A deployed device's is named by the environment variable TACIT_MARK_KEY of its node:
the environment is its owner's, and a device without it does not sign. Keys of simulated devices are
derived, and no secret: whoever wants to can be one.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import Context

from tacit.app.config import Settings
from tacit.app.material import material, signing, trainer_for, trying
from tacit.app.sections import Mark
from tacit.client.device import is_deployed
from tacit.client.files import new_file, read_private
from tacit.client.signature import Signature
from tacit.client.trainer import Arrays
from tacit.crypto import labels
from tacit.crypto.errors import ParameterError
from tacit.crypto.mark import MarkKey, Signs, Triggers
from tacit.crypto.simulated import simulated_identity
from tacit.server.kinds import MarkCommitted
from tacit.simulations.data.dataset import take
from tacit.simulations.ownership import (
    Evidence,
    embedding,
    examples_of,
    sign_evidence,
    signature_of,
    trigger_evidence,
)
from tacit.strategies.watermark import Embed

DEVICE_KEY = "TACIT_MARK_KEY"
BITS_ONLY = ("array", "weight", "commitments")  # settings that go with mark.bits
ROOM = 20  # numbers of a model for each trigger


@dataclass(frozen=True, slots=True)
class Suspect:
    """A model, and the settings that say what it is of and which marks were put in."""

    arrays: Arrays
    settings: Settings

    @property
    def marks(self) -> tuple[Triggers | Signs, ...]:
        mark = self.settings.mark
        signs = mark.by_devices
        return (mark.by_server,) if signs is None else (mark.by_server, signs)

    def evidence(self, mark: Triggers | Signs, key: MarkKey, claims: int) -> Evidence:
        if isinstance(mark, Signs):
            return sign_evidence(self.arrays, signature_of(mark, key, self.arrays), claims)
        settings = self.settings
        dataset = material(settings.data, settings.run.seed).dataset
        trainer = trainer_for(settings.model, settings.data, settings.run.seed)
        examples = examples_of(mark, key, dataset.shape, dataset.classes)
        return trigger_evidence(trainer, self.arrays, examples, dataset.classes, claims)


def new_key(path: Path, key: MarkKey) -> None:
    """Keep a key where only its owner may read it. Raises ParameterError if a file is there."""
    new_file(path, key.secret)


def read_key(path: Path) -> MarkKey:
    """Raises ParameterError for anything but a file of `new_key` that others may not read."""
    if not path.is_file():
        raise ParameterError(f"no key of a mark at {path}: tacit mark new makes one")
    secret = read_private(path)
    try:
        return MarkKey(secret)
    except ParameterError:
        raise ParameterError(f"{path} is no key that tacit mark new made") from None


def simulated_key(device: int) -> MarkKey:
    """The key of simulated device 1, 2, ..."""
    return MarkKey(simulated_identity(device).derive(labels.MARK_SIGNS))


def commitments(settings: Settings, *, simulated: bool) -> Iterator[MarkCommitted]:
    """What has to be in the audit log before the first round, of `simulated` devices or others."""
    mark = settings.mark
    if mark.key:
        triggers = mark.by_server
        key = read_key(Path(mark.key))
        yield MarkCommitted(triggers.kind, triggers.commitment(key).hex())
    if (signs := mark.by_devices) is None:
        return
    known = mark.committed
    if simulated and not known:
        keys = map(simulated_key, range(1, settings.data.devices + 1))
        known = tuple(signs.commitment(key).hex() for key in keys)
    for each in known:
        yield MarkCommitted(signs.kind, each)


def embed_for(settings: Settings) -> Embed | None:
    """What puts the server's triggers into models; None: there are none."""
    mark, seed = settings.mark, settings.run.seed
    if not mark.key:
        return None
    dataset = material(settings.data, seed).dataset
    key = read_key(Path(mark.key))
    examples = examples_of(mark.by_server, key, dataset.shape, dataset.classes)
    return embedding(trainer_for(settings.model, settings.data, seed), examples)


def signature_for(settings: Settings, context: Context, model: Arrays) -> Signature | None:
    """What this device signs a model with; None: it does not."""
    signs = settings.mark.by_devices
    key = None if signs is None else _own_key(context)
    if signs is None or key is None:
        return None
    return signature_of(signs, key, model, settings.mark.weight)


def _own_key(context: Context) -> MarkKey | None:
    if is_deployed(context):
        path = os.environ.get(DEVICE_KEY)
        return read_key(Path(path)) if path else None
    partition = context.node_config.get("partition-id")
    return simulated_key(partition + 1) if isinstance(partition, int) else None


def check_mark(settings: Settings, size: int) -> None:
    """There is room for the marks in a model of so many numbers, it takes them, and nothing is set
    that has no part in one. Raises ParameterError that says what to change."""
    mark, none, seed = settings.mark, Mark(), settings.run.seed
    needs = {"triggers": ("key", mark.key), **dict.fromkeys(BITS_ONLY, ("bits", mark.bits))}
    for key, (where, is_there) in needs.items():
        if not is_there and getattr(mark, key) != getattr(none, key):
            raise ParameterError(f"mark.{key} means nothing without mark.{where}: leave it out")
    trainer = trainer_for(settings.model, settings.data, seed)
    model = trainer.initial(seed)
    if (embed := embed_for(settings)) is not None:
        if size < ROOM * mark.triggers:
            raise ParameterError(
                f"a model of {size} numbers has no room for {mark.triggers} triggers beside its "
                f"task: it takes {ROOM} for each; lower mark.triggers, or take a larger model"
            )
        with trying(settings.model, "marked"):
            embed(model)
    if (signs := mark.by_devices) is None:
        return
    if settings.privacy.unit == "record" and settings.privacy.mode != "none":
        raise ParameterError("mark.bits pulls at the steps of devices: not with unit = record")
    signature = signature_of(signs, simulated_key(1), model)
    signature.require_place(model)
    devices, place = settings.data.devices, signature.rows.shape[1]
    if devices * mark.bits > place:
        raise ParameterError(
            f"{devices} devices with {mark.bits} bits each sign {place} numbers of array "
            f"{signature.array!r}: lower mark.bits, or name a larger mark.array"
        )
    first = take(material(settings.data, seed).dataset.test, np.arange(1))
    plan = settings.train.plan(seed=seed, proximal_mu=0.0)
    with trying(settings.model, "marked"):
        signing(trainer).fit_signed(model, first, plan, signature)
