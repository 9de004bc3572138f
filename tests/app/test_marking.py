"""Marks of a run, from a key to a verdict: `tacit mark`, the settings, the audit log."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flwr.app import Context, RecordDict
from safetensors.numpy import load_file, save_file

from tacit.app import marking
from tacit.app.check import check
from tacit.app.config import Settings
from tacit.app.folder import RunFolder
from tacit.app.material import material, trainer_for
from tacit.app.simulation import simulate
from tacit.crypto.errors import ParameterError
from tacit.crypto.mark import MarkKey, Signs, Triggers
from tacit.server.auditlog import batches
from tacit.server.entries import decode
from tests.app.inprocess import ran
from tests.app.small import small

MARKED = (
    "data.devices=4",
    "data.partition=iid",
    "model.name=mlp:96",
    "run.rounds=6",
    "mark.triggers=60",
    "mark.bits=40",
    "strategy.fraction_evaluate=0",
)
MODE = 0o777


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    def result(self) -> dict[str, Any]:
        return json.loads(self.out.splitlines()[-1])


@pytest.fixture
def tacit(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Runs the command in this process."""

    def call(*arguments: str | Path) -> Ended:
        monkeypatch.setenv("COLUMNS", "100")
        return Ended(*ran(monkeypatch, capfd, arguments))

    return call


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with all marks, over secure sums; its key is beside it, and one that is not
    its own."""
    path = tmp_path_factory.mktemp("marked")
    for name in ("owner.key", "wrong.key"):
        marking.new_key(path / name, MarkKey(name.encode().ljust(32, b".")))
    marking.new_key(path / "device.key", marking.simulated_key(2))
    settings = Settings().changed([*MARKED, f"mark.key={path / 'owner.key'}"])
    check(settings)
    with RunFolder.create(path / "run", settings) as folder:
        finished = simulate(settings, folder=folder)
    assert finished.oracle is not None
    assert finished.oracle.exact == finished.oracle.checked == settings.run.rounds
    return path


def entries(run: Path) -> list[dict[str, Any]]:
    with (run / "run" / "audit.log").open("rb") as file:
        return [decode(entry) for batch in batches(file) for entry in batch.entries]


# From end to end


@pytest.mark.parametrize(("key", "kind"), [("owner.key", "triggers"), ("device.key", "bits")])
def test_a_marked_run_over_secure_sums_verifies(run: Path, tacit, key: str, kind: str) -> None:
    log = run / "run" / "audit.log"
    ended = tacit("mark", "verify", run / "run", "--key", run / key, "--log", log, "--json")
    assert ended.code == 0, ended.err
    found = ended.result()
    assert found["verified"] is True
    assert (found["false_claims"], found["tried"]) == (0, 100)
    marks = {each["kind"]: each for each in found["marks"]}
    other = ({"triggers", "bits"} - {kind}).pop()
    assert marks[kind]["verifies"]
    times = {each.get("commitment"): each["at"] for each in entries(run)}
    mark = Triggers(60) if kind == "triggers" else Signs(40)
    assert marks[kind]["committed_at"] == times[mark.commitment(marking.read_key(run / key)).hex()]
    assert marks[kind]["p"] <= marks[kind]["threshold"] == pytest.approx(1e-6 / (2 * 5))
    assert not marks[other]["verifies"]
    assert marks[other]["committed_at"] is None


def test_a_wrong_key_does_not(run: Path, tacit) -> None:
    ended = tacit("mark", "verify", run / "run", "--key", run / "wrong.key")
    assert ended.code == 1
    assert "does not bear this key's mark" in ended.err


def test_a_key_that_was_found_afterwards_is_refused(run: Path, tacit, tmp_path: Path) -> None:
    """A thief trains a mark of his own into the model: it verifies, and no log bears him out."""
    settings = RunFolder.open(run / "run").settings
    forged = settings.changed([f"mark.key={run / 'wrong.key'}"])
    embed = marking.embed_for(forged)
    assert embed is not None
    model = load_file(run / "run" / "model.safetensors")
    for _ in range(4):
        model = embed(model)
    save_file(model, tmp_path / "stolen.safetensors")
    asked = [tmp_path / "stolen.safetensors", "-c", run / "run" / "config.toml"]
    claim = tacit("mark", "verify", *asked, "--key", run / "wrong.key")
    assert claim.code == 0
    assert "without --log nobody knows" in claim.out
    log = run / "run" / "audit.log"
    ended = tacit("mark", "verify", *asked, "--key", run / "wrong.key", "--log", log)
    assert ended.code == 1
    assert "the log does not commit to it" in ended.err
    assert tacit("mark", "verify", *asked, "--key", run / "device.key", "--log", log).code == 0


def test_a_log_that_was_tampered_with_bears_nobody_out(run: Path, tacit, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    whole = (run / "run" / "audit.log").read_bytes()
    ours = Triggers(60).commitment(marking.read_key(run / "owner.key")).hex().encode()
    theirs = Triggers(60).commitment(marking.read_key(run / "wrong.key")).hex().encode()
    assert ours in whole
    log.write_bytes(whole.replace(ours, theirs))
    ended = tacit("mark", "verify", run / "run", "--key", run / "owner.key", "--log", log)
    assert ended.code == 1
    assert "damaged" in ended.err
    ended = tacit(
        "mark", "verify", run / "run", "--key", run / "owner.key", "--log",
        run / "run" / "audit.log", "--log-key", "00" * 32,
    )  # fmt: skip
    assert ended.code == 1
    assert "kept with another key" in ended.err


def test_everything_is_committed_to_before_the_first_round(run: Path) -> None:
    said = entries(run)
    names = [each["event"] for each in said]
    first = names.index("RoundStarted")
    marks = [each for each in said[:first] if each["event"] == "MarkCommitted"]
    assert names.count("MarkCommitted") == len(marks) == 5
    triggers, signs = Triggers(60), Signs(40)
    assert [(each["kind"], each["commitment"]) for each in marks] == [
        ("triggers", triggers.commitment(marking.read_key(run / "owner.key")).hex()),
        *(("bits", signs.commitment(marking.simulated_key(n)).hex()) for n in range(1, 5)),
    ]
    secret = (run / "owner.key").read_bytes()
    for path in (run / "run").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert secret not in content
            assert secret.hex().encode() not in content


def test_a_resumed_run_commits_to_nothing_anew(run: Path, tmp_path: Path) -> None:
    settings = RunFolder.open(run / "run").settings.changed(["run.rounds=2"])

    class Stopped(Exception):
        pass

    def stop(event: object) -> None:
        if type(event).__name__ == "RoundFinished":
            raise Stopped

    with pytest.raises(Stopped), RunFolder.create(tmp_path / "run", settings) as folder:
        simulate(settings, folder=folder, on_event=stop)
    folder = RunFolder.open(tmp_path / "run")
    with folder:
        simulate(settings, folder=folder, resume=folder.resume())
    names = [each["event"] for each in entries(tmp_path)]
    assert names.count("MarkCommitted") == 5
    assert names.count("RoundFinished") == 2


# Keys


def test_a_new_key_is_its_owners_and_replaces_nothing(tacit, tmp_path: Path) -> None:
    path = tmp_path / "k"
    assert tacit("mark", "new", path).code == 0
    secret = path.read_bytes()
    assert len(secret) == 32
    assert path.stat().st_mode & MODE == 0o600
    again = tacit("mark", "new", path)
    assert again.code == 2
    assert "there is a file" in again.err
    assert path.read_bytes() == secret
    said = tacit("mark", "commit", path, "--set", "mark.bits=8")
    key = MarkKey(secret)
    for mark in (Triggers(100), Signs(8)):
        assert mark.commitment(key).hex() in said.out
    assert secret.hex() not in said.out


def test_a_simulated_devices_key_can_be_written(tacit, tmp_path: Path) -> None:
    ended = tacit("mark", "new", tmp_path / "k", "--simulated", "3")
    assert "no secret" in ended.out
    assert marking.read_key(tmp_path / "k") == marking.simulated_key(3)


@pytest.mark.parametrize("content", [b"", bytes(31), bytes(33), None])
def test_what_is_no_key_is_refused(tacit, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "k"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    ended = tacit("mark", "commit", path)
    assert ended.code == 2
    assert "tacit mark new" in ended.err


def test_a_key_that_others_can_read_is_refused(tacit, tmp_path: Path) -> None:
    tacit("mark", "new", tmp_path / "k")
    (tmp_path / "k").chmod(0o640)
    ended = tacit("mark", "commit", tmp_path / "k")
    assert (ended.code, "chmod 600" in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere.safetensors"], "no model at"),
        (["."], "no run in"),
        (["text"], "is no safetensors file"),
        (["other.safetensors", "--model", "cnn"], "no array"),
    ],
)
def test_a_suspect_that_is_none_is_refused(
    tacit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
) -> None:
    import numpy as np

    monkeypatch.chdir(tmp_path)
    marking.new_key(tmp_path / "k", MarkKey(bytes(32)))
    (tmp_path / "text").write_text("no tensors")
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    ended = tacit("mark", "verify", *arguments, "--key", "k")
    assert ended.code == 2
    assert reason in ended.err


# Devices


def context(**node_config: Any) -> Context:
    return Context(1, 1, node_config, RecordDict(), {})


def test_a_deployed_device_signs_with_its_owners_key_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings().changed(["mark.bits=8"])
    model = trainer_for(settings.model, settings.data, 0).initial(0)
    deployed = context(vault="/somewhere", **{"partition-id": 0})
    assert marking.signature_for(settings, deployed, model) is None
    marking.new_key(tmp_path / "k", MarkKey(bytes(range(32))))
    monkeypatch.setenv(marking.DEVICE_KEY, str(tmp_path / "k"))
    own = marking.signature_for(settings, deployed, model)
    assert own is not None
    rows = Signs(8).rows(MarkKey(bytes(range(32))), model["fc0.weight"].size)
    assert (own.rows == rows).all()
    simulated = marking.signature_for(settings, context(**{"partition-id": 0}), model)
    assert simulated is not None
    assert (simulated.rows != own.rows).any()
    unmarked = Settings()
    assert marking.signature_for(unmarked, deployed, model) is None
    monkeypatch.setenv(marking.DEVICE_KEY, str(tmp_path / "gone"))
    with pytest.raises(ParameterError, match="no key of a mark"):
        marking.signature_for(settings, deployed, model)


def test_commitments_that_owners_gave_are_noted_as_they_are() -> None:
    given = ["ab" * 32, "cd" * 32]
    settings = Settings().changed(["mark.bits=8", f"mark.commitments={','.join(given)}"])
    for simulated in (True, False):
        found = marking.commitments(settings, simulated=simulated)
        assert [(each.kind, each.commitment) for each in found] == [("bits", g) for g in given]
    bare = Settings().changed(["mark.bits=8"])
    assert not list(marking.commitments(bare, simulated=False))
    assert len(list(marking.commitments(bare, simulated=True))) == bare.data.devices


# Settings


@pytest.mark.parametrize(
    ("assignments", "reason"),
    [
        (["mark.triggers=50"], "mark.triggers means nothing without mark.key"),
        (["mark.array=fc0.weight"], "mark.array means nothing without mark.bits"),
        (["mark.weight=2.0"], "mark.weight means nothing without mark.bits"),
        (["mark.key=nowhere"], "no key of a mark at nowhere"),
        (["mark.bits=8", "model.backend=numpy"], "NumpyTrainer cannot sign"),
        (["mark.bits=8", "mark.array=conv9"], "no array 'conv9'"),
        (["mark.bits=8", "mark.array=head.bias"], "lower mark.bits"),
        (["mark.bits=1000"], "lower mark.bits"),
        (
            ["mark.bits=8", "privacy.mode=distributed", "privacy.unit=record"],
            "not with unit = record",
        ),
    ],
)
def test_a_mark_that_cannot_be_is_refused_before_the_run(
    assignments: list[str], reason: str
) -> None:
    changed = Settings().changed(assignments)
    if changed.privacy.unit == "record":
        changed = changed.changed(["policy.unit=record", "strategy.fraction_evaluate=0"])
    with pytest.raises(ParameterError, match=reason):
        check(changed)


@pytest.mark.parametrize(
    ("model", "reason"), [("softmax", "no room for 100 triggers"), ("bn-cnn", "normalisation")]
)
def test_a_model_that_takes_no_triggers_is_refused(tmp_path: Path, model: str, reason: str) -> None:
    marking.new_key(tmp_path / "k", MarkKey(bytes(32)))
    settings = Settings().changed([f"mark.key={tmp_path / 'k'}", f"model.name={model}"])
    with pytest.raises(ParameterError, match=reason):
        check(settings)


def test_a_commitment_is_64_digits() -> None:
    with pytest.raises(ParameterError, match="64 hexadecimal digits"):
        Settings().changed(["mark.commitments=abc"])


def test_a_run_without_marks_is_what_it_was(tmp_path: Path) -> None:
    """Nothing of marks is loaded into its models, or its log."""
    settings = small()
    assert marking.embed_for(settings) is None
    with RunFolder.create(tmp_path / "run", settings) as folder:
        simulate(settings, folder=folder)
    assert "MarkCommitted" not in {each["event"] for each in entries(tmp_path)}
    assert material(settings.data, 0).dataset.classes == 2
