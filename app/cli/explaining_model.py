"""Which structure a model has, and how an owner says that a device works with no other."""

from rich.table import Table

from tacit.app.cli.screen import Screen
from tacit.crypto.vector import Layout
from tacit.simulations.data.sources import load
from tacit.simulations.models import trainer


def model(screen: Screen, name: str, data: str) -> None:
    """Arrays and fingerprint of the named model for the named data set."""
    dataset = load(data)
    layout = Layout.of(trainer(name, dataset.shape, dataset.classes).initial(0))
    screen.say(f"{name} for {dataset.name}: {layout.size:,} numbers", style="bold")
    table = Table("array", "shape", "dtype")
    for entry in layout.entries:
        table.add_row(entry.name, "x".join(map(str, entry.shape)) or "one number", entry.dtype)
    screen.console.print(table)
    screen.say("An owner who sets policy.models to this fingerprint allows no other structure:")
    screen.say(layout.fingerprint)
    screen.say(
        "It covers names, shapes and dtypes, not values: what a server can plant in these arrays, "
        "it still can (docs/security.md)."
    )
    screen.result(model=name, data=dataset.name, size=layout.size, fingerprint=layout.fingerprint)
