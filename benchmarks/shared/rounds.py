"""One setting, measured; meant for a fresh process, in whatever Python has the system."""

from collections.abc import Callable

from benchmarks.shared.cohort import split
from benchmarks.shared.meter import settle
from benchmarks.shared.settings import (
    CKKS,
    FEDML,
    LATTICE,
    NVFLARE,
    PLAIN,
    TENSEAL,
    Outcome,
    Setting,
)
from benchmarks.shared.steps import Round, Steps


def measured(setting: Setting) -> Round:
    """One round of it."""
    system, steps = _system(setting.system), Steps()
    settle()
    found = system(setting, steps)
    error = setting.cohort.error(split(found.mean), 1, found.weights)
    return steps.round(found.model, error, found.exact)


def _system(name: str) -> Callable[[Setting, Steps], Outcome]:
    """Imported here: a process loads the one that it measures, and may lack the others."""
    if name == NVFLARE:
        from benchmarks.shared.nvflare_round import nvflare_round

        return nvflare_round
    if name in (FEDML, CKKS):
        from benchmarks.shared.ckks_round import ckks_round

        return ckks_round
    if name == LATTICE:
        from benchmarks.shared.lattice_round import lattice_round

        return lattice_round
    if name == TENSEAL:
        from benchmarks.shared.tenseal_round import tenseal_round

        return tenseal_round
    assert name == PLAIN
    from benchmarks.shared.plain_round import plain_round

    return plain_round
