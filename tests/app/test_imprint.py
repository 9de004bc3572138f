"""A server that designs the model, against the real devices: what it reads out of a secure sum."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tacit.app.config import Settings
from tacit.app.material import material, trainer_for
from tacit.app.simulation import simulate
from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import Layout
from tacit.server.events import Event, LeftOut, SumOpened
from tacit.server.inbox import Seen
from tacit.simulations.attacks.base import Knows, view_of
from tacit.simulations.attacks.imprint import Bins, ImprintReadout, plant, slip_in
from tacit.simulations.attacks.linear import LinearReadout
from tacit.simulations.evaluate import Outcome, evaluate
from tacit.simulations.score import at_floor
from tests.hostile.crowd import count_randomness
from tests.planted import BINS, SHAPE, bins, digits, planted, wide

EXACT_DB = 60.0
LAYERS = {"slipped_in": "imprint", "planted": "fc0"}
BOTH = pytest.mark.parametrize("model", LAYERS)
DISTRIBUTED = 'privacy.mode="distributed"'


def settings_for(model: str, devices: int, each: int, *changes: str) -> Settings:
    """One step of training over all examples, and a fine grid: the server chooses both."""
    return Settings().changed(
        [
            'data.name="tests.planted:digits"',
            'data.partition="iid"',
            f"data.devices={devices}",
            f"data.limit={each}",
            "data.min_examples=1",
            "data.hold_out=0.0",
            f'model.name="tests.planted:{model}"',
            "train.epochs=1",
            "train.batch_size=0",
            "train.momentum=0.0",
            "run.rounds=1",
            "strategy.fraction_evaluate=0.0",
            f"secure.max_weight={each}.0",
            "secure.precision=40",
            *changes,
        ]
    )


def ran(settings: Settings) -> tuple[list[Seen], list[Event]]:
    """What the server saw in a run of the real apps."""
    inbox: list[Seen] = []
    events: list[Event] = []
    simulate(settings, tap=inbox.append, on_event=events.append)
    return inbox, events


@cache
def attacked(
    model: str, devices: int, each: int, *changes: str
) -> tuple[Outcome, NDArray[np.bool_]]:
    """The outcome, and which of the inputs were alone in their bins."""
    settings = settings_for(model, devices, each, *changes)
    ((seen,), _) = ran(settings)
    assert (seen.protocol, seen.clients) == ("pairwise", devices)
    held = material(settings.data, settings.run.seed)
    truth = np.concatenate([held.examples(device).x for device in range(devices)])
    attack, gallery = ImprintReadout(LAYERS[model], SHAPE), held.dataset.train.x
    rng = np.random.default_rng(0)
    outcome = evaluate(attack, view_of(seen), truth, gallery, rng, public=held.dataset.test.x)
    return outcome, bins().alone(truth)


@BOTH
@pytest.mark.parametrize(("devices", "each"), [(4, 1), (16, 4), (32, 1)])
def test_a_secure_sum_does_not_stop_it(model: str, devices: int, each: int) -> None:
    """Each input that is alone in its bin, to the last digit that float32 has: it is granted
    nothing, and the number of devices in the sum is no matter but for the bins they fill.

    Weights are below 2**-8, so float32 rounds them by 2**-33 at most, in two neighbours on each
    device; the grid of the sum is finer. 60 dB are an error of 2**-10: so an input may move its
    bias by as little as 2**-17 of the learning rate and still be read from the sum of 32.
    """
    outcome, alone = attacked(model, devices, each)
    psnr = np.array(outcome.score.psnr)
    assert outcome.knows == Knows.NOTHING
    assert (psnr[alone] >= EXACT_DB).all()
    # Of n inputs each is alone with (1 - p)**(n - 1) in a bin of probability p, which is below
    # 2/k (see `TestBins`). Three deviations below that:
    n = devices * each
    usual = (1 - 2 / BINS) ** (n - 1)
    assert alone.mean() >= usual - 3 * np.sqrt(usual * (1 - usual) / n)
    assert not at_floor(outcome.score, outcome.floor)


def test_neurons_by_themselves_say_less() -> None:
    """It is the differences of neighbours that tell inputs apart."""
    ((seen,), _) = ran(settings_for("planted", 16, 4))
    found = LinearReadout("fc0", SHAPE).reconstruct(view_of(seen), np.random.default_rng(0))
    rows = attacked("planted", 16, 4)[0].truth.reshape(64, -1)
    nearest = ((found.reshape(len(found), 1, -1) - rows) ** 2).mean(2).min(0)
    assert (nearest < 10 ** (-EXACT_DB / 10)).mean() < 0.05


@BOTH
def test_a_clip_without_noise_does_not_stop_it(model: str) -> None:
    outcome, alone = attacked(model, 16, 4, "policy.max_norm=0.01")
    assert (np.array(outcome.score.psnr)[alone] >= EXACT_DB).all()


def fingerprint(model: str) -> str:
    settings = settings_for(model, 4, 1)
    initial = trainer_for(settings.model, settings.data, 0).initial(0)
    return Layout.of(initial).fingerprint


def test_an_owner_who_lists_models_refuses_a_slipped_in_layer() -> None:
    allowed = f"policy.models={fingerprint('wide')}"
    inbox, events = ran(settings_for("slipped_in", 4, 1, allowed))
    assert inbox == []
    assert not [event for event in events if isinstance(event, SumOpened)]
    refusals = [event.reason for event in events if isinstance(event, LeftOut)]
    assert len(refusals) == 4
    assert all("policy.models" in reason for reason in refusals)


def test_a_list_of_models_says_nothing_about_values() -> None:
    """The structure is the one that was allowed, and the attack is as good as ever."""
    assert fingerprint("planted") == fingerprint("wide") != fingerprint("slipped_in")
    allowed = f"policy.models={fingerprint('wide')}"
    outcome, alone = attacked("planted", 4, 1, allowed)
    assert (np.array(outcome.score.psnr)[alone] >= EXACT_DB).all()


@BOTH
def test_noise_stops_it(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One input a device, the best case for the adversary, at epsilon 8 for the one round."""
    count_randomness(monkeypatch)
    outcome, alone = attacked(model, 16, 1, DISTRIBUTED, "privacy.epsilon=8.0")
    assert alone.all()
    assert at_floor(outcome.score, outcome.floor)
    assert outcome.score.recovered == 0


class TestBins:
    def test_inputs_fall_between_the_edges(self) -> None:
        some = Bins(np.array([1.0, 0.0]), np.array([0.0, 1.0, 2.0]))
        inputs = np.array([[-0.5, 9.0], [0.5, 0.0], [1.5, 0.0], [1.6, 3.0], [7.0, 0.0]])
        assert some.of(inputs).tolist() == [-1, 0, 1, 1, 2]
        assert some.alone(inputs).tolist() == [False, True, False, False, True]

    def test_bins_are_about_equally_likely(self) -> None:
        """Of 16 bins for digits that they were not fitted to."""
        few = Bins.fitted(digits().test.x, 16, np.random.default_rng(0))
        counts = np.bincount(few.of(digits().train.x) + 1, minlength=17) / len(digits().train)
        assert counts.max() < 2 / 16

    @pytest.mark.parametrize(
        ("direction", "edges"),
        [([[1.0]], [0.0, 1.0]), ([np.nan], [0.0, 1.0]), ([1.0], [0.0]), ([1.0], [1.0, 1.0])],
    )
    def test_what_is_no_bin(self, direction: list[float], edges: list[float]) -> None:
        with pytest.raises(ParameterError, match=r"direction|edges"):
            Bins(np.array(direction), np.array(edges))

    @pytest.mark.parametrize(("public", "count"), [(np.ones((5, 3)), 4), (np.eye(3), 1)])
    def test_public_data_have_to_differ(self, public: NDArray[np.float64], count: int) -> None:
        with pytest.raises(ParameterError, match="public examples that differ"):
            Bins.fitted(public, count, np.random.default_rng(0))


class TestModels:
    def test_a_slipped_in_layer_treats_all_bins_alike(self) -> None:
        """dL/dz_i is one number for every edge below the input, and 0 above."""
        net = slip_in(wide(SHAPE, 10), SHAPE, bins())
        x = torch.from_numpy(digits().train.x[:1])
        torch.nn.functional.cross_entropy(net(x), torch.tensor([3])).backward()
        slopes = dict(net.named_parameters())["imprint.bias"].grad
        assert slopes is not None
        below = int(bins().of(digits().train.x[:1])[0]) + 1
        torch.testing.assert_close(slopes[:below], slopes[:1].expand(below), rtol=1e-4, atol=0)
        assert slopes[0] != 0
        assert not slopes[below:].any()

    def test_what_does_not_fit_is_named(self) -> None:
        with pytest.raises(ParameterError, match="bins for 64 numbers"):
            slip_in(wide(SHAPE, 10), (1, 4, 4), bins())
        model = {name: t.numpy() for name, t in wide(SHAPE, 10).state_dict().items()}
        with pytest.raises(ParameterError, match=r"no 'fc1\.weight'"):
            plant(model, "fc1", "head", bins())
        with pytest.raises(ParameterError, match=r"fc0.weight is \(512, 64\), these bins take"):
            plant(model, "fc0", "head", replace(bins(), edges=bins().edges[:8]))

    def test_planting_keeps_the_structure(self) -> None:
        model = {name: t.numpy() for name, t in wide(SHAPE, 10).state_dict().items()}
        sent = {name: t.numpy() for name, t in planted(SHAPE, 10).state_dict().items()}
        assert Layout.of(sent) == Layout.of(model)


@pytest.mark.parametrize(
    ("layer", "shape", "says"),
    [("nowhere", SHAPE, "no 'nowhere.weight'"), ("fc0", (1, 4, 4), "does not see inputs of")],
)
def test_a_wrong_layer_is_named(layer: str, shape: tuple[int, ...], says: str) -> None:
    sent = {name: t.numpy() for name, t in planted(SHAPE, 10).state_dict().items()}
    seen = Seen(1, sent, sent, 4, 4.0, "pairwise")
    with pytest.raises(ParameterError, match=says):
        ImprintReadout(layer, shape).reconstruct(view_of(seen), np.random.default_rng(0))
