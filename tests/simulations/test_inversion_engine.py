"""The engine of gradient matching: fast or not, it finds the same, and by its own objective."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Seen
from tacit.simulations.attacks import traced as engine
from tacit.simulations.attacks.base import Knows, view_of
from tacit.simulations.attacks.descent import Descent, Slope, slope_of
from tacit.simulations.attacks.inverting import InvertingGradients
from tacit.simulations.attacks.surrogate import (
    Objective,
    Surrogate,
    cosine,
    matching,
    squared,
    total_variation,
)
from tacit.simulations.attacks.traced import PAYS_FROM, device_of, traced

SHAPE = (1, 6, 6)
WIDTH = 3


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, WIDTH, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(27, 4))


def seen(inputs: int = 1, seed: int = 0) -> tuple[Seen, Tensor]:
    """One full-batch step in float64, and the inputs behind it; labels 0, 1, ..."""
    torch.manual_seed(seed)
    net = network().double()
    x = torch.rand(inputs, *SHAPE, dtype=torch.float64)
    loss = nn.functional.cross_entropy(net(x), torch.arange(inputs))
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    names = [name for name, _ in net.named_parameters()]
    return (
        Seen(
            round=1,
            model={name: value.numpy() for name, value in net.state_dict().items()},
            update={n: -0.1 * g.numpy() for n, g in zip(names, gradients, strict=True)},
            clients=1,
            weight=float(inputs),
            protocol="plain",
        ),
        x,
    )


def surrogate(inputs: int = 1, seed: int = 0) -> tuple[Surrogate, Tensor]:
    what, x = seen(inputs, seed)
    view = view_of(what, knows=Knows.LABELS, labels=list(range(inputs)))
    return Surrogate.of(network, view, list(range(inputs)), dtype=torch.float64), x


def objective(inputs: int = 1, seed: int = 0) -> Objective:
    held, _ = surrogate(inputs, seed)
    return matching(held.one_step, cosine(held.target), [(0.01, total_variation)])


def starts(restarts: int, inputs: int = 1) -> Tensor:
    return torch.tensor(np.random.default_rng(5).random((restarts, inputs, *SHAPE)))


def by_hand(slope: Slope, x: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The descent as it is written down: torch's own Adam on signs, every best point kept."""
    x = x.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=0.1)
    best, lowest = x.detach().clone(), torch.full((len(x),), torch.inf, dtype=x.dtype)
    for done in range(steps):
        adam.param_groups[0]["lr"] = 0.1 * 0.1 ** sum(
            done >= part * steps for part in (3 / 8, 5 / 8, 7 / 8)
        )
        slopes, values = slope(x.detach())
        for i, value in enumerate(values):
            if value < lowest[i]:
                best[i], lowest[i] = x[i].detach(), value
        x.grad = slopes.sign()
        adam.step()
        x.data.clamp_(0, 1)
    return best, lowest


class TestSurrogate:
    def test_the_truth_makes_the_update_that_was_seen(self) -> None:
        held, x = surrogate(2)
        assert float(cosine(held.target)(held.one_step(x))) == pytest.approx(0, abs=1e-12)
        there = {name: 0.1 * part for name, part in held.one_step(x).items()}
        assert float(squared(held.target)(there)) == pytest.approx(0, abs=1e-20)
        nothing = {name: 0 * part for name, part in there.items()}
        assert float(squared(held.target)(nothing)) == pytest.approx(1)

    def test_another_update_and_more_priors_can_be_plugged_in(self) -> None:
        """Two local steps, unrolled: the truth fits them, and no longer the single step."""
        held, x = surrogate()

        def twice(inputs: Tensor) -> dict[str, Tensor]:
            weights = held.moving
            for _ in range(2):
                slope = held.gradient(inputs, weights)
                weights = {name: weights[name] - 0.5 * slope[name] for name in weights}
            return {name: weights[name] - held.moving[name] for name in weights}

        other = replace(held, target=twice(x))
        prior: list[tuple[float, Callable[[Tensor], Tensor]]] = [(2.0, lambda x: x.square().sum())]
        unrolled = matching(twice, squared(other.target), prior)
        assert float(unrolled(x)) == pytest.approx(2 * float(x.square().sum()))
        assert float(cosine(other.target)(held.one_step(x))) > 1e-4
        found, value = Descent(5).follow(slope_of(unrolled), starts(2))
        assert found.shape == (2, 1, *SHAPE)
        assert float(value.min()) == pytest.approx(float(min(unrolled(x) for x in found)))

    def test_the_loss_is_that_of_the_model(self) -> None:
        held, x = surrogate(2)
        scores = functional_call(held.model, {**held.moving, **held.fixed}, (x,))
        expected = nn.functional.cross_entropy(scores, torch.tensor([0, 1]))
        assert float(held.loss(held.moving, x)) == float(expected)


class TestDescent:
    @pytest.mark.parametrize("restarts", [1, 3])
    def test_it_is_adam_on_signs(self, restarts: int) -> None:
        slope, begin = slope_of(objective()), starts(restarts)
        found, lowest = Descent(16).follow(slope, begin)
        expected, value = by_hand(slope, begin, 16)
        # Twenty-odd roundings of 1e-16 a step, at a slope of no more than 10 in value.
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(lowest, value, rtol=0, atol=1e-12)

    def test_every_restart_ends_as_it_would_alone(self) -> None:
        descent, slope, begin = Descent(12), slope_of(objective(2)), starts(3, 2)
        found, values = descent.follow(slope, begin)
        for i in range(3):
            alone, value = descent.follow(slope, begin[i : i + 1])
            torch.testing.assert_close(alone[0], found[i], rtol=0, atol=1e-9)
            torch.testing.assert_close(value[0], values[i], rtol=0, atol=1e-12)

    def test_the_lowest_on_the_way_is_kept_not_the_last(self) -> None:
        """From the minimum any step leads up."""
        target = torch.full((1, *SHAPE), 0.5, dtype=torch.float64)
        begin = torch.stack([target, target + 0.31])
        away = slope_of(lambda x: (x - target).abs().sum())
        found, values = Descent(9).follow(away, begin)
        torch.testing.assert_close(found[0], target)
        assert float(values[0]) == 0
        assert float(values[1]) == pytest.approx(float((found[1] - target).abs().sum()))

    @pytest.mark.parametrize("wrong", [{"steps": 0}, {"lr": 0.0}, {"low": 1.0}])
    def test_impossible_settings_cannot_be_built(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ParameterError):
            Descent(**{"steps": 5, **wrong})  # type: ignore[arg-type]


class TestTraced:
    @pytest.mark.slow
    def test_compiled_finds_what_traced_finds(self) -> None:
        """In float64 and few steps, where no rounding turns the sign of a slope."""
        slope, begin = slope_of(objective()), starts(2)
        plain, compiled = (
            Descent(8, compiled=compiled).follow(slope, begin) for compiled in (False, True)
        )
        torch.testing.assert_close(compiled[0], plain[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(compiled[1], plain[1], rtol=0, atol=1e-12)

    def test_a_trace_is_the_function(self) -> None:
        slope, begin = slope_of(objective(2)), starts(3, 2)
        listed = traced(slope, [begin], compiled=False)
        other = 1 - begin
        for one, two in zip(listed(other), slope(other), strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
            assert not one.requires_grad

    def test_two_inputs_may_be_the_same_tensor(self) -> None:
        x = torch.arange(3.0)
        add = traced(lambda one, other: (one - 2 * other,), [x, x], compiled=False)
        torch.testing.assert_close(add(x, 0 * x)[0], x)

    def test_victims_of_one_model_share_what_is_compiled(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[object] = []

        def compiler(graph: object, **_: object) -> object:
            made.append(graph)
            return graph

        monkeypatch.setattr(torch, "compile", compiler)
        engine._compiled.cache_clear()
        descent = Descent(4, compiled=True)
        found = [descent.follow(slope_of(objective(seed=s)), starts(2))[0] for s in (0, 1, 0)]
        assert len(made) == 1
        assert not torch.equal(found[0], found[1])  # its victim is an input to it
        torch.testing.assert_close(found[0], found[2], rtol=0, atol=0)
        descent.follow(slope_of(objective(2)), starts(2, 2))
        assert len(made) == 2
        engine._compiled.cache_clear()

    def test_without_a_compiler_it_runs_all_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def none(graph: object, **_: object) -> Callable[..., object]:
            def missing(*_: object) -> object:
                raise RuntimeError("no working C++ compiler")

            return missing

        monkeypatch.setattr(torch, "compile", none)
        engine._compiled.cache_clear()
        slope, begin = slope_of(objective()), starts(2)
        with_none = Descent(8, compiled=True).follow(slope, begin)[0]
        engine._compiled.cache_clear()
        torch.testing.assert_close(with_none, Descent(8).follow(slope, begin)[0], rtol=0, atol=0)

    def test_it_compiles_where_there_are_steps_to_pay_for_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[bool] = []

        def note(function: object, inputs: object, *, compiled: bool) -> object:
            asked.append(compiled)
            return lambda *state: state[:-1]

        monkeypatch.setattr("tacit.simulations.attacks.descent.traced", note)
        for steps, compiled in [(9, None), (PAYS_FROM, None), (9, True), (PAYS_FROM, False)]:
            Descent(steps, compiled=compiled).follow(slope_of(objective()), starts(1))
        assert asked == [False, True, True, False]

    def test_a_gpu_is_taken_if_there_is_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert device_of(None).type == "cuda"
        assert device_of("cpu").type == "cpu"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert device_of(None).type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same() -> None:
    what, _ = seen()
    view = view_of(what, knows=Knows.LABELS, labels=[0])
    on_cpu, on_gpu = (
        InvertingGradients(
            network, SHAPE, steps=8, restarts=2, dtype=torch.float64, device=device
        ).reconstruct(view, np.random.default_rng(0))
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=0, atol=1e-9)
