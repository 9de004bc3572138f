"""Membership: LiRA against training without noise, with DP-SGD, and answers that tell less.

Each of the models is the victim once, and others are the shadows. Their scores are pooled, as
one victim has too few examples for a rate of false alarms of 0.1 %: there are 1,797 digits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from time import perf_counter

import numpy as np

from tacit.client.private_trainer import PrivatePlan, private_fit
from tacit.client.torch_trainer import TorchTrainer
from tacit.client.trainer import Examples, LocalPlan
from tacit.privacy.accountants import Adversary, compose
from tacit.privacy.releases import Release
from tacit.server.gate.model import Floats32
from tacit.server.gate.reveal import Detail, Reveal
from tacit.simulations.attacks.blackbox import as_rows
from tacit.simulations.attacks.membership import Bools, Reals, confidences, gap, lira
from tacit.simulations.duels.base import Figure, Fought, Line, Role, Scale, Tell, mean_of
from tacit.simulations.duels.ground import Ground, ground, module_of
from tacit.simulations.duels.roc import area, found
from tacit.simulations.duels.shadows import halves, scored_by_all
from tacit.simulations.models import factory

LOW, HIGH = 0.001, 0.01  # rates of false alarms
DELTA = 1e-5
DRAWN, CLIP, NOISE, RATE = 0.1, 1.0, 1.0, 0.5  # of DP-SGD
MOST = 4000  # examples, of a data set that has more: each model learns half of them
LIMITS = (
    "Scores of all victims are pooled: of one alone, a rate of false alarms of 0.1 % is fewer than "
    "one example. The same examples come again with each victim, so intervals, which take scores "
    "as independent, are too narrow.",
    "What is told of rounded answers and of labels is reported, and no line calls it a defence: "
    "LiRA finds in rounded scores what it finds in whole ones, once a probability told as 0 is "
    "taken for half a unit. Label-only attacks find members where there are no scores at all "
    "(Choquette-Choo et al. 2021, arXiv:2007.14321).",
    "The gap attack is not the strongest on labels: those that look for the nearest other label "
    "find more, at thousands of queries for each example.",
    "Epsilon bounds every attack, and what LiRA finds is what this one got: the bound is far above "
    "it.",
)


@dataclass(frozen=True, slots=True)
class Size:
    """A quick duel has 14,000 scores of non-members and allows 14 false alarms. What is found by
    them varies as their root does, by 27 % of itself: its targets are looser by three times that.
    """

    models: int
    epochs: int
    steps: int
    least_plain: float
    most_private: float


FULL = Size(64, 30, 200, 0.010, 0.003)
QUICK = Size(16, 30, 50, 0.002, 0.0055)


class Membership:
    """See the module."""

    name = "membership"
    attack = "LiRA, online, with shadow models on halves of the same examples"
    defence = "DP-SGD on the device"

    def fight(self, scale: Scale, tell: Tell) -> Fought:
        began, size = perf_counter(), QUICK if scale.quick else FULL
        where = ground(scale.data)
        examples = whole(where)
        member = halves(size.models, len(examples), 0)
        plain = scored_by_all(examples, where.classes, member, epochs=size.epochs, seed=0)
        tell(0.3)
        private, epsilon = _privately(where, examples, member, size.steps,
                                      lambda share: tell(0.3 + 0.6 * share))  # fmt: skip
        lines = (
            *_lines("no defence, all scores", plain, examples, member, Role.ATTACK,
                    size.least_plain),
            *_lines(f"DP-SGD, epsilon {epsilon:.1f}, all scores", private, examples, member,
                    Role.DEFENCE, size.most_private),
            Line("DP-SGD", f"epsilon at delta {DELTA:g}, for each example", Figure(epsilon)),
            *_accuracies(plain, private, examples, member),
            *_told_less(plain, examples, member),
        )  # fmt: skip
        tell(1.0)
        return Fought(self.name, self.attack, self.defence, where.data, lines,
                      perf_counter() - began, LIMITS)  # fmt: skip


def whole(where: Ground) -> Examples:
    """All examples there are, at most MOST of them: the order is a drawn one already."""
    parts = (where.trained, where.held, where.owned)
    x, y = np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts])
    return Examples(x[:MOST], y[:MOST])


def each_the_victim(known: Reals, member: Bools) -> Reals:
    """LiRA's scores of every example by every model in turn, the others its shadows, but for the
    one that it is a pair with (`halves`): (k, n).

    With that one among them, of a victim's members one shadow fewer would have learned them than
    not, and of others one more. Means of fewer are farther off, so members would score lower where
    there is nothing to find, and a defence would look better than it is.
    """
    pairs = [(k, k ^ 1) for k in range(len(known))]
    return np.stack(
        [lira(known[k], np.delete(known, pair, 0), np.delete(member, pair, 0))
         for k, pair in enumerate(pairs)]
    )  # fmt: skip


def _lines(
    setting: str, rows: Floats32, examples: Examples, member: Bools, role: Role, target: float
) -> tuple[Line, ...]:
    scores = each_the_victim(confidences(rows, examples.y), member)
    inside, outside = scores[member], scores[~member]
    return (
        Line(setting, "members found at 0.1 % false alarms", found(inside, outside, LOW), role,
             target, at_most=role is Role.DEFENCE),
        Line(setting, "members found at 1 % false alarms", found(inside, outside, HIGH)),
        Line(setting, "area under the curve", Figure(area(inside, outside))),
    )  # fmt: skip


def _privately(
    where: Ground, examples: Examples, member: Bools, steps: int, tell: Callable[[float], None]
) -> tuple[Floats32, float]:
    """As `scored_by_all`, by the trainer that devices have; and the epsilon of each model, against
    who sees the model and not who was drawn."""
    import torch

    trainer = TorchTrainer(lambda: factory("mlp")(where.shape, where.classes))
    plan = LocalPlan(1, learning_rate=RATE)
    private = PrivatePlan(steps, DRAWN, DRAWN * len(examples) / 2, CLIP, NOISE)
    x, rows = torch.from_numpy(examples.x), []
    releases: tuple[Release, ...] = ()
    for k, chosen in enumerate(member):
        fit = private_fit(
            trainer, trainer.initial(k), Examples(examples.x[chosen], examples.y[chosen]), plan,
            private, run=0, round_=0, rand=sha256(b"duel of membership %d" % k).digest(),
        )  # fmt: skip
        with torch.inference_mode():
            rows.append(module_of(where.data, "mlp", fit.model)(x).softmax(1).numpy())
        releases = fit.releases
        tell((k + 1) / len(member))
    return np.stack(rows), compose(releases, Adversary.OUTSIDER).epsilon(DELTA)


def _accuracies(
    plain: Floats32, private: Floats32, examples: Examples, member: Bools
) -> tuple[Line, ...]:
    """Each model's, on what it has not learned; the drop is what privacy costs."""
    right = [rows.argmax(2) == examples.y for rows in (plain, private)]
    unseen = [[float(r[k][~member[k]].mean()) for k in range(len(member))] for r in right]
    seen = [float(right[0][k][member[k]].mean()) for k in range(len(member))]
    drop = [before - after for before, after in zip(*unseen, strict=True)]
    return (
        Line("no defence", "accuracy on what was learned", mean_of(seen)),
        Line("no defence", "accuracy on other examples", mean_of(unseen[0])),
        Line("DP-SGD", "accuracy on other examples", mean_of(unseen[1])),
        Line("DP-SGD", "accuracy lost", mean_of(drop), Role.PRICE),
    )


def _told_less(plain: Floats32, examples: Examples, member: Bools) -> tuple[Line, ...]:
    """Reported only: see LIMITS."""
    lines = []
    for digits in (2, 1):
        reveal = Reveal(Detail.ROUNDED, digits)
        told = np.stack([as_rows(reveal.shown(rows), rows.shape[1]) for rows in plain])
        scores = each_the_victim(confidences(told, examples.y, 10.0**-digits / 2), member)
        words = f"no defence, {digits} decimal{'s' * (digits > 1)}"
        at = found(scores[member], scores[~member], LOW)
        lines.append(Line(words, "members found at 0.1 % false alarms", at))
    right = gap(plain, examples.y)
    label = Figure(area(right[member], right[~member]))
    return (*lines, Line("no defence, label alone", "area under the curve, gap attack", label))
