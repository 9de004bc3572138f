"""Training under each mode of privacy, by the product's own mechanism and accounts.

Sums are taken in the ring without masks: these cancel to the last bit, so nothing would change.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from benchmarks.shared.learners import Parts, Reals
from tacit.crypto.identity import KEY_BYTES
from tacit.crypto.secagg.noised import MOST_BITS
from tacit.privacy.accountants import Adversary, compose
from tacit.privacy.charges import releases_of
from tacit.privacy.mechanisms import Mechanism
from tacit.server.pairwise import Asked, Pairwise
from tacit.server.private import Central, Distributed, Local, Privacy, noise_for

TUNING_SEED = 1000  # from here on: splits that no figure is from
LARGE = 255  # a cohort above that cannot have the defaults: see `Pairwise`


@dataclass(frozen=True, slots=True)
class Choice:
    """What is chosen for each noise. `rate` is a device's, or where examples are protected the
    server's, for the mean gradient."""

    rounds: int
    clip: float
    rate: float


@dataclass(frozen=True, slots=True)
class Setting:
    """A federation, and what to choose from for it.

    `batch` is of a device's own steps; 0: the unit is an example, not a device.
    """

    data: str
    devices: int
    examples: int
    delta: float
    batch: int
    rounds: tuple[int, ...]
    clips: tuple[float, ...]
    rates: tuple[float, ...]
    plain_rounds: int

    @property
    def records(self) -> int:
        return 0 if self.batch else self.examples

    @property
    def choices(self) -> tuple[Choice, ...]:
        return tuple(Choice(*each) for each in product(self.rounds, self.clips, self.rates))

    def parts(self, seed: int) -> Parts:
        return _parts(self.data, self.devices, self.examples, seed)


@cache
def _parts(data: str, devices: int, examples: int, seed: int) -> Parts:
    return Parts.of(data, devices, examples, seed)


@dataclass(frozen=True, slots=True)
class Way:
    """A mode. `is_careful`: with the product's defaults for who is corrupt and who may be missing;
    if not, nobody is either. Nobody is missing in fact."""

    name: str
    kind: type[Privacy]
    is_careful: bool = False

    def mechanism(self, setting: Setting, choice: Choice, epsilon: float) -> Mechanism:
        """By which all rounds together cost as much."""
        noise = noise_for(epsilon, setting.delta, choice.rounds)
        privacy = self.kind(choice.clip, noise, records=setting.records)
        n, length = setting.devices, setting.parts(TUNING_SEED).length
        asked = Asked(length, n, n, 0, MOST_BITS)
        if self.is_careful:
            protocol = Pairwise() if n <= LARGE else Pairwise(corrupt=0.1, drop=0.2)
            asked = protocol.asked(length, n, n)
        agreed = privacy.noised(asked)
        assert agreed is not None  # these modes put noise into the sum itself
        return Mechanism.of(agreed)

    def spent(self, mechanism: Mechanism, rounds: int, delta: float) -> tuple[float, float]:
        """Epsilon of all rounds, as a device counts it, which is never told who was there, and as
        the server does, since all were."""
        against = Adversary.OUTSIDER if self.kind is Central else Adversary.SERVER

        def epsilon(survivors: int) -> float:
            entries = [
                entry
                for t in range(1, rounds + 1)
                for entry in releases_of(mechanism.agreed, 1, t, survivors, mechanism.corrupt)
            ]
            return compose(entries, against).epsilon(delta)

        return epsilon(mechanism.least), epsilon(mechanism.clients)


CENTRAL, DISTRIBUTED, LOCAL = (Way(k.name, k) for k in (Central, Distributed, Local))
CAREFUL = Way("distributed, careful", Distributed, is_careful=True)
WAYS = (CENTRAL, DISTRIBUTED, CAREFUL, LOCAL)


def train(
    setting: Setting,
    choice: Choice,
    mechanism: Mechanism | None,
    seed: int,
    *,
    is_real: bool = True,
) -> float:
    """Accuracy at the end of a run; without a mechanism nothing is clipped, and no noise added."""
    parts, rng = setting.parts(seed), np.random.default_rng([seed, 2])
    model = parts.model()
    for _ in range(choice.rounds):
        if setting.batch:
            updates, pace = parts.steps(model, choice.rate, setting.batch, rng), 1.0
        else:
            updates = parts.gradients(model, is_clipped=mechanism is not None)
            pace = choice.rate / setting.examples
        if mechanism is None:
            mean: Reals = updates.mean(axis=0)
        elif is_real:
            mean = private_mean(updates, mechanism)
        else:
            mean = likely_mean(updates, mechanism, rng)
        model += np.float32(pace) * mean.reshape(model.shape)
    return parts.accuracy(model)


def private_mean(updates: Reals, mechanism: Mechanism) -> Reals:
    """As devices and server make it."""
    session = os.urandom(KEY_BYTES)
    total = np.zeros(mechanism.size, mechanism.dtype)
    for update in updates.astype(np.float64):
        total += mechanism.encode(update, session, os.urandom(KEY_BYTES))
    opened = mechanism.decode(total, len(updates))
    if mechanism.central:
        opened = mechanism.add_noise(opened, os.urandom(KEY_BYTES))
    return mechanism.update(opened, session).astype(np.float32)


def likely_mean(updates: Reals, mechanism: Mechanism, rng: np.random.Generator) -> Reals:
    """The same but for a grid, by normal noise: to choose settings by, in a fraction of the time.
    As noise that protects anybody it would not do."""
    if not mechanism.records:
        norms = np.linalg.norm(updates, axis=1, keepdims=True)
        updates = updates * np.minimum(1, np.float32(mechanism.clip) / np.maximum(norms, 1e-12))
    noise = math.sqrt(mechanism.variance * mechanism.surplus) / mechanism.scale
    drawn = rng.standard_normal(updates.shape[1], np.float32) * np.float32(noise)
    mean: Reals = (updates.sum(axis=0) + drawn) / np.float32(len(updates))
    return mean


def chosen(setting: Setting, way: Way, epsilon: float, splits: int) -> Choice:
    """What does best on splits that no figure is from."""

    def score(choice: Choice) -> float:
        mechanism = way.mechanism(setting, choice, epsilon)
        seeds = range(TUNING_SEED, TUNING_SEED + splits)
        return sum(train(setting, choice, mechanism, seed, is_real=False) for seed in seeds)

    return max(setting.choices, key=score)


@dataclass(frozen=True, slots=True)
class Found:
    """Accuracies of runs, and what they spent: see `Way.spent`."""

    choice: Choice
    accuracies: tuple[float, ...]
    spent: tuple[float, float] = (math.inf, math.inf)
    bits: float = 32.0


def measure(
    setting: Setting, epsilon: float, seeds: int, splits: int, ways: tuple[Way, ...] = WAYS
) -> Mapping[str, Found]:
    """By the names of ways. Central and distributed noise have one law, so one choice too."""
    found: dict[str, Found] = {}
    for way in ways:
        like = CENTRAL.name if way == DISTRIBUTED else ""
        choice = found[like].choice if like in found else chosen(setting, way, epsilon, splits)
        mechanism = way.mechanism(setting, choice, epsilon)
        found[way.name] = Found(
            choice,
            tuple(train(setting, choice, mechanism, seed) for seed in range(seeds)),
            way.spent(mechanism, choice.rounds, setting.delta),
            mechanism.bits_per_parameter,
        )
    return found


def without(setting: Setting, seeds: int, splits: int) -> Found:
    """No privacy."""

    def run(rate: float, seed: int) -> float:
        return train(setting, Choice(setting.plain_rounds, 1.0, rate), None, seed)

    tried = range(TUNING_SEED, TUNING_SEED + splits)
    best = max(setting.rates, key=lambda rate: sum(run(rate, seed) for seed in tried))
    choice = Choice(setting.plain_rounds, 1.0, best)
    return Found(choice, tuple(run(best, seed) for seed in range(seeds)))
