"""The audit log's speed and size: appending, verifying, proving.

    python benchmarks/auditlog.py [--quick] [--json FILE] [--at FOLDER]

Entries are 200 bytes, as an event of a run is. Every batch is on disk when its append returns: one
write and one fsync. So small batches measure the disk under FOLDER (by default, where temporary
files go), and large ones the hashing. All in one thread.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

from benchmarks.shared.table import Row, at_least, print_table, write_json  # noqa: E402
from tacit.crypto.identity import Identity  # noqa: E402
from tacit.crypto.merkle import leaf_hash  # noqa: E402
from tacit.server.auditlog import AuditLog, tree, verify  # noqa: E402

ENTRIES, QUICK_ENTRIES = 100_000, 10_000
ENTRY = b'{"at":1790000000.123,"event":"LeftOut","reason":"%s","round":%d}'
BATCHES = (1, 10, 100, 1_000)
AT_LEAST, OF_BATCH = 20_000, 1_000  # entries a second, in batches of so many
SINGLE = 500  # entries that are appended one by one
PROOFS = 200


def entries(count: int) -> list[bytes]:
    return [ENTRY % (b"x" * 130, number) for number in range(count)]


def seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def append(path: Path, content: list[bytes], batch: int) -> float:
    """Seconds that appending all of `content` to a new log takes."""
    with AuditLog.create(path, Identity(bytes(32)), os.urandom(16)) as log:
        return seconds(
            lambda: [log.append(content[at : at + batch]) for at in range(0, len(content), batch)]
        )


def rows(folder: Path, count: int) -> list[Row]:
    content, found = entries(count), []
    for batch in BATCHES:
        some = content[: SINGLE * batch]
        path = folder / f"{batch}.log"
        rate = len(some) / append(path, some, batch)
        name = f"appended, {batch} to a batch"
        if batch == OF_BATCH:
            found.append(at_least(name, rate, "entries/s", AT_LEAST))
        else:
            found.append(Row(name, rate, "entries/s"))
        beyond = (path.stat().st_size - sum(map(len, some))) / len(some)
        found.append(
            Row(f"on disk beyond its own bytes, {batch} to a batch", beyond, "bytes/entry")
        )
    path = folder / f"{BATCHES[-1]}.log"
    key, kept = Identity(bytes(32)).public, verify(path).head
    found.append(
        Row("verified, against key and head", count / seconds(lambda: verify(path, key, [kept])),
            "entries/s")
    )  # fmt: skip
    found.append(Row("opened to go on", seconds(lambda: _opened(path)), "s"))
    built = tree(path)
    places = range(0, count, count // PROOFS)
    taken = seconds(lambda: [built.inclusion(at, count) for at in places]) / len(places)
    head, proof = built.head(count), built.inclusion(1, count)
    found.append(Row("an inclusion proof, made", 1e6 * taken, "us"))
    found.append(Row("... of", len(proof), "hashes"))
    checked = seconds(lambda: [head.includes(1, leaf_hash(content[1]), proof) for _ in range(500)])
    found.append(Row("... checked", 1e6 * checked / 500, "us"))
    return found


def _opened(path: Path) -> None:
    AuditLog.open(path, Identity(bytes(32))).close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the entries")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--at", type=Path, metavar="FOLDER", help="where the logs are written")
    asked = parser.parse_args()
    count = QUICK_ENTRIES if asked.quick else ENTRIES
    with tempfile.TemporaryDirectory(dir=asked.at) as folder:
        found = rows(Path(folder), count)
    print_table(f"An audit log of {count} entries", found)
    if asked.json:
        write_json(asked.json, "auditlog", found)


if __name__ == "__main__":
    main()
