"""deployed.json in a run's folder: who ordered the run, and how far the supervisor is with it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tacit.client.files import SHARED_MODE, replace_file
from tacit.crypto.errors import Damaged

FILE = "deployed.json"
OPEN = ""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A run that was ordered, at `ordered` in Unix time, `by` an operator.

    `number` is Flower's of the last time that it was begun, of `begun` times in all. `how` it
    ended: finished, failed or stopped; empty for one that has not. `reason` is why, or what it
    waits for.
    """

    by: str
    digest: str
    ordered: float
    begun: int = 0
    number: int = 0
    how: str = OPEN
    reason: str = ""
    is_to_stop: bool = False

    def write(self, folder: Path) -> None:
        replace_file(folder / FILE, json.dumps(asdict(self)).encode() + b"\n", SHARED_MODE)


def read(folder: Path) -> Ticket | None:
    """None where nobody ordered the run. Raises Damaged."""
    try:
        return Ticket(**json.loads((folder / FILE).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise Damaged(f"{folder / FILE} is damaged: tacit run --resume {folder.name}") from None
