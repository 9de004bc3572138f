"""A process of the gate that is to be killed: FILE. Its first line of input is a key; for each byte
after that it takes one answer and says so, or that there are no more."""

import os
import sys
import time
from pathlib import Path

from tacit.server.gate.base import Denial
from tacit.server.gate.records import StoredRecords
from tacit.server.gate.store import Store
from tacit.server.gate.windows import Windows

GIVEN, NO_MORE = b".", b"!"


def main(path: Path, key: str) -> None:
    records = StoredRecords(Store(path), Windows("1000000/minute", "1000000/minute"))
    while os.read(0, 1):
        at = time.time()
        try:
            records.take(records.grant_of(key, "10.0.0.1", at), 1, at)
        except Denial:
            os.write(1, NO_MORE)
        else:
            os.write(1, GIVEN)


def _line() -> str:
    """Not one byte more than the line."""
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1)
    return line.decode().strip()


if __name__ == "__main__":
    main(Path(sys.argv[1]), _line())
