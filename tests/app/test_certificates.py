"""TLS as devices and servers do it, between two ends of this process: who is let in and who not."""

import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from tacit.app.certificates import (
    CA_DAYS,
    DAY,
    SERVER_DAYS,
    SKEW,
    certify,
    check_ca,
    check_server,
    new_ca,
)
from tacit.crypto.certificate import ends_at, load, pem, public_of
from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.nodekey import NodeKey

NOW = int(time.time())
CA_KEY, OTHER_KEY, KEY = NodeKey(b"c" * 56), NodeKey(b"o" * 56), NodeKey(b"s" * 56)
HOSTS = ("fl.example.org", "localhost", "127.0.0.1", "::1")
CA = new_ca(CA_KEY, NOW)


def certificate(at: int = NOW, days: int = SERVER_DAYS) -> bytes:
    return certify(CA, CA_KEY, KEY.public, HOSTS, at, days)


def server(folder: Path, found: bytes, key: NodeKey = KEY) -> ssl.SSLContext:
    (folder / "server.crt").write_bytes(pem(found))
    (folder / "server.key").write_bytes(key.pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    return context


def device(*trusted: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python does by default from 3.13 on
    for ca in trusted:
        context.load_verify_locations(cadata=pem(ca).decode())
    return context


def shake(serving: ssl.SSLContext, asking: ssl.SSLContext, host: str) -> str | None:
    """The version of TLS that both ends agree on. Raises SSLError where one refuses."""
    to_server, to_device = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        asking.wrap_bio(to_device, to_server, server_hostname=host),
        serving.wrap_bio(to_server, to_device, server_side=True),
    ]
    waiting = list(ends)
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert not waiting
    return ends[0].version()


@pytest.mark.parametrize("host", HOSTS)
def test_a_device_reaches_its_server_by_every_name(tmp_path: Path, host: str) -> None:
    assert shake(server(tmp_path, certificate()), device(CA), host) == "TLSv1.3"


@pytest.mark.parametrize("host", ["evil.example.org", "127.0.0.2", "www.fl.example.org"])
def test_no_other_name_is_reached(tmp_path: Path, host: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake(server(tmp_path, certificate()), device(CA), host)


def test_another_authority_is_refused(tmp_path: Path) -> None:
    theirs = new_ca(OTHER_KEY, NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        shake(server(tmp_path, certificate()), device(theirs), "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server(tmp_path, certificate()), device(), "localhost")


def test_an_authority_that_only_looks_like_ours_is_refused(tmp_path: Path) -> None:
    """Of the same name, with another key."""
    forged = certify(
        _renamed(new_ca(OTHER_KEY, NOW)), OTHER_KEY, KEY.public, HOSTS, NOW, SERVER_DAYS
    )
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server(tmp_path, forged), device(CA), "localhost")
    with pytest.raises(ParameterError, match="not from this CA"):
        check_server(CA, forged, HOSTS, NOW)


def _renamed(ca: bytes) -> bytes:
    """Signed by the other key, and named as ours is."""
    theirs, ours = load(ca), load(CA)
    builder = x509.CertificateBuilder().subject_name(ours.subject).issuer_name(ours.subject)
    builder = builder.public_key(OTHER_KEY.key.public_key()).serial_number(1)
    builder = builder.not_valid_before(theirs.not_valid_before_utc)
    builder = builder.not_valid_after(theirs.not_valid_after_utc)
    for each in theirs.extensions:
        builder = builder.add_extension(each.value, each.critical)
    return builder.sign(OTHER_KEY.key, SHA384()).public_bytes(Encoding.DER)


def test_a_certificate_that_ended_is_refused(tmp_path: Path) -> None:
    old = certify(new_ca(CA_KEY, NOW - 20 * DAY), CA_KEY, KEY.public, HOSTS, NOW - 20 * DAY, 10)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake(server(tmp_path, old), device(CA), "localhost")
    with pytest.raises(ParameterError, match=r"the server's certificate ended on .*renew"):
        check_server(CA, old, HOSTS, NOW)


def test_a_certificate_from_the_future_is_refused(tmp_path: Path) -> None:
    early = certify(new_ca(CA_KEY, NOW + DAY), CA_KEY, KEY.public, HOSTS, NOW + DAY, 10)
    with pytest.raises(ssl.SSLCertVerificationError, match="not yet valid"):
        shake(server(tmp_path, early), device(CA), "localhost")
    with pytest.raises(ParameterError, match=r"is valid from .*set the clock"):
        check_server(CA, early, HOSTS, NOW)


def test_an_authority_that_ended_is_refused(tmp_path: Path) -> None:
    ended = new_ca(CA_KEY, NOW - 20 * DAY, days=10)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake(server(tmp_path, certificate()), device(ended), "localhost")
    with pytest.raises(ParameterError, match=r"the CA's certificate ended on .*renew --ca"):
        certify(ended, CA_KEY, KEY.public, HOSTS, NOW, SERVER_DAYS)


def test_a_renewed_authority_of_the_same_key_is_the_old_one_for_devices(tmp_path: Path) -> None:
    renewed = new_ca(CA_KEY, NOW - DAY)
    found = certify(renewed, CA_KEY, KEY.public, HOSTS, NOW, SERVER_DAYS)
    for held in (CA, renewed):
        assert shake(server(tmp_path, found), device(held), "localhost")
    assert renewed != CA


def test_a_server_is_no_authority(tmp_path: Path) -> None:
    """It cannot certify others: with path length 0 even an authority below ours could not."""
    with pytest.raises(ParameterError, match="not that of its certificate"):
        certify(CA, OTHER_KEY, KEY.public, HOSTS, NOW, SERVER_DAYS)
    ours = certificate()
    assert public_of(ours) == KEY.public
    basic = load(ours).extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.value.ca, basic.critical) == (False, True)
    below = certify(ours, KEY, OTHER_KEY.public, HOSTS, NOW, SERVER_DAYS)
    context = server(tmp_path, below, OTHER_KEY)
    chain = tmp_path / "chain"
    chain.write_bytes(pem(below) + pem(ours))
    context.load_cert_chain(chain, tmp_path / "server.key")
    with pytest.raises(ssl.SSLCertVerificationError, match="invalid CA certificate"):
        shake(context, device(CA), "localhost")


def test_a_certificate_of_a_server_is_none_of_a_client(tmp_path: Path) -> None:
    usage = load(certificate()).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [each.dotted_string for each in usage] == ["1.3.6.1.5.5.7.3.1"]


def test_another_verifier_agrees() -> None:
    """`cryptography`'s own, which holds chains against the rules of public authorities."""
    store = Store([load(CA)])
    verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName("localhost"))
    assert len(verifier.verify(load(certificate()), [])) == 2
    verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName("other"))
    with pytest.raises(VerificationError):
        verifier.verify(load(certificate()), [])


def test_no_certificate_outlives_its_authority() -> None:
    found = certify(CA, CA_KEY, KEY.public, HOSTS, NOW, 2 * CA_DAYS)
    assert ends_at(found) == ends_at(CA) == NOW + CA_DAYS * DAY
    assert ends_at(certificate()) == NOW + SERVER_DAYS * DAY


def test_clocks_may_differ_a_little() -> None:
    check_ca(CA, NOW - SKEW)
    with pytest.raises(ParameterError, match="set the clock"):
        check_ca(CA, NOW - SKEW - 1)
    check_ca(CA, ends_at(CA))
    with pytest.raises(ParameterError, match="ended on"):
        check_ca(CA, ends_at(CA) + 1)


def test_a_server_is_checked_under_all_its_names() -> None:
    check_server(CA, certificate(), HOSTS, NOW)
    with pytest.raises(ParameterError, match=r"does not name other.example.org"):
        check_server(CA, certificate(), (*HOSTS, "other.example.org"), NOW)


def test_what_is_no_certificate_is_damaged() -> None:
    with pytest.raises(Damaged):
        load(b"x")
