"""Crashes on purpose: a process that stops where it makes something durable, one place at a time.

Everything that is to last goes through `os.fsync`, so the states of the disk between two calls are
those that a process can leave behind. What the calls of `fsync` themselves keep is up to the
file system.
"""

import os
from collections.abc import Callable

import pytest


class Crashed(BaseException):
    """No error that anybody handles."""


def crash_everywhere(
    monkeypatch: pytest.MonkeyPatch, begin: Callable[[], None], then: Callable[[], None]
) -> int:
    """Call `begin`, crashing at its first `fsync`, its second, ..., and `then` after each crash.

    Returns how many crashes there were, once `begin` gets to its end.
    """
    places = 0
    while True:
        left = places

        def fsync(handle: int) -> None:
            nonlocal left
            if left == 0:
                raise Crashed
            left -= 1  # and no more: this machine goes on, and waiting for its disk is slow

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            try:
                begin()
            except Crashed:
                places += 1
            else:
                return places
        then()
