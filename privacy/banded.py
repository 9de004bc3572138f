"""Correlated noise: what the server adds in one round it takes back, in part, in later ones.

    totals x_1, x_2, ..  ── mixed over the last `bands` rounds ──> + noise ──> y_t, on the grid
    y_1, y_2, ..         ── unmixed, by anybody ──> estimates of x_t, whose errors mostly cancel

A model is the sum of all rounds' updates, and so is the error in it. Noise of round after round
that is independent makes it grow like the root of the rounds. Here round t releases

    y_t = a_0 x_t + a_1 x_{t-1} + .. + a_{b-1} x_{t-b+1} + z_t    mod 2**bits,

b bands, z_t fresh Skellam noise of variance V on each coordinate; and what is used, x + C**-1 z for
the matrix C of the a_k, is worked out of y_1 .. y_t alone. All c_k = a_k / a_0 together would be
the square root of the matrix of prefix sums, c_k = binom(2k, k) / 4**k (Fichtenberger, Henzinger
and Upadhyay 2022, arXiv:2202.11205); the first b of them are kept (Choquette-Choo et al. 2023,
arXiv:2306.08153; Kalinin and Lampert 2024, arXiv:2405.13763). To train with private prefix sums is
an idea of Kairouz et al. 2021, arXiv:2103.00039. The a_k are whole numbers, so C has no rounding
error: it is another matrix, and hardly worse.

**Why sums are mixed, and not noise.** x_t + (C**-1 z)_t says the same in real numbers. Of whole
numbers C**-1 makes fractions, on a lattice that x would move off; rounded anew they are not the
noise that an accountant knows. Here y is a vector of whole numbers plus noise of whole numbers, as
in any other sum, and floats begin where secrets end.

**What a device costs.** Let one device's vectors be zero instead. Its vector v of round p, of
squared norm B**2 at most, moves y_p .. y_{p+b-1} by a_0 v .. a_{b-1} v: together, by a square of
|a|**2 B**2 at most, |a|**2 the sum of the a_k**2. Between two of its rounds lie `separation` or
more, which is b or more, so no y_t is moved by two of its vectors: squares add up, and k rounds
move y by k |a|**2 B**2 at most. With a smaller distance columns of C overlap, a y_t moves by
a_i v + a_j w, and the bound is wrong: this cannot be built. How far a single y_t moves may depend
on the y before it, since updates depend on the model. The sum of all squares is bounded along every
such path, so what is known of single steps composes (Smith and Thakurta 2022, arXiv:2210.17520).
So V = noise**2 |a|**2 B**2 makes a round of a device's cost what it does without bands: 1/noise
GDP, but for what `tacit.privacy.equivalents` says of whole numbers. `release` is the record of it.
No credit is taken for drawing at random: b rounds show who was in one.

**Modulo 2**bits** all of this stays true, also where a device that breaks the protocol makes a
total leave the ring: y depends on totals mod 2**bits only. To bring totals back to -2**(bits-1) ..
2**(bits-1) and mix them in a larger ring would not do: at the edge, to which such a device can push
a total, one step more of another is 2**bits steps less. The price is room: noise takes log2 |a|
more bits than without bands, and totals that are alike, as their rotations are, those of a_0 + a_1
+ ..: with 64 bands 6.6 and 9.2.

**It helps** where devices cannot take part in every round; if all do, there is one band, and that
is independent noise, and still the most accurate (`prefix_error`; `benchmarks/banded.py`). Devices
drawn at random gain about as much, but only against those who are not told who was drawn. It is
lost where errors do not add up: totals of different rounds need the same rotation, the same grid
and the same denominator, so a run has one seed for its rotation, no adaptive clip, and a fixed
number to divide by (`tacit.privacy.mechanisms`).
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import Floats
from tacit.crypto.wire import VERSION, Reader, Writer, pack, packed_size, unpack
from tacit.privacy.releases import LONGEST, Discrete, Neighbours, Release, Source, Unit, Use
from tacit.privacy.samplers import Integers, Sampler, Skellam

Words = NDArray[np.uint32]

FIRST = 64  # a_0: with it errors are within 0.5 % of those of the fractions, up to 1000 bands
MOST_ROUNDS = 1 << 17
MOST_MEMBERS = 1 << 20
LEAST_BITS, MOST_BITS = 8, 32


@dataclass(frozen=True, slots=True)
class Banded:
    """How noise is correlated. What is impossible cannot be built (ParameterError).

    rounds       releases of the run, at most
    bands        rounds that are mixed; 1: noise is independent
    separation   no device takes part twice in so many rounds in a row; `bands` or more
    coordinates  of each total
    bits         of a ring element
    bound        B**2, the largest squared norm of one device's part of a total, in steps
    noise        the multiplier: a device's round costs what it would with independent noise of
                 deviation noise * B
    """

    rounds: int
    bands: int
    separation: int
    coordinates: int
    bits: int
    bound: int
    noise: float

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= MOST_ROUNDS:
            raise ParameterError(f"rounds={self.rounds}, expected 1..{MOST_ROUNDS}")
        if not 1 <= self.bands <= self.rounds:
            raise ParameterError(f"bands={self.bands}, expected 1..{self.rounds} (rounds)")
        if not self.bands <= self.separation <= MOST_ROUNDS:
            raise ParameterError(
                f"separation={self.separation} with {self.bands} bands: a device's rounds would "
                "overlap, and cost more than is counted"
            )
        if not 1 <= self.coordinates * self.bands <= LONGEST:
            raise ParameterError(f"{self.coordinates} coordinates, {self.bands} bands: 2**32 fit")
        if not LEAST_BITS <= self.bits <= MOST_BITS:
            raise ParameterError(f"bits={self.bits}, expected {LEAST_BITS}..{MOST_BITS}")
        if self.bound < 1:
            raise ParameterError(f"bound={self.bound}, expected 1 or more")
        if not 0 < self.noise < math.inf:  # also false for NaN
            raise ParameterError(f"noise={self.noise}, expected above 0 and finite")
        Discrete(Skellam(self.variance), self.square, self.coordinates)

    @property
    def coefficients(self) -> tuple[int, ...]:
        """a_0 .. a_{b-1}."""
        return coefficients(self.bands)

    @property
    def square(self) -> int:
        """|a|**2 B**2: the square of how far one round of a device moves all that is released."""
        return sum(a * a for a in self.coefficients) * self.bound

    @property
    def participations(self) -> int:
        """Rounds that a device can be in, with as much rest as it needs."""
        return -(-self.rounds // self.separation)

    @property
    def sensitivity(self) -> int:
        """The square of how far all rounds of a device move all that is released."""
        return self.participations * self.square

    @property
    def variance(self) -> Fraction:
        """V, of the noise on each coordinate of y."""
        return Fraction(self.noise) ** 2 * self.square

    def release(self, run: int, number: int, cohort: int, survivors: int) -> Release:
        """The record of one round. Whoever is in it pays for all that it does to later rounds, so
        their noise counts here too: `length` is that of `bands` totals."""
        law = Skellam(self.variance)
        return Release(
            Discrete(law, self.square, self.coordinates * self.bands), Unit.CLIENT,
            Neighbours.ZERO_OUT, Source.SERVER, Use.TRAIN, run, number, cohort, survivors,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Between two rounds. It is good for one step: of two steps from one state, as after a restart
    from an old file, one is a release that nobody has counted. So the next state is kept before
    the estimate is used, and the old one is gone.

    cohorts    who took part in the last rounds, the latest first, as far as they have to rest
    sums       the last totals, as they were: without noise
    estimates  the same, as they were released

    **Secret**: `sums` and their encoding are as sensitive as a sum before its noise. They may be
    kept where such sums are: in the server's memory, or in a file that nobody else reads; not with
    the model, nor in a log. After the last round nothing needs them.
    """

    banded: Banded
    round: int = 1
    cohorts: tuple[frozenset[int], ...] = ()
    sums: tuple[Words, ...] = field(default=(), repr=False)
    estimates: tuple[Floats, ...] = field(default=(), repr=False)

    @property
    def resting(self) -> frozenset[int]:
        """Devices that may not be in the next round."""
        return frozenset().union(*self.cohorts)

    def advance(
        self, total: Words, members: frozenset[int], rand: bytes
    ) -> tuple[Floats, "Stream"]:
        """One round: an estimate of its total (coordinates,), in steps of the grid, and the state
        for the next one.

        `total` is the sum of the parts of `members`, mod 2**bits, as uint32, of a round that nobody
        was in zeros; `rand` 32 secret bytes for this round only. Charge `members` with
        `Banded.release` before this is called. Raises ParameterError where a member has to rest,
        after the last round, and for a total of another size; nothing is released then.
        """
        self._check(total, members)
        banded = self.banded
        sums = (total.copy(), *self.sums)[: banded.bands]
        mixed = _noise(banded, rand)  # drawn before a total is touched
        for a, part in zip(banded.coefficients, sums, strict=False):
            mixed += np.uint32(a) * part
        estimate = _centred(mixed, banded.bits).astype(np.float64)
        for a, before in zip(banded.coefficients[1:], self.estimates, strict=False):
            estimate -= a * before
        estimate /= banded.coefficients[0]
        after = Stream(
            banded,
            self.round + 1,
            (members, *self.cohorts)[: banded.separation - 1],
            sums[: banded.bands - 1],
            (estimate, *self.estimates)[: banded.bands - 1],
        )
        return estimate.copy(), after

    def _check(self, total: Words, members: frozenset[int]) -> None:
        if self.round > self.banded.rounds:
            raise ParameterError(f"round {self.round} of {self.banded.rounds}")
        if total.shape != (self.banded.coordinates,) or total.dtype != np.uint32:
            raise ParameterError(
                f"a total of shape {total.shape}, {total.dtype}: expected "
                f"{self.banded.coordinates} coordinates, uint32"
            )
        if len(members) > MOST_MEMBERS:
            raise ParameterError(f"{len(members)} members, expected 0..{MOST_MEMBERS}")
        if not members and total.any():
            raise ParameterError("a total of no members: nobody would pay for it")
        if tired := members & self.resting:
            raise ParameterError(
                f"device {min(tired)} was in one of the last {self.banded.separation - 1} rounds: "
                "what it costs would be counted wrong"
            )

    def encode(self) -> bytes:
        """As secret as `sums`."""
        of = self.banded
        writer = Writer().u8(VERSION).u32(of.rounds).u32(of.bands).u32(of.separation)
        writer.u64(of.coordinates).u8(of.bits).u64(of.bound).f64(of.noise).u32(self.round)
        for members in self.cohorts:
            writer.blob(np.array(sorted(members), "<u8").tobytes())
        for part in self.sums:
            writer.fixed(pack(part, of.bits), packed_size(of.coordinates, of.bits))
        for estimate in self.estimates:
            writer.fixed(estimate.astype("<f8").tobytes(), 8 * of.coordinates)
        return writer.data()

    @classmethod
    def decode(cls, data: bytes) -> "Stream":
        """Inverse of `encode`. Raises MalformedMessage."""
        reader = Reader(data, sender=0, stage="banded")
        if (version := reader.u8()) != VERSION:
            raise reader.bad(f"version {version}")
        try:
            of = Banded(
                reader.u32(), reader.u32(), reader.u32(), reader.u64(), reader.u8(), reader.u64(),
                reader.f64(),
            )  # fmt: skip
        except ParameterError as bad:
            raise reader.bad(str(bad)) from None
        if not 1 <= (number := reader.u32()) <= of.rounds + 1:
            raise reader.bad(f"round {number} of {of.rounds}")
        rested, kept = min(number, of.separation) - 1, min(number, of.bands) - 1
        cohorts = tuple(_members(reader) for _ in range(rested))
        sums = tuple(_sum(reader, of) for _ in range(kept))
        estimates = tuple(_estimate(reader, of) for _ in range(kept))
        reader.end()
        return cls(of, number, cohorts, sums, estimates)


@lru_cache(maxsize=64)
def coefficients(bands: int) -> tuple[int, ...]:
    """a_0 .. a_{b-1}: FIRST * binom(2k, k) / 4**k, each rounded to the nearest."""
    found, exact = [], Fraction(FIRST)
    for k in range(bands):
        found.append(round(exact))
        exact *= Fraction(2 * k + 1, 2 * k + 2)
    return tuple(found)


@lru_cache(maxsize=64)
def prefix_error(rounds: int, bands: int) -> float:
    """The root of the mean square, over all rounds, of the error of a sum of estimates so far, on
    one coordinate, in units of noise * B: what bands are for. That of independent noise is
    sqrt((rounds + 1) / 2).

    C**-1 has d_t on its t-th diagonal, so the error of a prefix of t rounds has variance V times
    the sum over s < t of (d_0 + .. + d_s)**2.
    """
    a = np.array(coefficients(bands), np.float64)
    inverse = np.zeros(rounds)
    inverse[0] = 1 / a[0]
    for t in range(1, rounds):
        reach = min(t, bands - 1)
        inverse[t] = -np.dot(a[1 : reach + 1], inverse[t - reach : t][::-1]) / a[0]
    variances = np.cumsum(np.cumsum(inverse) ** 2)
    return math.sqrt(float(variances.mean()) * float(np.dot(a, a)))


def _noise(banded: Banded, rand: bytes) -> Words:
    noise = Sampler(Skellam(banded.variance), rand, banded.coordinates).draw(banded.coordinates)
    return noise.astype(np.uint32)  # modulo its word


def _centred(vector: Words, bits: int) -> Integers:
    """The residues mod 2**bits that are nearest to zero."""
    half = 1 << (bits - 1)
    return ((vector + np.uint32(half)) & np.uint32(2 * half - 1)).astype(np.int64) - half


def _members(reader: Reader) -> frozenset[int]:
    data = reader.blob(8 * MOST_MEMBERS)
    if len(data) % 8:
        raise reader.bad("a cohort that is no list of devices")
    ids = np.frombuffer(data, "<u8")
    if np.any(ids[1:] <= ids[:-1]):
        raise reader.bad("a cohort that is not in order")
    return frozenset(ids.tolist())


def _sum(reader: Reader, of: Banded) -> Words:
    data = reader.view(packed_size(of.coordinates, of.bits))
    try:
        return unpack(data, of.coordinates, of.bits).astype(np.uint32)
    except ValueError as bad:
        raise reader.bad(str(bad)) from None


def _estimate(reader: Reader, of: Banded) -> Floats:
    found = np.frombuffer(reader.view(8 * of.coordinates), "<f8").astype(np.float64)
    if not np.isfinite(found).all():
        raise reader.bad("an estimate that is not finite")
    return found
