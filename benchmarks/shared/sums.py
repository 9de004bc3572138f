"""What one system takes for one cohort; each function is meant for a fresh process."""

import resource
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from benchmarks.shared.cohort import Cohort, Layers
from benchmarks.shared.mask_limit import seconds_per_mask
from benchmarks.shared.meter import SERVER, Memory, Meter, settle

TACIT, FLOWER, PLAIN, FEDAVG = "Tacit", "Flower", "plain", "Flower's FedAvg"


@dataclass(frozen=True, slots=True)
class Task:
    """`system` sums a cohort's updates of `length` coordinates for `rounds` rounds of one run.

    `drop` is the share of silent devices. `terms` names Tacit's, in `tacit_sum.TERMS`; `alone` says
    how many of its devices count: every, every second, ... (see `tacit_sum.is_alone`).
    """

    system: str
    devices: int
    length: int
    drop: float
    rounds: int = 1
    seed: int = 1
    terms: str = "like"
    alone: int = 1

    @property
    def cohort(self) -> Cohort:
        return Cohort(self.devices, self.length, self.drop, self.seed)


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of a device and the server, and bytes of a device, in one round.

    Of a device: the median over those that are not silent. `client` is its mean over all rounds of
    the run, `first` its first round; `member` is `client` of those that also open the sum, and 0 if
    all do or none. `error` is the largest in any coordinate and round, `resident` the peak of the
    whole process in bytes. `mask_limit` and `mask_own` are seconds for a coordinate of a mask,
    measured in the same process. They and `degree`, `holders` and `threshold`, who masks with how
    many and how many open what how many hold, are Tacit's; else 0.
    """

    client: float
    first: float
    member: float
    server: float
    server_first: float
    up: float
    down: float
    error: float
    wall_first: float
    wall_last: float
    resident: int
    mask_limit: float
    mask_own: float
    degree: int
    holders: int
    threshold: int


@dataclass(frozen=True, slots=True)
class Peaks:
    """The most memory that the server, and the median device, held at once, in bytes."""

    server: int
    client: int


def cost(task: Task) -> Cost:
    """Run the task and take its times."""
    run, cohort, meter = _system(task), task.cohort, Meter()
    rounds = range(1, task.rounds + 1)
    settle()
    means = run(cohort, meter)

    def mean(party: int, amounts: Mapping[tuple[int, int], float]) -> float:
        return sum(amounts.get((party, number), 0) for number in rounds) / task.rounds

    counted, members, shape = _counted(task), _members(task), _shape(task)
    masks = 1 + shape[0]  # of a device, on average: its own, and one for each neighbour
    bare, own = seconds_per_mask(task.length, masks) if task.system == TACIT else (0.0, 0.0)
    return Cost(
        client=_median(mean(device, meter.seconds) for device in counted),
        first=_median(meter.seconds[device, 1] for device in counted),
        member=_median(mean(device, meter.seconds) for device in counted if device in members),
        server=mean(SERVER, meter.seconds),
        server_first=meter.seconds[SERVER, 1],
        up=_median(mean(device, meter.sent) for device in counted),
        down=_median(mean(device, meter.received) for device in counted),
        error=max(cohort.error(mean, number) for number, mean in enumerate(means, 1)),
        wall_first=meter.wall[1],
        wall_last=meter.wall[task.rounds],
        resident=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT,
        mask_limit=bare,
        mask_own=own,
        degree=shape[0],
        holders=shape[1],
        threshold=shape[2],
    )


def peaks(task: Task) -> Peaks:
    """Run the task under a memory tracer, which makes it slow."""
    run, cohort, memory = _system(task), task.cohort, Memory()
    settle()
    run(cohort, Meter(memory))
    memory.close()
    return Peaks(
        memory.peaks[SERVER], int(statistics.median(memory.peaks[d] for d in cohort.survivors))
    )


def _shape(task: Task) -> tuple[int, int, int]:
    """Degree, holders of shares, threshold."""
    if task.system != TACIT:
        return 0, 0, 0
    from benchmarks.shared.tacit_sum import TERMS

    shape = TERMS[task.terms].shape(task.devices)
    return shape.degree, shape.seats or task.devices, shape.threshold


def _system(task: Task) -> Callable[[Cohort, Meter], list[Layers]]:
    """What runs the task. Imported here: a process loads the one system that it measures."""
    if task.system == FLOWER:
        from benchmarks.shared.flower_secagg import flower_round

        return flower_round
    if task.system in (PLAIN, FEDAVG):
        from benchmarks.shared.plain_mean import fedavg_round, plain_round

        return plain_round if task.system == PLAIN else fedavg_round
    from benchmarks.shared.tacit_sum import TERMS, tacit_rounds

    return partial(tacit_rounds, terms=TERMS[task.terms], rounds=task.rounds, alone=task.alone)


def _counted(task: Task) -> list[int]:
    """The devices whose cost is a device's cost."""
    if task.system != TACIT:
        return task.cohort.survivors
    from benchmarks.shared.tacit_sum import is_alone

    return [device for device in task.cohort.survivors if is_alone(device, task.alone)]


def _members(task: Task) -> frozenset[int]:
    """The devices that open a sum, if not all do."""
    if task.system != TACIT:
        return frozenset()
    from benchmarks.shared.tacit_sum import TERMS, committee

    members = committee(task.devices, TERMS[task.terms])
    return members if len(members) < task.devices else frozenset()


def _median(values: Iterable[float]) -> float:
    listed = list(values)
    return statistics.median(listed) if listed else 0.0


_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
