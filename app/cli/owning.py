"""What `tacit device status` says, once its arguments are read."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from tacit.app.cli.choosing import policy_words, rule_words
from tacit.app.cli.screen import Screen, complain
from tacit.app.deployment import bundle
from tacit.client.journal import Entry
from tacit.client.status import Spending, Status, status
from tacit.client.vault import FileVault
from tacit.crypto.errors import ParameterError

FAILED = 1
SHOWN = 5  # runs
LEAST = 16  # digits of a head
REFUSALS = ("Refused", "Aborted", "BundleRefused", "NotNow")


def device_status(
    screen: Screen, folder: Path, refused: bool, last: int | None, noted: list[str]
) -> None:
    """Show all that there is to know. Ends with FAILED if anything is wrong."""
    if any(len(head) < LEAST for head in noted):
        raise ParameterError(f"--noted takes the first {LEAST} digits of a head, or more")
    vault = FileVault.open(folder)
    found = status(vault, int(time.time()), noted)
    own = bundle.digest(bundle.build())
    entries = found.account.entries if found.account is not None else ()
    listed: Sequence[Entry] = ()
    if refused:
        listed = [entry for entry in entries if entry.kind in REFUSALS]
    elif last is not None:
        listed = entries
    if last is not None:
        listed = listed[-last:]
    if not listed and not refused and last is None:
        for line in _lines(found, entries, own):
            screen.say(_plain(line))
    for entry in listed:
        screen.say(_plain(f"{_moment(entry.at)}  {_words(entry)}"))
        screen.fact(entry=entry.kind, at=entry.at, **entry.fields)
    for fault in found.faults:
        said = _plain(f"{fault.what}: {fault.remedy}")
        screen.fact(fault=fault.what, remedy=fault.remedy, warning=fault.is_warning)
        if fault.is_warning:
            screen.say(f"note: {said}")
        else:
            complain(said)
    screen.result(**_fields(found, entries, own))
    if any(not fault.is_warning for fault in found.faults):
        raise typer.Exit(FAILED)


def _lines(found: Status, entries: Sequence[Entry], own: str) -> Iterator[str]:
    number = "not enrolled" if found.device is None else f"device {found.device.number}"
    yield f"{found.name or 'no name'}: {number}, {_node(found, entries)}"
    if found.device is not None:
        yield f"authority {found.fingerprint or ''}, key {found.device.authority.hex()}"
    if found.roster is not None and found.member_until is not None:
        yield (
            f"member until {_day(found.member_until)}, roster {found.roster.serial}, "
            f"devices: {len(found.roster.members)}"
        )
    if found.address is not None:
        until = "" if found.ca_until is None else f", CA's certificate until {_day(found.ca_until)}"
        yield f"server {found.address or 'not named yet'}{until}"
    if found.policy is not None:
        yield "its owner agrees to"
        yield from (f"  {line}" for line in policy_words(found.policy))
    if found.settings is not None:
        yield f"trains {'; '.join(rule_words(found.settings))}"
    if found.bundles is not None:
        allowed = found.bundles.all(own)
        yield "bundles that it runs" if allowed else "no bundle is allowed: it answers nothing"
        yield from (f"  {each}{'  (the installed Tacit)' * (each == own)}" for each in allowed)
    yield from _deeds(found, entries)
    for each in found.spending:
        yield _spent(each)
    yield from _refusals(found, entries)
    if found.account is not None and found.account.counts:
        heads = ", ".join(f"{name} {head[:LEAST]}" for name, head in found.account.heads.items())
        total = sum(found.account.counts.values())
        yield f"diary: {total} entries; its heads, to be noted: {heads}"


def _node(found: Status, entries: Sequence[Entry]) -> str:
    """Whether the node runs; if not, since when and why."""
    if found.is_running:
        return "its node is running"
    turns = [entry for entry in entries if entry.kind in ("NodeBegan", "NodeEnded")]
    if not turns:
        return "its node has not run yet (tacit device run)"
    if turns[-1].kind == "NodeBegan":
        return (
            f"its node does not run: it began {_moment(turns[-1].at)}, and was killed or its "
            "machine stopped"
        )
    reason = turns[-1].fields["how"]
    return f"its node does not run: it ended {_moment(turns[-1].at)}, {reason}"


def _deeds(found: Status, entries: Sequence[Entry]) -> Iterator[str]:
    runs = _runs(entries)
    if not runs:
        yield "it took part in nothing yet"
        return
    yield f"took part in {len(runs)} {'run' if len(runs) == 1 else 'runs'}"
    for run in list(runs)[-SHOWN:]:
        yield f"  {_run(run, runs[run])}"
    if len(runs) > SHOWN:
        yield f"  and {len(runs) - SHOWN} before these"
    counts = found.account.counts if found.account is not None else {}
    if older := counts.get("TookPart", 0) - sum(map(len, runs.values())):
        yield f"  {older} contributions are older than the diary's pages"
    if answered := counts.get("Answered", 0):
        yield f"  {answered} answers in the clear, outside of sums"


def _runs(entries: Sequence[Entry]) -> dict[int, list[Entry]]:
    found: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.kind == "TookPart":
            found[entry.fields["run"]].append(entry)
    return dict(found)


def _run(run: int, parts: list[Entry]) -> str:
    rounds = {part.fields["round"] for part in parts}
    cohorts = {part.fields["cohort"] for part in parts}
    sizes = "-".join(str(size) for size in sorted({min(cohorts), max(cohorts)}))
    return (
        f"run {run}: rounds {min(rounds)}-{max(rounds)} ({len(rounds)}), sums: {len(parts)}, with "
        f"{sizes} devices, {parts[-1].fields['protocol']}; {_moment(parts[0].at)} .. "
        f"{_moment(parts[-1].at)}"
    )


def _spent(each: Spending) -> str:
    spent = "no bound" if math.isinf(each.spent) else f"epsilon {_up(each.spent)}"
    if math.isinf(each.budget):
        return f"{each.name}: spent {spent} at delta {each.delta:g}, no budget is set"
    return (
        f"{each.name}: spent {spent} of {each.budget:g} at delta {each.delta:g}, left "
        f"{_down(each.left)}; releases: {each.releases}; it protects {each.unit}"
    )


def _refusals(found: Status, entries: Sequence[Entry]) -> Iterator[str]:
    if found.account is None:
        return
    counts = {kind: found.account.counts.get(kind, 0) for kind in REFUSALS}
    if not any(counts.values()):
        yield "it refused nothing yet"
        return
    said = ", ".join(f"{_kind(kind)} {count}" for kind, count in counts.items() if count)
    yield f"refusals (--refused shows them): {said}"
    for entry in [entry for entry in entries if entry.kind in REFUSALS][-1:]:
        yield f"  the last: {_moment(entry.at)}  {_words(entry)}"


def _words(entry: Entry) -> str:
    said = (
        f"{name} {json.dumps(value, ensure_ascii=False)}"
        for name, value in entry.fields.items()
        if value not in ("", 0.0)
    )
    return f"{_kind(entry.kind)}: {', '.join(said)}"


def _kind(name: str) -> str:
    """As `took part`."""
    spaced = (f" {letter.lower()}" if letter.isupper() else letter for letter in name)
    return "".join(spaced).strip()


def _fields(found: Status, entries: Sequence[Entry], own: str) -> dict[str, Any]:
    device, roster, account = found.device, found.roster, found.account
    return {
        "name": found.name,
        "device": None if device is None else device.number,
        "fingerprint": found.fingerprint,
        "authority": None if device is None else device.authority.hex(),
        "member_until": found.member_until,
        "serial": None if roster is None else roster.serial,
        "devices": None if roster is None else len(roster.members),
        "address": found.address,
        "ca_until": found.ca_until,
        "running": found.is_running,
        "policy": None if found.policy is None else asdict(found.policy),
        "rules": None if found.settings is None else asdict(found.settings),
        "bundles": None if found.bundles is None else found.bundles.all(own),
        "runs": [
            {
                "run": run,
                "rounds": sorted({part.fields["round"] for part in parts}),
                "sums": len(parts),
                "first": parts[0].at,
                "last": parts[-1].at,
            }
            for run, parts in _runs(entries).items()
        ],
        "spending": [{**asdict(each), "left": each.left} for each in found.spending],
        "counts": {} if account is None else dict(account.counts),
        "heads": {} if account is None else account.heads,
        "faults": [fault.what for fault in found.faults if not fault.is_warning],
    }


def _plain(text: str) -> str:
    """What a server has said may be in it: nothing of that is to move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _up(value: float) -> str:
    """What was spent, rounded as bounds are."""
    return f"{math.ceil(value * 1e4) / 1e4:g}"


def _down(value: float) -> str:
    return f"{math.floor(value * 1e4) / 1e4:g}"


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at):%Y-%m-%d %H:%M:%S}"


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at):%Y-%m-%d}"
