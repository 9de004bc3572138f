"""`tacit gate`: a gate from its first key to an approved release, and what it refuses."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyotp
import pytest

from tacit.app import sealing
from tacit.app.cli import main
from tacit.app.gatehouse import SEALING, STORE, GateFolder
from tacit.app.journal import KEY, LOG, Journal, digest_of
from tacit.server.auditlog import batches
from tacit.server.entries import read
from tacit.server.gate import approvals
from tacit.server.gate.keys import parse
from tacit.server.kinds import Answered


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    def result(self) -> dict[str, Any]:
        return json.loads(self.out.splitlines()[-1])


class House:
    """A gate's folder, and keys in files beside it."""

    def __init__(self, folder: Path, call: Callable[..., Ended]) -> None:
        self.folder, self.gate, self._call = folder, folder / "gate", call

    def __call__(self, who: str, *arguments: str | Path) -> Ended:
        key = ["--as", self.folder / who] if who else []
        return self._call("gate", *arguments, "--gate", self.gate, *key)

    def named(self, who: str) -> str:
        key = parse((self.folder / who).read_text().strip())
        assert key is not None
        return key.name

    def issue(self, by: str, who: str, *more: str) -> None:
        out = self.folder / who
        done = self(by, "key", "issue", "--organisation", "house", "-o", out, *more)
        assert done.code == 0, done.err

    def events(self) -> list[str]:
        with (self.gate / LOG).open("rb") as file:
            return [type(read(e).entry).__name__ for batch in batches(file) for e in batch.entries]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> House:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("TACIT_GATE_KEY", raising=False)
    monkeypatch.delenv("TACIT_GATE_CODE", raising=False)

    def call(*arguments: str | Path) -> Ended:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["tacit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.run()
        return Ended(int(ended.value.code or 0), *capfd.readouterr())

    made = House(tmp_path, call)
    assert made("", "init", "-o", tmp_path / "a").code == 0
    made.issue("a", "op", "--role", "operator")
    made.issue("op", "c")
    return made


def test_a_key_is_in_its_file_and_nowhere_else(house: House) -> None:
    secret = (house.folder / "c").read_text().strip().split("_")[2]
    assert (house.folder / "c").stat().st_mode & 0o777 == 0o600
    assert house.gate.stat().st_mode & 0o777 == 0o700
    for path in house.gate.iterdir():
        assert secret.encode() not in path.read_bytes()
        assert bytes.fromhex(secret) not in path.read_bytes()
    for path in (STORE, SEALING, KEY):
        assert (house.gate / path).stat().st_mode & 0o777 == 0o600


def test_a_key_is_shown_once_where_no_file_is_named(house: House) -> None:
    shown = house("op", "key", "issue", "--organisation", "clinic", "--json").result()
    assert parse(shown["secret"]).name == shown["key"]
    listed = house("op", "key", "list", "--json")
    assert shown["key"] in listed.out
    assert shown["secret"] not in listed.out
    refused = house("op", "key", "issue", "--organisation", "clinic", "--quiet")
    assert (refused.code, "--out" in refused.err) == (2, True)


def test_the_list(house: House) -> None:
    ended = house("op", "key", "list", "--json")
    *rows, result = map(json.loads, ended.out.splitlines())
    assert result["keys"] == len(rows) == 3
    assert [row["role"] for row in rows] == ["authority", "operator", "client"]
    assert (rows[2]["spent"], rows[2]["left"], rows[2]["state"]) == (0, 100, "ok")
    assert house.named("c") in house("op", "key", "list").out
    assert house("c", "key", "list").code == 1


def test_states(house: House) -> None:
    name = house.named("c")
    assert house("op", "suspend", name, "--reason", "odd queries").code == 0
    refused = house("c", "key", "rotate", name, "-o", house.folder / "c2")
    assert (refused.code, "suspended" in refused.err) == (1, True)
    assert not (house.folder / "c2").exists()
    assert house("op", "restore", name, "--reason", "looked", "--excuse", "7").code == 0
    assert house("c", "key", "rotate", name, "-o", house.folder / "c2").code == 0
    assert house("c2", "key", "revoke", name).code == 0
    assert house("c2", "key", "revoke", name).code == 1
    assert house.events()[-4:] == ["Judged", "Judged", "KeyRenewed", "KeyRevoked"]


def enrolled(house: House, who: str) -> str:
    address = house(who, "totp", "enrol", "--json").result()["otpauth"]
    totp = pyotp.parse_uri(address)
    assert isinstance(totp, pyotp.TOTP)
    return totp.now()


def test_two_people_raise_a_budget(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.issue("a", "b", "--role", "authority")
    code, name = enrolled(house, "b"), house.named("c")
    asked = house("a", "budget", "raise", "5000", "--key", name, "--json").result()
    assert asked["amount"] == 5000
    number = str(asked["request"])
    assert json.loads(house("b", "requests", "--json").out.splitlines()[0])["subject"] == name
    refused = house("b", "approve", number)
    assert (refused.code, "TACIT_GATE_CODE" in refused.err) == (2, True)
    monkeypatch.setenv("TACIT_GATE_CODE", code)
    assert house("a", "approve", number).code == 1  # he asked for it himself
    assert house("b", "approve", number).code == 0
    assert house("b", "approve", number).code == 2  # it is done
    assert house.events()[-1] == "Approved"
    both = house("a", "budget", "raise", "5", "--key", name, "--organisation", "house")
    assert both.code == 2


def test_a_release_and_an_export(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for who in ("r", "s"):
        house.issue("a", who, "--role", "releaser")
    model = house.folder / "model"
    model.write_bytes(b"weights")
    monkeypatch.setenv("TACIT_GATE_CODE", enrolled(house, "s"))
    number = house("r", "ask", "release", model, "--json").result()["request"]
    assert house("s", "approve", str(number)).code == 0
    with GateFolder.open(house.gate) as folder:
        assert approvals.is_released(folder.store, digest_of(model))
    key = sealing.new_key(house.folder / "auditor")
    to, out = house.folder / "auditor.pub", house.folder / "sealed"
    number = house("s", "ask", "export", "--to", to, "--json").result()["request"]
    assert house("s", "export", "--to", to, "-o", out).code == 1
    monkeypatch.setenv("TACIT_GATE_CODE", enrolled(house, "r"))
    assert house("r", "approve", str(number)).code == 0
    assert house("s", "export", "--to", to, "-o", out).code == 0
    sealing.open_file(out, house.folder / "opened", key, None)
    assert (house.folder / "opened").read_bytes() == (house.gate / KEY).read_bytes()
    out.unlink()
    assert house("s", "export", "--to", to, "-o", out).code == 1  # once
    assert not out.exists()


def test_while_the_gate_has_the_log(house: House) -> None:
    before, name = house.events(), house.named("c")
    serving = Journal(house.gate)
    serving.note(Answered(name, 1, "ab"))
    done = house("op", "suspend", name, "--reason", "why")
    assert (done.code, "is serving" in done.out) == (0, True)
    assert house.events() == [*before, "Answered"]
    with GateFolder.open(house.gate) as folder:
        assert serving.take_over(folder.store) == 1
        assert serving.take_over(folder.store) == 0
    serving.close()
    assert house.events() == [*before, "Answered", "Judged"]


def test_a_log_that_is_damaged_stops_nobody_from_suspending(house: House) -> None:
    log = bytearray((house.gate / LOG).read_bytes())
    log[-1] ^= 1
    (house.gate / LOG).write_bytes(log)
    done = house("op", "suspend", house.named("c"), "--reason", "why")
    assert done.code == 0
    assert "waits for the log" in done.err
    assert "suspended" in house("op", "key", "list").out


def test_who_acts(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "who acts" in house("", "key", "list").err
    monkeypatch.setenv("TACIT_GATE_KEY", (house.folder / "op").read_text())
    assert house("", "key", "list").code == 0
    (house.folder / "op").chmod(0o644)
    refused = house("op", "key", "list")
    assert (refused.code, "chmod 600" in refused.err) == (2, True)
    assert house("nobody", "key", "list").code == 2
    (house.folder / "bad").write_bytes(b"\xff\x00")
    (house.folder / "bad").chmod(0o600)
    assert "no valid key" in house("bad", "key", "list").err


def test_mistakes_change_nothing(house: House) -> None:
    name, there = house.named("c"), len(house.events())
    for arguments in (
        ("key", "issue", "--organisation", "x", "--role", "king"),
        ("key", "issue", "--organisation", "x", "--detail", "full"),
        ("key", "issue", "--organisation", "x", "--detail", "most"),
        ("key", "issue", "--organisation", "x", "--days", "0"),
        ("key", "issue", "--organisation", "x", "--days", "nan"),
        ("key", "issue", "--organisation", "x", "--network", "here"),
        ("key", "issue", "--organisation", ""),
        ("key", "issue", "--organisation", "x", "-o", house.folder / "c"),
        ("key", "issue", "--organisation", "x", "-o", house.folder / "no" / "folder"),
        ("key", "rotate", name, "--overlap", "1e9"),
        ("key", "revoke", "nobody"),
        ("suspend", name, "--reason", ""),
        ("restore", name, "--reason", "why", "--excuse", "1e9"),
        ("ask", "release", house.folder / "nothing"),
        ("approve", "7"),
    ):
        ended = house("op", *arguments)
        assert ended.code == 2, arguments
        assert "Traceback" not in ended.err
    assert len(house.events()) == there


def test_a_gate_is_made_once_and_a_damaged_one_is_none(house: House) -> None:
    refused = house("", "init", "-o", house.folder / "again")
    assert (refused.code, "first key already" in refused.err) == (2, True)
    assert not (house.folder / "again").exists()
    (house.gate / STORE).write_bytes(b"nonsense" * 1000)
    refused = house("op", "key", "list")
    assert (refused.code, "damaged" in refused.err or "no file of a gate" in refused.err) == (
        1,
        True,
    )
    (house.gate / STORE).unlink()
    refused = house("op", "key", "list")
    assert (refused.code, "tacit gate init" in refused.err) == (2, True)
    sealing = (house.gate / "totp.key").read_bytes()
    refused = house("", "init", "-o", house.folder / "again")  # a backup needs the key of before
    assert (refused.code, "put it back from a backup" in refused.err) == (2, True)
    assert (house.gate / "totp.key").read_bytes() == sealing
    assert not (house.gate / STORE).exists()


def test_a_gate_whose_making_was_cut_off(house: House) -> None:
    other = House(house.folder, house._call)
    other.gate = house.folder / "other"
    GateFolder.make(other.gate)  # and no first key
    assert other("", "init", "-o", house.folder / "first").code == 0
    assert other("first", "key", "list").code == 0


def test_a_refusal_says_what_would_do(house: House) -> None:
    taken = house.folder / "c"
    done = house("op", "key", "issue", "--organisation", "house", "-o", taken)
    assert (done.code, "there is a file at" in done.err) == (2, True)
    done = house("op", "key", "issue", "--organisation", "house", "-o", house.folder / "no" / "k")
    assert (done.code, "no folder" in done.err) == (2, True)
    done = house("op", "budget", "raise", "500", "--key", house.named("c"))
    assert (done.code, "that takes authority" in done.err) == (1, True)


def test_who_only_looks_is_told_of_no_change(house: House) -> None:
    serving = Journal(house.gate)
    house("op", "suspend", house.named("c"), "--reason", "why")  # which the log waits for
    for looking in (("key", "list"), ("requests",)):
        done = house("op", *looking)
        assert (done.code, "is serving" in done.out + done.err) == (0, False)
    serving.close()
