"""Tags: what tells the sum over one set of devices from everything else a server can send.

Ciphertexts can be added up by anyone, and multiplied. A server that hands a device the ciphertext
of one other device, or the same one n times, or the sum with one counted twice, would have it
decrypt that. So the devices share a secret that the server does not hold, and with its help put a
checksum, linear and so additive, into the plaintext. With t the plaintext modulus and m_i the slots
of device i, its tag is, mod t,

    T_i = <w, m_i> + r_i        w: from the secret and the session     r_i: and from i

and the slots M with the tag T are opened only if T = <w, M> + sum of r_i over the devices i that
were attested: a homomorphic MAC, as in Agrawal and Boneh, "Homomorphic MACs: MAC-Based Integrity
for Network Coding", ACNS 2009.

Whatever a server makes of the ciphertexts, block by block and slot by slot, it decrypts to some M
and T. Say it even knew all m_i and T_i: each r_i is used once, so w is as unknown as before. If M
is not the sum of the m_i over the set, the tag fits only if <w, M - sum m_i> is one certain number.
As t is prime, and for whatever the other weights are, at most one value of the weight of a slot
where they differ does that. Weights are 16 bits, so it does one time in 2**16; there are six tags
with weights of their own: one time in 2**96. A wrong set without any such slot is found by the r_i.

A constant of the device in the place of <w, m_i> would not do. The server could take the slot of
the tags from the sum and all other slots from one device: with plaintexts of several ciphertexts
just so, and inside of one by a product with a polynomial that is 1 where the tags are. Such
polynomials with coefficients so small that the noise stays low do exist.

What a tag does not stop:

  - A device that is in league with the server. It has the key, and needs no tag.
  - A refusal tells the server one bit. If it sends ciphertexts that no addition makes, made so that
    decryption fails or not depending on the key, these bits are about the key. So **a device that
    refused once does not use the key again**: see `sums`. That it did not refuse is a bit as well.
    Among the sums of a key, one that is refused ends the sequence: it says at which, so of each
    device the server learns log2(SUMS + 1) bits of a key at most, six of some thousands.
"""

from hmac import compare_digest

import numpy as np
from numpy.typing import NDArray

from tacit.crypto import labels
from tacit.crypto.errors import ProtocolError
from tacit.crypto.identity import derive
from tacit.crypto.prg import KeyStream

TAGS = 6
WEIGHT_BITS = 16
CHUNK = 1 << 14
LIMB_BITS = 22  # LIMB_BITS + WEIGHT_BITS + 14 for a chunk < 53: float64 adds exactly


def tag(
    secret: bytes, session: bytes, device: int, slots: NDArray[np.int64], plain: int
) -> NDArray[np.int64]:
    """The tags (TAGS,) of a device's slots, 0 <= tag < plain. `secret` is the group's, 32 bytes.

    Once for each device and session: two vectors under one pad would say something of the weights.
    """
    return _modulo(_weighted(secret, session, slots, plain) + _pad(secret, session, device), plain)


def check(
    secret: bytes,
    session: bytes,
    survivors: tuple[int, ...],
    slots: NDArray[np.int64],
    tags: NDArray[np.int64],
    plain: int,
) -> None:
    """Raises ProtocolError unless `slots` and `tags` are the sums over exactly `survivors`."""
    pads = sum((_pad(secret, session, device) for device in survivors), _nothing())
    expected = _modulo(_weighted(secret, session, slots, plain) + pads, plain)
    if not compare_digest(expected.tobytes(), (tags % plain).astype(np.int64).tobytes()):
        raise ProtocolError(
            "what it sent to decrypt is not the sum over the survivors", sender=0, stage="open"
        )


Numbers = NDArray[np.object_]  # Python's, of any size


def _nothing() -> Numbers:
    return np.zeros(TAGS, object)


def _modulo(numbers: Numbers, plain: int) -> NDArray[np.int64]:
    return np.asarray(numbers % plain, np.int64)


def _pad(secret: bytes, session: bytes, device: int) -> Numbers:
    """96 bits for each tag, so that modulo t they are as good as uniform."""
    stream = KeyStream(
        derive(secret, labels.HE_PAD, session, device.to_bytes(8, "little")), 12 * TAGS
    )
    limbs = np.empty((TAGS, 3), "<u4")
    stream.fill(limbs.reshape(-1))
    low, middle, high = limbs.astype(object).T
    return np.asarray(low + (middle << 32) + (high << 64))


def _weighted(secret: bytes, session: bytes, slots: NDArray[np.int64], plain: int) -> Numbers:
    """The sum of weights times slots, for each tag, as a number that is right modulo `plain`."""
    stream = KeyStream(
        derive(secret, labels.HE_WEIGHTS, session), slots.size * TAGS * WEIGHT_BITS // 8
    )
    limbs = -(-plain.bit_length() // LIMB_BITS)
    weights = np.empty((min(CHUNK, slots.size), TAGS), "<u2")
    total = _nothing()
    for start in range(0, slots.size, CHUNK):
        part = slots[start : start + CHUNK] % plain
        drawn = weights[: part.size]
        stream.fill(drawn.reshape(-1))
        digits = [part >> (LIMB_BITS * at) & ((1 << LIMB_BITS) - 1) for at in range(limbs)]
        sums = np.stack(digits).astype(np.float64) @ drawn.astype(np.float64)
        for at, row in enumerate(sums.astype(np.int64).astype(object)):
            total = total + (row << (LIMB_BITS * at))
    return total
