"""`tacit device status`: all that there is to know, from a vault that is left as it was."""

import fcntl
import json
import os
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tacit.app.cli import choosing, owning
from tacit.app.deployment import bundle
from tacit.client import budget, diary, status
from tacit.client.device import load_policy, save_policy
from tacit.client.diary import Aborted, BundleRefused, Refused, TookPart
from tacit.client.enrolment import ADDRESS, CA
from tacit.client.node.base import NODE_LOCK
from tacit.client.node.diary import NodeDiary
from tacit.client.node.settings import FILE, Settings
from tacit.client.policy import Policy
from tacit.client.vault import FileVault, locked
from tests.app.inprocess import Tacit
from tests.app.test_enrolling import built, tacit, three
from tests.runtime.private import own

__all__ = ["built", "tacit", "three"]


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def ward(tacit: Tacit, three: str) -> FileVault:
    """A device that was in two runs, spent something, and refused something."""
    vault = FileVault.open(Path("ward-1"))
    save_policy(vault, Policy(epsilon=60.0, unit="record", clear_epsilon=2.0))
    policy = load_policy(vault)
    for round_ in range(1, 4):
        budget.spend(vault, policy, [own(round=round_)])
        for purpose in ("train", "evaluate"):
            part = TookPart(7, round_, purpose, "masks", 3 + round_, 0.5, 0.0)
            diary.note(vault, part, 1_767_571_200 + round_)
    diary.note(vault, TookPart(8, 1, "train", "masks, noise", 3, 0.5, 0.0), 1_767_580_000)
    diary.note(vault, Refused(8, "train", "a cohort of 2\x1b[2J\u202e"), 1_767_580_001)
    diary.note(vault, Aborted(8, "train", "RuntimeError in it"), 1_767_580_002)
    diary.note(vault, BundleRefused(9, "ab" * 32), 1_767_580_003)
    return vault


def test_a_device_that_has_not_joined(tacit: Tacit) -> None:
    tacit("device", "init", "ward")
    said = tacit("device", "status", "ward", code=1)
    assert said.out.startswith("ward: not enrolled, its node has not run yet (tacit device run)\n")
    assert "it took part in nothing yet\nit refused nothing yet\n" in said.out
    assert "tacit device join" in said.err
    assert said.err.count("error") == 1


def test_what_its_owner_is_told(tacit: Tacit, three: str, ward: FileVault) -> None:
    said = tacit("device", "status", "ward-1")
    policy = load_policy(ward)
    spent = budget.ledger_of(ward, policy, own().unit).epsilon(1, 1e-5)
    lines = said.out.splitlines()
    assert not said.err
    assert lines[0] == "ward-1: device 1, its node has not run yet (tacit device run)"
    assert lines[1].startswith(f"authority {three}, key ")
    for expected in (
        r"member until 20\d\d-\d\d-\d\d, roster 2, devices: 3",
        r"server localhost:9092, CA's certificate until 20\d\d-\d\d-\d\d",
        r"  sums with noise, for epsilon 60 at delta 1e-05 in all, for each example",
        r"trains whenever it is asked \(no rule in node.toml\)",
        rf"  {bundle.digest(bundle.build())}  \(the installed Tacit\)",
        r"took part in 2 runs",
        r"  run 7: rounds 1-3 \(3\), sums: 6, with 4-6 devices, masks; 2026-01-0.*",
        r"parts in the clear: spent epsilon 0 of 2 at delta 1e-05, left 2; releases: 0; .*",
        r"refusals \(--refused shows them\): refused 1, aborted 1, bundle refused 1",
        r"diary: 11 entries; its heads, to be noted: deeds [0-9a-f]{16}, refusals [0-9a-f]{16}",
    ):
        assert any(re.fullmatch(expected, line) for line in lines), expected
    (line,) = [line for line in lines if line.startswith("sums with noise, record")]
    found = re.search(r"spent epsilon ([\d.]+) of 60 .* left ([\d.]+); releases: 3", line)
    assert found is not None
    told, left = map(float, found.groups())
    assert told - 1e-4 < spent <= told
    assert left <= 60 - spent < left + 1e-4


def test_what_a_program_is_told(tacit: Tacit, three: str, ward: FileVault) -> None:
    said = tacit("device", "status", "ward-1", "--json").result()
    assert (said["name"], said["device"], said["devices"]) == ("ward-1", 1, 3)
    assert said["fingerprint"] == three
    assert said["running"] is False
    assert said["bundles"] == [bundle.digest(bundle.build())]
    assert said["rules"]["connection"] == asdict(Settings().connection)
    assert said["policy"]["epsilon"] == 60.0
    assert [(run["run"], run["rounds"], run["sums"]) for run in said["runs"]] == [
        (7, [1, 2, 3], 6),
        (8, [1], 1),
    ]
    by_name = {each["name"]: each for each in said["spending"]}
    assert by_name["parts in the clear"]["left"] == 2.0
    assert by_name["sums with noise, record"]["releases"] == 3
    assert said["counts"]["TookPart"] == 7
    assert said["faults"] == []


def test_entries(tacit: Tacit, three: str, ward: FileVault) -> None:
    lines = tacit("device", "status", "ward-1", "--refused").out.splitlines()
    assert len(lines) == 3
    assert lines[0].endswith('refused: run 8, stage "train", reason "a cohort of 2\\u001b[2J?"')
    (line,) = tacit("device", "status", "ward-1", "--refused", "--last", "1").out.splitlines()
    assert line.endswith(f'bundle refused: run 9, digest "{"ab" * 32}"')
    out = tacit("device", "status", "ward-1", "--last", "4", "--json").out
    told = [json.loads(line) for line in out.splitlines()]
    assert [each["entry"] for each in told[:-1] if "entry" in each] == [
        "Refused", "Aborted", "BundleRefused", "Joined"
    ]  # fmt: skip


def test_nothing_is_written(tacit: Tacit, three: str, ward: FileVault) -> None:
    for name in ("vault.use", "vault.lock", "diary.lock"):
        (ward.folder / name).unlink(missing_ok=True)
    before = snapshot(ward.folder)
    os.utime(ward.folder, ns=(1, 1))
    tacit("device", "status", "ward-1")
    tacit("device", "status", "ward-1", "--json", "--last", "3")
    assert snapshot(ward.folder) == before
    assert ward.folder.stat().st_mtime_ns == 1


def test_while_the_node_runs(tacit: Tacit, three: str, ward: FileVault) -> None:
    """It holds all of its locks, and has a file under its own name."""
    NodeDiary(ward).node_began()
    (ward.folder / "roster.sealed.0123456789abcdef.new").write_bytes(b"half")
    with locked(ward.folder / NODE_LOCK), ward.alone():
        use, lock = (
            os.open(ward.folder / name, os.O_RDWR | os.O_CREAT)
            for name in ("vault.use", "diary.lock")
        )
        fcntl.flock(use, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "its node is running" in tacit("device", "status", "ward-1").out
        os.close(use)
        os.close(lock)
    said = tacit("device", "status", "ward-1")
    assert "was killed or its machine stopped" in said.out
    assert "note: 1 files that a crash has left: tacit device run removes them" in said.out
    NodeDiary(ward).node_ended("stopped")
    assert re.search(r"it ended 20.*, stopped\n", tacit("device", "status", "ward-1").out)


def test_its_rules(tacit: Tacit, three: str, ward: FileVault) -> None:
    (ward.folder / FILE).write_text(
        "hook = '/bin/may'\nmax_rounds_per_day = 9\n[power]\nmains = true\n"
        "[schedule]\nwindows = ['mon-fri 20:00-06:00']\n"
    )
    assert (
        "trains in mon-fri 20:00-06:00, local time; on mains only; 9 rounds a day at most; "
        "if /bin/may says so\n"
    ) in tacit("device", "status", "ward-1").out
    (ward.folder / FILE).write_text("max_rounds_per_day = 'nine'")
    said = tacit("device", "status", "ward-1", code=1)
    assert "node.toml: max_rounds_per_day = 'nine', expected a whole number: until" in said.err


def test_a_head_that_was_noted(tacit: Tacit, three: str, ward: FileVault) -> None:
    head = tacit("device", "status", "ward-1", "--json").result()["heads"]["deeds"]
    tacit("device", "status", "ward-1", "--noted", head[:16].upper())
    page = ward.folder / "deeds.00000001"
    page.write_bytes(b"".join(page.read_bytes().splitlines(keepends=True)[:-1]))
    said = tacit("device", "status", "ward-1", "--noted", head[:16], code=1)
    assert f"the diary has no line {head[:16]}, which was noted" in said.err
    assert "16 digits" in tacit("device", "status", "ward-1", "--noted", "ab", code=2).err


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x80  # which is no PEM either
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("device.sealed", "its keys are lost"),
        ("policy.sealed", "make a new vault"),
        ("roster.sealed", "move roster.sealed away, then tacit device join"),
        ("name.sealed", "until then the device works"),
        ("fingerprint.sealed", "tacit device join with the authority's newest answer"),
        ("ledger_record_add_or_remove.sealed", "what was spent is not known any more"),
        ("deeds.00000001", "the diary is damaged: deeds.00000001, line"),
        (CA, "tacit device join with the authority's newest answer"),
    ],
)
def test_damage_in_one_place_hides_nothing_else(
    tacit: Tacit, three: str, ward: FileVault, name: str, said: str
) -> None:
    spoil(ward.folder / name)
    ended = tacit("device", "status", "ward-1", code=1)
    assert said in ended.err
    assert "{slot}" not in ended.err
    assert "refusals (--refused shows them)" in ended.out
    assert ("member until" in ended.out) == (name not in ("device.sealed", "roster.sealed"))
    tacit("device", "status", "ward-1", "--json", code=1)
    if name == "roster.sealed":  # what is said helps
        (ward.folder / name).unlink()
        tacit("device", "join", "ward-1", "authority/answers/ward-1.answer")
        tacit("device", "status", "ward-1")


def test_files_that_are_not_there(tacit: Tacit, three: str, ward: FileVault) -> None:
    (ward.folder / ADDRESS).unlink()
    (ward.folder / "node.key").chmod(0o644)
    said = tacit("device", "status", "ward-1", code=1).err
    assert said.count("tacit device join with the authority's newest answer") == 1
    assert "chmod 600 it first: if it is lost, tacit device rotate makes a new one" in said


@pytest.mark.parametrize(
    ("days", "code", "said"),
    [(-1, 0, ""), (355, 0, "its membership ends in"), (366, 1, "its membership is over")],
)
def test_what_ends_is_told_before(
    tacit: Tacit, three: str, ward: FileVault, days: int, code: int, said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    now = time.time() + days * 24 * 3600

    class Clock:
        time = staticmethod(lambda: now)

    monkeypatch.setattr(owning, "time", Clock)
    ended = tacit("device", "status", "ward-1", code=code)
    assert said in ended.out + ended.err
    assert ("tacit authority renew" in ended.out + ended.err) == bool(said)


def test_every_policy_has_words() -> None:
    def words(**changed: Any) -> str:
        return "\n".join(choosing.policy_words(Policy(**changed)))

    for changed in (
        {"min_cohort": 9}, {"min_survivors": 9}, {"corrupt": 0.1}, {"max_norm": 3.0},
        {"plain": True}, {"hybrid": True}, {"lattice": True}, {"consortium": True},
        {"clear_epsilon": 1.0}, {"epsilon": 1.0}, {"keep": 0.5}, {"models": ("0" * 64,)},
    ):  # fmt: skip
        assert words(**changed) != words(), changed
    private: dict[str, Any] = {"epsilon": 1.0}
    for changed in ({"delta": 1e-6}, {"unit": "record"}, {"trust_server": True}):
        assert words(**private, **changed) != words(**private), changed


def test_every_slot_has_a_remedy() -> None:
    def remedies(slot: str) -> str:
        return next((kind for kind in status._REMEDIES if slot.startswith(kind)), "any")

    assert {remedies(slot) for slot in ("session", "run", "kem", "agreed", "epoch")} == {"any"}
    assert remedies("ledger_client_zero_out") == "ledger"
    assert remedies("served") == "served"
