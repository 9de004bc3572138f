"""A server whose model lets few inputs of a large sum move it, and reads those.

Wen, Geiping, Fowl, Goldblum and Goldstein 2022, "Fishing for User Data in Large-Batch Federated
Learning via Gradient Magnification" (ICML, arXiv:2202.00580). All devices get one model, of the
structure that was agreed: only values are altered.

**Class fishing.** Let the last layer give all classes but c the score 0, and class c the score
w . h - b, with b so large that its probability p is next to nothing. What goes back into h is
w (p - [y = c]): of an input of class c all of w, of any other next to nothing. So the sum of the
gradients before the last layer is that of the inputs of class c. It does not matter on how many
devices they are, nor how many others there are.

**Feature fishing** tells inputs of one class apart: only those whose feature j is above a cut-off t
pull. The paper has a steep score of class c see to that. Where h comes out of a ReLU it takes no
steepness, and that is what is done here: w is 1 at j and 0 elsewhere, and the bias of neuron j puts
the edge of its ReLU at t. If public data say that one input in n is above t, then of n inputs of
the class it may well be one. A server that caught several, or none, takes another feature or
cut-off in the next round.

The linear read-out does the rest: exact where one input is left, a mixture where several are.

**What stops it.** No session binding: all devices have one model, the one that the session names.
No list of models: the structure is the agreed one. No number of other members, as they are not
heard. Noise bounds it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Arrays
from tacit.simulations.attacks.base import Conduct, Knows, Target, View, array_of, require
from tacit.simulations.attacks.linear import LinearReadout
from tacit.simulations.hostile import Sent

Floats = NDArray[np.float64]

# Probability e^-40 for the fished class: what it leaves of the others' gradients is far below what
# float32 rounds off the weights that they would move.
_UNLIKELY = 40.0


@dataclass(frozen=True, slots=True)
class ClassFishing:
    """Fishes for inputs of class `label`, and reads them off `layer`.

    `head` is the last layer of the model, linear; `layer` the first, linear with ReLU. `low`,
    `high` and `tolerance` are as in `LinearReadout`.
    """

    label: int
    shape: tuple[int, ...]
    layer: str = "fc0"
    head: str = "head"
    low: float = 0.0
    high: float = 1.0
    tolerance: float = 1e-3
    name: str = "class fishing"
    needs: Knows = Knows.NOTHING
    conduct: Conduct = Conduct.MALICIOUS
    target: Target = Target.INPUTS

    def send(
        self,
        model: Arrays,
        members: Sequence[int],
        public: NDArray[Any] | None,
        rng: np.random.Generator,
    ) -> Sent:
        """The model with the altered last layer, to all. Raises ParameterError if it has none, or
        no such class."""
        weight, _ = _layer(model, self.head)
        _check_label(self.label, weight)
        return Sent(_fishing_head(model, self.head, self.label, weight[self.label]))

    def reconstruct(self, view: View, rng: np.random.Generator) -> Floats:
        """The inputs that were caught first, then mixtures; none if no input is of that class.

        Draws nothing from `rng`. Raises ParameterError if the layer does not see such inputs.
        """
        require(view, self.needs, self.name)
        reader = LinearReadout(self.layer, self.shape, self.low, self.high, self.tolerance)
        return _haul(reader, view, rng)


@dataclass(frozen=True, slots=True)
class FeatureFishing:
    """Fishes for that input of class `label` whose feature is larger than any other's.

    The feature is neuron `feature` of `layer`, and the cut-off what one in `among` public examples
    exceeds: as many as there may be inputs of the class. The rest is as in `ClassFishing`, where
    `layer` has to be the one right before `head`.
    """

    label: int
    shape: tuple[int, ...]
    among: int
    feature: int = 0
    layer: str = "fc0"
    head: str = "head"
    low: float = 0.0
    high: float = 1.0
    tolerance: float = 1e-3
    name: str = "feature fishing"
    needs: Knows = Knows.PUBLIC_DATA
    conduct: Conduct = Conduct.MALICIOUS
    target: Target = Target.INPUTS

    def __post_init__(self) -> None:
        if self.among < 2:
            raise ParameterError(f"among={self.among}: one in how many, expected 2 or more")

    def send(
        self,
        model: Arrays,
        members: Sequence[int],
        public: NDArray[Any] | None,
        rng: np.random.Generator,
    ) -> Sent:
        """The model with an altered last layer, and an edge for its feature, to all.

        Raises ParameterError if the model has no such layers, class or feature, or the layers do
        not follow each other.
        """
        assert public is not None  # HostileServer sees to it
        (weight, _), (rows, offsets) = _layer(model, self.head), _layer(model, self.layer)
        _check_label(self.label, weight)
        if weight.shape[1] != len(offsets):
            raise ParameterError(f"{self.head} does not follow {self.layer}: {weight.shape}")
        if not 0 <= self.feature < len(offsets):
            raise ParameterError(f"feature={self.feature} of {len(offsets)} in {self.layer}")
        measured = public.reshape(len(public), -1) @ rows[self.feature]
        offsets[self.feature] = -np.quantile(measured, 1 - 1 / self.among)
        name = f"{self.layer}.bias"
        cut = {**model, name: offsets.astype(model[name].dtype)}
        only = np.eye(len(offsets))[self.feature]
        return Sent(_fishing_head(cut, self.head, self.label, only))

    def reconstruct(self, view: View, rng: np.random.Generator) -> Floats:
        """What was caught, one input or one mixture; none if no input is above the cut-off.

        Draws nothing from `rng`. Raises ParameterError if the layer does not see such inputs.
        """
        require(view, self.needs, self.name)
        reader = LinearReadout(self.layer, self.shape, self.low, self.high, self.tolerance)
        return _haul(reader, view, rng)


def _layer(model: Arrays, name: str) -> tuple[Floats, Floats]:
    """Weight (k, inputs) and bias (k,) of a linear layer, as copies in float64."""
    weight = array_of(model, f"{name}.weight", "model").copy()
    bias = array_of(model, f"{name}.bias", "model").copy()
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise ParameterError(f"{name} is no linear layer: {weight.shape}, {bias.shape}")
    return weight, bias


def _check_label(label: int, weight: Floats) -> None:
    if not 0 <= label < len(weight):
        raise ParameterError(f"label={label} of {len(weight)} classes")


def _fishing_head(model: Arrays, head: str, label: int, row: Floats) -> dict[str, NDArray[Any]]:
    """`model` with a last layer that scores h by `row` for one class, which is unlikely."""
    weight, bias = _layer(model, head)
    weight[...], bias[...] = 0, 0
    weight[label], bias[label] = row, -_UNLIKELY
    values = {f"{head}.weight": weight, f"{head}.bias": bias}
    return {**model, **{name: new.astype(model[name].dtype) for name, new in values.items()}}


def _haul(reader: LinearReadout, view: View, rng: np.random.Generator) -> Floats:
    """What the read-out finds, and nothing where nothing moved."""
    if not array_of(view.update, f"{reader.layer}.bias", "update").any():
        return np.zeros((0, *reader.shape))
    return reader.reconstruct(view, rng)
