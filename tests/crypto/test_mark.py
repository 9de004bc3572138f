"""Marks are functions of a key, binomial for whoever made a model without it, and committed to."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import derive
from tacit.crypto.mark import LONGEST, MarkKey, Signs, Triggers

KEY = MarkKey(bytes(range(32)))
SECRETS = st.binary(min_size=32, max_size=32)
KEYS = [MarkKey(derive(bytes(32), b"key", bytes([i, j]))) for i in range(4) for j in range(100)]


def test_a_mark_is_a_function_of_its_key() -> None:
    """Pinned: a key that was committed to years ago has to give the same mark."""
    triggers, signs = Triggers(4), Signs(3)
    assert triggers.labels(KEY, 10).tolist() == [3, 5, 3, 6]
    first = triggers.inputs(KEY, (1, 2, 2))[0].ravel()
    assert first.tolist() == pytest.approx([0.966298, 0.113647, 0.418414, 0.980438], abs=1e-6)
    assert "".join("-+"[int(r > 0)] for r in signs.rows(KEY, 8)[0]) == "+-+-+++-"
    assert triggers.commitment(KEY).hex()[:16] == "a7076103aab1a839"
    assert signs.commitment(KEY).hex()[:16] == "3d93146df499d58d"


@given(SECRETS, st.integers(1, 200), st.integers(2, 1000))
def test_triggers_are_inputs_and_labels_as_models_have_them(
    secret: bytes, count: int, classes: int
) -> None:
    key, triggers = MarkKey(secret), Triggers(count)
    image, features = triggers.inputs(key, (1, 3, 3)), triggers.inputs(key, (9,))
    assert image.shape == (count, 1, 3, 3)
    assert image.dtype == features.dtype == np.float32
    assert image.min() >= 0
    assert image.max() < 1
    assert np.abs(features).max() <= np.float32(np.sqrt(3))
    labels = triggers.labels(key, classes)
    assert labels.dtype == np.int64
    assert labels.min() >= 0
    assert labels.max() < classes


def test_a_model_made_without_the_key_is_right_by_chance() -> None:
    """Even one that says the same always, or whose weights all lean one way: over keys, hits are
    binomial. Means and deviations of 400 keys are within 5 standard errors of what that says."""
    always = np.array([(Triggers(100).labels(key, 10) == 3).sum() for key in KEYS])
    leaning = np.ones(501, np.float32)
    bits = np.array([(Signs(100).rows(key, 501) @ leaning > 0).sum() for key in KEYS])
    for hits, chance in ((always, 0.1), (bits, 0.5)):
        law = binom(100, chance)
        assert abs(hits.mean() - law.mean()) < 5 * law.std() / np.sqrt(len(KEYS))
        # The variance of a sample variance of n near-normal values is 2 sigma^4 / (n - 1).
        spread = 5 * law.var() * np.sqrt(2 / (len(KEYS) - 1))
        assert abs(hits.var(ddof=1) - law.var()) < spread


def test_directions_are_of_length_one_and_of_a_bounded_number_of_weights() -> None:
    rows = Signs(7).rows(KEY, 500)
    assert rows.shape == (7, 500)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert len(np.unique(np.abs(rows))) == 1
    assert Signs(2).rows(KEY, LONGEST + 1).shape == (2, LONGEST)


@given(SECRETS, SECRETS, st.integers(1, 999), st.integers(1, 999))
def test_a_commitment_is_to_key_kind_number_and_place(
    one: bytes, other: bytes, n: int, m: int
) -> None:
    said = [
        (kind, secret, count, place)
        for secret in (one, other)
        for count in (n, m)
        for kind, place in (("triggers", ""), ("bits", ""), ("bits", "fc.weight"))
    ]
    made = {
        (Triggers(count) if kind == "triggers" else Signs(count, place)).commitment(MarkKey(secret))
        for kind, secret, count, place in said
    }
    assert len(made) == len({*said})


def test_nothing_secret_is_shown() -> None:
    assert KEY.secret.hex() not in repr(KEY)
    assert repr(KEY.secret) not in repr(KEY)
    assert hashlib.sha256(KEY.secret).digest() != Triggers(1).commitment(KEY)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_none(length: int) -> None:
    with pytest.raises(ParameterError, match="32 random bytes"):
        MarkKey(bytes(length))


@pytest.mark.parametrize("make", [lambda: Triggers(0), lambda: Signs(0)])
def test_a_mark_of_nothing_is_none(make) -> None:
    with pytest.raises(ParameterError, match="at least 1"):
        make()
