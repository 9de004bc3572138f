"""A tag fits the sum over one set of devices, and nothing else that ciphertexts add up to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto import labels
from tacit.crypto.errors import ProtocolError
from tacit.crypto.he.sets import SEEDED, WIDE
from tacit.crypto.he.tags import CHUNK, TAGS, check, tag
from tacit.crypto.identity import derive
from tacit.crypto.prg import keystream

GROUP, SESSION = bytes(32), bytes(range(32))
PLAIN = SEEDED.plain


def tagged(device: int, slots, session: bytes = SESSION, plain: int = PLAIN):
    """A device's slots and tags as one vector, as they are encrypted."""
    return np.concatenate([slots, tag(GROUP, session, device, slots, plain)])


def some(devices, size: int = 9, plain: int = PLAIN) -> dict:
    draw = np.random.default_rng(3)
    return {
        d: tagged(d, draw.integers(-plain // 2 + 1, plain // 2, size), plain=plain) for d in devices
    }


def fits(vector, survivors, session: bytes = SESSION, plain: int = PLAIN) -> bool:
    slots, tags = vector[:-TAGS], vector[-TAGS:]
    centred = (slots + plain // 2) % plain - plain // 2
    try:
        check(GROUP, session, survivors, centred, tags, plain)
    except ProtocolError:
        return False
    return True


def test_the_sum_over_the_set_fits() -> None:
    for plain in (PLAIN, WIDE.plain):
        vectors = some(range(1, 6), CHUNK + 5, plain)
        total = sum(vectors.values())
        assert fits(total, (1, 2, 3, 4, 5), plain=plain)
        assert fits(total % plain, (1, 2, 3, 4, 5), plain=plain)
        assert fits(vectors[2] + vectors[4], (2, 4), plain=plain)


def test_a_tag_is_what_its_formula_says() -> None:
    """The weighted sum in whole numbers, from the description."""
    slots = np.random.default_rng(1).integers(-PLAIN // 2 + 1, PLAIN // 2, CHUNK + 3)
    raw = keystream(derive(GROUP, labels.HE_WEIGHTS, SESSION), 2 * TAGS * slots.size)
    weights = np.frombuffer(raw, "<u2").reshape(-1, TAGS)
    with_slots = tag(GROUP, SESSION, 7, slots, PLAIN)
    pad = tag(GROUP, SESSION, 7, np.zeros(CHUNK + 3, np.int64), PLAIN)
    for column in range(TAGS):
        weighted = sum(int(w) * int(s) for w, s in zip(weights[:, column], slots, strict=True))
        assert (weighted + int(pad[column])) % PLAIN == with_slots[column]


@given(
    st.lists(st.integers(-3, 3), min_size=4, max_size=4),
    st.sets(st.integers(1, 4), min_size=1),
    st.lists(st.integers(0, 2), min_size=9 + TAGS, max_size=9 + TAGS),
)
def test_any_other_combination_is_refused(factors, survivors, added) -> None:
    """Whole multiples of the devices' vectors, and anything a server adds in the clear."""
    vectors = some(range(1, 5))
    made = sum(f * vectors[d] for d, f in enumerate(factors, 1)) + np.array(added)
    honest = not any(added) and {d for d, f in enumerate(factors, 1) if f} == survivors
    assert fits(made, tuple(sorted(survivors))) == (honest and set(factors) <= {0, 1})


def test_what_a_server_would_like_is_refused() -> None:
    vectors, everyone = some(range(1, 5)), (1, 2, 3, 4)
    total = sum(vectors.values())
    assert not fits(vectors[1], everyone), "one device's"
    assert not fits(4 * vectors[1], everyone), "one device's, as often as there are devices"
    assert not fits(total - vectors[1], everyone), "all but one"
    assert not fits(total, (1, 2, 3)), "one more than attested"
    assert not fits(total, (1, 2, 3, 5)), "another one"
    assert not fits(total + vectors[2] - vectors[3], everyone), "one twice, one not"
    assert not fits(2 * total, everyone)
    assert not fits(np.zeros_like(total), everyone)


def test_the_tags_of_the_sum_do_not_vouch_for_other_slots() -> None:
    """The attack on tags that do not depend on the data: see the module."""
    vectors, everyone = some(range(1, 5)), (1, 2, 3, 4)
    total = sum(vectors.values())
    one = np.concatenate([vectors[1][:-TAGS], total[-TAGS:]])
    assert not fits(one, everyone)
    swapped = total.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    assert not fits(swapped, everyone)
    for slot in range(9):  # from one device, or twice
        for change in (vectors[2][slot], -vectors[2][slot], 1):
            mixed = total.copy()
            mixed[slot] += change
            assert not fits(mixed, everyone)


def test_another_session_or_group_is_refused() -> None:
    vectors = some((1, 2))
    total = vectors[1] + vectors[2]
    assert not fits(total, (1, 2), session=bytes(32))
    slots, tags = total[:-TAGS], total[-TAGS:]
    with pytest.raises(ProtocolError, match="not the sum"):
        check(b"\1" * 32, SESSION, (1, 2), slots, tags, PLAIN)


def test_every_pad_is_used_once() -> None:
    """Its tags would tell the difference of two vectors under one pad, weighted."""
    nothing = np.zeros(4, np.int64)
    pads = {
        tuple(tag(group, session, device, nothing, PLAIN).tolist())
        for group in (GROUP, b"\1" * 32)
        for session in (SESSION, bytes(32))
        for device in (1, 2, 256)
    }
    assert len(pads) == 12


def test_a_tag_misses_as_often_as_it_says() -> None:
    """With one tag of 16 bits a wrong slot would pass one time in 65536: six are independent."""
    slots = np.zeros(1, np.int64)
    pads = tag(GROUP, SESSION, 1, slots, PLAIN)
    weights = (tag(GROUP, SESSION, 1, slots + 1, PLAIN) - pads) % PLAIN
    assert len(set(weights.tolist())) == TAGS
    assert 0 < weights.min() < weights.max() < 1 << 16
    assert PLAIN**TAGS > 2**96
