"""What a secure sum of a given size would use, protect and cost, before anything is run."""

import math
from dataclasses import asdict, dataclass

from rich.filesize import decimal
from rich.table import Table

from tacit.app.cli.screen import Screen
from tacit.crypto.errors import ParameterError
from tacit.crypto.secagg.parameters import SECURITY, Parameters, choose, most_corrupt

SHARE_BYTES = 48  # 32 of a share, 16 of the hash that tells a wrong one
SUM_BYTES = 8  # a coordinate of the running sum
MASK_SECONDS = 0.5e-9  # a coordinate of a mask, on one core with AES instructions

NOT_COVERED = (
    "devices that send what they like: a false update is hidden like a true one",
    "more colluders than stated, or a server that fills the cohort with them",
    "what a sum tells about its parts: over few devices, or beside the next sum",
    "a server that serves nobody, or a device whose software was replaced",
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one sum costs, in bytes and in seconds of one core."""

    masked_bytes: int
    sealed_bytes: int
    device_seconds: float
    member_bytes: int
    server_bytes: int
    server_seconds: float


def secagg(
    screen: Screen,
    devices: int,
    gamma: float,
    drop: float,
    roster: int | None,
    length: float,
    precision: int,
) -> None:
    """The parameters that would be chosen, what they promise, and what they cost."""
    if not 1 <= length <= 1e12:  # also false for NaN
        raise ParameterError(f"--length {length:g}: expected 1 to 1e12 parameters")
    chosen = choose(devices, gamma, drop, roster)
    bits = precision + devices.bit_length()
    corrupt, cost = chosen.corrupt, _cost(chosen, int(length), bits)
    if chosen.seats:
        corrupt = most_corrupt(chosen.roster, math.floor(gamma * chosen.roster), chosen.seats)
    screen.say(
        f"{devices} devices, of which {chosen.corrupt} may collude with the server "
        f"and {devices - chosen.min_survivors} may be missing.",
        style="bold",
    )
    for table in (_used(chosen, corrupt), _risks(chosen, corrupt), _costs(cost, length, bits)):
        screen.console.print(table)
    screen.say("Not covered (docs/security.md says more):")
    for line in NOT_COVERED:
        screen.say(f"- {line}")
    screen.result(**asdict(chosen), corrupt_seats=corrupt, **asdict(cost))


def _cost(chosen: Parameters, length: int, bits: int) -> Cost:
    masks, missing = chosen.degree + 1, chosen.devices - chosen.min_survivors
    opened = masks * SHARE_BYTES  # by one committee member, of one device's
    sealed = opened * (chosen.seats or chosen.devices)
    return Cost(
        masked_bytes=math.ceil(length * bits / 8),
        sealed_bytes=sealed,
        device_seconds=MASK_SECONDS * length * masks,
        member_bytes=opened * chosen.devices,
        server_bytes=SUM_BYTES * length + sealed * chosen.devices,
        # The own mask of each survivor, and those that the missing ones share with survivors.
        server_seconds=MASK_SECONDS * length * (chosen.min_survivors + missing * chosen.degree),
    )


def _used(chosen: Parameters, corrupt: int) -> Table:
    whole, complete = not chosen.seats, chosen.degree == chosen.devices - 1
    others = "all others" if complete else "so many others on average; only they know whom"
    members = "all of the cohort" if whole else f"drawn by lot from a roster of {chosen.roster}"
    table = Table("what is used", "", "what it is for")
    table.add_row("neighbours", str(chosen.degree), f"each device masks with {others}")
    table.add_row(
        "committee",
        str(chosen.seats or chosen.devices),
        f"{members}; they hold shares of the masks' keys",
    )
    table.add_row(
        "threshold",
        str(chosen.threshold),
        f"so many of them open a sum; {corrupt} corrupt ones can neither do so alone nor help to "
        "open two",
    )
    table.add_row("fewest survivors", str(chosen.min_survivors), "a sum over fewer stays closed")
    return table


def _risks(chosen: Parameters, corrupt: int) -> Table:
    drawn = -(SECURITY + 1) if chosen.seats else -math.inf
    table = Table("what may fail", "chance", "what it would mean")
    table.add_row(
        "graph, each sum",
        _chance(chosen.cut_risk),
        "the server has a choice of missing devices that splits the rest: it learns the sums of "
        "two parts",
    )
    table.add_row(
        "committee, each roster",
        _chance(drawn),
        f"it has more than {corrupt} corrupt members: the server may open two sums over almost "
        "the same devices, and a single update from them",
    )
    table.add_row(
        "answers, each sum",
        _chance(chosen.stall_risk),
        "too few of the committee are there, although no more are missing than stated: no sum, and "
        "the model stays as it was",
    )
    return table


def _costs(cost: Cost, length: float, bits: int) -> Table:
    table = Table("what a sum costs", "", "for what")
    table.add_row(
        "a device sends",
        decimal(cost.masked_bytes),
        f"its masked vector, {bits} bits for each of {length:,.0f} parameters",
    )
    table.add_row("", decimal(cost.sealed_bytes), "sealed shares for the committee")
    table.add_row("a device computes", _time(cost.device_seconds), "its masks")
    table.add_row("a member receives", decimal(cost.member_bytes), "the shares sealed to it")
    table.add_row(
        "the server keeps",
        decimal(cost.server_bytes),
        "one running sum, and all sealed shares until the sum is open",
    )
    table.add_row(
        "the server computes",
        _time(cost.server_seconds),
        "the masks it takes off, when as many are missing as may be",
    )
    return table


def _chance(log2: float) -> str:
    """A bound as a power of two, rounded up."""
    return "none" if log2 == -math.inf else f"2^{math.ceil(log2)}"


def _time(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
