"""What a device may still spend on what it lets out, and the ledgers that it keeps of it.

Sums with noise are one account, parts of updates in the clear another: see `Policy.epsilon` and
`Policy.clear_epsilon`.

A device trusts nobody's word for what a sum costs. It reads that off the session, counts its
owner's share of corrupt devices where the session counts fewer, and never hears how many survived:
so it counts the fewest that there may be, and credits nothing.
"""

import logging
import math
from collections.abc import Sequence

from tacit.client.policy import Policy
from tacit.client.vault import Vault
from tacit.crypto.errors import BudgetExceeded, ParameterError, PolicyRefusal
from tacit.crypto.secagg import stages
from tacit.crypto.secagg.clear import Clear
from tacit.crypto.secagg.noised import Noised
from tacit.crypto.secagg.session import Session
from tacit.privacy.accountants import Adversary, compose, cost
from tacit.privacy.charges import neighbours_of, releases_of
from tacit.privacy.clear import release_of
from tacit.privacy.ledger import Budget, Ledger
from tacit.privacy.releases import Neighbours, Release, Source, Unit

log = logging.getLogger("tacit.client")

# Whose row it is in a ledger, whatever its number: or a device that was enrolled under another one
# would have its budget anew.
OURS = 1


def ledger_of(vault: Vault, policy: Policy, unit: Unit) -> Ledger:
    """This device's own; OURS is its row."""
    return Ledger(vault, unit, neighbours_of(unit), policy.budget())


def charges(session: Session, policy: Policy) -> tuple[Release, ...]:
    """What a private sum may cost us, at worst."""
    agreed = session.codec
    if not isinstance(agreed, Noised):
        return ()
    feared = math.floor(policy.corrupt * agreed.clients)
    corrupt = max(agreed.corrupt, feared)
    return releases_of(agreed, session.run, session.round, session.min_survivors, corrupt)


def check(vault: Vault, policy: Policy, asked: Sequence[Release]) -> None:
    """Raises BudgetExceeded if these are more than is left. Nothing is spent by it."""
    if asked and not _ledger(vault, policy, asked).affordable(asked, [OURS]):
        raise _refused(asked)


def spend(vault: Vault, policy: Policy, asked: Sequence[Release]) -> None:
    """Count them, durably, before they leave the device. Raises as `check`, and then nothing is
    counted."""
    if not asked:
        return
    try:
        _ledger(vault, policy, asked).spend(asked, [OURS])
    except BudgetExceeded as over:
        log.warning("%s", over)
        raise _refused(asked) from None


def epsilons(policy: Policy, session: Session, charged: Sequence[Release]) -> tuple[float, float]:
    """What one sum cost on its own, by the releases charged for it, and its part in the clear."""
    against = policy.budget().against
    noised = compose(charged, against).epsilon(policy.delta) if charged else 0.0
    if (part := session.clear) is None:
        return noised, 0.0
    return noised, cost(_shown(session, part), Adversary.SERVER).epsilon(policy.delta)


def own_noise(policy: Policy, encoded: Sequence[bytes]) -> tuple[Release, ...]:
    """What a train function says that it let out, with noise of its own on each of its steps.

    Raises PolicyRefusal if it says nothing and the owner asks for noise, and ParameterError for
    records that are not of examples on this device, or of noise that others are to add.
    """
    if not encoded and policy.epsilon is not None:
        raise PolicyRefusal(
            "an update without noise, and this device asks for some (policy.epsilon)"
        )
    found = tuple(Release.decode(data) for data in encoded)
    if any(release.unit is not Unit.RECORD for release in found):
        raise ParameterError("a train function's own noise protects examples, nothing else")
    if any(release.source is not Source.OWN for release in found):
        raise ParameterError("a train function's own noise is all on this device: Source.OWN")
    return found


def clear_ledger_of(vault: Vault, policy: Policy) -> Ledger:
    """Of what this device has sent in the clear, in whichever run and for whichever server; OURS is
    its row. Raises ParameterError if the owner allows nothing."""
    budget = Budget(policy.clear_epsilon, policy.delta)
    return Ledger(vault, Unit.CLIENT, Neighbours.REPLACE_ONE, budget)


def check_clear(vault: Vault, policy: Policy, session: Session) -> None:
    """Raises PolicyRefusal if a session wants a part in the clear and the owner allows none, and
    BudgetExceeded if it would cost more than is left. Nothing is spent by it."""
    if (part := session.clear) is None:
        return
    asked = _shown(session, part)
    if not policy.clear_epsilon:
        raise PolicyRefusal(
            f"{_told(part, asked, policy)}: this device's owner allows none (policy.clear_epsilon)"
        )
    if not clear_ledger_of(vault, policy).affordable([asked], [OURS]):
        raise _refused_clear(part, asked, policy)


def spend_clear(vault: Vault, policy: Policy, session: Session) -> None:
    """Count a session's part in the clear, durably, before it leaves the device. Raises
    BudgetExceeded as `check_clear`, and then nothing is counted."""
    if (part := session.clear) is None:
        return
    asked = _shown(session, part)
    try:
        clear_ledger_of(vault, policy).spend([asked], [OURS])
    except BudgetExceeded as over:
        log.warning("%s", over)
        raise _refused_clear(part, asked, policy) from None


def _shown(session: Session, part: Clear) -> Release:
    return release_of(part, session.run, session.round, len(session.cohort))


def _told(part: Clear, asked: Release, policy: Policy) -> str:
    """What a part is and costs: what a server knows, but for the owner's delta."""
    epsilon = cost(asked, Adversary.SERVER).epsilon(policy.delta)
    return (
        f"{part.size} coordinates in the clear, clipped to {part.norm:g} with noise of "
        f"{part.sigma:g} times that, cost epsilon {epsilon:.6g} at delta {policy.delta:g}"
    )


def _refused_clear(part: Clear, asked: Release, policy: Policy) -> BudgetExceeded:
    """Without what was spent, or is left: see `stages.BUDGET_IS_SPENT`."""
    return BudgetExceeded(f"{_told(part, asked, policy)}: more than is left (policy.clear_epsilon)")


def _ledger(vault: Vault, policy: Policy, asked: Sequence[Release]) -> Ledger:
    return ledger_of(vault, policy, asked[0].unit)


def _refused(asked: Sequence[Release]) -> BudgetExceeded:
    log.warning("refused: %d releases would cost more than is left", len(asked))
    return BudgetExceeded(stages.BUDGET_IS_SPENT)
