"""What was let out of a sum: inert records, which `tacit.privacy.accountants` read.

A record says what happened and what is assumed, and nothing of what it costs: how the noise came to
be, how large one unit's part can be, who was there. Accountants get better; records stay.
"""

import math
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from types import UnionType

from tacit.crypto.errors import ParameterError
from tacit.crypto.wire import Reader, Writer
from tacit.privacy.samplers import DiscreteGaussian, Law, Skellam

FORMAT = 2  # of what is kept for as long as a device lives: messages have versions of their own
LONGEST = 1 << 32  # coordinates
LARGEST_SQUARE = 1 << 62
SMALLEST, LARGEST = 2.0**-64, 2.0**64  # of a real number in a mechanism
_FRACTION_BYTES = 64
_LAWS: tuple[type[Law], ...] = (Skellam, DiscreteGaussian)  # by their number in the encoding


class Unit(IntEnum):
    """What is protected: all that one device sends, or one example on it."""

    CLIENT = 1
    RECORD = 2


class Neighbours(IntEnum):
    """What the unit is put against: zeros in its place, any other unit, or its absence."""

    ZERO_OUT = 1
    REPLACE_ONE = 2
    ADD_OR_REMOVE = 3


class Use(IntEnum):
    """What a release is for."""

    TRAIN = 1
    EVALUATE = 2
    CLIP_BIT = 3  # how many updates were shorter than the norm that others are clipped to


class Source(IntEnum):
    """Whose noise counts.

    SHARED  each device of a sum adds a share, and all that are not corrupt count
    OWN     each device adds enough for itself, and only that counts
    SERVER  the server adds it, to a sum that it knows: it hides nothing from the server
    """

    SHARED = 1
    OWN = 2
    SERVER = 3


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Real numbers with normal noise of deviation `sigma`, that of one share where it is shared.

    `sensitivity` is the largest L2 norm of one unit's part, in the same unit. What floating-point
    numbers add to the loss (Mironov 2012, doi:10.1145/2382196.2382264) is in no accountant.
    """

    sensitivity: float
    sigma: float

    def __post_init__(self) -> None:
        _check_kinds(self, float | int, "sensitivity", "sigma")
        for name in ("sensitivity", "sigma"):
            if not SMALLEST <= getattr(self, name) <= LARGEST:  # also false for NaN
                raise ParameterError(f"{name}={getattr(self, name)}, expected 2**-64 .. 2**64")


@dataclass(frozen=True, slots=True)
class Discrete:
    """Whole numbers, `length` of them, each with noise of `law`, one share's where it is shared.

    `square` is the largest square of the L2 norm of one unit's part, in steps of the grid.
    """

    law: Law
    square: int
    length: int

    def __post_init__(self) -> None:
        if type(self.law) not in _LAWS:
            raise ParameterError(f"{self.law!r}: no accountant knows this law")
        _check_kinds(self, int, "square", "length")
        if max(self.law.variance.as_integer_ratio()).bit_length() > 8 * _FRACTION_BYTES:
            raise ParameterError(f"a variance of more than {_FRACTION_BYTES} bytes")
        if not 1 <= self.square <= LARGEST_SQUARE:
            raise ParameterError(f"square={self.square}, expected 1 .. 2**62")
        if not 1 <= self.length <= LONGEST:
            raise ParameterError(f"length={self.length}, expected 1 .. 2**32")


@dataclass(frozen=True, slots=True)
class Concentrated:
    """Anything that is `rho`-zCDP in the given unit and relation (Bun and Steinke 2016,
    arXiv:1605.02065), drawn with a total variation distance of at most `distance`."""

    rho: float
    distance: float

    def __post_init__(self) -> None:
        _check_kinds(self, float | int, "rho", "distance")
        if not SMALLEST <= self.rho <= LARGEST:
            raise ParameterError(f"rho={self.rho}, expected 2**-64 .. 2**64")
        if not 0 <= self.distance < 1 or math.copysign(1, self.distance) < 0:
            raise ParameterError(f"distance={self.distance}, expected 0 .. 1")


Mechanism = Gaussian | Discrete | Concentrated


@dataclass(frozen=True, slots=True)
class Release:
    """One vector that was opened, or is about to be.

    rate       each unit was drawn with this probability, apart from all others (Poisson); 1: no
               drawing. A fact: who may take credit for it is for an accountant to say.
    cohort     devices that were asked
    survivors  of these, the ones in the sum
    corrupt    of these, as many as are assumed to tell the server their part and their noise
    is_count_hidden  whether only those who drew know how many units were drawn, or are there at
               all: it is in no number, in no divisor of a sum, and not in how much noise is left

    Impossible values cannot be built, nor releases without a meaning (ParameterError). Where a
    device is added or removed its share of noise comes or goes with it, and a million coordinates
    show that: this relation is for noise of the server, or for examples on devices that stay. And
    whoever is told how many there are sees one come or go.
    """

    mechanism: Mechanism
    unit: Unit
    neighbours: Neighbours
    source: Source
    use: Use
    run: int
    round: int
    cohort: int
    survivors: int
    corrupt: int = 0
    rate: float = 1.0
    is_count_hidden: bool = False

    def __post_init__(self) -> None:
        for name, kind in (
            ("unit", Unit), ("neighbours", Neighbours), ("source", Source), ("use", Use),
        ):  # fmt: skip
            _check_kinds(self, kind, name)
        _check_kinds(self, int, "run", "round", "cohort", "survivors", "corrupt")
        _check_kinds(self, float | int, "rate")
        _check_kinds(self, bool, "is_count_hidden")
        if not (0 <= self.run < 1 << 64 and 0 <= self.round < 1 << 32):
            raise ParameterError(f"run {self.run}, round {self.round}: no such round")
        if not 0 <= self.corrupt < self.survivors <= self.cohort < 1 << 32:
            raise ParameterError(
                f"{self.survivors} survivors of {self.cohort}, {self.corrupt} of them corrupt: "
                "expected corrupt < survivors <= cohort"
            )
        if not 0 < self.rate <= 1:
            raise ParameterError(f"rate={self.rate}, expected 0 < rate <= 1")
        if (self.unit, self.neighbours) == (Unit.CLIENT, Neighbours.ADD_OR_REMOVE) and (
            self.source is not Source.SERVER
        ):
            raise ParameterError("a device that is removed takes its noise along: use ZERO_OUT")
        if self.neighbours is Neighbours.ADD_OR_REMOVE and not self.is_count_hidden:
            raise ParameterError("a count tells who was added or removed: hide it, or use ZERO_OUT")
        if isinstance(self.mechanism, Concentrated) and self.source is Source.SHARED:
            raise ParameterError("rho is of a whole release, not of a share")

    @property
    def shares(self) -> int:
        """How many shares of noise count: see `Source`."""
        return self.survivors - self.corrupt if self.source is Source.SHARED else 1

    @property
    def distance(self) -> float:
        """A bound on the total variation distance between the noise that counts and its law."""
        match self.mechanism:
            case Discrete(law, _, length):
                return law.distance * length * self.shares
            case Concentrated(_, distance):
                return distance
            case Gaussian():
                return 0.0

    def encode(self) -> bytes:
        writer = Writer().u8(FORMAT).u8(self.unit).u8(self.neighbours).u8(self.source)
        writer.u8(self.use).u64(self.run).u32(self.round)
        writer.u32(self.cohort).u32(self.survivors).u32(self.corrupt).f64(self.rate)
        writer.u8(self.is_count_hidden)
        match self.mechanism:
            case Gaussian(sensitivity, sigma):
                writer.u8(0).f64(sensitivity).f64(sigma)
            case Discrete(law, square, length):
                writer.u8(1 + _LAWS.index(type(law))).u64(square).u64(length)
                for number in law.variance.as_integer_ratio():
                    writer.blob(number.to_bytes((number.bit_length() + 7) // 8, "little"))
            case Concentrated(rho, distance):
                writer.u8(1 + len(_LAWS)).f64(rho).f64(distance)
        return writer.data()

    @classmethod
    def decode(cls, data: bytes) -> "Release":
        """Inverse of `encode`. Raises MalformedMessage, also for what cannot be built."""
        reader = Reader(data, sender=0, stage="ledger")
        if (version := reader.u8()) != FORMAT:
            raise reader.bad(f"format {version}")
        try:
            unit, neighbours = Unit(reader.u8()), Neighbours(reader.u8())
            source, use = Source(reader.u8()), Use(reader.u8())
            run, round_ = reader.u64(), reader.u32()
            cohort, survivors, corrupt = reader.u32(), reader.u32(), reader.u32()
            rate, hidden, mechanism = reader.f64(), reader.u8(), _mechanism(reader)
            reader.end()
            if hidden > 1:
                raise reader.bad(f"{hidden}, expected 0 or 1")
            return cls(
                mechanism, unit, neighbours, source, use, run, round_, cohort, survivors, corrupt,
                rate, bool(hidden),
            )  # fmt: skip
        except ValueError as bad:  # ParameterError is one
            raise reader.bad(str(bad)) from None


def _check_kinds(record: object, kind: type | UnionType, *names: str) -> None:
    """Accountants ask by identity which member of an enumeration it is, and 2 would be none of
    them; numbers of numpy overflow or are rounded on the way to a cost, and nothing tells."""
    for name in names:
        if not isinstance(value := getattr(record, name), kind):
            raise ParameterError(f"{name}={value!r} is of type {type(value).__name__}")


def _mechanism(reader: Reader) -> Mechanism:
    kind = reader.u8()
    if kind == 0:
        return Gaussian(reader.f64(), reader.f64())
    if kind == 1 + len(_LAWS):
        return Concentrated(reader.f64(), reader.f64())
    if kind > len(_LAWS):
        raise reader.bad(f"mechanism of kind {kind}")
    square, length = reader.u64(), reader.u64()
    parts = [reader.blob(_FRACTION_BYTES) for _ in range(2)]
    numerator, denominator = (int.from_bytes(part, "little") for part in parts)
    padded = any(part.endswith(b"\0") for part in parts)
    if padded or not denominator or math.gcd(numerator, denominator) != 1:
        raise reader.bad("a variance that is not in its lowest terms")
    return Discrete(_LAWS[kind - 1](Fraction(numerator, denominator)), square, length)
