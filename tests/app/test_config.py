"""Settings: every way in gives the same tree, and a mistake says what to do."""

import tomllib
from pathlib import Path

import pytest
from flwr.common.config import flatten_dict, fuse_dicts, parse_config_args

from tacit.app.config import Settings, describe_range, keys, load
from tacit.crypto.errors import ParameterError
from tacit.server.auto import Auto
from tacit.server.encrypted import Encrypted
from tacit.server.pairwise import Pairwise
from tests.app import settings_table
from tests.app.small import SMALL

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
CHANGED = SMALL.changed(["run.seed=7", 'faults=["drop report 1,2 @3"]', "train.momentum=0.5"])


def test_a_file_holds_everything(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(CHANGED.toml(), encoding="utf-8")
    assert load(path) == CHANGED


def test_the_flat_form_holds_everything_but_the_engines_faults() -> None:
    assert Settings.from_flat(CHANGED.flat()) == CHANGED.changed(["faults=[]"])
    assert set(CHANGED.flat()) == set(keys())


def test_flowers_run_config_is_the_defaults() -> None:
    """`flwr run` refuses to override a key that does not stand in pyproject.toml."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))
    assert flatten_dict(project["tool"]["flwr"]["app"]["config"]) == Settings().flat()


def test_flowers_run_config_arguments_are_our_assignments() -> None:
    text = "train.epochs=2 data.partition='iid' secure.bound=4.0"
    flat = fuse_dicts(Settings().flat(), parse_config_args([text]))
    assert Settings.from_flat(flat) == Settings().changed(text.split())


@pytest.mark.parametrize("key", keys())
def test_a_misspelt_key_names_the_nearest(key: str) -> None:
    section, _, name = key.partition(".")
    misspelt = f"{section}.{name[:2]}{name[3:]}" if len(name) > 3 else f"{section}.{name}s"
    with pytest.raises(ParameterError, match=f"unknown key {misspelt}, did you mean {key}?"):
        Settings().changed([f"{misspelt}=1"])


@pytest.mark.parametrize("key", keys())
def test_a_value_of_another_kind_names_key_and_purpose(key: str) -> None:
    with pytest.raises(ParameterError) as wrong:
        Settings().changed([f"{key}=[1]"])
    assert key in str(wrong.value)
    assert keys()[key][1] in str(wrong.value)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("train.epochs=0", "train.epochs = 0: expected 1 or more, at most 10000"),
        ("train.epochs=1.5", "expected a whole number"),
        ("train.epochs=true", "expected a whole number"),
        ("train.epochs=two", "expected a whole number"),
        ("train.learning_rate=fast", "expected a number"),
        ("train.learning_rate=nan", "expected a finite number"),
        ("train.momentum=1", "expected 0 or more, less than 1"),
        ("secure.bound=inf", "expected a finite number"),
        ("run.timeout=0", "expected more than 0"),
        ("run.seed=-1", "expected 0 or more, less than 4294967296"),
        ("data.devices=1", "expected 2 or more"),
        ("data.name=3", "expected a text"),
        ("data.partition=dirichelt:0.5", "did you mean 'dirichlet'?"),
        ("data.partition=dirichlet:-1", "expected alpha above 0"),
        ("strategy.name=fedadm", "did you mean fedadam?"),
        ("strategy.name=krum", "expected fedavg, fedprox, fedavgm"),
        ("run.mode=proces", "did you mean processes?"),
        ("run=5", "run is a section, with keys such as run.rounds"),
        ("run.rounds.x=5", "rounds is a setting, not a section"),
        ("train.epochs", "--set train.epochs: expected section.key=value"),
        ("=5", "expected section.key=value"),
        ("trian.epochs=2", "unknown key trian, did you mean train?"),
        ("epochs=2", "unknown key epochs, did you mean train.epochs?"),
        ("faults=drop report 3", "expected a list of texts such as"),
        ('faults=["dorp report 3"]', "did you mean 'drop'?"),
        ('faults=["drop raport 3"]', "did you mean 'report'?"),
        ('faults=["drop report"]', "ends where devices"),
    ],
)
def test_a_mistake_says_what_to_do(assignment: str, said: str) -> None:
    with pytest.raises(ParameterError) as wrong:
        Settings().changed([assignment])
    assert said in str(wrong.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[run\n", "is no TOML"),
        (b"\xff\xfe", "is no TOML"),
        (b"run = 5", "run is a section"),
        (b"[run]\nruonds = 3", "unknown key run.ruonds, did you mean run.rounds?"),
        (b"[run]\nrounds = 0", "run.rounds = 0: expected 1 or more"),
        (b'[run]\nfaults = ["drop report 1"]', "unknown key run.faults, did you mean faults?"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_bytes(content)
    with pytest.raises(ParameterError) as wrong:
        load(path)
    assert str(path) in str(wrong.value)
    assert said in str(wrong.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ParameterError, match=str(path)):
            load(path)


def test_auto_may_choose_from_what_the_policy_allows() -> None:
    auto = Settings().changed(["secure.protocol=auto", "secure.degree=9", "secure.drop=0.1"])
    assert auto.sum() == Pairwise(degree=9, drop=0.1)
    allowed = auto.changed(["policy.lattice=true", "secure.parameters=2048-32-1"])
    assert allowed.sum() == Auto(degree=9, drop=0.1, parameters="2048-32-1")
    for protocol, kind in (("pairwise", Pairwise), ("lattice", Encrypted)):
        assert Settings().changed([f"secure.protocol={protocol}"]).sum() == kind()


def test_models_are_fingerprints_between_commas() -> None:
    one, other = "0" * 64, "1" * 64
    policy = Settings().changed([f"policy.models={one}, {other},"]).policy.policy(plain=False)
    assert policy.models == (one, other)
    assert Settings().policy.policy(plain=False).models == ()
    with pytest.raises(ParameterError, match=r"policy.models = 'mlp'.*tacit explain model"):
        Settings().changed(["policy.models=mlp"])


def test_ranges_in_words_are_those_that_hold() -> None:
    assert describe_range("train.momentum") == "0 or more, less than 1"
    assert describe_range("secure.protocol") == "pairwise, lattice, auto, tenseal, plain"
    for key, (default, purpose) in keys().items():
        assert purpose, key
        if not isinstance(default, str):
            assert describe_range(key), key


def test_the_document_lists_every_setting() -> None:
    held = settings_table.between_marks(settings_table.DOC.read_text(encoding="utf-8"))
    again = "docs/configuration.md is out of date: python -m tests.app.settings_table"
    assert held.strip() == settings_table.table().strip(), again


def test_writing_the_table_again_changes_nothing_else() -> None:
    text = settings_table.DOC.read_text(encoding="utf-8")
    assert text.count("### [run]") == 1
    assert settings_table.with_table(text) == text
    emptied = text.replace(settings_table.between_marks(text), "\n")
    assert settings_table.with_table(emptied) == text
