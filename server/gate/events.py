"""Decisions as JSON, one a line, for whatever collects a house's security events.

They are entries of the audit log, but for answers, with the techniques of MITRE ATLAS that they may
be a sign of (atlas.mitre.org: AML.T0024 Exfiltration via AI Inference API with .000 Infer Training
Data Membership, .001 Invert AI Model, .002 Extract AI Model; AML.T0029 Denial of AI Service;
AML.T0040 AI Model Inference API Access). The file's size has a bound: whoever is refused must not
fill a disk.
"""

import json
import logging
import logging.handlers
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tacit.server.entries import one_line
from tacit.server.events import Event
from tacit.server.gate.drift import Proposal
from tacit.server.gate.lately import Lately
from tacit.server.kinds import Answered, Denied, Judged, Kind

FILE_BYTES, FILES = 8 << 20, 4
MOST_NAMED = 20  # keys in one line
MEMBERSHIP, INVERT, EXTRACT = "AML.T0024.000", "AML.T0024.001", "AML.T0024.002"
SERVICE, ACCESS = "AML.T0029", "AML.T0040"

BY_STAGE: dict[str, tuple[str, ...]] = {
    "key": (ACCESS,),
    "scope": (MEMBERSHIP, INVERT),  # both want more than labels
    "budget": (EXTRACT,),
    "model": (SERVICE,),
    "log": (SERVICE,),
}


class Events:
    """Appends to a file, and turns it over when it is large; the last of them are in `lately`.
    Thread-safe, as logging is."""

    def __init__(self, path: Path) -> None:
        self.lately = Lately()
        self._file = logging.handlers.RotatingFileHandler(
            path, maxBytes=FILE_BYTES, backupCount=FILES, encoding="utf-8", delay=True
        )

    def hear(self, entry: Event | Kind, at: float) -> None:
        """An entry that is kept, and its time. Who was answered how often is in the log alone."""
        if isinstance(entry, Answered):
            return
        said = {name: one_line(v) if isinstance(v, str) else v for name, v in asdict(entry).items()}
        self._say(type(entry).__name__, at, **said, atlas=techniques(entry))

    def propose(self, proposal: Proposal) -> None:
        """That somebody looks at the data, or at a key."""
        fields = asdict(proposal) | {"keys": proposal.keys[:MOST_NAMED], "atlas": ()}
        self._say("Drift", **fields)

    def _say(self, event: str, at: float, **fields: Any) -> None:
        line = {"event": event} | fields | {"at": round(at, 3)}
        self.lately.hear(line)
        self._file.handle(logging.makeLogRecord({"msg": json.dumps(line)}))

    def close(self) -> None:
        self._file.close()


def techniques(entry: Event | Kind) -> tuple[str, ...]:
    """Of MITRE ATLAS, that this may be a sign of."""
    match entry:
        case Denied():
            return BY_STAGE.get(entry.stage, ())
        case Judged(by="gate"):
            return INVERT, EXTRACT
    return ()
