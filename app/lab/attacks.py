"""The attacks of a matrix by name, each made for the model and the data that it will meet.

An attack is written as its name, then what it is to be made with, in TOML's notation:
"inverting-gradients steps=300 restarts=2". One's own is `package.module:function`: it takes a
`Ground` and the options, and returns an `Attack`.
"""

import shlex
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from types import MappingProxyType
from typing import Any

from torch import nn

from tacit.app.config import Settings
from tacit.app.material import Material, trainer_for
from tacit.client.trainer import LocalPlan
from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.base import Attack, Target
from tacit.simulations.attacks.candidates import CandidateMatching
from tacit.simulations.attacks.cocktail import CocktailParty
from tacit.simulations.attacks.dager import Dager
from tacit.simulations.attacks.disaggregation import Disaggregation
from tacit.simulations.attacks.dlg import DeepLeakage, Labels
from tacit.simulations.attacks.fishing import ClassFishing, FeatureFishing
from tacit.simulations.attacks.gradinversion import GradInversion, Statistics
from tacit.simulations.attacks.imprint import Imprint, SlippedIn
from tacit.simulations.attacks.inconsistency import Inconsistency
from tacit.simulations.attacks.inverting import InvertingGradients
from tacit.simulations.attacks.labels import LabelCounts
from tacit.simulations.attacks.linear import LinearReadout
from tacit.simulations.attacks.spear import Spear
from tacit.simulations.attacks.tableak import TabLeak
from tacit.simulations.attacks.unrolled import UnrolledTraining
from tacit.simulations.data.table import Table
from tacit.simulations.models import factory
from tacit.simulations.named import is_dotted, nearest, resolve

LONGEST = 2**16  # numbers of a model of which as many updates as candidates fit into memory
REACH = 10.0  # standard deviations: nothing measured is further out


@dataclass(frozen=True, slots=True)
class Ground:
    """What anyone can know of a federation before it begins.

    `build` makes its model; `arrays` has the shape of each array, in the model's order; `shape` is
    that of one example; `rate` and `steps` are how devices train. `label` is a class that somebody
    has an example of: the one to fish for, for a server that knows of it. `clip` is how long an
    update may be, where that is bounded; `is_plain` if each step is on all examples and without
    momentum; `is_bounded` if inputs are in 0 .. 1.
    """

    build: Callable[[], nn.Module] = field(repr=False)
    arrays: Mapping[str, tuple[int, ...]]
    shape: tuple[int, ...]
    classes: int
    rate: float
    steps: int
    label: int
    table: Table | None
    clip: float | None
    is_plain: bool
    is_bounded: bool

    @classmethod
    def of(cls, settings: Settings, held: Material) -> "Ground":
        data, train = held.dataset, settings.train
        made = trainer_for(settings.model, settings.data, settings.run.seed)
        arrays = {name: array.shape for name, array in made.initial(0).items()}
        build = partial(factory(settings.model.name), data.shape, data.classes)
        clip = settings.policy.max_norm or None
        return cls(
            build,
            arrays,
            data.shape,
            data.classes,
            train.learning_rate,
            train.epochs,
            label=int(held.examples(0).y[0]),
            table=data.table,
            clip=clip if settings.private is None else settings.privacy.clip,
            is_plain=train.batch_size == 0 and train.momentum == 0,
            is_bounded=bool(data.train.x.min() >= 0 and data.train.x.max() <= 1),
        )

    def first(self) -> str:
        """The layer that inputs come to first. Raises ParameterError unless it is a dense one."""
        name, shape = next(iter(self.arrays.items()))
        layer = name.removesuffix(".weight")
        if layer == name or len(shape) != 2 or shape[1] != prod(self.shape):
            raise ParameterError(f"the model's first layer, {layer}, is not a dense one")
        return layer

    def last(self) -> str:
        """The layer that makes scores. Raises ParameterError unless it is a dense one with bias."""
        names = [name for name, shape in self.arrays.items() if shape == (self.classes,)]
        layer = names[-1].removesuffix(".bias") if names else ""
        if not names or len(self.arrays.get(f"{layer}.weight", ())) != 2:
            raise ParameterError("the model's last layer is not a dense one with a bias")
        return layer

    def hidden(self) -> str:
        """`first`, where another layer follows it."""
        if (layer := self.first()) == self.last():
            raise ParameterError(f"the model has no layer but {layer}")
        return layer

    def range(self) -> dict[str, float]:
        """Between what numbers inputs lie: pictures in 0 .. 1, standardised numbers nearly all."""
        return {} if self.table is None else {"low": -REACH, "high": REACH}

    def rows(self) -> Table:
        """What the columns are. Raises ParameterError unless examples are rows of a table."""
        if self.table is None:
            raise ParameterError(f"examples of shape {self.shape} are not rows of a table")
        return self.table

    def image(self) -> tuple[int, ...]:
        """`shape`. Raises ParameterError unless it is an image's."""
        if len(self.shape) != 3:
            raise ParameterError(f"examples of shape {self.shape} are not images")
        return self.shape


Make = Callable[..., Attack]


def _feature(ground: Ground, among: int = 8, **options: Any) -> Attack:
    layers = (ground.hidden(), ground.last())
    return FeatureFishing(ground.label, ground.shape, among, 0, *layers, **options)


def _deep(ground: Ground, labels: str = Labels.GRANTED.value, **options: Any) -> Attack:
    return DeepLeakage(ground.build, ground.image(), labels=Labels(labels), **options)


def _gradinversion(
    ground: Ground, statistics: str = Statistics.BATCH.value, **options: Any
) -> Attack:
    held_to = Statistics(statistics)
    return GradInversion(ground.build, ground.image(), statistics=held_to, **options)


def _unrolled(ground: Ground, **options: Any) -> Attack:
    plan = LocalPlan(epochs=ground.steps, batch_size=0, learning_rate=ground.rate)
    if not ground.is_plain:
        raise ParameterError("devices train in batches whose order is not known, or with momentum")
    return UnrolledTraining(ground.build, ground.image(), plan, **options)


def _dager(ground: Ground, **options: Any) -> Attack:
    if "blocks.1.attention.query.weight" not in ground.arrays:
        raise ParameterError("the model is no decoder with two blocks or more")
    return Dager(ground.build, ground.shape[0], ground.classes, **options)


def _candidates(ground: Ground, **options: Any) -> Attack:
    length = sum(prod(shape) for shape in ground.arrays.values())
    if length > LONGEST:
        raise ParameterError(f"the model has {length:,} numbers, it takes {LONGEST:,} at most")
    return CandidateMatching(ground.build, **{"clip": ground.clip, **options})


def _two(ground: Ground) -> tuple[str, str]:
    """The first two layers, both dense."""
    first = ground.hidden()
    following = [name for name in ground.arrays if name.endswith(".weight")][1]
    if len(ground.arrays[following]) != 2:
        raise ParameterError("the model's second layer is not a dense one")
    return first, following.removesuffix(".weight")


def _inverting(ground: Ground, **options: Any) -> Attack:
    return InvertingGradients(ground.build, ground.image(), **options)


ATTACKS: Mapping[str, Make] = MappingProxyType(
    {
        "linear-readout": lambda g, **o: LinearReadout(g.first(), g.shape, **{**g.range(), **o}),
        "label-counts": lambda g, **o: LabelCounts(g.last(), **o),
        "cocktail-party": lambda g, **o: CocktailParty(g.first(), g.image(), **o),
        "spear": lambda g, **o: Spear(g.hidden(), g.shape, **{**g.range(), **o}),
        "inverting-gradients": _inverting,
        "deep-leakage": _deep,
        "gradinversion": _gradinversion,
        "unrolled": _unrolled,
        "candidate-matching": _candidates,
        "imprint": lambda g, **o: Imprint(g.shape, *_two(g), **o),
        "imprint-layer": lambda g, **o: SlippedIn(g.shape, **o),
        "model-inconsistency": lambda g, **o: Inconsistency(g.hidden(), g.shape, **o),
        "class-fishing": lambda g, **o: ClassFishing(g.label, g.shape, g.hidden(), g.last(), **o),
        "tableak": lambda g, **o: TabLeak(g.build, g.rows(), **o),
        "dager": _dager,
        "feature-fishing": _feature,
        "disaggregation": lambda g, **o: Disaggregation(**o),
    }
)


# What a server that chooses the architecture has its devices build, whatever was agreed on.
BUILT: Mapping[str, str] = MappingProxyType(
    {"imprint-layer": "tacit.simulations.attacks.imprint:imprinted"}
)


@dataclass(frozen=True, slots=True)
class Named:
    """An attack's name, and what it is to be made with."""

    name: str
    options: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> "Named":
        """Raises ParameterError for a name that is not there, or options that are none."""
        try:
            name, *rest = shlex.split(text, posix=False) or [""]
            options = tomllib.loads("\n".join(rest))
        except (ValueError, tomllib.TOMLDecodeError) as torn:
            raise ParameterError(
                f"attack {text!r}: expected a name, then option=value: {torn}"
            ) from None
        if name not in ATTACKS and not is_dotted(name):
            raise ParameterError(
                f"unknown attack {name!r}{nearest(name, ATTACKS)}; there are {', '.join(ATTACKS)}, "
                "and one's own as package.module:function"
            )
        return cls(name, options)

    def make(self, ground: Ground) -> Attack:
        """Raises ParameterError, that says why, where the attack is not for such models or data."""
        made: Make = resolve(self.name) if is_dotted(self.name) else ATTACKS[self.name]
        try:
            attack = made(ground, **self.options)
        except ParameterError:
            raise
        except (TypeError, ValueError) as wrong:  # an option that it does not have, or a value
            raise ParameterError(f"{self.name}: {wrong}") from None
        if not isinstance(attack, Attack):
            raise ParameterError(f"{self.name} made {type(attack).__name__}, which is no attack")
        if attack.target is Target.INPUTS and ground.table is None and not ground.is_bounded:
            raise ParameterError("inputs outside 0 .. 1 are scored as rows of a table only")
        return attack
