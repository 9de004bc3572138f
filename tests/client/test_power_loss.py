"""Killed at any moment, 200 times: what left a device is in its ledger and in its diary.

A child does what a device does for each sum: it counts the cost in the ledger, writes the diary,
and sends, which is a byte in a pipe. It is killed in the middle of it, and its vault goes on. What
a machine without power leaves, and a killed process does not, is in `test_diary`.
"""

import os
import signal
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tacit.client import budget, diary, journal
from tacit.client.diary import TookPart
from tacit.client.policy import Policy
from tacit.client.vault import FileVault
from tacit.privacy.charges import releases_of
from tacit.privacy.releases import Release, Unit
from tests.runtime.private import noised, policy

KILLS = 200
OWNER: Policy = policy(None)


agreed = cache(noised)


def charged(number: int) -> tuple[Release, ...]:
    return releases_of(agreed(), 1, number, 5, 2)


def device(vault: FileVault, first: int, sent: int) -> None:
    """Sum after sum, and a slot that is taken and written as the state of a sum is."""
    os.write(sent, b"!")
    for number in range(first, 1 << 31):
        vault.take("session")
        budget.spend(vault, OWNER, charged(number))
        diary.note(vault, TookPart(1, number, "train", "masks", 6, 0.1, 0.0), number)
        vault.write("session", bytes(100))
        os.write(sent, b"x")


def killed_after(vault: FileVault, first: int, seconds: float) -> int:
    """How many sums a child has sent when it was killed."""
    out, into = os.pipe()
    if (child := os.fork()) == 0:
        try:
            device(vault, first, into)
        finally:
            os._exit(1)
    os.close(into)
    assert os.read(out, 1) == b"!"
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    sent = 0
    while part := os.read(out, 1 << 16):
        sent += len(part)
    os.close(out)
    return sent


def test_what_left_the_device_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "PAGE_BYTES", 2000)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # the machine goes on: no kill undoes it
    vault = FileVault.create(tmp_path / "vault", bytes(32))
    ledger = budget.ledger_of(vault, OWNER, Unit.CLIENT)
    budget.spend(vault, OWNER, charged(0))
    once = ledger.statement().releases
    assert once == len(charged(0))
    waits = np.random.default_rng(7).uniform(0, 0.01, KILLS)
    sent, told, left, number = 0, 0, 0, 1
    for wait in waits:
        sent += killed_after(vault, number, wait)
        again = FileVault.open(vault.folder)
        assert again.read("session") in (None, bytes(100))
        account = diary.read(again)
        assert not account.faults
        spent = ledger.statement().releases // once - 1
        now = account.counts["TookPart"]
        assert sent <= now <= spent
        assert told <= now  # nothing that was in it is gone
        rounds = [entry.fields["round"] for entry in account.entries]
        assert rounds == sorted(rounds)
        told, number = now, number + 1000
        left += len(again.leftovers())
        again.tidy()
        assert not again.leftovers()
    assert sent, "no child got to sending anything: too slow a machine to tell"
    assert told - sent <= KILLS  # each kill costs one entry without its sum at most
    assert left, "no kill was in the middle of a file"
