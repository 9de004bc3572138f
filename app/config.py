"""Every setting of a run, in one frozen tree.

The same names are the keys of a configuration file (TOML), of `--set train.epochs=2`, and of the
`[tool.flwr.app.config]` table for `flwr run`. An unknown key is an error that names the nearest
known one; a value out of range says the range and what the setting is for.
"""

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import ValidationError, field_validator
from pydantic.fields import FieldInfo

from tacit.app.sections import (
    Data,
    Mark,
    Model,
    PolicySettings,
    PrivacySettings,
    Run,
    Section,
    Secure,
    StrategySettings,
    Train,
)
from tacit.crypto.errors import ParameterError
from tacit.server.pairwise import SecureSum
from tacit.server.private import OnDevice, Privacy
from tacit.simulations.engine.faults import Fault, parse_fault

Scalar = bool | int | float | str

_BOUNDS = {"ge": "{} or more", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}


class Settings(Section):
    """All of it."""

    run: Run = Run()
    data: Data = Data()
    model: Model = Model()
    train: Train = Train()
    strategy: StrategySettings = StrategySettings()
    secure: Secure = Secure()
    privacy: PrivacySettings = PrivacySettings()
    policy: PolicySettings = PolicySettings()
    mark: Mark = Mark()
    faults: tuple[str, ...] = ()

    @field_validator("faults", mode="before")
    @classmethod
    def _parsed(cls, value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise ParameterError("expected a list of texts such as 'drop report 3,7 @2'")
        for text in value:
            parse_fault(text)
        return tuple(value)

    def sum(self) -> SecureSum:
        """What the run's sums are made with, as far as its devices' policy allows."""
        made = self.secure.sum(lattice=self.policy.lattice)
        # Where devices train by DP-SGD all weigh 1, and the grid should be as fine as that allows.
        return replace(made, max_weight=1.0) if isinstance(self.private, OnDevice) else made

    @property
    def private(self) -> Privacy | None:
        """How the run's sums are made private."""
        return self.privacy.of(self.run.rounds, self.data.devices, self.train.learning_rate)

    @property
    def enough(self) -> int:
        """Real devices that a run begins with, if the others do not come: as many as are left where
        a sum misses all that it may."""
        return math.ceil((1 - self.secure.drop) * self.data.devices)

    @property
    def fault_plan(self) -> tuple[Fault, ...]:
        """The faults, parsed."""
        return tuple(parse_fault(text) for text in self.faults)

    @classmethod
    def of(cls, tree: Mapping[str, Any], source: str = "the settings") -> "Settings":
        """Settings from a nested mapping. Raises ParameterError that names `source`, the key, and
        what to do."""
        try:
            return cls.model_validate(dict(tree))
        except ValidationError as wrong:
            raise ParameterError(f"{source}: {_explain(wrong)}") from None

    def changed(self, assignments: Iterable[str]) -> "Settings":
        """These settings with "section.key=value" assignments, values in TOML's notation; a value
        that is none is taken as text."""
        tree = self.model_dump()
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            if not equals or not key.strip():
                raise ParameterError(f"--set {assignment}: expected section.key=value")
            _assign(tree, key.strip(), _value(text.strip()))
        return Settings.of(tree, "--set")

    def toml(self) -> str:
        """The whole tree as a configuration file."""
        return tomli_w.dumps({**self.model_dump(), "faults": list(self.faults)})

    def flat(self) -> dict[str, Scalar]:
        """The tree as Flower's flat run configuration; faults are the engine's, not the apps'."""
        tree = self.model_dump(exclude={"faults"})
        return {f"{s}.{k}": value for s, keys in tree.items() for k, value in keys.items()}

    @classmethod
    def from_flat(cls, config: Mapping[str, Any]) -> "Settings":
        """Inverse of `flat`."""
        tree: dict[str, Any] = {}
        for key, value in config.items():
            _assign(tree, key, value)
        return cls.of(tree, "run configuration")


def load(path: Path) -> Settings:
    """Settings from a TOML file. Raises ParameterError that says what is wrong and where."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParameterError(f"no configuration at {path}") from None
    except OSError as bad:
        raise ParameterError(f"{path}: {bad.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as bad:
        raise ParameterError(f"{path} is no TOML: {bad}") from None
    return Settings.of(tree, str(path))


def keys() -> dict[str, tuple[Scalar, str]]:
    """Every scalar setting: its default and what it is for."""
    out: dict[str, tuple[Scalar, str]] = {}
    for section, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            for key, inner in field.annotation.model_fields.items():
                out[f"{section}.{key}"] = (inner.default, inner.description or "")
    return out


def describe_range(dotted: str) -> str:
    """What values a setting takes, such as "1 or more, at most 1024" or "sync, threads"; empty if
    it is any text."""
    field = _field(dotted)
    if choices := get_args(field.annotation):
        return ", ".join(map(str, choices))
    if field.annotation is bool:
        return "true, false"
    words = []
    for bound in field.metadata:
        for name, word in _BOUNDS.items():
            if (value := getattr(bound, name, None)) is not None:
                words.append(word.format(value))
    return ", ".join(words)


def _assign(tree: dict[str, Any], dotted: str, value: object) -> None:
    *sections, key = dotted.split(".")
    place = tree
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise ParameterError(f"{dotted}: {section} is a setting, not a section")
    place[key] = value


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(wrong: ValidationError) -> str:
    """The first problem in words: the key, what is wrong, and what the setting is for."""
    problem = wrong.errors()[0]
    path = [str(part) for part in problem["loc"]]
    dotted = ".".join(path)
    if problem["type"] == "extra_forbidden":
        known = [*keys(), *Settings.model_fields]
        near = difflib.get_close_matches(dotted, known, 1, 0.5)
        return f"unknown key {dotted}" + (f", did you mean {near[0]}?" if near else "")
    purpose = keys().get(dotted, ("", ""))[1]
    text = f"{dotted} = {problem['input']!r}: {_reason(dotted, problem)}"
    return text + (f" ({purpose})" if purpose else "")


def _reason(dotted: str, problem: Mapping[str, object]) -> str:
    """What is wrong with one value, and what is expected in its place."""
    match str(problem["type"]).partition("_"):
        case "greater" | "less", _, _:
            return f"expected {describe_range(dotted)}"
        case "literal", _, _:
            known = [str(value) for value in get_args(_field(dotted).annotation)]
            near = difflib.get_close_matches(str(problem["input"]), known, 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            return f"expected {describe_range(dotted)}{hint}"
        case "int" | "float" | "string" | "bool" | "finite" as kind, _, _:
            names = {
                "int": "a whole number",
                "float": "a number",
                "finite": "a finite number",
                "string": "a text",
            }
            return f"expected {names.get(kind, 'true or false')}"
        case "model", _, _:
            return f"{dotted} is a section, with keys such as {_first_key(dotted)}"
    return str(problem["msg"]).removeprefix("Value error, ")


def _first_key(section: str) -> str:
    return next(key for key in keys() if key.startswith(f"{section}."))


def _field(dotted: str) -> FieldInfo:
    section, _, key = dotted.partition(".")
    kind: Any = Settings.model_fields[section].annotation
    fields: dict[str, FieldInfo] = kind.model_fields
    return fields[key]
