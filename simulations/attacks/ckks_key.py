"""The secret key of CKKS, from two sums and their decryptions: why nothing approximate is released.

Li and Micciancio 2021, "On the Security of Homomorphic Encryption on Approximate Numbers"
(Eurocrypt, doi:10.1007/978-3-030-77870-5_23, eprint.iacr.org/2020/1533). CKKS opens (b, a) to its
phase p = b + a s mod q, which is the message *with its noise*. Whoever has the ciphertext and is
told p has a linear equation in the key s, and no error in it. IND-CPA promises nothing about such
an adversary, though a passive one; the paper's IND-CPA-D is the notion that does. Here it is a
server that adds up ciphertexts without the key, and is shown the sums that the devices decrypted.

TenSEAL releases the real parts of the slots, which are half of p: p(w) + p(1/w) at each root w of
X^n + 1. So each pair of roots gives one equation in two unknowns, and a second ciphertext another:

    a(w) s(w) + a(1/w) s(1/w) = p(w) + p(1/w) - b(w) - b(1/w)   mod q

This is solved modulo the first prime of q alone, since the key's coefficients are -1, 0 and 1. It
also tells the adversary, who has nothing to compare with, whether what came out is the key.

**Exact sums.** A release that is the sum itself and no more has no `residual`. It gives p up to the
noise, which leaves learning with errors: the problem that protects the ciphertext to begin with.
The same solver, given the nearest p there is, finds nothing. A masked sum has no key at all, and
hence no equation; what can be asked of its release is whether it opens CKKS ciphertexts of the
same inputs.

**Rounding.** A score of 0 says that this linear attack fails, and of a rounded CKKS release it
proves no more than that. A float32 hides the noise of NVFlare's setting under values near 1, and
hands the key over with values near 3e-5. At scale 2**20, multiples of 2**-16 still fix 98 of 100
coefficients of p: 0 here, but the key once eight sums leave a choice among the equations.

This is about keys and not training data, and so has its own small types instead of `View`. Like
the other attacks it never holds the truth. It is meant for keys that one makes to try it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from itertools import accumulate, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import Floats
from tacit.simulations.attacks.base import Knows

Integers: TypeAlias = NDArray[np.object_]  # of Python: products of 60-bit residues do not wrap
Key: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class OpenedSum:
    """A TenSEAL vector, serialised, and what was released as its decryption, in its order."""

    ciphertext: bytes = field(repr=False)
    values: Floats = field(repr=False)


@dataclass(frozen=True, slots=True)
class Equation:
    """b + a s = p in Z[X]/(X^n + 1) modulo the prime `q`, with `told` = p(X) + p(1/X) for p.

    Coefficients, shape (n,); n is a power of two, and q is 1 modulo 2 n.
    """

    a: Integers = field(repr=False)
    b: Integers = field(repr=False)
    told: Integers = field(repr=False)
    q: int


@dataclass(frozen=True, slots=True)
class Guess:
    """What came out for the key: coefficients, shape (n,), modulo a prime and centred around 0."""

    coefficients: Key = field(repr=False)

    @property
    def is_key(self) -> bool:
        """The adversary's own measure: a wrong guess is not made of -1, 0 and 1 alone."""
        return bool(np.abs(self.coefficients).max() <= 1)

    def share(self, truth: Key) -> float:
        """The share of coefficients that are right; 1.0 is the whole key."""
        return float(np.mean(self.coefficients == truth))

    def decrypt(self, context: bytes, ciphertext: bytes) -> Floats:
        """The slots of any CKKS vector under this key; noise if the guess is wrong."""
        library = _Library.load(context)
        key, q, found = self.coefficients.astype(object), library.q, []
        root = _root(library.n, q)
        for a, b, scale in library.ciphertexts(ciphertext):
            product = _evaluate(a, root, q) * _evaluate(key, root, q)
            found.append(_slots(_centred(b + _interpolate(product, root, q), q)) / scale)
        return np.concatenate(found)


@dataclass(frozen=True, slots=True)
class CkksKeyRecovery:
    """The attack on the key behind `context`: a TenSEAL context, serialised without that key.

    A context of BFV is taken too, for this to be refuted by. Raises ParameterError if TenSEAL is
    missing, if the bytes are no context, or if they hold the secret key.
    """

    context: bytes = field(repr=False)
    name: str = "CKKS key recovery"
    needs: Knows = Knows.NOTHING  # beyond two ciphertexts and what was released of them

    def __post_init__(self) -> None:
        if _Library.load(self.context).native.has_secret_key():
            raise ParameterError("the context holds the secret key: serialise it without")

    def recover(self, sums: Sequence[OpenedSum]) -> Guess:
        """The key on which the first two ciphertexts of `sums` agree; see its `is_key`.

        A vector may be of several ciphertexts. Only those count that have a value for every slot:
        raises ParameterError if there are not two.
        """
        equations = [equation for opened in sums for equation in self.equations(opened)]
        if len(equations) < 2:
            raise ParameterError("give two ciphertexts with a released value for every slot")
        return solve(equations[0], equations[1])

    def equations(self, opened: OpenedSum) -> list[Equation]:
        """One for each ciphertext whose slots are all released."""
        values, library = opened.values, _Library.load(self.context)
        if values.ndim != 1 or not np.isfinite(values).all():
            raise ParameterError("the released values are not one row of finite numbers")
        slots = library.n if library.exact else library.n // 2
        found = []
        for index, (a, b, scale) in enumerate(library.ciphertexts(opened.ciphertext)):
            part = values[index * slots : (index + 1) * slots]
            if len(part) == slots:
                told = library.told_bfv(part) if library.exact else _told(part, scale)
                found.append(Equation(a, b, told, library.q))
        return found


def solve(first: Equation, second: Equation) -> Guess:
    """The one s that fulfils both. Raises ParameterError if their rings differ."""
    q, n = first.q, len(first.a)
    if (second.q, len(second.a)) != (q, n):
        raise ParameterError("the two ciphertexts are not of one context")
    root = _root(n, q)
    (a, right), (c, other) = (
        (_evaluate(e.a, root, q), _evaluate(e.told - e.b - _mirrored(e.b), root, q))
        for e in (first, second)
    )
    # Index u stands for root**(2 u + 1); its inverse is at n - 1 - u.
    determinant = (a * c[::-1] - a[::-1] * c) % q
    # A pair of roots that stays open (one in q) makes the whole guess wrong, and that shows.
    inverse = np.array([pow(d, -1, q) if d else 0 for d in determinant], dtype=object)
    key = (right * c[::-1] - a[::-1] * other) % q * inverse
    return Guess(_centred(_interpolate(key, root, q), q).astype(np.int64))


def residual(values: Floats, step: float) -> Floats:
    """What a release says beyond an exact sum: how far each value is from a multiple of `step`.

    `step` is the grid of the inputs. CKKS has its noise here, an exact sum has zeros.
    """
    rest: Floats = values - np.rint(values / step) * step
    return rest


def secret_of(context: bytes) -> Key:
    """The truth to score a guess with, out of a test context that was serialised with its key.

    Raises ParameterError if it has none.
    """
    library = _Library.load(context)
    if not library.native.has_secret_key():
        raise ParameterError("the context holds no secret key to compare with")
    shown = library.visible(library.native.secret_key().data, library.api.SecretKey())
    # SEAL keeps the values at the odd powers of its smallest root, indices with reversed bits.
    n, q, bits = library.n, library.q, library.n.bit_length() - 1
    order = [int(f"{index:0{bits}b}"[::-1], 2) for index in range(n)]
    values = _row(shown.data().dyn_array(), 0, n)[order]
    return _centred(_interpolate(values, _root(n, q), q), q).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Library:
    """TenSEAL, loaded late, with one context; polynomials have `n` coefficients modulo `q`.

    `api` is its `sealapi`, whose objects show the coefficients that TenSEAL's own hide.
    """

    tenseal: Any
    api: Any
    native: Any
    seal: Any
    parameters: Any
    n: int
    q: int

    @classmethod
    def load(cls, context: bytes) -> "_Library":
        try:
            tenseal, api = import_module("tenseal"), import_module("tenseal.sealapi")
        except ImportError as error:
            raise ParameterError(
                "this needs TenSEAL: pip install '.[he]' in Tacit's checkout"
            ) from error
        try:
            native = tenseal.context_from(context)
        except (RuntimeError, ValueError) as error:
            raise ParameterError(f"not a context of this TenSEAL: {error}") from error
        seal = native.seal_context().data
        parameters = seal.first_context_data().parms()
        n, q = parameters.poly_modulus_degree(), parameters.coeff_modulus()[0].value()
        return cls(tenseal, api, native, seal, parameters, n, q)

    @property
    def exact(self) -> bool:
        return bool(self.parameters.scheme().name == "BFV")

    def visible(self, hidden: Any, shown: Any) -> Any:
        """`hidden`, of TenSEAL, as `shown`, of its `sealapi`: a file is the only way across."""
        with TemporaryDirectory() as folder:
            path = str(Path(folder, "object"))
            hidden.save(path)
            shown.load(self.seal, path)
        return shown

    def ciphertexts(self, data: bytes) -> list[tuple[Integers, Integers, float]]:
        """a, b and the scale of each ciphertext in a serialised vector."""
        load = self.tenseal.bfv_vector_from if self.exact else self.tenseal.ckks_vector_from
        found = []
        try:
            for hidden in load(self.native, data).ciphertext():
                shown = self.visible(hidden, self.api.Ciphertext())
                if shown.is_ntt_form():
                    self.api.Evaluator(self.seal).transform_from_ntt_inplace(shown)
                rows, second = shown.dyn_array(), shown.coeff_modulus_size() * self.n
                a, b = _row(rows, second, self.n), _row(rows, 0, self.n)
                found.append((a, b, float(shown.scale)))
        except (RuntimeError, ValueError) as error:
            raise ParameterError(f"not a vector of this context: {error}") from error
        return found

    def told_bfv(self, values: Floats) -> Integers:
        """p(X) + p(1/X) for the nearest p there is to an exact m: round(Q m / t), its noise 0."""
        t, count = self.parameters.plain_modulus().value(), len(values)
        whole = int(np.prod([p.value() for p in self.parameters.coeff_modulus()], dtype=object))
        encoded, message = self.api.Plaintext(), np.zeros(count, dtype=object)
        integers = [int(value) % t for value in np.rint(values)]
        self.api.BatchEncoder(self.seal).encode(integers, encoded)
        given = encoded.coeff_count()
        message[:given] = _row(encoded.dyn_array(), 0, given)
        phase = (whole * message + t // 2) // t
        told: Integers = phase + _mirrored(phase)
        return told


def _row(rows: Any, start: int, count: int) -> Integers:
    return np.array([rows.at(index) for index in range(start, start + count)], dtype=object)


def _told(values: Floats, scale: float) -> Integers:
    """p(X) + p(1/X) for the p whose slots have these real parts; exact given enough digits."""
    n = 2 * len(values)
    at, twice = _slot_order(n), np.empty(n)
    twice[at] = twice[n - 1 - at] = 2 * scale * values
    told = (np.fft.fft(twice) * _twist(n).conj()).real / n
    return np.array([int(x) for x in np.rint(told)], dtype=object)


def _slots(phase: Integers) -> Floats:
    """Real parts of an integer polynomial's n/2 slots, times the scale."""
    n = len(phase)
    values: Floats = (np.fft.ifft(phase.astype(np.float64) * _twist(n)) * n).real
    return values[_slot_order(n)]


def _slot_order(n: int) -> NDArray[np.int64]:
    """Slot j is at the power 3**j of exp(i pi / n), the odd power of index (3**j - 1) / 2."""
    return np.array([pow(3, slot, 2 * n) // 2 for slot in range(n // 2)])


def _twist(n: int) -> NDArray[np.complex128]:
    twist: NDArray[np.complex128] = np.exp(1j * np.pi * np.arange(n) / n)
    return twist


def _mirrored(x: Integers) -> Integers:
    """x(1/X), where X**-k is -X**(n - k)."""
    return np.concatenate([x[:1], -x[:0:-1]])


def _centred(x: Integers, q: int) -> Integers:
    centred: Integers = (x + q // 2) % q - q // 2
    return centred


def _evaluate(x: Integers, root: int, q: int) -> Integers:
    """x at the odd powers of `root`, in order."""
    return _transform(x * _powers(root, len(x), q) % q, root * root % q, q)


def _interpolate(x: Integers, root: int, q: int) -> Integers:
    """The inverse of `_evaluate`; not reduced."""
    back = pow(root, -1, q)
    wound = _transform(x % q, back * back % q, q) * pow(len(x), -1, q)
    plain: Integers = wound * _powers(back, len(x), q)
    return plain


def _transform(x: Integers, root: int, q: int) -> Integers:
    """sum over k of x[k] root**(u k), for each u: decimation in frequency, all blocks at once."""
    x = x[:, None]
    while len(x) > 1:
        low, high = np.split(x, 2)
        turned = (low - high) * _powers(root, len(low), q)[:, None]
        x = np.concatenate([low + high, turned], axis=1) % q
        root = root * root % q
    row: Integers = x[0]
    return row


def _powers(root: int, count: int, q: int) -> Integers:
    powers = accumulate(repeat(root, count - 1), lambda x, y: x * y % q, initial=1)
    return np.array(list(powers), dtype=object)


@lru_cache(maxsize=8)
def _root(n: int, q: int) -> int:
    """The smallest number of order 2 n modulo the prime q, which is 1 modulo 2 n."""
    candidates = (pow(base, (q - 1) // (2 * n), q) for base in range(2, q))
    found = next(root for root in candidates if pow(root, n, q) == q - 1)
    return int(min(_powers(found * found % q, n, q) * found % q))
