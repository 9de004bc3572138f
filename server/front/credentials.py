"""Whose request it is: a node signs the time with its key, and the front checks it as Flower will.

Flower checks the same, once it has read and parsed the whole body. Here a stranger gets no further
than his headers. What is signed is the time alone, not the body, so a signature that somebody saw
is as good as the key for as long as the time is taken: here each is taken once. Flower's nodes sign
each request anew, and a retry as well.

A signature is known again by its `r`: of a signature (r, s) anybody makes (r, -s), which holds too.
"""

import binascii
import hashlib
from base64 import b64decode
from collections import OrderedDict
from datetime import datetime

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from tacit.crypto.nodekey import compressed
from tacit.server.front.asked import KEY, SIGNATURE, TIMESTAMP, Asked
from tacit.server.front.nodes import Nodes
from tacit.server.front.refusal import (
    BAD_SIGNATURE,
    BUSY,
    CLOCK,
    EARLY,
    REPLAYED,
    REVOKED,
    UNKNOWN,
    UNSIGNED,
    Refusal,
)

OLDEST, NEWEST = 305, 5  # seconds: Flower's TIMESTAMP_TOLERANCE and SYSTEM_TIME_TOLERANCE
MOST = 1 << 14  # requests of one node in that time
_PEM = 512  # bytes at most, of a key on P-384


class Credentials:
    """Who may come in. What was signed up to `unknown`, Unix time, may have been used before."""

    def __init__(self, nodes: Nodes, unknown: float) -> None:
        self._nodes, self._unknown = nodes, unknown
        self._used: dict[bytes, OrderedDict[bytes, float]] = {}  # by key: r, and when it is over

    def check(self, asked: Asked, now: float) -> str:
        """The name of the node that signed the request. Raises Refusal."""
        key, public = _key(asked.header(KEY))
        who = f"key {hashlib.sha256(public).hexdigest()[:16]}"
        r, signed = _signed(key, asked, who)
        if (name := self._nodes.retired(public)) is not None:
            raise Refusal(
                REVOKED, 401, who=name,
                words="this node's key was revoked: ask the federation's authority",
            )  # fmt: skip
        if (name := self._nodes.registered(public)) is None:
            raise Refusal(
                UNKNOWN, 401, who=who,
                words="the server does not know this node's key: its operator has to bring it the "
                "authority's newest answer (tacit server join)",
            )  # fmt: skip
        self._check_time(signed, now, name)
        self._use(public, r, signed, now, name)
        return name

    def _check_time(self, signed: float, now: float, name: str) -> None:
        if not -NEWEST < now - signed < OLDEST:
            ahead = signed - now
            words = f"this node's clock is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}"
            raise Refusal(CLOCK, 401, who=name, words=f"{words}: set the clock")
        if signed <= self._unknown:  # a node that tries again signs anew
            raise Refusal(EARLY, 503, who=name)

    def _use(self, public: bytes, r: bytes, signed: float, now: float, name: str) -> None:
        used = self._used.setdefault(public, OrderedDict())
        while used and next(iter(used.values())) < now:
            used.popitem(last=False)
        if r in used:
            raise Refusal(REPLAYED, 401, who=name)
        if len(used) >= MOST:
            raise Refusal(BUSY, 503, who=name)
        # Until after it is too old: they go in the order they came, none before its time is over.
        used[r] = now + OLDEST + NEWEST


def _key(header: bytes) -> tuple[ec.EllipticCurvePublicKey, bytes]:
    """The key, and its 49 bytes. It has to be written as Flower writes it, in one way."""
    if not header:
        raise Refusal(UNSIGNED, 401)
    try:
        text = b64decode(header, validate=True)
        key = load_pem_public_key(text) if len(text) <= _PEM else None
        if isinstance(key, ec.EllipticCurvePublicKey):
            public = compressed(key)
            if text == key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo):
                return key, public
    except (ValueError, binascii.Error, UnsupportedAlgorithm):  # a ParameterError, too
        pass
    raise Refusal(UNSIGNED, 401)


def _signed(key: ec.EllipticCurvePublicKey, asked: Asked, who: str) -> tuple[bytes, float]:
    """16 bytes of the signature's r, and the time that was signed, Unix time."""
    try:
        text, signature = asked.header(TIMESTAMP), b64decode(asked.header(SIGNATURE), validate=True)
        key.verify(signature, text, ec.ECDSA(SHA256()))
        r, _ = decode_dss_signature(signature)
        at = datetime.fromisoformat(text.decode("ascii"))
        if at.tzinfo is None:
            raise ValueError
        return hashlib.sha256(r.to_bytes(48, "big")).digest()[:16], at.timestamp()
    except (InvalidSignature, ValueError, OverflowError):
        raise Refusal(BAD_SIGNATURE, 401, who=who) from None
