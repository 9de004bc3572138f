"""Sums under both doors of the library are exact, and nothing but ciphertexts goes out."""

import os
from importlib import metadata
from math import floor, log2, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tacit.crypto.errors import MalformedMessage, ParameterError, ProtocolError
from tacit.crypto.he import doors, frames
from tacit.crypto.he.bfv import Key, Summer, decrypt, encrypt
from tacit.crypto.he.frames import Kind, read_frame
from tacit.crypto.he.packing import Packing
from tacit.crypto.he.sets import APPROXIMATE, NOISE_VARIANCE, PUBLIC, SCHEMES, SEEDED, WIDE
from tacit.crypto.he.sums import contribute, open_sum
from tacit.crypto.he.tags import TAGS
from tests.crypto.he.group import FULL, SESSION, group, numbers, ring, schemes

pytest.importorskip("tenseal", reason="TenSEAL is not installed: pip install '.[he]'")

EVERY = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: scheme.name)


def contributions(packing: Packing, vectors) -> dict[int, bytes]:
    """What devices 1, 2, ... send."""
    scheme, members = packing.scheme, max(5, len(vectors))
    return {
        device: contribute(
            group(scheme, members),
            packing,
            SESSION,
            device,
            ring(vector, packing.bits),
        )
        for device, vector in enumerate(vectors, 1)
    }


def total(packing: Packing, messages) -> bytes:
    summer = Summer(packing)
    for message in messages:
        summer.add(message, sender=1)
    return summer.total()


def opened(packing: Packing, survivors, data: bytes, members: int = 5):
    scheme = packing.scheme
    return open_sum(group(scheme, members), packing, SESSION, survivors, data)


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(schemes, st.data())
def test_sums_over_any_set_are_exact(scheme, data: st.DataObject) -> None:
    bits = data.draw(st.integers(8, scheme.plain_bits), "bits")
    clients = data.draw(st.integers(1, 5), "clients")
    size = data.draw(st.integers(1, 60), "size")
    packing = Packing(scheme, size, bits, clients)
    vectors = numbers(packing, clients, data.draw(st.integers(0, 99), "seed"))
    devices = st.sets(st.integers(1, clients), min_size=1)
    survivors = tuple(sorted(data.draw(devices, "survivors")))
    messages = contributions(packing, vectors)
    got = opened(packing, survivors, total(packing, [messages[d] for d in survivors]))
    expected = vectors[np.array(survivors) - 1].sum(axis=0)
    assert got.tolist() == ring(expected, bits).tolist()
    assert got.dtype == (np.uint32 if bits <= 32 else np.uint64)


@pytest.mark.parametrize(
    ("scheme", "devices"), [(PUBLIC, 100), (SEEDED, 100), (WIDE, 30), (APPROXIMATE, 100)]
)
def test_a_full_consortium_is_exact(scheme, devices: int) -> None:
    """Every device at the edge of its room, all of one sign, in two ciphertexts and a bit."""
    packing = Packing(scheme, 200, FULL[scheme], devices)
    signs = np.where(np.arange(200) % 2, 1, -1)
    vectors = np.tile(packing.reach * signs, (devices, 1))
    messages = contributions(packing, vectors)
    got = opened(packing, tuple(range(1, devices + 1)), total(packing, messages.values()), devices)
    assert got.tolist() == ring(vectors.sum(axis=0), packing.bits).tolist()


@EVERY
def test_long_vectors_take_several_ciphertexts(scheme) -> None:
    """Tags that begin a ciphertext, that are split between two, and that end one."""
    for spare in (0, 3, TAGS):
        words = 2 * scheme.slots - spare
        packing = Packing(scheme, scheme.fields * words, FULL[scheme], 3)
        vectors = numbers(packing, 2, spare)
        messages = contributions(packing, vectors)
        assert packing.blocks == (2 if spare == TAGS else 3)
        got = opened(packing, (1, 2), total(packing, messages.values()))
        assert got.tolist() == ring(vectors.sum(axis=0), packing.bits).tolist()


@EVERY
def test_slots_are_numbers_modulo_the_plaintext_modulus(scheme) -> None:
    packing, half = Packing(scheme, 4, 8, 1), scheme.plain // 2
    slots = np.array([0, half, half + 1, -half, -half - 1, scheme.plain - 1, 5 * scheme.plain + 3])
    key = group(scheme).key
    summer = Summer(packing)
    summer.add(encrypt(key, packing, slots), sender=1)
    _, found = decrypt(key, packing, summer.total(), stage="open")
    assert found[:7].tolist() == [0, half, -half, -half, half, -1, 3]
    assert not found[7:].any()


@EVERY
def test_too_large_a_number_is_refused_before_it_wraps(scheme) -> None:
    packing = Packing(scheme, 4, FULL[scheme], 3)
    vector = ring([0, packing.reach + 1, 0, 0], packing.bits)
    with pytest.raises(ParameterError, match="do not fit"):
        contribute(group(scheme), packing, SESSION, 1, vector)


@EVERY
def test_one_device_too_many_is_refused(scheme) -> None:
    packing = Packing(scheme, 4, FULL[scheme], 2)
    message = contributions(packing, numbers(packing, 1))[1]
    summer = Summer(packing)
    summer.add(message, sender=1)
    summer.add(message, sender=2)
    with pytest.raises(ParameterError, match="room for 2"):
        summer.add(message, sender=3)
    assert summer.count == 2


@EVERY
def test_a_sum_is_taken_up_where_it_was(scheme) -> None:
    packing = Packing(scheme, 50, FULL[scheme], 4)
    vectors = numbers(packing, 4)
    messages = contributions(packing, vectors)
    again = Summer(packing)
    again.add_sum(total(packing, [messages[1], messages[2]]))
    again.add(messages[4], sender=4)
    got = opened(packing, (1, 2, 4), again.total())
    assert again.count == 3
    assert got.tolist() == ring(vectors[[0, 1, 3]].sum(axis=0), packing.bits).tolist()


@EVERY
def test_only_the_sum_over_the_attested_set_is_opened(scheme) -> None:
    packing = Packing(scheme, 50, FULL[scheme], 4)
    messages = contributions(packing, numbers(packing, 4))
    one_thrice = [messages[1]] * 3
    another = contribute(group(scheme), packing, bytes(32), 3, ring([1] * 50, packing.bits))
    for sent in (
        one_thrice,
        [messages[1], messages[2], messages[4]],
        [messages[1], messages[2], messages[2]],
        [messages[1], messages[2], another],
    ):
        with pytest.raises(ProtocolError, match="not the sum over"):
            opened(packing, (1, 2, 3), total(packing, sent))
    with pytest.raises(MalformedMessage, match="a sum of 1 for 3"):
        opened(packing, (1, 2, 3), total(packing, [messages[1]]))
    with pytest.raises(ProtocolError, match="not part of"):
        opened(packing, (1, 2, 9), total(packing, one_thrice))
    with pytest.raises(ProtocolError, match="not part of"):
        opened(packing, (2, 1, 1), total(packing, one_thrice))


@EVERY
def test_ciphertexts_of_two_sums_cannot_be_mixed(scheme) -> None:
    """The tags stand in the last ciphertext: the first is swapped for a single device's."""
    packing = Packing(scheme, scheme.fields * scheme.slots, FULL[scheme], 2)
    messages = contributions(packing, numbers(packing, 2))
    honest = total(packing, messages.values())
    alone = total(packing, [messages[1]])
    count, blocks = read_frame(honest, Kind.SUM, packing, sender=0, stage="open")
    _, single = read_frame(alone, Kind.SUM, packing, sender=0, stage="open")
    assert len(blocks) == 2
    mixed = frames.frame(Kind.SUM, packing, count, [bytes(single[0]), bytes(blocks[1])])
    with pytest.raises(ProtocolError, match="not the sum over"):
        opened(packing, (1, 2), mixed)
    opened(packing, (1, 2), honest)


def test_a_product_inside_of_a_ciphertext_is_refused() -> None:
    """A factor with few and small coefficients changes slots and leaves the noise low: the sum
    still decrypts, to something else in every slot."""
    from tenseal import sealapi

    packing = Packing(SEEDED, 50, 21, 2)
    messages = contributions(packing, numbers(packing, 2))
    server: Any = doors.door(SEEDED)
    honest = total(packing, messages.values())
    _, (block,) = read_frame(honest, Kind.SUM, packing, sender=0, stage="open")
    single = read_frame(messages[1], Kind.CONTRIBUTION, packing, sender=1, stage="report")[1][0]
    for factor in ("1x^5", "1x^1024 + 1", "2"):
        made, product = server.load(bytes(block)), server.load(bytes(single))
        server._evaluator.multiply_plain_inplace(product, sealapi.Plaintext(factor))
        server.add(made, product)
        data = frames.frame(Kind.SUM, packing, 2, [server.save(made)])
        _, slots = decrypt(group(SEEDED).key, packing, data, stage="open")
        assert not np.any(slots[packing.words + TAGS :])  # it did decrypt: what was zero still is
        with pytest.raises(ProtocolError, match="not the sum over"):
            opened(packing, (1, 2), data)


@EVERY
def test_another_key_opens_nothing(scheme) -> None:
    packing = Packing(scheme, 50, FULL[scheme], 2)
    vectors = numbers(packing, 1)
    data = total(packing, contributions(packing, vectors).values())
    _, slots = decrypt(Key.make(scheme), packing, data, stage="open")
    assert (
        packing.unpack(slots[: packing.words]).tolist() != ring(vectors[0], packing.bits).tolist()
    )
    with pytest.raises(ParameterError, match="a key of"):
        decrypt(Key.make(PUBLIC if scheme.seeded else SEEDED), packing, data, stage="open")


@EVERY
def test_encryption_is_fresh_each_time(scheme) -> None:
    packing = Packing(scheme, 10, FULL[scheme], 2)
    slots = packing.pack(ring([1] * 10, packing.bits))
    assert len({encrypt(group(scheme).key, packing, slots) for _ in range(4)}) == 4


@EVERY
def test_nothing_but_ciphertexts_goes_out(scheme) -> None:
    """No key of any kind: sizes leave no room for one, and what opens sums holds one key only."""
    packing = Packing(scheme, scheme.fields * (scheme.slots - TAGS), FULL[scheme], 2)
    message = contributions(packing, numbers(packing, 1))[1]
    polynomial = scheme.degree * scheme.modulus.bit_length() / 8
    halves = 1 if scheme.seeded else 2
    # What is random does not compress: 54 bits take 7 bytes, 1.04 of them, and some codes.
    assert halves * polynomial < len(message) < halves * polynomial * 1.14
    assert 2 * polynomial < len(total(packing, [message])) < 2 * polynomial * 1.14
    secret = group(scheme).key.secret
    assert len(secret) < scheme.degree * 8 * len(scheme.primes) + 200
    assert doors.door(scheme, secret).secret() != b""


def test_the_public_context_holds_the_secret_key_alone() -> None:
    import tenseal

    context = tenseal.context_from(group(PUBLIC).key.secret)
    assert context.has_secret_key()
    assert not context.has_relin_keys()
    assert not context.has_galois_keys()
    with pytest.raises(ValueError, match="symmetric"):  # has none by its kind
        context.has_public_key()


def test_a_vector_that_is_no_whole_ciphertext_is_refused() -> None:
    """It loads, and adds up, to something else."""
    import tenseal

    context = tenseal.context_from(group(PUBLIC).key.secret)
    packing = Packing(PUBLIC, 10, 21, 2)
    short = tenseal.bfv_vector(context, [1] * 10).serialize()
    data = frames.frame(Kind.CONTRIBUTION, packing, 1, [short])
    with pytest.raises(MalformedMessage, match="does not load"):
        Summer(packing).add(data, sender=1)


def test_bytes_per_value() -> None:
    """What docs promise: at d = 1e6, from the sizes of single ciphertexts."""
    for scheme, most_up, most_down in (
        (PUBLIC, 7.61, 7.61),
        (SEEDED, 3.85, 7.6),
        (WIDE, 4.15, 8.25),
        (APPROXIMATE, 30.4, 30.4),
    ):
        packing = Packing(scheme, scheme.fields * (scheme.slots - TAGS), FULL[scheme], 10)
        large = Packing(scheme, 1_000_000, FULL[scheme], 10)
        message = contributions(packing, numbers(packing, 1))[1]
        assert len(message) * large.blocks / 1e6 < most_up
        assert len(total(packing, [message])) * large.blocks / 1e6 < most_down


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("scheme", [PUBLIC, SEEDED], ids=lambda scheme: scheme.name)
def test_memory_does_not_grow_with_devices(scheme) -> None:
    packing = Packing(scheme, 100_000, 21, 60)
    message = encrypt(group(scheme).key, packing, np.zeros(packing.words + TAGS, np.int64))
    summer = Summer(packing)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for _ in range(5):
        summer.add(message, sender=1)
    before = resident()
    for _ in range(40):
        summer.add(message, sender=1)
    held = packing.blocks * 2 * scheme.degree * 8
    assert resident() - before < 4 * held  # of 40 that were added


def test_the_library_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """It warns on standard output, past Python, of vectors that take two ciphertexts."""
    packing = Packing(PUBLIC, 4 * PUBLIC.degree, 21, 2)
    message = contributions(packing, numbers(packing, 1))[1]
    opened(packing, (1,), total(packing, [message]))
    assert capfd.readouterr() == ("", "")


@EVERY
def test_no_secret_in_a_repr(scheme) -> None:
    held = group(scheme)
    for shown in (repr(held), repr(held.key), str(held)):
        assert repr(held.key.secret[:8])[2:-1] not in shown
        assert "secret" not in shown


def test_without_the_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    frames.library.cache_clear()
    try:
        for need in (lambda: Key.make(PUBLIC), lambda: Summer(Packing(SEEDED, 4, 21, 2))):
            with pytest.raises(ParameterError, match=r"pip install '\.\[he\]'"):
                need()
    finally:
        frames.library.cache_clear()


def test_seeded_sets_need_files_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(ParameterError, match="PUBLIC"):
        Key.make(SEEDED)
    Key.make(PUBLIC)


def test_the_sum_of_nothing_is_refused() -> None:
    with pytest.raises(ParameterError, match="nothing"):
        Summer(Packing(PUBLIC, 4, 21, 2)).total()


@pytest.mark.parametrize("scheme", [PUBLIC, SEEDED, WIDE], ids=lambda scheme: scheme.name)
def test_noise_is_what_room_is_reckoned_from(scheme) -> None:
    """The library says, to whoever has the key, how many bits are left before decryption fails:
    the largest noise of a fresh ciphertext is 21, and that of a sum of n about sqrt(10.5 n)."""
    from tenseal import sealapi

    devices = 30
    door: Any = group(scheme).key.door()
    fresh = [door.encrypt([scheme.plain // 3] * scheme.degree) for _ in range(devices)]
    ciphertext = door.load(fresh[0])
    if scheme.seeded:
        decryptor = door._decryptor
    else:
        context = door._context
        decryptor = sealapi.Decryptor(context.seal_context().data, context.secret_key().data)

    def left() -> int:
        held = ciphertext if scheme.seeded else ciphertext.ciphertext()[0]
        return decryptor.invariant_noise_budget(held)

    limit = scheme.modulus / (2 * scheme.plain)
    assert floor(log2(limit / 21.5)) <= left() <= log2(limit / 8)
    for other in fresh[1:]:
        door.add(ciphertext, door.load(other))
    deviation = sqrt(NOISE_VARIANCE * devices)
    # Of some thousands of coefficients the largest is 3 to 6 deviations away.
    assert floor(log2(limit / (6 * deviation + 15))) <= left() <= log2(limit / (3 * deviation))
