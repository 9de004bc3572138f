"""What Flower's processes on a server are started with: no secrets, and only on the loopback."""

import os
import socket
import ssl
import stat
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.x509 import load_pem_x509_certificate

from tacit.app.certificates import DAY
from tacit.app.deployment import link
from tacit.app.deployment.environment import environment
from tacit.app.deployment.places import Places
from tacit.app.deployment.ticket import Ticket
from tacit.app.server import ORDERED, ROSTER, RUNS, check_ordered
from tacit.client.files import replace_file
from tacit.crypto.errors import PolicyRefusal

NOW = int(time.time())


@pytest.fixture
def places(tmp_path: Path) -> Places:
    found = Places(tmp_path)
    for folder in (found.link, found.flwr):
        folder.mkdir()
    link.prepare(found, 20_001, NOW)
    return found


def test_superlink_is_closed(places: Places) -> None:
    argv = link.superlink(places, 20_001).argv
    pairs = dict(pairwise(argv))
    assert pairs["--host"] == "127.0.0.1"
    assert pairs["--isolation"] == "process"
    assert pairs["--database"] == str(places.database)
    assert pairs["--superexec-auth-secret-file"] == str(places.secret)
    assert {"--enable-supernode-auth", "--disable-runtime-dependency-installation"} <= set(argv)
    assert "--insecure" not in argv
    assert Path(argv[0]).exists()


def test_no_secret_is_in_arguments_or_environment(places: Places) -> None:
    secrets = [places.secret.read_bytes(), (places.link / "link.key").read_bytes()]
    for spec in (link.superlink(places, 1), link.superexec(places, 1)):
        said = "\0".join([*spec.argv, *spec.env, *spec.env.values()]).encode()
        for secret in secrets:
            assert secret not in said
            assert secret.hex().encode() not in said
        assert "environ" not in repr(spec)
        assert "HOME" not in repr(spec)


def test_a_serverapp_is_told_where_things_are(places: Places) -> None:
    env = link.superexec(places, 1).env
    assert env[ROSTER] == str(places.folder / "roster.bin")
    assert env[RUNS] == str(places.runs)
    assert env[ORDERED]


def test_a_serverapp_serves_what_the_supervisor_began_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A neighbour's run may have the name of one that is there, and no name at all."""
    monkeypatch.setattr("tacit.app.server._SOON", 0.0)
    held = Ticket("anna", "", 0.0, begun=1, number=7)
    held.write(tmp_path)
    check_ordered(tmp_path, 7)
    for place, number in ((tmp_path, 8), (tmp_path / "none", 7)):
        with pytest.raises(PolicyRefusal, match="nobody ordered"):
            check_ordered(place, number)
    replace(held, how="finished").write(tmp_path)
    with pytest.raises(PolicyRefusal, match="nobody ordered"):
        check_ordered(tmp_path, 7)


def test_a_serverapp_that_is_sooner_than_the_ticket_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Ticket("anna", "", 0.0, begun=1, number=6)
    held.write(tmp_path)
    monkeypatch.setattr(
        "tacit.app.server.time.sleep", lambda _: replace(held, number=7).write(tmp_path)
    )
    check_ordered(tmp_path, 7)


def test_keys_are_the_owners(places: Places) -> None:
    for path in (places.secret, places.link / "link.key", places.flwr / "config.toml"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(places.secret.read_bytes()) == link.SECRET_BYTES


def test_the_certificate_is_one_that_tls_takes(places: Places) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(places.link / "link.crt", places.link / "link.key")
    client = ssl.create_default_context(cafile=link.ca_of(places))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for each in (ours, theirs):
            try:
                each.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ours.getpeercert()


def test_the_authority_of_the_loopback_leaves_no_key(places: Places) -> None:
    names = {path.name for path in places.link.iterdir()}
    assert names == {"ca.crt", "link.crt", "link.key", "superexec.secret"}


def test_what_is_good_stays_and_the_secret_always(places: Places) -> None:
    before = {path: path.read_bytes() for path in places.link.iterdir()}
    link.prepare(places, 20_001, NOW + 1)
    assert {path: path.read_bytes() for path in places.link.iterdir()} == before
    link.prepare(places, 20_001, NOW + link.DAYS * DAY - DAY)  # ends tomorrow
    assert places.secret.read_bytes() == before[places.secret]
    found = load_pem_x509_certificate((places.link / "link.crt").read_bytes())
    assert found.not_valid_after_utc.timestamp() > NOW + link.DAYS * DAY


@pytest.mark.parametrize("name", ["ca.crt", "link.crt", "link.key"])
def test_what_was_cut_off_is_made_anew(places: Places, name: str) -> None:
    (places.link / name).unlink()
    link.prepare(places, 1, NOW)
    test_the_certificate_is_one_that_tls_takes(places)


@pytest.mark.parametrize("name", ["link.key", "ca.crt"])
def test_what_does_not_fit_is_made_anew(places: Places, tmp_path: Path, name: str) -> None:
    other = Places(tmp_path / "other")
    for folder in (other.folder, other.link, other.flwr):
        folder.mkdir()
    link.prepare(other, 1, NOW)
    replace_file(places.link / name, (other.link / name).read_bytes())
    link.prepare(places, 1, NOW)
    test_the_certificate_is_one_that_tls_takes(places)


def test_a_port_is_kept_while_it_is_free() -> None:
    port = link.choose_port(0)
    assert port in link.PORTS
    assert link.choose_port(port) == port
    with socket.socket() as taken:
        taken.bind((link.LOOPBACK, port))
        taken.listen()
        assert not link.is_free(link.LOOPBACK, port)
        assert link.choose_port(port) != port


def test_what_a_shell_happens_to_hold_is_not_passed_on(tmp_path: Path) -> None:
    given = {
        "AWS_SECRET_ACCESS_KEY": "x",
        "HTTPS_PROXY": "http://proxy",
        "FLWR_HOME": "/elsewhere",
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C",
        "PATH": "/bin",
        "HOME": "/home/me",
    }
    env = environment(tmp_path, given, MORE="1")
    assert not {"AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY"} & set(env)
    assert env["FLWR_HOME"] == str(tmp_path)
    assert (env["OMP_NUM_THREADS"], env["LC_ALL"], env["HOME"]) == ("1", "C", "/home/me")
    assert env["PATH"].endswith(f"{os.pathsep}/bin")
    assert env["FLWR_TELEMETRY_ENABLED"] == "0"
    assert env["MORE"] == "1"
