"""What a claim proves: exact, corrected for what else could be claimed, and for keys that were
there first."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tacit.client.numpy_trainer import NumpyTrainer
from tacit.client.torch_trainer import TorchTrainer
from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.identity import Identity
from tacit.crypto.mark import MarkKey, Signs, Triggers
from tacit.server.auditlog import AuditLog
from tacit.server.entries import encode, noted
from tacit.simulations.models import bn_cnn
from tacit.simulations.ownership import (
    SIGNIFICANCE,
    Evidence,
    committed_in,
    embedding,
    examples_of,
    place_of,
    sign_evidence,
    signature_of,
    trigger_evidence,
)

KEY, OTHER = MarkKey(bytes(range(32))), MarkKey(bytes(32))
TRAINER = NumpyTrainer(64, 10, (64,))
MODEL = TRAINER.initial(0)


@given(st.integers(1, 300), st.floats(0.01, 0.5), st.integers(1, 1000), st.data())
def test_the_p_value_is_the_exact_one(
    of: int, chance: float, claims: int, data: st.DataObject
) -> None:
    hits = data.draw(st.integers(0, of))
    found = Evidence("any", hits, of, chance, claims)
    exact = binomtest(hits, of, chance, alternative="greater").pvalue
    assert found.p == pytest.approx(exact, rel=1e-6)
    assert found.verifies == (found.p <= SIGNIFICANCE / claims)
    # So many are enough, and one fewer is not.
    assert found.verifies == (hits >= found.needed)


def test_the_rule_is_stricter_the_more_can_be_claimed() -> None:
    """28 of 100 triggers at chance 1/10 have a p-value of 3.5e-7, and 33 one of 3.2e-10."""
    assert Evidence("triggers", 0, 100, 0.1).needed == 28
    assert Evidence("triggers", 0, 100, 0.1, claims=2_000).needed == 33
    assert Evidence("bits", 0, 200, 0.5).needed == 134
    assert Evidence("bits", 19, 19, 0.5).verifies is False  # 2**-19: no key of 19 bits is enough
    assert Evidence("bits", 19, 19, 0.5).needed == 20
    assert Evidence("bits", 20, 20, 0.5).verifies


def test_triggers_are_learnt_and_verify_for_their_key_alone() -> None:
    mine, others = (examples_of(Triggers(60), key, (1, 8, 8), 10) for key in (KEY, OTHER))
    embed = embedding(TRAINER, mine)
    once = embed(MODEL)
    assert trigger_evidence(TRAINER, once, mine, 10).share < 1  # so many epochs, and no more
    marked = embed(embed(embed(embed(embed(once)))))  # as after six rounds
    assert trigger_evidence(TRAINER, marked, mine, 10).share > 0.95
    assert trigger_evidence(TRAINER, marked, mine, 10).verifies
    assert not trigger_evidence(TRAINER, MODEL, mine, 10).verifies
    assert not trigger_evidence(TRAINER, marked, others, 10).verifies
    again = embed(MODEL)
    assert all(np.array_equal(once[name], again[name]) for name in MODEL)


def test_a_model_that_has_its_triggers_is_left_alone() -> None:
    few = embedding(TRAINER, examples_of(Triggers(4), KEY, (1, 8, 8), 10))
    marked = MODEL
    for _ in range(20):
        marked = few(marked)
    assert few(marked) is marked


def test_a_model_whose_statistics_triggers_would_spoil_is_refused() -> None:
    trainer = TorchTrainer(partial(bn_cnn, (1, 8, 8), 10))
    embed = embedding(trainer, examples_of(Triggers(10), KEY, (1, 8, 8), 10))
    with pytest.raises(ParameterError, match="batch normalisation"):
        embed(trainer.initial(0))


def test_bits_are_where_the_mark_says() -> None:
    assert place_of(Signs(2), MODEL) == "fc0.weight"
    assert place_of(Signs(2, "head.weight"), MODEL) == "head.weight"
    signature = signature_of(Signs(30), KEY, MODEL)
    signed = MODEL["fc0.weight"].ravel() + signature.rows.sum(0)
    model = {**MODEL, "fc0.weight": signed.reshape(64, 64)}
    assert sign_evidence(model, signature).verifies
    assert not sign_evidence(MODEL, signature).verifies
    assert not sign_evidence(model, signature_of(Signs(30), OTHER, model)).verifies
    with pytest.raises(ParameterError, match="no array 'conv9'"):
        signature_of(Signs(2, "conv9"), KEY, MODEL)
    with pytest.raises(ParameterError, match="no array of float32"):
        place_of(Signs(2), {"n": np.zeros(3, np.int64)})


def entry(event: str, at: float, **fields: object) -> bytes:
    return noted({"event": event, "at": at, **fields})


@pytest.fixture
def log(tmp_path: Path) -> Path:
    with AuditLog.create(tmp_path / "audit.log", Identity(bytes(32)), bytes(16)) as log:
        log.append([encode({"event": "Unknown", "at": 1.0})])
        log.append([entry("MarkCommitted", 2.0, kind="bits", commitment="aa")])
        log.append([entry("MarkCommitted", 3.0, kind="bits", commitment="aa")])
        log.append([entry("RoundStarted", 4.0, round=1, rounds=2)])
        log.append([entry("MarkCommitted", 5.0, kind="triggers", commitment="bb")])
    return tmp_path / "audit.log"


def test_only_what_was_committed_to_before_the_first_round_counts(log: Path) -> None:
    assert committed_in(log) == {"aa": 2.0}


@pytest.mark.parametrize("said", [b'"commitment":"aa"', b'"commitment":"bb"'])
def test_a_log_that_was_changed_commits_to_nothing(log: Path, said: bytes) -> None:
    """Wherever it was: after the first round, too."""
    whole = log.read_bytes()
    log.write_bytes(whole.replace(said, b'"commitment":"cc"'))
    with pytest.raises(Damaged):
        committed_in(log)
