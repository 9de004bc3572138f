"""Putting an owner's mark into a model, and what it proves when it is found in another one.

A claim is tested against one hypothesis: that the model was made without the key. Then hits are
binomial, exactly (`tacit.crypto.mark`), and the p-value is the chance of so many. It has to be at
most SIGNIFICANCE, divided by the number of claims that could have been made instead: both kinds of
marks, times the keys that the same log commits to (Bonferroni).

A p-value holds for a key that was there first. Of keys that are tried on a finished model, one in
1/p does as well, and trying costs nothing: hence the commitment.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tacit.client.signature import WEIGHT, Signature
from tacit.client.trainer import Arrays, Examples, LocalPlan, Trainer
from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.mark import MarkKey, Signs, Triggers
from tacit.server.auditlog import batches, verify
from tacit.server.entries import read
from tacit.server.events import RoundStarted
from tacit.server.kinds import MarkCommitted

SIGNIFICANCE = 1e-6  # chance that a model which has nothing to do with any key is claimed
LEARNT = 0.05  # mean loss (nats): well inside a label's region, or rounding the model loses it
MOST_EPOCHS = 30  # after one aggregation; what is not learnt then is gone on with after the next
PLAN = LocalPlan(epochs=1, batch_size=10, learning_rate=0.02, momentum=0.9)
STATISTICS = "running_mean"  # how torch names what batch normalisation has seen


@dataclass(frozen=True, slots=True)
class Evidence:
    """How many of a key's triggers or bits are in a model, and the `chance` of each without it."""

    kind: str
    hits: int
    of: int
    chance: float
    claims: int = 1

    @property
    def share(self) -> float:
        return self.hits / self.of

    @property
    def p(self) -> float:
        """The chance of so many hits, or more, in a model made without the key."""
        return float(_more_than(np.array(self.hits - 1), self.of, self.chance))

    @property
    def threshold(self) -> float:
        """The largest p-value that verifies."""
        return SIGNIFICANCE / self.claims

    @property
    def needed(self) -> int:
        """The fewest hits that verify; more than there are if none do."""
        enough = _more_than(np.arange(-1, self.of), self.of, self.chance) <= self.threshold
        return int(np.argmax(enough)) if enough.any() else self.of + 1

    @property
    def verifies(self) -> bool:
        return self.p <= self.threshold


def _more_than(hits: NDArray[np.int64], of: int, chance: float) -> NDArray[np.float64]:
    """The chance of more than so many hits, each."""
    from scipy.stats import binom  # a device that only trains a mark in has no need of it

    found: NDArray[np.float64] = binom.sf(hits, of, chance)
    return found


def committed_in(log: Path) -> dict[str, float]:
    """What an audit log commits to before its first round, with the Unix time of each. All of the
    log is held against its signatures first. Raises Damaged for one that is not what it was."""
    verify(log)
    found: dict[str, float] = {}
    with log.open("rb") as file:
        for batch in batches(file):
            for each in batch.entries:
                try:
                    noted = read(each)
                except Damaged:
                    continue  # of a later version: no commitment that this one knows of
                if isinstance(noted.entry, RoundStarted):
                    return found
                if isinstance(noted.entry, MarkCommitted):
                    found.setdefault(noted.entry.commitment, noted.at)
    return found


def examples_of(triggers: Triggers, key: MarkKey, shape: tuple[int, ...], classes: int) -> Examples:
    """A key's triggers for models of such inputs and so many classes."""
    return Examples(triggers.inputs(key, shape), triggers.labels(key, classes))


def embedding(trainer: Trainer, examples: Examples) -> Callable[[Arrays], Arrays]:
    """What trains triggers into a model until their loss is LEARNT, and leaves one alone that has
    them. The same model gives the same model."""

    def embed(model: Arrays) -> Arrays:
        if any(name.endswith(STATISTICS) for name in model):
            raise ParameterError(
                "a model with batch normalisation cannot be given triggers: its statistics would "
                "become those of noise; use one with group normalisation, such as resnet"
            )
        for _ in range(MOST_EPOCHS):
            if trainer.evaluate(model, examples)[0] <= LEARNT:
                break
            model, _ = trainer.fit(model, examples, PLAN)
        return model

    return embed


def trigger_evidence(
    trainer: Trainer, model: Arrays, examples: Examples, classes: int, claims: int = 1
) -> Evidence:
    """Ask the model. Raises ParameterError if it is of another kind than the trainer's."""
    _, right = trainer.evaluate(model, examples)
    hits = round(right * len(examples))
    return Evidence(Triggers.kind, hits, len(examples), 1 / classes, claims)


def place_of(signs: Signs, model: Arrays) -> str:
    """The array that is signed: the one that is named, or else the largest of float32."""
    if signs.array:
        return signs.array
    fit = {name: array.size for name, array in model.items() if array.dtype == np.float32}
    if not fit:
        raise ParameterError("the model has no array of float32 to sign")
    return max(fit, key=lambda name: fit[name])


def signature_of(signs: Signs, key: MarkKey, model: Arrays, weight: float = WEIGHT) -> Signature:
    """A key's bits, in this model. Raises ParameterError if there is no such array."""
    array = place_of(signs, model)
    if array not in model:
        raise ParameterError(f"the model has no array {array!r}: it has {', '.join(model)}")
    return Signature(array, signs.rows(key, model[array].size), weight)


def sign_evidence(model: Arrays, signature: Signature, claims: int = 1) -> Evidence:
    """Look at the weights. Raises ParameterError as `Signature.hits`."""
    return Evidence(Signs.kind, signature.hits(model), len(signature.rows), 0.5, claims)
