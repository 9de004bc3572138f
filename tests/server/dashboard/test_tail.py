"""Files are followed as they grow, are torn, are resumed and are replaced, and nothing is lost."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.server.auditlog import HEADER_BYTES, Batch, batches
from tacit.server.dashboard import tail
from tacit.server.dashboard.tail import Lines, Log
from tacit.server.kinds import Refused
from tests.server.dashboard.stage import AT, Written


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b""))),
       st.lists(st.integers(1, 15), min_size=1))  # fmt: skip
def test_every_line_is_told_once_however_it_is_written(lines: list[bytes], cuts: list[int]) -> None:
    content = b"".join(line + b"\n" for line in lines)
    told: list[bytes] = []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        follower, at, turn = Lines(path), 0, 0
        while at < len(content):
            size = cuts[turn % len(cuts)]
            with path.open("ab") as file:
                file.write(content[at : at + size])
            at, turn = at + size, turn + 1
            is_other, new = follower.read()
            assert not is_other
            told += new
    assert told == lines


def test_what_is_not_there_yet_comes(tmp_path: Path) -> None:
    follower = Lines(tmp_path / "metrics.jsonl")
    assert follower.read() == (False, [])
    follower.path.write_bytes(b'{"a":1}\n{"b"')
    assert follower.read() == (False, [b'{"a":1}'])
    assert follower.read() == (False, [])
    with follower.path.open("ab") as file:
        file.write(b":2}\n")
    assert follower.read() == (False, [b'{"b":2}'])


@pytest.mark.parametrize("after", [b"a\nb\n", b"a\nb\nX\nlonger\n", b"", b"other\n", b"x\ny\nz\n"])
def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path, after: bytes) -> None:
    """As a resumed run does, whose later lines are dropped, and one that is replaced."""
    follower = Lines(tmp_path / "metrics.jsonl")
    follower.path.write_bytes(b"a\nb\nc\n")
    assert follower.read() == (False, [b"a", b"b", b"c"])
    fresh = tmp_path / "metrics.jsonl.new"
    fresh.write_bytes(after)
    fresh.replace(follower.path)
    assert follower.read() == (True, after.splitlines())
    assert follower.read() == (False, [])


def test_an_inode_that_is_used_again_is_another_file(tmp_path: Path) -> None:
    """Written over in place, as a file system does that gives a number out again."""
    follower = Lines(tmp_path / "metrics.jsonl")
    follower.path.write_bytes(b"a\nb\n")
    follower.read()
    follower.path.write_bytes(b"A\nB\nC\n")
    assert follower.read() == (True, [b"A", b"B", b"C"])


def test_a_file_that_ends_alike_is_another_file(tmp_path: Path) -> None:
    same = b"x" * 300 + b"\n"
    follower = Lines(tmp_path / "metrics.jsonl")
    follower.path.write_bytes(b"a\n" + same)
    follower.read()
    fresh = tmp_path / "new"
    fresh.write_bytes(b"b\n" + same)
    fresh.replace(follower.path)
    assert follower.read() == (True, [b"b", same[:-1]])


def test_a_file_that_goes_takes_its_lines_along(tmp_path: Path) -> None:
    follower = Lines(tmp_path / "metrics.jsonl")
    follower.path.write_bytes(b"a\n")
    follower.read()
    follower.path.unlink()
    assert follower.read() == (True, [])
    assert follower.read() == (False, [])


def test_a_large_file_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "MOST_BYTES", 10)
    follower = Lines(tmp_path / "metrics.jsonl")
    follower.path.write_bytes(b"".join(b"%04d\n" % i for i in range(7)))
    told = [follower.read()[1] for _ in range(5)]
    assert [len(each) for each in told] == [2, 2, 2, 1, 0]
    assert [line for each in told for line in each] == [b"%04d" % i for i in range(7)]


def refused(number: int) -> Refused:
    return Refused(number, "report", 3, "no answer")


def test_a_log_is_verified_as_it_grows(tmp_path: Path) -> None:
    log = Log(tmp_path / "audit.log")
    assert log.read() == (False, [])
    assert (log.size, log.root, log.fault) == (0, "", "")
    written = Written.made(tmp_path)
    assert log.read() == (False, [])
    for number in range(1, 4):
        written.note(refused(number), refused(number))
        is_other, new = log.read()
        assert not is_other
        assert [(each.entry, each.at) for each in new] == [(refused(number), AT)] * 2
        assert (log.size, log.root) == (2 * number, written.log.head.head.root.hex())
    assert log.read() == (False, [])


def test_only_what_is_new_of_a_log_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, log = Written.made(tmp_path), Log(tmp_path / "audit.log")
    for number in range(50):
        written.note(refused(number))
    log.read()
    checked: list[bytes] = []

    def counted(*given: Any) -> Iterator[Batch]:
        for batch in batches(*given):
            checked.append(batch.head.encode())
            yield batch

    monkeypatch.setattr(tail, "batches", counted)
    written.note(refused(99))
    assert [each.entry for each in log.read()[1]] == [refused(99)]
    assert len(checked) == 1


def test_a_batch_that_is_being_written_waits(tmp_path: Path) -> None:
    written, log = Written.made(tmp_path), Log(tmp_path / "audit.log")
    written.note(refused(1))
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[:-5])
    assert log.read() == (False, [])
    assert not log.fault
    log.path.write_bytes(whole)
    assert len(log.read()[1]) == 1


def test_a_log_that_was_tampered_with_is_told(tmp_path: Path) -> None:
    written, log = Written.made(tmp_path), Log(tmp_path / "audit.log")
    written.note(refused(1))
    log.read()
    written.note(refused(2))
    content = bytearray(log.path.read_bytes())
    content[-200] ^= 1  # in the second batch
    log.path.write_bytes(content)
    log.read()
    assert "damaged" in log.fault or "does not" in log.fault
    assert log.size == 1


def test_a_log_that_was_cut_off_is_read_anew(tmp_path: Path) -> None:
    """Nothing in a file tells that from its earlier self: but size and root are seen to go back."""
    written, log = Written.made(tmp_path), Log(tmp_path / "audit.log")
    written.note(refused(1))
    earlier = log.path.read_bytes()
    written.note(refused(2))
    log.read()
    assert log.size == 2
    log.path.write_bytes(earlier)
    assert log.read()[0]
    assert log.size == 1


def test_another_run_s_log_is_read_from_its_beginning(tmp_path: Path) -> None:
    written, log = Written.made(tmp_path), Log(tmp_path / "audit.log")
    written.note(refused(1))
    log.read()
    log.path.unlink()
    Written.made(tmp_path).note(refused(7), refused(8))
    is_other, new = log.read()
    assert is_other
    assert [each.entry for each in new] == [refused(7), refused(8)]
    assert not log.fault


def test_what_is_no_log_is_told(tmp_path: Path) -> None:
    log = Log(tmp_path / "audit.log")
    log.path.write_bytes(b"x" * HEADER_BYTES)
    assert log.read() == (False, [])
    assert "no audit log" in log.fault


def test_nothing_is_written(tmp_path: Path) -> None:
    Written.made(tmp_path).note(refused(1))
    (tmp_path / "metrics.jsonl").write_bytes(b"a\nb")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    Log(tmp_path / "audit.log").read()
    Lines(tmp_path / "metrics.jsonl").read()
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    assert after == before
