"""The oracle passes exact sums and no others."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tacit.crypto.codec import Codec, Ring
from tacit.crypto.secagg.clear import Clear
from tacit.crypto.secagg.session import Purpose
from tacit.server.events import LeftOut
from tacit.server.inbox import Seen
from tacit.simulations.oracle import Oracle

CODEC = Codec(3, 4, 0, bound=4.0, max_weight=10.0)


def session(
    round: int = 1,
    purpose: Purpose = Purpose.TRAIN,
    clear: Clear | None = None,
    sum_: bytes = b"all",
) -> Any:
    return SimpleNamespace(round=round, purpose=purpose, codec=CODEC, clear=clear, id=sum_)


def encoded(device: int) -> Ring:
    update = np.array([0.1, -0.2, 0.3]) * device
    return CODEC.encode(update, np.zeros(0), float(device), bytes(32))


def opened(devices: set[int]) -> np.ndarray[Any, Any]:
    total = np.zeros(CODEC.size, CODEC.dtype)
    for device in devices:
        total += encoded(device)
    return CODEC.decode(total, len(devices)).update


def seen(
    update: np.ndarray[Any, Any], round: int = 1, members: tuple[int, ...] = (1000, 1001, 1002)
) -> Seen:
    parts = {"a": update[:1].reshape(1, 1), "b": update[1:]}
    return Seen(round, parts, parts, len(members), 6.0, "pairwise", members)


def noted(*devices: int, round: int = 1) -> Oracle:
    oracle = Oracle()
    for device in devices:
        oracle.note(session(round), device, encoded(device))
    return oracle


def test_an_exact_sum() -> None:
    oracle = noted(1, 2, 3)
    oracle.saw(seen(opened({1, 2, 3})))
    assert (oracle.exact, oracle.checked) == (1, 1)


@pytest.mark.parametrize("stage", ["report", "reveal"])
def test_only_a_device_whose_report_is_missing_is_not_in_the_sum(stage: str) -> None:
    oracle = noted(1, 2, 3)
    oracle.heard(LeftOut(1, stage, 2, "no answer"))
    oracle.saw(seen(opened({1, 3} if stage == "report" else {1, 2, 3})))
    assert (oracle.exact, oracle.checked) == (1, 1)


@pytest.mark.parametrize("coordinate", [0, 1, 2])
def test_the_smallest_error_is_found(coordinate: int) -> None:
    update = opened({1, 2, 3})
    update[coordinate] = np.nextafter(update[coordinate], np.inf)
    oracle = noted(1, 2, 3)
    oracle.saw(seen(update))
    assert (oracle.exact, oracle.checked) == (0, 1)


@pytest.mark.parametrize("wrong", [None, 0, 1])
def test_what_is_in_the_clear_is_checked_too(wrong: int | None) -> None:
    """One step too many of one device: it is found, in either coordinate."""
    clear, oracle = Clear(((1, 3),), 1.0, 1.0), Oracle()
    total = np.zeros(CODEC.size, CODEC.dtype)
    for device in (1, 2, 3):
        oracle.note(session(clear=clear), device, encoded(device))
        oracle.note_shown(session(clear=clear), device, np.array([device, -device]))
        total += encoded(device)
    shown = np.array([6, -6])
    if wrong is not None:
        shown[wrong] += 1
    update = clear.joined(CODEC.decode(total, 3), shown, CODEC).update
    single = Seen(1, {}, {}, 1, 0.0, "pairwise", (1001,))  # what one device sent: not the sum
    oracle.saw(single)
    oracle.saw(seen(update))
    assert (oracle.exact, oracle.checked) == (int(wrong is None), 1)


def test_a_sum_over_others_is_found() -> None:
    oracle = noted(1, 2, 3)
    oracle.saw(seen(opened({1, 2})))
    assert (oracle.exact, oracle.checked) == (0, 1)


def test_rounds_are_kept_apart() -> None:
    oracle = noted(1, 2, 3)
    for device in (1, 2):
        oracle.note(session(2), device, encoded(device))
    oracle.heard(LeftOut(2, "report", 1, "no answer"))
    oracle.saw(seen(opened({1, 2, 3}), 1))
    oracle.saw(seen(opened({2}), 2))
    assert (oracle.exact, oracle.checked) == (2, 2)


def test_groups_of_one_round_are_checked_each_by_itself() -> None:
    oracle = Oracle()
    for device in (1, 2, 3, 4):
        oracle.note(session(sum_=b"odd" if device % 2 else b"even"), device, encoded(device))
    oracle.saw(seen(opened({2, 4}), members=(1001, 1003)))
    assert (oracle.exact, oracle.checked) == (1, 1)
    oracle.saw(seen(opened({1, 2}), members=(1000, 1001)))  # it says that 1 and 2 are in it
    assert (oracle.exact, oracle.checked) == (1, 2)


def test_a_group_is_checked_without_those_who_are_not_in_it() -> None:
    oracle = noted(1, 2, 3)
    oracle.note(session(sum_=b"others"), 4, encoded(4))
    oracle.heard(LeftOut(1, "report", 2, "no answer"))
    oracle.saw(seen(opened({1, 3}), members=(1000, 1002)))
    assert (oracle.exact, oracle.checked) == (1, 1)


def test_what_was_not_noted_is_not_checked() -> None:
    oracle = Oracle()
    oracle.note(session(purpose=Purpose.EVALUATE), 1, encoded(1))
    oracle.saw(seen(opened({1})))
    assert (oracle.exact, oracle.checked) == (0, 0)


def test_a_note_is_a_copy() -> None:
    oracle, vector = Oracle(), encoded(1)
    oracle.note(session(), 1, vector)
    vector += 1  # the device masks in place
    oracle.saw(seen(opened({1})))
    assert oracle.exact == 1
