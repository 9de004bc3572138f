"""The benchmark of DP-SGD: its networks have the stated sizes, and a target can be missed."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from benchmarks.dpsgd import NOISE, TACIT, measure, rows_of
from benchmarks.shared import sgd_step
from benchmarks.shared.sgd_step import FULL, GHOST, HOOKS, LARGE, PLAIN, SMALL


@pytest.mark.parametrize(("name", "size"), [(SMALL, 26_010), (LARGE, 1_199_882), (FULL, 269_322)])
def test_networks_are_those_of_the_examples(name: str, size: int) -> None:
    network = sgd_step.network(name)
    assert sum(w.numel() for w in network.parameters()) == size
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_all_kinds_are_timed_and_compared() -> None:
    own = measure(SMALL, batch=4, repeats=1, steps=1)
    assert set(own) == {PLAIN, TACIT, NOISE}
    assert all(seconds > 0 for seconds in own.values())
    (compared,) = [row for row in rows_of({"a case": (own, {})}) if row.ok is not None]
    assert compared.value == own[TACIT] / own[PLAIN]


def test_ratios_are_to_plain_steps_of_the_same_process() -> None:
    own = {PLAIN: 1.0, TACIT: 2.2, NOISE: 0.1}
    other = {PLAIN: 2.0, HOOKS: 10.0, GHOST: 5.0}
    rows = {row.name: row for row in rows_of({"a": (own, other), "b": (own | {TACIT: 2.4}, {})})}
    ratios = {name: row.value for name, row in rows.items() if row.unit == "x"}
    assert list(ratios.values()) == pytest.approx([2.2, 5.0, 2.5, 2.4])
    assert [row.ok for row in rows.values() if row.ok is not None] == [True, False]
    assert rows["a: Tacit"].value == pytest.approx(2200.0)


@pytest.mark.skipif(find_spec("opacus") is not None, reason="Opacus is installed here")
def test_without_opacus_nothing_is_claimed() -> None:
    assert sgd_step.measure(SMALL, 4, 1, 1) == {}


def test_the_part_for_opacus_imports_nothing_of_tacit() -> None:
    code = (
        "import runpy, sys; sys.argv = ['', '--child', '{}']\n"
        f"runpy.run_path({sgd_step.__file__!r})\n"
        "assert not [m for m in sys.modules if m.split('.')[0] in ('tacit', 'benchmarks')]"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, timeout=60)
