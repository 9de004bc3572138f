"""How often each label is behind an update, read off the last layer.

For scores z = W e + b of an input with features e, cross-entropy has dL/dz = p - onehot(y), where
p is the softmax of z. Averaged over n inputs, of which n_c have label c, the gradients are

    dL/db[c] = mean(p[c]) - n_c / n,        dL/dW[c] = mean((p[c] - onehot(y)[c]) * e).

A sum over devices hides none of this: it is the same mean over more inputs. Who has which label is
not told. Of an update of one full-batch SGD step all three attacks below are exact for one input.
For more, `LabelCounts` is exact wherever it knows mean(p) to within 1 / (2 n): always where the
last layer's weights are 0, and nearly always where the model has not been trained.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.base import Conduct, Knows, Target, View, array_of, require

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LoneLabel:
    """The label of one input: only its bias grows (iDLG).

    Zhao, Mopuri and Bilen 2020, "iDLG: Improved Deep Leakage from Gradients" (arXiv:2001.02610),
    section 3. Needs one input and `layer`.bias, and is exact for a step of any length.
    """

    layer: str
    name: str = "iDLG label"
    needs: Knows = Knows.NOTHING
    conduct: Conduct = Conduct.HONEST
    target: Target = Target.LABELS

    def reconstruct(self, view: View, rng: np.random.Generator) -> Labels:
        """One label. Raises ParameterError for more inputs, or a bias that did not move."""
        if view.inputs != 1:
            raise ParameterError(f"{self.name} is for one input, this update has {view.inputs}")
        return np.array([infer_label(-_bias_gradient(view, self.layer))])


@dataclass(frozen=True, slots=True)
class DistinctLabels:
    """The labels of a batch that repeats none: the classes with the lowest entry of dL/dW.

    Yin et al. 2021, "See through Gradients: Image Batch Recovery via GradInversion" (CVPR), section
    3.2. It takes features that are not negative (after a ReLU or a sigmoid), as there a row of
    dL/dW has a negative entry only through an input of its own class.
    """

    layer: str
    name: str = "GradInversion labels"
    needs: Knows = Knows.NOTHING
    conduct: Conduct = Conduct.HONEST
    target: Target = Target.LABELS

    def reconstruct(self, view: View, rng: np.random.Generator) -> Labels:
        """Raises ParameterError for more inputs than classes: one of them repeats for certain."""
        weight = -array_of(view.update, f"{self.layer}.weight", "update")
        if weight.ndim != 2 or not weight.any():
            raise ParameterError(f"{self.layer}.weight did not move: there is nothing to read")
        if view.inputs > len(weight):
            raise ParameterError(
                f"{self.name} takes labels to be distinct: {view.inputs} inputs have no more than "
                f"{len(weight)} classes"
            )
        lowest = weight.min(axis=1)
        return np.sort(np.argsort(lowest, kind="stable")[: view.inputs])


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """How many inputs of each label: n * (mean(p) - dL/db), rounded to a sum of n.

    The equation is that of Geng et al. 2021, "Towards General Deep Leakage in Federated Learning"
    (arXiv:2110.09074), and of iLRG (Ma et al. 2023, "Instance-wise Batch Label Restoration via
    Gradients in Federated Learning", ICLR), which estimates mean(p) from features that it recovers
    class by class. Here it is the softmax of the *mean* features, read off the rows of classes that
    are hardly there, dL/db > 0: they are what `LinearReadout` calls a mixture, of all inputs with
    weights near 1 / n. That needs no public data, and no row is divided by a bias near 0.

    Needs the learning rate, for the size of the gradient, and one full-batch step.
    """

    layer: str
    name: str = "label counts"
    needs: Knows = Knows.LEARNING_RATE
    conduct: Conduct = Conduct.HONEST
    target: Target = Target.LABELS

    def reconstruct(self, view: View, rng: np.random.Generator) -> Labels:
        """Raises ParameterError if the learning rate is not granted or the layer does not fit."""
        require(view, self.needs, self.name)
        assert view.learning_rate is not None
        bias = _bias_gradient(view, self.layer) / view.learning_rate
        weight = -array_of(view.update, f"{self.layer}.weight", "update") / view.learning_rate
        sent = (
            array_of(view.model, f"{self.layer}.weight", "model"),
            array_of(view.model, f"{self.layer}.bias", "model"),
        )
        if weight.ndim != 2 or (weight.shape, bias.shape) != (sent[0].shape, sent[1].shape):
            raise ParameterError(f"{self.layer} of the update is not shaped as that of the model")
        chances = _softmax(sent[0] @ _mean_features(weight, bias) + sent[1])
        counts = _rounded(view.inputs * (chances - bias), view.inputs)
        return np.repeat(np.arange(len(counts)), counts)


def infer_label(bias_update: NDArray[np.float64]) -> int:
    """The label of the only input behind an update, from the last layer's bias, shape (classes,).

    Zhao, Mopuri and Bilen 2020, "iDLG: Improved Deep Leakage from Gradients": the gradient of the
    cross-entropy is softmax - onehot, negative for the label alone, so that only its bias grows.
    """
    if bias_update.ndim != 1:
        raise ParameterError("the last layer has no bias to read the label from: grant LABELS")
    return int(bias_update.argmax())


def _bias_gradient(view: View, layer: str) -> Floats:
    """dL/db times the length of the step, shape (classes,)."""
    bias = -array_of(view.update, f"{layer}.bias", "update")
    if bias.ndim != 1 or not bias.any():
        raise ParameterError(f"{layer}.bias did not move: there is nothing to read")
    return bias


def _mean_features(weight: Floats, bias: Floats) -> Floats:
    """Of all inputs, shape (features,), by the gradients of classes that few of them have.

    Those of the others would say the same, as all rows sum to 0.
    """
    rare = bias > 0
    if not rare.any():  # cannot be without noise, as dL/db sums to 0
        return np.zeros(weight.shape[1])
    features: Floats = weight[rare].sum(axis=0) / bias[rare].sum()
    return features


def _softmax(scores: Floats) -> Floats:
    powers: Floats = np.exp(scores - scores.max())
    powers /= powers.sum()
    return powers


def _rounded(counts: Floats, total: int) -> NDArray[np.int64]:
    """Whole numbers that sum to `total`, near `counts`: what is left over goes where most was cut
    off."""
    kept = np.maximum(counts + (total - counts.sum()) / len(counts), 0)  # noise moves the sum
    kept *= total / kept.sum()
    whole: NDArray[np.int64] = np.floor(kept).astype(np.int64)
    left = total - int(whole.sum())
    whole[np.argsort(whole - kept, kind="stable")[:left]] += 1
    return whole
