"""A server's folder: its runs, its processes, and whom it refused."""

import shutil
from pathlib import Path

import pytest

from tacit.app.watching import house_of
from tacit.server.dashboard import house as house_module
from tacit.server.dashboard.house import MOST_REASONS, OTHER, House
from tacit.server.deployed import ProcessEnded, TurnedAway
from tests.server.dashboard import stage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "federation"


def looked(path: Path) -> House:
    house = house_of(path)
    house.look()
    return house


def names(house: House) -> list[str]:
    return [each["name"] for each in house.board.get("runs")["shown"]]


def test_a_server_from_its_logs(folder: Path) -> None:
    own, front = stage.server(folder)
    house = looked(folder)
    told = house.board.get("server")
    assert {name: (each["starts"], each["is_up"]) for name, each in told["processes"].items()} == {
        "front": (1, True), "superexec": (2, True), "superlink": (1, True),
    }  # fmt: skip
    assert told["processes"]["superexec"]["how"] == "signal 9"
    assert told["turned_away"]["reasons"] == {"no such key": 41, "control is not offered": 3}
    assert told["turned_away"]["lately"][1]["who"] == stage.HOSTILE
    assert told["refused_orders"] == 1
    assert told["acts"][0]["reason"] == stage.HOSTILE
    assert [each["event"] for each in told["acts"]] == ["OrderRefused", "RunBegun", "RunOrdered"]
    assert told["logs"]["server"]["root"] == own.log.head.head.root.hex()
    assert told["logs"]["front"]["size"] == front.log.head.head.size
    assert told["nodes"] == {"site-1": True, "site-2": False, "site-3": True}
    assert told["troubles"] == ["site-2 is failing: see tacit logs site-2"]
    own.note(ProcessEnded("front", "exit code 1"))
    house.look()
    assert not house.board.get("server")["processes"]["front"]["is_up"]


def test_runs_come_and_go_and_the_last_to_change_is_first(folder: Path) -> None:
    stage.server(folder)
    house = looked(folder)
    assert names(house) == []
    stage.run(folder / "runs" / "one", rounds=1)
    house.look()
    assert names(house) == ["one"]
    (folder / "runs" / "not-a-run").mkdir()
    stage.run(folder / "runs" / "two", rounds=2)
    house.look()
    assert sorted(names(house)) == ["one", "two"]
    assert house.board.get("runs")["all"] == 2
    shutil.rmtree(folder / "runs" / "one")
    house.look()
    assert names(house) == ["two"]


def test_only_so_many_runs_are_followed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house_module, "MOST_RUNS", 2)
    for name in ("a", "b", "c"):
        stage.run(folder / name)
    house = looked(folder)
    assert len(names(house)) == 2
    assert house.board.get("runs")["all"] == 3


def test_a_server_without_anything_yet(folder: Path) -> None:
    folder.mkdir()
    (folder / "server.key").write_bytes(b"")
    told = looked(folder).board.get("server")
    assert told["processes"] == {}
    assert told["logs"]["front"] == {"size": 0, "root": "", "fault": ""}


@pytest.mark.parametrize("said", ["", "[]", "{", '{"nodes": 7}', '{"nodes": [{}], "troubles": 1}'])
def test_another_version_s_state_is_passed_over(folder: Path, said: str) -> None:
    stage.server(folder)
    (folder / "supervisor.json").write_text(said)
    told = looked(folder).board.get("server")
    assert (told["nodes"], told["troubles"]) == ({}, [])
    assert told["processes"]


def test_strangers_cannot_make_it_grow(folder: Path) -> None:
    _, front = stage.server(folder)
    front.note(*(TurnedAway(f"reason {n}", "203.0.113.9", "", 1) for n in range(3 * MOST_REASONS)))
    told = looked(folder).board.get("server")["turned_away"]
    assert len(told["reasons"]) == MOST_REASONS + 1
    assert told["reasons"][OTHER] == 2 * MOST_REASONS + 2
    assert len(told["lately"]) == house_module.MOST_LATELY


def test_a_private_key_is_never_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor anything but what is to be seen."""
    stage.server(folder)
    stage.run(folder / "runs" / "one", rounds=1)
    for secret in ("server.key", "audit.key", "runs/one/audit.key", "runs/one/checkpoint.npz"):
        (folder / secret).write_bytes(b"secret")
    opened: list[str] = []
    inner = Path.open

    def watched(self: Path, *given, **named):
        opened.append(str(self.relative_to(folder)))
        assert given[:1] in ((), ("rb",))
        return inner(self, *given, **named)

    monkeypatch.setattr(Path, "open", watched)
    monkeypatch.setattr(Path, "read_bytes", lambda self: watched(self, "rb").read())
    looked(folder)
    assert set(opened) <= {
        "audit.log", "front/audit.log", "runs/one/audit.log", "runs/one/metrics.jsonl",
        "runs/one/status.json", "runs/one/config.toml", "supervisor.json",
    }  # fmt: skip
    assert opened
