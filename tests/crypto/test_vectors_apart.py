"""A second implementation, from tests/vectors/README.md alone: no line of tacit is used here.

Slow and plain, in Python integers. If this and the package ever differ, one of them or the page
that describes both is wrong.
"""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Vector = dict[str, Any]
FILE = Path(__file__).parent.parent / "vectors" / "sessions.json"
VECTORS: list[Vector] = json.loads(FILE.read_text("utf-8"))


def label(text: str) -> bytes:
    return b"tacit v1 " + text.encode()


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
        head = struct.unpack_from("<BQIBQIBBddd", data)
        self.version, self.run, self.round, self.purpose, self.length = head[:5]
        self.clients, self.metrics, self.bits, self.bound, self.metric_bound, self.most = head[5:]
        at = struct.calcsize("<BQIBQIBBddd")
        (count,) = struct.unpack_from("<I", data, at)
        rows = [data[at + 4 + 104 * k : at + 108 + 104 * k] for k in range(count)]
        self.keys = {struct.unpack("<Q", row[:8])[0]: row[8:40] for row in rows}
        at += 4 + 104 * count
        (members,) = struct.unpack_from("<I", data, at)
        self.committee = list(struct.unpack_from(f"<{members}Q", data, at + 4))
        at += 4 + 8 * members
        self.threshold, self.least = struct.unpack_from("<II", data, at)
        assert len(data) == at + 8 + 96
        self.id = hashlib.sha256(label("session") + data).digest()
        self.secrets = {d["device"]: bytes.fromhex(d["run secret"]) for d in vector["devices"]}
        self.seeds = {d["device"]: d["identity secret"] for d in vector["devices"]}
        self.word = 4 if self.bits <= 32 else 8

    def agreed(self, one: int, other: int) -> bytes:
        public = X25519PublicKey.from_public_bytes(self.keys[other])
        return X25519PrivateKey.from_private_bytes(self.secrets[one]).exchange(public)

    def pair(self, one: int, other: int) -> bytes:
        ids = u64(min(one, other), max(one, other))
        return derive(self.agreed(one, other), label("pair mask") + self.id + bytes(32) + ids)

    def mask(self, key: bytes, count: int) -> list[int]:
        stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
        data = stream.update(bytes(self.word * count))
        return list(struct.unpack(f"<{count}{'I' if self.word == 4 else 'Q'}", data))

    def context(self, dealer: int, member: int) -> bytes:
        return self.id + u64(dealer, member)


def encoded(told: Told, vector: Vector, report: Vector) -> list[int]:
    share = report["weight"] / told.most
    out = [round(x * (vector["scale"] * share)) for x in report["update"]]
    slots = report["metrics"] + [0.0] * (told.metrics - len(report["metrics"]))
    limb = vector["limb"]
    digits = [round(x * share * vector["metric scale"]) + (1 << (2 * limb - 1)) for x in slots]
    out += [digit >> limb for digit in digits] + [digit % (1 << limb) for digit in digits]
    out += [round(report["weight"] * vector["weight scale"]), 1]
    return [value % (1 << told.bits) for value in out]


def sent(told: Told, vector: Vector, report: Vector) -> bytes:
    """A report, byte by byte."""
    me, rand = report["device"], bytes.fromhex(report["rand"])
    values = encoded(told, vector, report)
    assert values == report["encoded"]
    own = derive(rand[:32], label("self mask") + told.id)
    peers = [device for device in told.keys if device != me]
    pairs = [told.pair(me, peer) for peer in peers]
    masks = [(1, own)] + [(1 if p > me else -1, key) for p, key in zip(peers, pairs, strict=True)]
    for sign, key in masks:
        stream = told.mask(key, len(values))
        values = [(v + sign * s) % (1 << told.bits) for v, s in zip(values, stream, strict=True)]
    rows = [own, *pairs]
    out = told.id + u64(me) + bytes([len(vector["metrics"])])
    for name in vector["metrics"]:
        out += struct.pack("<I", len(name.encode())) + name.encode()
    for point, member in enumerate(told.committee, start=1):
        shares = evaluate(rows, rand[32:], told.threshold, point)
        context = told.context(me, member)
        hashes = short_hash("share hash", context, shares)
        key = derive(told.agreed(me, member), label("share key") + context + hashes)
        out += AESGCM(key).encrypt(bytes(12), b"".join(shares), context) + hashes
    out += short_hash("secret hash", told.context(me, 0), rows)
    number = sum(value << (k * told.bits) for k, value in enumerate(values))
    out += number.to_bytes(-(-len(values) * told.bits // 8), "little")
    return out + signed(told.seeds[me], "report", hashlib.sha256(out).digest())


def unpacked(told: Told, vector: Vector, report: Vector) -> list[int]:
    count = len(report["encoded"])
    size = -(-count * told.bits // 8)
    number = int.from_bytes(bytes.fromhex(report["bytes"])[-64 - size : -64], "little")
    return [number >> (k * told.bits) & ((1 << told.bits) - 1) for k in range(count)]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_digests_and_run_keys(vector: Vector) -> None:
    told = Told(vector)
    assert told.id.hex() == vector["session id"]
    name = label("roster")
    roster = bytes.fromhex(vector["roster"])
    digest = hashlib.sha256(bytes([len(name)]) + name + roster).hexdigest()
    assert digest == vector["roster digest"]
    keys = b""
    for device in vector["devices"]:
        number, secret = device["device"], told.secrets[device["device"]]
        public = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        proof = signed(told.seeds[number], "run key", u64(told.run, number) + public)
        assert device["run key"] == (u64(number) + public + proof).hex()
        keys += bytes.fromhex(device["run key"])
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

    dropped = [device for device in told.keys if device not in survivors]
    opened = {s["member"]: bytes.fromhex(s["bytes"])[8:] for s in vector["shares"]}
    chosen = sorted(opened)[: told.threshold]
    points = [1 + told.committee.index(member) for member in chosen]
    total = [0] * len(vector["total"])
    for report in vector["reports"]:
        total = [a + b for a, b in zip(total, unpacked(told, vector, report), strict=True)]
    width = 1 + len(dropped)
    for row, dealer in enumerate(survivors):
        for column in range(width):
            at = 32 * (row * width + column)
            key = interpolate(points, [opened[m][at : at + 32] for m in chosen])
            other = dropped[column - 1] if column else 0
            if other:
                assert key == told.pair(dealer, other)
            sign = 1 if other and other < dealer else -1
            stream = told.mask(key, len(total))
            total = [t + sign * s for t, s in zip(total, stream, strict=True)]
    total = [value % (1 << told.bits) for value in total]
    assert total == vector["total"]
    columns = zip(*(report["encoded"] for report in vector["reports"]), strict=True)
    assert total == [sum(column) % (1 << told.bits) for column in columns]
    assert total[-1] == len(survivors)
