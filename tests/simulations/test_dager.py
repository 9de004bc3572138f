"""DAGER reads whole texts off a decoder, and none of a long sum, under noise, or without causality.

The text is this repository's licence, one token a letter.
"""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tacit.client.torch_trainer import TorchTrainer
from tacit.client.trainer import Examples, LocalPlan
from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Seen
from tacit.simulations.attacks.base import view_of
from tacit.simulations.attacks.dager import Dager
from tacit.simulations.data.texts import alphabet, passages
from tacit.simulations.measure import Measure, of_tokens
from tacit.simulations.models import transformer
from tacit.simulations.transformer import Decoder

# Without the indentation: a passage of nothing but spaces is no feat.
LICENCE = " ".join((Path(__file__).parents[2] / "LICENSE").read_text("utf-8").split())
CHARACTERS = alphabet(LICENCE)
LENGTH, WIDTH = 8, 64
PASSAGES = passages(LICENCE, CHARACTERS, LENGTH)
TOKENS: NDArray[np.int64] = PASSAGES.x.astype(np.int64)
BUILD = partial(transformer, (LENGTH,), len(CHARACTERS), width=WIDTH)
ATTACK = Dager(BUILD, LENGTH, len(CHARACTERS))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def summed(count: int, seed: int, epochs: int = 1) -> tuple[Seen, NDArray[np.int64]]:
    """What the server sees of a sum over `count` different texts, in float32, and which."""
    trainer = TorchTrainer(BUILD)
    model = trainer.initial(seed)
    different = np.unique(TOKENS, axis=0, return_index=True)[1]
    chosen = np.random.default_rng(seed).choice(different, count, replace=False)
    examples = Examples(PASSAGES.x[chosen], PASSAGES.y[chosen])
    plan = LocalPlan(epochs=epochs, batch_size=0, learning_rate=0.1)
    trained, _ = trainer.fit(model, examples, plan)
    update = {name: trained[name] - model[name] for name in model}
    return Seen(1, model, update, count, float(count), "pairwise"), TOKENS[chosen]


def measured(seen: Seen, truth: NDArray[np.int64], attack: Dager = ATTACK) -> tuple[Measure, ...]:
    guess = attack.reconstruct(view_of(seen), np.random.default_rng(0))
    others = TOKENS[~(TOKENS[:, None] == truth).all(axis=2).any(axis=1)]
    return of_tokens(guess, truth, others)


def noisy(seen: Seen, times: float) -> Seen:
    """With noise in every coordinate, so many times the root mean square of the update."""
    rng = np.random.default_rng(5)
    whole = np.concatenate([value.ravel() for value in seen.update.values()])
    noise = times * float(np.sqrt(np.square(whole).mean()))
    update = {name: v + rng.normal(0, noise, v.shape) for name, v in seen.update.items()}
    return replace(seen, update=update)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_text_of_a_small_sum_comes_back(count: int) -> None:
    for seed in range(3):
        tokens, texts = measured(*summed(count, seed))
        assert tokens.mean == texts.mean == 1
        assert tokens.mean_floor < 0.5
        assert texts.mean_floor == 0


def test_texts_that_begin_alike_are_told_apart() -> None:
    """A rank that is lower for it stops nothing."""
    seed = 0
    trainer = TorchTrainer(BUILD)
    model = trainer.initial(seed)
    x = np.stack([PASSAGES.x[40], PASSAGES.x[40], PASSAGES.x[60]])
    x[1, 5:] = PASSAGES.x[60, 5:]
    examples = Examples(x, PASSAGES.y[:3])
    trained, _ = trainer.fit(model, examples, LocalPlan(batch_size=0))
    update = {name: trained[name] - model[name] for name in model}
    seen = Seen(1, model, update, 1, 3.0, "plain")
    assert measured(seen, x.astype(np.int64))[1].mean == 1


def test_as_many_tokens_as_the_layers_are_wide_give_nothing_away() -> None:
    # 16 texts of 8 letters are 128 tokens of 64 dimensions: the whole space is in the batch.
    seen, truth = summed(16, 0)
    assert len(ATTACK.reconstruct(view_of(seen), np.random.default_rng(0))) == 0
    assert [measure.mean for measure in measured(seen, truth)] == [0, 0]


@pytest.mark.parametrize("times", [1.0, 10.0])
def test_noise_brings_it_to_the_floor(times: float) -> None:
    ahead: list[float] = []
    for seed in range(5):
        seen, truth = summed(4, seed)
        tokens, texts = measured(noisy(seen, times), truth)
        ahead += np.subtract(tokens.values, tokens.floor).tolist()
        assert texts.mean == 0
    assert np.mean(ahead) <= 2 * np.std(ahead, ddof=1) / len(ahead) ** 0.5


def test_a_little_noise_is_told_from_a_token_that_is_not_there() -> None:
    """By the derived bound: by nearness alone, in one of three sums texts are taken for others."""
    for seed in range(6):
        seen, truth = summed(2, seed)
        assert measured(noisy(seen, 1e-4), truth)[1].mean == 1


def test_queries_alone_miss_the_first_token() -> None:
    """It has nothing to choose from: why the gradients of all three are stacked."""
    first, second = (f"blocks.{i}.attention.query" for i in range(2))
    attack = replace(ATTACK, first=(first,), second=(second,))
    assert measured(*summed(4, 0), attack)[1].mean < 1


def test_a_lone_text_stands_more_noise_than_four() -> None:
    """How much it takes depends on the tokens: whoever adds too little is told here."""
    lone, _ = measured(noisy(summed(1, 0)[0], 1e-3), summed(1, 0)[1])
    four, _ = measured(noisy(summed(4, 0)[0], 1e-3), summed(4, 0)[1])
    assert lone.mean == 1
    assert four.mean < 1


def test_without_causality_a_beginning_says_nothing() -> None:
    """What the search lives on: where tokens look ahead, the padding of a beginning shows."""

    class Encoder(Decoder):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            # Read backwards, what a position sees is what comes after it.
            return super().forward(tokens.flip(1))

    def build() -> nn.Module:
        return Encoder(LENGTH, len(CHARACTERS), WIDTH, 2, 3)

    trainer = TorchTrainer(build)
    model = trainer.initial(0)
    two = slice(60, 62)
    trained, _ = trainer.fit(model, Examples(PASSAGES.x[two], PASSAGES.y[two]), LocalPlan())
    seen = Seen(1, model, {n: trained[n] - model[n] for n in model}, 1, 2.0, "plain")
    assert measured(seen, TOKENS[two], replace(ATTACK, build=build))[1].mean == 0


def test_the_draws_and_the_truth_decide_nothing() -> None:
    seen, _ = summed(2, 1)
    one, other = (
        ATTACK.reconstruct(view_of(seen), np.random.default_rng(seed)) for seed in (0, 99)
    )
    assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("attack", "says"),
    [
        (replace(ATTACK, first=("nowhere",)), "no linear layer 'nowhere'"),
        (replace(ATTACK, second=("blocks.1.norm0",)), r"no linear layer 'blocks\.1\.norm0'"),
        (replace(ATTACK, second=("blocks.1.wide", "blocks.1.narrow")), "inputs of one width"),
        (replace(ATTACK, vocabulary=10_000), "cannot take texts"),
        (replace(ATTACK, length=LENGTH + 1), "cannot take texts"),
        (replace(ATTACK, build=partial(transformer, (LENGTH,), 9)), "is `build` the model"),
    ],
)
def test_a_model_that_does_not_fit_is_named(attack: Dager, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        attack.reconstruct(view_of(summed(1, 0)[0]), np.random.default_rng())


def test_an_update_of_nothing_is_named() -> None:
    seen, _ = summed(1, 0)
    still = replace(seen, update={name: np.zeros_like(v) for name, v in seen.update.items()})
    with pytest.raises(ParameterError, match="did not move"):
        ATTACK.reconstruct(view_of(still), np.random.default_rng())


@pytest.mark.parametrize(
    "wrong", [{"length": 0}, {"vocabulary": 1}, {"beam": 0}, {"first": ()}, {"second": ()}]
)
def test_impossible_settings_cannot_be_built(wrong: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        Dager(**{"build": BUILD, "length": LENGTH, "vocabulary": 9, **wrong})  # type: ignore[arg-type]


def test_passages_are_the_text() -> None:
    assert len(PASSAGES) == len(LICENCE) // (LENGTH + 1)
    again = "".join(
        "".join(CHARACTERS[int(token)] for token in (*row, following))
        for row, following in zip(PASSAGES.x, PASSAGES.y, strict=True)
    )
    assert LICENCE.startswith(again)
    assert len(passages(LICENCE[:LENGTH], CHARACTERS, LENGTH)) == 0
    with pytest.raises(ParameterError, match="'€' is not in the alphabet"):
        passages("€", CHARACTERS, 1)
    with pytest.raises(ParameterError, match="length=0"):
        passages(LICENCE, CHARACTERS, 0)
