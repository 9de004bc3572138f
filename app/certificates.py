"""TLS for a federation: a certificate authority of its own, and certificates of its servers.

Devices trust this authority and no other, so nothing that a public one issues lets anybody in.
Its path length is 0: it certifies servers, and no further authorities. A server's key is made on
the server, and only its public half comes here.

Times are Unix seconds. A certificate begins `SKEW` seconds before it is made, for machines whose
clocks are behind. There are no revocation lists: Flower's nodes would not read them. What ends a
stolen server key before its certificate does is a new CA key (`tacit authority renew --new-ca`).
"""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tacit.crypto.certificate import check_time, load, public_of
from tacit.crypto.enrolment import is_ip
from tacit.crypto.errors import ParameterError
from tacit.crypto.nodekey import NodeKey, public_key

SKEW = 300  # seconds that clocks may differ; as many as Flower allows its nodes
CA_DAYS = 3650
SERVER_DAYS = 397
DAY = 86400
RENEW = "tacit authority renew makes a new one, to be brought to the server"
RENEW_CA = "tacit authority renew --ca makes a new one, and answers for all machines"


def new_ca(key: NodeKey, now: int, days: int = CA_DAYS) -> bytes:
    """A self-signed certificate of the authority, in DER."""
    public = key.key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    name = _name(f"Tacit authority {identifier.digest.hex()[:8]}")  # another key, another name
    usage = _usage(signs_certificates=True)
    builder = _builder(name, name, public, now, now + days * DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(identifier, critical=False)
    return builder.sign(key.key, SHA384()).public_bytes(Encoding.DER)


def certify(
    ca: bytes, key: NodeKey, server: bytes, hosts: tuple[str, ...], now: int, days: int
) -> bytes:
    """A certificate, in DER, for the server whose public key is `server`, under all of `hosts`.

    It ends in `days` days, or with the authority's. Raises ParameterError if `key` is not the key
    of the certificate `ca`, or that one has ended: see `check_ca`.
    """
    issuer = check_ca(ca, now)
    if public_of(ca) != key.public:
        raise ParameterError("the CA's key is not that of its certificate")
    ends = min(now + days * DAY, int(issuer.not_valid_after_utc.timestamp()))
    public = public_key(server)
    builder = _builder(_name(hosts[0]), issuer.subject, public, now, ends)
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    of_issuer = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectAlternativeName([_alternative(host) for host in hosts]), False),
        (identifier, False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(of_issuer), False),
    ):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key.key, SHA384()).public_bytes(Encoding.DER)


def check_ca(ca: bytes, now: int) -> x509.Certificate:
    """The certificate. Raises ParameterError, with what to do, unless it is valid `now`."""
    check_time(ca, now, "the CA's certificate", RENEW_CA)
    return load(ca)


def check_server(ca: bytes, certificate: bytes, hosts: tuple[str, ...], now: int) -> None:
    """Raises ParameterError, with what to do, unless devices that trust `ca` would let a server
    with this certificate pass, at each of its `hosts`."""
    issuer, found = check_ca(ca, now), load(certificate)
    check_time(certificate, now, "the server's certificate", RENEW)
    try:
        found.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        raise ParameterError("the server's certificate is not from this CA") from None
    named = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if missing := [host for host in hosts if _alternative(host) not in list(named)]:
        raise ParameterError(f"the server's certificate does not name {', '.join(missing)}")


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: int, ends: int
) -> x509.CertificateBuilder:
    begins = datetime.fromtimestamp(now, UTC) - timedelta(seconds=SKEW)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    builder = builder.public_key(public).serial_number(x509.random_serial_number())
    return builder.not_valid_before(begins).not_valid_after(datetime.fromtimestamp(ends, UTC))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _alternative(host: str) -> x509.GeneralName:
    return x509.IPAddress(ip_address(host)) if is_ip(host) else x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
