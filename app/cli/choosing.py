"""What a device's owner has chosen, in words: the policy, and when the device may train."""

from collections.abc import Iterator
from dataclasses import asdict

from tacit.client.node.settings import Settings
from tacit.client.policy import Policy


def policy_words(policy: Policy) -> Iterator[str]:
    """What a policy means, a line for each thing that an owner can choose."""
    yield (
        f"sums of {policy.min_cohort} devices or more, opened over {policy.min_survivors} reports "
        f"or more, of which {policy.corrupt:.3g} may be in league with the server"
    )
    yield "nothing outside of sums" if not policy.plain else "ANSWERS IN THE CLEAR, outside of sums"
    if policy.epsilon is None:
        yield "sums without noise"
    else:
        trusted = ", also by noise that the server promises" if policy.trust_server else ""
        yield (
            f"sums with noise, for epsilon {policy.epsilon:g} at delta {policy.delta:g} in all, "
            f"for each {'example' if policy.unit == 'record' else 'device'}{trusted}"
        )
    if policy.clear_epsilon:
        yield (
            f"parts of updates in the clear, for epsilon {policy.clear_epsilon:g} at delta "
            f"{policy.delta:g} in all"
        )
    kinds = {"lattice keys": policy.lattice, "a key that all devices hold": policy.consortium}
    if any(kinds.values()):
        yield f"sums under {' and '.join(kind for kind, allowed in kinds.items() if allowed)}, too"
    if policy.hybrid:
        yield "only sums that stand up to a later quantum computer (ML-KEM)"
    if policy.max_norm is not None:
        yield f"updates of norm {policy.max_norm:g} at most; longer ones are scaled down"
    if policy.keep < 1:
        yield f"the largest {policy.keep:.3g} of an update's coordinates; the others are zeros"
    yield (
        f"these models only: {', '.join(policy.models)}"
        if policy.models
        else "models of any structure"
    )


def rule_words(settings: Settings) -> Iterator[str]:
    """When the device may train."""
    before = asdict(Settings())
    changed = {
        name: value
        for name, value in asdict(settings).items()
        if value != before[name] and name != "connection"
    }
    if not changed:
        yield "whenever it is asked (no rule in node.toml)"
    if settings.schedule.windows:
        yield f"in {' or '.join(settings.schedule.windows)}, local time"
    if settings.power.mains:
        yield "on mains only"
    elif settings.power.battery_above:
        yield f"on mains, or with the battery above {settings.power.battery_above:g} %"
    if settings.network.interfaces:
        yield f"over {', '.join(settings.network.interfaces)} only"
    if settings.network.metered:
        yield f"not over {', '.join(settings.network.metered)}"
    if settings.machine.max_load:
        yield f"at a load of {settings.machine.max_load:g} a core at most"
    if settings.machine.max_temperature:
        yield f"at {settings.machine.max_temperature:g} degrees at most"
    if settings.max_rounds_per_day:
        yield f"{settings.max_rounds_per_day} rounds a day at most"
    if settings.hook:
        yield f"if {settings.hook} says so"
