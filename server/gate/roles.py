"""What each role may do at the gate: one table, and what is not in it is not allowed."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from tacit.server.gate.base import Denial, Role


class Act(StrEnum):
    """What can be asked of the gate."""

    ASK = "ask"  # the model
    SEE_METRICS = "see metrics"
    SEE_STATES = "see states"  # and drift, budgets, requests: of all keys
    ISSUE = "issue keys"  # for clients and viewers: also to rotate and to revoke those
    JUDGE = "judge keys"  # suspend and restore those of clients and viewers
    RAISE = "raise budgets"  # and how much detail a key may ask for
    RELEASE = "release a model"
    EXPORT = "export a key"
    APPOINT = "appoint"  # issue, rotate, revoke, suspend and restore the keys of all others


MAY: Mapping[Role, frozenset[Act]] = MappingProxyType(
    {
        Role.CLIENT: frozenset({Act.ASK}),
        Role.VIEWER: frozenset({Act.SEE_METRICS, Act.SEE_STATES}),
        Role.OPERATOR: frozenset({Act.SEE_METRICS, Act.SEE_STATES, Act.ISSUE, Act.JUDGE}),
        Role.RELEASER: frozenset({Act.RELEASE, Act.EXPORT}),
        Role.AUTHORITY: frozenset({Act.SEE_METRICS, Act.SEE_STATES, Act.RAISE, Act.APPOINT}),
    }
)

# What one key asks for, another one of the same right has to approve, with a code: `approvals.py`.
TAKES_TWO = frozenset({Act.RAISE, Act.RELEASE, Act.EXPORT})

# Whose keys ISSUE and JUDGE are about. All other keys are made, and judged, by APPOINT alone: an
# operator who could make operators would be all of them.
LED = frozenset({Role.CLIENT, Role.VIEWER})


def may(role: Role, act: Act) -> bool:
    return act in MAY.get(role, frozenset())


def check(role: Role, act: Act) -> None:
    """Raises Denial for an act that is not this role's."""
    if not may(role, act):
        able = " or ".join(each for each in Role if may(each, act))
        raise Denial("scope", 403, f"a key of role {role} may not {act}: that takes {able}")


def over(role: Role, act: Act) -> Act:
    """The act that it takes to do this `act`, ISSUE or JUDGE, to a key of such a role."""
    return act if role in LED else Act.APPOINT
