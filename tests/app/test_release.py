"""An audit of a release: what is attacked, what is signed, and what no forger gets past."""

import hashlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from tacit.app import release as releases
from tacit.app import shadowing, signed
from tacit.app.cli import main
from tacit.app.config import Settings
from tacit.app.folder import MODEL, RunFolder
from tacit.app.journal import LOG, Journal, signer
from tacit.app.marking import new_key
from tacit.app.release import Finished, checked_gates, gated, report_of
from tacit.app.server import above_sums, strategy_for
from tacit.app.shadowing import among, known, learned_by, shadow_settings
from tacit.app.simulation import simulate
from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.identity import Identity
from tacit.crypto.mark import MarkKey
from tacit.server.auditlog import verify
from tacit.server.entries import encode
from tacit.server.kinds import Audited, Released
from tacit.simulations.duels.base import Figure, Fought, Line, Role
from tacit.simulations.report.audit import render_audit
from tacit.strategies.robust import Robust

SMALL = ["run.rounds=2", "data.devices=4", "data.partition=iid", "secure.protocol=plain"]


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds in the clear."""
    path = tmp_path_factory.mktemp("runs") / "small"
    settings = Settings().changed(SMALL)
    with RunFolder.create(path, settings) as folder:
        simulate(settings, folder=folder)
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return copytree(finished, tmp_path / "small")


@pytest.fixture
def tacit(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(releases, "PROBES", {})

    def call(*arguments: str) -> Ended:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["tacit", "audit", *arguments])
        code: object = 0
        try:
            main.run()
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        assert isinstance(code, int)
        return Ended(code, out, err)

    return call


# Who was trained on


def test_members_are_those_that_devices_trained_on(run: Path) -> None:
    settings = RunFolder.open(run).settings
    audited = known(settings)
    learned = sum(len(share) for share in learned_by(settings))
    assert audited.member.sum() == learned == 1294  # of 1,438, a tenth is held out on each device
    assert len(audited.member) == 1797
    assert not audited.member[1438:].any()  # the test set comes last


def test_shadows_are_other_draws_of_half_as_many() -> None:
    settings = Settings().changed(SMALL)
    examples = known(settings).examples
    seen = [among(examples, learned_by(shadow_settings(settings, n))) for n in range(2)]
    for each in seen:
        assert each.sum() == pytest.approx(0.9 * 1438 / 2, abs=4)
    assert 0.35 < (seen[0] & seen[1]).sum() / seen[0].sum() < 0.55  # drawn apart: 0.45
    private = settings.changed(["secure.protocol=pairwise", "privacy.mode=distributed"])
    assert shadow_settings(private, 0).private is not None
    assert shadow_settings(private, 0).secure.protocol == "pairwise"
    assert shadow_settings(Settings(), 0).secure.protocol == "plain"
    grouped = Settings().changed(["strategy.name=fedmedian", "secure.groups=3"])
    sums = above_sums(strategy_for(grouped.strategy), shadow_settings(grouped, 0), None, None)
    assert isinstance(sums, Robust)
    assert shadow_settings(grouped, 0).secure.protocol != "plain"


def test_what_scores_prove_is_nothing_for_noise_and_much_for_the_truth() -> None:
    rng = np.random.default_rng(0)
    member = rng.random(2000) < 0.7
    luck = shadowing._proven(rng.normal(size=2000), member, math.inf, 1e-5)
    assert luck.bound < 1.0  # a larger one happens once in thousands of seeds
    plain = shadowing._proven(member + 0.01 * rng.normal(size=2000), member, math.inf, 1e-5)
    assert plain.right == plain.guesses
    assert plain.bound > 3


# What is signed


def line(value: float, target: float | None = None) -> Line:
    return Line("s", "w", Figure(value), Role.DEFENCE, target, at_most=True)


def fought(name: str, *lines: Line) -> Fought:
    return Fought(name, "asking", "none", "digits", lines, 1.0, ("much",))


def written(run: Path, holds: bool = True) -> Path:
    finished = Finished.open(run)
    found = {"membership": fought("membership", line(0.1, 0.5 if holds else 0.05))}
    report = report_of(finished, found, {"extraction": "no pictures"}, {}, quick=True)
    return signed.write(finished.folder, report)[0]


def test_a_report_that_was_not_touched_is_accepted(run: Path) -> None:
    path = written(run)
    found = signed.check(path)
    assert found.report["holds"]
    assert (found.later, found.is_current) == (0, True)
    assert found.key == verify(run / LOG).keeper
    assert signed.check(path, found.key, run / LOG) == found
    entries = releases.entries_of(run / LOG)
    assert entries[-1].entry == Audited("release.json", found.digest, True)


def test_the_report_has_one_form(run: Path) -> None:
    report = signed.check(written(run)).report
    assert set(report) == {
        "format", "tacit", "made", "quick", "release", "privacy", "holds", "gates", "duels",
        "not_done",
    }  # fmt: skip
    assert set(report["release"]) == {
        "name", "model", "architecture", "data", "devices", "rounds", "protocol", "log", "entries",
        "root",
    }  # fmt: skip
    assert report["format"] == 1
    assert report["not_done"] == {"extraction": "no pictures"}


@pytest.mark.parametrize("at", [0, 1, 40, -2, -70, -200])
def test_a_flipped_bit_is_seen(run: Path, at: int) -> None:
    path = written(run)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged):
        signed.check(path)


def test_a_better_verdict_is_seen(run: Path) -> None:
    path = written(run, holds=False)
    data = path.read_bytes()
    assert b'"holds":false' in data
    path.write_bytes(data.replace(b'"holds":false', b'"holds":true'))
    with pytest.raises(Damaged, match="signature does not fit"):
        signed.check(path)


def test_a_report_that_only_looks_otherwise_is_seen(run: Path) -> None:
    path = written(run)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
    with pytest.raises(Damaged, match="not written as it was signed"):
        signed.check(path)


def test_signed_by_another_it_is_not_this_logs(run: Path) -> None:
    path = written(run)
    report = signed.check(path).report
    path.write_bytes(signed.signed(report, Identity(bytes(range(32)))))
    with pytest.raises(Damaged, match="another key"):
        signed.check(path)
    with pytest.raises(Damaged, match="another key"):
        signed.check(written(run), bytes(32))


def test_signed_by_the_keeper_and_not_in_the_log_it_is_refused(run: Path) -> None:
    path = written(run, holds=False)
    report = signed.check(path).report
    keeper = signer(run)
    path.write_bytes(signed.signed({**report, "holds": True}, keeper))
    with pytest.raises(Damaged, match="log does not have this report"):
        signed.check(path)


def test_another_page_is_seen(run: Path) -> None:
    path = written(run, holds=False)
    page = path.with_name("release.html")
    page.write_text(page.read_text().replace("does not hold", "holds"))
    with pytest.raises(Damaged, match="does not say what the report says"):
        signed.check(path)


def test_later_audits_and_models_are_told(run: Path) -> None:
    first = written(run)
    kept = first.read_bytes()
    written(run, holds=False)
    (run / "old.json").write_bytes(kept)
    (run / "release.html").unlink()
    found = signed.check(run / "old.json")
    assert found.later == 1
    journal = Journal(run)
    journal.note(Released(MODEL, "0" * 64))
    journal.close()
    assert not signed.check(run / "old.json").is_current


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b'{"report":1,"key":"","signature":""}\n', b"\xff\x00"]
)
def test_what_is_no_report_is_said_to_be_none(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(Damaged):
        signed.opened(data)


def test_what_is_signed_is_written_in_one_way() -> None:
    keeper = Identity(bytes(32))
    data = signed.signed({"format": 1}, keeper)
    assert signed.opened(data) == ({"format": 1}, keeper.public)
    assert data == encode(json.loads(data)) + b"\n"
    with pytest.raises(Damaged, match="format 2"):
        signed.opened(signed.signed({"format": 2}, keeper))


# Marks


def test_a_mark_is_held_against_what_was_committed_to(
    tacit: Callable[..., Ended], tmp_path: Path
) -> None:
    key, other = tmp_path / "owner.key", tmp_path / "other.key"
    for path in (key, other):
        new_key(path, MarkKey(hashlib.sha256(path.name.encode()).digest()))
    settings = Settings().changed([*SMALL, f"mark.key={key}"])
    run = tmp_path / "marked"
    with RunFolder.create(run, settings) as folder:
        simulate(settings, folder=folder)
    arguments = ("release", str(run), "--shadows", "0")
    assert "hold its key against it" in tacit(*arguments).out
    mine = tacit(*arguments, "--mark-key", str(key))
    assert (mine.code, mine.err) == (0, "")
    assert "triggers, committed to before training" in mine.out
    wrong = tacit(*arguments, "--mark-key", str(other))
    assert wrong.code == 1
    assert "marks that it committed to and that verify is 0" in wrong.err


def test_without_a_commitment_no_mark_is_looked_for(tacit: Callable[..., Ended], run: Path) -> None:
    assert "no mark was committed to" in tacit("release", str(run), "--shadows", "0").out


# Gates


def test_a_gate_is_held_against_what_is_the_defences_first() -> None:
    found = {"membership": fought("membership", Line("s", "other", Figure(9.0)), line(0.1))}
    held = gated(found, {"membership": 0.05, "extraction": 1.0})["membership"]
    assert [each.target for each in held.lines] == [None, 0.05]
    assert not held.holds
    assert gated(found, {"membership": 0.2})["membership"].holds
    assert gated({"membership": fought("membership", line(math.nan))}, {"membership": 1.0})[
        "membership"
    ].holds is False  # fmt: skip


def test_a_gate_without_its_attack_does_not_open(run: Path) -> None:
    report = report_of(Finished.open(run), {}, {}, {"membership": 0.05}, quick=False)
    assert report["holds"] is False


@pytest.mark.parametrize(
    ("gates", "why"),
    [({"membrship": 1.0}, "did you mean 'membership'"), ({"log": 1.0}, "nothing called 'log'"),
     ({"privacy": math.nan}, "expected a number")],
)  # fmt: skip
def test_gates_that_cannot_be(gates: dict[str, float], why: str) -> None:
    with pytest.raises(ParameterError, match=why):
        checked_gates(gates)


def test_a_model_that_is_exchanged_meanwhile_is_not_audited(run: Path, tmp_path: Path) -> None:
    copytree(run, tmp_path / "run")
    finished = Finished.open(tmp_path / "run")
    others = {name: array + 1 for name, array in finished.arrays().items()}
    save_file(others, tmp_path / "run" / MODEL)
    with pytest.raises(Damaged, match="changed while"):
        finished.arrays()


# The command


def test_an_audit_from_end_to_end(
    tacit: Callable[..., Ended], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = tacit("release", str(run), "--shadows", "4", "--fail-over", "membership=0.9")
    assert (ended.code, ended.err) == (0, "")
    for part in ("members found at 1 % false alarms", "at most 0.9", "signed report:"):
        assert part in ended.out
    page = (run / "release.html").read_text()
    for part in ("ffline LiRA", "1294 members and 503 others", "not a private one"):
        assert part in page
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert tacit("check", str(run / "release.json")).code == 0
    gates = tmp_path / "gates.toml"
    gates.write_text("[fail-over]\nmembership = 0.0\n")
    failed = tacit("release", str(run), "--shadows", "4", "--fail-over", str(gates))
    assert failed.code == 1
    assert "and may be at most 0" in failed.err
    assert tacit("check", str(run / "release.json")).code == 0  # the report says so, and is good
    (run / "release.json").write_bytes(b"{}")
    assert tacit("check", str(run / "release.json")).code == 1


def test_a_gate_on_what_is_not_measured_fails(tacit: Callable[..., Ended], run: Path) -> None:
    arguments = ("--shadows", "0", "--fail-over", "membership=1", "--fail-over", "privacy=8")
    ended = tacit("release", str(run), *arguments)
    assert ended.code == 1
    assert "membership was to be held against 1 and was not measured" in ended.err
    assert "privacy was to be held against 8 and was not measured: the run is not" in ended.err


@pytest.mark.parametrize(
    ("spoil", "code", "why"),
    [
        (lambda run: (run / "status.json").unlink(), 2, "no run in"),
        (lambda run: (run / "status.json").write_text('{"status": "failed"}'), 2, "is failed"),
        (lambda run: (run / MODEL).unlink(), 2, "nothing to audit"),
        (lambda run: (run / MODEL).write_bytes(b"x" * 100), 1, "changed afterwards"),
        (lambda run: (run / LOG).unlink(), 2, "no audit log"),
        (lambda run: (run / "audit.key").unlink(), 2, "signs the run's audit log"),
        (lambda run: (run / LOG).write_bytes((run / LOG).read_bytes()[:-1] + b"x"), 1, "byte"),
    ],
)
def test_what_is_no_release_is_refused(
    tacit: Callable[..., Ended], run: Path, spoil: Callable[[Path], Any], code: int, why: str
) -> None:
    spoil(run)
    ended = tacit("release", str(run), "--shadows", "0")
    assert ended.code == code
    assert why in ended.err
    assert not (run / "release.json").exists()


@pytest.mark.parametrize(
    ("gate", "why"),
    [("membership=much", "is no number"), ("nowhere.toml", "a TOML file that is there"),
     ("membrship=1", "did you mean")],
)  # fmt: skip
def test_gates_that_cannot_be_read(
    tacit: Callable[..., Ended], run: Path, gate: str, why: str
) -> None:
    ended = tacit("release", str(run), "--fail-over", gate)
    assert ended.code == 2
    assert why in ended.err


@pytest.mark.parametrize(
    "text", ["[gates]\nmembership=1", "fail-over=1", "[fail-over", "[fail-over]\na=true"]
)
def test_files_of_gates_that_cannot_be_read(
    tacit: Callable[..., Ended], run: Path, tmp_path: Path, text: str
) -> None:
    (tmp_path / "gates.toml").write_text(text)
    assert tacit("release", str(run), "--fail-over", str(tmp_path / "gates.toml")).code == 2


def test_the_page_is_made_from_the_report_alone(run: Path) -> None:
    report = signed.check(written(run, holds=False)).report
    page = render_audit(report, "d" * 64)
    assert page == render_audit(json.loads(json.dumps(report)), "d" * 64)
    for part in (
        "does not hold",
        "0 of 1 bound kept",
        "Extraction",
        "no pictures",
        "much",
        "d" * 64,
        "a quick look",
    ):
        assert part in page
    assert "a quick look" not in render_audit({**report, "quick": False}, "")
    hostile = {**report, "not_done": {"<b>": "<script>alert(1)</script>"}}
    assert "<script>alert" not in render_audit(hostile, "")
