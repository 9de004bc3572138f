"""Membership on a release: offline LiRA, with shadows that are whole federations.

A shadow is the run's own settings with another seed, on about half of the examples: its devices are
others, and its training is the same, noise and all. Offline, as nobody trains a release anew with
and without an example of one's choice: Carlini et al. 2022, arXiv:2112.03570, section IV-C.
"""

from dataclasses import dataclass
from math import ceil, isfinite
from time import perf_counter

import numpy as np

from tacit.app.config import Settings
from tacit.app.material import device_data, material
from tacit.app.simulation import simulate
from tacit.client.trainer import Arrays, Examples
from tacit.crypto.errors import ParameterError
from tacit.privacy.audit import Claim, OneRun, guess
from tacit.privacy.gaussian import LARGEST_EPSILON, limit
from tacit.server.gate.model import TorchModel
from tacit.simulations.attacks.membership import Bools, Reals, confidences, gap, lira_offline
from tacit.simulations.duels.base import Figure, Fought, Line, Role, Tell, share_of
from tacit.simulations.duels.release import Release
from tacit.simulations.duels.roc import area, found
from tacit.simulations.models import factory

LEAST = 4  # shadows
ALPHA = 0.05
UNKNOWN_M = 1.0  # by which guesses are counted where no epsilon is claimed
LIMITS = (
    "One release is one victim: with so few examples that it did not see, rates of false alarms "
    "below one in their number cannot be measured, and little can be proven.",
    "Shadows learn from half as many examples as the release: their confidences are lower, of "
    "members and others alike. More shadows, and ones of the same size, would find more.",
    "The lower bound of epsilon takes it that chance alone said which examples were trained on. "
    "The data set's own division, and what devices held out, is such a draw, but for counts that "
    "were fixed.",
)


@dataclass(frozen=True, slots=True)
class Known:
    """What an auditor knows: the examples, and which of them the release was trained on."""

    examples: Examples
    member: Bools


def known(settings: Settings) -> Known:
    """All examples of the data set. An example counts as trained on if one like it was."""
    learned = learned_by(settings)
    every = material(settings.data, settings.run.seed).dataset
    examples = Examples(
        np.concatenate([every.train.x, every.test.x]), np.concatenate([every.train.y, every.test.y])
    )
    return Known(examples, among(examples, learned))


def learned_by(settings: Settings) -> list[Examples]:
    """What each device of a run trains on."""
    data, seed = settings.data, settings.run.seed
    return [device_data(data, seed, device)[0] for device in range(data.devices)]


def among(examples: Examples, shares: list[Examples]) -> Bools:
    """Which of the examples are in one of the shares: (n,)."""
    held = {
        (row.tobytes(), int(y)) for share in shares for row, y in zip(share.x, share.y, strict=True)
    }
    return np.array(
        [(row.tobytes(), int(y)) in held for row, y in zip(examples.x, examples.y, strict=True)]
    )


def shadow_settings(settings: Settings, number: int) -> Settings:
    """The run again, with half of its examples and another seed; in the clear, where sums are not
    private: what is masked is the same sum. Not where they are in groups: a median of single
    updates is another rule than one of groups' means."""
    share = ceil(len(material(settings.data, settings.run.seed).dataset.train)
                 / (2 * settings.data.devices))  # fmt: skip
    share = min(share, settings.data.limit or share)
    changes = [f"run.seed={settings.run.seed + 1 + number}", f"data.limit={share}",
               "run.mode=sync"]  # fmt: skip
    if settings.private is None and not settings.secure.groups:
        changes.append("secure.protocol=plain")
    return settings.changed(changes)


def model_of(settings: Settings, arrays: Arrays) -> TorchModel:
    """The module that the settings name, with these arrays. Raises ParameterError if they do not
    fit it, or if it is none that a gate could serve."""
    import torch
    from torch import nn

    dataset = material(settings.data, settings.run.seed).dataset
    module = factory(settings.model.name)(dataset.shape, dataset.classes)
    if not isinstance(module, nn.Module):
        raise ParameterError(
            f"{settings.model.name} makes no torch.nn.Module: only those are served, and audited"
        )
    try:
        module.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in arrays.items()})
    except (RuntimeError, TypeError) as other:
        raise ParameterError(
            f"the arrays are not those of {settings.model.name}: {other}"
        ) from None
    return TorchModel(module.eval(), dataset.shape)


def membership(
    release: Release,
    settings: Settings,
    shadows: int,
    epsilon: float,
    delta: float,
    tell: Tell,
) -> Fought:
    """Attack the release; `epsilon` is what it is accounted for at `delta`, inf if nothing is."""
    began = perf_counter()
    if shadows < LEAST:
        raise ParameterError(f"{shadows} shadows, {LEAST} is the least: more with --shadows")
    audited = known(settings)
    told, member = _shadows(settings, audited, shadows, tell)
    rows = release.model.scored(audited.examples.x).probabilities
    victim = confidences(rows, audited.examples.y)
    scores = lira_offline(victim, told, member)
    inside, outside = scores[audited.member], scores[~audited.member]
    right = gap(rows, audited.examples.y)
    proven = _proven(scores, audited.member, epsilon, delta)
    setting = f"offline LiRA, {shadows} shadows"
    is_private = isfinite(epsilon)
    accounted = f"accounted: {epsilon:.4g}" if is_private else "nothing is accounted for"
    bound = Line(
        f"one run, {accounted}",
        f"epsilon at delta {delta:g} is at least, 95 % sure",
        Figure(proven.bound, trials=proven.canaries),
        target=epsilon if is_private else None,
        at_most=is_private,
    )
    lines = (
        Line(setting, "members found at 1 % false alarms", found(inside, outside, 0.01),
             Role.DEFENCE),
        Line(setting, "members found at 0.1 % false alarms", found(inside, outside, 0.001)),
        Line(setting, "area under the curve", Figure(area(inside, outside))),
        Line("label alone", "area under the curve, gap attack",
             Figure(area(right[audited.member], right[~audited.member]))),
        Line("release", "accuracy on what was learned", _share(right[audited.member])),
        Line("release", "accuracy on other examples", _share(right[~audited.member])),
        bound,
    )  # fmt: skip
    defence = "noise of the run's private sums" if is_private else "none"
    power = (f"{len(inside)} members and {len(outside)} others: the lowest rate of false alarms "
             f"that can be told is {1 / max(len(outside), 1):.2%}.")  # fmt: skip
    return Fought("membership", "LiRA, offline, with whole federations for shadows", defence,
                  release.ground.data, lines, perf_counter() - began, (power, *LIMITS))  # fmt: skip


def _shadows(settings: Settings, audited: Known, count: int, tell: Tell) -> tuple[Reals, Bools]:
    """Confidences (count, n), and which examples each shadow saw, as the attack is to take it.

    An example that no shadow could see has twice as many that did not see it, and a mean that is
    twice as sure: half of them, drawn, are taken for ones that did, as all there have.
    """
    confident, member = [], []
    for number in range(count):
        own = shadow_settings(settings, number)
        arrays = simulate(own).result.arrays
        model = model_of(own, {name: array.numpy() for name, array in arrays.items()})
        rows = model.scored(audited.examples.x).probabilities
        confident.append(confidences(rows, audited.examples.y))
        member.append(among(audited.examples, learned_by(own)))
        tell((number + 1) / count)
    seen = np.stack(member)
    never = ~seen.any(0)
    rate = seen[:, ~never].mean()
    drawn = np.random.default_rng(8).random(seen.shape) < rate
    seen = np.where(never, drawn, seen)
    seen[:2][:, (~seen).sum(0) < 2] = False  # rare, and the attack needs two
    return np.stack(confident), seen


def _proven(scores: Reals, member: Bools, epsilon: float, delta: float) -> OneRun:
    """What the scores prove of epsilon: so many canaries as there are others, each of them by the
    toss of a coin one that was trained on, or not."""
    rng = np.random.default_rng(8)
    inside, outside = (rng.permutation(np.flatnonzero(each)) for each in (member, ~member))
    count = min(len(inside), len(outside))
    coins = rng.random(count) < 0.5
    chosen = np.where(coins, inside[:count], outside[:count])
    claimed = 0 < epsilon < LARGEST_EPSILON
    m = limit(epsilon, delta) if claimed else UNKNOWN_M
    claim = Claim("the release", "who has its scores", epsilon, delta, ALPHA)
    return guess(claim, m, scores[chosen], coins)


def _share(right: Reals) -> Figure:
    return share_of(int(right.sum()), len(right))
