"""The front as a process: it begins, ends, and says what is wrong; and its parts alone."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tacit.app import server_folder
from tacit.app.deployment.places import Places
from tacit.crypto.nodekey import openssh_line
from tacit.server.auditlog import verify
from tacit.server.front import nodes as nodes_module
from tacit.server.front import tls
from tacit.server.front.__main__ import FRONT, main
from tacit.server.front.credentials import NEWEST
from tacit.server.front.doors import Doors
from tacit.server.front.limits import Limits
from tacit.server.front.memory import keep_end, unknown_until
from tacit.server.front.nodes import Nodes
from tests.server.front.fronts import (
    HEARTBEAT,
    NODE,
    OTHER,
    RETIRED,
    SERVER_KEY,
    certificate,
    prepared,
    signed,
    trusting,
)


def test_places_have_one_name() -> None:
    assert (tls.CERTIFICATE, tls.KEY) == (server_folder.CERTIFICATE, server_folder.KEY)
    assert (nodes_module.NODES, nodes_module.RETIRED) == (
        server_folder.NODES,
        server_folder.RETIRED,
    )
    assert Places(Path("x")).front == Path("x") / FRONT


@contextmanager
def process(folder: Path, upstream: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = [
        *(sys.executable, "-m", "tacit.server.front", str(folder)),
        *("--upstream", f"127.0.0.1:{upstream}"),
        *("--upstream-ca", str(folder / "link-ca.crt")),
        *("--listen", f"127.0.0.1:{port}"),
    ]
    root = Path(__file__).resolve().parents[3]
    env = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(command, env=env, cwd=root, stderr=subprocess.PIPE) as running:
        try:
            yield running, port
        finally:
            running.kill()


def health(port: int) -> int:
    end = time.monotonic() + 20
    while True:
        try:
            return httpx.get(f"https://127.0.0.1:{port}/health", verify=trusting()).status_code
        except httpx.ConnectError:
            assert time.monotonic() < end
            time.sleep(0.05)


def asked(port: int, at: float | None = None) -> int:
    url = f"https://127.0.0.1:{port}{HEARTBEAT}"
    return httpx.post(url, headers=signed(NODE, at=at), verify=trusting()).status_code


def test_it_begins_and_ends(tmp_path: Path, behind: int) -> None:
    """And what an earlier front may have let in, a later one does not."""
    prepared(tmp_path)
    with process(tmp_path, behind) as (running, port):
        assert health(port) == 200
        assert asked(port) == 200
        assert httpx.get(f"https://127.0.0.1:{port}/docs", verify=trusting()).status_code == 404
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=10)
        assert running.returncode == 0
    assert b"listening" in said
    assert b"Traceback" not in said
    assert verify(tmp_path / FRONT / "audit.log").head.head.size == 1
    ended = time.time()
    with process(tmp_path, behind) as (running, port):
        assert health(port) == 200
        assert asked(port, at=ended - 100) == 503
        assert asked(port, at=ended + NEWEST) == 200
        running.kill()
    killed = time.time()
    with process(tmp_path, behind) as (_, port):
        assert health(port) == 200
        assert asked(port, at=killed) == 503


@pytest.mark.parametrize(
    ("left", "is_first", "until"),
    [
        (None, True, float("-inf")),
        (None, False, 105.0),
        (b"60.5", False, 65.5),
        (b"", False, 105.0),
        (b"nan", False, 105.0),
        (b"1e9", False, 105.0),  # the clock was set back
    ],
)
def test_up_to_when_nothing_is_known(
    tmp_path: Path, left: bytes | None, is_first: bool, until: float
) -> None:
    if left is not None:
        (tmp_path / "ended").write_bytes(left)
    assert unknown_until(tmp_path, 100.0, is_first=is_first) == until
    assert not [*tmp_path.iterdir()]  # it counts once
    keep_end(tmp_path, 7.5)
    assert unknown_until(tmp_path, 100.0, is_first=False) == 12.5


def test_it_says_why_it_cannot_begin(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, behind: int
) -> None:
    prepared(tmp_path)
    ca = ["--upstream-ca", str(tmp_path / "link-ca.crt"), "--upstream", f"127.0.0.1:{behind}"]

    def ends(*arguments: str) -> str:
        caplog.clear()
        assert main([str(tmp_path), *ca, *arguments]) == 2
        return caplog.text

    assert "no HOST:PORT" in ends("--listen", "127.0.0.1")
    assert "no server in" in ends()
    assert "per_address" in ends("--listen", "127.0.0.1:0", "--per-address", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen" in ends("--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    (tmp_path / "link-ca.crt").unlink()
    assert "No such file" in ends("--listen", "127.0.0.1:0")


def test_a_renewed_certificate_and_one_half_written(tmp_path: Path) -> None:
    certificate(tmp_path)
    found = tls.Certificate(tmp_path)
    first = found.context()
    assert found.context() is first
    time.sleep(0.01)
    (tmp_path / "server.crt").write_bytes(b"-----BEGIN CERTIFICATE-----\n")
    assert found.context() is first
    certificate(tmp_path, days=20)
    assert found.context() is not first
    (tmp_path / "server.key").unlink()
    assert found.context() is found.context()
    (tmp_path / "server.key").write_bytes(OTHER.pem())  # another key than the certificate's
    kept = found.context()
    (tmp_path / "server.key").write_bytes(SERVER_KEY.pem())
    assert found.context() is not kept


def test_folders_of_keys_are_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepared(tmp_path)
    now = 0.0
    found = Nodes(tmp_path, lambda: now)
    assert found.registered(NODE.public) == "1-one"
    assert found.registered(RETIRED.public) is None
    assert found.retired(RETIRED.public) == "3-out"
    (tmp_path / "nodes" / "1-one.pub").unlink()
    (tmp_path / "nodes" / "9-bad.pub").write_bytes(b"ssh-rsa nothing")
    (tmp_path / "retired" / "2-two.pub").write_bytes(openssh_line(OTHER.public, "two"))
    assert found.registered(NODE.public) == "1-one"
    now = 1.1
    assert found.registered(NODE.public) is None
    assert found.retired(OTHER.public) == "2-two"
    assert "9-bad.pub is left out" in caplog.text


def test_no_folders_nobody_known(tmp_path: Path) -> None:
    assert Nodes(tmp_path).registered(NODE.public) is None


def test_places_at_the_doors() -> None:
    dropped: list[str] = []
    doors = Doors(Limits(connections=3, per_address=2))

    def enter(place: str) -> object:
        made, lost = doors.enter(place)
        if made is not None:
            made.drop = lambda: dropped.append(place)
        return made or lost

    first, _ = doors.enter("a")
    assert first is not None
    first.node = "one"
    assert enter("a")
    assert doors.enter("a") == (None, None)  # two from there
    assert enter("b")
    made, lost = doors.enter("c")  # the oldest stranger makes way
    assert made is not None
    assert (lost, dropped, len(doors)) == ("a", ["a"], 3)
    made.node = "two"
    doors.leave(made)
    doors.leave(made)
    assert len(doors) == 2
    for place in ("d", "e"):
        again, _ = doors.enter(place)
        assert again is not None
        again.node = "three"
    assert doors.enter("f") == (None, None)  # nodes have all places
    doors.leave(first)
    assert doors.enter("a")[0] is not None
