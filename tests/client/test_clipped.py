"""Clipped sums: what a loop over single examples adds up, whichever way they come about."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from tacit.client import clipped, example_gradients
from tacit.client.clipped import ClippedSums
from tacit.crypto.errors import ParameterError
from tacit.privacy.example_sums import ROWS, SLACK
from tacit.simulations.models import cnn, lenet, mlp, resnet, smooth_cnn, softmax

CLASSES = 3
# Sums of float32 in another order: the longest here has some 2**10 terms, which mostly cancel.
RELATIVE = 1e-5


def scores(module: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = module(x)
    return out


def gradients_of(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """One by one, in float64: (n, length)."""
    wide = module.double()
    rows = []
    for i in range(len(y)):
        loss = cross_entropy(wide(x[i : i + 1].double()), y[i : i + 1])
        weights = [w for w in wide.parameters() if w.requires_grad]
        found = torch.autograd.grad(loss, weights, materialize_grads=True)
        rows.append(torch.cat([g.ravel() for g in found]))
    module.float()
    return torch.stack(rows)


def reference(module: nn.Module, x: Tensor, y: Tensor, clip: float) -> Tensor:
    rows = gradients_of(module, x, y)
    norms = rows.norm(dim=1)
    return (rows * (clip / norms).clamp(max=1)[:, None]).sum(0)


def summed(sums: ClippedSums, x: Tensor, y: Tensor, clip: float) -> tuple[Tensor, float]:
    """All pieces together, in float64."""
    total, loss = torch.zeros(sums.length, dtype=torch.float64), 0.0
    for vector, part in sums.add_up(x, y, clip):
        total += vector
        loss += part
    return total, loss


def batch(shape: tuple[int, ...], count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.rand((count, *shape), generator=random)
    return x, torch.randint(0, CLASSES, (count,), generator=random)


class Sequences(nn.Module):
    """Words, embedded, normed, convolved and seen at each position by one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6, padding_idx=0)
        self.norm = nn.LayerNorm(6)
        self.each = nn.Linear(6, 4)
        self.convolution = nn.Conv1d(4, 6, 3, padding=1, stride=2, groups=2)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        words = self.embedding((x.nan_to_num(0).clamp(0, 0.999) * 7).long())
        words = words + (x * 0)[..., None]  # what is not finite stays so
        features = self.each(self.norm(words)).tanh().transpose(1, 2)
        out: Tensor = self.head(self.convolution(features).relu().mean(2))
        return out


class Picky(nn.Module):
    """Convolutions in unusual dress, one frozen layer, one without bias, one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(requires_grad=False)
        self.unused = nn.Linear(3, 3)
        self.deep = nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False)
        self.norm = nn.GroupNorm(2, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        features = nn.functional.relu(self.first(x), inplace=True)
        features = self.norm(self.deep(self.frozen(features))).relu()
        out: Tensor = self.head(features.mean((2, 3)))
        return out


def inplace() -> nn.Module:
    layers = nn.Linear(5, 8), nn.ReLU(inplace=True), nn.Linear(8, CLASSES)
    return nn.Sequential(*layers)


KNOWN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "softmax": (lambda: softmax((9,), CLASSES), (9,)),
    "mlp": (lambda: mlp((2, 4), CLASSES, (8, 5)), (2, 4)),
    "inplace": (inplace, (5,)),
    "cnn": (lambda: cnn((1, 8, 8), CLASSES), (1, 8, 8)),
    "lenet": (lambda: lenet((1, 6, 7), CLASSES), (1, 6, 7)),
    "smooth cnn": (lambda: smooth_cnn((2, 8, 8), CLASSES), (2, 8, 8)),
    "resnet": (lambda: resnet((1, 8, 8), CLASSES), (1, 8, 8)),
    "sequences": (Sequences, (5,)),
    "picky": (Picky, (2, 7, 8)),
}


def made(name: str, seed: int = 0) -> tuple[nn.Module, tuple[int, ...]]:
    build, shape = KNOWN[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(), shape


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(KNOWN)),
    st.integers(0, 1 << 20),
    st.integers(1, 9),
    st.floats(0.05, 20) | st.sampled_from([2.0**-32, 2.0**32]),
    st.booleans(),
)
def test_it_is_the_sum_of_a_loop(
    name: str, seed: int, count: int, clip: float, by_itself: bool
) -> None:
    module, shape = made(name, seed)
    x, y = batch(shape, count, seed)
    sums = ClippedSums(module, scores)
    if by_itself:
        sums._rows[shape] = 0
    found, loss = summed(sums, x, y, clip)
    expected = reference(module, x, y, clip)
    assert (found - expected).norm() <= RELATIVE * count * min(clip, float(expected.norm()) + clip)
    with torch.no_grad():
        assert loss == pytest.approx(float(cross_entropy(module(x), y, reduction="sum")), rel=1e-5)


@pytest.mark.parametrize("name", KNOWN)
def test_known_models_go_at_once(name: str) -> None:
    module, shape = made(name)
    sums = ClippedSums(module, scores)
    summed(sums, *batch(shape, 2), 1.0)
    assert sums._rows == {shape: ROWS}
    assert module.training
    assert not any(layer._forward_hooks for layer in module.modules())


# What is not known


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.same, self.head = nn.Linear(5, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.same(self.same(x).tanh()))
        return out


class Apart(nn.Module):
    """A layer whose weights are used without it, too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(5, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x) + linear(x, self.layer.weight).tanh())
        return out


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)
        self.other.weight = self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.other(self.layer(x).tanh()))
        return out


class Turned(nn.Module):
    """Rows of its layer are not those of examples, whatever their number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(5, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        by_position = self.layer(x.view(-1, 4, 5).transpose(0, 1)).tanh()
        out: Tensor = self.head(by_position.mean(0))
        return out


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.ones(5)), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x * self.scale)
        return out


class Mixed(nn.Module):
    """Takes the mean of a batch off each: there is no such thing as one example's gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        features = self.first(x)
        out: Tensor = self.head((features - features.mean(0)).tanh())
        return out


UNKNOWN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "twice": (Twice, (5,)),
    "apart": (Apart, (5,)),
    "tied": (Tied, (5,)),
    "turned": (Turned, (20,)),
    "own": (Own, (5,)),
    "mixed": (Mixed, (5,)),
    "padded": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, padding="same"), nn.Flatten(), nn.Linear(32, CLASSES)
        ),
        (1, 4, 4),
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("count", [1, 4, 5])
def test_others_go_by_themselves(name: str, count: int) -> None:
    build, shape = UNKNOWN[name]
    torch.manual_seed(1)
    module = build()
    x, y = batch(shape, count)
    sums = ClippedSums(module, scores)
    found, _ = summed(sums, x, y, 0.3)
    assert sums._rows == {shape: 0}
    assert (found - reference(module, x, y, 0.3)).norm() <= RELATIVE * count * 0.3


@pytest.mark.parametrize("name", ["apart", "turned", "mixed"])
def test_weights_of_a_server_do_not_settle_the_way(name: str) -> None:
    """With nothing but zeros both ways agree, and the next model may be another."""
    build, shape = UNKNOWN[name]
    module = build()
    with torch.no_grad():
        for w in module.parameters():
            w.zero_()
    sums = ClippedSums(module, scores)
    summed(sums, *batch(shape, 4), 1.0)
    assert sums._rows == {shape: 0}
    assert all(not w.any() for w in module.parameters())


def test_dropout_does_not_count_as_a_difference() -> None:
    module = nn.Sequential(nn.Linear(5, 50), nn.Dropout(0.5), nn.Linear(50, CLASSES))
    sums = ClippedSums(module, scores)
    torch.manual_seed(3)
    found, _ = summed(sums, *batch((5,), 4), 100.0)
    assert sums._rows == {(5,): ROWS}
    torch.manual_seed(3)
    again, _ = summed(sums, *batch((5,), 4), 100.0)
    assert torch.equal(found, again)
    other, _ = summed(sums, *batch((5,), 4), 100.0)
    assert not torch.equal(found, other)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(2),
        nn.BatchNorm2d(2, affine=False),
        nn.InstanceNorm2d(2, track_running_stats=True),
    ],
)
def test_what_mixes_examples_is_refused(layer: nn.Module) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), layer, nn.Flatten())
    with pytest.raises(ParameterError, match=r"1 is a .*mixes the examples.*nn\.GroupNorm"):
        ClippedSums(module, scores)


class Centred(nn.Module):
    """Takes off the mean of the batch in training, and elsewhere the one that it has kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x - self.mean
        self.mean.mul_(0.5).add_(x.detach().mean(0), alpha=0.5)
        return x - x.mean(0)


def test_a_layer_that_mixes_examples_only_in_training_goes_by_itself() -> None:
    """And what it would keep of them stays as it was: it has no noise."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8), Centred(8), nn.Linear(8, CLASSES)).train()
    sums = ClippedSums(module, scores)
    x, y = batch((8,), 20)
    before, _ = summed(sums, x, y, 1.0)
    x[0] = 1000.0
    after, _ = summed(sums, x, y, 1.0)
    assert sums._rows[(8,)] == 0
    assert float((after - before).norm()) <= 2 * float(1 + SLACK)
    assert not module[1].mean.any()


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ParameterError, match="no parameters"):
        ClippedSums(nn.Flatten(), scores)


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf, 2.0**-33, 2.0**33])
def test_a_clip_that_is_none_is_refused(clip: float) -> None:
    sums = ClippedSums(inplace(), scores)
    for count in (0, 2):
        with pytest.raises(ParameterError, match="clip="):
            list(sums.add_up(*batch((5,), count), clip))


def test_nothing_is_the_sum_of_no_examples() -> None:
    sums = ClippedSums(inplace(), scores)
    assert list(sums.add_up(*batch((5,), 0), 1.0)) == []


# The bound


@pytest.mark.parametrize("name", [*KNOWN, "own"])
@pytest.mark.parametrize("clip", [2.0**-32, 1e-3, 1.0])
def test_no_example_is_longer_than_the_clip(name: str, clip: float) -> None:
    """Up to the two roundings of a weighted term and that of its weight: 3 u."""
    build, shape = (KNOWN | UNKNOWN)[name]
    torch.manual_seed(2)
    module = build()
    sums = ClippedSums(module, scores)
    x, y = batch(shape, 8, seed=5)
    for i in range(8):
        found, _ = summed(sums, 3 * x[i : i + 1], y[i : i + 1], clip)
        assert float(found.norm()) <= clip * (1 + 3 / 2**24)


@pytest.mark.parametrize("name", ["mlp", "cnn", "sequences"])
@pytest.mark.parametrize("others", [1, 40, ROWS - 1])
def test_a_sum_moves_by_the_clip_and_the_slack_at_most(name: str, others: int) -> None:
    """Put nothing in the place of an example, and an example as far as can be."""
    module, shape = made(name)
    sums = ClippedSums(module, scores)
    x, y = batch(shape, others + 1)
    whole, _ = summed(sums, x, y, 0.1)
    x[others // 2] = math.nan
    without, _ = summed(sums, x, y, 0.1)
    moved = float((whole - without).norm())
    assert 0.09 < moved <= 0.1 * (1 + float(SLACK))


@pytest.mark.parametrize("name", [*KNOWN, "own"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e38, -3e19])
def test_what_is_not_finite_counts_as_nothing(name: str, value: float) -> None:
    build, shape = (KNOWN | UNKNOWN)[name]
    torch.manual_seed(2)
    module = build()
    sums = ClippedSums(module, scores)
    x, y = batch(shape, 5)
    x[2] = value
    found, loss = summed(sums, x, y, 0.7)
    rest = torch.tensor([0, 1, 3, 4])
    expected, others = summed(sums, x[rest], y[rest], 0.7)
    apart = float((found - expected).norm())
    if math.isfinite(value):  # it may have a gradient
        assert apart <= 0.7 * (1 + float(SLACK))
        assert math.isfinite(loss)
    else:
        assert apart <= RELATIVE
        assert loss == pytest.approx(others, rel=1e-5)


def test_a_long_batch_comes_in_pieces_of_equal_size() -> None:
    module, shape = made("mlp")
    x, y = batch(shape, 2 * ROWS + 1)
    sums = ClippedSums(module, scores)
    assert len(list(sums.add_up(x, y, 1.0))) == 3
    found, _ = summed(sums, x, y, 1.0)
    assert (found - reference(module, x, y, 1.0)).norm() <= RELATIVE * len(y)


def test_written_out_gradients_take_a_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    module, shape = made("cnn")
    x, y = batch(shape, 9)
    expected, _ = summed(ClippedSums(module, scores), x, y, 1.0)
    monkeypatch.setattr(clipped, "MEMORY", 10_000)
    monkeypatch.setattr(example_gradients, "CACHE", 1)
    sums = ClippedSums(module, scores)
    found, _ = summed(sums, x, y, 1.0)
    assert sums._rows == {shape: 2}  # two convolutions have 160 and 4640 weights
    assert (found - expected).norm() <= RELATIVE * 9


def test_the_slack_is_what_is_proven() -> None:
    u, m = 2.0**-24, ROWS
    g = (m + 2) * u / (1 - (m + 2) * u)
    assert (1 + 2 * u) * ((1 + g) + 2 * (m - 1) * g) < 1 + float(SLACK) < 1.01
    assert np.isclose(float(SLACK), 0.0079, atol=1e-4)
