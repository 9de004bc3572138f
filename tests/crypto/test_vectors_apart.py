"""A second implementation, from tests/vectors/README.md alone: no line of tacit is used here.

Slow and plain, in Python integers. If this and the package ever differ, one of them or the page
that describes both is wrong.
"""

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import ceil, isqrt
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.crypto.plain_lattice import (
    FIELD,
    WIDTH,
    Scheme,
    combine,
    decrypt,
    encrypt,
    keystream,
    noise,
    share_at,
)
from tests.vectors.ml_kem import encapsulate

Vector = dict[str, Any]
FOLDER = Path(__file__).parent.parent / "vectors"


def read(name: str) -> list[Vector]:
    vectors: list[Vector] = json.loads((FOLDER / name).read_text("utf-8"))
    return vectors


HYBRID = read("hybrid.json")
VECTORS = [*read("sessions.json"), *read("encrypted.json"), *HYBRID]


def label(text: str) -> bytes:
    return b"tacit v2 " + text.encode()


def u64(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def derive(secret: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, None, info).derive(secret)


def signed(seed: str, purpose: str, content: bytes) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
    return key.sign(bytes([len(label(purpose))]) + label(purpose) + content)


def short_hash(purpose: str, context: bytes, rows: list[bytes]) -> bytes:
    every = (label(purpose) + context + struct.pack("<I", k) + row for k, row in enumerate(rows))
    return b"".join(hashlib.sha256(one).digest()[:16] for one in every)


def times(a: int, b: int) -> int:
    out = 0
    for _ in range(8):
        out ^= a * (b & 1)
        a = (a << 1) ^ (0x11B * (a >> 7))
        b >>= 1
    return out


def evaluate(rows: list[bytes], rand: bytes, threshold: int, point: int) -> list[bytes]:
    """The share at `point` of each row; `rand` holds the coefficients, highest power first."""
    flat = b"".join(rows)
    powers = [rand[k * len(flat) : (k + 1) * len(flat)] for k in range(threshold - 1)]
    out = bytearray()
    for k, secret in enumerate(flat):
        value = 0
        for power in powers:
            value = times(value ^ power[k], point)
        out.append(value ^ secret)
    return [bytes(out[k : k + 32]) for k in range(0, len(out), 32)]


def interpolate(points: list[int], shares: list[bytes]) -> bytes:
    out = bytearray(32)
    for i, share in zip(points, shares, strict=True):
        weight = 1
        for j in points:
            if j != i:
                inverse = next(k for k in range(1, 256) if times(k, i ^ j) == 1)
                weight = times(weight, times(j, inverse))
        for k, byte in enumerate(share):
            out[k] ^= times(byte, weight)
    return bytes(out)


class Told:
    """What a session's bytes say."""

    def __init__(self, vector: Vector) -> None:
        data = bytes.fromhex(vector["session"])
        head = struct.unpack_from("<BQIBBQIBBddd", data)
        self.version, self.run, self.round, self.purpose, private, self.length = head[:6]
        self.clients, self.metrics, self.bits, self.bound, self.metric_bound, self.most = head[6:]
        assert private == 0
        at = struct.calcsize("<BQIBBQIBBddd")
        (count,) = struct.unpack_from("<I", data, at)
        self.devices, at = self.listed(data, at + 4, count)
        (count,) = struct.unpack_from("<I", data, at)
        self.witnesses, at = self.listed(data, at + 4, count)
        self.keys = {**self.devices, **self.witnesses}
        self.degree, members = struct.unpack_from("<II", data, at)
        self.committee = list(struct.unpack_from(f"<{members}Q", data, at + 8))
        at += 8 + 8 * members
        self.seats, self.threshold, self.least = struct.unpack_from("<III", data, at)
        hybrid, name = struct.unpack_from("<BI", data, at + 12)
        lattice = data[at + 17 : at + 17 + name].decode()
        at += 17 + name
        assert struct.unpack_from("<II", data, at) == (0, 0)  # he, epoch
        at += 8 + 96
        (count,) = struct.unpack_from("<I", data, at)
        ends = struct.unpack_from(f"<{2 * count}Q", data, at + 4)
        self.ranges = list(zip(ends[::2], ends[1::2], strict=True))
        at += 4 + 16 * count
        if count:
            self.norm, self.sigma = struct.unpack_from("<dd", data, at)
            at += 16
        assert len(data) == at
        self.shown = sum(ends[1::2]) - sum(ends[::2])
        self.levels = max(1024, 1 + isqrt(4 * self.shown))
        self.id = hashlib.sha256(label("session") + data).digest()
        self.secrets = {d["device"]: bytes.fromhex(d["run secret"]) for d in vector["devices"]}
        self.seeds = {d["device"]: d["identity secret"] for d in vector["devices"]}
        self.word = 4 if self.bits <= 32 else 8
        self.scheme = Scheme.named(lattice, self.bits) if lattice else None
        self.public = derive(self.id, label("lattice public"))
        self.kem = {k["device"]: bytes.fromhex(k["seed"]) for k in vector.get("kem", [])}
        self.secret = {(c["dealer"], c["device"]): c["secret"] for c in vector.get("capsules", [])}
        assert hybrid == bool(self.kem)

    @staticmethod
    def listed(data: bytes, at: int, count: int) -> tuple[dict[int, bytes], int]:
        rows = [data[at + 136 * k : at + 136 * (k + 1)] for k in range(count)]
        return {struct.unpack("<Q", row[:8])[0]: row[8:40] for row in rows}, at + 136 * count

    def neighbours(self, me: int) -> list[int]:
        others = [device for device in self.devices if device != me]
        if self.scheme:
            return []
        if self.degree >= len(others):
            return others
        most = (self.degree << 64) // len(others)

        def coin(other: int) -> int:
            ids = u64(min(me, other), max(me, other))
            tossed = derive(self.agreed(me, other), label("edge") + self.id + ids)
            return int(struct.unpack("<Q", tossed[:8])[0])

        return [other for other in others if coin(other) < most]

    @property
    def shown_bits(self) -> int:
        square = self.levels**2 + self.shown // 4 + 8 * self.levels
        tail = isqrt(ceil((18 * Fraction(self.sigma) * self.levels) ** 2))
        return 1 + (isqrt(square) + tail + 1).bit_length()

    def bits_of(self, chosen: list[int]) -> bytes:
        number = sum(1 << k for k, device in enumerate(self.devices) if device in chosen)
        return number.to_bytes(-(-len(self.devices) // 8), "little")

    def agreed(self, one: int, other: int) -> bytes:
        public = X25519PublicKey.from_public_bytes(self.keys[other])
        secret = X25519PrivateKey.from_private_bytes(self.secrets[one]).exchange(public)
        if not self.kem:
            return secret
        if one == other:
            kem = derive(self.kem[one], label("own kem secret"))
        else:
            kem = bytes.fromhex(self.secret[min(one, other), max(one, other)])
        return derive(secret + kem, label("hybrid secret"))

    def pair(self, one: int, other: int) -> bytes:
        ids = u64(min(one, other), max(one, other))
        return derive(self.agreed(one, other), label("pair mask") + self.id + bytes(32) + ids)

    def mask(self, key: bytes, count: int) -> list[int]:
        data = keystream(key, self.word * count)
        return list(struct.unpack(f"<{count}{'I' if self.word == 4 else 'Q'}", data))

    def context(self, dealer: int, member: int) -> bytes:
        return self.id + u64(dealer, member)


def encoded(told: Told, vector: Vector, report: Vector) -> list[int]:
    share = report["weight"] / told.most
    rounding = keystream(bytes.fromhex(report["rounding rand"]), 2 * len(report["update"]))
    dither = struct.unpack(f"<{len(report['update'])}H", rounding)
    out = [
        (round(x * (vector["scale"] * share) * 65536) + r) >> 16
        for x, r in zip(report["update"], dither, strict=True)
    ]
    slots = report["metrics"] + [0.0] * (told.metrics - len(report["metrics"]))
    limb = vector["limb"]
    digits = [round(x * share * vector["metric scale"]) + (1 << (2 * limb - 1)) for x in slots]
    out += [digit >> limb for digit in digits] + [digit % (1 << limb) for digit in digits]
    out += [round(report["weight"] * vector["weight scale"]), 1]
    return [value % (1 << told.bits) for value in out]


@dataclass
class Hidden:
    """What a device makes of its values, and what it deals: a share of each row at a point."""

    packed: bytes
    peers: list[int]
    dealt: Callable[[int], list[bytes]]
    committed: list[bytes]


def masked(told: Told, me: int, rand: bytes, values: list[int]) -> Hidden:
    own = derive(rand[:32], label("self mask") + told.id)
    peers = told.neighbours(me)
    pairs = [told.pair(me, peer) for peer in peers]
    masks = [(1, own)] + [(1 if p > me else -1, key) for p, key in zip(peers, pairs, strict=True)]
    for sign, key in masks:
        stream = told.mask(key, len(values))
        values = [(v + sign * s) % (1 << told.bits) for v, s in zip(values, stream, strict=True)]
    rows = [own, *pairs]
    coefficients = keystream(
        derive(rand[32:], label("share coefficients") + told.id),
        (told.threshold - 1) * 32 * len(rows),
    )
    return Hidden(
        packed(told.bits, values),
        peers,
        lambda point: evaluate(rows, coefficients, told.threshold, point),
        rows,
    )


def encrypted(told: Told, scheme: Scheme, rand: bytes, values: list[int]) -> Hidden:
    ours = {
        name: derive(rand[:32], label(f"lattice {name}") + told.id) for name in ("key", "errors")
    }
    (key,) = noise(ours["key"], [scheme.degree])
    words = encrypt(scheme, told.public, key, ours["errors"], values)
    theirs = derive(rand[32:], label("share coefficients") + told.id)

    def dealt(point: int) -> list[bytes]:
        return [struct.pack(f"<{len(key)}H", *share_at(key, theirs, told.threshold, point))]

    return Hidden(scheme.packed(words), [], dealt, [])


def hide(told: Told, report: Vector) -> Hidden:
    me, rand, values = report["device"], bytes.fromhex(report["rand"]), report["encoded"]
    if told.scheme:
        return encrypted(told, told.scheme, rand, values)
    return masked(told, me, rand, values)


def sent(told: Told, vector: Vector, report: Vector) -> bytes:
    """A report, byte by byte."""
    me, hidden = report["device"], hide(told, report)
    assert encoded(told, vector, report) == report["encoded"]
    near = told.bits_of(hidden.peers)
    out = told.id + u64(me) + bytes([len(vector["metrics"])])
    for name in vector["metrics"]:
        out += struct.pack("<I", len(name.encode())) + name.encode()
    out += near
    setup = bytes(32) if told.scheme else b""
    for point, member in enumerate(told.committee, start=1):
        shares = hidden.dealt(point)
        context = told.context(me, member)
        hashes = short_hash("share hash", context, shares)
        key = derive(told.agreed(me, member), label("share key") + context + hashes)
        out += AESGCM(key).encrypt(bytes(12), b"".join(shares), context + near + setup) + hashes
    out += short_hash("secret hash", told.context(me, 0), hidden.committed)
    vector_bytes = hidden.packed
    if told.ranges:
        half = 1 << (told.shown_bits - 1)
        vector_bytes += packed(told.shown_bits, [value + half for value in report["clear"]])
    tag = AESGCM(bytes(32)).encrypt(bytes(12), b"", vector_bytes)
    proof = signed(told.seeds[me], "report", hashlib.sha256(out + tag).digest())
    return vector_bytes + out + proof


def packed(bits: int, values: list[int]) -> bytes:
    """Rows by columns; a column's elements are the digits of one number, row by row its words."""
    width = 4 if bits <= 32 else 8
    rows = 8 * width
    lanes = -(-len(values) // rows)
    padded = values + [0] * (rows * lanes - len(values))
    if bits == rows:
        return b"".join(value.to_bytes(width, "little") for value in values)
    columns = [
        sum(padded[row * lanes + column] << (row * bits) for row in range(rows))
        for column in range(lanes)
    ]
    word = (1 << rows) - 1
    return b"".join(
        (column >> (rows * k) & word).to_bytes(width, "little")
        for k in range(bits)
        for column in columns
    )


def unpacked(told: Told, count: int, data: bytes) -> list[int]:
    """The other way round, from the start of a report."""
    rows = 8 * told.word
    if told.bits == rows:
        raw = data[: told.word * count]
        return [
            int.from_bytes(raw[k : k + told.word], "little") for k in range(0, len(raw), told.word)
        ]
    lanes = -(-count // rows)
    raw = data[: told.bits * lanes * told.word]
    words = [
        int.from_bytes(raw[k : k + told.word], "little") for k in range(0, len(raw), told.word)
    ]
    columns = [
        sum(words[k * lanes + column] << (rows * k) for k in range(told.bits))
        for column in range(lanes)
    ]
    every = [
        columns[column] >> (row * told.bits) & ((1 << told.bits) - 1)
        for row in range(rows)
        for column in range(lanes)
    ]
    return every[:count]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_digests_and_run_keys(vector: Vector) -> None:
    told = Told(vector)
    assert told.id.hex() == vector["session id"]
    name = label("roster")
    roster = bytes.fromhex(vector["roster"])
    if told.seats:
        beacon, enrolled = roster[-96:-64], [device["device"] for device in vector["devices"]]
        tickets = {d: hashlib.sha256(label("committee seat") + beacon + u64(d)) for d in enrolled}
        drawn = sorted(enrolled, key=lambda d: tickets[d].digest())[: told.seats]
        assert told.committee == sorted(drawn)
    digest = hashlib.sha256(bytes([len(name)]) + name + roster).hexdigest()
    assert digest == vector["roster digest"]
    keys = b""
    for device in vector["devices"]:
        number, secret = device["device"], told.secrets[device["device"]]
        public = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        kem = next((k["public"] for k in vector.get("kem", []) if k["device"] == number), "")
        named = hashlib.sha256(label("kem key") + bytes.fromhex(kem)).digest() if kem else bytes(32)
        keys_of = public + named
        proof = signed(told.seeds[number], "run key", u64(told.run, number) + keys_of)
        assert device["run key"] == (u64(number) + keys_of + proof).hex()
        keys += bytes.fromhex(device["run key"]) if number in told.keys else b""
    cohort = hashlib.sha256(label("cohort") + u64(told.run) + bytes.fromhex(digest) + keys)
    assert cohort.hexdigest() == vector["cohort digest"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_reports(vector: Vector) -> None:
    told = Told(vector)
    for report in vector["reports"]:
        assert sent(told, vector, report).hex() == report["bytes"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_attestations_and_opening(vector: Vector) -> None:
    told, survivors = Told(vector), vector["survivors"]
    digest = hashlib.sha256(label("survivors") + told.id + u64(*survivors)).digest()
    proofs = {}
    for step in vector["attest"]:
        member = step["member"]
        proofs[member] = signed(told.seeds[member], "survivors", digest)
        assert step["attestation"] == (u64(member) + bytes(4) + proofs[member]).hex()
    asked = b"".join(u64(m) + proofs[m] for m in sorted(proofs)[: told.threshold])
    head = told.id + struct.pack("<I", told.threshold)
    assert vector["reveal request"] == (head + asked).hex()

    total = decrypted(told, vector) if told.scheme else unmasked(told, vector)
    assert total == vector["total"]
    shown = zip(*(report["clear"] for report in vector["reports"]), strict=True)
    assert vector["clear total"] == [sum(column) for column in shown]
    columns = zip(*(report["encoded"] for report in vector["reports"]), strict=True)
    assert total == [sum(column) % (1 << told.bits) for column in columns]
    assert total[-1] == len(survivors)


def unmasked(told: Told, vector: Vector) -> list[int]:
    """The sum of the reports, with the masks off whose keys are opened."""
    survivors = vector["survivors"]
    dropped = [device for device in told.devices if device not in survivors]
    opened = {s["member"]: bytes.fromhex(s["bytes"])[8:] for s in vector["shares"]}
    chosen = sorted(opened)[: told.threshold]
    points = [1 + told.committee.index(member) for member in chosen]
    total = [0] * len(vector["total"])
    for report in vector["reports"]:
        masked = unpacked(told, len(total), bytes.fromhex(report["bytes"]))
        total = [a + b for a, b in zip(total, masked, strict=True)]
    at = 0
    for dealer in survivors:
        for other in [0, *(device for device in told.neighbours(dealer) if device in dropped)]:
            key = interpolate(points, [opened[m][at : at + 32] for m in chosen])
            at += 32
            if other:
                assert key == told.pair(dealer, other)
            sign = 1 if other and other < dealer else -1
            stream = told.mask(key, len(total))
            total = [t + sign * s for t, s in zip(total, stream, strict=True)]
    assert {len(shares) for shares in opened.values()} == {at}
    return [value % (1 << told.bits) for value in total]


def decrypted(told: Told, vector: Vector) -> list[int]:
    """The sum of the ciphertexts, with that of the keys, from every threshold of members."""
    scheme, size = told.scheme, len(vector["total"])
    assert scheme
    hidden = [hide(told, report) for report in vector["reports"]]
    opened = {}
    for shares in vector["shares"]:
        data, point = bytes.fromhex(shares["bytes"]), 1 + told.committee.index(shares["member"])
        dealt = (struct.unpack(f"<{scheme.degree}H", one.dealt(point)[0]) for one in hidden)
        opened[point] = [sum(column) % FIELD for column in zip(*dealt, strict=True)]
        assert data == u64(shares["member"]) + struct.pack(f"<{scheme.degree}H", *opened[point])
    summed = [
        sum(column) % (1 << scheme.word)
        for column in zip(*(scheme.unpacked(one.packed) for one in hidden), strict=True)
    ]
    chosen = list(combinations(opened, told.threshold))
    keys = [combine(points, [opened[point] for point in points]) for points in chosen]
    assert all(key == keys[0] for key in keys)
    return decrypt(scheme, told.public, keys[0], summed, size)


@pytest.mark.parametrize("vector", read("ciphertexts.json"), ids=lambda vector: vector["set"])
def test_ciphertexts_of_more_than_a_block(vector: Vector) -> None:
    scheme = Scheme.named(vector["set"], vector["bits"])
    assert [scheme.degree, scheme.word, scheme.fields] == [
        vector[name] for name in ("degree", "word", "fields")
    ]
    assert vector["width"] == WIDTH
    assert vector["length"] > scheme.fields * scheme.degree
    step = 0x9E3779B97F4A7C15
    values = [
        (at * step % (1 << 64) >> 16) % (1 << scheme.bits) for at in range(1, vector["length"] + 1)
    ]
    seeds = [bytes.fromhex(vector[f"{name} seed"]) for name in ("public", "key", "error")]
    (key,) = noise(seeds[1], [scheme.degree])
    octets = struct.pack(f"<{scheme.degree}b", *key)
    assert hashlib.sha256(octets).hexdigest() == vector["key"]
    words = encrypt(scheme, seeds[0], key, seeds[2], values)
    assert [words[at] for at in (0, 1, -2, -1)] == vector["ends"]
    assert hashlib.sha256(scheme.packed(words)).hexdigest() == vector["ciphertext"]
    assert decrypt(scheme, seeds[0], key, words, len(values)) == values


@pytest.mark.parametrize("vector", HYBRID, ids=lambda vector: vector["name"])
def test_capsules(vector: Vector) -> None:
    """Who seals a secret for whom, in which bytes; and that the library finds it in them."""
    told = Told(vector)
    run_keys = {d["device"]: bytes.fromhex(d["run key"]) for d in vector["devices"]}
    public = {k["device"]: bytes.fromhex(k["public"]) for k in vector["kem"]}
    capsules = {}
    for step in vector["encapsulate"]:
        dealer, answer = step["dealer"], bytes.fromhex(step["answer"])
        peers = [device for device in told.devices if device > dealer]
        asked = b"".join(run_keys[peer] + public[peer] for peer in peers)
        assert step["request"] == (struct.pack("<I", len(peers)) + asked).hex()
        rows = [answer[4 + 1160 * k : 4 + 1160 * (k + 1)] for k in range(len(peers))]
        assert answer == struct.pack("<I", len(peers)) + b"".join(rows)
        for peer, row in zip(peers, rows, strict=True):
            cipher = row[8:1096]
            named = run_keys[dealer][40:72] + run_keys[peer][40:72]
            body = u64(told.run, dealer, peer) + named + cipher
            assert row == u64(peer) + cipher + signed(told.seeds[dealer], "capsule", body)
            capsules[dealer, peer] = row[8:]
    for sealed in vector["capsules"]:
        key = MLKEM768PrivateKey.from_seed_bytes(told.kem[sealed["device"]])
        assert key.public_key().public_bytes_raw() == public[sealed["device"]]
        capsule = capsules[sealed["dealer"], sealed["device"]]
        assert key.decapsulate(capsule[:1088]).hex() == sealed["secret"]
        found = encapsulate(public[sealed["device"]], bytes.fromhex(sealed["message"]))
        assert found == (bytes.fromhex(sealed["secret"]), capsule[:1088])
    for step in vector["decapsulate"]:
        device = step["device"]
        dealers = [dealer for dealer in told.devices if dealer < device]
        rows = [run_keys[dealer] + capsules[dealer, device] for dealer in dealers]
        assert step["request"] == (struct.pack("<I", len(rows)) + b"".join(rows)).hex()
