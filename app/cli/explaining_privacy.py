"""What noise a private run of a given size would have, and what that costs, before it is run."""

import math
from dataclasses import asdict, dataclass

from rich.table import Table

from tacit.app.cli.screen import Screen
from tacit.client.policy import Policy
from tacit.crypto.errors import ParameterError
from tacit.privacy.accountants import compose
from tacit.privacy.charges import releases_of
from tacit.privacy.ledger import Budget
from tacit.privacy.mechanisms import Mechanism
from tacit.server.pairwise import Pairwise
from tacit.server.private import Central, Distributed, Local, Privacy, noise_for

MODES: dict[str, type[Privacy]] = {kind.name: kind for kind in (Distributed, Local, Central)}


@dataclass(frozen=True, slots=True)
class Plan:
    """The noise of a run. Deviations are those of a coordinate of the mean, and what is right is
    the norm of all of it, both in units of the clip."""

    devices: int
    least: int
    corrupt: int
    noise: float
    bits: int
    bytes_per_parameter: float
    deviation: float
    norm: float
    central_norm: float
    epsilon_round: float
    epsilon_least: float
    epsilon_all: float
    epsilon_owner: float


def privacy(
    screen: Screen,
    mode: str,
    devices: int,
    rounds: int,
    epsilon: float,
    delta: float,
    length: float,
    gamma: float,
    drop: float,
) -> None:
    """What makes `epsilon` last for so many rounds, and what is left of accuracy."""
    if mode not in MODES:
        raise ParameterError(f"--mode {mode}: expected {', '.join(MODES)}")
    if not 1 <= length <= 1 << 31 or length != int(length):
        raise ParameterError(f"--length {length:g}: expected a whole number, 1 .. 2**31")
    plan = _plan(MODES[mode], devices, rounds, Budget(epsilon, delta), int(length), gamma, drop)
    _show(screen, plan, mode, rounds, epsilon, delta)
    screen.result(mode=mode, rounds=rounds, epsilon=epsilon, delta=delta, **asdict(plan))


def _plan(
    kind: type[Privacy],
    devices: int,
    rounds: int,
    budget: Budget,
    length: int,
    gamma: float,
    drop: float,
) -> Plan:
    made = kind(noise=noise_for(budget.epsilon, budget.delta, rounds), budget=budget)
    asked = Pairwise(corrupt=gamma, drop=drop).asked(length, devices, devices)
    agreed = made.noised(asked)
    assert agreed is not None  # of MODES all go into sums
    mechanism = Mechanism.of(agreed)
    # Every device adds its share, corrupt ones and those that might have dropped too.
    variance = float(mechanism.share) * (1 if agreed.central else devices)
    deviation = math.sqrt(variance) / (mechanism.radius * devices)

    def epsilon(survivors: int, times: int, corrupt: int = agreed.corrupt) -> float:
        releases = releases_of(agreed, 1, 1, survivors, min(corrupt, survivors - 1))
        return compose(releases, made.budget.against).times(times).epsilon(budget.delta)

    return Plan(
        devices,
        asked.least,
        agreed.corrupt,
        made.noise,
        agreed.bits,
        agreed.size * agreed.bits / 8 / length,
        deviation,
        deviation * math.sqrt(length),
        made.noise * math.sqrt(length) / devices,
        epsilon(asked.least, 1),
        epsilon(asked.least, rounds),
        epsilon(devices, rounds),
        epsilon(asked.least, rounds, max(agreed.corrupt, math.floor(Policy().corrupt * devices))),
    )


def _show(screen: Screen, plan: Plan, mode: str, rounds: int, epsilon: float, delta: float) -> None:
    n = plan.devices
    screen.say(
        f"{n} devices, {rounds} rounds, epsilon {epsilon:g} at delta {delta:g} for each device, "
        f"{mode}."
    )
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows = (
        ("noise", f"{plan.noise:.4g} times the clip, in a sum over {plan.least} or more"),
        (
            "of the mean",
            f"each coordinate {plan.deviation:.3g} of the clip, all together {plan.norm:.3g} "
            f"(a trusted server: {plan.central_norm:.3g}); an update is 1 at most",
        ),
        (
            "sent",
            f"{plan.bits} bits a coordinate, {plan.bytes_per_parameter:.2f} bytes a parameter",
        ),
        ("one round", f"epsilon {plan.epsilon_round:.4g} for a device that takes part"),
        (
            "all rounds",
            f"epsilon {plan.epsilon_least:.4g}, as devices count; {plan.epsilon_all:.4g} where "
            "nobody drops out, as the server's ledger will say",
        ),
        (
            "owners allow it by",
            f"policy.epsilon = {plan.epsilon_owner:.4g} or more, or none set (policy.corrupt as it "
            "is by default)",
        ),
    )
    for label, words in rows:
        table.add_row(label, words)
    screen.console.print(table)
    trust = {
        "distributed": f"a server in league with {plan.corrupt} of the {plan.least} fewest devices",
        "local": "a server in league with all other devices",
        "central": "anybody but the server, which sees sums without noise",
    }[mode]
    screen.say(f"It holds against {trust}.")
