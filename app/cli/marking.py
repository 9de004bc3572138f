"""`tacit mark`: keys of marks, commitments to them, and whether a model bears one."""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import typer
from rich.table import Table

from tacit.app import marking
from tacit.app.cli.log import public_key
from tacit.app.cli.screen import Screen, complain
from tacit.app.config import Settings, load
from tacit.app.folder import MODEL, STATUS, RunFolder
from tacit.app.marking import Suspect
from tacit.client.trainer import Arrays
from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import KEY_BYTES
from tacit.crypto.mark import MarkKey
from tacit.server.auditlog import verify as verify_log
from tacit.simulations.ownership import (
    Evidence,
    committed_in,
)

FAILED = 1


def new(screen: Screen, path: Path, simulated: int | None) -> None:
    """Make a key, or write the one that everybody can derive."""
    key = MarkKey(os.urandom(KEY_BYTES)) if simulated is None else marking.simulated_key(simulated)
    marking.new_key(path, key)
    if simulated is None:
        screen.say(f"{path} is the key of a mark: whoever reads it can claim, and remove, the mark")
    else:
        screen.say(f"{path} is the key of simulated device {simulated}: it is no secret")
    screen.result(key=str(path))


def commit(screen: Screen, path: Path, config: Path | None, assign: list[str]) -> None:
    """Print what may be told of a key, for marks as the settings have them."""
    key = marking.read_key(path)
    mark = _settings(config, assign).mark
    triggers, signs = mark.by_server, mark.by_devices
    screen.say(f"{mark.triggers} triggers: {triggers.commitment(key).hex()}")
    if signs is not None:
        where = signs.array or "the largest array"
        screen.say(f"{signs.bits} bits in {where}: {signs.commitment(key).hex()}")
    screen.result(
        triggers=triggers.commitment(key).hex(),
        bits="" if signs is None else signs.commitment(key).hex(),
    )


def verify(
    screen: Screen,
    suspect: Path,
    key_file: Path,
    config: Path | None,
    assign: list[str],
    log: Path | None,
    log_key: str | None,
    false_claims: int,
) -> None:
    """Hold a model against a key, and against wrong ones. Ends with FAILED unless it verifies."""
    key, found = marking.read_key(key_file), _suspect(suspect, config, assign)
    committed = None if log is None else _committed(log, log_key)
    claims = 2 * max(1, len(committed or ()))
    evidence = [found.evidence(mark, key, claims) for mark in found.marks]
    wrong = [MarkKey(os.urandom(KEY_BYTES)) for _ in range(false_claims)]
    controls = [[found.evidence(mark, each, claims) for each in wrong] for mark in found.marks]
    dates = [
        None if committed is None else committed.get(mark.commitment(key).hex())
        for mark in found.marks
    ]
    proven = [
        each.verifies and (committed is None or at is not None)
        for each, at in zip(evidence, dates, strict=True)
    ]
    false = sum(any(each.verifies for each in one) for one in zip(*controls, strict=True))
    screen.console.print(_table(evidence, controls))
    is_verified = any(proven) and not false
    said = _said(evidence, dates, committed, false, false_claims)
    for line in said[:-1]:
        screen.say(line)
    screen.result(
        verified=is_verified,
        false_claims=false,
        tried=false_claims,
        marks=[_summary(*each) for each in zip(evidence, dates, controls, strict=True)],
    )
    if not is_verified:
        complain(f"{suspect}: not verified: {said[-1]}")
        raise typer.Exit(FAILED)
    screen.say(f"{suspect}: verified: {said[-1]}", style="bold")


def _said(
    evidence: Sequence[Evidence],
    dates: Sequence[float | None],
    committed: Mapping[str, float] | None,
    false: int,
    tried: int,
) -> list[str]:
    """What is to be known of the verdict, and at last why it is as it is."""
    lines = []
    if tried:
        lines.append(f"wrong keys that verify: {false} of {tried}")
    if false:
        return [*lines, "wrong keys verify as well: something else than a key answers"]
    there = [each.kind for each in evidence if each.verifies]
    if not there:
        return [*lines, "the model does not bear this key's mark"]
    bears = f"the model bears the {' and '.join(there)} of this key"
    if committed is None:
        lines.append(
            "without --log nobody knows which was there first, the model or the key: anybody can "
            "find such a key for a finished model, or put a mark into a copy"
        )
        return [*lines, bears]
    first = [at for at, each in zip(dates, evidence, strict=True) if each.verifies and at]
    if not first:
        return [
            *lines,
            f"{bears}, and the log does not commit to it before the first round: it may have been "
            "made for the finished model",
        ]
    when = datetime.fromtimestamp(min(first), UTC).strftime("%Y-%m-%d %H:%M:%S")
    lines.append(
        "whose log is the older one is told by a head that was kept elsewhere: tacit log verify"
    )
    return [*lines, f"{bears}, committed to before the first round, at {when} UTC"]


def _table(evidence: Sequence[Evidence], controls: Sequence[Sequence[Evidence]]) -> Table:
    shown = Table("mark", "found", "needed", "chance", "p-value", "wrong keys, most")
    for each, wrong in zip(evidence, controls, strict=True):
        most = max((one.hits for one in wrong), default=0)
        shown.add_row(
            each.kind,
            f"{each.hits}/{each.of}",
            str(each.needed) if each.needed <= each.of else "more",
            f"{each.chance:.3g}",
            f"{each.p:.2g}",
            f"{most}/{each.of}" if wrong else "",
        )
    return shown


def _summary(each: Evidence, at: float | None, wrong: Sequence[Evidence]) -> dict[str, object]:
    return {
        "kind": each.kind,
        "hits": each.hits,
        "of": each.of,
        "needed": each.needed,
        "p": each.p,
        "threshold": each.threshold,
        "verifies": each.verifies,
        "committed_at": at,
        "wrong_most": max((one.hits for one in wrong), default=0),
        "wrong_mean": float(np.mean([one.share for one in wrong])) if wrong else 0.0,
    }


def _suspect(path: Path, config: Path | None, assign: list[str]) -> Suspect:
    """A run's folder, or a file with settings that say what is in it."""
    if (path / STATUS).exists():
        if config is not None:
            raise ParameterError(f"{path} has settings of its own: leave out --config")
        settings = RunFolder.open(path).settings.changed(assign)
        return Suspect(_read(path / MODEL), settings)
    if path.is_dir():
        raise ParameterError(f"no run in {path}: name a run's folder, or a model's file")
    return Suspect(_read(path), _settings(config, assign))


def _read(path: Path) -> Arrays:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        raise ParameterError(f"no model at {path}: a run leaves one when it is finished")
    try:
        return dict(load_file(path))
    except (SafetensorError, ValueError, TypeError, KeyError) as bad:
        raise ParameterError(f"{path} is no safetensors file that numpy can read: {bad}") from None


def _settings(config: Path | None, assign: list[str]) -> Settings:
    return (load(config) if config else Settings()).changed(assign)


def _committed(log: Path, log_key: str | None) -> dict[str, float]:
    if log_key:
        verify_log(log, public_key(log_key))
    return committed_in(log)
