"""Which orders were taken, for as long as a copy of one could pass for new.

    DIR/orders/ISSUED-ID.open   handed out, and not yet done with: times (u8), and the order
    DIR/orders/ISSUED-ID.done   done with
    DIR/orders/floor            when the last of those was made that are forgotten

Times are in milliseconds, ID is of key and nonce. Nothing that was made up to `floor` is new any
more, whatever the clock says now: a clock that is set back does not bring an old order back.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tacit.client.files import replace_file, sync
from tacit.crypto.errors import Damaged
from tacit.crypto.order import SignedOrder

WINDOW = 24 * 3600  # seconds that an order is good for: a server may be down
AHEAD = 300  # seconds that an operator's clock may be ahead
AGAIN = 3  # times that one is handed out
OPEN, DONE, FLOOR = ".open", ".done", "floor"


@dataclass(frozen=True, slots=True)
class Memory:
    """The folder, which is made if it is not there."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def has(self, order: SignedOrder) -> bool:
        return any((self.folder / f"{_stem(order)}{kind}").exists() for kind in (OPEN, DONE))

    def note(self, order: SignedOrder, times: int) -> None:
        """It is handed out now, for so many times."""
        replace_file(self.folder / f"{_stem(order)}{OPEN}", bytes([times]) + order.encode())

    def finish(self, order: SignedOrder) -> None:
        """It is done with, and will not be handed out again."""
        replace_file(self.folder / f"{_stem(order)}{DONE}", b"")
        (self.folder / f"{_stem(order)}{OPEN}").unlink(missing_ok=True)
        sync(self.folder)

    def unfinished(self) -> Iterator[tuple[bytes, int]]:
        """What was handed out and is not done with: the order, and how many times it was."""
        for path in sorted(self.folder.glob(f"*{OPEN}")):
            if path.with_suffix(DONE).exists():
                path.unlink()
                continue
            data = path.read_bytes()
            if not data:
                raise Damaged(f"{path} is empty: delete it, its order is lost")
            yield data[1:], data[0]

    def forgot(self, issued: int) -> bool:
        """Whether an order that was made then may have been taken, and nothing says so any more."""
        return issued <= self._floor()

    def forget(self, now: float) -> None:
        """Let go of those that are too old to be taken, a little later than they are."""
        old = [
            path
            for path in self.folder.glob(f"*{DONE}")
            if _issued(path) < 1000 * (now - WINDOW - AHEAD)
        ]
        if not old:
            return
        floor = max(self._floor(), *map(_issued, old))
        replace_file(self.folder / FLOOR, str(floor).encode())  # first: else there is a gap
        for path in old:
            path.unlink()

    def _floor(self) -> int:
        try:
            return int((self.folder / FLOOR).read_bytes())
        except FileNotFoundError:
            return -1
        except ValueError:
            raise Damaged(f"{self.folder / FLOOR} is damaged: it is to be a time") from None


def _stem(order: SignedOrder) -> str:
    return f"{order.issued:015d}-{hashlib.sha256(order.key + order.nonce).hexdigest()[:32]}"


def _issued(path: Path) -> int:
    return int(path.name.partition("-")[0])
