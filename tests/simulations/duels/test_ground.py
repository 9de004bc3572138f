"""What duels are fought over: three parts that have nothing in common, and photographs."""

import numpy as np

from tacit.simulations.duels.ground import ground, patches, victim


def test_the_parts_have_no_example_in_common() -> None:
    where = ground("digits")
    assert [len(part) for part in (where.trained, where.held, where.owned)] == [1000, 400, 397]
    rows = np.concatenate(
        [part.x.reshape(len(part), -1) for part in (where.trained, where.held, where.owned)]
    )
    assert len(np.unique(rows, axis=0)) == 1797


def test_the_victim_is_a_good_model() -> None:
    where = ground("digits")
    labels = victim("digits").scored(where.held.x).probabilities.argmax(1)
    assert (labels == where.held.y).mean() >= 0.97


def test_patches_are_pictures_of_something_else() -> None:
    found = patches((1, 8, 8), 50)
    assert found.shape == (50, 1, 8, 8)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert len(np.unique(found.reshape(50, -1), axis=0)) == 50
    assert np.array_equal(found, patches((1, 8, 8), 50))
    assert patches((3, 32, 32), 4).shape == (4, 3, 32, 32)
