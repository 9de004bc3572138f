"""A federation that runs in a fraction of a second: four devices, numpy, 30 features."""

from collections.abc import Sequence

from tacit.app.config import Settings

ASSIGN = (
    "data.name=breast-cancer",
    "data.devices=4",
    "data.partition=iid",
    "model.name=softmax",
    "model.backend=numpy",
    "run.rounds=3",
)
SMALL = Settings().changed(ASSIGN)
ARGS = [argument for assignment in ASSIGN for argument in ("--set", assignment)]


def small(*assignments: str) -> Settings:
    """SMALL, changed."""
    return SMALL.changed(assignments)


def args(*assignments: str) -> Sequence[str]:
    """Arguments of `tacit simulate` for SMALL, changed."""
    return [*ARGS, *(a for assignment in assignments for a in ("--set", assignment))]
