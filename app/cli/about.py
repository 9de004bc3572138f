"""What there is: versions and settings. Needs nothing beyond what a device has installed."""

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

from rich.table import Table

from tacit.app.cli.screen import Screen
from tacit.app.config import keys


def list_keys(screen: Screen) -> None:
    """Every setting with its default and what it is for."""
    table = Table("setting", "default", "what it is for")
    for key, (default, purpose) in keys().items():
        shown = f"{default:.6g}" if isinstance(default, float) else str(default) or "(empty)"
        table.add_row(key, shown, purpose)
    table.add_row("faults", "[]", "list of texts such as 'drop report 3,7 @2-4'")
    screen.console.print(table)
    screen.result(keys={key: default for key, (default, _) in keys().items()})


def version(screen: Screen, own: str) -> None:
    """Versions of Tacit and of what it stands on."""
    names = ("flwr", "numpy", "cryptography", "torch")
    found = {"tacit": own, "python": platform.python_version()}
    found |= {name: _version_of(name) for name in names}
    for name, number in found.items():
        screen.say(f"{name:13} {number}")
    screen.result(**found)


def _version_of(name: str) -> str:
    try:
        return installed(name)
    except PackageNotFoundError:
        return "not installed"
