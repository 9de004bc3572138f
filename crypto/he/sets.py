"""The parameter sets: what the library is asked for, and how much a set can carry.

BFV over Z_q[X]/(X^N + 1) with plaintexts modulo a prime t, so that a plaintext is N slots which add
up slot by slot. Encryption is with the secret key, since all devices hold it: that has the smallest
noise, and no public key exists. Ciphertexts are of one prime, q. The public API cannot be asked for
a single prime, so there is a second one, which the library keeps for keys that are never made use
of here.

One set is of CKKS, for those who have to speak that. Its N/2 slots hold real numbers times a scale,
with an error; here they are whole numbers, and what is decrypted is rounded to whole numbers before
anybody sees it. So a sum is as exact as under BFV, and says as little of the noise: see the
package's docstring. Its plaintexts do not wrap; t is what its tags are taken modulo.

All sets have 128 bits of security by the table of the homomorphic encryption standard (Albrecht et
al. 2018, table 1, ternary secret): at most 54 bits of modulus for N = 2048, 109 for N = 4096. SEAL
checks that too.
"""

from dataclasses import dataclass
from functools import cached_property
from math import log

NOISE_VARIANCE = 10.5  # of SEAL's: two sums of 21 bits, one less the other
FAILURE_BITS = 128  # of one coefficient; a sum has some millions of them


@dataclass(frozen=True)  # no slots: `room` is computed once
class Scheme:
    """One parameter set: N, the bits of its primes, q, and t; a `scale` if it is of CKKS.

    `seeded` ciphertexts hold a seed in the place of their uniform half: half the bytes up. They
    come from `tenseal.sealapi`, which reads and writes files only: see `doors`.
    """

    number: int  # on the wire
    name: str
    degree: int
    primes: tuple[int, ...]
    modulus: int
    plain: int
    seeded: bool = False
    scale: int = 0

    @property
    def slots(self) -> int:
        """Numbers in one plaintext."""
        return self.degree // 2 if self.scale else self.degree

    @property
    def fields(self) -> int:
        """Coordinates that a slot is meant to hold."""
        return 1 if self.scale else 2

    @property
    def plain_bits(self) -> int:
        """Bits of which any number fits below t."""
        return self.plain.bit_length() - 1

    @cached_property
    def room(self) -> int:
        """The most ciphertexts whose sum decrypts rightly but for one time in 2**FAILURE_BITS, for
        each coefficient.

        Right while the noises add up to less than q / 2t. Each is at most 1/2, from rounding, and a
        sum of 42 fair bits less its mean, which is subgaussian: n of these reach b with probability
        2 exp(-b**2 / 2nv) at most, v their variance (Hoeffding 1963, theorem 2).

        Under CKKS a slot is right while its error is less than half of the scale. That is the real
        part of a polynomial of noise at a root of unity: N terms, each as large as the noise at
        most, and N times 1/2 of rounding. And n numbers of up to t/2 times the scale have to stay
        below q/2.
        """
        terms = self.degree if self.scale else 1
        limit = self.scale / 2 if self.scale else self.modulus / (2 * self.plain)
        need = 2 * NOISE_VARIANCE * log(2) * (FAILURE_BITS + 1) * terms
        most = self.modulus // (self.plain * self.scale) if self.scale else self.modulus
        count = 0
        while count < most and (left := limit - (count + 1) * terms / 2) > 0:
            if left**2 <= need * (count + 1):
                break
            count += 1
        return count

    @cached_property
    def ciphertext_bytes(self) -> int:
        """The most that one serialised ciphertext takes: two polynomials, in words of 8 bytes."""
        return self._bound(2 * 8 * self.degree)

    @cached_property
    def contribution_bytes(self) -> int:
        """As `ciphertext_bytes`, for one as a device sends it."""
        return self._bound((1 if self.seeded else 2) * 8 * self.degree)

    @cached_property
    def key_bytes(self) -> int:
        """The most that a serialised secret key takes."""
        return self._bound(len(self.primes) * 8 * self.degree)

    def _bound(self, raw: int) -> int:
        # What does not compress grows by 1 in 256 (zstd); headers and parameters are short.
        return raw + raw // 256 + 1024


# Of `tenseal.context` and `bfv_vector`.
PUBLIC = Scheme(1, "bfv-4096", 4096, (54, 55), 18014398509309953, 8796092858369)
# Of `tenseal.sealapi`. Two fields of 21 bits in a slot, as above.
SEEDED = Scheme(2, "bfv-2048-seeded", 2048, (54,), 18014398509404161, 8796092878849, seeded=True)
# Two fields of 25 bits in a slot, for few devices.
WIDE = Scheme(3, "bfv-4096-seeded", 4096, (60,), 1152921504606830593, 2251799813554177, seeded=True)
# Of `tenseal.context` and `ckks_vector`: four times the bytes of PUBLIC, for compatibility only.
APPROXIMATE = Scheme(4, "ckks-4096", 4096, (54, 55), PUBLIC.modulus, 33538049, scale=1 << 21)
SCHEMES = {scheme.number: scheme for scheme in (PUBLIC, SEEDED, WIDE, APPROXIMATE)}
BY_NAME = {scheme.name: scheme for scheme in SCHEMES.values()}
