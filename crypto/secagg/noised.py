"""What two sides of a sum agree on, where each contribution carries noise.

In the place of a `Codec`: a device's vector is whole numbers of steps with noise on them, and has
neither weight nor metrics. How it is made and read is `tacit.privacy.mechanisms`' business; what
the sum itself has to know stands here.

    [ coordinates of the update | how the norm compares with the clip, if asked for | 1 ]

The last one counts devices, as a `Codec`'s does.
"""

import math
from dataclasses import dataclass

import numpy as np

from tacit.crypto.codec import LARGEST, SMALLEST, Decoded, Mean, signed
from tacit.crypto.errors import ParameterError, ProtocolError, TooFewClients
from tacit.crypto.vector import Ring
from tacit.crypto.wire import Reader, Writer

LEAST_BITS, MOST_BITS = 8, 32
MOST_RECORDS = 1 << 20
MOST_BANDS = 1 << 8
ROTATION_BYTES = 32


@dataclass(frozen=True, slots=True)
class Noised:
    """What a sum is made private with. What is impossible cannot be built (ParameterError).

    length      coordinates of an update
    clients     devices in the cohort
    dropouts    so many of them may be missing: with more, nothing is released
    corrupt     so many of the others may tell the server their noise
    clip        largest norm of an update; where examples are protected, of what one adds to it
    noise       deviation of the noise, in units of the bound: the multiplier of a central sum
    bits        of a ring element
    sketch      coordinates that are sent instead of all; 0: all are
    central     the server adds the noise to a sum that it has seen, and devices none
    records     0: all that a device sends is protected. Else each of its examples is, of which so
                many are expected in an update at most
    quantile    deviation of the noise on whether the norm is within the clip, in units of what one
                device adds to that; 0: it is not asked for
    bands       totals of so many rounds are mixed under the noise of a central sum, see
                `tacit.privacy.banded`; 0: each has noise of its own
    divisor     by what a total is divided, and devices that the grid has room for, where that has
                to be the same in all rounds: with bands; 0: as many as are in the sum
    rotation    seed of the rotation, where that has to be the same too; empty: the session's id
    """

    length: int
    clients: int
    dropouts: int
    corrupt: int
    clip: float
    noise: float
    bits: int = 16
    sketch: int = 0
    central: bool = False
    records: int = 0
    quantile: float = 0.0
    bands: int = 0
    divisor: int = 0
    rotation: bytes = b""

    def __post_init__(self) -> None:
        whole = (self.length, self.clients, self.dropouts, self.corrupt, self.bits, self.sketch)
        also = (self.records, self.bands, self.divisor)
        if any(type(number) is not int for number in (*whole, *also)):
            raise ParameterError("counts and bits are whole numbers, Python's own")
        if type(self.central) is not bool:  # whatever else is true would leave out the noise
            raise ParameterError(f"central={self.central!r}, expected True or False")
        if not 1 <= self.length <= 1 << 31:
            raise ParameterError(f"length={self.length}, expected 1..2**31")
        if not 1 <= self.clients <= 1 << 20:
            raise ParameterError(f"clients={self.clients}, expected 1..{1 << 20}")
        if min(self.dropouts, self.corrupt) < 0 or self.dropouts + self.corrupt >= self.clients:
            raise ParameterError(
                f"of {self.clients} clients {self.dropouts} may be missing and {self.corrupt} "
                "corrupt: no honest one would be left"
            )
        if self.central and self.corrupt:
            raise ParameterError("devices add no noise to a central sum: corrupt is 0")
        if not SMALLEST <= self.clip <= LARGEST:  # also false for NaN
            raise ParameterError(f"clip={self.clip}, expected {SMALLEST:g} to {LARGEST:g}")
        if not 0 < self.noise < math.inf:
            raise ParameterError(f"noise={self.noise}, expected above 0 and finite")
        if not LEAST_BITS <= self.bits <= MOST_BITS:
            raise ParameterError(f"bits={self.bits}, expected {LEAST_BITS}..{MOST_BITS}")
        if not 0 <= self.sketch < self.length:
            raise ParameterError(f"sketch={self.sketch}, expected below {self.length} (length)")
        if not 0 <= self.records <= MOST_RECORDS:
            raise ParameterError(f"records={self.records}, expected 0..{MOST_RECORDS}")
        if self.records and self.sketch:
            raise ParameterError("a sketch may lengthen what one example adds: leave it out")
        if not 0 <= self.quantile < math.inf:
            raise ParameterError(f"quantile={self.quantile}, expected 0 or more, and finite")
        if self.quantile and self.records:
            raise ParameterError("a quantile is of devices' norms, not of examples': leave it out")
        if self.bands:
            self._check_bands()
        elif self.divisor or self.rotation:
            raise ParameterError("a divisor or a rotation of its own is for a sum with bands")

    def _check_bands(self) -> None:
        if not 2 <= self.bands <= MOST_BANDS:
            raise ParameterError(f"bands={self.bands}, expected 0 or 2..{MOST_BANDS}")
        if not self.central or self.sketch or self.records or self.quantile:
            raise ParameterError(
                "bands are for central sums whose grid stays: without sketch, records or quantile"
            )
        if not self.clients <= self.divisor <= 1 << 20:
            raise ParameterError(
                f"divisor={self.divisor}, expected {self.clients} (clients) or more"
            )
        if len(self.rotation) not in (0, ROTATION_BYTES):
            raise ParameterError(f"a rotation's seed has {ROTATION_BYTES} bytes")

    @property
    def coordinates(self) -> int:
        """Of the vector that has noise, after the rotation."""
        return self.sketch or self.length

    @property
    def size(self) -> int:
        """Ring elements of a contribution."""
        return self.coordinates + (self.quantile > 0) + 1

    @property
    def metrics(self) -> int:
        """Slots for metrics: none. What a device says of itself would need noise of its own."""
        return 0

    @property
    def width(self) -> int:
        """Bits of the numbers that devices' coordinates, reduced to `bits`, and the sums of all
        are: where a sum cannot be taken modulo anything it has to have room for the tails."""
        return self.bits + self.clients.bit_length()

    @property
    def dtype(self) -> np.dtype[np.uint32]:
        """The machine word that holds one ring element."""
        return np.dtype(np.uint32)

    @property
    def least(self) -> int:
        """The fewest survivors whose sum has the noise that was promised."""
        return self.clients - self.dropouts

    def decode(self, total: Ring, survivors: int) -> Mean:
        """The sum of so many contributions in steps: their mean, as it is before the rotation is
        undone, and in `metrics` the sum of what devices said of their norms.

        Raises TooFewClients where there is not the noise that was promised, and ProtocolError if
        the count of devices does not come out: then the masks did not cancel.
        """
        if total.shape != (self.size,):
            raise ParameterError(f"a vector of shape {total.shape}, expected {self.size} elements")
        if survivors < self.least:
            raise TooFewClients(f"{survivors} survivors, {self.least} needed for their noise")
        if (int(total[-1]) - survivors) % (1 << self.bits):
            raise ProtocolError(
                "the sum does not check: its masks do not cancel", sender=0, stage="open"
            )
        norms = signed(total[self.coordinates : -1], self.bits).astype(np.float64)
        divisor = float(self.divisor or survivors)
        steps = Decoded(total[: self.coordinates], self.bits, divisor)
        return Mean(steps, norms, float(survivors))

    def write(self, writer: Writer) -> None:
        writer.u64(self.length).u32(self.clients).u32(self.dropouts).u32(self.corrupt)
        writer.f64(self.clip).f64(self.noise).u8(self.bits).u64(self.sketch).u8(self.central)
        writer.u32(self.records).f64(self.quantile)
        writer.u32(self.bands).u32(self.divisor).blob(self.rotation)

    @classmethod
    def read(cls, reader: Reader) -> "Noised":
        """Inverse of `write`. Raises MalformedMessage, also for what cannot be built."""
        counts = (reader.u64(), reader.u32(), reader.u32(), reader.u32())
        clip, noise, bits, sketch = reader.f64(), reader.f64(), reader.u8(), reader.u64()
        central, records, quantile = reader.u8(), reader.u32(), reader.f64()
        bands, divisor, rotation = reader.u32(), reader.u32(), reader.blob(ROTATION_BYTES)
        if central > 1:
            raise reader.bad(f"central is {central}, expected 0 or 1")
        try:
            return cls(
                *counts, clip, noise, bits, sketch, bool(central), records, quantile, bands,
                divisor, rotation,
            )  # fmt: skip
        except ParameterError as bad:
            raise reader.bad(str(bad)) from None
