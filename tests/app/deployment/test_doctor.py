"""The doctor finds what is wrong, each thing by itself, and nothing where nothing is."""

import http.server
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from tacit.app import server_folder
from tacit.app.deployment import doctor, founding, machine
from tacit.app.deployment.findings import Finding, Verdict
from tacit.app.deployment.operators import Operator, Role, load, save
from tacit.app.deployment.places import Places
from tacit.app.deployment.probes import Target
from tacit.app.journal import Journal, signer
from tacit.app.journal import opened as log_opened
from tacit.crypto.errors import ParameterError
from tacit.crypto.nodekey import public_key
from tests.app.deployment.doctored import NOW, World, serving, world
from tests.app.inprocess import Tacit
from tests.app.test_enrolling import tacit
from tests.server.front.fronts import Standing

__all__ = ["tacit"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Standing]]:
    """A server that is up, and that no test changes."""
    found = world(tmp_path_factory.mktemp("whole"))
    with serving(found) as standing:
        yield found, standing


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> World:
    """What `own` copies."""
    return world(tmp_path_factory.mktemp("built"))


@pytest.fixture
def own(tmp_path: Path, built: World) -> World:
    """A server that is not up, for one test."""
    shutil.copytree(built.folder, tmp_path / "own")
    return World(tmp_path / "own", built.port)


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    """The worst of each name."""
    order = [Verdict.WRONG, Verdict.UNKNOWN, Verdict.CAREFUL, Verdict.OK]
    found = list(findings)
    assert all(each.remedy for each in found if each.verdict is Verdict.WRONG)
    return {each.what: each for each in sorted(found, key=lambda e: -order.index(e.verdict))}


def wrongs(findings: Iterable[Finding]) -> set[str]:
    return {each.what for each in findings if each.verdict is Verdict.WRONG}


def from_outside(found: World) -> Target:
    return Target.read(found.address, (found.server / "ca.crt").read_bytes())


def test_nothing_is_wrong_with_what_is_whole(whole: tuple[World, Standing]) -> None:
    found = by_name(doctor.of_address(from_outside(whole[0])))
    assert {each.verdict for each in found.values()} == {Verdict.OK}
    assert {*found} == {
        *("reachable", "plain text", "wrong CA", "certificate", "TLS", "SuperLink", "clocks"),
        *("control closed", "runtime closed", "docs closed"),
        *("an unknown node key", "no node key", "a node that registers itself"),
    }


def test_what_a_server_finds_in_its_own_folder(whole: tuple[World, Standing]) -> None:
    found = by_name(doctor.of_server(whole[0].server))
    assert not wrongs(found.values())
    assert found["membership"].said == "roster 3, devices: 1"
    assert found["reachable"].verdict is Verdict.OK


def test_a_device_that_is_in_and_one_that_is_out(whole: tuple[World, Standing]) -> None:
    inside = by_name(doctor.of_device(whole[0].vault("one")))
    assert not wrongs(inside.values())
    assert inside["this device's key"].said == "let in"
    outside = by_name(doctor.of_device(whole[0].vault("out")))
    assert wrongs(outside.values()) == {"this device's key"}
    assert "revoked" in outside["this device's key"].said


def test_the_command(whole: tuple[World, Standing], tacit: Tacit) -> None:
    found = whole[0]
    said = tacit("doctor", found.server, "--json").result()
    assert said["not_ok"] == 0
    assert tacit("doctor", found.folder).out.count("ok") > 15
    assert tacit("doctor", found.address, "--ca", found.server / "ca.crt").code == 0
    ended = tacit("doctor", "--vault", found.vault("out"), "--quiet", code=1)
    assert ended.out == ""
    assert "revoked" in ended.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no folder"),
        (["localhost:1"], "--ca"),
        (["localhost", "--ca", "x"], "no HOST:PORT"),
        (["localhost:1", "--ca", "x"], "cannot be read"),
        (["."], "no server"),
        ([".", "--ca", "x"], "has its own"),
        (["--vault", "."], "no vault"),
    ],
)
def test_a_mistake_in_what_was_asked(tacit: Tacit, arguments: list[str], words: str) -> None:
    assert words in tacit("doctor", *arguments, code=2).err


def test_nobody_there(own: World) -> None:
    found = by_name(doctor.of_address(from_outside(own)))
    assert found["reachable"].verdict is Verdict.WRONG
    assert found["everything else from outside"].verdict is Verdict.UNKNOWN


class Open(http.server.BaseHTTPRequestHandler):
    """A server that answers all with what Flower's own would, were it in reach."""

    protocol_version = "HTTP/1.1"
    shift = 0.0

    def do_GET(self) -> None:
        body = b"{}"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() + self.shift)


@contextmanager
def standing_open(
    found: World, *, tls: bool = True, old: bool = True, shift: float = 0
) -> Iterator[None]:
    handler = type("Shifted", (Open,), {"shift": shift})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", found.port), handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(found.server / "server.crt", found.server / "server.key")
        if not old:
            context.minimum_version = ssl.TLSVersion.TLSv1_3
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def test_a_superlink_without_a_front(own: World) -> None:
    with standing_open(own):
        found = wrongs(doctor.of_address(from_outside(own)))
    assert found == {
        *("control closed", "runtime closed", "docs closed", "TLS"),
        *("an unknown node key", "no node key", "a node that registers itself"),
    }


def test_plain_text_is_answered(own: World) -> None:
    with standing_open(own, tls=False):
        found = by_name(doctor.of_address(from_outside(own)))
    assert found["plain text"].verdict is Verdict.WRONG


@pytest.mark.parametrize(
    ("shift", "words"), [(400, "400 s behind"), (-20, "20 s ahead of"), (2, None), (250, None)]
)
def test_clocks(own: World, shift: float, words: str | None) -> None:
    with standing_open(own, shift=shift):
        clocks = by_name(doctor.of_address(from_outside(own)))["clocks"]
    if words is None:
        assert clocks.verdict is Verdict.OK
    else:
        off = int(words.split()[0])
        assert clocks.verdict is Verdict.WRONG
        assert any(f"{n} s {words.split(' s ')[1]}" in clocks.said for n in (off - 1, off, off + 1))


def test_another_authority(own: World, whole: tuple[World, Standing]) -> None:
    target = Target("localhost", whole[0].port, (own.server / "ca.crt").read_bytes())
    certificate = by_name(doctor.of_address(target))["certificate"]
    assert certificate.verdict is Verdict.WRONG
    assert "another authority" in certificate.remedy


def test_another_name(whole: tuple[World, Standing]) -> None:
    target = Target("127.0.0.2", whole[0].port, (whole[0].server / "ca.crt").read_bytes())
    found = by_name(doctor.of_address(target))
    assert found["reachable"].verdict is Verdict.WRONG or "name" in found["certificate"].remedy


def test_a_certificate_that_ended(own: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the server's clock and by the device's."""
    from tacit.app.certificates import DAY

    later = NOW + 500 * DAY
    monkeypatch.setattr(time, "time", lambda: float(later))
    found = by_name(doctor.of_server(own.server))
    assert found["membership"].verdict is Verdict.WRONG
    device = by_name(doctor.of_device(own.vault("one")))
    assert device["membership"].said.startswith("over")


def test_what_ends_soon(own: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from tacit.app.certificates import DAY

    monkeypatch.setattr(time, "time", lambda: float(NOW + 350 * DAY))
    for findings in (doctor.of_server(own.server), doctor.of_device(own.vault("one"))):
        assert by_name(findings)["membership"].verdict is Verdict.CAREFUL


def test_files_that_others_may_read(own: World) -> None:
    (own.server / "server.key").chmod(0o644)
    assert "secret files" in wrongs(doctor.of_server(own.server))
    (own.vault("one") / "node.key").chmod(0o640)
    assert "secret files" in wrongs(doctor.of_device(own.vault("one")))


def test_a_register_of_another_day(own: World) -> None:
    places = Places(own.server)
    assert by_name(doctor.of_server(own.server))["operators"].verdict is Verdict.UNKNOWN
    founding.found(places, journal := Journal(places.folder), (Role.AUTHORITY,))
    journal.close()
    assert by_name(doctor.of_server(own.server))["operators"].verdict is Verdict.OK
    keeper = signer(places.folder)
    ghost = Operator("ghost", Role.RELEASER, bytes(32))
    save(places, load(places).granted(ghost), keeper)
    found = by_name(doctor.of_server(own.server))["operators"]
    assert found.verdict is Verdict.WRONG
    assert "ghost" in found.said


def test_folders_that_others_may_enter(own: World) -> None:
    (own.server / "runs").chmod(0o755)
    assert "permissions" in wrongs(doctor.of_server(own.server))


@pytest.mark.parametrize("place", ["arguments", "environment"])
@pytest.mark.parametrize("spelled", ["hex", "base64", "pem"])
def test_secrets_that_a_process_shows(own: World, place: str, spelled: str) -> None:
    places = Places(own.server)
    places.secret.write_bytes(bytes(range(32)))
    places.secret.chmod(0o600)
    secret = {
        "hex": bytes(range(32)).hex(),
        "base64": b64encode(bytes(range(32))).decode(),
        "pem": (own.server / "server.key").read_text().splitlines()[1],
    }[spelled]
    argv = [sys.executable, "-c", "input()"] + ([secret] if place == "arguments" else [])
    env = {**os.environ, **({"SECRET": secret} if place == "environment" else {})}
    with subprocess.Popen(argv, env=env, stdin=subprocess.PIPE) as process:
        try:
            found = by_name(doctor.of_server(own.server))["secrets of processes"]
        finally:
            process.communicate(b"\n")
    assert found.verdict is Verdict.WRONG
    assert f"process {process.pid} has a secret in its {place}" in found.said
    assert secret not in found.said


@pytest.mark.parametrize("unseen", ["_own_addresses", "_is_loopback"])
def test_a_superlink_on_all_addresses(
    own: World, monkeypatch: pytest.MonkeyPatch, unseen: str
) -> None:
    """Known by its database, which is among its arguments; seen by what it is bound to, and by
    calling it, each of which is enough."""
    if unseen == "_own_addresses":
        monkeypatch.setattr(machine, "_own_addresses", lambda: set[str]())
    else:
        own_addresses = machine._own_addresses() or {"127.0.0.2"}
        monkeypatch.setattr(machine, "_own_addresses", lambda: own_addresses)
        monkeypatch.setattr(machine, "_is_loopback", lambda _: True)
    mark = str(Places(own.server).database.absolute())
    code = "import socket, sys; s = socket.create_server((sys.argv[2], 0)); print(1); input()"
    for address, verdict in (("0.0.0.0", Verdict.WRONG), ("127.0.0.1", Verdict.OK)):
        argv = [sys.executable, "-u", "-c", code, mark, address]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            try:
                found = by_name(machine.listeners(mark.encode()))["ports of SuperLink"]
            finally:
                process.communicate(b"\n")
        assert found.verdict is verdict
    assert (
        by_name(machine.listeners(mark.encode()))["ports of SuperLink"].verdict is Verdict.UNKNOWN
    )


def test_no_room(own: World, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(own.server)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    (own.server / "link" / "superlink.db").write_bytes(bytes(1 << 20))
    assert {"disk", "database"} <= wrongs(doctor.of_server(own.server))
    assert "disk" in wrongs(doctor.of_device(own.vault("one")))


def flower_knows(own: World, *keys: bytes) -> None:
    from flwr.server.superlink.linkstate import LinkStateFactory
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.superlink.federation import NoOpFederationManager

    path = str(Places(own.server).database)
    state = LinkStateFactory(path, NoOpFederationManager(), ObjectStoreFactory(path)).state()
    for key in keys:
        state.create_node("", "", public_key_to_bytes(public_key(key)), 0)


def test_nodes_that_flower_does_not_know_or_should_not(own: World) -> None:
    joined = server_folder.joined(own.server)
    flower_knows(own)
    missing = by_name(doctor.of_server(own.server))
    assert "one" in missing["node keys"].said
    assert missing["revoked keys"].verdict is Verdict.OK
    flower_knows(own, joined.nodes[0].key, joined.retired[0].key)
    late = by_name(doctor.of_server(own.server))
    assert late["node keys"].verdict is Verdict.OK
    assert "still registered" in late["revoked keys"].said


def test_a_database_that_is_none(own: World) -> None:
    Places(own.server).database.write_bytes(b"no database at all" * 100)
    assert by_name(doctor.of_server(own.server))["node keys"].verdict is Verdict.UNKNOWN


def test_a_log_that_was_changed(own: World) -> None:
    log_opened(own.server).close()
    path = own.server / "audit.log"
    assert by_name(doctor.of_server(own.server))[f"log {path}"].verdict is Verdict.OK
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert f"log {path}" in wrongs(doctor.of_server(own.server))


def test_a_server_that_has_not_joined(tmp_path: Path) -> None:
    server_folder.prepare(tmp_path / "server", "server", ("localhost",), 9092, NOW)
    found = by_name(doctor.of_server(tmp_path / "server"))
    assert "joined no authority" in found["membership"].said


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:0", "host:99999", "host:x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ParameterError, match="HOST:PORT"):
        Target.read(text, b"")


def test_addresses_with_colons() -> None:
    assert Target.read("[::1]:9092", b"").host == "::1"
    assert Target.read("[::1]:9092", b"").address == "[::1]:9092"


def test_nothing_is_changed_by_looking(whole: tuple[World, Standing]) -> None:
    def held() -> dict[Path, bytes]:
        ours = (path for path in whole[0].folder.rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in ours if "front" not in path.parts}

    before = held()
    list(doctor.of_server(whole[0].server))
    list(doctor.of_device(whole[0].vault("one")))
    assert held() == before
