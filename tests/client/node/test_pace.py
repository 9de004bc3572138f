"""Waiting: how long, and never all at once."""

import threading
import time

import pytest

from tacit.client.node.pace import QUICKEST, SHARE, Allowance, BackOff, Pace, jittered

MOST = 1.2  # what jitter makes of 1


def test_jitter_is_within_a_fifth_and_differs() -> None:
    drawn = [jittered(1.0) for _ in range(200)]
    assert all(0.8 <= each <= MOST for each in drawn)
    assert len(set(drawn)) > 190
    assert min(drawn) < 0.9 < 1.1 < max(drawn)  # each fails by chance in 1 of 2**57


def test_a_node_looks_often_after_a_message_and_seldom_when_there_is_none() -> None:
    pace = Pace(idle=3.0, _since=time.monotonic())
    assert pace.next() <= QUICKEST * MOST
    pace = Pace(idle=3.0, _since=time.monotonic() - 5)
    assert 0.8 * SHARE * 5 <= pace.next() <= MOST * SHARE * 5.1
    pace = Pace(idle=3.0, _since=time.monotonic() - 1000)
    assert 0.8 * 3 <= pace.next() <= MOST * 3
    pace.begin()
    assert pace.next() <= QUICKEST * MOST


def test_a_leg_waits_for_a_node_at_most_a_share_of_what_it_took_anyway() -> None:
    """Whenever a message comes, the next look is at most a quarter of the time since the last."""
    since, now = 0.0, QUICKEST
    while now < 3 / SHARE:
        wait = min(max(QUICKEST, SHARE * (now - since)), 3.0) * MOST
        assert wait <= max(QUICKEST * MOST, 0.25 * now)
        now += wait


def test_a_back_off_doubles_to_its_longest_and_begins_anew() -> None:
    back = BackOff(1.0, 30.0)
    for expected in (1, 2, 4, 8, 16, 30, 30, 30):
        assert 0.8 * expected <= back.next() <= MOST * expected
    for _ in range(10_000):
        back.next()
    assert back.next() <= 30 * MOST, "a device that was alone for days does not overflow"
    back.begin()
    assert back.next() <= MOST


def test_an_allowance_holds_its_rate_over_several_threads() -> None:
    allowance = Allowance(rate=100_000.0)
    began = time.monotonic()
    threads = [threading.Thread(target=allowance.spend, args=(5_000,)) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert time.monotonic() - began >= 20_000 / 100_000


def test_what_was_not_used_is_not_saved_up() -> None:
    allowance = Allowance(rate=100_000.0, _free=time.monotonic() - 100)
    began = time.monotonic()
    allowance.spend(10_000)
    assert time.monotonic() - began >= 0.1


def test_no_limit_costs_nothing() -> None:
    began = time.monotonic()
    Allowance().spend(10**15)
    assert time.monotonic() - began < 0.1


@pytest.mark.parametrize("quiet", [0.0, 1.0, 100.0])
def test_the_owners_idle_time_is_the_longest(quiet: float) -> None:
    assert Pace(idle=0.5, _since=time.monotonic() - quiet).next() <= 0.5 * MOST
