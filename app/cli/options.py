"""What several commands have in common: their options, and how their work is loaded."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="A TOML file of settings.", metavar="FILE")
]
Assign = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="One setting, such as train.epochs=2. Repeatable.", metavar="KEY=VALUE"
    ),
]


def work(module: str) -> ModuleType:
    """The work itself, loaded when there is some: help and typing errors need not wait for it."""
    return import_module(f"tacit.app.cli.{module}")
