"""The watch over keys, against thieves who ask for what no honest user would.

A stream is flagged when the watch says so, after how many queries. The limits come from data that
the model was not trained on, and the honest streams from others again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np

from tacit.client.torch_trainer import TorchTrainer
from tacit.client.trainer import Examples, LocalPlan
from tacit.server.gate.base import Grant, Suspicion
from tacit.server.gate.base import Role as KeyRole
from tacit.server.gate.baseline import Baseline
from tacit.server.gate.fitting import fit
from tacit.server.gate.model import TorchModel
from tacit.server.gate.watch import KeyWatch
from tacit.simulations.duels.base import (
    Figure,
    Fought,
    Line,
    Role,
    Scale,
    Tell,
    mean_of,
    share_of,
)
from tacit.simulations.duels.ground import (
    Ground,
    arrays_of,
    ground,
    module_of,
    patches,
    victim,
)
from tacit.simulations.duels.streams import (
    Asked,
    honest,
    inversion,
    jacobian,
    mixed,
    off_by_one,
    shots,
)
from tacit.simulations.models import factory

SOON = 100  # queries by which a thief has to be flagged
STEPS = (0.01, 0.1, 1.0)
NOISE = 0.05
_EACH = 25  # queries in a request, and between looks
_POOL = 2000  # honest inputs at most that streams are drawn from


@dataclass(frozen=True, slots=True)
class _Sizes:
    seeds: tuple[int, ...]
    streams: int  # honest ones, of each seed
    length: int
    thieves: int  # of each kind and seed
    fitted: int


# The margins of limits were chosen by what seeds 0 to 7 gave: these are others.
_FULL = _Sizes((10, 11, 12), 200, 1000, 40, 300)
_QUICK = _Sizes((0,), 60, 300, 20, 60)


@dataclass(frozen=True, slots=True)
class Followed:
    """One stream: after how many queries it was flagged (None: never), the `highest` excess of each
    figure over its typical value in units of its range, and the last `risk`."""

    flagged: int | None
    highest: dict[str, float]
    risk: float


def follow(baseline: Baseline, stream: Asked) -> Followed:
    """Have a fresh watch see a stream as one key's."""
    watch = KeyWatch(baseline)
    grant = Grant("k", "o", KeyRole.CLIENT, frozenset(), len(stream), 0.0, 1.0)
    flagged: int | None = None
    highest: dict[str, float] = {}
    found = Suspicion(0.0, False)
    for start in range(0, len(stream), _EACH):
        part = stream[start : start + _EACH]
        found = watch.saw(grant, part.x, part.scored, float(start))
        if found.figures:
            excess = baseline.excess(found.figures)
            highest = {name: max(highest.get(name, 0.0), excess[name]) for name in excess}
        if found.is_flagged and flagged is None:
            flagged = start + len(part)
    return Followed(flagged, highest, found.risk)


@dataclass(frozen=True, slots=True)
class _Met:
    """What one victim's watch met, by kind of stream, and what copies of it agree."""

    honest: list[Followed]
    others: dict[str, list[Followed]]
    agreed: tuple[float, float]  # with SOON * 10 answers; with those before the flag


class Detection:
    """Flags photo patches, their mixes with as many or twice as many real inputs, and inversion."""

    name = "detection"
    attack = "Knockoff with photographs, alone and under cover; MI-Face by differences; JBDA"
    defence = "a watch over each key's queries, in the model's feature space"

    def fight(self, scale: Scale, tell: Tell) -> Fought:
        begun = perf_counter()
        sizes = _QUICK if scale.quick else _FULL
        met: list[_Met] = []
        for done, seed in enumerate(sizes.seeds, 1):
            met.append(_meet(scale.data, seed, sizes))
            tell(done / len(sizes.seeds))
        lines = (*_attack_lines(met), *_defence_lines(met), *_known_lines(met))
        return Fought(
            self.name, self.attack, self.defence, scale.data, lines,
            perf_counter() - begun, _LIMITS,
        )  # fmt: skip


def _meet(data: str, seed: int, sizes: _Sizes) -> _Met:
    where, model = ground(data, seed), victim(data, "cnn", seed)
    rng = np.random.default_rng([seed, 52])
    baseline = fit(model, where.held.x, rng, noise=NOISE, streams=sizes.fitted, length=sizes.length)
    owned = Examples(where.owned.x[:_POOL], where.owned.y[:_POOL])
    clean = Asked.of(model, owned.x)
    noisy = Asked.of(model, shots(owned.x, NOISE, rng))
    good = [
        follow(baseline, stream)
        for stream in honest(owned, clean, noisy, sizes.streams, sizes.length, seed)
    ]
    photos = Asked.of(model, patches(where.shape, 10 * SOON, seed))
    others = {
        name: [follow(baseline, stream) for stream in streams]
        for name, streams in _others(data, seed, model, clean, photos, sizes.thieves, rng)
    }
    first = others[_PATCHES][0].flagged or len(photos)
    agreed = (_agreed(where, photos, seed), _agreed(where, photos[:first], seed))
    return _Met(good, others, agreed)


_PATCHES = "photo patches alone"
_MIXES = {"one real input for each patch": 1, "two real inputs for each patch": 2}
_NINE = "nine real inputs for each patch"
_THIN = {"four real inputs for each patch": 4, _NINE: 9}
_STEPS = {f"MI-Face, differences of {step}": step for step in STEPS}
_OWN, _JBDA = "the thief's own real inputs", "JBDA from the thief's own inputs"
_CAMERA, _REPEATS = "an honest camera one pixel off", "honest scenes, each shot three times"


def _others(
    data: str,
    seed: int,
    model: TorchModel,
    clean: Asked,
    photos: Asked,
    count: int,
    rng: np.random.Generator,
) -> Iterator[tuple[str, list[Asked]]]:
    def some(pool: Asked, length: int = SOON) -> Asked:
        return pool[rng.choice(len(pool), length, replace=False)]

    yield _PATCHES, [some(photos) for _ in range(count)]
    for name, covers in (_MIXES | _THIN).items():
        yield name, [mixed(photos, clean, covers, SOON, rng) for _ in range(count)]
    for name, step in _STEPS.items():
        targets = range(min(count, model.classes))
        yield name, [Asked.of(model, inversion(model, c, step, SOON)) for c in targets]
    yield _OWN, [some(clean) for _ in range(count)]
    module = module_of(data, "cnn", arrays_of(data, "cnn", seed))
    yield _JBDA, [Asked.of(model, jacobian(module, some(clean).x)) for _ in range(count)]
    moved = Asked.of(model, off_by_one(clean.x))
    yield _CAMERA, [some(moved) for _ in range(count)]
    scenes = [np.repeat(some(clean, SOON // 2).x, 3, axis=0) for _ in range(count)]
    yield _REPEATS, [Asked.of(model, shots(each, NOISE, rng)) for each in scenes]


def _agreed(where: Ground, asked: Asked, seed: int) -> float:
    """How often a copy made from the labels of `asked` agrees with them on data it has not seen."""
    trainer = TorchTrainer(partial(factory("mlp:256"), where.shape, where.classes))
    labels = asked.scored.probabilities.argmax(1).astype(np.int64)
    plan = LocalPlan(60, batch_size=32, learning_rate=0.05, momentum=0.9)
    copy, _ = trainer.fit(trainer.initial(seed + 1), Examples(asked.x, labels), plan)
    told = victim(where.data, "cnn", seed).scored(where.held.x[:_POOL]).probabilities.argmax(1)
    return trainer.evaluate(copy, Examples(where.held.x[:_POOL], told.astype(np.int64)))[1]


def _attack_lines(met: Sequence[_Met]) -> Iterator[Line]:
    full, cut = (mean_of([each.agreed[i] for each in met]) for i in range(2))
    # By chance a tenth agree; the rest of what a thief can do is the extraction duel's.
    yield Line(
        f"{10 * SOON} patches, labels, no watch", "copy agrees with the victim", full,
        Role.ATTACK, 0.4,
    )  # fmt: skip
    yield Line("answers before the flag alone", "copy agrees with the victim", cut)


def _defence_lines(met: Sequence[_Met]) -> Iterator[Line]:
    for name in (_PATCHES, *_MIXES, *_STEPS):
        found = [each for one in met for each in one.others[name]]
        yield Line(
            name, f"flagged by {SOON} queries", _share([_soon(each) for each in found]),
            Role.DEFENCE, 0.95,
        )  # fmt: skip
        when = [float(each.flagged) for each in found if each.flagged is not None]
        if when:
            yield Line(name, "queries before the flag", mean_of(when))
    good = [each for one in met for each in one.honest]
    yield Line(
        "honest streams", "flagged", _share([each.flagged is not None for each in good]),
        Role.PRICE, 0.0, at_most=True,
    )  # fmt: skip
    yield Line("honest streams", "risk at the end", mean_of([each.risk for each in good]))


def _known_lines(met: Sequence[_Met]) -> Iterator[Line]:
    """What the watch misses, whom it flags wrongly, and what the figures that may not act say."""
    for name in (*_THIN, _OWN, _JBDA, _CAMERA, _REPEATS):
        found = [each for one in met for each in one.others[name]]
        yield Line(name, "flagged", _share([each.flagged is not None for each in found]))
    for figure, said in (("near", "near-duplicates"), ("prada", "PRADA")):
        for name in (_PATCHES, _NINE, _JBDA, _REPEATS):
            found = [each for one in met for each in one.others[name]]
            yield Line(name, f"would be flagged by {said}", _over(found, figure))
        good = [each for one in met for each in one.honest]
        yield Line("honest streams", f"would be flagged by {said}", _over(good, figure))


def _over(found: Sequence[Followed], figure: str) -> Figure:
    return _share([each.highest.get(figure, 0.0) > 1 for each in found])


def _share(hits: Sequence[bool]) -> Figure:
    return share_of(sum(hits), len(hits))


def _soon(found: Followed) -> bool:
    return found.flagged is not None and found.flagged <= SOON


_LIMITS = (
    "Honest streams are simulated: drawn with replacement from the same few hundred real inputs, "
    "which no training, and no limit, has seen. Real users vary in ways that none of them does.",
    "No thief here adapts to the watch. One who hides each patch among nine real inputs is not "
    "seen; he pays nine answers of his budget for it, and has real inputs.",
    "A flag says that somebody asks for the unusual, not that he steals: a camera that is a pixel "
    "off is flagged too. So a flag degrades, and only a person suspends.",
    "It stands on features that tell data from other things. Those of a model of Fashion-MNIST "
    "hardly do: there it sees patches alone, and neither their mixes nor inversion.",
    "Nobody with real inputs of his own is seen, whatever he does with the answers.",
)
