"""Who was turned away: told, durably, and never so much that a disk is full."""

import asyncio
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from tacit.crypto.errors import ParameterError
from tacit.server.auditlog import LogInUse, batches, verify
from tacit.server.deployed import TurnedAway
from tacit.server.entries import read
from tacit.server.front.ledger import KEY, LOG, Ledger
from tacit.server.front.tally import (
    ADDRESSES,
    COARSE_EVERY,
    ENTRIES_A_DAY,
    EVERY,
    MANY_ADDRESSES,
    SEVERAL,
    Tally,
    place_of,
)

DAY = 86400


def test_the_first_is_told_at_once_and_the_next_after_a_minute() -> None:
    tally = Tally(0)
    tally.add("path", "a", "one")
    assert tally.due(0) == [TurnedAway("path", "a", "one", 1)]
    for _ in range(5):
        tally.add("path", "a", "one")
    assert tally.due(EVERY - 1) == []
    assert tally.due(EVERY) == [TurnedAway("path", "a", "one", 5)]
    assert tally.due(9 * EVERY) == []
    assert not tally._counts  # forgotten


def test_who_is_told_if_it_is_one() -> None:
    tally = Tally(0)
    tally.add("path", "a", "one")
    tally.add("path", "a", "two")
    tally.add("path", "a", "one")
    assert tally.due(0) == [TurnedAway("path", "a", SEVERAL, 3)]


events = some.lists(
    some.tuples(some.sampled_from(["path", "plain"]), some.integers(0, 600), some.floats(0, 400)),
    max_size=400,
)


@settings(max_examples=50)
@given(events=events)
def test_nothing_is_lost(events: list[tuple[str, int, float]]) -> None:
    now, tally, told = 0.0, Tally(0), dict[str, int]()

    def tell(entries: list[TurnedAway]) -> None:
        for entry in entries:
            told[entry.reason] = told.get(entry.reason, 0) + entry.times

    for reason, address, wait in events:
        now += wait
        tally.add(reason, str(address))
        tell(tally.due(now))
    tell(tally.due(now, all_of_it=True))
    assert sum(told.values()) == len(events)
    assert told.get("path", 0) == sum(reason == "path" for reason, _, _ in events)


def test_strangers_from_everywhere_cannot_fill_a_disk() -> None:
    """A day in which each minute 300 new addresses come: entries stay below the bound."""
    tally, entries, times = Tally(0), 0, 0
    for second in range(0, DAY, 60):
        for address in range(300):
            tally.add("path", f"{second}.{address}")
        told = tally.due(float(second))
        entries += len(told)
        times += sum(each.times for each in told)
    assert entries <= 2 * ENTRIES_A_DAY + DAY / COARSE_EVERY
    left = tally.due(float(DAY), all_of_it=True)
    assert times + sum(each.times for each in left) == 300 * DAY / 60


def test_the_table_is_bounded_between_two_looks() -> None:
    tally = Tally(0)
    for address in range(3 * ADDRESSES):
        tally.add("path", str(address))
    assert len(tally._counts) == ADDRESSES + 1
    assert TurnedAway("path", MANY_ADDRESSES, "", 2 * ADDRESSES) in tally.due(0)


def test_without_a_budget_the_addresses_are_left_out() -> None:
    tally = Tally(0)
    tally._entries = 0
    tally.add("path", "a", times=3)
    tally.add("path", "b", times=4)
    assert tally.due(0) == [TurnedAway("path", MANY_ADDRESSES, "", 7)]


@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_whom_an_address_counts_for(host: str, place: str) -> None:
    assert place_of(host) == place


def entries(folder: Path) -> list[object]:
    with (folder / LOG).open("rb") as file:
        return [read(entry).entry for batch in batches(file) for entry in batch.entries]


def test_the_log_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "front"
    for number in (1, 2):
        ledger = Ledger(folder)
        ledger.turned_away("path", "192.0.2.7", "who")
        asyncio.run(ledger.close())
        assert entries(folder) == [TurnedAway("path", "192.0.2.7", "who", 1)] * number
    assert verify(folder / LOG).head.head.size == 2
    assert (folder / KEY).stat().st_mode & 0o077 == 0
    assert folder.stat().st_mode & 0o077 == 0


def test_one_front_at_a_time(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "front")
    with pytest.raises(LogInUse):
        Ledger(tmp_path / "front")
    asyncio.run(ledger.close())


def test_a_log_without_its_key(tmp_path: Path) -> None:
    asyncio.run(Ledger(tmp_path / "front").close())
    (tmp_path / "front" / KEY).unlink()
    with pytest.raises(ParameterError, match="signs the front's log"):
        Ledger(tmp_path / "front")


def test_a_full_disk_loses_no_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The front goes on, and what it could not write is written when there is room again."""
    from tacit.server.auditlog import AuditLog

    folder = tmp_path / "front"
    ledger = Ledger(folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "append", full)
        for _ in range(3):
            ledger.turned_away("path", "192.0.2.7", "who")
            asyncio.run(ledger.write(all_of_it=True))
    assert entries(folder) == []
    asyncio.run(ledger.close())
    assert entries(folder) == [TurnedAway("path", "192.0.2.7", "who", 3)]


def test_it_is_written_while_the_front_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tacit.server.front import ledger as module

    monkeypatch.setattr(module, "SECONDS", 0.01)
    ledger = Ledger(tmp_path / "front")

    async def run() -> None:
        keeping = asyncio.create_task(ledger.keep())
        ledger.turned_away("path", "192.0.2.7")
        end = time.monotonic() + 5
        while not entries(tmp_path / "front"):
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        keeping.cancel()

    asyncio.run(run())
    asyncio.run(ledger.close())
