"""Reports say what the folders hold, whatever kind of folder it is."""

from pathlib import Path

import pytest

from tacit.app import reporting
from tacit.app.folder import RunFolder
from tacit.app.simulation import simulate
from tacit.crypto.errors import ParameterError
from tacit.server.events import RoundFinished, SumOpened
from tacit.simulations.report.data import LIMITS, Dropped, ReportData, limits_of
from tacit.simulations.report.page import render
from tests.app.small import small

Shown = list[ReportData]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """What the pages are made from, in the order they are written."""
    pages: Shown = []

    def noted(data: ReportData) -> str:
        pages.append(data)
        return render(data)

    monkeypatch.setattr(reporting, "render", noted)
    return pages


def finished(path: Path, *changes: str) -> RunFolder:
    settings = small(*changes)
    with RunFolder.create(path, settings) as folder:
        oracle = simulate(settings, folder=folder).oracle
        if oracle is not None:
            folder.note(exact_sums=oracle.exact, checked_sums=oracle.checked)
    return folder


def test_a_secure_run(tmp_path: Path, shown: Shown) -> None:
    finished(tmp_path, 'faults=["drop report 2 @2", "drop reveal 1 @3"]')
    assert reporting.rewrite(tmp_path) == tmp_path / "report.html"
    (data,) = shown
    summary = data.summary
    assert (summary.devices, summary.rounds, summary.protocol) == (4, 3, "pairwise")
    assert summary.sums == 6  # training and evaluation
    assert (summary.sums_checked, summary.sums_exact) == (3, 3)
    assert summary.single_updates == 0
    assert summary.dropped == (Dropped(2, 2, "report"), Dropped(1, 3, "reveal"))
    assert [(row.cohort, row.survivors) for row in data.rounds] == [(4, 4), (4, 3), (4, 4)]
    assert data.rounds[1].left_out == ("device 2 at report: no answer",)
    assert data.config["faults"] == ["drop report 2 @2", "drop reveal 1 @3"]


def test_a_run_that_chose_its_protocols(
    tmp_path: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tacit.crypto.secagg.costs.MASK", 5e-6)  # too dear for a model of 62 values
    finished(tmp_path, "secure.protocol=auto", "policy.lattice=true")
    reporting.rewrite(tmp_path)
    (data,) = shown
    assert data.summary.protocol == "auto (train: lattice, evaluate: pairwise)"
    assert (data.summary.sums_checked, data.summary.sums_exact) == (3, 3)


def test_a_run_that_had_no_choice(tmp_path: Path, shown: Shown) -> None:
    finished(tmp_path, "secure.protocol=auto", "run.rounds=1")
    reporting.rewrite(tmp_path)
    assert shown[0].summary.protocol == "auto (train: pairwise, evaluate: pairwise)"


def test_a_plain_run(tmp_path: Path, shown: Shown) -> None:
    folder = finished(tmp_path, "secure.protocol=plain", 'faults=["corrupt nan report 0 @1"]')
    reporting.rewrite(tmp_path)
    (data,) = shown
    assert (data.summary.sums, data.summary.sums_checked) == (0, 0)
    assert data.summary.single_updates == 3 + 4 + 4
    assert [row.survivors for row in data.rounds] == [3, 4, 4]
    assert data.rounds[0].left_out == ("device 0 at filter: the update is not finite",)
    ((curve),) = data.accuracy
    accuracy = [(float(r["round"]), r["server"]["accuracy"]) for r in folder.rounds()]
    assert list(curve.points) == accuracy


def test_a_round_without_a_sum(tmp_path: Path, shown: Shown) -> None:
    finished(tmp_path, 'faults=["drop report 0,1 @2"]')
    reporting.rewrite(tmp_path)
    assert [row.survivors for row in shown[0].rounds] == [4, 2, 4]
    assert shown[0].summary.sums == 5
    assert shown[0].summary.sums_checked == 2


def test_a_run_that_has_not_got_far(tmp_path: Path, shown: Shown) -> None:
    RunFolder.create(tmp_path, small())
    reporting.rewrite(tmp_path)
    assert shown[0].rounds == ()


def test_a_demo_without_its_attacks_says_what_is_missing(tmp_path: Path) -> None:
    finished(tmp_path / "plain", "secure.protocol=plain")
    finished(tmp_path / "secure")
    with pytest.raises(ParameterError, match="no attack outcomes"):
        reporting.rewrite(tmp_path)


def test_a_demo_that_was_stopped_early_says_so(tmp_path: Path) -> None:
    for name in ("plain", "secure"):
        RunFolder.create(tmp_path / name, small())
    with pytest.raises(ParameterError, match="did not finish: tacit demo"):
        reporting.rewrite(tmp_path)


def test_what_masks_cost(tmp_path: Path) -> None:
    """Two rounds of 10 s; 6 s of each in sums, 9 s of all devices' work: masks took 3 of 17."""
    for name in ("plain", "secure"):
        with RunFolder.create(tmp_path / name, small()) as folder:
            for number in (1, 2):
                folder.record(SumOpened(number, "train", 4, 4, 6.0, "pairwise"))
                folder.record(RoundFinished(number, 2, 10.0, server={"accuracy": 0.5}))
            folder.note(exact_sums=2, checked_sums=2, working_seconds=9.0)
    assert reporting.headline_numbers(tmp_path)["overhead"] == 3 / 17


def test_nothing_to_report(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ParameterError, match="no run in"):
            reporting.rewrite(path)


def test_the_page_stands_alone(tmp_path: Path) -> None:
    """No script, style, font or picture from anywhere else."""
    finished(tmp_path, "run.rounds=1")
    page = reporting.write(tmp_path).read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    for outside in ('src="http', 'href="http', "url(http", "@import", "<script src"):
        assert outside not in page


def test_a_report_says_first_what_its_kind_of_sum_does_not_promise() -> None:
    assert "holds one key" not in " ".join(limits_of("pairwise"))
    assert limits_of("pairwise") == limits_of("plain") == LIMITS
    for protocol, words in (
        ("tenseal", "hold one key"),
        ("lattice", "reviewed"),
        ("auto", "reviewed"),
    ):
        assert words in limits_of(protocol)[0]
