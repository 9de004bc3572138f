"""A matrix of attacks as a file: blocks, each of them every combination of what it lists.

    title = "What an update gives away"

    [[block]]
    attacks = ["linear-readout", "inverting-gradients steps=300"]
    defences = ["none", "secure", "distributed privacy.epsilon=8"]
    models = ["mlp:256", "smooth-cnn"]
    data = ["portraits"]
    devices = [1, 4, 16]
    seeds = 5

Attacks are as in `tacit.app.lab.attacks`, defences as in `tacit.app.lab.defences`, models and data
as in a run's settings.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

from pydantic import Field, ValidationError

from tacit.app.check import check
from tacit.app.lab.attacks import BUILT, Ground, Named
from tacit.app.lab.defences import Defence
from tacit.app.lab.federation import settings_of
from tacit.app.material import material
from tacit.app.sections import Section
from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.base import Target
from tacit.simulations.named import nearest, resolve
from tacit.simulations.trial import Cell

SHIPPED = Path(__file__).parent


class Block(Section):
    """Every combination of these, tried with `seeds` seeds."""

    attacks: list[str] = Field(min_length=1, description="attacks, with their options")
    defences: list[str] = Field(["none"], min_length=1, description="defences, with settings")
    models: list[str] = Field(min_length=1, description="as model.name")
    data: list[str] = Field(min_length=1, description="as data.name")
    devices: list[int] = Field([1], min_length=1, description="how many are summed; 1 is no sum")
    examples: list[int] = Field([1], min_length=1, description="how many each device holds")
    steps: list[int] = Field([1], min_length=1, description="of training, on all of them at once")
    rates: list[float] = Field([0.1], min_length=1, description="size of a step")
    rounds: list[int] = Field([1], min_length=1, description="rounds of training")
    seeds: int = Field(3, ge=1, le=10_000, description="how often each cell is tried")

    def cells(self) -> Iterator[Cell]:
        """Every combination that makes sense: where nothing is summed, what one device sends is the
        same however many there are; and of one device there is no sum."""
        axes = (self.attacks, self.defences, self.models, self.data, self.devices, self.examples)
        for values in product(*axes, self.steps, self.rates, self.rounds):
            cell = Cell(*values)
            if not Defence.parse(cell.defence).sums:
                yield replace(cell, devices=1)
            elif cell.devices > 1:
                yield cell


@dataclass(frozen=True, slots=True)
class Skipped:
    """A cell that makes no sense, and why."""

    cell: Cell
    reason: str


class Plan(Section):
    """All of it. The same plan is the same trials."""

    title: str = "What an update gives away"
    perceptual: str = Field(
        "", description="a perceptual distance of pictures as package.module:function"
    )
    block: list[Block] = Field(min_length=1, description="blocks of the matrix")

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Raises ParameterError, that names the key, for a file that is no plan."""
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
            return cls.model_validate(tree)
        except FileNotFoundError:
            raise ParameterError(f"there is no {path}: a matrix is a TOML file") from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as torn:
            raise ParameterError(f"{path} is not TOML: {torn}") from None
        except ValidationError as wrong:
            raise ParameterError(f"{path}: {_explain(wrong)}") from None

    @classmethod
    def find(cls, path: Path) -> "Plan":
        """A file, or by its name one that comes with Tacit: `standard`, `quick` or `text`."""
        shipped = SHIPPED / f"{path}.toml"
        return cls.load(shipped if len(path.parts) == 1 and shipped.exists() else path)

    def checked(self) -> tuple[tuple[tuple[Cell, int], ...], tuple[Skipped, ...]]:
        """What to try, cell and seed, the first seed of every cell ahead of any second one; and the
        cells that are skipped.

        Raises ParameterError before any work if an attack applies to none of its block's cells, or
        for names and settings that are not there.
        """
        if self.perceptual:
            resolve(self.perceptual)
        seeds: dict[Cell, int] = {}
        skipped: dict[Cell, str] = {}
        for block in self.block:
            for attack in block.attacks:
                named = [cell for cell in block.cells() if cell.attack == attack]
                reasons = {cell: _unfit(cell) for cell in named}
                fit = [cell for cell, reason in reasons.items() if not reason]
                if not fit:
                    why = "; ".join(sorted(set(reasons.values()))) or "no devices to attack"
                    raise ParameterError(f"{attack} applies to nothing in its block: {why}")
                seeds |= {cell: max(block.seeds, seeds.get(cell, 0)) for cell in fit}
                skipped |= {cell: reason for cell, reason in reasons.items() if reason}
        rounds = range(max(seeds.values()))
        trials = tuple((cell, seed) for seed in rounds for cell in seeds if seed < seeds[cell])
        return trials, tuple(Skipped(*each) for each in skipped.items())


def _explain(wrong: ValidationError) -> str:
    """The first problem in words: where it is, and what is expected there."""
    problem = wrong.errors()[0]
    place = [str(part + 1) if isinstance(part, int) else part for part in problem["loc"]]
    key = str(place[-1])
    known = [*Block.model_fields, *Plan.model_fields]
    if problem["type"] == "extra_forbidden":
        return f"unknown key {'.'.join(place)}{nearest(key, known)}"
    return f"{'.'.join(place)} = {problem['input']!r}: {problem['msg']}"


def _unfit(cell: Cell) -> str:
    """Why this attack cannot be tried on such models and data; empty if it can. Raises
    ParameterError for a run that cannot be, whatever attacks it."""
    name = cell.attack.partition(" ")[0]
    ground = _ground(replace(cell, attack=name if name in BUILT else ""))
    try:
        attack = Named.parse(cell.attack).make(ground)
        if attack.target is Target.UPDATES and Defence.parse(cell.defence).is_open:
            return "updates in the clear need no attack"
    except ParameterError as unfit:
        return str(unfit)
    return ""


@cache
def _ground(cell: Cell) -> Ground:
    settings = settings_of(cell, 0)
    check(settings)
    return Ground.of(settings, material(settings.data, 0))
