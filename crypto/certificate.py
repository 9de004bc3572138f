"""What a certificate says: whose it is, and when it is valid. An authority makes them."""

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.nodekey import compressed


def load(certificate: bytes) -> x509.Certificate:
    """A certificate in DER. Raises Damaged for anything else."""
    try:
        return x509.load_der_x509_certificate(certificate)
    except ValueError:
        raise Damaged("a certificate that cannot be read") from None


def check_time(certificate: bytes, now: int, what: str, remedy: str) -> None:
    """Raises ParameterError, with what to do, unless the certificate is valid `now`, in Unix
    seconds. `what` it is, and what would make a new one, go into the error."""
    found = load(certificate)
    begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
    if now < begins.timestamp():
        raise ParameterError(
            f"{what} is valid from {begins:%Y-%m-%d %H:%M} UTC on, and this machine's clock is "
            "before that: set the clock"
        )
    if now > ends.timestamp():
        raise ParameterError(
            f"{what} ended on {ends:%Y-%m-%d %H:%M} UTC: {remedy}, unless this machine's clock is "
            "wrong"
        )


def public_of(certificate: bytes) -> bytes:
    """The certificate's public key, 49 bytes. Raises Damaged for a key that is not on P-384."""
    key = load(certificate).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Damaged("a certificate whose key is not on P-384")
    return compressed(key)


def ends_at(certificate: bytes) -> int:
    """The last second that it is valid, Unix time."""
    return int(load(certificate).not_valid_after_utc.timestamp())


def pem(certificate: bytes) -> bytes:
    """The certificate as Flower's options take it."""
    return load(certificate).public_bytes(Encoding.PEM)
