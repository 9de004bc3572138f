"""An audit of a release: its own model, data and settings attacked, and one signed report.

A release is the folder of a finished run. The report is signed with the key of the run's audit log,
and the log says that it was made: so a report that was altered, or one that was put in another's
place, is told from the one that was written. Who owns the folder can write another one, and sign
it; the log will have both.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tacit import __version__
from tacit.app.duels import fought_as_json
from tacit.app.folder import MODEL, RunFolder
from tacit.app.journal import LOG, digest_of, signer
from tacit.app.marking import Suspect, read_key
from tacit.app.reporting import statement_of
from tacit.app.shadowing import Known, known, membership, model_of
from tacit.client.trainer import Arrays
from tacit.crypto.errors import Damaged, ParameterError, TacitError
from tacit.crypto.identity import KEY_BYTES
from tacit.crypto.mark import MarkKey
from tacit.privacy.statement import Statement
from tacit.server.auditlog import Whole, batches, verify
from tacit.server.entries import Noted, read
from tacit.server.kinds import Released
from tacit.simulations.data.dataset import take
from tacit.simulations.duels.base import Figure, Fought, Line, Role, Scale, Tell, share_of
from tacit.simulations.duels.registry import PROBES, probe
from tacit.simulations.duels.release import Release, divided
from tacit.simulations.named import nearest
from tacit.simulations.ownership import committed_in

FORMAT = 1  # of the report: more fields may come, none goes
DELTA = 1e-5  # at which epsilon is bounded from below where none is accounted for
NAMES = ("log", "privacy", "membership", "watermark", *PROBES)
WRONG_KEYS = 20
Work = Callable[[Tell], Fought]


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished run whose log is whole, and whose model is the one that the log says it is."""

    folder: RunFolder
    digest: str
    whole: Whole
    entries: tuple[Noted, ...]

    @classmethod
    def open(cls, path: Path) -> "Finished":
        """Raises ParameterError for what is no finished run, and Damaged, saying what is wrong, for
        a log or a model that is not as it was written."""
        folder = RunFolder.open(path)
        if (status := folder.status()) != "finished":
            raise ParameterError(
                f"the run in {path} is {status}, and only a finished one is a release: "
                f"tacit simulate --resume --out {path} goes on with it"
            )
        if not (path / MODEL).is_file():
            raise ParameterError(f"{path} has no {MODEL}: there is nothing to audit")
        whole = verify(path / LOG, signer(path).public)
        entries = entries_of(path / LOG)
        released = [e.entry for e in entries if isinstance(e.entry, Released)]
        digest = digest_of(path / MODEL)
        if not any(each.name == MODEL for each in released):
            raise Damaged(f"the log of {path} does not say that a model was released")
        last = [each for each in released if each.name == MODEL][-1]
        if last.digest != digest:
            raise Damaged(
                f"{path / MODEL} is not the model that the log says was released: it was "
                "changed afterwards"
            )
        return cls(folder, digest, whole, entries)

    @property
    def statement(self) -> Statement | None:
        return statement_of(self.folder)

    @property
    def committed(self) -> frozenset[str]:
        """Commitments to keys of marks, before the first round: later ones prove nothing."""
        return frozenset(committed_in(self.folder.path / LOG))

    def arrays(self) -> Arrays:
        """Raises Damaged for a file that holds none, or is another one by now: what is attacked is
        what the report names."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = self.folder.path / MODEL
        try:
            content = path.read_bytes()
            arrays = dict(load(content))
        except (SafetensorError, OSError) as bad:
            raise Damaged(f"{path} cannot be read: {bad}") from None
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise Damaged(f"{path} was changed while it was being audited")
        return arrays

    def release(self, audited: Known) -> Release:
        settings = self.folder.settings
        parts = (take(audited.examples, np.flatnonzero(chosen))
                 for chosen in (audited.member, ~audited.member))  # fmt: skip
        model = model_of(settings, self.arrays())
        ground = divided(settings.data.name, model.classes, *parts)
        return Release(self.folder.path.resolve().name, ground, model)


def entries_of(log: Path) -> tuple[Noted, ...]:
    """Everything that a log says. Raises Damaged for an entry that this version cannot read."""
    with log.open("rb") as file:
        return tuple(read(entry) for batch in batches(file) for entry in batch.entries)


def plan(
    finished: Finished, shadows: int, scale: Scale, mark_key: Path | None = None
) -> dict[str, Work]:
    """What is to be done, by name, in order. Raises ParameterError for a model that cannot be
    loaded, and a key of a mark that is none."""
    settings, statement = finished.folder.settings, finished.statement
    release = finished.release(known(settings))
    epsilon = math.inf if statement is None else statement.worst
    delta = DELTA if statement is None else statement.delta
    work: dict[str, Work] = {"log": lambda tell: _log(finished)}
    if statement is not None:
        work["privacy"] = lambda tell: _privacy(statement)
    if shadows:
        work["membership"] = lambda tell: membership(
            release, settings, shadows, epsilon, delta, tell
        )
    work["watermark"] = _marking(finished, None if mark_key is None else read_key(mark_key))
    for name in PROBES:
        work[name] = _probing(name, release, scale)
    return work


def _marking(finished: Finished, key: MarkKey | None) -> Work:
    def do(tell: Tell) -> Fought:
        if not finished.committed:
            raise ParameterError("no mark was committed to before training: none would prove much")
        if key is None:
            raise ParameterError("a mark was committed to: hold its key against it with --mark-key")
        return _watermark(finished, key)

    return do


def _probing(name: str, release: Release, scale: Scale) -> Work:
    return lambda tell: probe(name)(release, scale, tell)


def attacked(
    work: Mapping[str, Work], bars: Mapping[str, Tell]
) -> tuple[dict[str, Fought], dict[str, str]]:
    """What was found, and, where nothing was, why. In this process: federations have threads."""
    found: dict[str, Fought] = {}
    not_done: dict[str, str] = {}
    for name, do in work.items():
        try:
            found[name] = do(bars[name])
        except TacitError as refused:
            not_done[name] = str(refused)
        bars[name](1.0)
    return found, not_done


def gated(found: Mapping[str, Fought], gates: Mapping[str, float]) -> dict[str, Fought]:
    """With what each is held against: the first line of a defence that has no target of its own."""
    out = dict(found)
    for name, most in gates.items():
        if name not in out:
            continue
        lines = list(out[name].lines)
        at = next(i for i, each in enumerate(lines) if each.role is Role.DEFENCE)
        lines[at] = replace(lines[at], target=most, at_most=True)
        out[name] = replace(out[name], lines=tuple(lines))
    return out


def checked_gates(gates: Mapping[str, float]) -> None:
    """Raises ParameterError for a gate on what is not audited, and for one that is no number."""
    known_ = [name for name in NAMES if name not in ("log", "watermark")]
    for name, most in gates.items():
        if name not in known_:
            raise ParameterError(
                f"nothing called {name!r} can be held against a number"
                f"{nearest(name, known_)}; there are {', '.join(known_)}"
            )
        if not math.isfinite(most):
            raise ParameterError(f"{name}={most}, expected a number")


def report_of(
    finished: Finished,
    found: Mapping[str, Fought],
    not_done: Mapping[str, str],
    gates: Mapping[str, float],
    *,
    quick: bool,
) -> dict[str, Any]:
    """All that is said, as JSON values; `quick` says that it was a look, which finds less. What was
    to be held against a number and was not measured does not hold: a gate that opens when its
    attack fails to run is none."""
    settings, statement, head = finished.folder.settings, finished.statement, finished.whole.head
    missing = [name for name in gates if name not in found]
    return {
        "format": FORMAT,
        "tacit": __version__,
        "made": round(time.time(), 3),
        "quick": quick,
        "release": {
            "name": finished.folder.path.resolve().name,
            "model": finished.digest,
            "architecture": settings.model.name,
            "data": settings.data.name,
            "devices": settings.data.devices,
            "rounds": settings.run.rounds,
            "protocol": settings.secure.protocol,
            "log": head.log.hex(),
            "entries": head.head.size,
            "root": head.head.root.hex(),
        },
        "privacy": None if statement is None else statement.text(),
        "holds": not missing and all(each.holds for each in found.values()),
        "gates": dict(gates),
        "duels": [fought_as_json(each) for each in found.values()],
        "not_done": dict(not_done),
    }


def _log(finished: Finished) -> Fought:
    settings = finished.folder.settings
    entries = Figure(
        float(finished.whole.head.head.size)
    )  # and it names the model, or none is here
    line = Line("audit log", "entries, each below a signed head", entries)
    return Fought("log", "the run's folder, altered afterwards", "its audit log",
                  settings.data.name, (line,), 0.0, (
        "That the end of the log is there, and that it is the only one, is known to who kept a "
        "head of it elsewhere: tacit log verify --head.",
    ))  # fmt: skip


def _privacy(statement: Statement) -> Fought:
    line = Line("accountant", f"epsilon at delta {statement.delta:g}",
                Figure(statement.worst), Role.DEFENCE)  # fmt: skip
    return Fought("privacy", "any", "noise of the run's private sums", "", (line,), 0.0)


def _watermark(finished: Finished, key: MarkKey) -> Fought:
    """Whether the release bears the mark of a key that the log committed to."""
    suspect = Suspect(finished.arrays(), finished.folder.settings)
    claims = 2 * len(finished.committed)
    wrong = [MarkKey(os.urandom(KEY_BYTES)) for _ in range(WRONG_KEYS)]
    lines, proven, false = [], 0, 0
    for mark in suspect.marks:
        found = suspect.evidence(mark, key, claims)
        is_committed = mark.commitment(key).hex() in finished.committed
        proven += found.verifies and is_committed
        false += sum(suspect.evidence(mark, each, claims).verifies for each in wrong)
        said = "committed to before training" if is_committed else "not committed to"
        lines += [
            Line(f"{found.kind}, {said}", "found in the model", share_of(found.hits, found.of)),
            Line(f"{found.kind}, {said}", "chance of as many without the key", Figure(found.p)),
        ]
    lines += [
        Line("this key", "marks that it committed to and that verify", Figure(float(proven)),
             Role.DEFENCE, 1.0),
        Line(f"{WRONG_KEYS} wrong keys", "marks that verify", Figure(float(false)), Role.ATTACK,
             0.0, at_most=True),
    ]  # fmt: skip
    return Fought("watermark", "claims with wrong keys", "keys committed to before training",
                  finished.folder.settings.data.name, tuple(lines), 0.0, (
        "A mark that is there today can be taken out: by training further at a high rate, or by "
        "copying with real data.",
    ))  # fmt: skip
