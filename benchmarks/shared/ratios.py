"""From rounds to rows, targets and a picture: what `encrypted.py` shows of them."""

from collections.abc import Mapping
from dataclasses import replace

from benchmarks.shared.dots import Panel, draw
from benchmarks.shared.settings import (
    FEDML,
    LATTICE,
    NVFLARE,
    PLAIN,
    TENSEAL,
    Dealing,
    Setting,
)
from benchmarks.shared.steps import Round
from benchmarks.shared.sums import FEDAVG, TACIT, Cost
from benchmarks.shared.sums import PLAIN as AVERAGED
from benchmarks.shared.table import Row, at_least, at_most

Rounds = Mapping[Setting, Round]  # one that could not be measured is missing

MS = 1e3
DEFAULTS = {LATTICE: "4096-64-2", TENSEAL: "bfv-4096"}  # which parameters the picture shows
PAIRWISE = "Tacit, pairwise masks"
AROUND = {TACIT: "Tacit, lattice", AVERAGED: "plain averaging", FEDAVG: FEDAVG}
LEGEND = {LATTICE: "Tacit, lattice keys", NVFLARE: "NVFlare", TENSEAL: "Tacit, TenSEAL"}

# How many times less than NVFlare by default, or bytes for each parameter.
LATTICE_CLIENT, LATTICE_SERVER, LATTICE_UP = 12, 500, 4.1
TENSEAL_CLIENT, TENSEAL_SERVER, TENSEAL_UP, SEEDED_UP, TENSEAL_DOWN = 3, 8, 7.6, 3.9, 7.6
RESNET_UP, RESNET_CLIENT = {LATTICE: 55, TENSEAL: 30}, {LATTICE: 60, TENSEAL: 12}
AVERAGING = 1.5  # a server's time, times that of plain averaging
GROWTH = 1.3  # of a device's time, from few that it deals with to many


def figures(setting: Setting, one: Round) -> list[Row]:
    """All that one setting takes, in the order of the columns of a grid."""
    length = setting.length
    return [
        Row("device", one.client * MS, "ms"),
        Row("to hide", one.hide * MS, "ms"),
        Row("server, each", one.take * MS, "ms"),
        Row("server, once", one.once * MS, "ms"),
        Row("up", one.up / length, "B/param"),
        Row("down", one.down / length, "B/param"),
        Row("error", one.error, ""),
    ]


def lines(rounds: Rounds) -> list[tuple[str, list[Row | None]]]:
    """A line for each setting, and one for a server that adds up in a process of its own."""
    found: list[tuple[str, list[Row | None]]] = []
    for setting, one in rounds.items():
        found.append((setting.name, [*figures(setting, one)]))
        if one.apart:
            alike = figures(setting, replace(one, take=one.apart, once=one.apart_once))
            changed = [row if row.name.startswith("server") else None for row in alike]
            found.append((f"{setting.name}, in a process of its own", [*changed]))
    return found


def ratio_rows(rounds: Rounds) -> list[Row]:
    """Ours against the others, one tensor."""
    theirs, plain = _one(rounds, NVFLARE), _one(rounds, PLAIN)
    rows = []
    for setting, ours in rounds.items():
        if setting.system == LATTICE:
            rows += _lattice(setting, ours, theirs, plain)
        elif setting.system == TENSEAL:
            rows += _tenseal(setting, ours, theirs)
        else:
            continue
        if (fedml := _one(rounds, FEDML)) is not None:
            rows.append(Row(f"client: FedML / {setting.name}", fedml.client / ours.client, "x"))
        rows.append(exact_row(setting, ours))
    return rows


def _lattice(setting: Setting, ours: Round, theirs: Round | None, plain: Round | None) -> list[Row]:
    name, length = setting.name, setting.length
    rows = []
    if theirs is not None:
        first = theirs.client / (ours.client + ours.keys)
        rows = [
            at_least(f"client: NVFlare / {name}", theirs.client / ours.client, "x", LATTICE_CLIENT),
            Row(f"client, first round of a run: NVFlare / {name}", first, "x"),
            # All of it: to check who sent it, and that it arrived whole, takes longer than to add.
            at_least(f"server: NVFlare / {name}", theirs.take / ours.take, "x", LATTICE_SERVER),
            at_least(
                f"server, load and add alone: NVFlare / {name}",
                theirs.fold / ours.fold,
                "x",
                LATTICE_SERVER,
            ),
            Row(f"server, all of a round: NVFlare / {name}", theirs.server / ours.server, "x"),
            *_bytes(name, ours, theirs),
        ]
    rows.append(at_most(f"up: {name}", ours.up / length, "B/param", LATTICE_UP))
    if plain is not None:
        down = f"down, the model: {name}"
        rows.append(at_most(down, ours.model / length, "B/param", plain.model / length))
    return rows


def _tenseal(setting: Setting, ours: Round, theirs: Round | None) -> list[Row]:
    name, length = setting.name, setting.length
    rows = []
    if theirs is not None:
        rows = [
            at_least(f"client: NVFlare / {name}", theirs.client / ours.client, "x", TENSEAL_CLIENT),
            at_least(f"server: NVFlare / {name}", theirs.take / ours.take, "x", TENSEAL_SERVER),
        ]
        if ours.apart:
            times = theirs.take / ours.apart
            of_its_own = f"server, in a process of its own: NVFlare / {name}"
            rows.append(at_least(of_its_own, times, "x", TENSEAL_SERVER))
        rows += _bytes(name, ours, theirs)
    most = SEEDED_UP if "seeded" in setting.parameters else TENSEAL_UP
    rows.append(at_most(f"up: {name}", ours.up / length, "B/param", most))
    rows.append(at_most(f"down: {name}", ours.down / length, "B/param", TENSEAL_DOWN))
    return rows


def _bytes(name: str, ours: Round, theirs: Round) -> list[Row]:
    return [
        Row(f"up: NVFlare / {name}", theirs.up / ours.up, "x"),
        Row(f"down: NVFlare / {name}", theirs.down / ours.down, "x"),
    ]


def resnet_rows(rounds: Rounds) -> list[Row]:
    """Ours against NVFlare, many tensors."""
    rows = []
    theirs = _one(rounds, NVFLARE)
    for setting, ours in rounds.items():
        if setting.system not in RESNET_UP:
            continue
        if theirs is not None:
            name, system = f"NVFlare / {setting.name}", setting.system
            rows += [
                at_least(f"up: {name}", theirs.up / ours.up, "x", RESNET_UP[system]),
                at_least(
                    f"client: {name}", theirs.client / ours.client, "x", RESNET_CLIENT[system]
                ),
            ]
        rows.append(exact_row(setting, ours))
    return rows


def server_rows(rounds: Rounds, costs: Mapping[str, Cost]) -> list[Row]:
    """A server's round, from bytes as in `rounds`, and in `costs` with Flower's messages around."""
    rows = []
    for setting, one in rounds.items():
        rows.append(Row(f"from bytes: {_committee(setting)}", one.server, "s"))
    for system, cost in costs.items():
        rows.append(Row(f"with messages: {AROUND[system]}", cost.server, "s"))
    if (plain := _one(rounds, PLAIN)) is not None:
        for setting, one in rounds.items():
            if setting.system == LATTICE:
                name = f"from bytes: {_committee(setting)} / {PLAIN}"
                rows.append(at_most(name, one.server / plain.server, "x", AVERAGING))
    if (ours := costs.get(TACIT)) is not None:
        for system in (AVERAGED, FEDAVG):
            if system in costs:
                name = f"with messages: {AROUND[TACIT]} / {AROUND[system]}"
                rows.append(at_most(name, ours.server / costs[system].server, "x", AVERAGING))
        rows.append(Row(f"a device, with messages: {AROUND[TACIT]}", ours.client * MS, "ms"))
    return rows


def _committee(setting: Setting) -> str:
    if setting.system != LATTICE:
        return setting.name
    return f"{setting.name}, {setting.seats or setting.devices} hold shares"


def growth_rows(found: Mapping[Dealing, float]) -> list[Row]:
    """Seconds of a device by how many it deals with, and how that grows from the first to the last
    of each kind."""
    names = {dealing: PAIRWISE if dealing.pairwise else LATTICE for dealing in found}
    rows = [Row(f"{names[d]}, with {d.degree} others", found[d], "s") for d in found]
    for kind in dict.fromkeys(names.values()):
        alike = sorted((d for d in found if names[d] == kind), key=lambda d: d.degree)
        few, many = alike[0], alike[-1]
        name, times = f"{kind}: {many.degree} others / {few.degree}", found[many] / found[few]
        rows.append(Row(name, times, "x") if many.pairwise else at_most(name, times, "x", GROWTH))
    return rows


def exact_row(setting: Setting, ours: Round) -> Row:
    """Whether the sum is that of the integers that the devices put in."""
    name = f"sum of {setting.devices}, to the last bit: {setting.name}"
    return Row(name, float(ours.exact is True), "", "1", ours.exact is True)


def untold(rows: list[Row]) -> list[Row]:
    """Without targets, but for whether sums are exact: those depend on no size."""
    return [row if row.target == "1" else Row(row.name, row.value, row.unit) for row in rows]


def drawing(title: str, cases: Mapping[str, Rounds]) -> str:
    """Device, server and bytes of each case, as an SVG."""
    shown = {
        case: {
            LEGEND[setting.system]: (setting, one)
            for setting, one in rounds.items()
            if setting.system in LEGEND and setting.parameters == DEFAULTS.get(setting.system, "")
        }
        for case, rounds in cases.items()
    }

    def panel(title: str, unit: int) -> Panel:
        return Panel(
            title,
            [
                (case, {name: figures(*pair)[unit].value for name, pair in series.items()})
                for case, series in shown.items()
            ],
        )

    panels = [
        panel("A device, CPU milliseconds a round", 0),
        panel("The server, CPU milliseconds for each device", 2),
        panel("Up, bytes for each parameter", 4),
    ]
    return draw(title, panels, list(LEGEND.values()))


def _one(rounds: Rounds, system: str) -> Round | None:
    """The round of a system that there is one setting of."""
    return next((one for setting, one in rounds.items() if setting.system == system), None)
