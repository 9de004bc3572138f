"""`tacit dashboard`: what it finds in a folder, and where it refuses to be seen."""

import os
import signal
import socket
import time
import urllib.request
from pathlib import Path

import pytest

from tacit.app import watching
from tacit.app.deployment import operators
from tacit.app.deployment.operators import Operator, Operators, Role
from tacit.app.deployment.places import Places
from tacit.app.listening import Place
from tacit.app.watching import check_place, house_of, usual, viewers_of
from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import Identity
from tacit.server.gate import keys as tokens
from tests.app.test_cli import tacit_process
from tests.server.dashboard import stage
from tests.test_layout import ROOT

KEEPER = Identity(bytes(range(32)))


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


def test_a_viewer_is_who_the_register_says(tmp_path: Path) -> None:
    places = Places(tmp_path)
    assert viewers_of(tmp_path) is None
    token = tokens.drawn(os.urandom(tokens.DRAW_BYTES))
    other = tokens.drawn(os.urandom(tokens.DRAW_BYTES))
    register = Operators(KEEPER.public, (Operator("board", Role.AUTHORITY, bytes(32)),))
    operators.save(places, register, KEEPER)
    assert viewers_of(tmp_path) is None  # nobody could open it
    register = register.granted(Operator("ana", Role.VIEWER, token.digest))
    operators.save(places, register, KEEPER)
    who = viewers_of(tmp_path)
    assert who is not None
    assert who(token.text) == "ana"
    assert who(other.text) is None
    assert who("") is None
    operators.save(places, register.withdrawn("ana"), KEEPER)
    assert who(token.text) is None  # at once
    places.operators.write_bytes(b"damaged")
    assert who(token.text) is None


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
