"""`tacit log`, `tacit seal`, `tacit open`, and the audit log that a run leaves: files at rest."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flwr.app import Array, ArrayRecord
from numpy import zeros

from tacit.app import reporting, sealing
from tacit.app.folder import RunFolder
from tacit.app.journal import digest_of
from tacit.app.simulation import simulate
from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.identity import Identity
from tacit.crypto.sealed import Context
from tacit.server.auditlog import AuditLog, batches, verify
from tacit.server.checkpoint import Checkpoint
from tacit.server.entries import decode
from tacit.server.events import (
    EpsilonSpent,
    KeyChanged,
    LeftOut,
    RoundFinished,
    RoundStarted,
    RunFinished,
    RunStarted,
    SumFailed,
)
from tests.app.inprocess import ran
from tests.app.small import SMALL, small

KEEPER = Identity(bytes(32))
MODE = 0o777


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    def result(self) -> dict[str, Any]:
        """The one line of JSON that was printed."""
        return json.loads(self.out)


Tacit = Callable[..., Ended]


@pytest.fixture
def tacit(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Tacit:
    """Runs the command in this process."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: str | Path) -> Ended:
        return Ended(*ran(monkeypatch, capfd, arguments))

    return call


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def log(here: Path) -> Path:
    with AuditLog.create(here / "audit.log", KEEPER, bytes(16)) as open_log:
        open_log.append([b'{"n":0}', b'{"n":1}'])
        open_log.append([b'{"n":2}'])
    return here / "audit.log"


def read(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        return [decode(entry) for batch in batches(file) for entry in batch.entries]


# tacit log verify


def test_a_whole_log_is_said_to_be_whole_and_how_far_that_goes(tacit: Tacit, log: Path) -> None:
    ended = tacit("log", "verify", log)
    assert (ended.code, ended.err) == (0, "")
    assert f"entries: 3, root: {verify(log).head.head.root.hex()}" in ended.out
    assert "--key was not given" in ended.out
    assert "--head was not given" in ended.out
    kept = tacit("log", "verify", log, "--key", KEEPER.public.hex(), "--keep", "head", "--json")
    assert kept.code == 0
    assert kept.result() == {
        "event": "Result",
        "log": str(log),
        "whole": True,
        "fault": "",
        "entries": 3,
        "root": verify(log).head.head.root.hex(),
        "key": KEEPER.public.hex(),
    }
    ended = tacit("log", "verify", log, "--key", KEEPER.public.hex(), "--head", "head")
    assert ended.code == 0
    assert "not given" not in ended.out
    assert tacit("log", "verify", log, "--quiet") == Ended(0, "", "")


def test_a_head_is_kept_in_place_of_an_older_one(tacit: Tacit, log: Path, here: Path) -> None:
    tacit("log", "verify", log, "--keep", "head")
    before = (here / "head").read_text()
    with AuditLog.open(log, KEEPER) as open_log:
        open_log.append([b"{}"])
    assert tacit("log", "verify", log, "--head", "head", "--keep", "head").code == 0
    assert (here / "head").read_text() != before
    (here / "mine").write_text("mine")
    for path in ("mine", log.name):
        ended = tacit("log", "verify", log, "--keep", path)
        assert ended.code == 2
        assert "is not a head" in ended.err
    assert (here / "mine").read_text() == "mine"


def test_a_fault_is_said_and_where(tacit: Tacit, log: Path) -> None:
    data = bytearray(log.read_bytes())
    data[-1] ^= 1
    log.write_bytes(data)
    ended = tacit("log", "verify", log)
    assert ended.code == 1
    assert not ended.out
    assert "a head, is damaged" in ended.err
    (result,) = [json.loads(tacit("log", "verify", log, "--json").out)]
    assert result["whole"] is False
    assert "at byte" in result["fault"]


def test_an_unfinished_batch_is_told_from_damage(tacit: Tacit, log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-1])
    ended = tacit("log", "verify", log)
    assert ended.code == 1
    assert "entries: 2," in ended.out
    assert "bytes are the beginning of a batch" in ended.err
    AuditLog.open(log, KEEPER).close()
    assert tacit("log", "verify", log).code == 0


def test_a_log_that_was_cut_off_or_forked_is_found_by_a_kept_head(
    tacit: Tacit, log: Path, here: Path
) -> None:
    common = log.read_bytes()
    with AuditLog.open(log, KEEPER) as open_log:
        open_log.append([b"one future"])
    tacit("log", "verify", log, "--keep", "head")
    log.write_bytes(common)
    ended = tacit("log", "verify", log, "--head", "head")
    assert (ended.code, "entries are missing: 3 are left" in ended.err) == (1, True)
    with AuditLog.open(log, KEEPER) as open_log:
        open_log.append([b"another", b"future"])
    ended = tacit("log", "verify", log, "--head", "head")
    assert (ended.code, "was forked" in ended.err) == (1, True)
    assert tacit("log", "verify", log).code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.log"], "no audit log at none.log"),
        (["."], "no audit log at ."),
        (["audit.log", "--key", "abc"], "64 hexadecimal digits"),
        (["audit.log", "--head", "none"], "no head at none"),
        (["audit.log", "--head", "audit.log"], "is not a head"),
    ],
)
def test_a_mistake_about_a_log(tacit: Tacit, log: Path, arguments: list[str], said: str) -> None:
    ended = tacit("log", "verify", *arguments)
    assert ended.code == 2
    assert said in ended.err


def test_another_key_is_said(tacit: Tacit, log: Path) -> None:
    ended = tacit("log", "verify", log, "--key", "00" * 32)
    assert ended.code == 1
    assert f"kept with another key: {KEEPER.public.hex()}" in ended.err


# The log of a run


def test_a_run_writes_its_own_log(here: Path) -> None:
    with RunFolder.create(here / "run", SMALL) as folder:
        folder.record(RunStarted(1))
        folder.record(LeftOut(1, "report", 3, "no answer"))
        assert verify(here / "run" / "audit.log").head.head.size == 1  # waits for the next
        folder.record(RoundFinished(1, 1, 0.5, {"loss": float("nan")}, {}, {"accuracy": 0.5}))
        assert verify(here / "run" / "audit.log").head.head.size == 3
        folder.keep(Checkpoint(1, {"w": zeros(2)}))
        folder.finish(ArrayRecord({"w": Array(zeros(2))}))
        folder.record(LeftOut(1, "report", 4, "no answer"))
    found = read(here / "run" / "audit.log")
    assert [entry["event"] for entry in found] == [
        *("RunStarted", "Refused", "RoundFinished", "CheckpointKept", "Released", "Refused")
    ]
    assert found[2]["server"] == {"accuracy": 0.5}
    assert found[3]["digest"] == digest_of(here / "run" / "checkpoint.npz")
    assert found[4]["digest"] == digest_of(here / "run" / "model.safetensors")
    assert all(1.7e9 < entry["at"] < 1e11 for entry in found)
    assert [entry["at"] for entry in found] == sorted(entry["at"] for entry in found)
    assert (here / "run" / "audit.key").stat().st_mode & MODE == 0o600


def test_a_private_run_can_be_held_to_its_log(tacit: Tacit, here: Path) -> None:
    """What was going to be done stands before it was done: who was asked, what it cost."""
    settings = small(
        "run.rounds=2",
        "privacy.mode=distributed",
        "privacy.epsilon=4",
        'faults=["drop report 2 @1"]',
    )
    with RunFolder.create(here / "run", settings) as folder:
        simulate(settings, folder=folder)
    found = read(here / "run" / "audit.log")
    begins = [*("RunStarted", "RoundStarted"), *5 * ("KeyChanged",)]
    rounds = ["CohortCommitted", "EpsilonSpent", "SumOpened", "CheckpointKept", "RoundFinished"]
    first = [rounds[0], "Refused", *rounds[1:]]
    last = ["RoundStarted", *rounds, "RunFinished", "Released"]
    assert [entry["event"] for entry in found] == [*begins, *first, *last]
    keys = [(e["kind"], e["device"]) for e in found if e["event"] == "KeyChanged"]
    assert sorted(keys, key=str) == [("roster", None), *(("run", n) for n in range(4))]
    (refused,) = [entry for entry in found if entry["event"] == "Refused"]
    assert (refused["round"], refused["stage"], refused["device"]) == (1, "report", 2)
    statement = reporting.statement_of(folder)
    assert statement is not None
    spent = [entry for entry in found if entry["event"] == "EpsilonSpent"]
    assert [entry["releases"] for entry in spent] == [1, 2]
    assert spent[-1]["epsilon"] == statement.worst
    assert spent[-1]["delta"] == statement.delta
    assert tacit("log", "verify", "run/audit.log").code == 0


def test_a_log_of_refusals_is_verified_and_shown(tacit: Tacit, here: Path) -> None:
    """No text of a device makes a line of its own, or passes for a field."""
    said = '\x1b[2J\n9  released: name "x"\u202e[red]' + 1000 * "x"
    with RunFolder.create(here / "run", SMALL) as folder:
        folder.record(KeyChanged(1, "run", 3, "ab" * 32))
        folder.record(LeftOut(1, "report", 3, said))
        folder.record(SumFailed(1, "train", said))
        folder.record(EpsilonSpent(1, None, 1e-5, "client", "server", 1))
    assert tacit("log", "verify", "run/audit.log").code == 0
    ended = tacit("log", "show", "run/audit.log")
    assert (ended.code, ended.err) == (0, "")
    shown = ended.out.split("\n")[:-1]
    assert [line.split()[0] for line in shown] == ["0", "1", "2", "3"]
    assert all(line.isprintable() and len(line) < 700 for line in shown)
    assert shown[0].endswith(
        f'key changed: round 1, kind "run", device 3, fingerprint "{"ab" * 32}"'
    )
    reason = r'reason " [2J 9  released: name \"x\" [red]' + 300 * "x"
    assert f'refused: round 1, stage "report", device 3, {reason}' in shown[1]
    assert reason in shown[2]
    assert 'epsilon no bound, delta 1e-05, unit "client"' in shown[3]
    told = [
        json.loads(line)
        for line in tacit("log", "show", "run/audit.log", "--json").out.splitlines()
    ]
    assert [each.get("number") for each in told] == [0, 1, 2, 3, None]
    assert (told[1]["event"], told[1]["device"]) == ("Refused", 3)
    assert (told[-1]["shown"], told[-1]["unread"], told[-1]["fault"]) == (4, 0, "")
    assert tacit("log", "show", "run/audit.log", "--quiet") == Ended(0, "", "")


def test_what_a_log_shows_ends_at_the_first_fault(tacit: Tacit, log: Path) -> None:
    """Entries that this version does not know are said to be there, and the others are shown."""
    with AuditLog.open(log, KEEPER) as open_log:
        open_log.append([b'{"at":1,"event":"RunStarted","rounds":3}'])
    ended = tacit("log", "show", log)
    assert ended.code == 1
    assert ended.out == "3  1970-01-01 00:00:01  run started: rounds 3, resumed_from 0\n"
    assert ended.err.count("of no kind that this version knows") == 3
    log.write_bytes(log.read_bytes().replace(b'"rounds":3', b'"rounds":4'))
    ended = tacit("log", "show", log)
    assert (ended.code, ended.out) == (1, "")
    assert "is damaged" in ended.err
    assert tacit("log", "show", "none.log").code == 2


def test_a_run_that_goes_on_goes_on_with_its_log(here: Path) -> None:
    """What was recorded stays, also of a round that is run again."""
    folder = RunFolder.create(here / "run", SMALL)
    folder.record(RoundStarted(1, 2))
    with pytest.raises(KeyboardInterrupt), folder:
        raise KeyboardInterrupt
    with RunFolder.open(here / "run") as again:
        again.resume()
        again.record(RoundStarted(1, 2))
        again.record(RunFinished(2, 1.0))
    found = [entry["event"] for entry in read(here / "run" / "audit.log")]
    assert found == ["RoundStarted", "RoundStarted", "RunFinished"]
    assert [entry["event"] for entry in again.events()] == found[1:]


def test_a_run_does_not_go_on_with_a_log_that_was_altered(here: Path) -> None:
    with RunFolder.create(here / "run", SMALL) as folder:
        folder.record(RoundStarted(1, 2))
    path = here / "run" / "audit.log"
    path.write_bytes(path.read_bytes().replace(b'"rounds":2', b'"rounds":3'))
    with pytest.raises(Damaged), RunFolder.open(here / "run") as again:
        again.record(RoundStarted(2, 2))
    (here / "run" / "audit.key").unlink()
    with pytest.raises(ParameterError, match="is not there"), RunFolder.open(here / "run") as again:
        again.record(RoundStarted(2, 2))


# tacit seal, tacit open


def test_a_file_is_sealed_and_opened(tacit: Tacit, here: Path) -> None:
    content = bytes(range(256)) * 9000
    (here / "model.safetensors").write_bytes(content)
    for name in ("ours", "theirs"):
        ended = tacit("seal", "--new-key", name)
        assert ended.code == 0
        public = (here / f"{name}.pub").read_text().strip()
        assert public in ended.out
        assert (here / name).read_bytes().hex() not in ended.out
        assert (here / name).stat().st_mode & MODE == 0o600
    root = "ab" * 32
    ended = tacit(
        "seal", "model.safetensors", "--to", "ours.pub", "--to", public,
        "--run", "7", "--round", "3", "--root", root,
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    assert content[:64] not in (here / "model.safetensors.sealed").read_bytes()
    (here / "model.safetensors").unlink()
    for name in ("ours", "theirs"):
        ended = tacit("open", "model.safetensors.sealed", "--key", name, "--json")
        assert ended.code == 0
        assert ended.result() == {
            "event": "Result",
            "opened": "model.safetensors",
            "run": 7,
            "round": 3,
            "root": root,
        }
        assert (here / "model.safetensors").read_bytes() == content
        assert (here / "model.safetensors").stat().st_mode & MODE == 0o600
        (here / "model.safetensors").unlink()
    wanted = ("open", "model.safetensors.sealed", "--key", "ours", "--run", "7", "--root", root)
    assert tacit(*wanted, "--round", "3").code == 0
    ended = tacit(*wanted, "--round", "4", "--replace")
    assert (ended.code, "belongs to run 7, round 3" in ended.err) == (1, True)


@pytest.fixture
def sealed(here: Path) -> Path:
    """A file of ten chunks, sealed to the key in `key`."""
    (here / "file").write_bytes(bytes(2_500_000))
    key = sealing.new_key(here / "key")
    sealing.seal_file(here / "file", here / "file.sealed", [key.public], Context())
    (here / "file").unlink()
    return here / "file.sealed"


def test_nothing_is_left_of_a_file_that_does_not_open(
    tacit: Tacit, sealed: Path, here: Path
) -> None:
    """Not even of one whose first chunks are right, and an older file stays as it was."""
    whole = sealed.read_bytes()
    sealing.new_key(here / "stranger")
    before = sorted(here.iterdir())
    for data, key in (
        (whole[:-1], "key"),
        (whole + b"\x00", "key"),
        (whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:], "key"),
        (b"\x00" + whole[1:], "key"),
        (b"", "key"),
        (whole, "stranger"),
    ):
        sealed.write_bytes(data)
        ended = tacit("open", sealed, "--key", key)
        assert ended.code == 1
        assert ended.err.startswith("error: ")
        assert sorted(here.iterdir()) == before
        (here / "file").write_text("older")
        assert tacit("open", sealed, "--key", key, "--replace").code == 1
        assert (here / "file").read_text() == "older"
        (here / "file").unlink()


def test_no_file_is_replaced_unasked(tacit: Tacit, sealed: Path, here: Path) -> None:
    (here / "file").write_text("mine")
    for command in (
        ("open", sealed, "--key", "key"),
        ("seal", "file", "--to", "key.pub"),
        ("seal", "--new-key", "key"),
    ):
        ended = tacit(*command)
        assert (ended.code, "already" in ended.err) == (2, True)
    assert (here / "file").read_text() == "mine"
    assert tacit("open", sealed, "--key", "key", "--replace").code == 0
    assert (here / "file").read_bytes() == bytes(2_500_000)
    assert tacit("seal", "file", "--to", "key.pub", "--replace").code == 0
    (here / "key").unlink()
    assert tacit("seal", "--new-key", "key").code == 2  # its public half is another key's


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["seal"], "name a FILE"),
        (["seal", "file"], "name a FILE"),
        (["seal", "--new-key", "k", "--to", "key.pub"], "leave out the rest"),
        (["seal", "none", "--to", "key.pub"], "no file at none"),
        (["seal", "key", "--to", "abcd"], "64 hexadecimal digits"),
        (["seal", "key", "--to", "key"], "is no public key"),
        (["seal", "key", "--to", "00" * 32], "not a public key that can be sealed to"),
        (["seal", "key", "--to", "key.pub", "--to", "key.pub"], "all different"),
        (["seal", "key", "--to", "key.pub", "--root", "abcd"], "64 hexadecimal digits"),
        (["seal", "key", "--to", "key.pub", "--root", "xyz"], "64 hexadecimal digits"),
        (["seal", "key", "--to", "key.pub", "--run", str(1 << 64)], "no number of a run"),
        (["open", "file.sealed", "--key", "none"], "no key at none"),
        (["open", "file.sealed", "--key", "key.pub"], "is no key"),
        (["open", "key", "--key", "key"], "name the file with --out"),
        (["open", "none.sealed", "--key", "key"], "no file at none.sealed"),
    ],
)
def test_a_mistake_about_sealing(
    tacit: Tacit, sealed: Path, here: Path, arguments: list[str], said: str
) -> None:
    before = sorted(here.iterdir())
    ended = tacit(*arguments)
    assert ended.code == 2
    assert said in " ".join(ended.err.split())
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("command", [("seal",), ("open",), ("log", "verify")])
def test_help_fits_a_terminal(tacit: Tacit, command: tuple[str, ...]) -> None:
    ended = tacit(*command, "--help")
    assert ended.code == 0
    assert max(map(len, ended.out.splitlines())) <= 80
