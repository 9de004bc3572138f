"""`tacit log verify`: hold an audit log against its signatures, and heads that were kept.
`tacit log show`: what it says.
"""

import json
import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import typer

from tacit.app import lines
from tacit.app.cli.screen import Screen, complain
from tacit.crypto.errors import Damaged, MalformedMessage, ParameterError
from tacit.crypto.identity import KEY_BYTES
from tacit.crypto.loghead import SignedHead
from tacit.server.auditlog import batches
from tacit.server.auditlog import verify as verify_log
from tacit.server.entries import Noted, read

FAILED = 1
NOTHING = {"epsilon": "no bound", "device": "all"}  # what a field says that has no value


def verify(
    screen: Screen, log: Path, key: str | None, heads: list[Path], keep: Path | None
) -> None:
    """Say what is wrong and where, or up to where nothing is. Ends with FAILED if anything is."""
    keeper = public_key(key) if key else None
    kept = [_read(path) for path in heads]
    if keep is not None and keep.exists():
        _read(keep)  # nothing but a head is ever replaced
    try:
        whole = verify_log(log, keeper, kept)
    except Damaged as wrong:
        complain(f"{log}: {wrong}")
        screen.result(log=str(log), whole=False, fault=str(wrong))
        raise typer.Exit(FAILED) from None
    head = whole.head.head
    facts = {"entries": head.size, "root": head.root.hex(), "key": whole.keeper.hex()}
    screen.say(f"{log}: entries: {head.size}, root: {head.root.hex()}")
    screen.say(f"signed by: {whole.keeper.hex()}")
    if keeper is None:
        screen.say("--key was not given: whoever rewrote all of it could have made that key")
    if not kept:
        screen.say("--head was not given: a log that was cut off at a head looks like this, too")
    if keep is not None:
        keep.write_text(whole.head.encode().hex() + "\n", encoding="ascii")
        screen.say(f"its head is kept in {keep}: --head holds a later log against it")
    fault = ""
    if whole.unfinished:
        fault = (
            f"the last {whole.unfinished} bytes are the beginning of a batch: it is being written, "
            "or a crash or somebody cut it off; all before it is as it was signed"
        )
        complain(f"{log}: {fault}")
    screen.result(log=str(log), whole=not fault, fault=fault, **facts)
    if fault:
        raise typer.Exit(FAILED)


def show(screen: Screen, log: Path) -> None:
    """Every entry on a line, up to the first fault. Ends with FAILED if there is one, or an entry
    that this version cannot read."""
    shown, unread, fault = 0, 0, ""
    try:
        with log.open("rb") as file:
            for batch in batches(file):
                for number, entry in enumerate(batch.entries, batch.before.size):
                    is_read = _show(screen, log, number, entry)
                    shown, unread = shown + is_read, unread + (not is_read)
    except (FileNotFoundError, IsADirectoryError):
        raise ParameterError(f"no audit log at {log}") from None
    except Damaged as wrong:
        fault = str(wrong)
        complain(f"{log}: {fault}")
    screen.result(log=str(log), shown=shown, unread=unread, fault=fault)
    if fault or unread:
        raise typer.Exit(FAILED)


def _show(screen: Screen, log: Path, number: int, entry: bytes) -> bool:
    """Whether the entry could be read."""
    try:
        found = read(entry)
    except Damaged as wrong:
        complain(f"{log}: entry {number}: {wrong}")
        return False
    screen.say(f"{number}  {_words(found)}")
    screen.fact(**lines.fields_of(found.entry, number=number, at=found.at))
    return True


def _words(found: Noted) -> str:
    """As `2026-01-31 12:00:00  cohort committed: round 1, purpose "train"`. Texts are in quotes, so
    that none looks like another field."""
    when = datetime.fromtimestamp(found.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    what = re.sub("(?<!^)(?=[A-Z])", " ", type(found.entry).__name__).lower()
    said = (
        f"{name} {NOTHING[name] if value is None else json.dumps(value, ensure_ascii=False)}"
        for name, value in asdict(found.entry).items()
    )
    return f"{when}  {what}: {', '.join(said)}"


def public_key(text: str) -> bytes:
    """A public key as people pass it on. Raises ParameterError unless it is 64 hex digits."""
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ParameterError(f"a public key is {2 * KEY_BYTES} hexadecimal digits")
    return key


def _read(path: Path) -> SignedHead:
    try:
        return SignedHead.decode(bytes.fromhex(path.read_text(encoding="ascii")))
    except FileNotFoundError:
        raise ParameterError(f"no head at {path}: tacit log verify --keep makes one") from None
    except (ValueError, MalformedMessage):
        raise ParameterError(f"{path} is not a head that tacit log verify --keep made") from None
