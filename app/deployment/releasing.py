"""A finished run's model, let out: copied to where others may take it, and the log says so."""

import hashlib
import os
from pathlib import Path

from tacit.app.deployment.places import Places
from tacit.app.folder import MODEL, STATUS, RunFolder
from tacit.app.journal import LOG, Journal, signer
from tacit.client.files import SHARED_MODE, sync
from tacit.crypto.errors import Damaged, ParameterError
from tacit.server import auditlog, entries
from tacit.server.kinds import Released

_CHUNK = 1 << 20


def released(places: Places, name: str) -> Path:
    """Where a run's model is once it was let out."""
    return places.released / f"{name}.safetensors"


def release(
    places: Places,
    name: str,
    journal: Journal,
    *,
    needs_audit: bool = False,
    is_again: bool = False,
) -> None:
    """Copy a finished run's model, byte for byte what its log says that it ended with.

    With `needs_audit` only one whose signed audit is of this model and holds. Raises ParameterError
    for no such run, one that is not finished or was released, and a missing audit; Damaged for a
    model or a log that is not what it was. Then there is nothing new in `released`.
    """
    if not (places.runs / name / STATUS).is_file():
        raise ParameterError(f"no run {name}: tacit status lists them")
    folder, target = RunFolder.open(places.runs / name), released(places, name)
    if (status := folder.status()) != "finished":
        raise ParameterError(f"run {name} is {status}: only a finished one has a model to release")
    if target.exists():
        if is_again:
            return
        raise ParameterError(f"run {name} is released already: {target}")
    said = _said(folder.path)
    if needs_audit:
        _check_audit(folder.path)
    fresh = places.released / f".{name}.{os.urandom(8).hex()}.new"
    try:
        digest = _copied(folder.path / MODEL, fresh)
        if digest != said:
            raise Damaged(f"the model of run {name} is not the one that its log names: {digest}")
        journal.note(Released(target.name, digest))
        fresh.rename(target)
    finally:
        fresh.unlink(missing_ok=True)
    sync(places.released)


def _said(run: Path) -> str:
    """The digest of the model, by the run's own log, which has to be whole."""
    auditlog.verify(run / LOG, signer(run).public)
    said = None
    with (run / LOG).open("rb") as file:
        for batch in auditlog.batches(file):
            for each in batch.entries:
                entry = entries.read(each).entry
                if isinstance(entry, Released) and entry.name == MODEL:
                    said = entry.digest
    if said is None:
        raise Damaged(f"the log of {run} does not say that it ended with a model")
    return said


def _check_audit(run: Path) -> None:
    from tacit.app import signed  # with all that attacks need, which a supervisor is spared

    checked = signed.check(run / signed.REPORT, signer(run).public)
    if not checked.is_current:
        raise ParameterError(f"the audit of {run} is of another model: tacit audit release {run}")
    if checked.later:
        raise ParameterError(f"the audit of {run} is not its last one: tacit audit release {run}")
    if checked.report["quick"] or not checked.report["holds"]:
        raise ParameterError(f"the audit of {run} does not hold, or was a quick look")


def _copied(source: Path, target: Path) -> str:
    """SHA-256 of what was copied, which is durable."""
    try:
        handle = os.open(source, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError as bad:
        raise Damaged(f"{source} cannot be read: {bad.strerror}") from None
    digest = hashlib.sha256()
    with os.fdopen(handle, "rb") as reading, target.open("xb") as writing:
        os.fchmod(writing.fileno(), SHARED_MODE)
        while chunk := reading.read(_CHUNK):
            digest.update(chunk)
            writing.write(chunk)
        writing.flush()
        os.fsync(writing.fileno())
    return digest.hexdigest()
