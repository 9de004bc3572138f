"""The `tacit` command as a newcomer meets it: what it says, what it leaves, how it ends."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tacit import __version__
from tacit.app.cli import attacking, main, showing
from tacit.app.cli.commands import title_of
from tacit.app.config import Settings, describe_range, keys
from tacit.app.demo import Exposure
from tacit.app.folder import RunFolder
from tacit.app.lab import matrix
from tacit.app.lab.attempt import attempt
from tacit.simulations.trial import TrialLog
from tests.app.small import args, small

COMMANDS = (
    "demo", "simulate", "attack", "duel", "report", "data", "seal", "open", "serve", "version",
)  # fmt: skip
TINY = Exposure(devices=4, victims=1, steps=2, restarts=1, curve=(4,))

# Python as it is where some packages are not installed.
WITHOUT = """
import sys
from importlib.machinery import PathFinder

missing = set(sys.argv[1].split(","))

class Poorer(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in missing else PathFinder.find_spec(name, path)

sys.meta_path[:] = [Poorer if finder is PathFinder else finder for finder in sys.meta_path]
sys.argv = ["tacit", *sys.argv[2:]]
from tacit.app.cli.main import run
run()
"""
SIM = "torch,sklearn,scipy,skimage,datasets,flwr_datasets,safetensors,imageio,ray"


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str

    def lines(self) -> list[dict[str, Any]]:
        """Standard output as JSON, strictly: NaN is no JSON."""

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} in the output")

        return [json.loads(line, parse_constant=refuse) for line in self.out.splitlines()]


Tacit = Callable[..., Ended]


@pytest.fixture
def tacit(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Tacit:
    """Runs the command in this process, from an empty folder."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: str | Path) -> Ended:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["tacit", *map(str, arguments)])
        try:
            main.run()
            code: object = 0
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        assert isinstance(code, int)
        return Ended(code, out, err)

    return call


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tacit_process(*arguments: str, code: str = "", **more: Any) -> subprocess.Popen[str]:
    start = [sys.executable, "-c", code or "from tacit.app.cli.main import run; run()"]
    return subprocess.Popen(
        [*start, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


# Help.


def test_help_lists_the_commands(tacit: Tacit) -> None:
    ended = tacit("--help")
    assert ended.code == 0
    for command in COMMANDS:
        assert f" {command} " in ended.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal_and_explains_every_option(tacit: Tacit, command: str) -> None:
    ended = tacit(command, "--help")
    assert ended.code == 0
    assert max(map(len, ended.out.splitlines())) <= 80
    for line in ended.out.splitlines():
        words = line.strip("│ ").split()
        if words and words[0].startswith("--"):
            assert len(words) > 2, f"no explanation: {line}"


def test_help_says_what_an_argument_is(tacit: Tacit) -> None:
    """Some versions of what prints it leave that out."""
    assert "A run's folder." in tacit("report", "--help").out


def test_help_of_simulate_names_the_defaults(tacit: Tacit) -> None:
    words = " ".join(tacit("simulate", "--help").out.split())
    defaults = {key: default for key, (default, _) in keys().items()}
    assert (defaults["data.devices"], defaults["run.rounds"]) == (10, 20)
    for number in ("ten devices", "twenty rounds"):
        assert number in words
    for key in ("data.name", "data.partition", "model.name", "strategy.name"):
        assert str(defaults[key]) in words
    assert "--keys" in words


def test_every_setting_is_listed(tacit: Tacit) -> None:
    ended = tacit("simulate", "--keys")
    for key in keys():
        assert key in ended.out
    (result,) = tacit("simulate", "--keys", "--json").lines()
    assert result["keys"] == {key: default for key, (default, _) in keys().items()}


def test_version_names_what_matters(tacit: Tacit) -> None:
    (result,) = tacit("version", "--json").lines()
    assert result["tacit"] == __version__
    for name in ("python", "flwr", "numpy", "cryptography", "torch"):
        assert f"{name} " in tacit("version").out


# Mistakes: one line, exit code 2, and nothing on disk.

MISTAKES: list[tuple[list[str], str]] = [
    (["simulate", *args("train.epoch=2")], "did you mean train.epochs?"),
    (["simulate", *args("train.epochs=0")], "expected 1 or more, at most 10000"),
    (["simulate", *args("data.name=digts")], "did you mean 'digits'?"),
    (["simulate", *args("model.name=mpl")], "did you mean 'mlp'?"),
    (["simulate", *args("strategy.name=fedadm")], "did you mean fedadam?"),
    (["simulate", *args("data.name=npz:none.npz")], "no such file"),
    (["simulate", *args("data.devices=400", "data.min_examples=1")], "Lower gamma or drop"),
    (["simulate", *args("data.min_examples=200")], "use fewer devices"),
    (["simulate", *args("data.partition=sites")], "does not say which site"),
    (["simulate", *args('faults=["drop report 4"]')], "the devices are 0 to 3"),
    (["simulate", *args("secure.precision=9")], "no room in 11 bits"),
    (["simulate", *args("secure.protocol=latice")], "did you mean lattice?"),
    (
        ["simulate", *args("secure.protocol=lattice", "secure.parameters=none")],
        "expected one of 2048-32-1",
    ),
    (["simulate", *args("secure.protocol=lattice")], "does not allow it (policy.lattice)"),
    (
        ["simulate", *args("secure.protocol=lattice", "policy.lattice=true", "secure.degree=4")],
        "secure.degree means nothing with secure.protocol = lattice",
    ),
    (["simulate", *args("secure.protocol=tenseal")], "does not allow it (policy.consortium)"),
    (
        ["simulate", *args("secure.protocol=tenseal", "secure.parameters=4096-64-2")],
        "expected one of bfv-4096",
    ),
    (
        ["simulate", *args("secure.protocol=tenseal", "secure.hybrid=true")],
        "know no hybrid keys",
    ),
    (
        ["simulate", *args("secure.protocol=auto", "secure.parameters=2048-32-1")],
        "means nothing with secure.protocol = auto and policy.lattice = false",
    ),
    (
        [
            "simulate",
            *args(
                "secure.protocol=tenseal",
                "secure.parameters=bfv-4096-seeded",
                "policy.consortium=true",
                "data.devices=31",
            ),
        ],
        "31 clients, expected 1..30 with bfv-4096-seeded",
    ),
    (
        [
            "simulate",
            *args("secure.protocol=auto", "policy.lattice=true", "secure.parameters=none"),
        ],
        "expected one of 2048-32-1",
    ),
    (["simulate", *args("policy.hybrid=true")], "would refuse: a sum under X25519 alone"),
    (["simulate", *args("secure.hybrid=true", "secure.protocol=plain")], "nothing that is plain"),
    (["simulate", "-c", "none.toml"], "no configuration at none.toml"),
    (["simulate", "--resume"], "no run in runs/latest"),
    (["simulate", "--resume", "--set", "run.rounds=3"], "leave out the rest"),
    (["simulate", "--quiet", "--json"], "exclude each other"),
    (["simulate", "--rounds", "3"], "No such option"),
    (["data", "digts"], "did you mean 'digits'?"),
    (["data", "breast-cancer", "--partition", "sites"], "does not say which site"),
    (["data", "breast-cancer", "--devices", "0"], "not in the range"),
    (["report", "nowhere"], "no run in nowhere"),
    (["attack", "--workers", "-1"], "not in the range"),
    (["attak"], "No such command"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES)
def test_a_mistake_ends_in_one_message_and_leaves_nothing(
    tacit: Tacit, here: Path, arguments: list[str], said: str
) -> None:
    ended = tacit(*arguments)
    assert ended.code == 2
    assert said in " ".join(ended.err.replace("│", " ").split())
    assert not ended.out
    assert not list(here.iterdir())


def test_a_place_that_cannot_be_written_to_is_named(tacit: Tacit, here: Path) -> None:
    (here / "file").write_text("mine")
    ended = tacit("simulate", *args(), "--out", here / "file")
    assert ended.code == 2
    assert f"no run's folder can be made at {here / 'file'}" in ended.err
    assert (here / "file").read_text() == "mine"


# A run, and what becomes of it.


def test_a_run_from_start_to_report(tacit: Tacit, here: Path) -> None:
    ended = tacit("simulate", *args())
    assert ended.code == 0
    assert not ended.err
    assert "accuracy 0." in ended.out
    assert "report: runs/latest/report.html" in ended.out
    folder = RunFolder.open(here / "runs" / "latest")
    assert folder.status() == "finished"
    facts = folder.facts()
    assert 0 < facts.pop("working_seconds") < sum(each["seconds"] for each in folder.rounds())
    assert facts == {"exact_sums": 3, "checked_sums": 3}
    names = {path.name for path in folder.path.iterdir()}
    assert names == {
        *("config.toml", "metrics.jsonl", "checkpoint.npz", "model.safetensors"),
        *("facts.json", "report.html", "status.json", "seen", "audit.log", "audit.key"),
        "run.lock",
    }

    again = tacit("simulate", *args())
    assert again.code == 2
    assert "--replace starts it anew" in again.err
    assert "--resume" not in again.err
    over = tacit("simulate", "--resume")
    assert over.code == 2
    assert "is finished: nothing to resume" in over.err

    replaced = tacit("simulate", *args("run.rounds=1"), "--replace")
    assert replaced.code == 0
    assert len(folder.rounds()) == 1

    (folder.path / "report.html").unlink()
    assert tacit("report", folder.path).code == 0
    assert (folder.path / "report.html").exists()


def test_a_file_of_settings_and_changes_to_it(tacit: Tacit, here: Path) -> None:
    (here / "mine.toml").write_text(small("run.rounds=2").toml())
    assert tacit("simulate", "-c", "mine.toml", "--set", "run.seed=5", "-q").code == 0
    settings = RunFolder.open(here / "runs" / "latest").settings
    assert settings == small("run.rounds=2", "run.seed=5")


def test_json_is_all_that_is_printed(tacit: Tacit) -> None:
    ended = tacit("simulate", *args('faults=["drop report 2 @1"]'), "--json")
    assert ended.code == 0
    assert not ended.err
    lines = ended.lines()
    assert [line["event"] for line in lines].count("RoundFinished") == 3
    assert [line["event"] for line in lines].index("Result") == len(lines) - 1
    (left_out,) = [line for line in lines if line["event"] == "LeftOut"]
    assert left_out["device"] == 2
    assert lines[-1]["folder"] == "runs/latest"
    assert lines[-1]["trained_rounds"] == 3
    assert 0.5 < lines[-1]["accuracy"] <= 1


def test_quiet_says_nothing(tacit: Tacit) -> None:
    assert tacit("simulate", *args(), "--quiet") == Ended(0, "", "")


def test_a_hybrid_run_is_a_setting(tacit: Tacit, here: Path) -> None:
    """And it says so: the settings are kept with the run."""
    assert tacit("simulate", *args("secure.hybrid=true", "policy.hybrid=true"), "-q").code == 0
    settings = RunFolder.open(here / "runs" / "latest").settings
    assert (settings.secure.hybrid, settings.policy.hybrid) == (True, True)


def test_names_are_shown_as_they_are(tacit: Tacit, here: Path) -> None:
    """Not read as markup, and not broken into lines that nobody could copy."""
    out = here / "[bold]" / "[" / "x]" / ("long" * 30)
    ended = tacit("simulate", *args("run.rounds=1"), "--out", out)
    assert ended.code == 0
    assert f"report: {out / 'report.html'}\n" in ended.out
    again = tacit("simulate", *args("run.rounds=1"), "--out", out)
    assert f"error: {out} holds a run" in again.err


def test_a_run_in_which_nothing_was_learned_has_failed(tacit: Tacit, here: Path) -> None:
    ended = tacit("simulate", *args('faults=["drop report 0,1"]'))
    assert ended.code == 1
    assert "round 3: no sum to train: 2 of 4 devices reported" in ended.out
    assert "no round trained the model" in ended.err
    assert RunFolder.open(here / "runs" / "latest").status() == "finished"


def test_a_round_without_a_sum_is_told_and_the_run_goes_on(tacit: Tacit) -> None:
    ended = tacit("simulate", *args('faults=["drop report 0,1 @2"]'))
    assert ended.code == 0
    assert "round 2: device 0 left out at report: no answer" in ended.out
    assert "round 2: no sum to train: 2 of 4" in ended.out


def test_why_a_device_failed_is_in_a_file(tacit: Tacit, here: Path) -> None:
    (here / "clumsy_model.py").write_text(
        "from tests.app.test_simulation import Own\n"
        "class Model(Own):\n"
        "    def fit(self, model, examples, plan):\n"
        "        raise LookupError('[/] no such layer')\n"
    )
    ended = tacit("simulate", *args("model.name=clumsy_model:Model", "run.rounds=1"))
    assert ended.code == 1
    assert "why devices failed: runs/latest/devices.log" in ended.out
    log = (here / "runs" / "latest" / "devices.log").read_text()
    assert "LookupError: [/] no such layer" in log


def test_a_damaged_checkpoint_is_told(tacit: Tacit, here: Path) -> None:
    folder = RunFolder.create(here / "run", small())
    (folder.path / "checkpoint.npz").write_bytes(b"half a file")
    ended = tacit("simulate", "--resume", "--out", "run")
    assert ended.code == 2
    assert "is damaged" in ended.err


# Ctrl-C.


def test_ctrl_c_leaves_a_run_that_goes_on_bit_for_bit(tacit: Tacit, here: Path) -> None:
    long = args("run.rounds=18")
    process = tacit_process("simulate", *long, "--out", "cut", "--json")
    assert process.stdout is not None
    rounds = 0
    for line in process.stdout:
        rounds += json.loads(line)["event"] == "RoundFinished"
        if rounds == 3:
            process.send_signal(signal.SIGINT)
            break
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "error: interrupted: tacit simulate --resume --out cut goes on\n"
    folder = RunFolder.open(here / "cut")
    assert folder.status() == "interrupted"
    assert 3 <= len(folder.rounds()) < 18
    assert not (here / "cut" / "model.safetensors").exists()
    refused = tacit("simulate", *long, "--out", "cut")
    assert refused.code == 2
    assert "--resume continues it" in refused.err

    ended = tacit("simulate", "--resume", "--out", "cut", "--json")
    assert ended.code == 0
    assert ended.lines()[0]["resumed_from"] >= 3
    assert tacit("simulate", *long, "--out", "whole", "-q").code == 0
    models = [here / name / "model.safetensors" for name in ("cut", "whole")]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_ctrl_c_in_a_demo(tacit: Tacit, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(showing, "attempt", interrupted)
    monkeypatch.setattr(showing, "QUICK_DEMO", small("run.rounds=1"))
    ended = tacit("demo", "--quick", "--out", "here")
    assert ended.code == 130
    assert ended.err == "error: interrupted: tacit demo starts over\n"
    assert not (here / "here" / "attacks").exists()


def test_ctrl_c_in_a_matrix(tacit: Tacit, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "m.toml").write_text(MATRIX)
    monkeypatch.setattr(matrix, "attempt", interrupted)
    ended = tacit("attack", "m.toml", "--out", "here", "--workers", "1")
    assert ended.code == 130
    assert ended.err == "error: interrupted: the same command goes on where it was\n"
    monkeypatch.setattr(matrix, "attempt", attempt)
    assert tacit("attack", "m.toml", "--out", "here", "--workers", "1").code == 0


def interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


# Attack and demo, at their smallest.


MATRIX = """
title = "A matrix"
[[block]]
attacks = ["linear-readout", "spear"]
defences = ["none", "secure secure.precision=28"]
models = ["softmax", "mlp"]
data = ["portraits"]
devices = [5]
seeds = 1
"""


def test_a_matrix_is_shown_and_kept(tacit: Tacit, here: Path) -> None:
    (here / "m.toml").write_text(MATRIX)
    ended = tacit("attack", "m.toml", "--out", "faces", "--workers", "1")
    assert ended.code == 0
    assert not ended.err
    for words in ("precision=28", "leaks", "skipped: spear on softmax, portraits: the"):
        assert words in ended.out
    assert "A matrix" in (here / "faces" / "report.html").read_text()
    table = (here / "faces" / "trials.csv").read_text().splitlines()
    assert table[0].startswith("attack,defence,model")
    assert len(table) == 1 + 6 * 4  # six cells, four figures each
    again = tacit("attack", "m.toml", "--out", "faces", "--workers", "1", "--json")
    (line,) = again.lines()  # nothing is run again, all is there
    assert (line["event"], line["violations"]) == ("Result", [])
    assert {(c["attack"], c["devices"]) for c in line["cells"]} == {
        (attack, devices) for attack in ("linear-readout", "spear") for devices in (1, 5)
    }
    page = here / "faces" / "report.html"
    text = page.read_text()
    page.unlink()
    assert tacit("report", "faces").code == 0
    assert page.read_text() == text
    (here / "m.toml").write_text(MATRIX.replace("seeds = 1", "seeds = 2"))
    other = tacit("attack", "m.toml", "--out", "faces")
    assert other.code == 2
    assert "--replace removes them" in other.err


def test_a_bound_that_does_not_hold_fails_the_matrix(
    tacit: Tacit, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = """'tests.app.lab.test_matrix:clueless says="broken"'"""
    (here / "m.toml").write_text(MATRIX.replace('"spear"', broken))
    monkeypatch.setattr(attacking, "violations", lambda trials: iter(["all of them"]))
    ended = tacit("attack", "m.toml", "--out", "faces", "--workers", "1")
    assert ended.code == 1
    assert "a bound of differential privacy does not hold: all of them" in ended.err
    assert "not tried: tests.app.lab.test_matrix:clueless" in ended.err  # told all the same


def test_what_was_attacked_is_told_in_few_words() -> None:
    brief = attacking._brief
    assert (
        brief("distributed privacy.epsilon=8 privacy.clip=0.1") == "distributed epsilon=8 clip=0.1"
    )
    assert brief("distributed under pairwise") == "distributed under pairwise"
    assert brief("mine.attacks:make steps=3") == "mine.attacks:make steps=3"


def test_a_run_that_has_ended_is_attacked(tacit: Tacit, here: Path) -> None:
    few = ["data.devices=4", "data.limit=4", "data.hold_out=0.25", "run.rounds=1",
           "train.batch_size=0", "train.epochs=1", "secure.precision=28"]  # fmt: skip
    changes = [part for each in few for part in ("--set", each)]
    assert tacit("simulate", *changes, "--out", "mine", "-q").code == 0
    ended = tacit("attack", "--run", "mine", "--attack", "linear-readout")
    assert ended.code == 0
    assert "pairwise" in ended.out
    assert "What mine gives away" in (here / "mine" / "attacks" / "report.html").read_text()
    (trial,) = TrialLog(here / "mine" / "attacks").trials()
    assert (trial.cell.devices, trial.cell.examples, trial.cell.steps) == (4, 3, 1)
    assert len(trial.measures[0].values) == 12  # held-out examples are in no update
    refused = tacit("attack", "--run", "mine", "--attack", "imprint")
    assert "malicious server" in refused.err
    assert list(TrialLog(here / "mine" / "attacks").trials()) == [trial]  # nothing was lost
    usual = tacit("attack", "--run", "mine")
    assert "skipped: inverting-gradients: examples" not in usual.out
    assert usual.code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--run", "none"], "no run in"),
        (["--run", "none", "--quick"], "leave out the matrix"),
        (["--attack", "spear"], "goes with --run"),
        (["none.toml"], "there is no none.toml"),
        (["none.toml", "--quick"], "leave out the file"),
    ],
)
def test_attacks_that_make_no_sense(
    tacit: Tacit, here: Path, arguments: list[str], says: str
) -> None:
    ended = tacit("attack", *arguments)
    assert ended.code == 2
    assert says in ended.err
    assert not list(here.iterdir())


def test_the_demo_compares_and_can_be_repeated(
    tacit: Tacit, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(showing, "QUICK_EXPOSURE", TINY)
    monkeypatch.setattr(showing, "QUICK_DEMO", small('faults=["drop reveal 3 @2"]'))
    ended = tacit("demo", "--quick", "--out", "show")
    assert ended.code == 0
    assert "3 of 3 sums exact" in ended.out
    assert "open show/report.html in a browser" in ended.out
    page = (here / "show" / "report.html").read_text()
    (here / "show" / "report.html").unlink()
    assert tacit("report", "show").code == 0
    assert (here / "show" / "report.html").read_text() == page
    result = tacit("demo", "--quick", "--out", "show", "--json").lines()[-1]
    assert result["event"] == "Result"
    assert result["exact_sums"] == result["checked_sums"] == 3
    assert abs(result["accuracy_secure"] - result["accuracy_plain"]) <= 0.01


# Data.


def test_data_sets_are_listed(tacit: Tacit) -> None:
    ended = tacit("data")
    for name in ("digits", "breast-cancer", "fashion-mnist", "TACIT_DATA", "npz:PATH"):
        assert name in ended.out


def test_a_data_set_is_shown_with_its_partition(tacit: Tacit) -> None:
    ended = tacit("data", "digits", "--devices", "4", "--partition", "shards:2")
    assert ended.code == 0
    assert "1438 training and 359 test examples of shape (1, 8, 8), 10 classes" in ended.out
    rows = [line.strip("│").split("│") for line in ended.out.splitlines() if line[:1] == "│"]
    assert [int(row[0]) for row in rows] == [0, 1, 2, 3]
    for row in rows:
        assert int(row[1]) == sum(map(int, row[2:]))
    (result,) = tacit("data", "digits", "--devices", "4", "--json").lines()
    assert sum(result["shares"]) == result["train"] == 1438


# Processes of their own: what an import changes cannot be seen from here.


def test_versions_and_settings_need_no_more_than_a_device_has() -> None:
    for arguments in (["version"], ["simulate", "--keys"], ["--help"]):
        process = tacit_process(SIM, *arguments, code=WITHOUT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out


def test_a_server_without_extras_can_be_looked_at() -> None:
    """That it is up and who is online has to be seen before what a run needs is installed."""
    process = tacit_process(SIM, "status", "--dir", "none", code=WITHOUT)
    _, err = process.communicate(timeout=60)
    assert "is not installed" not in err
    assert "none" in err


@pytest.mark.parametrize(
    ("missing", "arguments", "said"),
    [
        (SIM, ["simulate"], "pip install '.[sim]'"),
        ("torch", ["attack"], "torch is not installed"),
        ("safetensors", ["simulate", *args()], "a run needs safetensors"),
    ],
)
def test_what_is_not_installed_is_named(missing: str, arguments: list[str], said: str) -> None:
    process = tacit_process(missing, *arguments, code=WITHOUT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said in err
    assert "Traceback" not in err
    assert not Path("runs").exists()


def test_a_simulation_runs_without_torch_and_prints_only_json() -> None:
    """In a process of its own: nothing else has quietened Flower's logger yet."""
    process = tacit_process("torch", "simulate", *args(), "--json", code=WITHOUT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert Ended(0, out, err).lines()[-1]["trained_rounds"] == 3


def test_a_reader_that_stops_reading_gets_no_traceback() -> None:
    process = tacit_process("simulate", "--keys")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.wait(timeout=60)
    process.stderr.close()


def test_a_title_says_how_sums_are_hidden() -> None:
    titles = {
        title_of(Settings().changed([f"secure.protocol={protocol}"]))
        for protocol in describe_range("secure.protocol").split(", ")
    }
    assert {"digits, in the clear", "digits, under masks", "digits, under lattice keys"} < titles
    assert len(titles) == len(describe_range("secure.protocol").split(", "))
