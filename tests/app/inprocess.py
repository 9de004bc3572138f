"""The `tacit` command, run in the process of a test."""

import sys
from pathlib import Path

import pytest

from tacit.app.cli import main


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
