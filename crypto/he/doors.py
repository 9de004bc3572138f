"""The library's two doors, behind one interface: ciphertexts of one plaintext each.

One goes through TenSEAL's documented API, a vector of N slots at a time: for longer ones it prints
a warning to standard output. The other goes through `tenseal.sealapi`, a thin layer over SEAL: that
alone can leave out the half of a ciphertext that a seed gives, and the second prime. It reads and
writes files only, named by a path. To keep keys and ciphertexts off the disk the file is one in
memory, by way of /proc: so the seeded sets are there on Linux only.

Both draw keys and noise themselves, from the operating system, and take no randomness from us.

What the library raises when bytes do not load is one of REFUSALS. Bytes from strangers may also
crash it: TenSEAL 0.3.18 carries SEAL 4.3, and loading was hardened in SEAL 4.4. A server loads
those of devices in a process of its own: see `tacit.server.he_loader`.
"""

import os
from contextlib import suppress
from typing import Any, Protocol

from tacit.crypto.errors import ParameterError
from tacit.crypto.he.frames import library
from tacit.crypto.he.sets import Scheme

Ciphertext = Any  # of the library, which has no types

REFUSALS = (ValueError, RuntimeError, IndexError, OverflowError, MemoryError)
_NO_OTHER_KEYS = {"save_public_key": False, "save_galois_keys": False, "save_relin_keys": False}


class Door(Protocol):
    """One parameter set, with a secret key or without. Not for two threads at a time."""

    def secret(self) -> bytes:
        """The secret key, serialised; no other key."""

    def encrypt(self, slots: list[int]) -> bytes:
        """N numbers of -t/2 .. t/2 as a serialised ciphertext."""

    def load(self, data: bytes) -> Ciphertext:
        """Raises one of REFUSALS for what is no ciphertext of this set, fresh or a sum."""

    def add(self, total: Ciphertext, other: Ciphertext) -> None:
        """Add `other` to `total`, in place."""

    def save(self, ciphertext: Ciphertext) -> bytes:
        """Serialised."""

    def decrypt(self, ciphertext: Ciphertext) -> list[int]:
        """N numbers of -t/2 .. t/2."""


def door(scheme: Scheme, secret: bytes | None = None) -> Door:
    """With the secret key that `secret` holds, or without one: then it adds only.

    Raises ParameterError where the library, or what it takes, is missing, and one of REFUSALS if
    `secret` is no key of this set.
    """
    library()
    return _kind(scheme)(scheme, secret)


def new_secret(scheme: Scheme) -> bytes:
    """A fresh secret key, serialised. Raises ParameterError as `door`."""
    library()
    return _kind(scheme)(scheme, None, fresh=True).secret()


def _kind(scheme: Scheme) -> "type[_Seeded] | type[_Public]":
    if scheme.scale:
        return _Approximate
    return _Seeded if scheme.seeded else _Public


def _check(scheme: Scheme, ciphertext: Ciphertext) -> None:
    """That it is of this set and has two polynomials. The library has checked the coefficients."""
    if ciphertext.size() != 2 or ciphertext.poly_modulus_degree() != scheme.degree:
        raise ValueError("not two polynomials of this degree")
    if ciphertext.coeff_modulus_size() != 1 or ciphertext.is_ntt_form() != bool(scheme.scale):
        raise ValueError("of another modulus or form")
    if scheme.scale and ciphertext.scale != scheme.scale:
        raise ValueError("of another scale")
    if ciphertext.is_transparent():
        raise ValueError("hides nothing")


class _Public:
    """By `tenseal.context` and `bfv_vector`."""

    def __init__(self, scheme: Scheme, secret: bytes | None, *, fresh: bool = False) -> None:
        import tenseal

        self._tenseal = tenseal
        self._scheme = scheme
        made = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS if scheme.scale else tenseal.SCHEME_TYPE.BFV,
            scheme.degree,
            -1 if scheme.scale else scheme.plain,
            list(scheme.primes),
            tenseal.ENCRYPTION_TYPE.SYMMETRIC,
            n_threads=1,  # more help nothing, and cost a pool
        )
        bare = made.serialize(save_secret_key=False, **_NO_OTHER_KEYS)
        if fresh:
            self._context = made
        elif secret is None:
            self._context = tenseal.context_from(bare, n_threads=1)
        else:
            self._context = tenseal.context_from(secret, n_threads=1)
            # The bytes name their own parameters: these have to be ours.
            if self._context.serialize(save_secret_key=False, **_NO_OTHER_KEYS) != bare:
                raise ValueError("a key of other parameters")
            if not self._context.has_secret_key():
                raise ValueError("no secret key")

    def secret(self) -> bytes:
        return bytes(self._context.serialize(save_secret_key=True, **_NO_OTHER_KEYS))

    def encrypt(self, slots: list[int]) -> bytes:
        return bytes(self._tenseal.bfv_vector(self._context, slots).serialize())

    def load(self, data: bytes) -> Ciphertext:
        vector = self._read(data)
        held = vector.ciphertext()
        if vector.size() != self._scheme.slots or len(held) != 1:
            raise ValueError("a vector of another size")
        _check(self._scheme, held[0])
        return vector

    def add(self, total: Ciphertext, other: Ciphertext) -> None:
        total.add_(other)

    def save(self, ciphertext: Ciphertext) -> bytes:
        return bytes(ciphertext.serialize())

    def decrypt(self, ciphertext: Ciphertext) -> list[int]:
        numbers: list[int] = ciphertext.decrypt()
        return numbers

    def _read(self, data: bytes) -> Ciphertext:
        return self._tenseal.bfv_vector_from(self._context, data)


class _Approximate(_Public):
    """By `tenseal.context` and `ckks_vector`."""

    def encrypt(self, slots: list[int]) -> bytes:
        vector = self._tenseal.ckks_vector(self._context, slots, self._scheme.scale)
        return bytes(vector.serialize())

    def decrypt(self, ciphertext: Ciphertext) -> list[int]:
        # What the library returns is the sum with a part of its noise, and of that follows the key
        # (`tacit.simulations.attacks.ckks_key`). It ends here, and must go nowhere else.
        return [round(number) for number in ciphertext.decrypt()]

    def _read(self, data: bytes) -> Ciphertext:
        return self._tenseal.ckks_vector_from(self._context, data)


class _MemoryFile:
    """A file in memory that has a path."""

    def __init__(self) -> None:
        if not hasattr(os, "memfd_create"):
            raise ParameterError("seeded sets need Linux: take sets.PUBLIC")
        self._fd = os.memfd_create("tacit")
        self.path = f"/proc/self/fd/{self._fd}"
        if not os.path.exists(self.path):  # noqa: PTH110 - a mere look
            raise ParameterError("seeded sets need /proc: take sets.PUBLIC")

    def write(self, data: bytes) -> None:
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, data, 0)

    def read(self) -> bytes:
        return os.pread(self._fd, os.fstat(self._fd).st_size, 0)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self._fd)


class _Seeded:
    """By `tenseal.sealapi`."""

    def __init__(self, scheme: Scheme, secret: bytes | None, *, fresh: bool = False) -> None:
        from tenseal import sealapi

        self._seal = sealapi
        self._scheme = scheme
        parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
        parameters.set_poly_modulus_degree(scheme.degree)
        parameters.set_coeff_modulus([sealapi.Modulus(scheme.modulus)])
        parameters.set_plain_modulus(scheme.plain)
        self._context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
        if not self._context.parameters_set():
            raise ParameterError(f"the library refuses {scheme.name}")
        self._encoder = sealapi.BatchEncoder(self._context)
        self._evaluator = sealapi.Evaluator(self._context)
        self._file = _MemoryFile()
        self._key = None
        if fresh:
            self._key = sealapi.KeyGenerator(self._context).secret_key()
        elif secret is not None:
            self._key = sealapi.SecretKey()
            self._file.write(secret)
            self._key.load(self._context, self._file.path)
        if self._key is not None:
            self._encryptor = sealapi.Encryptor(self._context, self._key)
            self._decryptor = sealapi.Decryptor(self._context, self._key)

    def secret(self) -> bytes:
        if self._key is None:
            raise ValueError("no secret key")
        self._key.save(self._file.path)
        return self._file.read()

    def encrypt(self, slots: list[int]) -> bytes:
        plaintext = self._seal.Plaintext()
        self._encoder.encode(slots, plaintext)
        self._encryptor.encrypt_symmetric(plaintext).save(self._file.path)
        return self._file.read()

    def load(self, data: bytes) -> Ciphertext:
        self._file.write(data)
        ciphertext = self._seal.Ciphertext()
        ciphertext.load(self._context, self._file.path)
        _check(self._scheme, ciphertext)
        return ciphertext

    def add(self, total: Ciphertext, other: Ciphertext) -> None:
        self._evaluator.add_inplace(total, other)

    def save(self, ciphertext: Ciphertext) -> bytes:
        ciphertext.save(self._file.path)
        return self._file.read()

    def decrypt(self, ciphertext: Ciphertext) -> list[int]:
        plaintext = self._seal.Plaintext()
        self._decryptor.decrypt(ciphertext, plaintext)
        numbers: list[int] = self._encoder.decode_int64(plaintext)
        return numbers
