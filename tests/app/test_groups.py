"""Groups by settings: what a run says of them, keeps in its log, and refuses before it starts."""

from pathlib import Path

import pytest

from tacit.app.check import check
from tacit.app.cli.screen import Screen, Voice
from tacit.app.folder import RunFolder
from tacit.app.journal import LOG
from tacit.app.reporting import trained_rounds, write
from tacit.app.server import above_sums, strategy_for
from tacit.app.simulation import simulate
from tacit.crypto.errors import ParameterError
from tacit.server import entries
from tacit.server.auditlog import batches
from tacit.server.events import CohortCommitted, CohortDivided, Event, SumFailed, SumOpened
from tacit.strategies.robust import Robust
from tests.app.small import small

GROUPED = (
    "data.devices=9",
    "strategy.name=fedmedian",
    "secure.groups=3",
    "run.rounds=2",
)
WORDS = "3 groups of 3 or more: an update hides among 3, not 9; hostile devices withstood: 1"


def test_a_run_in_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, events = small(*GROUPED), list[Event]()
    check(settings)
    hear = Screen(Voice.NORMAL).hear("run")

    def told(event: Event) -> None:
        events.append(event)
        hear(event)

    with RunFolder.create(tmp_path / "run", settings) as folder:
        finished = simulate(settings, on_event=told, folder=folder)
    assert finished.oracle is not None
    assert (finished.oracle.exact, finished.oracle.checked) == (6, 6)
    trained = [e for e in events if isinstance(e, SumOpened) and e.purpose == "train"]
    assert [(e.round, e.survivors) for e in trained] == [(1, 3)] * 3 + [(2, 3)] * 3
    assert capsys.readouterr().out.count(f"round 1: {WORDS}") == 1  # and not in round 2 again

    folder = RunFolder.open(tmp_path / "run")
    assert trained_rounds(folder) == 2
    page = write(tmp_path / "run").read_text("utf-8")
    assert WORDS in page
    with (tmp_path / "run" / LOG).open("rb") as log:
        said = [entries.read(entry).entry for batch in batches(log) for entry in batch.entries]
    assert said.count(CohortDivided(1, 9, 3, 3, 1)) == 1
    committed = [e for e in said if isinstance(e, CohortCommitted) and e.purpose == "train"]
    assert [(e.round, e.devices) for e in committed] == [(1, 3)] * 3 + [(2, 3)] * 3
    assert len({e.session for e in committed}) == 6


def test_a_round_with_too_few_groups_is_none_that_trained(tmp_path: Path) -> None:
    settings, events = small(*GROUPED, 'faults=["drop report 0 @1"]'), list[Event]()
    with RunFolder.create(tmp_path / "run", settings) as folder:
        simulate(settings, on_event=events.append, folder=folder)
    assert [e.reason for e in events if isinstance(e, SumFailed)][-1] == (
        "2 of 3 groups were opened, 3 needed"
    )
    assert trained_rounds(RunFolder.open(tmp_path / "run")) == 1


def test_settings_make_the_strategy() -> None:
    settings = small("data.devices=20", "strategy.name=fedtrimmedavg", "strategy.trim=0.3",
                     "secure.groups=10", "secure.hostile=2", "secure.regroup=true",
                     "run.seed=5")  # fmt: skip
    made = above_sums(strategy_for(settings.strategy), settings, None, None)
    assert isinstance(made, Robust)
    groups = made.groups
    # int(0.3 n) is 2 from seven groups on.
    assert (groups.count, groups.least, groups.hostile) == (10, 7, 2)
    assert (groups.anew, groups.seed) == (True, 5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (("secure.groups=4",), r"2 devices in a group, each asks for 3 \(policy.min_cohort\)"),
        (("secure.groups=5", "policy.min_cohort=2"), "1 devices in a group"),
        (("secure.groups=4", "policy.min_cohort=2"), "a sum over 2, this device asks for 3"),
        (("strategy.name=fedavg",), "FedAvg does not bound"),
        (("secure.groups=0",), "FedMedian must look at single updates.*secure.groups"),
        (("secure.hostile=2",), "stands up to 1 hostile devices at most"),
        (("secure.groups=0", "strategy.name=fedavg", "secure.hostile=1"), "means nothing without"),
        (("secure.groups=0", "strategy.name=fedavg", "secure.regroup=true"), "means nothing"),
        (("secure.protocol=plain",), "secure.groups means nothing with secure.protocol = plain"),
        (("privacy.mode=distributed",), "each group's would have to have its own"),
        (("secure.seats=3",), "seats=3: a committee drawn"),
        (("strategy.fraction_train=0.9",), "or draw groups anew"),
    ],
)
def test_what_cannot_work_is_told_before_a_run(changes: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        check(small(*GROUPED, *changes))


def test_a_median_in_the_clear_takes_no_groups() -> None:
    check(small("strategy.name=fedmedian", "secure.protocol=plain"))
