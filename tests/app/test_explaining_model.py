"""`tacit explain model`: the fingerprint it prints is that of the models a run trains."""

import json
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tacit.app.cli.main import cli
from tacit.app.simulation import simulate
from tacit.crypto.vector import Layout
from tacit.server.events import Event, LeftOut
from tacit.simulations.models import trainer
from tests.app.small import small


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, ["explain", "model", *args])


def told(*args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("--json", *args).stdout)
    return found


def left_out(models: str) -> set[str]:
    events: list[Event] = []
    simulate(small("run.rounds=1", f"policy.models={models}"), on_event=events.append)
    return {event.reason for event in events if isinstance(event, LeftOut)}


def test_a_run_of_that_model_passes_and_of_another_is_refused() -> None:
    ours, other = (told(name, "--data", "breast-cancer") for name in ("softmax", "mlp"))
    assert left_out(ours["fingerprint"]) == set()
    (reason,) = left_out(other["fingerprint"])
    assert "policy.models" in reason
    assert ours["fingerprint"] in reason  # what it would take to allow it


def test_it_is_the_same_with_and_without_torch() -> None:
    for name in ("softmax", "mlp"):
        torch, numpy = (
            Layout.of(trainer(name, (1, 8, 8), 10, backend=backend).initial(1)).fingerprint
            for backend in ("torch", "numpy")
        )
        assert torch == numpy == told(name)["fingerprint"]


def test_a_person_sees_the_arrays() -> None:
    shown = run("mlp").output
    for part in ("mlp for digits: 4,810 numbers", "fc0.weight", "64x64", "policy.models"):
        assert part in shown
    assert told("mlp")["fingerprint"] in shown.split()


@pytest.mark.parametrize(
    ("args", "says"),
    [(("mpl",), "did you mean 'mlp'?"), (("mlp", "--data", "digts"), "did you mean")],
)
def test_a_misspelt_name_is_named(args: tuple[str, ...], says: str) -> None:
    failed = run(*args)
    assert failed.exit_code != 0
    assert says in str(failed.exception)
