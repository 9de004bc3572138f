"""Which rounds of a run came to nothing, and what is said of why."""

from dataclasses import asdict

from tacit.app.losses import Losses, losses
from tacit.server.events import (
    Event,
    LeftOut,
    RoundFinished,
    RoundStarted,
    SumFailed,
    SumOpened,
)

NO = "this device does not run bundle 00ff"
FEW = "0 of 3 devices"


def came(*events: Event) -> Losses:
    return losses({"event": type(each).__name__, **asdict(each)} for each in events)


def refused(number: int) -> list[Event]:
    out: list[Event] = [LeftOut(number, "enrol", device, NO) for device in (1, 2, 3)]
    failed = SumFailed(number, "train", FEW)
    return [RoundStarted(number, 3), *out, failed, finished(number)]


def finished(number: int) -> Event:
    return RoundFinished(number, 3, 1.0, {}, {}, {})


def opened(number: int) -> Event:
    return SumOpened(number, "train", 3, 3, 0.5, "pairwise")


def test_a_run_that_every_device_refused() -> None:
    found = came(*refused(1), *refused(2))
    assert found == Losses(2, 2, f"{FEW}; 3 times: {NO}")
    assert found.is_all


def test_a_round_of_two_may_be_lost() -> None:
    found = came(*refused(1), RoundStarted(2, 3), opened(2), finished(2))
    assert (found.rounds, found.lost, found.is_all) == (2, 1, False)


def test_a_group_that_failed_loses_no_round() -> None:
    group = SumFailed(1, "train", "group 1: too few")
    assert came(RoundStarted(1, 6), group, opened(1), finished(1)) == Losses(1, 0, "")


def test_an_evaluation_that_failed_loses_no_round() -> None:
    failed = SumFailed(1, "evaluate", "too few")
    assert came(RoundStarted(1, 3), opened(1), failed, finished(1)) == Losses(1, 0, "")


def test_no_round_yet_is_no_loss() -> None:
    assert not came(RoundStarted(1, 3)).is_all
    assert came(*refused(1)[:-1]) == Losses(0, 0, "")
