"""A node's own settings: `node.toml` in the device's vault, which its owner writes by hand.

All of it is optional, and without the file a device works whenever it is asked.

    hook = "/usr/local/bin/may-train"   # a program that says by its exit code, 0, that it may
    max_rounds_per_day = 20             # contributions, from midnight to midnight

    [schedule]                          # local time; any of them, the last into the next morning
    windows = ["sat,sun 00:00-24:00", "mon-fri 20:00-06:00"]

    [power]
    mains = true                        # on mains only
    battery_above = 40                  # percent, where it is on battery

    [network]                           # of the default route
    interfaces = ["eth*", "wlan0"]      # over these only
    metered = ["wwan*", "ppp*"]         # and not over these

    [machine]
    max_load = 0.5                      # of the last minute, for each core
    max_temperature = 75                # degrees Celsius, of the hottest sensor

    [connection]
    idle = 3.0                          # seconds between looks for a message, when there are none
    first = 1.0                         # seconds before the first try of a server that is gone
    longest = 30.0                      # and the most, doubling at each try
    bandwidth = 0                       # bytes a second in both directions together, 0: no cap
"""

import difflib
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from tacit.crypto.errors import ParameterError

FILE = "node.toml"
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
_WINDOW = re.compile(r"(?:(\S.*?)\s+)?(\d\d):(\d\d)-(\d\d):(\d\d)")

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Window:
    """Some hours of some days, 0 for Monday. `begin` and `end` are minutes since midnight; a window
    that ends before it begins ends on the day after."""

    days: frozenset[int]
    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> "Window":
        """From "mon-fri 20:00-06:00", or hours alone for every day. Raises ParameterError."""
        if (found := _WINDOW.fullmatch(text.strip().lower())) is None:
            raise ParameterError(f"{text!r}: expected such as 'mon-fri 20:00-06:00'")
        days, *digits = found.groups()
        hours = [int(digits[0]) * 60 + int(digits[1]), int(digits[2]) * 60 + int(digits[3])]
        minutes = (int(digits[1]), int(digits[3]))
        if max(hours) > DAY_MINUTES or max(minutes) > 59 or hours[0] == DAY_MINUTES:
            raise ParameterError(f"{text!r}: hours go from 00:00 to 24:00")
        if hours[0] == hours[1]:
            raise ParameterError(f"{text!r} ends when it begins: a whole day is 00:00-24:00")
        return cls(frozenset(range(7)) if days is None else _days(days, text), *hours)

    def holds(self, day: int, minute: int) -> bool:
        """Whether a minute of a weekday is in it."""
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        evening = day in self.days and minute >= self.begin
        return evening or ((day - 1) % 7 in self.days and minute < self.end)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Empty: at all times."""

    windows: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text in self.windows:
            Window.parse(text)

    @property
    def parsed(self) -> tuple[Window, ...]:
        return tuple(map(Window.parse, self.windows))


@dataclass(frozen=True, slots=True)
class Power:
    """`battery_above` is in percent, and holds where the device is not on mains."""

    mains: bool = False
    battery_above: float = 0.0

    def __post_init__(self) -> None:
        _in_range("battery_above", self.battery_above, 0, 100)


@dataclass(frozen=True, slots=True)
class Network:
    """Patterns of names of interfaces, as a shell's. No `interfaces`: all of them."""

    interfaces: tuple[str, ...] = ()
    metered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """0: whatever it is."""

    max_load: float = 0.0
    max_temperature: float = 0.0

    def __post_init__(self) -> None:
        _in_range("max_load", self.max_load, 0, 1000)
        _in_range("max_temperature", self.max_temperature, 0, 200)


@dataclass(frozen=True, slots=True)
class Connection:
    """For the node's pace: see `tacit.client.node.pace`. Seconds, and bytes a second."""

    idle: float = 3.0
    first: float = 1.0
    longest: float = 30.0
    bandwidth: float = 0.0

    def __post_init__(self) -> None:
        _in_range("idle", self.idle, 0.1, 3600)
        _in_range("first", self.first, 0.1, 3600)
        _in_range("longest", self.longest, self.first, 24 * 3600)
        _in_range("bandwidth", self.bandwidth, 0, math.inf)
        if 0 < self.bandwidth < 1000:
            raise ParameterError(f"bandwidth = {self.bandwidth:g}, expected 0 or 1000 and more")


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it. Raises ParameterError for what is out of range."""

    hook: str = ""
    max_rounds_per_day: int = 0
    schedule: Schedule = field(default_factory=Schedule)
    power: Power = field(default_factory=Power)
    network: Network = field(default_factory=Network)
    machine: Machine = field(default_factory=Machine)
    connection: Connection = field(default_factory=Connection)

    def __post_init__(self) -> None:
        _in_range("max_rounds_per_day", self.max_rounds_per_day, 0, math.inf)
        if self.hook and not Path(self.hook).is_absolute():
            raise ParameterError(f"hook = {self.hook!r}, expected a whole path")


def load(folder: Path) -> Settings:
    """What `node.toml` in a vault's folder says; the defaults if there is none.

    Raises ParameterError that names the file, the key and what is expected.
    """
    path = folder / FILE
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except OSError as bad:
        raise ParameterError(f"{path}: {bad.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as bad:
        raise ParameterError(f"{path} is no TOML: {bad}") from None
    try:
        return _built(Settings, tree, "")
    except ParameterError as bad:
        raise ParameterError(f"{path}: {bad}") from None


def _built(kind: type[S], tree: Mapping[str, Any], table: str) -> S:
    """A dataclass from a table that has some of its fields, each of its default's type."""
    defaults: dict[str, Any] = {
        each.name: getattr(kind(), each.name)
        for each in fields(kind)  # type: ignore[arg-type]
    }
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in defaults:
            near = difflib.get_close_matches(key, defaults, 1, 0.5) or _elsewhere(key)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ParameterError(f"unknown key {table}{key}{hint}")
        values[key] = _value(defaults[key], value, f"{table}{key}")
    try:
        return kind(**values)
    except ParameterError as bad:
        raise ParameterError(f"{table}{bad}") from None


def _elsewhere(key: str) -> list[str]:
    """Where a key is that was put in another table."""
    found = []
    for table in (Schedule, Power, Network, Machine, Connection):
        near = difflib.get_close_matches(key, [each.name for each in fields(table)], 1, 0.8)
        found += [f"{table.__name__.lower()}.{name}" for name in near]
    return found


def _value(default: Any, value: Any, key: str) -> Any:
    if is_dataclass(default):
        if not isinstance(value, dict):
            raise ParameterError(f"{key} = {value!r}, expected a table: [{key}]")
        return _built(type(default), value, f"{key}.")
    if isinstance(default, tuple):
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise ParameterError(f"{key} = {value!r}, expected a list of texts")
        return tuple(value)
    number = isinstance(default, float) and isinstance(value, int | float)
    if type(value) is type(default) or (number and not isinstance(value, bool)):
        return value
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    raise ParameterError(f"{key} = {value!r}, expected {kinds[type(default)]}")


def _days(text: str, window: str) -> frozenset[int]:
    found: set[int] = set()
    for part in re.split(r"[\s,]+", text):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise ParameterError(f"{window!r}: days are {', '.join(DAYS)}, such as mon-fri,sun")
        begin, end = DAYS.index(first), DAYS.index(last if dash else first)
        found |= {(begin + step) % 7 for step in range((end - begin) % 7 + 1)}
    return frozenset(found)


def _in_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # also true for NaN
        upper = "" if math.isinf(most) else f" .. {most:g}"
        raise ParameterError(f"{name} = {value:g}, expected {least:g}{upper or ' or more'}")
