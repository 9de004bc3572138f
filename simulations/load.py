"""What a federation of many devices costs its server: on paper.

A server pays for two things. All devices that are online ask it, every so often, whether there is
anything for them: a few bytes and some milliseconds each time. And for each sum it exchanges
messages with the sampled. `on_paper` adds these up for a run in which a round begins every so many
seconds; `tacit.simulations.checkins` plays the same run device by device, and has to come to the
same totals.

Bytes are those of `tacit.crypto.secagg` and of Flower's calls. Seconds are CPU of one core of an
AMD EPYC, measured beside other work: trust them to a factor of two. Those of Flower's are of one
SuperLink with TLS, node keys and SQLite (`benchmarks/superlink_load.py`), those of the sum of
`tacit.crypto.secagg.server` in memory.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, replace

from tacit.crypto.codec import Codec
from tacit.crypto.errors import ParameterError
from tacit.crypto.secagg import costs
from tacit.crypto.secagg.parameters import choose
from tacit.crypto.secagg.session import SECRET_BYTES

# Of one call of a node's, on the wire: headers with key and signature, and TLS's records.
CALL_UP, CALL_DOWN = 900, 160
TREE_UP, TREE_DOWN = 500, 700  # what a message's parts are called, beside its content
CALLS = 9  # pull, the message's three objects, confirm, push, the reply's three objects

POLL_S = 0.008  # CPU of a poll: TLS, the signature, one look at the database
EXCHANGE_S = 0.17  # CPU of a message and its reply of 10 kB each, what the ServerApp asks too
BYTE_S = 12e-9  # CPU of a byte into the database, or out of it; an estimate
REPORT_S, ATTEST_S, REVEAL_S = 0.9e-3, 0.4e-3, 0.3e-3  # a device's part, by the server
ADD_S = 0.3e-9  # CPU of a byte of a report, to be added

MEMBER_BYTES, ROSTER_BYTES = 48, 109  # of a roster: a member, and the rest
RUN_KEY_BYTES = 136
NODE_BYTES = 700  # a registered node in SuperLink's database, with its index
LINK_BYTES, SERVER_APP_BYTES = 160e6, 350e6  # memory of a SuperLink and a ServerApp with no load
CONNECTION_BYTES = 60e3  # memory of a connection that is kept open: TLS and buffers
LINK_CORES = 1.0  # that one SuperLink can use
MOST = 1 << 30  # devices that are looked for
FULL = 0.7  # of what there is, may be used: above it messages wait for each other

ROSTER_ENTRY_BYTES = 300  # memory of a member, read
ROW_BYTES = 3e3  # what stays in the database of a message and its reply when they are taken


@dataclass(frozen=True, slots=True)
class Fleet:
    """A federation, and how its run goes.

    devices    on the roster; `online` the fraction that polls, every `poll` seconds
    cohort     sampled for a round, of which `drop` say nothing; a round begins every `every` s
    length     parameters of the model, float32; sent up as ring elements of `bits` bits
    train      seconds of training, the median device; up and down at `uplink` bytes a second
    deadline   seconds that a stage waits for the silent; `timeout` those that training may take
    gamma      fraction of the devices that may collude with the server
    """

    devices: int
    cohort: int = 100
    length: int = 1_000_000
    online: float = 1.0
    poll: float = 3.0
    every: float = 600.0
    drop: float = 0.1
    train: float = 60.0
    uplink: float = 1e6
    deadline: float = 120.0
    timeout: float = 600.0
    gamma: float = 0.1
    precision: int = 25

    def __post_init__(self) -> None:
        for name in ("online", "poll", "every", "train", "uplink", "deadline", "timeout", "length"):
            if not getattr(self, name) > 0:
                raise ParameterError(f"{name}={getattr(self, name)}, expected above 0")
        if not 2 <= self.cohort <= self.devices * self.online:
            raise ParameterError(f"a cohort of {self.cohort} of {self.devices} devices")
        if self.poll > self.deadline:
            raise ParameterError(
                f"devices that ask every {self.poll:g} s miss stages of {self.deadline:g} s"
            )
        if not (0 <= self.drop < 1 and self.online <= 1):
            raise ParameterError(f"drop={self.drop}, online={self.online}: fractions are expected")


@dataclass(frozen=True, slots=True)
class Machine:
    """A server: cores, and bytes a second of its line, each way. A SuperLink is one process, and
    Python in it takes turns: it has little use for more than LINK_CORES of these."""

    cores: float = 16.0
    line: float = 125e6

    def __post_init__(self) -> None:
        if not (self.cores > 0 and self.line > 0):
            raise ParameterError(f"cores={self.cores}, line={self.line}, expected above 0")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a sum: bytes down to and up from each device asked, the server's own seconds
    for its answer."""

    name: str
    down: float
    up: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Sum:
    """How a fleet's sums go: who is asked what. A committee is the cohort or, where it `is_drawn`,
    has members that are not sampled, `witnesses`, and silent ones as a cohort has."""

    enrol: Stage
    report: Stage
    attest: Stage
    reveal: Stage
    members: int
    is_drawn: bool
    witnesses: int
    degree: int
    opening: float  # CPU seconds, once
    kept: float  # bytes in memory, until the sum is open

    @classmethod
    def of(cls, fleet: Fleet) -> "Sum":
        """Raises ParameterError where no committee protects such a cohort."""
        cohort, survivors = fleet.cohort, fleet.cohort * (1 - fleet.drop)
        found = choose(cohort, fleet.gamma, max(fleet.drop, 0.1), fleet.devices)
        members, degree = found.seats or cohort, found.degree
        # Of seats drawn from the whole roster as good as none is the cohort's where it is large.
        witnesses = round(found.seats * (1 - cohort / fleet.devices))
        bits, size = fleet.precision + cohort.bit_length(), Codec(fleet.length, 2).size
        own = costs.masked(size, bits, degree, members)
        bitmap, box = -(-cohort // 8), costs.box_bytes(1 + degree, SECRET_BYTES)
        session = RUN_KEY_BYTES * (cohort + witnesses) + 8 * members + 400
        shares = SECRET_BYTES * survivors * (1 + degree * fleet.drop)
        report = own.vector + own.sealed + bitmap + 200
        return cls(
            enrol=Stage(
                "enrol", ROSTER_BYTES + MEMBER_BYTES * fleet.devices, RUN_KEY_BYTES, ATTEST_S
            ),
            report=Stage(
                "report", 4 * fleet.length + session, report, REPORT_S + ADD_S * own.vector
            ),
            attest=Stage(
                "attest",
                36 + survivors * (8 + bitmap + box) + session * witnesses / members,
                76,
                ATTEST_S,
            ),
            reveal=Stage("reveal", 36 + 72 * found.threshold, 8 + shares, REVEAL_S),
            members=members,
            is_drawn=found.seats > 0,
            witnesses=witnesses,
            degree=degree,
            opening=costs.mask_seconds(bits) * size * survivors * (1 + degree * fleet.drop),
            kept=8 * size + own.sealed * survivors,
        )


@dataclass(frozen=True, slots=True)
class Demand:
    """What the server needs, for a run of `rounds` rounds: on average, and in the end.

    up, down   bytes a second
    cores      of CPU: Flower's SuperLink, and Tacit's own part
    memory     bytes, at most; database bytes at the end of the run
    """

    up: float
    down: float
    link_cores: float
    own_cores: float
    memory: float
    database: float

    @property
    def cores(self) -> float:
        return self.link_cores + self.own_cores


def exchange(stage: Stage, *, is_silent: bool = False) -> tuple[float, float, float]:
    """(bytes up, bytes down, CPU seconds of SuperLink) of one message of a stage and its reply. A
    silent device takes the message, and that is all."""
    calls, taken = (CALLS / 2, 0.0) if is_silent else (float(CALLS), stage.up + TREE_UP)
    up, down = taken + calls * CALL_UP, stage.down + TREE_DOWN + calls * CALL_DOWN
    # A byte passes the database twice: in from ServerApp or node, and out to the other.
    link = EXCHANGE_S * calls / CALLS + 2 * BYTE_S * (stage.down + (0 if is_silent else stage.up))
    return up, down, link


def fresh(fleet: Fleet, plan: Sum, rounds: int) -> float:
    """Devices that enrol in so many rounds, on average: the distinct of so many draws, and those
    who have a seat, the same in all of them."""
    drawn = fleet.devices * (1 - (1 - fleet.cohort / fleet.devices) ** rounds)
    return min(drawn + plan.witnesses, float(fleet.devices))


def polling(fleet: Fleet) -> tuple[float, float, float]:
    """(bytes up, bytes down, CPU seconds of SuperLink) a second, of nothing but polls."""
    polls = fleet.devices * fleet.online / fleet.poll
    return polls * CALL_UP, polls * CALL_DOWN, polls * POLL_S


def standing(fleet: Fleet, plan: Sum) -> float:
    """Bytes of memory while a sum is open: processes, connections, roster, reports in flight."""
    parties = fleet.cohort + plan.witnesses
    own = SERVER_APP_BYTES + ROSTER_ENTRY_BYTES * fleet.devices + plan.kept
    link = LINK_BYTES + CONNECTION_BYTES * fleet.devices * fleet.online
    return own + link + parties * plan.report.up


def on_paper(fleet: Fleet, rounds: int) -> Demand:
    """The formula: polls, and for each stage those it asks times what one exchange costs."""
    plan, answers, each = Sum.of(fleet), 1 - fleet.drop, 1 / fleet.every
    up, down, link = polling(fleet)
    own, rows = plan.opening * each, 0.0
    for stage, count in (
        (plan.enrol, fresh(fleet, plan, rounds) / rounds),
        (plan.report, fleet.cohort * answers),
        (plan.attest, plan.members * answers),
        (plan.reveal, plan.members * answers),
    ):
        one, rate = exchange(stage), count * each
        up, down, link = up + rate * one[0], down + rate * one[1], link + rate * one[2]
        own += rate * stage.seconds
        rows += count * ROW_BYTES
    for stage, count in (
        (plan.report, fleet.cohort * fleet.drop),
        (plan.attest, plan.members * fleet.drop if plan.is_drawn else 0.0),
    ):
        one, rate = exchange(stage, is_silent=True), count * each
        up, down, link = up + rate * one[0], down + rate * one[1], link + rate * one[2]
    database = NODE_BYTES * fleet.devices + rounds * (rows + 4 * fleet.length)
    return Demand(up, down, link, own, standing(fleet, plan), database)


def links(demand: Demand) -> int:
    """SuperLinks that it takes, none of them more than FULL."""
    return max(1, math.ceil(demand.link_cores / (FULL * LINK_CORES)))


def machines(demand: Demand, machine: Machine) -> int:
    """Machines that it takes, none of them more than FULL."""
    line = max(demand.up, demand.down) / machine.line
    return max(1, math.ceil(max(demand.cores / machine.cores, line) / FULL))


def most_devices(fleet: Fleet, machine: Machine, rounds: int, *, one_link: bool) -> int:
    """How many devices of such a fleet one machine carries, or one SuperLink on it; 0 if it cannot
    even serve the cohort."""

    def fits(devices: int) -> bool:
        demand = on_paper(replace(fleet, devices=devices), rounds)
        return machines(demand, machine) == 1 and (not one_link or links(demand) == 1)

    least = math.ceil(fleet.cohort / fleet.online)
    if not fits(least):
        return 0
    return least + bisect_left(range(least + 1, MOST), True, key=lambda n: not fits(n))
