"""Layers in the clear, from the settings to what an attack makes of them, in all protocols."""

import re

import numpy as np
import pytest

import tacit.client.app
import tacit.client.budget
from tacit.app.check import check
from tacit.app.config import Settings
from tacit.app.lab.federation import settings_of, unused
from tacit.app.lab.scoring import candidates
from tacit.app.material import material, trainer_for
from tacit.app.simulation import Finished, simulate
from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import Layout
from tacit.privacy.accountants import Adversary, cost
from tacit.privacy.clear import release_of
from tacit.server.events import Event, LeftOut
from tacit.server.inbox import Seen
from tacit.simulations.attacks.base import Knows, view_of
from tacit.simulations.attacks.linear import LinearReadout
from tacit.simulations.engine.device import FIRST_NODE_ID
from tacit.simulations.evaluate import evaluate
from tacit.simulations.trial import Cell
from tests.app.small import small

PROTOCOLS = ["pairwise", "lattice", "tenseal"]
ALLOWED = ("policy.lattice=true", "policy.consortium=true", "policy.clear_epsilon=40")
SHOWN = small(*ALLOWED, "secure.clear=*bias", "secure.max_weight=200", "secure.clear_noise=2")


def run(settings: Settings) -> tuple[Finished, list[Event], list[Seen]]:
    events: list[Event] = []
    seen: list[Seen] = []
    return simulate(settings, on_event=events.append, tap=seen.append), events, seen


def cost_of(settings: Settings) -> float:
    model = trainer_for(settings.model, settings.data, 0).initial(0)
    clear = settings.sum().clear_of(Layout.of(model))
    assert clear is not None
    once = cost(release_of(clear, 1, 1, 4), Adversary.SERVER)
    return once.times(settings.run.rounds).epsilon(settings.policy.delta)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sums_are_exact_and_each_part_shows(protocol: str) -> None:
    settings = SHOWN.changed([f"secure.protocol={protocol}"])
    check(settings)
    finished, _, seen = run(settings)
    assert finished.oracle is not None
    assert (finished.oracle.exact, finished.oracle.checked) == (3, 3)
    whole = [each for each in seen if each.clients > 1]
    parts = [each for each in seen if each.clients == 1]
    assert all(each.members == tuple(FIRST_NODE_ID + d for d in range(4)) for each in whole)
    assert [list(each.update) for each in whole] == 3 * [["fc.weight", "fc.bias"]]
    assert [list(each.update) for each in parts] == 12 * [["fc.bias"]]
    assert {each.members[0] for each in parts} == {FIRST_NODE_ID + d for d in range(4)}
    for each in whole:  # the sum of what single devices sent, over the share of their weights
        of_round = [part.update["fc.bias"] for part in parts if part.round == each.round]
        np.testing.assert_allclose(
            np.sum(of_round, axis=0) / (each.weight / 200), each.update["fc.bias"], rtol=1e-12
        )


def test_the_budget_ends_a_run_that_was_not_checked() -> None:
    """Two rounds of three: then all devices refuse, and say so."""
    lasts = cost_of(SHOWN.changed(["run.rounds=2"])) * (1 + 1e-12)  # sums of floats
    short = SHOWN.changed([f"policy.clear_epsilon={lasts}"])
    finished, events, _ = run(short)
    assert finished.oracle is not None
    assert finished.oracle.exact == 2
    told = [e.reason for e in events if isinstance(e, LeftOut) and e.round == 3]
    assert len(told) == 4
    assert all("more than is left" in reason for reason in told)


# Before a run


def test_a_budget_that_lasts_is_enough_and_a_little_less_is_not() -> None:
    needed = cost_of(SHOWN)
    check(SHOWN.changed([f"policy.clear_epsilon={needed}"]))
    with pytest.raises(ParameterError) as told:
        check(SHOWN.changed([f"policy.clear_epsilon={np.nextafter(needed, 0)}"]))
    says = (
        rf"secure\.clear: 3 rounds with 2 coordinates in the clear cost a device epsilon "
        rf"{needed:.6g} at delta 1e-05 \(one: [\d.]+\), and policy\.clear_epsilon = {needed:g} "
        r"lasts for 2: raise"
    )
    assert re.search(says, str(told.value)), str(told.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["policy.clear_epsilon=0"], "policy.clear_epsilon = 0 lasts for 0"),
        (["secure.clear=fc.bais"], "no array is called 'fc.bais': the model has fc.weight"),
        (["secure.clear=*bias,nothing"], "no array is called 'nothing'"),
        (["secure.clear=fc.*"], "nothing is left to hide"),
        (["secure.protocol=plain"], "secure.clear means nothing with secure.protocol = plain"),
        (["secure.clear="], "secure.clear_noise means nothing without secure.clear"),
        (["secure.clear_noise=1e-5"], "sigma=1e-05, expected 0.000976562 to 1024"),
    ],
)
def test_what_cannot_be_meant_is_told_before_the_run(changes: list[str], says: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(says)):
        check(SHOWN.changed(changes))


def test_names_are_separated_by_commas() -> None:
    settings = SHOWN.changed(["secure.clear= fc.bias , *.weight,"])
    assert settings.sum().clear == ("fc.bias", "*.weight")


# What an attack makes of it


def readout(protocol: str, noise: float) -> tuple[list[float], list[float]]:
    """Faces that are read off the first layer that single devices send in the clear: likeness, and
    that of guesses without any update."""
    cell = Cell("linear-readout", "secure", "mlp", "portraits", 4)
    settings = settings_of(cell, 0).changed(
        [
            f"secure.protocol={protocol}",
            'secure.clear="fc0.*"',
            "secure.clear_norm=0.25",
            f"secure.clear_noise={noise}",
            *ALLOWED,
        ]
    )
    held, found, floor = material(settings.data, 0), [], []
    for seen in run(settings)[2]:
        if seen.clients == 1:
            truth = held.examples(seen.members[0] - FIRST_NODE_ID).x
            attack, rng = LinearReadout("fc0", held.dataset.shape), np.random.default_rng(0)
            view = view_of(seen, knows=Knows.BATCH_SIZE, batch_size=1)
            known = unused(held)
            outcome = evaluate(
                attack, view, truth, candidates(truth, held.dataset.train, 0)[0], rng, public=known
            )
            found.append(outcome.score.mean_ssim)
            floor.append(outcome.floor.mean_ssim)
    return found, floor


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_layer_without_noise_gives_faces_away(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is why no device sends one: its policy has to be forced open for that."""
    assert readout(protocol, 2.0**-10) == ([], [])
    for defence in ("check_clear", "spend_clear"):
        monkeypatch.setattr(tacit.client.budget, defence, lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr(tacit.client.app, "draw_noise", lambda clear, rand: np.zeros(clear.size, int))
        found, floor = readout(protocol, 2.0**-10)
    assert len(found) == 4
    assert np.mean(found) > 0.9
    assert all(one > other + 0.2 for one, other in zip(found, floor, strict=True))


def test_a_layer_under_its_noise_does_not() -> None:
    found, floor = readout("pairwise", 4.0)
    assert len(found) == 4
    assert all(one < other for one, other in zip(found, floor, strict=True))
