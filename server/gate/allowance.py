"""How many answers a key may have in its life: base x trust x (1 - risk), half of it if degraded.

The lifetime budget is what bounds a thief: windows bound load. Trust takes time and use, both: a
key that is bought and left alone earns none, and neither does one that spends all it has in a day.
A key that is degraded, or of any risk, cannot spend its base, and so earns none either.
"""

import math

from tacit.server.gate.base import State

# Labels for a key that nobody knows yet, and for its organisation, so that more keys are not more.
# With 100 of them a thief with photographs agreed with the model of digits on 0.31 of held-out
# images, where 0.10 is chance; with 300 on 0.54, with 1000 on 0.72.
DEFAULT_BUDGET = 100

MOST_BUDGET = 10**12  # answers: what a person may write
TRUST_PERIOD = 30 * 86400.0  # seconds
MOST_TRUST = 4
RISK_STEP = 0.05  # risk is kept in such steps, so that a key's can be written down 20 times at most
MOST_AHEAD = 1024  # answers that are reserved at once: one fsync of milliseconds is for all of them


def trust(base: int, spent: int, age: float) -> int:
    """1 to MOST_TRUST: one more for each 30 days that went by and each base that was spent,
    whichever are fewer. `age` in seconds; a clock that was set back earns nothing."""
    if base < 1:
        return 1
    return 1 + min(MOST_TRUST - 1, max(0, int(age // TRUST_PERIOD)), spent // base)


def allowance(base: int, trusted: float, risk: float, state: State) -> int:
    """Answers in a life so far, rounded down; none for a key that is suspended."""
    if state is State.SUSPENDED:
        return 0
    # Rounded first: 100 * (1 - 0.05 * 9) is a hair less than 55.
    answers = math.floor(round(base * trusted * (1.0 - risk), 6))
    return answers // 2 if state is State.DEGRADED else answers


def ahead(left: int) -> int:
    """How many of the `left` answers to reserve at once: a crash loses them.

    An eighth, so that a small budget is neither lost in one crash nor taken by one process of
    several; at most MOST_AHEAD, so that a large one loses no more either.
    """
    return max(1, min(MOST_AHEAD, left // 8))


def stepped(risk: float) -> float:
    """`risk` in [0, 1], rounded down to a whole step; what is no number is the highest risk."""
    if not 0.0 <= risk <= 1.0:
        return 1.0 if not risk < 0.0 else 0.0
    return math.floor(round(risk / RISK_STEP, 6)) * RISK_STEP
