"""How many neighbours and how large a committee a cohort needs, and what that leaves to chance.

Two events would break the promise of a sum. Together they may have a chance of 2**-SECURITY:

- the server *cuts* the honest survivors in two, and learns the sum of each part (`cut_risk`);
- more of a drawn committee are corrupt than its threshold allows for (`most_corrupt`).

A third only costs a round: too few of the committee answer (`stall_risk`).

Bell et al. 2020 (doi:10.1145/3372297.3417885) put a graph of logarithmic degree in the place of the
complete one. The degrees here are linear in the cohort, and have to be. Nobody can foresee this
graph, but the server sees it as soon as the reports are in, and only then says whose report counts
as missing. A device with no more honest neighbours than may go missing is cut off by removing just
these, so each device needs more of them than that.

All chances are for one session. A server has as many tries at a cut as there are sums, and one at
the committee for each draw.
"""

import math
from bisect import bisect_left
from dataclasses import asdict, dataclass
from functools import lru_cache

from tacit.crypto.errors import ParameterError
from tacit.crypto.secagg.session import threshold_for
from tacit.crypto.shamir import MAX_POINTS

SECURITY = 40  # a promise may fail with probability 2**-SECURITY
LIVENESS = 20  # a round may be lost for want of a committee with probability 2**-LIVENESS
# Committees of one roster are nested, and the server says how many seats it wants: up to 255 tries.
DRAW_SECURITY = SECURITY + 1 + MAX_POINTS.bit_length()
COMPLETE = 32  # up to here everyone is everyone's neighbour, and on the committee


@dataclass(frozen=True, slots=True)
class Committee:
    """Who opens the sums of a cohort, and what that leaves to chance.

    devices, roster   sizes of the cohort and of the roster it is part of
    corrupt           so many of the cohort may collude with the server
    min_survivors     so many reports at least make a sum
    seats             devices drawn from the roster as committee; 0: the cohort is the committee
    threshold         so many of the committee open a sum
    stall_risk        log2 of the chance that too few answer although no more are silent than were
                      reckoned with; -inf: cannot happen
    """

    devices: int
    roster: int
    corrupt: int
    min_survivors: int
    seats: int
    threshold: int
    stall_risk: float


@dataclass(frozen=True, slots=True)
class Parameters(Committee):
    """A committee, and who masks with whom.

    degree            neighbours of a device: all others, or so many on average
    cut_risk          log2 of a bound on the chance of a cut; -inf: cannot happen
    """

    degree: int
    cut_risk: float


def choose(devices: int, gamma: float, drop: float, roster: int | None = None) -> Parameters:
    """The cheapest safe parameters of a masked sum: `choose_committee`, and the graph."""
    found = choose_committee(devices, gamma, drop, roster)
    degree = choose_degree(found)
    risk = cut_risk(devices, found.corrupt, devices - found.min_survivors, degree)
    return Parameters(**asdict(found), degree=degree, cut_risk=risk)


def choose_committee(
    devices: int, gamma: float, drop: float, roster: int | None = None
) -> Committee:
    """The cheapest safe committee for a cohort of `devices` out of `roster` (None: all of it).

    All that a sum without masks needs. A fraction `gamma` of the cohort and of the roster may
    collude with the server, a fraction `drop` of either may be silent; both are rounded down to
    whole devices, as a `Policy` does. Raises ParameterError, with what to change, where nothing is
    both safe and likely to finish.
    """
    roster = devices if roster is None else roster
    if not (0 <= gamma < 1 and 0 <= drop < 1):
        raise ParameterError(f"gamma={gamma:g}, drop={drop:g}: expected 0 or more, and below 1")
    if not 2 <= devices <= roster:
        raise ParameterError(f"{devices} devices of a roster of {roster}: expected 2 to {roster}")
    corrupt, removable = math.floor(gamma * devices), math.floor(drop * devices)
    if devices - corrupt - removable < 2:
        raise ParameterError(
            f"of {devices} devices {corrupt} may be corrupt and {removable} missing: fewer than "
            "two honest ones would be left. Lower gamma or drop, or take more devices"
        )
    seats, threshold, stall = _committee(devices, roster, gamma, drop)
    return Committee(devices, roster, corrupt, devices - removable, seats, threshold, stall)


def choose_degree(committee: Committee) -> int:
    """The least degree of a safe graph for the cohort of this committee. There always is one, as
    that of all others cannot be cut."""
    devices, removable = committee.devices, committee.devices - committee.min_survivors
    if devices <= COMPLETE:
        return devices - 1
    return least_degree(devices, committee.corrupt, removable, SECURITY + 1)


def _committee(devices: int, roster: int, gamma: float, drop: float) -> tuple[int, int, float]:
    """Seats, threshold, stall risk: the cohort, or a drawn committee of half its size or less."""
    threshold = threshold_for(devices, math.floor(gamma * devices))
    whole = devices <= MAX_POINTS and threshold <= devices - math.floor(drop * devices)
    if devices > COMPLETE:
        corrupt, silent = math.floor(gamma * roster), math.floor(drop * roster)
        # Of two committees of about a size the cohort is the better: it needs no beacon and leaves
        # nothing to chance.
        most = devices // 2 if whole else min(MAX_POINTS, roster)
        for seats in range(1, most + 1):
            drawn = threshold_for(seats, most_corrupt(roster, corrupt, seats))
            stall = stall_risk(roster, silent, seats, drawn)
            if drawn <= seats and stall <= -LIVENESS:
                return seats, drawn, stall
    if whole:
        return 0, threshold, -math.inf
    slack = gamma + 2 * drop
    smaller = devices > MAX_POINTS and slack <= 1
    raise ParameterError(
        f"no committee for {devices} devices is both safe and likely to answer: gamma + 2 * drop "
        f"is {slack:.3g} and has to be below 1, in a large cohort by far. Lower gamma or drop"
        + (f", or take a cohort of at most {MAX_POINTS}" if smaller else "")
    )


@lru_cache(maxsize=1024)  # a device asks again each round
def cut_risk(devices: int, corrupt: int, removable: int, degree: int) -> float:
    """log2 of an upper bound on the chance that the server can cut the honest survivors in two.

    Of `devices`, at most `corrupt` collude with the server: which, is settled before the graph is.
    Any two honest ones are neighbours with probability p = degree / (devices - 1), independently.
    The server sees the graph, then removes at most `removable` devices. 0.0 where nothing is
    promised; -inf where no cut is possible.

    With N = devices - corrupt honest devices and d = removable, 2**cut_risk is

        devices / N * sum(C(N, s) * P[Bin(N - s, 1 - (1 - p)**s) <= d] for s = 1 .. (N - d) // 2)

    but for a relative error below 1e-8 up to 10**5 devices, because:

    1. Who can cut by removing fewer can cut by removing exactly d, all honest: as N - d >= 2, there
       is always one more to remove that leaves a device on either side.
    2. Then the smaller side is a set S of s <= (N - d) / 2 devices whose neighbours outside S were
       all removed, so they are at most d. Each of the N - s devices outside is a neighbour of S
       with probability 1 - (1 - p)**s, independently of the others. Sum over all S.
    3. That is for exactly N honest devices. With one more, take one away at random: the cut stays,
       unless just this device was the smaller side, which has a chance of at most 1 / (N + 1). So
       P(N + 1) <= (N + 1) / N * P(N), and for up to `devices` of them the product is devices / N.

    The term for s = 1 is nearly all of it: one device whose neighbours are removed.
    """
    honest = devices - corrupt
    if honest - removable < 2 or degree < 1:
        return 0.0
    if degree >= devices - 1:
        return -math.inf
    apart = math.log1p(-degree / (devices - 1))  # ln P[two honest devices are no neighbours]
    terms = [
        _ln_choose(honest, size) + _ln_few(honest - size, size * apart, removable)
        for size in range(1, (honest - removable) // 2 + 1)
    ]
    largest = max(terms)
    ln_sum = largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
    return min(0.0, (ln_sum + math.log(devices / honest)) / math.log(2))


def least_degree(devices: int, corrupt: int, removable: int, security: int = SECURITY) -> int:
    """The smallest degree whose `cut_risk` is at most -security: at most devices - 1, complete.

    Nothing helps where fewer than two honest devices would be left: then it is devices - 1 too.
    """

    def enough(degree: int) -> bool:
        return cut_risk(devices, corrupt, removable, degree) <= -security

    return bisect_left(range(devices - 1), True, key=enough)


def _ln_few(trials: int, ln_miss: float, most: int) -> float:
    """ln of an upper bound on P[Bin(trials, hit) <= most], where miss = e**ln_miss = 1 - hit.

    Below the mean each probability is smaller than the one above it by a factor that itself falls:
    P[k - 1] / P[k] = k * miss / ((trials - k + 1) * hit). So P[most] starts a sum that is at most
    geometric. Loose near the mean only. `most` < `trials`.
    """
    miss, hit = math.exp(ln_miss), -math.expm1(ln_miss)
    factor = most * miss / ((trials - most + 1) * hit)
    if factor >= 1:
        return 0.0
    ln_most = _ln_choose(trials, most) + most * math.log(hit) + (trials - most) * ln_miss
    return min(0.0, ln_most - math.log1p(-factor))


def _ln_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)


def most_corrupt(roster: int, corrupt: int, seats: int, security: int = DRAW_SECURITY) -> int:
    """The smallest m such that more than m corrupt seats have a chance of at most 2**-security.

    `seats` devices are drawn out of `roster`, of which `corrupt` are so: without replacement, and
    independently of who is corrupt. Exact. Raises ParameterError for more seats than devices.
    """
    ways = _ways(roster, corrupt, seats)
    total, more, most = math.comb(roster, seats), 0, seats
    while most > 0 and (more + ways[most]) << security <= total:
        more += ways[most]
        most -= 1
    return most


def stall_risk(roster: int, silent: int, seats: int, threshold: int) -> float:
    """log2 of the chance that fewer than `threshold` of `seats` drawn devices answer.

    `silent` of the `roster`, chosen independently of the draw, say nothing. -inf: cannot happen.
    """
    stalled = sum(_ways(roster, silent, seats)[seats - threshold + 1 :])
    return math.log2(stalled) - math.log2(math.comb(roster, seats)) if stalled else -math.inf


def _ways(roster: int, marked: int, seats: int) -> list[int]:
    """In how many draws of `seats` out of `roster` k of the `marked` are drawn; k = 0 .. seats."""
    if seats > roster:
        raise ParameterError(f"{seats} seats and {roster} devices to draw them from")
    plain = roster - marked
    fewest = max(0, seats - plain)
    ways = [0] * fewest + [math.comb(marked, fewest) * math.comb(plain, seats - fewest)]
    for k in range(fewest, seats):  # each from the one before: exact, and fast
        ways.append(ways[k] * (marked - k) * (seats - k) // ((k + 1) * (plain - seats + k + 1)))
    return ways
