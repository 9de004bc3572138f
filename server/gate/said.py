"""From the gate's records to its audit log: every entry there once, in order, whatever crashes.

The log takes one process at a time, and people act on keys while the gate serves. So whoever acts
leaves his entries in the records, and whoever holds the log takes them over. Three steps:

    1  records   "the entries up to this one go to the log where it has that many"
    2  log       the entries, in one batch: all of them or none
    3  records   the entries are gone, and so is the note of step 1

After a crash between 2 and 3 the log has, at the place that was noted, just these bytes; after one
before 2 it has not. Nobody else can have put them there: the log is held all the while.
"""

from collections.abc import Callable
from pathlib import Path

from tacit.server.auditlog import AuditLog, batches
from tacit.server.entries import read
from tacit.server.events import Event
from tacit.server.gate.store import Store, one
from tacit.server.kinds import Kind

_MOST = 1024  # entries in a batch


def hand_over(
    store: Store,
    log: AuditLog,
    path: Path,
    hear: Callable[[Event | Kind, float], None] | None = None,
) -> int:
    """Put what waits into the log, which is open, and at `path`; returns how many entries were.
    `hear` is told of each, and of its time, once it is there."""
    _settle(store, path)
    count = 0
    while waiting := _first(store):
        with store.writing() as db:
            db.execute("INSERT INTO going VALUES (?, ?)", (log.head.head.size, waiting[-1][0]))
        log.append([entry for _, entry in waiting])
        _forget(store, waiting[-1][0])
        count += len(waiting)
        if hear is not None:
            for noted in (read(entry) for _, entry in waiting):
                hear(noted.entry, noted.at)
    return count


def waits(store: Store) -> int:
    """How many entries have not been handed over."""
    with store.reading() as db:
        return int(one(db, "SELECT count(*) FROM said")[0])


def _settle(store: Store, path: Path) -> None:
    """Find out what became of a batch that was going when a crash came."""
    with store.reading() as db:
        going = one(db, "SELECT size, last FROM going")
    if going is None:
        return
    size, last = going
    sent = [entry for number, entry in _first(store) if number <= last]
    if _kept(path, size, len(sent)) == sent:
        _forget(store, last)
    else:
        with store.writing() as db:
            db.execute("DELETE FROM going")


def _kept(path: Path, size: int, count: int) -> list[bytes]:
    """Up to `count` entries of a log, from where it has `size` of them."""
    found: list[bytes] = []
    with path.open("rb") as file:
        for batch in batches(file):
            if batch.after.size > size:
                found += batch.entries[max(0, size - batch.before.size) :]
            if len(found) >= count:
                break
    return found[:count]


def _forget(store: Store, last: int) -> None:
    with store.writing() as db:
        db.execute("DELETE FROM said WHERE id <= ?", (last,))
        db.execute("DELETE FROM going")


def _first(store: Store) -> list[tuple[int, bytes]]:
    with store.reading() as db:
        return db.execute("SELECT id, entry FROM said ORDER BY id LIMIT ?", (_MOST,)).fetchall()
