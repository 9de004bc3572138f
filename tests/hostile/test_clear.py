"""Servers that would have much in the clear, with little noise, or often."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from tacit.client import budget
from tacit.client.policy import Policy
from tacit.client.vault import ContextVault
from tacit.crypto.codec import Codec
from tacit.crypto.prg import add_masks
from tacit.crypto.secagg.clear import Clear
from tacit.crypto.secagg.messages import Report
from tacit.crypto.secagg.session import Session
from tacit.privacy.accountants import Adversary, cost
from tacit.privacy.clear import release_of
from tests.crypto.test_prg import LIMIT, chi_square
from tests.hostile.adversary import read
from tests.hostile.attack import Attack, nothing, replaced, together, trial, trials
from tests.hostile.crowd import Crowd, count_randomness
from tests.hostile.test_sessions import LONG, ONE_ID, told_self_keys
from tests.runtime import linear

VICTIM, DEVICES = 3, 5
ALMOST = 2.0**-10  # of no noise: the least there is
HONEST = Clear(((0, DEVICES - 1),), 1.0, 4.0)  # everything but one coordinate
ROUNDS = 400  # in which 4 norms of noise average out to a fifth of one


class Shown(Crowd):
    """A crowd whose sessions have a clear part, and what the server reads of it."""

    def __init__(self, epsilon: float, length: int = DEVICES) -> None:
        super().__init__(DEVICES, policy=Policy(clear_epsilon=epsilon))
        self.model = linear.record({"w": np.zeros(length)})
        self.length = length

    def shown(self, clear: Clear, round: int = 1) -> Session:
        codec = Codec(self.length - clear.size, DEVICES, 16, bits=28)
        return self.session(round, codec=codec, clear=clear)

    def read(self, clear: Clear, round: int = 1) -> np.ndarray:
        """What the victim sends, in units of what it trained."""
        session = self.shown(clear, round)
        sent = Report.decode(self.report(VICTIM, session), session, sender=VICTIM)
        return clear.unpack(sent.clear) * clear.step


def gives_itself_away(mean: np.ndarray) -> bool:
    """Whether it is the victim's unit vector, and no other device's."""
    return bool(np.argmax(mean) == VICTIM - 1 and mean.max() > 0.5)


def reads(clear: Clear, epsilon: float, rounds: int = 1) -> Callable[[], bool]:
    """The victim's input read out of what it sent in the clear, over some rounds."""

    def run() -> bool:
        crowd = Shown(epsilon)
        return gives_itself_away(
            np.mean([crowd.read(clear, round) for round in range(1, rounds + 1)], axis=0)
        )

    return run


# What 20 rounds cost: a deal too little for ROUNDS.
FOR_20 = cost(release_of(HONEST, 1, 1, DEVICES), Adversary.SERVER).times(20).epsilon(1e-5)
BOOKS = budget.clear_ledger_of


def forgetful(_: Any, policy: Policy) -> Any:
    """Nobody counts: each round is let in by itself."""
    return BOOKS(ContextVault(RecordDict()), policy)


OPEN = together(replaced(budget, "check_clear", nothing), replaced(budget, "spend_clear", nothing))
LOUD = replace(HONEST, sigma=ALMOST)
READ: dict[str, Attack] = {
    "everything but one coordinate": Attack(reads(LOUD, 0.0), OPEN, "owner allows none"),
    "hardly any noise": Attack(reads(LOUD, 8.0), OPEN, r"cost epsilon inf .*more than is left"),
    "the same again and again": Attack(
        reads(HONEST, FOR_20, ROUNDS),
        replaced(budget, "clear_ledger_of", forgetful),
        r"more than is left",
    ),
}


@trials(READ)
def test_a_server_asks_for_more_than_noise_covers(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_randomness(monkeypatch)
    trial(attack, defended, monkeypatch)


def test_one_part_within_a_budget_says_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 servers that guess at the largest of four coordinates 40 at most are right. One that is
    a quarter of a deviation ahead is the largest with a probability below 0.34: 41 of 60 come less
    than once in a million (Hoeffding). Without the noise all are right."""
    count_randomness(monkeypatch, b"guesses")
    right = sum(np.argmax(Shown(20.0).read(HONEST)) == VICTIM - 1 for _ in range(60))
    assert right <= 40
    OPEN(monkeypatch)
    assert all(np.argmax(Shown(0.0).read(LOUD)) == VICTIM - 1 for _ in range(3))


# A clear part of its own for one device

CLEAR = Clear(((0, 100),), 1.0, 4.0)


def told_apart(changed: dict[str, Any]) -> Callable[[], bool]:
    """The victim is shown another clear part than all others. Whether the sum opens all the same,
    once the self masks are off."""

    def run() -> bool:
        crowd, keys = Shown(100.0, LONG), list[bytes]()
        session, others = crowd.shown(CLEAR), crowd.shown(replace(CLEAR, **changed))
        assert session.codec == others.codec
        total = np.zeros(session.codec.size, session.codec.dtype)
        with told_self_keys(keys):
            for device in session.devices:
                asked = session if device == VICTIM else others
                crowd.adversary.reported(asked, crowd.report(device, asked))
        for dealt in (one for many in crowd.adversary.dealt.values() for one in many):
            total += dealt.vector()
        add_masks(total, [], keys)
        opens = read(session, total, DEVICES) is not None
        assert opens or chi_square(total.tobytes()) < LIMIT
        return opens

    return run


APART: dict[str, Attack] = {
    "other coordinates": Attack(told_apart({"ranges": ((300, 400),)}), ONE_ID),
    "another norm": Attack(told_apart({"norm": 2.0}), ONE_ID),
    "less noise": Attack(told_apart({"sigma": 3.0}), ONE_ID),
}


@trials(APART)
def test_one_device_is_asked_for_another_part(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)
