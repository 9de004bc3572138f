"""From what was measured to rows, targets and a picture: what `secagg.py` shows of it."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from benchmarks.shared.dots import Panel, draw
from benchmarks.shared.sums import FLOWER, PLAIN, TACIT, Cost, Peaks, Task
from benchmarks.shared.table import Row, at_least, at_most

Costs = dict[str, Cost]  # by system; one that could not be measured is missing

NAMES = {TACIT: "Tacit", FLOWER: "Flower", PLAIN: "plain"}
LEGEND = {TACIT: "Tacit", FLOWER: "Flower SecAgg+", PLAIN: "plain averaging"}
MB, MS, NS = 1e6, 1e3, 1e9

CLIENT_TIMES, SERVER_TIMES, MOST_UP, MASK_TIMES = 8, 40, 3.0, 1.5
HARDEST = (100, 0.1)  # devices and drop of the case that the server's target is for


def typical(costs: Sequence[Cost]) -> Cost:
    """The median of each figure."""
    listed = [asdict(cost) for cost in costs]
    return Cost(**{name: statistics.median(each[name] for each in listed) for name in listed[0]})


def case_name(task: Task) -> str:
    silent = f"{100 * task.drop:g} % silent" if task.drop else "none silent"
    return f"{task.devices} devices, {task.length:,} parameters, {silent}"


def case_rows(task: Task, costs: Costs, *, with_targets: bool) -> list[Row]:
    """One case: all systems, and how many times less one takes than the other."""
    rows = [*_client(costs), *_server(costs), *_bytes(task, costs)]
    ours = costs.get(TACIT)
    if ours is not None:
        rows += _masks(task, ours)
    free = {"server: Flower / Tacit"} if (task.devices, task.drop) != HARDEST else set()
    return [row if with_targets and row.name not in free else _untold(row) for row in rows]


def memory_rows(
    task: Task, costs: Costs, found: Mapping[str, Peaks | None], *, with_targets: bool
) -> list[Row]:
    """Peaks of the server and of a device, beside the goal for the server."""
    rows = []
    ours, theirs = found.get(TACIT), found.get(FLOWER)
    if ours is not None and TACIT in costs:
        goal = (8 * task.length + costs[TACIT].up) / MB
        row = at_most(
            "server: Tacit (goal: 8 d + one message)", ours.server / MB, "MB", round(goal, 1)
        )
        rows.append(row if with_targets else _untold(row))
    if theirs is not None:
        rows.append(Row("server: Flower", theirs.server / MB, "MB"))
        rows.append(Row("server: 8 n d", 8 * task.devices * task.length / MB, "MB"))
    for name, peak in (("Tacit", ours), ("Flower", theirs)):
        if peak is not None:
            rows.append(Row(f"device: {name}", peak.client / task.length, "B/param"))
    return rows


def default_rows(task: Task, found: Cost | None) -> tuple[str, list[Row]]:
    """A sum as devices ask for it by default, with its title."""
    if found is None:
        return "", []
    title = f"By Tacit's default policy: {case_name(task)}, {_shape(found)}"
    return title, _by_itself(task, found)


def encrypted_rows(task: Task, found: Cost | None, costs: Costs) -> tuple[str, list[Row]]:
    """An encrypted sum beside Flower's masks, in `costs`, of as many devices; with its title."""
    if found is None:
        return "", []
    rows = _by_itself(task, found)
    if FLOWER in costs:
        theirs = costs[FLOWER]
        rows.append(Row("client: Flower / Tacit", theirs.client / found.client, "x"))
        rows.append(Row("server: Flower / Tacit", theirs.server / found.server, "x"))
    if PLAIN in costs:
        rows.append(Row("server: Tacit / plain", found.server / costs[PLAIN].server, "x"))
    open_ = f"{found.threshold} of {found.holders} open"
    return f"Encrypted under lattice keys: {case_name(task)}, {open_}", rows


def crowd_rows(task: Task, found: Cost | None) -> tuple[str, list[Row]]:
    """A sum of many devices in one process, with its title."""
    if found is None:
        return "", []
    title = f"Safe with 10 % corrupt: {case_name(task)}, {_shape(found)}"
    return title, [
        Row("all parties in one thread, first round", found.wall_first, "s"),
        Row("all parties in one thread, later round", found.wall_last, "s"),
        Row("peak memory of the process (RSS)", found.resident / MB, "MB"),
        Row("up, of a device in all", found.up / MB, "MB"),
        *_by_itself(task, found),
    ]


def large_rows(task: Task, found: Cost | None, peak: Peaks | None) -> list[Row]:
    """One round with a large model: each side's time and memory."""
    rows = []
    if found is not None:
        rows += [
            Row("client CPU", found.client, "s"),
            Row("server CPU, three reports", found.server, "s"),
            Row("up", found.up / task.length, "B/param"),
            Row("down", found.down / task.length, "B/param"),
        ]
    if peak is not None:
        for name, held in (("client", peak.client), ("server", peak.server)):
            rows.append(Row(f"{name} peak", held / 1e9, "GB"))
            rows.append(Row(f"{name} peak, each parameter", held / task.length, "B"))
    return rows


def drawing(compared: Sequence[tuple[Task, Costs]]) -> str:
    """CPU of clients and servers, as an SVG."""
    found = [(_short_name(task), costs) for task, costs in compared if costs]
    panels = [
        Panel(
            "A device, CPU milliseconds a round",
            [(name, {LEGEND[s]: c.client * MS for s, c in costs.items()}) for name, costs in found],
        ),
        Panel(
            "The server, CPU seconds a round",
            [(name, {LEGEND[s]: c.server for s, c in costs.items()}) for name, costs in found],
        ),
    ]
    length = max(task.length for task, _ in compared)
    title = f"What a sum of {length:,} parameters takes"
    return draw(title, panels, list(LEGEND.values()))


def _short_name(task: Task) -> str:
    return f"{task.devices} devices" + (f", {100 * task.drop:g} % silent" if task.drop else "")


def _by_itself(task: Task, found: Cost) -> list[Row]:
    """All figures of a sum that is compared with nothing."""
    costs = {TACIT: found}
    return [_untold(row) for row in (*_client(costs), *_server(costs), *_bytes(task, costs))]


def _client(costs: Costs) -> list[Row]:
    rows = []
    for system, found in costs.items():
        rows.append(Row(f"client CPU: {NAMES[system]}", found.client * MS, "ms"))
        if system == TACIT:
            rows.append(Row("client CPU: Tacit, first round", found.first * MS, "ms"))
        if found.member:
            rows.append(Row("client CPU: Tacit, on the committee", found.member * MS, "ms"))
    if TACIT in costs and FLOWER in costs:
        ours, theirs = costs[TACIT], costs[FLOWER]
        rows.append(
            at_least("client: Flower / Tacit", theirs.client / ours.client, "x", CLIENT_TIMES)
        )
        rows.append(Row("client: Flower / Tacit, first round", theirs.client / ours.first, "x"))
        if ours.member:
            times = theirs.client / ours.member
            rows.append(Row("client: Flower / Tacit, on the committee", times, "x"))
    return rows


def _server(costs: Costs) -> list[Row]:
    rows = []
    for system, found in costs.items():
        rows.append(Row(f"server CPU: {NAMES[system]}", found.server, "s"))
        if system == TACIT:
            rows.append(Row("server CPU: Tacit, first round", found.server_first, "s"))
    if TACIT in costs and FLOWER in costs:
        times = costs[FLOWER].server / costs[TACIT].server
        rows.append(at_least("server: Flower / Tacit", times, "x", SERVER_TIMES))
    return rows


def _bytes(task: Task, costs: Costs) -> list[Row]:
    rows = []
    for system, found in costs.items():
        name, sent = f"up: {NAMES[system]}", found.up / task.length
        if system == TACIT:
            rows.append(at_most(name, sent, "B/param", MOST_UP))
        else:
            rows.append(Row(name, sent, "B/param"))
    for system, found in costs.items():
        rows.append(Row(f"down: {NAMES[system]}", found.down / task.length, "B/param"))
    for system, found in costs.items():
        rows.append(Row(f"largest error: {NAMES[system]}", found.error, ""))
    return rows


def _masks(task: Task, ours: Cost) -> list[Row]:
    """What a device takes for each coordinate of each mask, its own mask among them."""
    each = ours.client / (task.length * (1 + ours.degree))
    return [
        Row("one mask: the bare loop", ours.mask_limit * NS, "ns/param"),
        Row("one mask: Tacit's loop", ours.mask_own * NS, "ns/param"),
        Row("one mask: all that a device of Tacit does", each * NS, "ns/param"),
        at_most("Tacit's loop / the bare loop", ours.mask_own / ours.mask_limit, "x", MASK_TIMES),
        Row("all that a device does / the bare loop", each / ours.mask_limit, "x"),
    ]


def _shape(found: Cost) -> str:
    return f"degree {found.degree}, {found.threshold} of {found.holders} open"


def _untold(row: Row) -> Row:
    """The row without a target."""
    return Row(row.name, row.value, row.unit)
