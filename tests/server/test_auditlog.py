"""The audit log keeps what it acknowledged through any crash, and shows whatever was done to it."""

import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import Damaged, MalformedMessage, ParameterError
from tacit.crypto.identity import Identity
from tacit.crypto.loghead import SignedHead
from tacit.crypto.merkle import Frontier, Head, leaf_hash
from tacit.server import auditlog
from tacit.server.auditlog import HEADER_BYTES, RECORD_BYTES, AuditLog, batches, tree, verify
from tacit.server.entries import decode, encode

KEEPER, STRANGER = Identity(bytes(32)), Identity(bytes([1]) * 32)
NAME = bytes(range(16))
ENTRY, HEAD = 1, 2


def numbered(first: int, end: int) -> list[bytes]:
    return [b'{"n":%d}' % number for number in range(first, end)]


def log_of(path: Path, *sizes: int, keeper: Identity = KEEPER, name: bytes = NAME) -> SignedHead:
    """A log whose batches end at these sizes, and its last head."""
    with AuditLog.create(path, keeper, name) as log:
        for first, end in zip((0, *sizes), sizes, strict=False):
            log.append(numbered(first, end))
        return log.head


class Record(NamedTuple):
    kind: int
    body: bytes

    def encode(self) -> bytes:
        """With checksums that are right: an attacker's work, not an accident's."""
        start = bytes([self.kind]) + len(self.body).to_bytes(4, "little")
        start += zlib.crc32(self.body).to_bytes(4, "little")
        return start + zlib.crc32(start).to_bytes(4, "little") + self.body


def split(data: bytes) -> tuple[bytes, list[Record]]:
    """Header and records, by this test's own reading of the format."""
    at, records = HEADER_BYTES, []
    while at < len(data):
        end = at + RECORD_BYTES + int.from_bytes(data[at + 1 : at + 5], "little")
        records.append(Record(data[at], data[at + RECORD_BYTES : end]))
        assert records[-1].encode() == data[at:end]
        at = end
    return data[:HEADER_BYTES], records


def join(header: bytes, records: Sequence[Record]) -> bytes:
    return header + b"".join(record.encode() for record in records)


def entries_in(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        return [entry for batch in batches(file) for entry in batch.entries]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def test_what_was_appended_is_there(path: Path) -> None:
    with AuditLog.create(path, KEEPER, NAME) as log:
        assert log.head.head == Frontier().head
        first = log.append([b"a", b""])
        assert log.append([]) == first == log.head
    with AuditLog.open(path, KEEPER) as log:
        assert log.head == first
        second = log.append([b"c" * auditlog.MAX_ENTRY])
    assert entries_in(path) == [b"a", b"", b"c" * auditlog.MAX_ENTRY]
    assert second.head == Frontier().extended(map(leaf_hash, entries_in(path))).head
    assert verify(path, KEEPER.public, [first, second]) == auditlog.Whole(KEEPER.public, second, 0)
    assert [each.name for each in path.parent.iterdir()] == ["audit.log"]


def test_reading_goes_on_where_it_was(path: Path, tmp_path: Path) -> None:
    """And not in another log, nor in an earlier state of this one."""
    log_of(path, 2, 5, 6)
    with path.open("rb") as file:
        found = list(batches(file))
        for at, batch in enumerate(found):
            file.seek(0)
            assert list(batches(file, batch)) == found[at + 1 :]
    other, earlier = tmp_path / "other", tmp_path / "earlier"
    log_of(other, 2, 5, 6, name=bytes(16))
    log_of(earlier, 2)
    with other.open("rb") as file, pytest.raises(Damaged, match="another log"):
        next(batches(file, found[1]))
    with earlier.open("rb") as file, pytest.raises(Damaged, match="entries are missing"):
        next(batches(file, found[-1]))


def test_the_log_makes_the_proofs_that_heads_are_held_against(path: Path) -> None:
    with AuditLog.create(path, KEEPER, NAME) as log:
        older = log.append(numbered(0, 5))
        newer = log.append(numbered(5, 13))
    found = tree(path)
    assert newer.extends(older, found.consistency(5, 13))
    assert newer.head.includes(3, leaf_hash(b'{"n":3}'), found.inclusion(3, 13))
    elsewhere = SignedHead.signed(KEEPER, NAME[::-1], older.head)
    assert not newer.extends(elsewhere, found.consistency(5, 13))


# Crashes.


def test_a_log_cut_off_anywhere_has_all_that_was_acknowledged(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # thousands of them, and no power is cut here
    acknowledged = []
    with AuditLog.create(path, KEEPER, NAME) as log:
        for first, end in ((0, 0), (0, 1), (1, 4), (4, 6)):
            log.append(numbered(first, end))
            acknowledged.append((path.stat().st_size, end))
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        short = tmp_path / "short"
        short.write_bytes(whole[:cut])
        kept = max((size for end, size in acknowledged if end <= cut), default=None)
        if kept is None:  # no crash leaves so little: the file gets its name with its first head
            with pytest.raises(Damaged):
                AuditLog.open(short, KEEPER)
            continue
        unfinished = verify(short).unfinished
        assert cut - unfinished == max(end for end, _ in acknowledged if end <= cut)
        with AuditLog.open(short, KEEPER) as log:
            assert log.head.head.size == kept
            log.append([b"after the crash"])
        assert entries_in(short) == [*numbered(0, kept), b"after the crash"]
        assert verify(short).unfinished == 0


WRITER = """
import sys
from pathlib import Path
from tacit.crypto.identity import Identity
from tacit.server.auditlog import AuditLog
log = AuditLog.create(Path(sys.argv[1]), Identity(bytes(32)), bytes(16))
size = 0
while True:
    size = log.append([b"%d" % n for n in range(size, size + 50)]).head.size
    print(size, flush=True)
"""


def test_a_killed_process_loses_nothing_that_it_had_acknowledged(path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    lines = [process.stdout.readline() for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    lines += process.communicate()[0].splitlines()
    acknowledged = int(lines[-1])
    with AuditLog.open(path, KEEPER) as log:
        assert log.head.head.size in (acknowledged, acknowledged + 50)
        log.append([b"next"])
    assert entries_in(path)[:-1] == [b"%d" % n for n in range(log.head.head.size - 1)]


def test_nothing_is_taken_after_a_failed_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failed fsync has kept is unknown, and trying again does not tell."""
    log = AuditLog.create(path, KEEPER, NAME)
    log.append([b"kept"])

    def full(_: int) -> None:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            log.append([b"lost or not"])
    assert log.head.head.size == 1
    with pytest.raises(ParameterError, match="open it anew"):
        log.append([b"more"])
    log.close()
    with AuditLog.open(path, KEEPER) as log:
        assert log.append([b"more"]).head.size in (2, 3)


# Tampering. `damaged` says why, and fails if nothing is found.


def damaged(
    path: Path, data: bytes, keeper: bytes | None = None, kept: Sequence[SignedHead] = ()
) -> str:
    """What is found wrong with a log of these bytes."""
    other = path.with_name("changed")
    other.write_bytes(data)
    with pytest.raises(Damaged) as found:
        verify(other, keeper, kept)
    return str(found.value)


def test_every_flipped_byte_is_found_and_located(path: Path) -> None:
    log_of(path, 2, 3, 7)
    whole = path.read_bytes()
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        said = damaged(path, bytes(changed))
        if at >= HEADER_BYTES:
            where = int(said.split("at byte ")[1].split(",")[0].split()[0])
            assert where <= at
            assert at - where < RECORD_BYTES + 120  # in that very record: a head is the longest


def test_a_log_that_is_damaged_is_not_gone_on_with(path: Path) -> None:
    """Not even if the damage is in its last batch: only a mere beginning is taken out."""
    log_of(path, 2, 4)
    whole = bytearray(path.read_bytes())
    for at in (HEADER_BYTES + 3, len(whole) - 200, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        before = path.read_bytes()
        with pytest.raises(Damaged):
            AuditLog.open(path, KEEPER)
        assert path.read_bytes() == before


BIG = 400
BATCH = 25


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "audit.log"
    log_of(path, *range(BATCH, BIG + 1, BATCH))
    return path


def altered(records: list[Record], at: int) -> list[Record]:
    return [*records[:at], Record(ENTRY, records[at].body + b" "), *records[at + 1 :]]


def dropped(records: list[Record], at: int) -> list[Record]:
    return [*records[:at], *records[at + 1 :]]


def doubled(records: list[Record], at: int) -> list[Record]:
    return [*records[: at + 1], *records[at:]]


def swapped(records: list[Record], at: int) -> list[Record]:
    """With the next entry, be it in the next batch."""
    other = next(n for n in range(at + 1, len(records)) if records[n].kind == ENTRY)
    changed = list(records)
    changed[at], changed[other] = changed[other], changed[at]
    return changed


def invented(records: list[Record], at: int) -> list[Record]:
    return [*records[:at], Record(ENTRY, b'{"n":-1}'), *records[at:]]


def shortened(records: list[Record], at: int) -> list[Record]:
    return [*records[:at], Record(ENTRY, records[at].body[:-1]), *records[at + 1 :]]


@pytest.mark.parametrize("change", [altered, dropped, doubled, swapped, invented, shortened])
def test_changed_entries_are_found_though_every_checksum_is_right(
    big: Path, change: Callable[[list[Record], int], list[Record]]
) -> None:
    header, records = split(big.read_bytes())
    places = [n for n, record in enumerate(records) if record.kind == ENTRY][:-1]
    for at in places[::9]:
        said = damaged(big, join(header, change(records, at)))
        assert "does not fit" in said
        first = int(said.split("from entry ")[1].split()[0])
        assert first == int(records[at].body[5:-1]) // BATCH * BATCH


def test_entries_moved_over_a_head_are_found(big: Path) -> None:
    """The same entries in the same order, another head between them."""
    header, records = split(big.read_bytes())
    heads = [n for n, record in enumerate(records) if record.kind == HEAD]
    for at in heads[1:]:
        changed = list(records)
        changed[at - 1], changed[at] = changed[at], changed[at - 1]
        assert "does not fit" in damaged(big, join(header, changed))


def test_heads_are_found_too(big: Path) -> None:
    header, records = split(big.read_bytes())
    heads = [n for n, record in enumerate(records) if record.kind == HEAD]
    for at in heads:
        head = SignedHead.decode(records[at].body)
        for fake, why in (
            (SignedHead.signed(STRANGER, NAME, head.head), "not signed by the log's keeper"),
            (SignedHead.signed(KEEPER, NAME[::-1], head.head), "of another log"),
            (SignedHead.signed(KEEPER, NAME, Head(head.head.size + 1, bytes(32))), "does not fit"),
        ):
            changed = [*records[:at], Record(HEAD, fake.encode()), *records[at + 1 :]]
            assert why in damaged(big, join(header, changed))
        assert "twice" in damaged(big, join(header, doubled(records, at)))
        longer = [*records[:at], Record(HEAD, head.encode() + b"\x00"), *records[at + 1 :]]
        assert "after the end" in damaged(big, join(header, longer))
    first = [Record(3, b""), *records]
    assert "is none: kind 3" in damaged(big, join(header, first))
    assert "before its first head" in damaged(big, join(header, records[1:2]))


def test_a_head_left_out_is_no_harm_and_a_last_one_is_missed(big: Path) -> None:
    """Entries are as they were, below a later signature. Without the last head, there is none."""
    header, records = split(big.read_bytes())
    heads = [n for n, record in enumerate(records) if record.kind == HEAD]
    big.with_name("fewer").write_bytes(join(header, dropped(records, heads[3])))
    assert verify(big.with_name("fewer")) == verify(big)
    last = SignedHead.decode(records[heads[-1]].body)
    assert "missing" in damaged(big, join(header, records[:-1]), None, [last])


def test_a_log_cut_off_at_a_head_is_found_by_a_head_that_was_kept(big: Path) -> None:
    whole, kept = big.read_bytes(), verify(big).head
    header, records = split(whole)
    heads = [n for n, record in enumerate(records) if record.kind == HEAD]
    for at in heads[:-1]:
        short = join(header, records[: at + 1])
        said = damaged(big, short, KEEPER.public, [kept])
        assert f"{SignedHead.decode(records[at].body).head.size} are left" in said
    for cut in range(HEADER_BYTES, len(whole), 101):
        damaged(big, whole[:cut], KEEPER.public, [kept])
    big.with_name("short").write_bytes(short)
    assert verify(big.with_name("short")).head.head.size == BIG - BATCH  # by itself it looks whole


def test_a_log_that_was_written_anew_without_the_key_is_found(big: Path, tmp_path: Path) -> None:
    """All of it signed by another: only who knows the key can tell, so who verifies names it."""
    log_of(tmp_path / "other", 5, 10, keeper=STRANGER)
    other = (tmp_path / "other").read_bytes()
    assert "another key" in damaged(big, other, KEEPER.public)
    assert "not signed by this log's key" in damaged(big, other, None, [verify(big).head])
    _, records = split(other)
    assert "not signed" in damaged(big, join(big.read_bytes()[:HEADER_BYTES], records))


def test_forks_are_found_by_kept_heads(path: Path, tmp_path: Path) -> None:
    """The keeper shows one log to some and another to others: the same up to a point, both signed.
    Whoever has a head of the one finds out from the other, where that is as long, and from a
    proof that nobody can make where it is not."""
    for common in (1, 2, 3, 8, 13):
        ours, theirs = tmp_path / f"ours {common}", tmp_path / f"theirs {common}"
        log_of(ours, common)
        theirs.write_bytes(ours.read_bytes())
        for entries in (1, 5, 2):
            with AuditLog.open(ours, KEEPER) as log:
                mine = log.append([b"ours"] * entries)
            with AuditLog.open(theirs, KEEPER) as log:
                other = log.append([b"theirs"] * (entries + 1))
            assert "forked" in damaged(theirs, theirs.read_bytes(), KEEPER.public, [mine])
            said = damaged(ours, ours.read_bytes(), KEEPER.public, [other])
            assert "are left" in said  # a longer log than this was signed
            proofs = tree(theirs)
            proof = proofs.consistency(mine.head.size, other.head.size)
            assert not other.extends(mine, proof)
            same = SignedHead.signed(KEEPER, NAME, proofs.head(mine.head.size))
            assert not same.extends(mine, [])  # two heads of one size
            assert "forked" in damaged(ours, ours.read_bytes(), KEEPER.public, [same])


def test_a_kept_head_is_of_this_log(path: Path) -> None:
    head = log_of(path, 3)
    elsewhere = SignedHead.signed(KEEPER, NAME[::-1], head.head)
    assert "of another log" in damaged(path, path.read_bytes(), None, [elsewhere])
    forged = SignedHead.signed(STRANGER, NAME, head.head)
    assert "not signed by this log's key" in damaged(path, path.read_bytes(), None, [forged])


def test_a_long_log(path: Path) -> None:
    """100,000 entries: whole as it is, and not with any one byte changed."""
    with AuditLog.create(path, KEEPER, NAME) as log:
        for first in range(0, 100_000, 5_000):
            kept = log.append(numbered(first, first + 5_000))
    assert verify(path, KEEPER.public, [kept]).head.head.size == 100_000
    size = path.stat().st_size
    for at in range(HEADER_BYTES, size, size // 5):
        with path.open("r+b") as file:
            file.seek(at)
            old = file.read(1)
            file.seek(at)
            file.write(bytes([old[0] ^ 4]))
            file.flush()
            with pytest.raises(Damaged):
                verify(path)
            file.seek(at)
            file.write(old)


# Who may.


def test_one_process_appends_at_a_time(path: Path) -> None:
    """Two would fork it."""
    with AuditLog.create(path, KEEPER, NAME) as log:
        with pytest.raises(ParameterError, match="another process"):
            AuditLog.open(path, KEEPER)
        log.append([b"still here"])
    AuditLog.open(path, KEEPER).close()


def test_a_log_is_created_once_and_gone_on_with_by_its_keeper(path: Path) -> None:
    log_of(path, 3)
    before = path.read_bytes()
    with pytest.raises(ParameterError, match="already"):
        AuditLog.create(path, KEEPER, NAME)
    with pytest.raises(ParameterError, match="another key"):
        AuditLog.open(path, STRANGER)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["audit.log"]
    for do in (lambda p: AuditLog.open(p, KEEPER), verify):
        with pytest.raises(ParameterError, match="no audit log"):
            do(path.with_name("none"))
    with AuditLog.open(path, KEEPER) as log, pytest.raises(ParameterError, match="at most"):
        log.append([b"fine", bytes(auditlog.MAX_ENTRY + 1)])
    assert path.read_bytes() == before


# Heads and entries as bytes.


def test_a_head_is_decoded_as_it_was_encoded() -> None:
    head = SignedHead.signed(KEEPER, NAME, Head(3, bytes(32)))
    data = head.encode()
    assert len(data) == 120
    assert SignedHead.decode(data) == head
    assert head.is_by(KEEPER.public)
    assert not head.is_by(STRANGER.public)
    for wrong in (data[:-1], data + b"\x00", b""):
        with pytest.raises(MalformedMessage):
            SignedHead.decode(wrong)
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            with suppress(MalformedMessage):  # a size no log can have
                assert not SignedHead.decode(bytes(flipped)).is_by(KEEPER.public)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


@given(st.dictionaries(st.text("abc"), JSON))
def test_an_entry_is_read_as_it_was_written(fields: dict) -> None:
    data = encode(fields)
    assert decode(data) == fields
    assert encode(decode(data)) == data


@pytest.mark.parametrize(
    "entry",
    [b"", b"1", b"[]", b"{", b'{"a": 1}', b'{"b":1,"a":1}', b'{"a":1,"a":1}', b'{"a":NaN}', b"\xff",
     b'{"a":1}\n', b"[" * 100_000],
)  # fmt: skip
def test_an_entry_is_written_in_one_way(entry: bytes) -> None:
    with pytest.raises(Damaged):
        decode(entry)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), "\ud800"])
def test_what_json_cannot_say_is_no_entry(value: object) -> None:
    with pytest.raises(ParameterError):
        encode({"a": value})
