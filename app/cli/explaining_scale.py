"""What a federation of so many devices would cost its server, on paper and played."""

from dataclasses import asdict

from rich.filesize import decimal
from rich.table import Table

from tacit.app.cli.screen import Screen
from tacit.simulations.checkins import play
from tacit.simulations.load import (
    Demand,
    Fleet,
    Machine,
    Sum,
    links,
    machines,
    most_devices,
    on_paper,
)

ELSEWHERE = (
    "A SuperLink is one process with one SQLite file, in open source not spread over several. "
    "(Other databases are for Flower's paid edition.)",
    "More devices than one carries: poll less often (poll), or divide them into federations, each "
    "with its own server folder, roster and SuperLink, on one machine or several.",
    "Their models are then averaged one level above, which Tacit does not do by itself.",
    "Each device is sent the whole roster when it enrols in a run: 48 bytes for each member.",
)


def scale(
    screen: Screen, fleet: Fleet, machine: Machine, rounds: int, seed: int, *, plays: bool
) -> None:
    """The formula beside the simulation, where one SuperLink and one machine end, what then."""
    plan, paper = Sum.of(fleet), on_paper(fleet, rounds)
    takes = machines(paper, machine)
    screen.say(
        f"{fleet.devices:,} devices that ask every {fleet.poll:g} s; a round of {fleet.cohort} "
        f"every {fleet.every:g} s.",
        style="bold",
    )
    played = None
    if plays:
        several = Machine(machine.cores * takes, machine.line * takes)
        played = play(fleet, several, rounds, seed)
    screen.console.print(_demand(paper, None if played is None else played.demand))
    one_link = most_devices(fleet, machine, rounds, one_link=True)
    one_machine = most_devices(fleet, machine, rounds, one_link=False)
    table = Table("it takes", "", "one carries")
    table.add_row("SuperLinks", str(links(paper)), f"{one_link:,} devices")
    table.add_row("machines", str(takes), f"{one_machine:,} devices")
    screen.console.print(table)
    if played is not None:
        p50, p90, p99 = played.percentiles
        screen.say(f"A round takes {p50:.0f} s (median), {p90:.0f} s (90 %), {p99:.0f} s (99 %).")
    committee = f"{plan.members} members, {plan.witnesses} of them not in the cohort"
    screen.say(f"Masks with {plan.degree} neighbours; a committee of {committee}.")
    for line in ELSEWHERE:
        screen.say(f"- {line}")
    screen.result(
        **asdict(paper),
        superlinks=links(paper),
        machines=takes,
        one_superlink=one_link,
        one_machine=one_machine,
        played=None if played is None else asdict(played.demand),
        round_seconds=None if played is None else list(played.percentiles),
    )


def _demand(paper: Demand, played: Demand | None) -> Table:
    table = Table("the server", "on paper", "played")
    rows = (
        ("receives", "up", _rate),
        ("sends", "down", _rate),
        ("SuperLink computes", "link_cores", _cores),
        ("Tacit computes", "own_cores", _cores),
        ("memory", "memory", _bytes),
        ("database, at the end", "database", _bytes),
    )
    for name, field, write in rows:
        cells = [write(getattr(each, field)) if each else "" for each in (paper, played)]
        table.add_row(name, *cells)
    return table


def _rate(value: float) -> str:
    return f"{decimal(round(value))}/s"


def _cores(value: float) -> str:
    return f"{value:.2g} cores" if value < 100 else f"{value:,.0f} cores"


def _bytes(value: float) -> str:
    return decimal(round(value))
