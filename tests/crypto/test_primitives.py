"""Every primitive against the standards' own vectors, called the way Tacit calls it.

The vectors, where they are from and what was kept of them: tests/vectors/primitives/README.md.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.crypto import identity, labels
from tacit.crypto.errors import ProtocolError
from tacit.crypto.identity import NO_KEM, Identity, RunKey, agree, derive, run_public, verified
from tacit.crypto.prg import CHUNK_BYTES, add_masks

HERE = Path(__file__).resolve().parent.parent / "vectors" / "primitives"

# Group by group, how many cases of each result a file holds: none can be lost unseen.
COUNTS = {
    "aes_256_ctr": [{"valid": 1}, {"valid": 3}],
    "aes_256_gcm": [{"valid": 4}, {"valid": 25, "invalid": 25}, {"valid": 39, "invalid": 27}],
    "ed25519": [{"valid": 4}, {"valid": 1}, {"valid": 88, "invalid": 63}],
    "hkdf_sha256": [{"valid": 3}, {"valid": 83, "invalid": 3}],
    "ml_kem_768": [{"valid": 2}, {"valid": 13, "invalid": 4}, {"invalid": 8}],
    "sha_256": [{"valid": 65}, {"valid": 5}],
    "x25519": [{"valid": 2}, {"valid": 1}, {"valid": 2}, {"valid": 264, "acceptable": 254}],
}
# What is a number, or a word, and not bytes.
PLAIN = {"id", "comment", "flags", "result", "size"}

Case = dict[str, Any]


def groups(name: str) -> list[list[Case]]:
    """The groups of a file, hex decoded; `where` names a case when a test fails."""
    read: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text("utf-8"))
    return [
        [
            {
                "where": f"{name}, {group['source']['title']}, {case['id']}",
                **{k: v if k in PLAIN else bytes.fromhex(v) for k, v in case.items()},
            }
            for case in group["cases"]
        ]
        for group in read["groups"]
    ]


def every(name: str) -> list[Case]:
    return [case for group in groups(name) for case in group]


def test_no_case_is_missing() -> None:
    found = {
        path.stem: [dict(Counter(case["result"] for case in group)) for group in groups(path.stem)]
        for path in HERE.glob("*.json")
    }
    assert found == COUNTS


@pytest.mark.parametrize("name", COUNTS)
def test_a_file_says_where_its_cases_are_from(name: str) -> None:
    read = json.loads((HERE / f"{name}.json").read_text("utf-8"))
    for source in (group["source"] for group in read["groups"]):
        assert {"title", "licence", "kept"} <= source.keys()
        if "url" not in source:
            assert {"repository", "file"} <= source.keys()
            assert source.keys() & {"commit", "release"}


def test_hkdf_sha256() -> None:
    """The library's HKDF on every case; `derive` on those without a salt, as ours is.

    An empty salt and a block of zeros are one key to HMAC. Output of another length than our 32
    bytes agrees as far as both go, and how `info` is split in label and context is no matter.
    """
    ours = 0
    for case in every("hkdf_sha256"):
        salt, info, size = case["salt"], case["info"], case["size"]
        if case["result"] == "invalid":
            with pytest.raises(ValueError, match="larger than"):
                HKDF(SHA256(), size, salt=salt, info=info)
            continue
        okm = HKDF(SHA256(), size, salt=salt, info=info).derive(case["ikm"])
        assert okm == case["okm"], case["where"]
        assert len(okm) == size
        if len(salt) <= 64 and not any(salt):
            assert derive(case["ikm"], info)[:size] == case["okm"][:32], case["where"]
            half = len(info) // 2
            split = derive(case["ikm"], info[:half], b"", info[half:])
            assert split[:size] == case["okm"][:32], case["where"]
            ours += 1
    assert ours == 25


def shared(secret: bytes, public: bytes) -> bytes:
    return agree(secret, [RunKey(7, public, NO_KEM, b"")])[7]


def test_x25519_rfc_7748() -> None:
    vectors, [iterated], exchange, _ = groups("x25519")
    for case in vectors + exchange:
        assert shared(case["secret"], case["public"]) == case["shared"], case["where"]
    for case in exchange:
        assert run_public(case["secret"]) == case["own public"], case["where"]
    scalar, point = iterated["secret"], iterated["public"]
    after = {}
    for step in range(1, 1001):
        scalar, point = shared(scalar, point), scalar
        after[step] = scalar
    assert after[1] == iterated["after 1"]
    assert after[1000] == iterated["after 1000"]


def test_x25519_wycheproof() -> None:
    """Refused are the points that make the secret zero, and no others.

    RFC 7748 leaves it open what to do with a key that is not canonical or on the twist. Both ends
    of a pair must do the same with it, or their masks do not cancel, so we hold it to one answer:
    the one the RFC defines.
    """
    refused = 0
    for case in groups("x25519")[-1]:
        if "ZeroSharedSecret" in case["flags"]:
            assert case["shared"] == bytes(32), case["where"]
            assert "LowOrderPublic" in case["flags"], case["where"]
            with pytest.raises(ProtocolError, match="device 7: run key is a low-order point"):
                shared(case["secret"], case["public"])
            refused += 1
        else:
            assert shared(case["secret"], case["public"]) == case["shared"], case["where"]
    assert refused == 31


def verifies(public: bytes, message: bytes, signature: bytes) -> bool:
    """Ed25519 itself, without our label before the message."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def test_ed25519() -> None:
    """No vector has our label before its message, so most can only meet the library's class.

    What a signature of ours is over is in `test_a_signature_is_ed25519_over_label_and_content`.
    """
    for case in every("ed25519"):
        accepted = verifies(case["public"], case["message"], case["signature"])
        assert accepted == (case["result"] == "valid"), case["where"]
        if "secret" in case:
            key = Ed25519PrivateKey.from_private_bytes(case["secret"])
            assert key.sign(case["message"]) == case["signature"], case["where"]
            assert Identity(case["secret"]).public == case["public"], case["where"]


def test_ed25519_refusals_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same cases through `verified`, its label left out: no error escapes, and S >= L, a
    signature cut short or one with bytes to spare is False."""
    monkeypatch.setattr(identity, "_labelled", lambda label, content: content)
    refused: Counter[str] = Counter()
    for case in every("ed25519"):
        accepted = verified(case["public"], b"", case["message"], case["signature"])
        assert accepted is (case["result"] == "valid"), case["where"]
        if not accepted:
            refused.update(case["flags"])
    assert refused == {
        "CompressedSignature": 4,
        "InvalidEncoding": 22,
        "InvalidKtv": 1,
        "InvalidSignature": 20,
        "SignatureMalleability": 8,
        "SignatureWithGarbage": 5,
        "TruncatedSignature": 3,
    }


def test_a_signature_is_ed25519_over_label_and_content() -> None:
    """u8 length, label, content. Some vectors' messages happen to read so, RFC 8032's TEST 1024
    among them: they go through `sign` and `verified` as they are."""
    for label in (value for name, value in vars(labels).items() if name.isupper()):
        ours = Identity(bytes(range(32)))
        framed = bytes([len(label)]) + label + b"content"
        signature = Ed25519PrivateKey.from_private_bytes(ours.secret).sign(framed)
        assert ours.sign(label, b"content") == signature
        assert verified(ours.public, label, b"content", signature)
        bare = Ed25519PrivateKey.from_private_bytes(ours.secret).sign(b"content")
        assert not verified(ours.public, label, b"content", bare)
    read = []
    for case in every("ed25519"):
        if not case["message"] or case["message"][0] >= len(case["message"]):
            continue
        cut = 1 + case["message"][0]
        label, content = case["message"][1:cut], case["message"][cut:]
        accepted = verified(case["public"], label, content, case["signature"])
        assert accepted is (case["result"] == "valid"), case["where"]
        if "secret" in case:
            assert Identity(case["secret"]).sign(label, content) == case["signature"]
        read.append(case["id"])
    assert "TEST 1024" in read
    assert len(read) == 15


def test_aes_256_gcm() -> None:
    for case in every("aes_256_gcm"):
        aead, sealed = AESGCM(case["key"]), case["cipher"] + case["tag"]
        assert (len(case["key"]), len(case["nonce"]), len(case["tag"])) == (32, 12, 16)
        if case["result"] == "valid":
            assert aead.encrypt(case["nonce"], case["plain"], case["aad"]) == sealed, case["where"]
            assert aead.decrypt(case["nonce"], sealed, case["aad"]) == case["plain"], case["where"]
        else:
            with pytest.raises(InvalidTag):
                aead.decrypt(case["nonce"], sealed, case["aad"])


def test_aes_256_ctr() -> None:
    for case in every("aes_256_ctr"):
        cipher = Cipher(algorithms.AES256(case["key"]), modes.CTR(case["counter"]))
        assert cipher.encryptor().update(case["plain"]) == case["cipher"], case["where"]
        assert cipher.decryptor().update(case["cipher"]) == case["plain"], case["where"]


def mask(key: bytes, count: int, dtype: type) -> bytes:
    vector: np.ndarray = np.zeros(count, dtype)
    add_masks(vector, [key], [])
    return vector.astype(vector.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_a_mask_is_the_key_stream_of_gcm(dtype: type) -> None:
    """What AES-256-GCM under the zero nonce adds to a message: AES-256-CTR from counter block 2,
    for block 0 is the hash's key and block 1 masks the tag."""
    count = 2 * CHUNK_BYTES // np.dtype(dtype).itemsize + 5
    zeros = bytes(count * np.dtype(dtype).itemsize)
    for key in (bytes(32), bytes(range(32)), b"\xff" * 32):
        gcm = Cipher(algorithms.AES256(key), modes.GCM(bytes(12))).encryptor().update(zeros)
        ctr = Cipher(algorithms.AES256(key), modes.CTR(bytes(15) + b"\x02")).encryptor()
        assert gcm == ctr.update(zeros)
        assert mask(key, count, dtype) == gcm


def test_a_mask_is_known_from_the_vectors() -> None:
    """A GCM case with a zero nonce gives away the first bytes of its key's mask."""
    known = 0
    for case in every("aes_256_gcm"):
        if case["result"] == "valid" and not any(case["nonce"]) and len(case["plain"]) % 4 == 0:
            stream = np.frombuffer(case["plain"], "<u4") ^ np.frombuffer(case["cipher"], "<u4")
            assert mask(case["key"], stream.size, np.uint32) == stream.tobytes(), case["where"]
            known += stream.nbytes
    assert known == 2 * 16


# FIPS 203, algorithm 18: a cipher text that no encapsulation made opens to J(z | c), not an error.
REJECTED = {
    "Bit flipped ciphertext",
    "Random ciphertext",
    "Strcmp",
    "ciphertext secret and error zero",
}


def test_ml_kem_768() -> None:
    try:
        MLKEM768PrivateKey.generate()
    except UnsupportedAlgorithm:
        pytest.skip("the library under `cryptography` has no ML-KEM")
    known, wycheproof, bad_keys = groups("ml_kem_768")
    rejected = 0
    for case in known + wycheproof:
        if case["result"] == "invalid":
            with pytest.raises(ValueError, match=r"ML-KEM-768 (seed|ciphertext)"):
                MLKEM768PrivateKey.from_seed_bytes(case["seed"]).decapsulate(case["cipher"])
            continue
        key = MLKEM768PrivateKey.from_seed_bytes(case["seed"])
        assert key.public_key().public_bytes_raw() == case["public"], case["where"]
        assert key.decapsulate(case["cipher"]) == case["shared"], case["where"]
        flags = {case.get("comment"), *case.get("flags", [])}
        implicit = hashlib.shake_256(case["seed"][32:] + case["cipher"]).digest(32)
        assert (case["shared"] == implicit) == bool(flags & REJECTED), case["where"]
        rejected += case["shared"] == implicit
        if "rejected cipher" in case:
            assert key.decapsulate(case["rejected cipher"]) == case["rejected shared"]
            rejected += 1
    assert rejected == 8
    for case in bad_keys:  # of the right length, but for two
        with pytest.raises(ValueError, match="ML-KEM-768 public key"):
            MLKEM768PublicKey.from_public_bytes(case["public"])


def test_sha_256() -> None:
    for case in every("sha_256"):
        assert hashlib.sha256(case["message"]).digest() == case["digest"], case["where"]
