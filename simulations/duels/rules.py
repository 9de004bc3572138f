"""What a server makes of the updates of twenty devices, some of them hostile: rules to compare.

Honest devices have brought a model most of the way, and all go on training it, over the rule's own
sums: the real protocol, in process.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg, MultiKrum

from tacit.client.policy import Policy
from tacit.client.trainer import Arrays, Examples, LocalPlan, Trainer
from tacit.crypto.vector import Floats
from tacit.server.filter import ReplyFilter
from tacit.server.flower import identity
from tacit.server.groups import Groups
from tacit.server.inbox import Seen, Tap
from tacit.server.loop import Plan, run_rounds
from tacit.server.plain import PlainGrid
from tacit.simulations.attacks.disaggregation import Disaggregation
from tacit.simulations.attacks.poisoning import Backdoor, SignFlip, Trigger
from tacit.simulations.data.dataset import take
from tacit.simulations.duels.ground import ground
from tacit.simulations.engine.grid import InProcessGrid
from tacit.simulations.evaluate import over_rounds
from tacit.simulations.models import trainer
from tacit.simulations.oracle import Trained
from tacit.simulations.quiet import hushed
from tacit.simulations.saboteurs import Saboteurs
from tacit.strategies.robust import Robust
from tacit.strategies.secure import Secure

DEVICES, HOSTILE = 20, 3
HONEST_ROUNDS = 10  # before there is an attack
REACH = 1.0  # L2 norm: of honest updates at that time half are above 0.8
SLACK = 1.001  # of the server's check, for the rounding of float32
EVERYONE: dict[str, Any] = {
    "min_train_nodes": DEVICES,
    "min_available_nodes": DEVICES,
    "fraction_evaluate": 0.0,
}
TRAINING = LocalPlan(epochs=3, batch_size=16, learning_rate=0.1, momentum=0.9)
TRIGGER = Trigger()


@dataclass(frozen=True, slots=True)
class Rule:
    """What a server does with updates that hide among `among` devices. With `groups` 0 all are in
    one sum; with `anew` groups are drawn again in each round. `binds` says who keeps updates to
    REACH: nobody, the devices, or the server too."""

    words: str
    among: int
    strategy: Callable[[], FedAvg]
    groups: int = 0
    binds: str = ""
    anew: bool = False


def _clear(words: str, strategy: Callable[[], FedAvg], binds: str = "") -> Rule:
    return Rule(f"{words}, in the clear", 1, strategy, binds=binds)


MEAN = Rule("mean", DEVICES, lambda: FedAvg(**EVERYONE))
OWN_BOUND = replace(MEAN, words="mean, norms bound by the devices", binds="devices")
ENFORCED = _clear("mean, norms bound by the server", MEAN.strategy, "server")
TEN = Rule("median of 10 groups", 2, lambda: FedMedian(**EVERYONE), 10)
ANEW = replace(TEN, words="median of 10 groups drawn anew", anew=True)
FIVE = Rule("median of 5 groups", 4, TEN.strategy, 5)
TRIMMED = _clear("trimmed mean", lambda: FedTrimmedAvg(**EVERYONE, beta=0.2))
MEDIAN = _clear("median", TEN.strategy)
KRUM = _clear(
    "multi-Krum",
    lambda: MultiKrum(
        **EVERYONE, num_malicious_nodes=HOSTILE, num_nodes_to_select=DEVICES - HOSTILE
    ),
)


Attack: TypeAlias = Backdoor | SignFlip


@dataclass(frozen=True, slots=True)
class Outcome:
    """Shares of the test pictures that the last model gets right, and with the trigger takes for
    the attacker's label."""

    accuracy: float
    success: float


@dataclass(frozen=True)  # no slots: the start is computed once and kept
class Federation:
    """Twenty devices, of which `seed` says who holds what, who is hostile, and how they begin."""

    data: str
    seed: int
    rounds: int
    _kept: dict[tuple[str, Attack | None], Outcome] = field(default_factory=dict)

    def outcome(self, rule: Rule, poison: Attack | None = None) -> Outcome:
        """What comes of it; each pair is run once."""
        if (rule.words, poison) not in self._kept:
            self._kept[rule.words, poison] = self._run(rule, poison)
        return self._kept[rule.words, poison]

    def exposed(self, rule: Rule) -> float:
        """How well an honest server that puts all its sums together knows what a device's updates
        are on average: the mean cosine between what it finds and the truth, all devices honest."""
        updates: dict[tuple[int, int], Floats] = {}
        inbox: list[Seen] = []

        def note(number: int, node: int, update: Floats) -> None:
            updates[number, node] = update

        self._run(rule, None, note, inbox.append)
        last = [seen for seen in inbox if seen.round == self.rounds]
        rng, cosines = np.random.default_rng(self.seed), list[float]()
        for at, seen in enumerate(last):  # each in turn is what the attack is about
            history = [*inbox[: -len(last)], *last[:at], *last[at + 1 :], seen]
            found = over_rounds(Disaggregation(), history, updates, [len(history)], rng)
            cosines += [value for _, measure in found for value in measure.values]
        return float(np.mean(cosines))

    def _run(
        self,
        rule: Rule,
        poison: Attack | None,
        note: Trained | None = None,
        tap: Tap | None = None,
    ) -> Outcome:
        strategy = rule.strategy()
        start = ArrayRecord({name: Array(array) for name, array in self.start.items()})
        app = replace(self._devices(rule, poison), note=note).app
        # Where an attack succeeds, devices refuse what has become of the model.
        with hushed(), InProcessGrid(app, devices=DEVICES) as grid, identity(grid.run.run_id):
            result = run_rounds(
                self._above(rule, strategy, grid, tap),
                strategy,
                start,
                Plan(self.rounds, seed=self.seed, nodes=DEVICES),
            )
        model = {name: array.numpy() for name, array in result.arrays.items()}
        held = ground(self.data).held
        return Outcome(
            self.trainer.evaluate(model, held)[1],
            self.trainer.evaluate(model, TRIGGER.asked(held))[1],
        )

    def _devices(self, rule: Rule, poison: Attack | None) -> Saboteurs:
        is_clear = rule.among == 1
        if poison is not None and rule.binds == "server":  # it sends no more than is let through
            poison = replace(poison, reach=REACH)
        hostile = () if poison is None else self.hostile(rule)
        smallest = max(2, min(rule.among, 3))  # as usual, but where groups are of two
        policy = Policy(
            smallest,
            smallest,
            max_norm=REACH if rule.binds == "devices" else None,
            plain=is_clear,
        )
        plan = replace(TRAINING, seed=10_000 * self.seed)
        return Saboteurs(
            self.trainer,
            plan,
            self.shares,
            {device: poison for device in hostile if poison is not None},
            policy,
            REACH if rule.binds == "server" else None,
        )

    def _above(self, rule: Rule, strategy: FedAvg, grid: Grid, tap: Tap | None) -> Grid:
        if rule.among == 1:
            reach = REACH * SLACK if rule.binds == "server" else None
            return PlainGrid(grid, ReplyFilter(max_norm=reach), tap=tap)
        if rule.groups:
            return Robust(strategy, groups=rule.groups, anew=rule.anew, seed=self.seed).grid(
                grid, tap=tap
            )
        return Secure(strategy).grid(grid, tap=tap)

    @cached_property
    def trainer(self) -> Trainer:
        where = ground(self.data)
        return trainer("mlp", where.shape, where.classes, backend="numpy")

    @cached_property
    def shares(self) -> tuple[Examples, ...]:
        everyone = ground(self.data).trained
        order = np.random.default_rng([self.seed, 1]).permutation(len(everyone))
        return tuple(take(everyone, part) for part in np.array_split(order, DEVICES))

    def hostile(self, rule: Rule) -> tuple[int, ...]:
        """Which devices are: any, but where there are groups each is in one of its own, which is
        the worst that can be. Where groups are drawn anew that is so in some of the rounds."""
        order = np.random.default_rng([self.seed, 2]).permutation(DEVICES).tolist()
        if not rule.groups or rule.anew:
            return tuple(order[:HOSTILE])
        groups = Groups(rule.groups, 1, 0, seed=self.seed)
        places = groups.divide([device + 1 for device in order], {}, 1)
        by_group = {places[device + 1]: device for device in reversed(order)}
        return tuple(sorted(by_group.values(), key=order.index)[:HOSTILE])

    @cached_property
    def start(self) -> Arrays:
        """What rounds of plain averaging make of a fresh model, all devices honest."""
        model = self.trainer.initial(self.seed)
        for number in range(HONEST_ROUNDS):
            seeds = range(10_000 * self.seed + 100 * number, 10_000 * (self.seed + 1))
            fits = [
                self.trainer.fit(model, share, replace(TRAINING, seed=seed))[0]
                for share, seed in zip(self.shares, seeds, strict=False)
            ]
            model = {
                name: np.mean([fit[name] for fit in fits], axis=0, dtype=array.dtype)
                for name, array in model.items()
            }
        return model
