"""Differential privacy, from the settings to what a report says of it."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tacit.app import reporting
from tacit.app.check import check
from tacit.app.cli.main import cli
from tacit.app.config import Settings
from tacit.app.folder import RunFolder
from tacit.app.sections import PrivacySettings
from tacit.app.simulation import Finished, simulate
from tacit.client.pipeline import Stated
from tacit.crypto.errors import ParameterError, PolicyRefusal
from tacit.privacy.gaussian import epsilon_of
from tacit.privacy.releases import Unit
from tacit.server.events import BudgetSpent, Event, SumOpened
from tacit.server.pairwise import Asked
from tests.app.small import args, small

ALLOWED = ("policy.lattice=true", "policy.consortium=true")
PRIVATE = small(*ALLOWED, "privacy.mode=distributed", "privacy.epsilon=4")


def run(settings: Settings, path: Path) -> tuple[Finished, list[Event], RunFolder]:
    events: list[Event] = []
    folder = RunFolder.create(path / "run", settings)
    with folder:
        finished = simulate(settings, on_event=events.append, folder=folder)
    return finished, events, folder


@pytest.mark.parametrize("protocol", ["pairwise", "lattice", "tenseal", "auto"])
def test_a_private_sum_is_exact_under_every_protocol(protocol: str, tmp_path: Path) -> None:
    settings = PRIVATE.changed([f"secure.protocol={protocol}"])
    check(settings)
    finished, events, folder = run(settings, tmp_path)
    assert finished.oracle is not None
    assert (finished.oracle.exact, finished.oracle.checked) == (3, 3)
    assert [e.purpose for e in events if isinstance(e, SumOpened)] == 3 * ["train"]
    statement = reporting.statement_of(folder)
    assert statement is not None
    assert statement.releases == 3
    # Four devices, of whom one may be corrupt and one missing: two shares do, and three count.
    assert statement.worst == pytest.approx(
        epsilon_of((3 * 2 / 3) ** 0.5 / settings.private.noise, 1e-5),  # type: ignore[union-attr]
        rel=1e-3,
    )
    assert statement.worst < 4


def test_a_server_that_adds_the_noise_is_told_apart_from_all_others(tmp_path: Path) -> None:
    settings = PRIVATE.changed(["privacy.mode=central"])
    finished, _, folder = run(settings, tmp_path)
    assert finished.oracle is not None
    assert finished.oracle.exact == 3  # what the server has seen, before its noise
    statement = reporting.statement_of(folder)
    assert statement is not None
    assert statement.server.worst == float("inf")
    assert not list(folder.seen())  # and nobody may read later
    assert 3.9 < statement.worst <= 4
    assert "epsilon of the worst of 4 devices: no bound" in statement.text()


def test_what_is_released_under_local_noise_costs_what_one_share_hides(tmp_path: Path) -> None:
    _, _, folder = run(PRIVATE.changed(["privacy.mode=local"]), tmp_path)
    statement = reporting.statement_of(folder)
    assert statement is not None
    assert 3.9 < statement.worst <= 4  # others' noise is never credited


def test_a_run_ends_before_its_budget_breaks_and_keeps_its_model(tmp_path: Path) -> None:
    settings = PRIVATE.changed(["privacy.noise=1.2", "run.rounds=9"])
    finished, events, folder = run(settings, tmp_path)
    (spent,) = [e for e in events if isinstance(e, BudgetSpent)]
    trained = len(finished.result.evaluate_metrics_serverapp) - 1
    assert trained == spent.round - 1 >= 1
    assert folder.status() == "finished"
    statement = reporting.statement_of(folder)
    assert statement is not None
    one_more = statement.worst * (trained + 1) / trained
    assert statement.worst <= 4 < one_more * 1.2
    assert "4 of 4 devices has no room" in spent.reason


def test_a_report_says_all_of_it(tmp_path: Path) -> None:
    _, _, folder = run(PRIVATE, tmp_path)
    page = reporting.write(folder.path).read_text("utf-8")
    statement = reporting.statement_of(folder)
    assert statement is not None
    said = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", page))
    for line in statement.text().splitlines():
        assert all(part.strip() in said for part in line.split(": ", 1))
    assert statement.summary in said
    assert "Only differential privacy bounds that" not in said
    plain = reporting.write(run(small("run.rounds=1"), tmp_path / "b")[2].path).read_text("utf-8")
    assert "Differential privacy at" not in plain
    assert "Only differential privacy bounds that" in plain


def test_the_command_says_what_was_spent(tmp_path: Path) -> None:
    out = CliRunner().invoke(
        cli,
        ["simulate", "--json", "--out", str(tmp_path / "run"), *args("privacy.mode=distributed")],
    )
    assert out.exit_code == 0, out.output
    result = json.loads(out.stdout.splitlines()[-1])
    assert result["trained_rounds"] == 3
    assert 0 < result["epsilon"] < 8
    assert result["delta"] == 1e-5


MISTAKES = {
    "noise without a mode": (["privacy.mode=none"], "privacy.epsilon means nothing without"),
    "plain sums": (["secure.protocol=plain"], "goes with secure sums"),
    "past the noise": (["secure.clear=*bias"], "leave out one of them"),
    "a rate of nothing": (["privacy.rate=0.5"], "privacy.rate is for privacy.quantile"),
    "a batch of devices": (["privacy.batch=3"], "privacy.batch is for privacy.unit = record"),
    "a quantile of examples": (
        ["privacy.unit=record", "privacy.quantile=0.5"],
        "privacy.quantile is for privacy.unit = client",
    ),
    "owners allow less": (["policy.epsilon=3"], "3 rounds cost a device epsilon 3.99"),
    "owners ask for another unit": (
        ["policy.epsilon=9", "policy.unit=record"],
        "noise that protects a client, this device asks for record",
    ),
    "owners do not trust the server": (
        ["policy.epsilon=9", "privacy.mode=central"],
        "trust it: --set policy.trust_server=true",
    ),
    "owners ask for noise": (
        ["policy.epsilon=9", "privacy.mode=none", "privacy.epsilon=8"],
        "to add noise: --set privacy.mode=distributed",
    ),
    "too little noise for a round": (["privacy.noise=0.1"], "a single round costs epsilon"),
    "a grid that is not used": (["secure.precision=20"], "secure.precision means nothing with"),
    "weights that are not": (["secure.max_weight=5"], "secure.max_weight means nothing with"),
    "a shorter norm": (["policy.max_norm=0.5"], "updates clipped to 1, this device asks for 0.5"),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_mistakes_are_told_before_a_run_starts(name: str) -> None:
    changed, says = MISTAKES[name]
    with pytest.raises(ParameterError, match=re.escape(says)):
        check(PRIVATE.changed(changed))


RECORD = small(
    "data.name=breast-cancer",
    "privacy.mode=distributed",
    "privacy.unit=record",
    "privacy.batch=100",
    "train.learning_rate=0.5",
)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("mode", ["distributed", "central", "local"])
def test_examples_are_protected_whoever_adds_the_noise(
    mode: str, backend: str, tmp_path: Path
) -> None:
    settings = RECORD.changed(
        [f"privacy.mode={mode}", f"model.backend={backend}", "privacy.epsilon=50"]
    )
    check(settings)
    finished, _, folder = run(settings, tmp_path)
    assert finished.oracle is not None
    assert finished.oracle.exact == 3
    statement = reporting.statement_of(folder)
    assert statement is not None
    assert statement.unit is Unit.RECORD
    assert statement.worst <= 50
    assert "one example on a device, or nothing in its place" in statement.text()
    assert folder.rounds()[-1]["server"]["accuracy"] > 0.8  # with so much epsilon it learns


def test_steps_of_dp_sgd_are_charged_by_device_and_server_alike(tmp_path: Path) -> None:
    settings = RECORD.changed(
        [
            "privacy.mode=local",
            "privacy.steps=4",
            "privacy.draw=0.25",
            "privacy.batch=25",
            "policy.epsilon=8",
            "policy.unit=record",
        ]
    )
    check(settings)
    _, events, folder = run(settings, tmp_path)
    assert sum(isinstance(e, SumOpened) for e in events) == 3
    statement = reporting.statement_of(folder)
    assert statement is not None
    assert statement.releases == 3 * 4
    assert 7.9 < statement.worst <= 8
    # Whoever does not see the devices' draws is told less; the server is not credited with that.
    assert statement.outsider is not None
    assert statement.outsider.worst < statement.server.worst / 1.5
    if find_spec("dp_accounting") is None:
        assert statement.loss is None
    else:  # tighter, and of the same
        assert statement.loss is not None
        assert 0.5 * statement.outsider.worst < statement.loss < statement.outsider.worst
    with pytest.raises(ParameterError, match=r"3 rounds cost a device epsilon 7\.99"):
        check(settings.changed(["policy.epsilon=7.5"]))


def test_a_device_that_is_not_told_to_clip_examples_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PrivacySettings, "factor", lambda self, rate: 2 * rate / self.batch)
    larger = RECORD.private
    monkeypatch.undo()
    assert larger is not None
    sessions = larger.noised(Asked(62, 4, 4, 1, 32))
    assert sessions is not None
    Stated(clip=sessions.clip).check(sessions)
    own = RECORD.private
    assert own is not None
    agreed = own.noised(Asked(62, 4, 4, 1, 32))
    assert agreed is not None
    with pytest.raises(PolicyRefusal, match="to more than this"):
        Stated(clip=sessions.clip).check(agreed)
    with pytest.raises(PolicyRefusal, match="does not clip what each example adds"):
        Stated().check(agreed)


def test_a_run_ends_where_its_devices_owners_allow_no_more(tmp_path: Path) -> None:
    """Which a server is not told before it asks."""
    finished, events, _ = run(PRIVATE.changed(["policy.epsilon=3"]), tmp_path)
    (spent,) = [e for e in events if isinstance(e, BudgetSpent)]
    assert "4 of 4 devices have spent their budgets" in spent.reason
    assert len(finished.result.evaluate_metrics_serverapp) == spent.round


RECORD_MISTAKES = {
    "train.epochs=3": "train.epochs means nothing with privacy.unit = record",
    "train.momentum=0.5": "train.momentum means nothing",
    "privacy.steps=2": "privacy.steps is for privacy.mode = local with",
    "privacy.sketch=0.1": "privacy.sketch is for privacy.unit = client",
    "strategy.name=fedprox": "it takes but one: take fedavg",
}


@pytest.mark.parametrize("changed", list(RECORD_MISTAKES))
def test_what_examples_do_not_need_is_told_before_a_run_starts(changed: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(RECORD_MISTAKES[changed])):
        check(RECORD.changed([changed]))


def test_weights_mean_nothing_with_steps_of_dp_sgd() -> None:
    settings = RECORD.changed(["privacy.mode=local", "secure.precision=20", "secure.bound=4"])
    check(settings)
    with pytest.raises(ParameterError, match=r"secure\.max_weight means nothing"):
        check(settings.changed(["secure.max_weight=5"]))
    check(settings.changed(["strategy.name=fedprox"]))


def test_only_its_owner_reads_what_a_server_keeps(tmp_path: Path) -> None:
    """With bands that is sums without noise; elsewhere updates as the server saw them."""
    for name, settings in (
        ("ledger", PRIVATE.changed(["privacy.mode=central"])),
        ("seen", PRIVATE),
    ):
        _, _, folder = run(settings, tmp_path / name)
        assert (folder.path / name).stat().st_mode & 0o077 == 0


def test_owners_who_ask_for_no_more_than_there_is_agree(tmp_path: Path) -> None:
    settings = PRIVATE.changed(["policy.epsilon=4"])
    check(settings)
    _, events, _ = run(settings, tmp_path)
    assert sum(isinstance(e, SumOpened) for e in events) == 3
    trusted = PRIVATE.changed(
        ["policy.epsilon=4", "privacy.mode=central", "policy.trust_server=true"]
    )
    check(trusted)
