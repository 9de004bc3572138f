"""The diary: what is in it lasts, nothing changes in it unnoticed, nothing leaves without it."""

import base64
import errno
import os
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tacit.client import budget, diary, journal
from tacit.client.app import DeviceFailed
from tacit.client.diary import DEEDS, NotNow, Refused, TookPart
from tacit.client.journal import Journal, Read
from tacit.client.node.diary import AGAIN, NodeDiary
from tacit.client.policy import Policy
from tacit.client.vault import FileVault, Vault
from tacit.crypto.errors import PolicyRefusal, ProtocolError
from tacit.crypto.simulated import simulated_roster
from tacit.privacy.releases import Unit
from tacit.server.flower import identity
from tests.crashes import crash_everywhere
from tests.runtime.desk import RUN, Desk
from tests.runtime.private import PrivateDesk, filed, policy

SECRET = "patient 4711"


@pytest.fixture
def vault(tmp_path: Path) -> FileVault:
    return FileVault.create(tmp_path / "vault", bytes(range(32)))


@pytest.fixture
def book(vault: FileVault) -> Journal:
    return Journal.of(vault, "book")


def fill(book: Journal, count: int, begin: int = 0) -> None:
    for number in range(begin, begin + count):
        book.append("Kind" + "AB"[number % 2], number, {"number": number, "said": SECRET})


def numbers(read: Read) -> list[int]:
    return [entry.fields["number"] for entry in read.entries]


def pages(book: Journal) -> list[Path]:
    return sorted(book.folder.glob(f"{book.name}.0*"))


# The journal


def test_what_is_appended_is_read(book: Journal) -> None:
    assert book.read() == Read((), {}, (), ())
    fill(book, 7)
    read = book.read()
    assert numbers(read) == list(range(7))
    assert read.counts == {"KindA": 4, "KindB": 3}
    assert not read.faults
    assert len(read.lines) == 8  # with the heading
    (page,) = pages(book)
    assert page.stat().st_mode & 0o777 == 0o600
    assert SECRET.encode() not in page.read_bytes()
    assert not Journal(book.folder, "book", bytes(32)).read().entries
    other = book.folder / "other.00000001"
    page.rename(other)
    assert not Journal.of(FileVault.open(book.folder), "other").read().entries


def test_a_line_cut_off_at_any_byte_goes_and_none_before_it(book: Journal) -> None:
    fill(book, 3)
    (page,) = pages(book)
    whole = page.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(ends[0], len(whole) + 1):  # the heading is there as a whole or not at all
        page.write_bytes(whole[:length])
        kept = sum(end <= length for end in ends) - 1
        read = book.read()
        assert numbers(read) == list(range(kept))
        assert not read.faults
        if length % 37 == 0 or length in ends:
            fill(book, 1, begin=9)
            assert numbers(book.read()) == [*range(kept), 9]
            assert not book.read().faults


def test_an_end_of_zeros_is_a_line_cut_off(book: Journal) -> None:
    """What a power cut leaves on some file systems: the length of what was written, and no more."""
    fill(book, 3)
    (page,) = pages(book)
    with page.open("ab") as file:
        file.write(bytes(200))
    assert numbers(book.read()) == [0, 1, 2]
    fill(book, 1, begin=3)
    assert numbers(book.read()) == [0, 1, 2, 3]
    assert not book.read().faults
    assert pages(book) == [page]


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(data=st.data())
def test_no_altered_byte_passes(book: Journal, data: st.DataObject) -> None:
    for page in pages(book):
        page.unlink()
    fill(book, 4)
    (page,) = pages(book)
    whole = bytearray(page.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 2))  # without the last newline, it is a crash's
    whole[at] ^= data.draw(st.integers(1, 255))
    page.write_bytes(whole)
    read = book.read()
    assert read.faults
    assert set(numbers(read)) < {0, 1, 2, 3} or numbers(read) == [0, 1, 2, 3]
    fill(book, 1, begin=4)  # the device goes on
    assert numbers(book.read())[-1] == 4


def test_lines_moved_taken_out_and_put_in_are_noticed(book: Journal) -> None:
    fill(book, 5)
    (page,) = pages(book)
    heading, *lines = page.read_bytes().splitlines(keepends=True)
    for changed in (
        [lines[1], lines[0], *lines[2:]],
        [*lines[:2], *lines[3:]],
        [*lines, lines[4]],
        lines[1:],
        [heading, *lines],
    ):
        page.write_bytes(heading + b"".join(changed))
        assert book.read().faults, changed
    page.write_bytes(b"".join(lines))
    assert any("no heading" in fault for fault in book.read().faults)
    page.write_bytes(heading + b"".join(lines))
    assert not book.read().faults


def test_a_chain_cannot_be_mended_without_the_key(book: Journal) -> None:
    """A line is taken out, and all that follow it are told what now comes before them."""
    fill(book, 5)
    (page,) = pages(book)
    heading, first, _, *later = page.read_bytes().splitlines()
    mended = [heading, first]
    for line in later:
        told = sha256(mended[-1]).digest() + base64.b64decode(line)[32:]
        mended.append(base64.b64encode(told))
    page.write_bytes(b"".join(line + b"\n" for line in mended))
    read = book.read()
    assert len(read.faults) == len(later)
    assert numbers(read) == [0]


def test_lines_missing_at_the_end_are_told_by_a_head(vault: FileVault) -> None:
    for round_ in range(3):
        diary.note(vault, diary.Answered(1, str(round_)), 1)
    account = diary.read(vault)
    (page,) = vault.folder.glob(f"{DEEDS}.0*")
    page.write_bytes(b"".join(page.read_bytes().splitlines(keepends=True)[:-1]))
    cut = diary.read(vault)
    assert not cut.faults  # it looks like the diary as it once was
    assert account.holds(account.heads[DEEDS][:16])
    assert not cut.holds(account.heads[DEEDS][:16])
    assert account.holds(cut.heads[DEEDS])


def test_pages_are_bounded_and_counts_are_not(
    book: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "PAGE_BYTES", 1500)
    fill(book, 60)
    read = book.read()
    assert len(pages(book)) == journal.KEPT + 1
    assert sum(page.stat().st_size for page in pages(book)) <= 1500 * (journal.KEPT + 1)
    assert not read.faults
    assert read.counts == {"KindA": 30, "KindB": 30}
    kept = numbers(read)
    assert kept == list(range(60 - len(kept), 60))
    second, third = pages(book)[1:3]
    text = second.read_bytes()
    second.write_bytes(text[: text[:-1].rindex(b"\n") + 1])
    assert book.read().faults == (f"{third.name}: the page before it was cut short",)
    second.unlink()
    assert book.read().faults == (f"{third.name}: the page before it is missing",)


def test_a_crash_at_any_place_loses_nothing_that_was_promised(
    book: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "PAGE_BYTES", 450)
    promised: list[int] = []

    def write() -> None:
        for page in pages(book):
            page.unlink()
        promised.clear()
        for number in range(16):
            book.append("Kind", 0, {"number": number})
            promised.append(number)

    def look() -> None:
        read = book.read()
        assert not read.faults
        assert len(promised) <= read.counts["Kind"] <= len(promised) + 1
        total, kept = read.counts["Kind"], numbers(read)
        assert kept == list(range(total - len(kept), total))
        fill(book, 1, begin=99)
        assert numbers(book.read())[-1] == 99
        assert not book.read().faults

    assert crash_everywhere(monkeypatch, write, look) > 16  # in turning a page, too
    assert len(pages(book)) == journal.KEPT + 1


def test_a_full_disk_leaves_what_was_there(book: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(book, 2)
    pwrite = os.pwrite

    def full(handle: int, data: bytes, at: int) -> int:
        if len(data) > 100:
            return pwrite(handle, data[:100], at)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            fill(book, 1, begin=2)
    assert pages(book)[0].read_bytes().endswith(b"\n")
    fill(book, 1, begin=3)
    assert numbers(book.read()) == [0, 1, 3]
    assert not book.read().faults


def test_several_processes_write_at_once(book: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "PAGE_BYTES", 8000)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    pwrite = os.pwrite

    def slow(handle: int, data: bytes, at: int) -> int:
        time.sleep(0.001)
        return pwrite(handle, data, at)

    monkeypatch.setattr(os, "pwrite", slow)
    children = []
    for writer in range(4):
        if (child := os.fork()) == 0:
            for number in range(25):
                book.append(f"Writer{writer}", number, {"number": number})
            os._exit(0)
        children.append(child)
    while any(os.waitpid(child, os.WNOHANG)[0] == 0 for child in children[-1:]):
        assert not book.read().faults  # a reader in between sees a whole one
    for child in children[:-1]:
        assert os.waitpid(child, 0)[1] == 0
    read = book.read()
    assert not read.faults
    assert read.counts == {f"Writer{writer}": 25 for writer in range(4)}


# The diary


def test_what_others_can_cause_pushes_no_deed_out(
    vault: FileVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "PAGE_BYTES", 3000)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    diary.note(vault, TookPart(1, 2, "train", "masks", 4, 0.0, 0.0), 10)
    for at in range(100):
        diary.note(vault, Refused(1, "train", "no" * 1000), at)
    account = diary.read(vault)
    assert account.counts == {"TookPart": 1, "Refused": 100}
    assert [entry.fields["round"] for entry in account.entries if entry.kind == "TookPart"] == [2]
    assert max(len(entry.fields.get("reason", "")) for entry in account.entries) == 500


def test_the_longest_entry_fits_a_line(vault: FileVault) -> None:
    diary.note(vault, NotNow(2**63, "\U0001f600" * 500, "\U0001f600" * 500, 2**63), 2**40)
    assert diary.read(vault).counts == {"NotNow": 1}


def kinds(vault: Vault) -> list[str]:
    assert isinstance(vault, FileVault)
    return [entry.kind for entry in diary.read(vault).entries]


def taken_part(vault: Vault) -> dict[str, Any]:
    assert isinstance(vault, FileVault)
    (took,) = [each for each in diary.read(vault).entries if each.kind == "TookPart"]
    return dict(took.fields)


def test_a_round_as_its_device_tells_it(tmp_path: Path) -> None:
    with identity(RUN):
        desk = Desk(device_of=filed(tmp_path)).enrol()
        session = desk.session()
        request = desk.attested(desk.collected(session)).request()
        desk.reveal(1, request)
        with pytest.raises(ProtocolError):
            desk.report(1, session)
        with pytest.raises(PolicyRefusal):
            plain(desk)()
        desk.roster = simulated_roster(5)
        desk.enrol([1])
        desk.enrol([1])  # which tells it nothing new
    vault = FileVault.open(tmp_path / "1")
    assert kinds(vault) == [
        "RosterChanged", "TookPart", "Opened", "Refused", "Refused", "RosterChanged"
    ]  # fmt: skip
    entries = diary.read(vault).entries
    assert taken_part(vault) == {
        "run": RUN, "round": 1, "purpose": "train", "protocol": "masks", "cohort": 4,
        "epsilon": 0.0, "clear_epsilon": 0.0,
    }  # fmt: skip
    opened = {"run": RUN, "round": 1, "purpose": "train", "survivors": 4}
    assert entries[2].fields == opened
    assert "served before" in entries[3].fields["reason"]
    assert "policy.plain" in entries[4].fields["reason"]
    assert entries[5].fields == {"serial": 5, "devices": 5}
    assert abs(entries[1].at - time.time()) < 60


def plain(desk: Desk) -> Callable[[], object]:
    content = RecordDict({"arrays": desk.model, "config": ConfigRecord({"server-round": 1})})
    return lambda: desk.ask(1, "train", content)


def test_what_is_answered_in_the_clear_is_in_it(tmp_path: Path) -> None:
    with identity(RUN):
        desk = Desk(device_of=filed(tmp_path, Policy(plain=True)))
        plain(desk)()
    (entry,) = diary.read(FileVault.open(tmp_path / "1")).entries
    assert (entry.kind, entry.fields) == ("Answered", {"run": RUN, "kind": "train"})


def test_what_a_private_sum_costs_is_in_it(tmp_path: Path) -> None:
    with identity(RUN):
        desk = PrivateDesk(device_of=filed(tmp_path, policy(100.0)))
        desk.report(1, desk.session())
    took = taken_part(desk.vault())
    assert took["protocol"] == "masks, noise"
    assert took["epsilon"] == pytest.approx(desk.spent())
    assert took["epsilon"] > 0


def test_what_fails_is_in_it_without_what_it_was(tmp_path: Path) -> None:
    def failing(message: Message, context: Context) -> RecordDict:
        raise RuntimeError(SECRET)

    with identity(RUN):
        desk = Desk(device_of=filed(tmp_path), train=failing).enrol()
        with pytest.raises(DeviceFailed):
            desk.report(1, desk.session())
    entry = diary.read(FileVault.open(tmp_path / "1")).entries[-1]
    assert entry.kind == "Aborted"
    assert "RuntimeError in the device's train function" in entry.fields["reason"]
    assert SECRET not in entry.fields["reason"]


def test_what_cannot_be_written_down_does_not_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The sum is over for the device: neither is it in it, nor does it help to open it."""

    def full(handle: int, data: bytes, at: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with identity(RUN):
        desk = Desk(device_of=filed(tmp_path)).enrol()
        session = desk.session()
        others = [2, 3, 4]
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            heard = desk.hear(1, "train", desk.request(session))
            refused = desk.hear(1, "train", RecordDict({"arrays": desk.model}))
        assert "OSError while it answered train" in heard
        assert str(tmp_path) not in heard
        assert "policy.plain" in refused  # which needs no room
        assert "make room" in caplog.text
        request = desk.collected(session, others).request(1)
        with pytest.raises(ProtocolError, match="asked for Reported, at NoneType"):
            desk.attest(1, request, session)
        desk.report(1, desk.session(2))  # and goes on when there is room
    assert [kind for kind in kinds(FileVault.open(tmp_path / "1")) if kind == "TookPart"] == [
        "TookPart"
    ]


def test_a_crash_at_any_place_never_leaves_a_deed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ledger, then diary, then the report: wherever it stops, the first has it if the others do."""
    with identity(RUN):
        desk = PrivateDesk(device_of=filed(tmp_path, policy(600.0)))
        rounds_ = iter(range(1, 100))
        sent: list[float] = []

        def report() -> None:
            before = desk.spent()
            desk.report(1, desk.session(next(rounds_)))
            assert desk.spent() > before
            sent.append(desk.spent())

        def look() -> None:
            vault = FileVault.open(tmp_path / "1")
            account = diary.read(vault)
            releases = budget.ledger_of(vault, policy(None), Unit.CLIENT).statement().releases
            assert not account.faults
            assert len(sent) <= account.counts["TookPart"] <= releases

        assert crash_everywhere(monkeypatch, report, look) >= 5
        look()
        assert len(sent) == 1


def test_a_simulated_device_keeps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def written(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Journal, "append", written)
    with identity(RUN):
        desk = Desk().enrol()
        desk.report(1, desk.session())


# The node's part


def test_a_node_writes_once_what_comes_at_every_turn(vault: FileVault) -> None:
    now = [1000.0]
    node = NodeDiary(vault, lambda: now[0])
    node.node_began()
    for _ in range(50):
        node.message("train", 7, "1")
    for _ in range(10):
        node.not_now("train", 7, "outside of schedule.windows")
    now[0] += AGAIN
    node.not_now("train", 7, "outside of schedule.windows")
    node.not_now("train", 7, "not on mains (power.mains)")
    node.not_now("train", 7, "not on mains (power.mains)")
    node.bundle_refused("ab" * 32, 8)
    node.failed("train", 7, "killed by signal 9")
    node.node_ended("stopped")
    told = [(entry.kind, dict(entry.fields)) for entry in diary.read(vault).entries]
    waits = [(fields["reason"], fields["times"]) for kind, fields in told if kind == "NotNow"]
    assert [kind for kind, _ in told] == [
        "NodeBegan", "Asked", "NotNow", "NotNow", "NotNow", "BundleRefused", "Aborted", "NotNow",
        "NodeEnded",
    ]  # fmt: skip
    assert waits == [
        ("outside of schedule.windows", 1),
        ("outside of schedule.windows", 10),
        ("not on mains (power.mains)", 1),
        ("not on mains (power.mains)", 1),
    ]


def test_a_node_goes_on_without_a_diary(
    vault: FileVault, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal, "_add", full)
    node = NodeDiary(vault)
    node.node_began()
    node.disconnected("it is gone")
    assert caplog.text.count("make room") == 2
