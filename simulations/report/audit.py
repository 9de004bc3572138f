"""The audit of a release as a page: made from the signed report, and from nothing else."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from tacit.simulations.report.frame import document, header, limits_section
from tacit.simulations.report.page import statement_section
from tacit.simulations.report.words import capital, count

Report = Mapping[str, Any]
UNPROVEN = (
    "An attack that fails is not a proof. These are the attacks that were tried; a better one may "
    "get more."
)
_SHORT = 12  # hexadecimal digits of a digest


def render_audit(report: Report, digest: str) -> str:
    """The page, as text to be written in UTF-8; `digest` is that of the report's file. The same
    report gives the same bytes."""
    title = f"Audit of {report['release']['name']}"
    body = (
        header(title, _headline(report), _facts(report)),
        *(_duel(each) for each in report["duels"]),
        _not_done(report["not_done"]),
        _statement(report["privacy"]),
        limits_section([UNPROVEN, *_limits(report["duels"])], "What this does not show"),
        _trust(report, digest),
    )
    return document(title, "".join(body))


def _headline(report: Report) -> str:
    judged = [line for each in report["duels"] for line in each["lines"] if _is_judged(line)]
    kept = sum(line["holds"] for line in judged)
    missing = [name for name in report["gates"] if all(d["name"] != name for d in report["duels"])]
    words = "holds" if report["holds"] else "does not hold"
    told = [f"The release {words}: {kept} of {count(len(judged), 'bound')} kept"]
    told += [f"{name} could not be measured" for name in missing]
    told += [] if report["gates"] else ["no bound was set on what attacks may get"]
    return ", and ".join(told)


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    about = report["release"]
    yield "Verdict", "holds" if report["holds"] else "does not hold"
    yield "Model", f"{about['architecture']}, {about['model'][:_SHORT]}"
    yield "Data", about["data"]
    yield "Trained by", f"{count(about['devices'], 'device')}, {count(about['rounds'], 'round')}"
    yield "Sums", about["protocol"]
    if report.get("quick"):  # the first reports do not say
        yield "Attacked", "a quick look, with fewer answers and seeds"
    yield "Audited", datetime.fromtimestamp(report["made"], UTC).strftime("%Y-%m-%d %H:%M UTC")


def _duel(duel: Report) -> str:
    """One attack: what it got, line by line."""
    judged = any(_is_judged(line) for line in duel["lines"])
    word, tone = ("holds", "calm") if duel["holds"] else ("does not hold", "warm")
    badge = f'<span class="badge {tone}">{word}</span>' if judged else ""
    rows = "".join(_line(line) for line in duel["lines"])
    return (
        f"<section><h2>{escape(capital(duel['name']))} {badge}</h2>"
        f'<p class="granted">Attack: <b>{escape(duel["attack"])}</b>. '
        f"Defence: <b>{escape(duel['defence'])}</b>.</p>"
        '<table class="scores audit"><thead><tr><th scope="col">Measured</th>'
        '<th scope="col">Value</th><th scope="col">Bound</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></section>"
    )


def _line(line: Report) -> str:
    between = (
        ""
        if line["low"] is None
        else f"<small>{_number(line['low'])} to {_number(line['high'])}</small>"
    )
    tone = "" if line["holds"] else ' class="broken"'
    bound = ""
    if line["target"] is not None:
        bound = f"{'at most' if line['at_most'] else 'at least'} {_number(line['target'])}"
        bound += "" if line["holds"] else "<small>does not hold</small>"
    return (
        f'<tr><th scope="row">{escape(capital(line["what"]))}'
        f"<small>{escape(line['setting'])}</small></th>"
        f"<td{tone}>{_number(line['value'])}{between}</td><td{tone}>{bound}</td></tr>"
    )


def _not_done(not_done: Mapping[str, str]) -> str:
    if not not_done:
        return ""
    told = "".join(
        f"<dt>{escape(capital(name))}</dt><dd>{escape(why)}</dd>" for name, why in not_done.items()
    )
    return f'<section><h2>Not done</h2><dl class="statement">{told}</dl></section>'


def _statement(text: str | None) -> str:
    if text is None:
        return (
            "<section><h2>Differential privacy</h2><p>The run was not a private one: nothing "
            "bounds what its model remembers of an example.</p></section>"
        )
    return statement_section(text)


def _limits(duels: Sequence[Report]) -> list[str]:
    return list(dict.fromkeys(limit for each in duels for limit in each["limits"]))


def _trust(report: Report, digest: str) -> str:
    about = report["release"]
    rows = (
        ("SHA-256 of the signed report", digest),
        ("SHA-256 of the model", about["model"]),
        ("Name of the audit log", about["log"]),
        (f"Its root at {about['entries']:,} entries", about["root"]),
    )
    told = "".join(
        f"<dt>{escape(label)}</dt><dd><code>{escape(value)}</code></dd>" for label, value in rows
    )
    return (
        "<section><h2>How to check this</h2><p>This page is made from a signed report, and says no "
        "more than that does. Whether the report, this page and the log are as they were written "
        "says <code>tacit audit check release.json</code>, in the run's folder.</p>"
        f'<dl class="statement">{told}</dl></section>'
    )


def _is_judged(line: Report) -> bool:
    return line["target"] is not None


def _number(value: float | None) -> str:
    """To three digits that count."""
    if value is None:
        return "not measurable"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
