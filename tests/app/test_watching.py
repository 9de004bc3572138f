"""`tacit dashboard`: what it finds in a folder, and where it refuses to be seen."""

import os
import signal
import socket
import time
import urllib.request
from pathlib import Path

import pytest

from tacit.app import watching
from tacit.app.deployment.executing import Wanted, execute
from tacit.app.deployment.operators import Role
from tacit.app.deployment.orders import Order
from tacit.app.listening import Place
from tacit.app.watching import check_place, house_of, usual, viewers_of
from tacit.crypto.errors import ParameterError
from tacit.crypto.order import Act
from tacit.server.gate import keys as tokens
from tests.app.deployment.server import Server, server
from tests.app.test_cli import tacit_process
from tests.server.dashboard import stage
from tests.test_layout import ROOT

__all__ = ["server"]


def names(path: Path) -> tuple[list[str], bool]:
    """Runs that are found, and whether a server is."""
    house = house_of(path)
    return [files.name for files in house.find()], house.deployed is not None


def test_a_run_a_folder_of_runs_and_a_server(tmp_path: Path) -> None:
    federation = tmp_path / "federation"
    stage.server(federation)
    stage.run(federation / "runs" / "b")
    stage.run(federation / "runs" / "a")
    assert names(federation) == (["a", "b"], True)
    assert names(federation / "runs") == (["a", "b"], False)
    assert names(federation / "runs" / "a") == (["a"], False)


def test_a_federation_on_one_machine_is_its_server(tmp_path: Path) -> None:
    stage.server(tmp_path / "server")
    stage.run(tmp_path / "server" / "runs" / "a")
    assert names(tmp_path) == (["a"], True)


def test_a_run_may_be_called_server(tmp_path: Path) -> None:
    stage.run(tmp_path / "server")
    assert names(tmp_path) == (["server"], False)


def test_a_server_that_was_never_up_is_one(tmp_path: Path) -> None:
    (tmp_path / "server.key").write_bytes(b"")
    assert names(tmp_path) == ([], True)


def test_where_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="no folder at"):
        house_of(tmp_path / "none")
    (tmp_path / "matrix.toml").write_text("")
    with pytest.raises(ParameterError, match="trials of attacks"):
        house_of(tmp_path)


def test_the_usual_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert usual() == watching.RUNS
    (tmp_path / "federation").mkdir()
    assert usual() == watching.FEDERATION


OUTSIDE = [
    Place("0.0.0.0", 8844, Path("c"), Path("k")),
    Place("192.0.2.7", 8844, Path("c"), Path("k")),
    Place("127.0.0.1", 8844, proxy="10.0.0.1"),
]


@pytest.mark.parametrize("place", OUTSIDE, ids=lambda place: place.host)
def test_strangers_are_not_shown_anything(place: Place) -> None:
    with pytest.raises(ParameterError, match="--role viewer"):
        check_place(place, None)
    check_place(place, lambda token: "ana")


def test_tokens_do_not_travel_in_the_clear() -> None:
    with pytest.raises(ParameterError, match="in the clear"):
        Place("0.0.0.0", 8844)


def granted(server: Server, name: str) -> str:
    """A viewer's token."""
    token = tokens.drawn(os.urandom(tokens.DRAW_BYTES))
    wanted = Wanted(Role.VIEWER, token.digest).toml()
    done(server, Act.GRANT, name, wanted)
    return token.text


def done(server: Server, act: Act, name: str, settings: str = "") -> None:
    order = server.signed(act, name, settings)
    execute(server.places, Order(order, "authority"), server.journal)
    server.journal.close()


def test_a_viewer_is_who_the_register_says(server: Server) -> None:
    folder = server.places.folder
    assert viewers_of(folder) is None  # nobody could open it
    ana, bob = granted(server, "ana"), granted(server, "bob")
    who = viewers_of(folder)
    assert who is not None
    assert [who(ana), who(bob), who("")] == ["ana", "bob", None]
    assert who(tokens.drawn(os.urandom(tokens.DRAW_BYTES)).text) is None
    done(server, Act.WITHDRAW, "ana")
    assert [who(ana), who(bob)] == [None, "bob"]  # at once
    server.places.operators.write_bytes(b"damaged")
    assert who(bob) is None


def test_a_register_that_was_set_back_lets_nobody_in_again(server: Server) -> None:
    ana, bob = granted(server, "ana"), granted(server, "bob")
    copy = server.places.operators.read_bytes()
    done(server, Act.WITHDRAW, "ana")
    who = viewers_of(server.places.folder)
    assert who is not None
    server.places.operators.write_bytes(copy)
    assert [who(ana), who(bob)] == [None, "bob"]
    log = server.places.folder / "audit.log"
    log.write_bytes(log.read_bytes()[:-40] + bytes(40))
    assert who(bob) is None


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    """It serves, and ends when it is told to with a page open."""
    stage.run(tmp_path / "mine", rounds=2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address, env = f"http://127.0.0.1:{port}", {**os.environ, "PYTHONPATH": str(ROOT)}
    process = tacit_process("dashboard", str(tmp_path / "mine"), "--port", str(port), env=env)
    try:
        wait_for(f"{address}/health")
        with urllib.request.urlopen(f"{address}/v1/live?run=mine", timeout=5) as stream:
            assert stream.readline() == b"retry: 2000\n"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=15)
        assert process.returncode == 0
        assert address in out
        assert "Traceback" not in err
    finally:
        process.kill()
        process.communicate()


def wait_for(address: str) -> None:
    ends = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            assert time.monotonic() < ends
            time.sleep(0.2)
