"""Reports from run folders: reads what runs left behind and hands it to the page.

A folder is one run, or a comparison: a demo's folder holds the runs `plain` and `secure` and the
attacks on both.
"""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from tacit.app.folder import STATUS, RunFolder
from tacit.crypto.errors import ParameterError
from tacit.privacy import pld
from tacit.privacy.accountants import Adversary
from tacit.privacy.statement import Statement
from tacit.server.checkpoint import Checkpoint
from tacit.server.events import CohortDivided
from tacit.server.private import OnDevice, Privacy
from tacit.server.private_sums import PrivateSums
from tacit.simulations.evaluate import Outcome, load_outcomes
from tacit.simulations.report.data import (
    Curve,
    Dropped,
    LeakCurve,
    LeakPoint,
    ReportData,
    RoundRow,
    Summary,
    limits_of,
)
from tacit.simulations.report.matrix import render_matrix
from tacit.simulations.report.page import render
from tacit.simulations.score import interval
from tacit.simulations.trial import PLAN, TRIALS, TrialLog

ATTACKS, CURVE = "attacks", "curve"
PLAIN, SECURE = "plain", "secure"
AUTO = "auto"  # as secure.protocol
PAGE, CSV = "report.html", "trials.csv"
Events = list[dict[str, Any]]


def rewrite(path: Path) -> Path:
    """Write the report of whatever is in `path`. Raises ParameterError if that is nothing."""
    if (path / SECURE / STATUS).exists():
        return write_comparison(path)
    if (path / STATUS).exists():
        return write(path)
    if (path / TRIALS).exists():
        return write_trials(path)
    raise ParameterError(f"no run in {path}: tacit simulate --out {path} makes one")


def write(path: Path) -> Path:
    """The report of one run."""
    folder = RunFolder.open(path)
    events = folder.events()
    name = "in the clear" if _is_plain(folder) else "secure sum"
    statement = statement_of(folder)
    spent = () if statement is None else (("Privacy", statement.summary),)
    data = ReportData(
        f"{folder.settings.data.devices} devices learn {folder.settings.data.name}",
        _summary(folder, (*spent, *_groups(events))),
        accuracy=(_accuracy(name, events),),
        rounds=_rows(folder, events),
        statement=None if statement is None else statement.text(),
        limits=limits_of(folder.settings.secure.protocol, private=statement is not None),
        config=_config(folder),
    )
    return _save(path, data)


def statement_of(folder: RunFolder) -> Statement | None:
    """What may be said of the privacy of a run; None if it was not a private one."""
    privacy = folder.settings.private
    if privacy is None or _is_plain(folder):
        return None
    return PrivateSums(privacy, folder.storage).statement(_loss(folder, privacy))


def _loss(folder: RunFolder, privacy: Privacy) -> float | None:
    """Epsilon of whoever was in all of it, against outsiders, by privacy loss distributions: where
    examples were drawn that is less than the ledger's figure. None without dp-accounting."""
    kept = folder.path / "checkpoint.npz"
    if not isinstance(privacy, OnDevice) or privacy.rate == 1 or not kept.exists():
        return None
    length = sum(array.size for array in Checkpoint.load(kept).arrays.values())
    every = [privacy.step(length).release(0, 0)] * (privacy.steps * trained_rounds(folder))
    try:
        return pld.epsilon(every, privacy.budget.delta, Adversary.OUTSIDER)
    except ParameterError:
        return None


def trained_rounds(folder: RunFolder) -> int:
    """Rounds in which the model moved."""
    if _is_plain(folder) or folder.settings.secure.groups:  # of these, some alone move nothing
        return sum(bool(each["train"]) for each in folder.rounds())
    opened = [e for e in folder.events() if e["event"] == "SumOpened" and e["purpose"] == "train"]
    return len({e["round"] for e in opened})


def write_comparison(path: Path) -> Path:
    """The report of a demo: one federation in the clear and under masks, and the attacks."""
    plain, secure = RunFolder.open(path / PLAIN), RunFolder.open(path / SECURE)
    numbers = headline_numbers(path)
    outcomes, leakage = _attacks(path)
    extra = (
        (
            "Accuracy",
            f"{numbers['accuracy_secure']:.1%} under masks, "
            f"{numbers['accuracy_plain']:.1%} in the clear",
        ),
        ("Cost of masking", f"{numbers['overhead']:.0%} of a round"),
    )
    data = ReportData(
        f"{secure.settings.data.devices} devices learn {secure.settings.data.name}, "
        "and show nobody what they hold",
        _summary(secure, extra),
        accuracy=(
            _accuracy("secure sum", secure.events()),
            _accuracy("in the clear", plain.events()),
        ),
        rounds=_rows(secure, secure.events()),
        outcomes=outcomes,
        leakage=leakage,
        config=_config(secure),
    )
    return _save(path, data)


def write_trials(path: Path) -> Path:
    """The report of the attacks whose trials are in a folder: a matrix's, or a run's `attacks`."""
    plan, target = path / PLAN, path / PAGE
    title = f"What {path.resolve().parent.name} gives away"
    if plan.exists():
        title = str(tomllib.loads(plan.read_text(encoding="utf-8"))["title"])
    target.write_text(render_matrix(title, list(TrialLog(path).trials())), encoding="utf-8")
    return target


def headline_numbers(path: Path) -> dict[str, float]:
    """What a demo is summed up in."""
    plain, secure = RunFolder.open(path / PLAIN), RunFolder.open(path / SECURE)
    if not (plain.rounds() and secure.rounds()):
        raise ParameterError(f"the demo in {path} did not finish: tacit demo --out {path} runs it")
    facts = secure.facts()
    return {
        "accuracy_plain": plain.rounds()[-1]["server"]["accuracy"],
        "accuracy_secure": secure.rounds()[-1]["server"]["accuracy"],
        "overhead": _overhead(secure),
        "exact_sums": facts.get("exact_sums", 0),
        "checked_sums": facts.get("checked_sums", 0),
    }


def _overhead(secure: RunFolder) -> float:
    """What masking adds to the rounds of a run, as a fraction of the rounds without it.

    Both from one run, since on a busy machine two runs differ by more than masks cost. Whatever
    is not training, evaluation or the server's own work counts as masking, messages too: a little
    too much, as averaging in the clear sends messages as well.
    """
    sums = sum(e["seconds"] for e in secure.events() if e["event"] == "SumOpened")
    masking = sums - secure.facts().get("working_seconds", sums)
    rounds = sum(float(r["seconds"]) for r in secure.rounds())
    return float(masking / (rounds - masking))


def _summary(folder: RunFolder, extra: tuple[tuple[str, str], ...] = ()) -> Summary:
    events, facts = folder.events(), folder.facts()
    finished = folder.rounds()
    rows = _rows(folder, events)
    sums = sum(e["event"] == "SumOpened" for e in events)
    single = sum(row.survivors for row in rows) if _is_plain(folder) else 0
    return Summary(
        folder.settings.data.devices,
        len(finished),
        _protocol(folder, events),
        sums,
        single,
        int(facts.get("checked_sums", 0)),
        int(facts.get("exact_sums", 0)),
        tuple(dict.fromkeys(_dropped(e) for e in events if e["event"] == "LeftOut")),
        sum(r["seconds"] for r in finished),
        extra,
    )


def _groups(events: Events) -> tuple[tuple[str, str], ...]:
    """What a run's groups bought and cost, in the round where they were smallest."""
    divided = [e for e in events if e["event"] == "CohortDivided"]
    if not divided:
        return ()
    fields = dict(min(divided, key=lambda e: e["smallest"]))
    del fields["event"]
    return (("Groups", CohortDivided(**fields).words),)


def _protocol(folder: RunFolder, events: Events) -> str:
    """What the run was set to, and which protocols that came to."""
    setting = folder.settings.secure.protocol
    if setting != AUTO:
        return setting
    taken = {f"{e['purpose']}: {e['protocol']}" for e in events if e["event"] == "SumOpened"}
    return f"{setting} ({', '.join(sorted(taken, reverse=True))})" if taken else setting


def _rows(folder: RunFolder, events: Events) -> tuple[RoundRow, ...]:
    devices = folder.settings.data.devices
    asked = round(devices * folder.settings.strategy.fraction_train)
    return tuple(_row(e, [o for o in events if o.get("round") == e["round"]], asked)
                 for e in folder.rounds())  # fmt: skip


def _dropped(event: dict[str, Any]) -> Dropped:
    return Dropped(event["device"], event["round"], event["stage"])


def _row(finished: dict[str, Any], events: Events, asked: int) -> RoundRow:
    left = [e for e in events if e["event"] == "LeftOut"]
    opened = [e for e in events if e["event"] == "SumOpened" and e["purpose"] == "train"]
    before = ("enrol", "encapsulate", "decapsulate", "key", "report", "filter")
    silent = {e["device"] for e in left if e["stage"] in before}
    cohort, survivors = asked, asked - len(silent)
    if opened:
        divided = [e["devices"] for e in events if e["event"] == "CohortDivided"]
        cohort = divided[0] if divided else opened[0]["cohort"]
        survivors = sum(e["survivors"] for e in opened)
    server = finished["server"]
    return RoundRow(
        finished["round"],
        cohort,
        survivors,
        tuple(dict.fromkeys(f"device {e['device']} at {e['stage']}: {e['reason']}" for e in left)),
        server.get("accuracy"),
        server.get("loss"),
        finished["seconds"],
    )


def _accuracy(name: str, events: Events) -> Curve:
    finished = [e for e in events if e["event"] == "RoundFinished" and "accuracy" in e["server"]]
    return Curve(name, tuple((float(e["round"]), e["server"]["accuracy"]) for e in finished))


def _attacks(path: Path) -> tuple[tuple[Outcome, ...], tuple[LeakCurve, ...]]:
    outcomes = load_outcomes(path / ATTACKS)
    growing = load_outcomes(path / ATTACKS / CURVE)
    if not growing:
        return outcomes, ()
    alone = [o for o in outcomes if o.attack == growing[0].attack and o.clients == 1]
    points = [_point(1, alone), *(_point(outcome.clients, [outcome]) for outcome in growing)]
    return outcomes, (LeakCurve(growing[0].attack, tuple(points)),)


def _point(devices: int, outcomes: list[Outcome]) -> LeakPoint:
    """Mean and interval over the images that were to be reconstructed."""
    values = [value for outcome in outcomes for value in outcome.score.ssim]
    floor = float(np.mean([value for outcome in outcomes for value in outcome.floor.ssim]))
    return LeakPoint(devices, interval(values, np.random.default_rng(devices)), floor)


def _config(folder: RunFolder) -> dict[str, Any]:
    return tomllib.loads(folder.settings.toml())


def _is_plain(folder: RunFolder) -> bool:
    return folder.settings.secure.protocol == PLAIN


def _save(path: Path, data: ReportData) -> Path:
    page = path / PAGE
    page.write_text(render(data), encoding="utf-8")
    return page
