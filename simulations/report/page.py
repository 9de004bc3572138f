"""One run as one HTML page that needs nothing else: no network, no scripts, no other files."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from tacit.simulations.report.curves import leak_figure
from tacit.simulations.report.data import Curve, ReportData, RoundRow, Summary
from tacit.simulations.report.frame import document, header, limits_section, scrolling
from tacit.simulations.report.privacy import attack_section, cases, compared
from tacit.simulations.report.svg import Axis, Line, chart, legend, ticks
from tacit.simulations.report.words import count

_UNKNOWN = "&ndash;"
_OPEN_ROWS = 12  # a longer table of rounds starts folded


def render(run: ReportData) -> str:
    """The page, as text to be written in UTF-8. The same data gives the same bytes."""
    parts = (
        header(run.title, headline(run), _facts(run.summary)),
        _training(run),
        statement_section(run.statement),
        _privacy(run),
        limits_section(run.limits),
        _config(run.config),
    )
    return document(run.title, "".join(parts))


def headline(run: ReportData) -> str:
    """The run in one sentence, plain text, made from its numbers alone."""
    words = _opened(run.summary)
    pair = compared(run.outcomes)
    if pair is None:
        return words + "."
    alone, summed = pair
    measure, before, _ = alone.measure
    _, after, floor = summed.measure
    against = (
        f"{after:.2f}, no better than guessing blindly ({floor:.2f}), against {summed.words}"
        if summed.at_floor
        else f"{after:.2f} against {summed.words}, where guessing blindly gives {floor:.2f}"
    )
    if not summed.at_floor and after <= floor:  # the picture is poor, and still says whose it is
        against += f", yet identifies {summed.score.identified:.0%}"
    return (
        f"{words}; the same attack scores {measure} {before:.2f} against {alone.words} "
        f"and {against}."
    )


def _opened(summary: Summary) -> str:
    sums = count(summary.sums, "sum")
    if summary.sums == 0:
        return f"The server read {count(summary.single_updates, 'single update')}"
    if summary.single_updates == 0:
        return f"The server opened {sums} and no single update"
    singles = count(summary.single_updates, "single update")
    return f"The server opened {sums} and read {singles} in the clear"


def _facts(summary: Summary) -> Iterator[tuple[str, str]]:
    yield "Devices", f"{summary.devices:,}"
    yield "Rounds", f"{summary.rounds:,}"
    yield "Protocol", summary.protocol
    if summary.sums_checked:
        yes = "yes" if summary.sums_exact == summary.sums_checked else "no"
        yield (
            "Sum exact",
            f"{yes}, equal on the codec's grid in {summary.sums_exact} of {summary.sums_checked}",
        )
    if summary.sums:
        yield "Dropped devices", _dropped(summary)
    if summary.seconds is not None:
        yield "Time", f"{summary.seconds:.1f} s"
    yield from summary.facts


def _dropped(summary: Summary) -> str:
    """ "3: 2 at report, 1 at reveal", stages in order of first loss."""
    stages: dict[str, int] = {}
    for lost in summary.dropped:
        stages[lost.stage] = stages.get(lost.stage, 0) + 1
    if not stages:
        return "none"
    told = ", ".join(f"{count} at {stage}" for stage, count in stages.items())
    return f"{len(summary.dropped)}: {told}"


def _training(run: ReportData) -> str:
    if not run.accuracy and not run.rounds:
        return ""
    plot = _accuracy_figure(run.accuracy) if any(c.points for c in run.accuracy) else ""
    return f"<section><h2>Training</h2>{plot}{_rounds(run.rounds)}</section>"


def _accuracy_figure(curves: Sequence[Curve]) -> str:
    drawn = [curve for curve in curves if curve.points]
    lines = [Line(curve.name, curve.points, f"s{i % 4}") for i, curve in enumerate(drawn)]
    xs = [x for curve in drawn for x, _ in curve.points]
    ys = [y for curve in drawn for _, y in curve.points]
    told = "; ".join(f"{c.name} ends at {c.points[-1][1]:.1%}" for c in drawn)
    x = Axis("round", ticks(min(xs), max(xs), least=1))
    y = Axis("accuracy", ticks(min(ys), max(ys), percent=True))
    drawing = chart(lines, x, y, f"Accuracy per round: {told}")
    return (
        f'<figure class="plot"><figcaption>Accuracy per round</figcaption>{drawing}{legend(lines)}'
        f'<p class="hint">{escape(told)}.</p></figure>'
    )


def _rounds(rows: Sequence[RoundRow]) -> str:
    if not rows:
        return ""
    names = ("Round", "Devices", "Accuracy", "Loss", "Seconds")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "".join(_round(row) for row in rows)
    state = " open" if len(rows) <= _OPEN_ROWS else ""
    return (
        f"<details{state}><summary>Every round</summary>"
        + scrolling(
            "Table of rounds",
            f'<table class="rounds"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>',
        )
        + "</details>"
    )


def _round(row: RoundRow) -> str:
    accuracy = _UNKNOWN if row.accuracy is None else f"{row.accuracy:.1%}"
    loss = _UNKNOWN if row.loss is None else f"{row.loss:.3f}"
    seconds = _UNKNOWN if row.seconds is None else f"{row.seconds:.2f}"
    cells = "".join(f"<td>{cell}</td>" for cell in (accuracy, loss, seconds))
    devices = f"{row.survivors} of {row.cohort}"
    first = f'<tr><th scope="row">{row.round}</th><td>{devices}</td>{cells}</tr>'
    if not row.left_out:
        return first
    # A row of its own: a column would be empty in most rounds, and too wide for a phone.
    told = escape("; ".join(row.left_out))
    return f'{first}<tr class="out"><td colspan="5">Left out: {told}</td></tr>'


def _privacy(run: ReportData) -> str:
    if not run.outcomes and not run.leakage:
        return ""
    attacks = "".join(
        attack_section(name, several) for name, several in cases(run.outcomes).items()
    )
    curves = "".join(
        leak_figure((curve,), f"{curve.measure} by size of the sum")
        for curve in run.leakage
        if curve.points
    )
    return (
        "<section><h2>Privacy</h2><p>The same attack, run on what the server saw. It never sees "
        "the originals; they only score it afterwards. The floor is what guessing without the "
        "update scores: mid-grey, the mean of public data, or as many other examples, whichever is "
        "best. An attack is at "
        "the floor if none of its measures stands out from that.</p>"
        f"{attacks}{curves}</section>"
    )


def statement_section(statement: str | None) -> str:
    """What is said of differential privacy, in lines of "label: words"; nothing for None."""
    if statement is None:
        return ""
    heading, *lines = statement.splitlines()
    rows: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith(" "):  # more on the line before
            rows[-1][1].append(line.strip())
        else:
            label, _, words = line.partition(": ")
            rows.append((label, [words]))
    told = "".join(
        f"<dt>{escape(label)}</dt><dd>{'<br>'.join(map(escape, words))}</dd>"
        for label, words in rows
    )
    return f'<section><h2>{escape(heading)}</h2><dl class="statement">{told}</dl></section>'


def _config(config: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row"><code>{escape(key)}</code></th>'
        f"<td><code>{escape(value)}</code></td></tr>"
        for key, value in _flat(config)
    )
    if not rows:
        return ""
    return (
        "<section><h2>Configuration</h2><details><summary>As the run resolved it</summary>"
        + scrolling("Configuration", f'<table class="config"><tbody>{rows}</tbody></table>')
        + "</details></section>"
    )


def _flat(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", str(value)
