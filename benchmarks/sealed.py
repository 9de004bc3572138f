"""Sealed files: how fast, and in how much memory.

    python benchmarks/sealed.py [--quick] [--json FILE] [--at FOLDER]

In memory it is the cipher, the chunks and Python, on one core. From file to file it is that, and
reading, writing and the fsync of FOLDER's disk (by default, where temporary files go). Memory is
how much larger the process ever was while it sealed and opened the file than before.
"""

import argparse
import io
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

from benchmarks.shared.table import Row, at_least, at_most, print_table, write_json  # noqa: E402
from tacit.app.sealing import open_file, seal_file  # noqa: E402
from tacit.crypto.sealed import Context, SealKey, seal, unseal  # noqa: E402

MIB = 1 << 20
SIZE, QUICK_SIZE = 256 * MIB, 16 * MIB
KEY = SealKey(bytes(range(32)))
GOAL_GB, GOAL_MIB = 1.0, 16
REPEATS = 5


def speed(size: int, do: Callable[[], object]) -> float:
    """GB a second, the median of some repeats."""
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        do()
        taken.append(time.perf_counter() - began)
    return size / statistics.median(taken) / 1e9


def peak() -> float:
    """MiB that this process had resident at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def on_disk(folder: Path, size: int) -> list[Row]:
    file, sealed, opened = (folder / name for name in ("file", "file.sealed", "opened"))
    with file.open("wb") as out:
        for _ in range(size // MIB):
            out.write(os.urandom(MIB))

    def close() -> None:
        seal_file(file, sealed, [KEY.public], Context(), replace=True)

    def reopen() -> None:
        open_file(sealed, opened, KEY, Context(), replace=True)

    before = peak()
    close()
    reopen()
    grown = peak() - before
    return [
        at_most(f"memory, for a file of {size // MIB} MiB", grown, "MiB", GOAL_MIB),
        Row("sealed, from file to file", speed(size, close), "GB/s"),
        Row("opened, from file to file", speed(size, reopen), "GB/s"),
    ]


def in_memory(size: int) -> list[Row]:
    content, to = os.urandom(size), [KEY.public]
    sealed = b"".join(seal(io.BytesIO(content), to, Context(), bytes(32)))

    def close() -> None:
        for _ in seal(io.BytesIO(content), to, Context(), bytes(32)):
            pass

    def reopen() -> None:
        for _ in unseal(io.BytesIO(sealed), KEY)[1]:
            pass

    return [
        at_least("sealed, in memory", speed(size, close), "GB/s", GOAL_GB),
        at_least("opened, in memory", speed(size, reopen), "GB/s", GOAL_GB),
        Row("larger by", len(sealed) - size, "bytes"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--at", type=Path, metavar="FOLDER", help="where the files are written")
    asked = parser.parse_args()
    size = QUICK_SIZE if asked.quick else SIZE
    with tempfile.TemporaryDirectory(dir=asked.at) as folder:
        found = on_disk(Path(folder), size)  # first: what comes later would hide how little it is
    found += in_memory(size)
    print_table(f"Sealing {size // MIB} MiB", found)
    if asked.json:
        write_json(asked.json, "sealed", found)


if __name__ == "__main__":
    main()
