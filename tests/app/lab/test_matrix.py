"""A matrix runs, goes on where a kill left it, and says when a bound does not hold."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from tacit.app.lab import matrix as lab
from tacit.app.lab import scoring
from tacit.app.lab.attacks import Ground
from tacit.app.lab.attempt import attempt
from tacit.app.lab.federation import settings_of
from tacit.app.lab.matrix import Matrix, violations
from tacit.app.lab.plan import Plan
from tacit.app.lab.scoring import candidates
from tacit.app.material import material
from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.base import Conduct, Knows, Target, View
from tacit.simulations.evaluate import evaluate
from tacit.simulations.measure import Measure
from tacit.simulations.trial import PLAN, TRIALS, Cell, Trial, TrialLog

SECURE = "secure secure.precision=28"
READOUT = Cell("linear-readout", "none", "mlp", "portraits")
PRIVATE = Cell("linear-readout", "distributed privacy.clip=0.1", "mlp", "digits", 8)


def plan(seeds: int = 2, *, title: str = "t") -> Plan:
    block = {"attacks": ["linear-readout"], "models": ["softmax"], "data": ["digits"],
             "seeds": seeds}  # fmt: skip
    return Plan.model_validate({"title": title, "block": [block]})


def trial(seed: int, hits: int, of: int, bound: float | None) -> Trial:
    measures = (Measure("identified", (hits / of,), (0.01,)),)
    return Trial(PRIVATE, seed, "", "", measures, 0.0, bound=bound, hits=hits, of=of)


@dataclass(frozen=True)
class DrawingLots:
    name: str = "drawing lots"
    needs: Knows = Knows.CANDIDATES
    conduct: Conduct = Conduct.HONEST
    target: Target = Target.INPUTS

    def reconstruct(self, view: View, rng: np.random.Generator) -> np.ndarray:
        assert view.candidates is not None
        return rng.permutation(view.candidates[0])[: view.inputs]


def drawing_lots(ground: Ground) -> DrawingLots:
    return DrawingLots()


def told_labels(ground: Ground) -> DrawingLots:
    return DrawingLots(needs=Knows.CANDIDATES | Knows.LABELS)


class TestAttempts:
    def test_one_update_in_the_clear_gives_the_face_away(self) -> None:
        found = attempt(READOUT, 0)
        ssim, psnr, recovered, identified = found.trial.measures
        assert (ssim.name, psnr.values) == ("SSIM", (120.0,))
        assert (recovered.mean, identified.mean) == (1.0, 1.0)
        assert (found.trial.hits, found.trial.of, found.trial.bound) == (1, 1, None)
        assert found.trial.granted == "batch size"
        assert found.outcome is not None
        np.testing.assert_array_equal(found.outcome.truth, found.trial.pictures[0])

    def test_the_truth_plays_no_part_in_the_guess(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Noise in place of what is scored against: the guess is the same to the last bit."""
        cell = replace(READOUT, defence=SECURE, devices=4)
        before = attempt(cell, 0).outcome
        assert before is not None

        def with_noise(attack, view, truth, gallery, rng, **rest):
            noise = np.random.default_rng(9).random(truth.shape)
            return evaluate(attack, view, noise, np.concatenate([noise, gallery]), rng, **rest)

        monkeypatch.setattr(scoring, "evaluate", with_noise)
        after = attempt(cell, 0).outcome
        assert after is not None
        assert not np.array_equal(before.truth, after.truth)
        rows = {one.tobytes() for one in before.guess}
        assert {one.tobytes() for one in after.guess} == rows

    def test_a_sum_is_scored_against_everyone_in_it(self) -> None:
        found = attempt(replace(READOUT, defence=SECURE, devices=5), 1).trial
        assert (found.protocol, len(found.measures[0].values), found.of) == ("pairwise", 5, 5)

    @pytest.mark.parametrize("mode", ["local", "distributed", "central"])
    def test_noise_comes_with_what_it_cost_and_allows(self, mode: str) -> None:
        cell = replace(PRIVATE, defence=f"{mode} privacy.clip=0.1")
        found = attempt(cell, 0).trial
        assert found.epsilon is not None
        assert 0 < found.epsilon <= 8
        assert found.bound is not None
        assert 0.01 < found.bound < 0.9
        assert found.protocol == ("released model" if mode == "central" else "pairwise")

    def test_the_place_in_the_list_of_candidates_says_nothing(self) -> None:
        """Of the 1,438 digits 992 are others of 1,000: were they the first ones, the last of the
        list would nearly always be an input. Drawn by lot, it is in 8 of 1,000; 3 or more of 30
        happen with a probability of 0.002."""
        last = 0
        for seed in range(30):
            held = material(settings_of(PRIVATE, seed).data, seed)
            truth = np.concatenate([held.examples(device).x for device in range(8)])
            x, y = candidates(truth, held.dataset.train, seed)
            assert len(x) == len(y) == 1000
            rows = {one.tobytes() for one in x}
            assert all(one.tobytes() in rows for one in truth)
            last += x[-1].tobytes() in {one.tobytes() for one in truth}
        assert last < 3

    def test_who_fishes_for_a_class_has_its_inputs_for_candidates(self) -> None:
        """Knowing the class is worth a factor of ten, which the bound must grant."""
        fishing, blind = (
            attempt(replace(PRIVATE, attack=name), 0).trial
            for name in ("class-fishing", "linear-readout")
        )
        luck = {each.name: each.mean_floor for each in fishing.measures}["identified"]
        assert luck == pytest.approx(fishing.of / 144, rel=0.1)
        assert fishing.bound is not None
        assert blind.bound is not None
        assert fishing.bound / fishing.of > blind.bound / blind.of

    def test_who_is_told_labels_has_those_of_a_class_for_candidates(self) -> None:
        told, untold = (
            attempt(replace(PRIVATE, attack=f"tests.app.lab.test_matrix:{name}"), 0).trial.bound
            for name in ("told_labels", "drawing_lots")
        )
        assert told is not None
        assert untold is not None
        assert told > untold  # of 8 digits in 1,000, and of one or more in about 100

    def test_who_has_the_candidates_guesses_blindly_from_them(self) -> None:
        """100 of 1,000 drawn blindly are 10 right ones, each a perfect picture: no leak."""
        cell = replace(PRIVATE, attack="tests.app.lab.test_matrix:drawing_lots", examples=12)
        floors = {each.name: each.mean_floor for each in attempt(cell, 0).trial.measures}
        assert floors["identified"] == pytest.approx(0.096)
        assert floors["recovered"] > 0

    def test_what_devices_refuse_is_told_in_their_words(self) -> None:
        cell = replace(READOUT, attack="model-inconsistency", defence=SECURE, devices=4)
        found = attempt(cell, 0).trial
        assert "model" in found.stopped
        assert found.measures[0].values == found.measures[0].floor
        assert found.of == 0
        ideal = attempt(replace(cell, defence="ideal-sum"), 0).trial
        assert not ideal.stopped
        assert ideal.measures[1].mean > 60  # dB

    def test_a_layer_that_is_slipped_in_is_stopped_by_a_list_of_models_and_nothing_else(
        self,
    ) -> None:
        cell = Cell("imprint-layer", SECURE, "mlp", "digits", 4)
        bare = attempt(cell, 0).trial
        assert (bare.stopped, bare.measures[1].mean > 60) == ("", True)  # dB
        listed = attempt(replace(cell, defence="model-check"), 0).trial
        assert "policy.models" in listed.stopped
        # Bins written into a layer that is there anyway have the structure that was agreed on.
        planted = replace(cell, attack="imprint", model="mlp:256", defence="model-check")
        assert not attempt(planted, 0).trial.stopped

    def test_labels_and_updates_are_scored_too(self) -> None:
        labels = attempt(Cell("label-counts", SECURE, "mlp", "digits", 8), 0).trial
        assert labels.measures[0].name == "labels right"
        assert labels.measures[0].mean > 0.8
        several = f"{SECURE} strategy.fraction_train=0.5"
        cell = Cell("disaggregation", several, "softmax", "digits", 8, rate=1e-3, rounds=16)
        updates = attempt(cell, 0).trial
        assert updates.measures[0].mean > 0.9 > updates.measures[0].mean_floor
        assert (labels.granted, updates.granted) == ("batch size, learning rate", "nothing")

    def test_the_same_seed_is_the_same_trial(self) -> None:
        one, other, third = (attempt(READOUT, seed).trial for seed in (3, 3, 4))
        assert replace(one, seconds=0) == replace(other, seconds=0)
        assert one.measures[0].floor != third.measures[0].floor

    def test_a_perceptual_distance_of_ones_own(self) -> None:
        name = "tests.simulations.test_measure:mean_gap"
        found = attempt(READOUT, 0, name).trial.measures[-1]
        assert found.name == "1 - LPIPS"
        assert found.mean > 0.999 > found.mean_floor

    def test_an_attack_that_has_no_guess_counts_as_a_blind_one(self) -> None:
        cell = replace(READOUT, attack="tests.app.lab.test_matrix:clueless")
        found = attempt(cell, 0).trial
        assert (found.stopped, found.gave_up) == ("", "clueless: no idea")
        assert (found.hits, found.of) == (0, 1)
        assert found.measures[0].values == found.measures[0].floor

    def test_who_gave_up_is_measured_by_all_that_others_are(self) -> None:
        """Or trials of one cell, some of which had a guess, could not be taken together."""
        name = "tests.simulations.test_measure:mean_gap"
        cell = replace(READOUT, attack="tests.app.lab.test_matrix:clueless")
        gave_up, guessed = (attempt(each, 0, name).trial for each in (cell, READOUT))
        named = [[each.name for each in found.measures] for found in (gave_up, guessed)]
        assert named[0] == named[1]
        assert gave_up.measures[-1].values == gave_up.measures[-1].floor
        assert gave_up.measures[-1].floor == guessed.measures[-1].floor

    def test_a_guess_that_is_none_is_a_mistake(self) -> None:
        cell = replace(READOUT, attack='tests.app.lab.test_matrix:clueless says="nan"')
        with pytest.raises(ParameterError, match="the guess is not finite"):
            attempt(cell, 0)


@dataclass(frozen=True, slots=True)
class Clueless:
    says: str
    name: str = "clueless"
    needs: Knows = Knows.NOTHING
    conduct: Conduct = Conduct.HONEST
    target: Target = Target.INPUTS

    def reconstruct(self, view: View, rng: np.random.Generator) -> np.ndarray:
        if self.says == "nan":
            return np.full((1, 1, 25, 25), np.nan)
        if self.says == "broken":
            raise RuntimeError("a fault in it")
        raise ParameterError("no idea")


def clueless(ground: Ground, says: str = "") -> Clueless:
    return Clueless(says)


class TestMatrix:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_trial_that_fails_keeps_no_other_from_being_tried(
        self, tmp_path: Path, workers: int
    ) -> None:
        broken = 'tests.app.lab.test_matrix:clueless says="broken"'
        block = {"attacks": [broken, "linear-readout"], "models": ["softmax"],
                 "data": ["portraits"], "seeds": 1}  # fmt: skip
        matrix = Matrix.open(Plan.model_validate({"block": [block]}), tmp_path)
        (failed,) = matrix.run(lambda *_: None, workers)
        assert "RuntimeError: a fault in it" in failed
        assert [trial.cell.attack for trial in matrix.done()] == ["linear-readout"]
        assert len(matrix.run(lambda *_: None, workers)) == 1  # and is tried again

    def test_two_commands_do_not_share_a_folder(self, tmp_path: Path) -> None:
        matrix = Matrix.open(plan(1), tmp_path)
        refused = "another command is at work"
        with lab.alone(tmp_path / lab.LOCK), pytest.raises(ParameterError, match=refused):
            matrix.run(lambda *_: None)
        assert not matrix.run(lambda *_: None)

    def test_trials_that_a_command_is_at_work_on_are_not_replaced(self, tmp_path: Path) -> None:
        Matrix.open(plan(1), tmp_path).run(lambda *_: None)
        refused = "another command is at work"
        with lab.alone(tmp_path / lab.LOCK), pytest.raises(ParameterError, match=refused):
            Matrix.open(plan(1), tmp_path, replace=True)
        assert len(list(TrialLog(tmp_path).trials())) == 1
        assert not Matrix.open(plan(1), tmp_path, replace=True).done()

    def test_it_runs_and_is_done(self, tmp_path: Path) -> None:
        heard = []
        matrix = Matrix.open(plan(), tmp_path)
        matrix.run(lambda trial, done, total: heard.append((trial.seed, done, total)))
        assert heard == [(0, 1, 2), (1, 2, 2)]
        assert [trial.seed for trial in matrix.done()] == [0, 1]
        matrix.run(lambda *told: heard.append(told))
        assert len(heard) == 2  # nothing is left

    def test_processes_give_the_same_trials(self, tmp_path: Path) -> None:
        alone, together = (Matrix.open(plan(), tmp_path / name) for name in "ab")
        alone.run(lambda *_: None)
        together.run(lambda *_: None, workers=2)
        one, other = ([replace(t, seconds=0) for t in m.done()] for m in (alone, together))
        assert one == other

    def test_another_plan_has_another_folder(self, tmp_path: Path) -> None:
        Matrix.open(plan(), tmp_path)
        with pytest.raises(ParameterError, match="another matrix: --replace"):
            Matrix.open(plan(title="other"), tmp_path)
        Matrix.open(plan(title="other"), tmp_path, replace=True)

    def test_a_kill_leaves_the_plan_whole_or_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "matrix.new").write_text("title =")
        Matrix.open(plan(), tmp_path)
        inode = (tmp_path / PLAN).stat().st_ino
        Matrix.open(plan(), tmp_path)
        assert (tmp_path / PLAN).stat().st_ino == inode  # and is not written again
        assert not (tmp_path / "matrix.new").exists()

    def test_what_cannot_be_replaces_nothing(self, tmp_path: Path) -> None:
        Matrix.open(plan(), tmp_path).run(lambda *_: None)
        block = {"attacks": ["dager"], "models": ["softmax"], "data": ["digits"]}
        wrong = Plan.model_validate({"block": [block]})
        with pytest.raises(ParameterError, match="applies to nothing"):
            Matrix.open(wrong, tmp_path, replace=True)
        (tmp_path / "status.json").touch()
        with pytest.raises(ParameterError, match="holds a run"):
            Matrix.open(plan(), tmp_path, replace=True)
        assert len(list(TrialLog(tmp_path).trials())) == 2

    def test_clearing_leaves_what_is_not_the_labs(self, tmp_path: Path) -> None:
        (tmp_path / "mine").touch()
        matrix = Matrix.open(plan(1), tmp_path)
        matrix.run(lambda *_: None)
        lab.clear(tmp_path)
        assert {each.name for each in tmp_path.rglob("*") if each.is_file()} == {"mine", lab.LOCK}

    def test_a_killed_matrix_goes_on_where_it_was(self, tmp_path: Path) -> None:
        many = plan(40)
        (tmp_path / "m.toml").write_text(tomli_w.dumps(many.model_dump()))
        command = [sys.executable, "-m", "tacit.app.cli.main", "attack", "m.toml", "--out", "x",
                   "--workers", "1"]  # fmt: skip
        first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
        kept = tmp_path / "x" / TRIALS
        end = time.monotonic() + 60
        while not (kept.exists() and kept.read_bytes().count(b"\n") >= 3):
            assert time.monotonic() < end
            assert first.poll() is None
            time.sleep(0.02)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        before = list(TrialLog(tmp_path / "x").trials())
        assert 3 <= len(before) < 40
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        after = list(TrialLog(tmp_path / "x").trials())
        assert after[: len(before)] == before
        assert sorted(trial.seed for trial in after) == list(range(40))
        assert (tmp_path / "x" / "report.html").exists()
        assert (tmp_path / "x" / PLAN).exists()


class TestBounds:
    def test_more_than_the_bound_is_told(self) -> None:
        (told,) = violations([trial(seed, 1, 1, 0.1) for seed in range(5)])
        assert "identified 100.0%" in told
        assert "no attack can more than 10.0%" in told

    def test_chance_is_not(self) -> None:
        """All of one sum may be found by one chance: three of them, whole, are no proof."""
        assert not list(violations([trial(seed, 9, 9, 0.1) for seed in range(3)]))
        assert not list(violations([trial(seed, 1, 1, None) for seed in range(99)]))
        assert not list(violations([trial(seed, 1, 10, 0.1) for seed in range(99)]))

    def test_an_attack_at_its_bound_is_hardly_ever_told(self) -> None:
        rng = np.random.default_rng(0)
        runs = [[trial(seed, int(rng.random() < 0.3), 1, 0.3) for seed in range(20)]
                for _ in range(2000)]  # fmt: skip
        assert sum(len(list(violations(run))) for run in runs) <= 2  # 2000 at 1e-4: 0.2

    def test_noise_that_was_not_added_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The defence taken out, its account left in: trials of a sum in the clear, as if it had
        been under the noise that the ledger has."""
        private = [attempt(replace(PRIVATE, devices=4), seed).trial for seed in range(2)]
        bound = max(trial.bound or 0 for trial in private)
        clear = [attempt(replace(READOUT, data="digits"), seed).trial for seed in range(6)]
        forged = [replace(trial, bound=bound) for trial in clear]
        assert list(violations(forged))
        assert not list(violations(private))
