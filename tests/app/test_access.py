"""Roles and releases from the command line, with somebody in the supervisor's place."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from tacit.app.cli import accessing, running
from tacit.app.deployment import founding, operators
from tacit.app.deployment.executing import execute
from tacit.app.deployment.orders import Order, taken
from tacit.app.deployment.places import Places
from tacit.app.folder import RunFolder
from tacit.app.journal import Journal, signer
from tacit.crypto.errors import TacitError
from tacit.server.deployed import OrderRefused
from tacit.server.events import LeftOut, RoundFinished, RoundStarted, SumFailed
from tests.app.inprocess import Tacit, command
from tests.app.small import small


@pytest.fixture
def tacit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Tacit:
    """Runs the command in this process, in the folder of a local federation."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(accessing, "WAIT", 0.3)
    folder = tmp_path / "federation" / "server"
    folder.mkdir(parents=True)
    journal = Journal(folder)
    founding.found(Places(folder), journal, founding.LOCAL)
    journal.close()

    return command(monkeypatch, capfd)


@pytest.fixture
def supervisor(tacit: Tacit, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    """Carries out what is ordered, meanwhile."""
    monkeypatch.setattr(accessing, "WAIT", 10.0)
    places, stop = Places(Path("federation/server").absolute()), threading.Event()

    def work() -> None:
        journal = Journal(places.folder)
        while not stop.wait(0.02):
            for order in taken(places, time.time()):
                assert isinstance(order, Order)
                try:
                    execute(places, order, journal)
                except TacitError as why:
                    journal.note(OrderRefused(order.text, order.by, str(why)))
        journal.close()

    thread = threading.Thread(target=work)
    thread.start()
    yield places
    stop.set()
    thread.join()


def test_a_role_from_key_to_withdrawal(tacit: Tacit, supervisor: Places) -> None:
    made = tacit("server", "key", "ann.key", "--json").result()
    assert Path("ann.key").stat().st_mode & 0o777 == 0o600
    said = tacit("server", "grant", "ann", "--role", "operator", "--key", "ann.key.pub")
    assert said.out == "ann is operator\n"
    shown = tacit("server", "roles").out
    assert f"ann  operator  key {made['public'][:16]}\n" in shown
    assert tacit("server", "withdraw", "ann", "--json").result()["order"] == "done"
    assert "ann  operator" in tacit("server", "roles").out
    assert "withdrawn" in tacit("server", "roles").out
    refused = tacit("server", "grant", "ann", "--role", "releaser", "--key", "ann.key.pub", code=2)
    assert "takes a new one" in refused.err


def test_a_viewers_token_is_shown_once(tacit: Tacit, supervisor: Places) -> None:
    said = tacit("server", "grant", "screen", "--role", "viewer").out.splitlines()
    token = said[1]
    found = operators.load(supervisor).viewer(token)
    assert found is not None
    assert found.name == "screen"
    assert token[-64:] not in tacit("server", "roles", "--json").out
    tacit("server", "grant", "wall", "--role", "viewer", "--out", "wall.token")
    assert Path("wall.token").stat().st_mode & 0o777 == 0o600
    found = operators.load(supervisor).viewer(Path("wall.token").read_text())
    assert found is not None
    assert found.name == "wall"
    for path in supervisor.folder.rglob("*"):
        assert not path.is_file() or token[-64:].encode() not in path.read_bytes()
        assert not path.is_file() or bytes.fromhex(token[-64:]) not in path.read_bytes()


def test_a_server_of_another_user_takes_orders_and_shows_nothing(
    tacit: Tacit, supervisor: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tacit server share is for. Here nobody carries out runs, so they are refused."""
    monkeypatch.setattr(running, "_is_ours", lambda folder: False)
    monkeypatch.setattr(running, "check", lambda settings: None)
    assert "say --name" in tacit("run", code=2).err
    assert "say --name" in tacit("run", "--name", "one", code=2).err
    said = tacit("run", "--name", "one", "--set", "data.devices=3", code=1)
    assert "run one was refused: a run is not done at once" in said.err
    assert "stop one was refused" in tacit("stop", "one", code=1).err
    assert "resume one was refused" in tacit("run", "--resume", "one", code=1).err
    monkeypatch.setattr(running, "refusal", lambda *_: None)
    said = tacit("run", "--name", "two", "--set", "data.devices=3")
    assert "the order was taken: run two" in said.out


def test_status_says_why_rounds_were_lost(tacit: Tacit) -> None:
    folder = RunFolder.create(Path("federation/server/runs/one"), small())
    for event in (
        RoundStarted(1, 3),
        LeftOut(1, "enrol", 4, "this device does not run bundle 00ff"),
        SumFailed(1, "train", "0 of 3"),
        RoundFinished(1, 3, 1.0, {}, {}, {}),
    ):
        folder.record(event)
    folder.journal.close()
    said = tacit("status", code=1).out
    assert "run one: 1 of 1 rounds lost: 0 of 3; 1 times: this device does not run" in said


def test_a_model_is_released(tacit: Tacit, supervisor: Places) -> None:
    folder = RunFolder.create(supervisor.runs / "one", small())
    folder.finish(ArrayRecord({"w": Array(np.zeros(3, np.float32))}))
    folder.journal.close()
    said = tacit("release", "one", "--json").result()
    assert (said["order"], Path(said["model"]).name) == ("done", "one.safetensors")
    assert "released already" in tacit("release", "one", code=2).err


def test_what_is_refused_is_said(tacit: Tacit, supervisor: Places) -> None:
    assert "refused: no run nothing: tacit status" in tacit("release", "nothing", code=1).err
    said = tacit("release", "nothing", "--json", code=1).result()
    assert said["order"] == "refused"


def test_without_a_supervisor_orders_wait(tacit: Tacit) -> None:
    said = tacit("server", "grant", "screen", "--role", "viewer", "--out", "t", "--json").result()
    assert said["order"] == "waiting"
    assert "tacit up" in tacit("release", "one").out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("server grant a --role king", "no role 'king'"),
        ("server grant a --role operator", "takes --key"),
        ("server grant a --role viewer --key x", "leave out --key"),
        ("server grant a --role viewer -q", "would lose the token"),
        ("server grant A --role viewer", "is no name"),
        ("server grant a --role operator --key nonsense", "64 hexadecimal digits"),
        ("server grant a --role viewer --needs-audit", "only a releaser"),
        ("server withdraw authority", "last authority"),
        ("server withdraw stranger", "nobody called stranger"),
        ("server roles --dir elsewhere", "no server's folder"),
        ("server share no-such-group-here", "no Unix group"),
        ("release ../x", "is no name"),
        ("release one --key federation/server/keys/operator.key", "takes the role releaser"),
    ],
)
def test_mistakes_are_told_at_once(tacit: Tacit, arguments: str, why: str) -> None:
    assert why in tacit(*arguments.split(), code=2).err
    assert not any(Path("federation/server/inbox").iterdir())


def test_a_server_begins_with_an_authority(tacit: Tacit) -> None:
    tacit("server", "init", "front", "--address", "localhost")
    shown = tacit("server", "roles", "--dir", "front").out
    assert shown.startswith("authority  authority  key ")
    assert len(shown.splitlines()) == 1
    shutil.move("front/keys/authority.key", "mine.key")
    tacit("server", "key", "ann.key")
    given = ("server", "grant", "ann", "--role", "operator", "--key", "ann.key.pub", "--dir")
    assert "there is no front/keys/authority.key" in tacit(*given, "front", code=2).err
    assert "waits" in tacit(*given, "front", "--as", "mine.key").out


def test_a_check_looks_at_modes_and_at_the_register(tacit: Tacit) -> None:
    """Of a server that has joined; what `server_folder` finds is not the matter here."""
    tacit("authority", "init")
    tacit("server", "init", "front", "--address", "localhost")
    tacit("authority", "enrol", "front/front.request", "--yes")
    tacit("server", "join", "front", "authority/answers/front.answer", "--yes")
    assert tacit("server", "check", "front").out == "front: nothing is wrong\n"
    places = Places(Path("front"))
    (places.keys / "authority.key").chmod(0o644)
    assert "chmod 600" in tacit("server", "check", "front", code=1).err
    (places.keys / "authority.key").chmod(0o600)
    held = operators.load(places)
    eve = operators.Operator("eve", operators.Role.RELEASER, b"e" * 32)
    operators.save(places, held.granted(eve), signer(places.folder))  # and not in the log
    assert "not what the log says of eve" in tacit("server", "check", "front", code=1).err
