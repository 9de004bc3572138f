"""The benchmarks of the audit log and of sealed files measure what they say."""

from pathlib import Path

import pytest

from benchmarks import auditlog, sealed
from tacit.server.auditlog import verify


def test_the_log_that_is_measured_is_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditlog, "SINGLE", 1)
    rows = {row.name: row for row in auditlog.rows(tmp_path, 1_000)}
    assert all(row.value > 0 for row in rows.values())
    for batch in auditlog.BATCHES:
        assert verify(tmp_path / f"{batch}.log").head.head.size == batch
        # a record is 13 bytes before its body, a head 120
        beyond = rows[f"on disk beyond its own bytes, {batch} to a batch"].value
        head = 13 + 120
        assert beyond == pytest.approx(13 + (head + 68 + head) / batch)
    assert [row.name for row in rows.values() if row.target] == ["appended, 1000 to a batch"]
    assert rows["... of"].value == 10


def test_sealing_is_measured_on_what_opens_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "REPEATS", 1)
    size = 2 * sealed.MIB
    rows = sealed.on_disk(tmp_path, size) + sealed.in_memory(size)
    assert (tmp_path / "opened").read_bytes() == (tmp_path / "file").read_bytes()
    named = {row.name: row for row in rows}
    assert named["larger by"].value == 65 + 80 + 32 + 8 * 16
    assert named["memory, for a file of 2 MiB"].ok
    assert all(row.value > 0 for row in rows if row.unit == "GB/s")
