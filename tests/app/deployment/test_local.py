"""A federation on one machine is made whole or not at all; and what users hear who get it wrong."""

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tacit.app import server_folder
from tacit.app.authority import opened
from tacit.app.cli import main
from tacit.app.deployment import founding, local, state
from tacit.app.deployment.fleet import found
from tacit.app.deployment.link import FRONT, LOOPBACK
from tacit.app.deployment.places import Places
from tacit.app.journal import Journal
from tacit.client.device import load_device
from tacit.client.vault import FileVault
from tacit.crypto.errors import ParameterError

NOW = int(time.time())


def silent(line: str) -> None: ...


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("local") / "federation"
    fleet = local.make(made, 3, NOW, silent)
    founding.found(fleet.places, Journal(fleet.places.folder), fleet.first_roles)
    return made


@pytest.fixture
def say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run the command in this process: its exit code, and all that it said."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tacit", *map(str, arguments)])
        code = 0
        try:
            main.run()
        except SystemExit as ended:
            code = int(ended.code or 0)
        found = capsys.readouterr()
        return code, found.out + found.err

    return run


def test_everybody_is_in_and_nothing_is_wrong(folder: Path) -> None:
    fleet = found(folder)
    assert [vault.name for vault in fleet.vaults] == ["site-1", "site-2", "site-3"]
    assert server_folder.faults(fleet.places.folder, NOW) == []
    answer = server_folder.joined(fleet.places.folder)
    assert [node.name for node in answer.nodes] == ["site-1", "site-2", "site-3"]
    for number, vault in enumerate(fleet.vaults, 1):
        device = load_device(FileVault.open(vault))
        assert device.number == number  # its share of the data is that of its number
        assert device.authority == answer.issue.trust.authority
        port = server_folder.port(fleet.places.folder)
        assert (vault / "address").read_text().strip() == f"{LOOPBACK}:{port}"
    with opened(folder / "authority") as authority:
        assert len(authority.register.devices) == 3


def test_what_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(ParameterError, match="fewer than 3"):
        local.make(tmp_path / "small", 2, NOW, silent)

    def broken(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(local, "_join", broken)
    with pytest.raises(OSError, match="no space"):
        local.make(tmp_path / "cut", 3, NOW, silent)
    assert list(tmp_path.iterdir()) == []


def test_ten_come_after_nine(tmp_path: Path) -> None:
    for number in (10, 9, 1, 2):
        (tmp_path / "devices" / f"site-{number}").mkdir(parents=True)
    (tmp_path / "server").mkdir()
    names = [vault.name for vault in found(tmp_path).vaults]
    assert names == ["site-1", "site-2", "site-9", "site-10"]


def test_nobody_outside_reaches_a_local_front(folder: Path, tmp_path: Path) -> None:
    argv = found(folder).front(20_000).argv
    assert argv[argv.index("--listen") + 1].startswith(f"{LOOPBACK}:")
    server_folder.prepare(tmp_path / "server", "server", ("example.org",), 9092, NOW)
    fleet = found(tmp_path / "server")
    assert fleet.vaults == ()
    argv = fleet.front(20_000).argv
    assert argv[argv.index("--listen") + 1] == ":9092"
    assert fleet.front(1).name == FRONT


def test_no_secret_is_in_arguments_or_environment(folder: Path) -> None:
    fleet = found(folder)
    for spec, vault in zip(fleet.nodes(), fleet.vaults, strict=True):
        said = "\0".join([*spec.argv, *spec.env.values()])
        assert (vault / "node.key").read_text() not in said
        assert str(vault) in spec.argv


def test_a_port_that_another_has_is_told(folder: Path) -> None:
    fleet = found(folder)
    port = server_folder.port(fleet.places.folder)
    fleet.check_port()
    with socket.socket() as taken:
        taken.bind((LOOPBACK, port))
        taken.listen()
        with pytest.raises(ParameterError, match=f"port {port}"):
            fleet.check_port()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["run"], "is not up: tacit up"),
        (["stop", "x"], "is not up: tacit up"),
        (["down"], "is not up: tacit up"),
        (["up", "--nodes", "5"], "with 3 devices"),
        (["logs", "superlink"], "no log of superlink"),
        (["logs", "../../authority/audit"], "no log of"),
        (["run", "--resume", "x", "--set", "run.rounds=2"], "leave out the rest"),
    ],
)
def test_mistakes_are_told_and_nothing_is_done(
    folder: Path, say: Callable[..., tuple[int, str]], arguments: list[str], reason: str
) -> None:
    code, said = say(*arguments, "--dir", folder)
    assert code == 2
    assert reason in said


def test_where_nothing_is_nothing_is_up(
    tmp_path: Path, say: Callable[..., tuple[int, str]]
) -> None:
    for command in ("status", "down", "run"):
        code, said = say(command, "--dir", tmp_path / "none")
        assert (code, "tacit up --dir" in said) == (2, True)


@pytest.fixture
def up(folder: Path) -> Any:
    """As if a supervisor were at work, which looks at nothing."""
    with state.alone(found(folder).places):
        yield folder


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--set", "data.devices=9"], "3 devices are enrolled"),
        (["--set", "faults=['drop report 1 @1']"], "faults are for tacit simulate"),
        (["--set", "run.round=9"], "did you mean run.rounds"),
        (["--set", "secure.min_survivors=9"], "min_survivors"),
        (["--name", "No Such"], "run.name"),
        (["--resume", "nothing"], "no run nothing"),
        (["--name", "there"], "there is a run there already"),
    ],
)
def test_what_is_wrong_with_a_run_is_found_before_it_is_ordered(
    up: Path, say: Callable[..., tuple[int, str]], more: list[str], reason: str
) -> None:
    places = Places(up / "server")
    (places.runs / "there").mkdir(parents=True, exist_ok=True)
    given = [part for each in ASSIGN for part in ("--set", each)] if "--resume" not in more else []
    code, said = say("run", "--dir", up, *given, *more)
    assert code == 2
    assert reason in said
    assert list(places.inbox.iterdir()) == []


ASSIGN = ("data.partition=iid", "model.name=softmax", "model.backend=numpy")


def test_up_twice_is_told(up: Path, say: Callable[..., tuple[int, str]]) -> None:
    code, said = say("up", "--dir", up)
    assert code == 2
    assert "up already" in said


def test_status_is_for_programs_too(folder: Path, say: Callable[..., tuple[int, str]]) -> None:
    code, said = say("status", "--dir", folder, "--json")
    shown = json.loads(said.splitlines()[-1])
    assert code == 1
    assert (shown["up"], shown["online"]) == (False, 0)


def test_the_environment_names_the_folder(
    folder: Path, say: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "TACIT_DIR", str(folder))
    assert f"{folder} is not up" in say("status")[1]
