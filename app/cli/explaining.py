"""What a secure sum of a given size would use, protect and cost, before anything is run."""

import math
from dataclasses import asdict, dataclass

from rich.filesize import decimal
from rich.table import Table

from tacit.app.cli.screen import Screen
from tacit.client.policy import Policy
from tacit.crypto.codec import Codec
from tacit.crypto.errors import ParameterError
from tacit.crypto.lattice.sets import Lattice, named
from tacit.crypto.secagg import costs
from tacit.crypto.secagg.choice import choose_way
from tacit.crypto.secagg.costs import box_bytes, mask_seconds
from tacit.crypto.secagg.parameters import (
    SECURITY,
    Committee,
    Parameters,
    choose,
    choose_committee,
    most_corrupt,
)
from tacit.crypto.secagg.session import SECRET_BYTES

PAIRWISE, LATTICE, AUTO = PROTOCOLS = ("pairwise", "lattice", "auto")
OTHERS = Codec(0, 2).size  # elements beside the parameters: metrics, weight, count
SUM_BYTES = 8  # a coordinate of the running sum

NOT_COVERED = (
    "devices that send what they like: a false update is hidden like a true one",
    "more colluders than stated, or a server that fills the cohort with them",
    "what a sum tells about its parts: over few devices, or beside the next sum",
    "a server that serves nobody, or a device whose software was replaced",
)
UNREVIEWED = "a flaw in sums under lattice keys: nobody outside has reviewed them yet"


Row = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one sum costs, in bytes and in seconds of one core. A device sends `vector_bytes`,
    hidden, and `sealed_bytes` of shares and hashes."""

    vector_bytes: int
    sealed_bytes: int
    device_seconds: float
    member_bytes: int
    server_bytes: int
    server_seconds: float


@dataclass(frozen=True, slots=True)
class Way:
    """One way of hiding what a device gives, in words: what it uses and what of it may fail, beside
    a committee; what is sent and computed; and what keys the committee holds shares of."""

    uses: tuple[Row, ...]
    fails: Row
    vector: str
    work: str
    opening: str
    keys: str


def secagg(
    screen: Screen,
    devices: int,
    gamma: float,
    drop: float,
    roster: int | None,
    length: float,
    precision: int,
    protocol: str,
    parameters: str,
) -> None:
    """The parameters that would be chosen, what they promise, and what they cost."""
    if not 1 <= length <= 1e12:  # also false for NaN
        raise ParameterError(f"--length {length:g}: expected 1 to 1e12 parameters")
    if protocol not in PROTOCOLS:
        raise ParameterError(
            f"--protocol {protocol}: expected one of {', '.join(PROTOCOLS)} (docs/encrypted.md has "
            "the others)"
        )
    base, size, bits = named(parameters), int(length) + OTHERS, precision + devices.bit_length()
    found = choose_committee(devices, gamma, drop, roster)
    screen.say(
        f"{devices} devices, of which {found.corrupt} may collude with the server "
        f"and {devices - found.min_survivors} may be missing.",
        style="bold",
    )
    if protocol == LATTICE:
        _encrypted(screen, found, gamma, base.room(devices, size), size)
        return
    masks, keys = choose(devices, gamma, drop, roster), None
    if protocol == AUTO:
        choice = choose_way(base, devices, size, bits, masks.degree, found.seats or devices)
        keys = choice.keys
        taken = "masks" if keys is None else "lattice keys, where owners allow them"
        screen.console.print(f"auto takes {taken}: {choice.why}.", markup=False)
    if keys is None:
        _masked(screen, masks, gamma, bits, size)
    else:
        _encrypted(screen, found, gamma, keys, size)


def _masked(screen: Screen, found: Parameters, gamma: float, bits: int, size: int) -> None:
    masks, missing = found.degree + 1, found.devices - found.min_survivors
    own = costs.masked(size, bits, found.degree, found.seats or found.devices)
    cost = Cost(
        own.vector,
        own.sealed,
        own.seconds,
        member_bytes=found.devices * box_bytes(masks, SECRET_BYTES),
        server_bytes=SUM_BYTES * size + own.sealed * found.devices,
        # The own mask of each survivor, and those that the missing ones share with survivors.
        server_seconds=mask_seconds(bits) * size * (found.min_survivors + missing * found.degree),
    )
    complete = found.degree == found.devices - 1
    others = "all others" if complete else "so many others on average; only they know whom"
    way = Way(
        uses=(("neighbours", str(found.degree), f"each device masks with {others}"),),
        fails=(
            "graph, each sum",
            _chance(found.cut_risk),
            "the server has a choice of missing devices that splits the rest: it learns the sums "
            "of two parts",
        ),
        vector=f"its masked vector, {bits} bits for each of {size - OTHERS:,} parameters",
        work="its masks, and shares of their keys",
        opening="the masks it takes off, when as many are missing as may be",
        keys="the masks' keys",
    )
    policy = _policy(found, gamma, bits, lattice=False)
    corrupt = _show(screen, found, gamma, way, cost, policy)
    _say_not_covered(screen, NOT_COVERED)
    screen.result(
        protocol=PAIRWISE,
        **asdict(found),
        corrupt_seats=corrupt,
        **asdict(cost),
        policy=policy,
    )


def _encrypted(screen: Screen, found: Committee, gamma: float, scheme: Lattice, size: int) -> None:
    own = costs.encrypted(scheme, size, found.seats or found.devices)
    cost = Cost(
        own.vector,
        own.sealed,
        own.seconds,
        member_bytes=found.devices * box_bytes(1, scheme.share_bytes),
        server_bytes=own.vector + own.sealed * found.devices,
        server_seconds=costs.DECRYPT * own.vector,
    )
    room, noise = scheme.most_clients(size), scheme.failure(found.devices, size)
    way = Way(
        uses=(
            (
                "parameter set",
                scheme.name,
                f"ring-LWE with N = {scheme.degree} and q = 2^{scheme.word}; a coefficient holds "
                f"parameters of a sum: {scheme.fields}, of {scheme.bits} bits each",
            ),
            ("security", f"{scheme.security} bits", f"{scheme.model}; {scheme.source}"),
            ("room", f"{room:,}", f"so many devices' noise leaves {scheme.bits} bits"),
        ),
        fails=(
            "noise, each sum",
            _chance(noise),
            "it drowns a parameter, and the sum is wrong; nobody learns more by it",
        ),
        vector=f"its ciphertext, {own.vector / size:.2g} bytes for each of {size - OTHERS:,} "
        "parameters",
        work="its ciphertext, and shares of its key",
        opening="the sum of all keys, which it takes off whoever is missing",
        keys="each device's key",
    )
    policy = _policy(found, gamma, scheme.bits, lattice=True)
    corrupt = _show(screen, found, gamma, way, cost, policy)
    _say_not_covered(screen, (*NOT_COVERED, UNREVIEWED))
    screen.result(
        protocol=LATTICE,
        parameters=scheme.name,
        bits=scheme.bits,
        security=scheme.security,
        room=room,
        noise_risk=noise,
        **asdict(found),
        corrupt_seats=corrupt,
        **asdict(cost),
        policy=policy,
    )


def _show(
    screen: Screen,
    found: Committee,
    gamma: float,
    way: Way,
    cost: Cost,
    policy: dict[str, bool | float],
) -> int:
    """All tables. Returns how many seats of the committee may be corrupt."""
    corrupt = found.corrupt
    if found.seats:
        corrupt = most_corrupt(found.roster, math.floor(gamma * found.roster), found.seats)
    tables = [
        _used(found, corrupt, way),
        _risks(found, corrupt, way),
        _learned(found, corrupt, way),
        _costs(cost, way),
    ]
    if policy:
        tables.append(_owners(policy))
    for table in tables:
        screen.console.print(table)
    return corrupt


def _used(found: Committee, corrupt: int, way: Way) -> Table:
    whole = not found.seats
    members = "all of the cohort" if whole else f"drawn by lot from a roster of {found.roster}"
    rows = (
        *way.uses,
        (
            "committee",
            str(found.seats or found.devices),
            f"{members}; they hold shares of {way.keys}",
        ),
        (
            "threshold",
            str(found.threshold),
            f"so many of them open a sum; {corrupt} corrupt ones can neither do so alone nor help "
            "to open two",
        ),
        ("fewest survivors", str(found.min_survivors), "a sum over fewer stays closed"),
    )
    return _table(("what is used", "", "what it is for"), rows)


def _risks(found: Committee, corrupt: int, way: Way) -> Table:
    drawn = -(SECURITY + 1) if found.seats else -math.inf
    rows = (
        way.fails,
        (
            "committee, each roster",
            _chance(drawn),
            f"it has more than {corrupt} corrupt members: the server may open two sums over almost "
            "the same devices, and a single update from them",
        ),
        (
            "answers, each sum",
            _chance(found.stall_risk),
            "too few of the committee are there, although no more are missing than stated: no sum, "
            "and the model stays as it was",
        ),
    )
    return _table(("what may fail", "chance", "what it would mean"), rows)


def _learned(found: Committee, corrupt: int, way: Way) -> Table:
    rows = (
        (
            "devices",
            str(found.corrupt),
            f"the sum without their own: of {found.min_survivors - found.corrupt} devices or more",
        ),
        ("members", str(corrupt), "nothing more: they hold too few shares of any key"),
        ("members", str(found.threshold), f"{way.keys}, and with them every single update"),
    )
    return _table(("in league with the server", "", "what it learns"), rows)


def _costs(cost: Cost, way: Way) -> Table:
    rows = (
        ("a device sends", decimal(cost.vector_bytes), way.vector),
        ("", decimal(cost.sealed_bytes), "sealed shares for the committee, and their hashes"),
        ("a device computes", _time(cost.device_seconds), way.work),
        ("a member receives", decimal(cost.member_bytes), "the shares sealed to it"),
        (
            "the server keeps",
            decimal(cost.server_bytes),
            "one running sum, and all sealed shares until the sum is open",
        ),
        ("the server computes", _time(cost.server_seconds), way.opening),
    )
    return _table(("what a sum costs", "", "for what"), rows)


def _policy(found: Committee, gamma: float, bits: int, *, lattice: bool) -> dict[str, bool | float]:
    """What devices' owners have to set, of their policies' fields, for such a sum."""
    usual = Policy()
    needed: dict[str, bool | float] = {
        "lattice": lattice,
        "corrupt": min(gamma, usual.corrupt),
        "min_cohort": min(found.devices, usual.min_cohort),
        "min_survivors": min(found.min_survivors, usual.min_survivors),
        "min_bits": min(bits, usual.min_bits),
    }
    return {name: value for name, value in needed.items() if value != getattr(usual, name)}


def _owners(policy: dict[str, bool | float]) -> Table:
    usual = Policy()
    rows = ((f"policy.{name}", _set(v), _set(getattr(usual, name))) for name, v in policy.items())
    return _table(("what owners have to set", "to", "by default"), tuple(rows))


def _say_not_covered(screen: Screen, lines: tuple[str, ...]) -> None:
    screen.say("Not covered (docs/security.md says more):")
    for line in lines:
        screen.say(f"- {line}")


def _table(heads: Row, rows: tuple[Row, ...]) -> Table:
    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    return table


def _set(value: bool | float) -> str:
    """A setting's value in TOML, rounded."""
    return str(value).lower() if isinstance(value, bool) else f"{value:.3g}"


def _chance(log2: float) -> str:
    """A bound as a power of two, rounded up."""
    return "none" if log2 == -math.inf else f"2^{math.ceil(log2)}"


def _time(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
