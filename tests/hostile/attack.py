"""An attack, what stops it, and what it does where nothing stops it.

An attack that never works proves nothing. So each is run twice, by the very same code: against the
devices as they are, and with the one defence that stands in its way removed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tacit.crypto.errors import TacitError

Removal = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, slots=True)
class Attack:
    """`run` returns whether the adversary got what it is not to have, or raises on its way.

    `without` removes the defence. `reason` is a pattern of the refusal that ends the attack; None
    where nothing is refused, and what the adversary ends up with is worth nothing.
    """

    run: Callable[[], bool]
    without: Removal
    reason: str | None = None


def trial(attack: Attack, defended: bool, patch: pytest.MonkeyPatch) -> None:
    """Asserts that the attack fails as it should, or that it succeeds without its defence."""
    if not defended:
        attack.without(patch)
        assert attack.run(), "the attack fails by itself: it shows nothing about the defence"
    elif attack.reason is None:
        assert not attack.run(), "the adversary reads what it must not"
    else:
        with pytest.raises(TacitError) as refused:
            attack.run()
        assert re.search(attack.reason, str(refused.value)), str(refused.value)


def trials(attacks: dict[str, Attack]) -> Callable[[Callable[..., None]], Any]:
    """Runs a test with each attack, `defended` and not."""

    def decorate(test: Callable[..., None]) -> Any:
        named = pytest.mark.parametrize("attack", list(attacks.values()), ids=list(attacks))
        both = pytest.mark.parametrize("defended", [True, False], ids=["defended", "undefended"])
        return named(both(test))

    return decorate


def replaced(target: Any, name: str, by: Any) -> Removal:
    """Removes a defence by putting something else in its place."""
    return lambda patch: patch.setattr(target, name, by)


def together(*removals: Removal) -> Removal:
    """Removes several at once, where one check would otherwise stand in for another."""

    def remove(patch: pytest.MonkeyPatch) -> None:
        for removal in removals:
            removal(patch)

    return remove


def nothing(*_: Any, **__: Any) -> None:
    """A check that checks nothing."""
