"""A baseline is what honest data are like; it is fitted the same each time, and read with care."""

import io
from dataclasses import fields, replace

import numpy as np
import pytest

from tacit.crypto.errors import Damaged, ParameterError
from tacit.server.gate.baseline import FIGURES, Baseline, Space, sampled
from tacit.server.gate.fitting import fit
from tacit.server.gate.model import Scored
from tests.server.gate.blobs import Blobs, drawn


def fitted(seed=0):
    return fit(Blobs(), drawn(400), np.random.default_rng(seed), streams=12, length=200)


@pytest.fixture(scope="module")
def baseline():
    return fitted()


def arrays(baseline):
    own = {name: getattr(baseline, name) for name in ("frequencies", "typical", "limits")}
    space = {field.name: getattr(baseline.space, field.name) for field in fields(Space)}
    return {**own, **space, "nearest": baseline.nearest}


def test_the_same_seed_gives_the_same_baseline(baseline):
    again = arrays(fitted())
    for name, value in arrays(baseline).items():
        np.testing.assert_array_equal(value, again[name], err_msg=name)
    assert not np.array_equal(baseline.space.projection, fitted(1).space.projection)


def test_honest_inputs_are_about_one_away_and_others_farther(baseline):
    """Of 8 squared deviations the mean has expectation 1 and deviation 1/2; of 1,000 of them, with
    the space learnt from 200, a tenth is six deviations and more."""
    x = drawn(1000, 1)
    distance = baseline.space.placed(x, Blobs().scored(x)).distance
    assert np.square(distance).mean() == pytest.approx(1, abs=0.1)
    far = drawn(1000, 1, off=4.0)
    assert baseline.space.placed(far, Blobs().scored(far)).distance.min() > np.median(distance)


def test_a_sketch_keeps_lengths(baseline):
    """The square of a projected length is chi-square with 32 degrees: its deviation is a quarter,
    and of a mean over 1,000 lengths, of which 8 are independent, less than a tenth."""
    x = drawn(1000, 2)
    sketch = baseline.space.placed(x, Blobs().scored(x)).sketch
    ratio = np.square(sketch).sum() / np.square(x).sum()
    assert 0.6 < ratio < 1.4


def test_large_inputs_are_sampled():
    assert sampled(np.zeros((2, 3, 100, 100), np.float32)).shape == (2, 3750)
    assert sampled(np.zeros((2, 1, 8, 8), np.float32)).shape == (2, 64)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e38])
def test_what_overflows_is_as_far_as_can_be(baseline, bad):
    x = drawn(3)
    features = x.copy()
    features[1] = bad
    placed = baseline.space.placed(x, Scored(Blobs().scored(x).probabilities, features))
    assert np.isfinite(placed.points).all()
    assert placed.distance[1] == 1e3
    assert placed.distance[[0, 2]].max() < 10


def test_limits_are_above_every_honest_window(baseline):
    assert (baseline.typical < baseline.limits).all()
    at_limit = dict(zip(FIGURES, baseline.limits.tolist(), strict=True))
    assert set(baseline.excess(at_limit).values()) == {1.0}
    typical = dict(zip(FIGURES, baseline.typical.tolist(), strict=True))
    assert set(baseline.excess(typical).values()) == {0.0}


def test_another_model_is_refused(baseline):
    x = drawn(2)
    scored = Blobs().scored(x)
    with pytest.raises(ParameterError, match="fit one for this model"):
        baseline.space.placed(x, Scored(scored.probabilities, scored.features[:, :5]))
    with pytest.raises(ParameterError, match="fit one for this model"):
        baseline.space.placed(x, Scored(scored.probabilities[:, :2], scored.features))
    with pytest.raises(ParameterError, match="fit one for this model"):
        baseline.space.placed(x[:, :5], scored)


def test_too_few_examples_are_refused():
    with pytest.raises(ParameterError, match="100 or more"):
        fit(Blobs(), drawn(99), np.random.default_rng(0))


def test_a_class_without_examples_is_no_reason_to_fail():
    x = drawn(400)
    x = x[Blobs().scored(x).probabilities.argmax(1) != 2]
    assert fit(Blobs(), x, np.random.default_rng(0), streams=6, length=100).frequencies[2] == 0


def test_what_is_saved_is_read_again_and_holds_no_input(baseline, tmp_path):
    path = tmp_path / "watch.npz"
    baseline.save(path)
    read = arrays(Baseline.load(path))
    for name, value in arrays(baseline).items():
        np.testing.assert_array_equal(value, read[name], err_msg=name)
    assert path.stat().st_mode & 0o077 == 0
    assert [file.name for file in tmp_path.iterdir()] == ["watch.npz"]
    rows = {row.tobytes() for row in drawn(400)}
    for value in read.values():
        found = np.atleast_2d(np.asarray(value, np.float32))
        assert not rows & {row.tobytes() for row in found}
        assert not rows & {row.tobytes() for row in np.ascontiguousarray(found.T)}


def test_a_baseline_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ParameterError, match="fit one at the model's release"):
        Baseline.load(tmp_path / "none")


def written(baseline, **changed):
    buffer = io.BytesIO()
    np.savez(buffer, **{"format": np.array(1), **arrays(baseline), **changed})
    return buffer.getvalue()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b"",
        lambda b: b"not a zip",
        lambda b: written(b)[:-30],
        lambda b: written(b, more=np.zeros(1)),
        lambda b: written(b, limits=np.array(["a"] * 6)),
        lambda b: written(b, limits=np.full(6, np.nan)),
        lambda b: written(b, limits=b.typical),
        lambda b: written(b, typical=b.typical[:3]),
        lambda b: written(b, scales=-b.space.scales),
        lambda b: written(b, means=b.space.means[0]),
        lambda b: written(b, means=np.float32(1)),
        lambda b: written(b, rest=np.zeros(2)),
        lambda b: written(b, projection=b.space.projection[:, :4]),
        lambda b: written(b, nearest=np.array(-1.0)),
        lambda b: written(b, means=np.array([object()])),
    ],
)
def test_anything_else_is_damaged(baseline, tmp_path, spoil):
    path = tmp_path / "watch.npz"
    path.write_bytes(spoil(baseline))
    with pytest.raises(Damaged):
        Baseline.load(path)


def test_a_flipped_byte_never_makes_another_baseline(baseline, tmp_path):
    """A zip has a checksum for each array; its own fields may be spoilt without consequence."""
    path = tmp_path / "watch.npz"
    whole = written(baseline)
    for at in np.random.default_rng(0).integers(len(whole), size=100):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            read = arrays(Baseline.load(path))
        except (Damaged, ParameterError):
            continue
        for name, value in arrays(baseline).items():
            np.testing.assert_array_equal(value, read[name], err_msg=name)


def test_another_format_is_told(baseline, tmp_path):
    path = tmp_path / "watch.npz"
    path.write_bytes(written(baseline, format=np.array(2)))
    with pytest.raises(ParameterError, match="fit it again"):
        Baseline.load(path)


def test_shapes_must_be_of_one_space(baseline):
    with pytest.raises(ParameterError, match="shapes"):
        replace(baseline, frequencies=np.ones(5))
