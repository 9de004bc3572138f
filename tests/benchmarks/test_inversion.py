"""The benchmark of gradient inversion: victims are the same for all, and a target can be missed."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import inversion
from benchmarks.inversion import Bench, Size, attack, own, photographs, psnr, victim
from benchmarks.shared import breaching_attack
from benchmarks.shared.inversion_case import (
    FLOWER,
    LENET,
    MEAN,
    SHAPE,
    SMOOTH,
    SPREAD,
    Job,
    read,
    seconds,
    write,
)


@pytest.mark.parametrize(("name", "size"), [(FLOWER, 62_006), (LENET, 15_826), (SMOOTH, 545_098)])
def test_networks_are_those_that_are_named(name: str, size: int) -> None:
    network = inversion.network(name, 0)
    assert sum(weight.numel() for weight in network.parameters()) == size
    assert network(torch.zeros(2, *SHAPE)).shape == (2, 10)
    # Another Python reads them, without Tacit: they hold torch's own layers.
    assert {type(each).__module__.split(".")[0] for each in network.modules()} == {"torch"}


def test_photographs_are_different_and_of_all_pictures() -> None:
    pixels = photographs(24)
    assert pixels.shape == (24, *SHAPE)
    assert 0 <= pixels.min() < pixels.max() <= 1
    assert len(np.unique(pixels.reshape(24, -1), axis=0)) == 24
    np.testing.assert_array_equal(photographs(8), pixels[:8])


def test_a_victim_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = victim(LENET, photographs(2), 3)
    write(tmp_path / "one.pt", [made])
    (found,) = read(str(tmp_path / "one.pt"))
    assert found.labels.tolist() == made.labels.tolist() == [3, 4]
    for one, other in zip(found.gradients, made.gradients, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(found.network.parameters(), made.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_our_side_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    pixels = photographs(2)
    write(tmp_path / "two.pt", [victim(SMOOTH, each[None], i) for i, each in enumerate(pixels)])
    job = Job(str(tmp_path / "two.pt"), steps=60, found=str(tmp_path / "found.npy"))
    assert own(job) == {}
    found = np.load(job.found)
    assert found.shape == (2, 1, *SHAPE)
    assert min(psnr(found, pixels)) > max(psnr(0 * found, pixels))  # better than grey
    times = own(Job(job.file, restarts=2, repeats=1))
    assert set(times) == {"step", "compile"}
    assert min(times.values()) > 0


def test_equal_seeds_make_equal_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    one = victim(LENET, photographs(1), 0)
    assert np.array_equal(attack(one, 3, 1, 5), attack(one, 3, 1, 5))
    assert not np.array_equal(attack(one, 3, 1, 5), attack(one, 3, 1, 6))


def test_psnr_is_in_units_of_pixels() -> None:
    pixels = photographs(2)
    exact = ((pixels - MEAN) / SPREAD)[:, None]
    assert min(psnr(exact, pixels)) > 100
    off = (((pixels * 0.8 + 0.1) + 0.1) - MEAN) / SPREAD
    assert psnr(off[:, None], pixels * 0.8 + 0.1) == pytest.approx([20, 20])


def test_targets_are_met_or_missed() -> None:
    ours = inversion.middle([{"step": s, "compile": 9 - s} for s in (0.002, 0.003, 0.001)])
    theirs = inversion.middle([{"step": 0.005, "version": "1"}, {}])
    assert ours == {"step": 0.002, "compile": 8.999}
    assert theirs == {"step": 0.005}
    assert inversion.middle([{}]) == {}
    met, missed = (
        {row.name: row for row in inversion.time_rows("a", 1, goal, ours, theirs)}
        for goal in (0.4, 0.39)
    )
    assert met["a: Tacit / breaching"].value == pytest.approx(0.4)
    assert (met["a: Tacit / breaching"].ok, missed["a: Tacit / breaching"].ok) == (True, False)
    each = {row.name: row.value for row in inversion.time_rows("a", 8, 1, ours, theirs)}
    assert each["a: Tacit"] == pytest.approx(0.25)
    assert [row.ok for row in inversion.time_rows("a", 1, 1, ours, {})] == [None, None]


def test_quality_is_compared_photograph_by_photograph() -> None:
    budgets = {100: [19.0, 29.0], 200: [20.5, 30.5], 400: [21.0, 32.0]}
    rows = {row.name: row for row in inversion.quality_rows("a", budgets, [20.0, 30.0], 0.4)}
    case = "a, 400 steps, 2 photographs"
    ahead = rows[f"{case}: Tacit - breaching"]
    assert (ahead.value, ahead.ok) == (1.5, True)
    assert 1 <= rows[f"{case}: Tacit - breaching, 95 % interval, low"].value <= 1.5
    # 200 of 400 iterations are enough.
    times = rows[f"{case}: time to breaching's PSNR, Tacit / breaching"]
    assert times.value == pytest.approx(0.2)
    worse = inversion.quality_rows("a", {400: [19.0]}, [20.0], 0.4)
    assert [row.ok for row in worse if row.ok is not None] == [False]
    assert not any("time to" in row.name for row in worse)


def test_without_breaching_nothing_is_claimed(tmp_path: Path) -> None:
    if find_spec("breaching") is None:
        assert breaching_attack.run(Job("nowhere", repeats=1)) == {}
    bench = Bench(Size(images=1), "/nonexistent/python", tmp_path, [])
    assert bench.quality(LENET, 0.5) == []
    assert "not started" in bench.notes[0]


def test_the_part_for_breaching_imports_nothing_of_tacit() -> None:
    code = (
        "import runpy, sys; sys.argv = ['', '--child', '{\"file\": \"\"}']\n"
        f"runpy.run_path({breaching_attack.__file__!r})\n"
        "assert not [m for m in sys.modules if m.split('.')[0] == 'tacit']"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, timeout=60)


def test_seconds_are_of_work() -> None:
    assert seconds(lambda: sum(range(10**6))) > seconds(lambda: None)
