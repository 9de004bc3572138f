"""The set of CKKS: as exact as the others, and as silent about its noise."""

from typing import Any

import numpy as np
import pytest

from tacit.crypto.errors import MalformedMessage, ProtocolError
from tacit.crypto.he import sums
from tacit.crypto.he.bfv import Summer, encrypt
from tacit.crypto.he.frames import Kind, frame, read_frame
from tacit.crypto.he.packing import Packing
from tacit.crypto.he.sets import APPROXIMATE, FAILURE_BITS, NOISE_VARIANCE
from tacit.crypto.he.sums import contribute, open_sum
from tacit.crypto.he.tags import TAGS
from tacit.simulations.attacks.ckks_key import CkksKeyRecovery, OpenedSum, secret_of
from tests.crypto.he.group import SESSION, group, ring

tenseal = pytest.importorskip("tenseal", reason="TenSEAL is not installed: pip install '.[he]'")

WHOLE = APPROXIMATE.slots - TAGS  # numbers that fill one ciphertext


def contribution(packing: Packing, device: int, numbers: Any) -> bytes:
    vector = ring(numbers, packing.bits)
    return contribute(group(APPROXIMATE), packing, SESSION, device, vector)


def block(data: bytes, packing: Packing, kind: Kind = Kind.CONTRIBUTION) -> bytes:
    return bytes(read_frame(data, kind, packing, sender=1, stage="report")[1][0])


def test_the_room_keeps_errors_below_half_a_step() -> None:
    """The two bounds that `room` is made of, at its edge and beyond."""
    need = 2 * NOISE_VARIANCE * np.log(2) * (FAILURE_BITS + 1) * APPROXIMATE.degree

    def error(count: int) -> float:
        return float(count * APPROXIMATE.degree / 2 + np.sqrt(need * count))

    def fills(count: int) -> bool:
        return count * APPROXIMATE.plain * APPROXIMATE.scale > APPROXIMATE.modulus

    assert error(APPROXIMATE.room) < APPROXIMATE.scale / 2
    assert not fills(APPROXIMATE.room)
    assert fills(APPROXIMATE.room + 1)


def test_noise_is_there_and_is_not_told() -> None:
    """What the library decrypts to is off by some hundredths; what leaves the door is whole."""
    door: Any = group(APPROXIMATE).key.door()
    numbers = np.random.default_rng(1).integers(-1000, 1000, APPROXIMATE.slots).tolist()
    total = door.load(door.encrypt(numbers))
    for _ in range(49):
        door.add(total, door.load(door.encrypt(numbers)))
    raw = np.array(total.decrypt())
    off = np.abs(raw - 50 * np.array(numbers)).max()
    # Of 2048 sums of 4096 terms of noise, each of variance 50 * 10.5 / 2, one in scale:
    deviation = np.sqrt(50 * NOISE_VARIANCE * APPROXIMATE.degree / 2) / APPROXIMATE.scale
    assert 2 * deviation < off < 7 * deviation
    assert door.decrypt(total) == [50 * number for number in numbers]


def test_the_key_follows_from_what_is_not_rounded_and_from_nothing_else() -> None:
    """The server adds up and is shown the sums: as the library decrypts them, and as they are."""
    held = group(APPROXIMATE)
    context = tenseal.context_from(held.key.secret)
    flags = {"save_public_key": False, "save_galois_keys": False, "save_relin_keys": False}
    attack = CkksKeyRecovery(context.serialize(save_secret_key=False, **flags))
    packing = Packing(APPROXIMATE, WHOLE, 24, 4)
    approximate, exact = [], []
    for seed in range(2):
        draw, summer = np.random.default_rng(seed), Summer(packing)
        for device in (1, 2, 3, 4):
            numbers = draw.integers(-packing.reach, packing.reach + 1, WHOLE)
            summer.add(contribution(packing, device, numbers), sender=device)
        ciphertext = block(summer.total(), packing, Kind.SUM)
        vector = tenseal.ckks_vector_from(context, ciphertext)
        approximate.append(OpenedSum(ciphertext, np.array(vector.decrypt())))
        opened = open_sum(held, packing, SESSION, (1, 2, 3, 4), summer.total())
        signed = opened.astype(np.int64) - ((opened >> 23).astype(np.int64) << 24)
        tags = np.rint(approximate[-1].values[WHOLE:])  # a present: they are not published
        exact.append(OpenedSum(ciphertext, np.concatenate([signed, tags]).astype(float)))
    key = secret_of(context.serialize(save_secret_key=True, **flags))
    assert attack.recover(approximate).share(key) == 1.0
    guess = attack.recover(exact)
    assert not guess.is_key
    assert guess.share(key) < 0.01


def test_another_scale_or_form_does_not_load() -> None:
    packing = Packing(APPROXIMATE, 50, 24, 3)
    context = tenseal.context_from(group(APPROXIMATE).key.secret)
    numbers = [1.0] * APPROXIMATE.slots
    wrong = [
        tenseal.ckks_vector(context, numbers, APPROXIMATE.scale / 2).serialize(),
        tenseal.ckks_vector(context, numbers[:-1], APPROXIMATE.scale).serialize(),
        b"",
    ]
    for bad in wrong:
        with pytest.raises(MalformedMessage, match="does not load"):
            Summer(packing).add(frame(Kind.CONTRIBUTION, packing, 1, [bad]), sender=1)
    right = encrypt(group(APPROXIMATE).key, packing, np.ones(50, np.int64))
    Summer(packing).add(right, sender=1)


def test_every_opened_slot_is_within_reach_of_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check behind the tags: with them out of the way, a number beyond the span is refused."""
    held, packing = group(APPROXIMATE), Packing(APPROXIMATE, 5, 24, 2)
    slots = np.concatenate([np.full(5, packing.span), np.zeros(TAGS, np.int64)])
    data = block(encrypt(held.key, packing, slots), packing)
    total = frame(Kind.SUM, packing, 1, [data])
    monkeypatch.setattr(sums, "check", lambda *args: None)
    with pytest.raises(ProtocolError, match="no sum reaches"):
        open_sum(held, packing, SESSION, (1,), total)
    slots[:5] = packing.span - 1
    data = block(encrypt(held.key, packing, slots), packing)
    opened = open_sum(held, packing, SESSION, (1,), frame(Kind.SUM, packing, 1, [data]))
    assert opened.tolist() == [packing.span - 1] * 5
