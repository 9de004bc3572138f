"""The file of an audit's report: written in one way only, signed, and named in the run's log."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.app.folder import MODEL, RunFolder
from tacit.app.journal import LOG, signer
from tacit.app.release import FORMAT, entries_of
from tacit.crypto import labels
from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.identity import Identity, verified
from tacit.server.auditlog import verify
from tacit.server.entries import encode
from tacit.server.kinds import Audited, Released
from tacit.simulations.report.audit import render_audit

REPORT, PAGE = "release.json", "release.html"


@dataclass(frozen=True, slots=True)
class Checked:
    """A report that is as it was signed, and in the log. `later` audits of the same name came after
    it, and `is_current` says whether the model is still the one that was audited."""

    report: dict[str, Any]
    key: bytes
    digest: str
    later: int
    is_current: bool


def signed(report: Mapping[str, Any], keeper: Identity) -> bytes:
    """The file: report, public key and signature."""
    signature = keeper.sign(labels.AUDIT_REPORT, encode(report))
    envelope = {"report": report, "key": keeper.public.hex(), "signature": signature.hex()}
    return encode(envelope) + b"\n"


def opened(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The report and the key it is signed with. Raises Damaged for any other bytes than `signed`
    writes, which includes what another program made of them without a change of meaning."""
    try:
        envelope = json.loads(data)
        report, key = envelope["report"], bytes.fromhex(envelope["key"])
        signature = bytes.fromhex(envelope["signature"])
        is_exact = set(envelope) == {"report", "key", "signature"} and (
            encode(envelope) + b"\n" == data
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Damaged(
            "this is no report that tacit audit release wrote, or it was altered"
        ) from None
    if not is_exact or not isinstance(report, dict):
        raise Damaged("the report was altered: it is not written as it was signed")
    if not verified(key, labels.AUDIT_REPORT, encode(report), signature):
        raise Damaged("the report was altered: its signature does not fit")
    if report.get("format") != FORMAT:
        raise Damaged(f"a report of format {report.get('format')}, and this version reads {FORMAT}")
    return report, key


def write(folder: RunFolder, report: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write report and page, and the log's entry about them; the paths of both.

    The entry comes first: after a crash there may be an entry without its report, which shows, and
    never a report that no log has.
    """
    data = signed(report, signer(folder.path))
    digest = hashlib.sha256(data).hexdigest()
    try:
        folder.journal.note(Audited(REPORT, digest, bool(report["holds"])))
    finally:
        folder.journal.close()
    target, page = folder.path / REPORT, folder.path / PAGE
    for path, content in ((target, data), (page, page_of(report, digest).encode())):
        fresh = path.with_name(path.name + ".new")
        fresh.write_bytes(content)
        fresh.replace(path)
    return target, page


def page_of(report: Mapping[str, Any], digest: str) -> str:
    """The report for people: made from the report alone, so that it can be made again."""
    return render_audit(report, digest)


def check(path: Path, key: bytes | None = None, log: Path | None = None) -> Checked:
    """Hold a report against its signature and the log, which is beside it unless `log` says where.

    `key` is whose it has to be. Raises Damaged, saying what is wrong; ParameterError if there is no
    report or no log.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise ParameterError(f"no report at {path}: tacit audit release makes one") from None
    report, by = opened(data)
    if key is not None and key != by:
        raise Damaged(f"the report is signed with another key: {by.hex()}")
    kept = log or path.parent / LOG
    verify(kept, by)
    entries = [each.entry for each in entries_of(kept)]
    audits = [each for each in entries if isinstance(each, Audited) and each.name == REPORT]
    digest = hashlib.sha256(data).hexdigest()
    places = [i for i, each in enumerate(audits) if each.digest == digest]
    if not places:
        raise Damaged("the log does not have this report: it is of another run, or was put there")
    if audits[places[-1]].holds != report["holds"]:
        raise Damaged("the log says otherwise than the report whether it holds")
    models = [each for each in entries if isinstance(each, Released) and each.name == MODEL]
    is_current = bool(models) and models[-1].digest == report["release"]["model"]
    page = path.with_name(PAGE)
    if page.exists() and page.read_text(encoding="utf-8") != page_of(report, digest):
        raise Damaged(f"{page} does not say what the report says: it was altered, or is another's")
    return Checked(report, by, digest, len(audits) - 1 - places[-1], is_current)
