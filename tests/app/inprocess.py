"""The `tacit` command, run in the process of a test."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tacit.app.cli import main


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    def result(self) -> dict[str, Any]:
        """The last line of JSON that was printed."""
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found


Tacit = Callable[..., Ended]
"""Runs the command; `code` is what it has to end with, None for anything."""


def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Tacit:
    def call(*arguments: str | Path, code: int | None = 0) -> Ended:
        ended = Ended(*ran(monkeypatch, capfd, arguments))
        assert code is None or ended.code == code, ended.err
        return ended

    return call


def ran(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str | Path, ...],
) -> tuple[int, str, str]:
    """Its exit code, output and errors."""
    capfd.readouterr()
    monkeypatch.setattr(sys, "argv", ["tacit", *map(str, arguments)])
    code: object = 0
    try:
        main.run()
    except SystemExit as end:
        code = end.code or 0
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    assert isinstance(code, int)
    return code, out, err
