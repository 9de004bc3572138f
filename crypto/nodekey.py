"""Keys on the curve P-384: with which a device proves to Flower which node it is, and a server's
TLS.

Flower's SuperNodes sign with such a key, which they read from a file as OpenSSH writes it. One
curve does for both uses: every TLS library knows it, and Flower asks for a curve of NIST's.
Signatures are deterministic (RFC 6979), so none of them needs randomness that could fail.

One exception to randomness being an argument: `cryptography` draws the four bytes by which a file
of OpenSSH's shows that it was decrypted rightly. They hide nothing.
"""

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tacit.crypto.errors import ParameterError

RAND_BYTES = 56  # 64 bits more than the order has: FIPS 186-5, appendix A.2.1
NODE_KEY_BYTES = 49  # a compressed point: SEC 1, section 2.3.3
NODE_SIGNATURE_BYTES = 96
_HALF = NODE_SIGNATURE_BYTES // 2
# Of the group that P-384's base point generates: FIPS 186-4, appendix D.1.2.4.
_ORDER = int(
    "39402006196394479212279040100143613805079739270465446667946905279627"
    "659399113263569398956308152294913554433653942643"
)
_HOW = ec.ECDSA(SHA384(), deterministic_signing=True)


@dataclass(frozen=True, slots=True)
class NodeKey:
    """A private key. Made from 56 random bytes."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != RAND_BYTES:
            raise ParameterError(f"a key on P-384 is made from {RAND_BYTES} random bytes")

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        """As `cryptography` has it."""
        number = int.from_bytes(self.secret, "big") % (_ORDER - 1) + 1
        return ec.derive_private_key(number, ec.SECP384R1())

    @property
    def public(self) -> bytes:
        """49 bytes that others know this key by."""
        return compressed(self.key.public_key())

    def sign(self, content: bytes) -> bytes:
        """96-byte ECDSA signature, with SHA-384. What is signed names its own purpose: a content
        that begins with a label cannot pass for the time that Flower has a node sign."""
        r, s = decode_dss_signature(self.key.sign(content, _HOW))
        return r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")

    def openssh(self) -> bytes:
        """The file that `flower-supernode --auth-supernode-private-key` takes."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())

    def pem(self) -> bytes:
        """The file that a TLS server takes: PKCS #8."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def compressed(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as 49 bytes. Raises ParameterError for one on another curve."""
    if not isinstance(key.curve, ec.SECP384R1):
        raise ParameterError(f"a key on the curve {key.curve.name}: P-384 is used here")
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def public_key(public: bytes) -> ec.EllipticCurvePublicKey:
    """The key of these 49 bytes. Raises ParameterError if they are no point of P-384."""
    try:
        if len(public) != NODE_KEY_BYTES:
            raise ValueError
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), public)
    except ValueError:
        raise ParameterError("a node's key is no point of P-384") from None


def is_signed(public: bytes, content: bytes, signature: bytes) -> bool:
    """Whether the 96-byte `signature` over `content` is by the key `public`."""
    try:
        pair = (int.from_bytes(half, "big") for half in (signature[:_HALF], signature[_HALF:]))
        public_key(public).verify(encode_dss_signature(*pair), content, _HOW)
    except (InvalidSignature, ValueError):  # a ParameterError, too
        return False
    return len(signature) == NODE_SIGNATURE_BYTES


def openssh_line(public: bytes, name: str) -> bytes:
    """The public key as `flwr supernode register` takes it, in a line that ends with `name`."""
    line = public_key(public).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return line + b" " + name.encode() + b"\n"
