"""Sums under correlated noise: what a session says of them, the room they take, what they cost."""

import math
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import MalformedMessage, ParameterError
from tacit.crypto.secagg.noised import Noised
from tacit.crypto.wire import Reader, Writer
from tacit.privacy import mechanisms
from tacit.privacy.accountants import GDP, Adversary, compose
from tacit.privacy.banded import coefficients
from tacit.privacy.charges import releases_of
from tacit.privacy.mechanisms import Mechanism, choose
from tacit.privacy.releases import Discrete, Source
from tacit.privacy.rotation import width_of
from tests.crypto.federation import Counted

SESSION, SEED, RAND = bytes(32), bytes(range(32)), bytes(range(100, 132))
BANDED = Noised(10, 4, 1, 0, 1.0, 1.0, 24, central=True, bands=3, divisor=5, rotation=SEED)


def encoded(agreed: Noised) -> bytes:
    writer = Writer()
    agreed.write(writer)
    return writer.data()


def decoded(data: bytes) -> Noised:
    reader = Reader(data, sender=0, stage="report")
    found = Noised.read(reader)
    reader.end()
    return found


@given(st.integers(2, 256), st.integers(4, 1 << 20), st.sampled_from([b"", SEED, RAND]))
def test_a_session_says_all_of_it(bands: int, divisor: int, rotation: bytes) -> None:
    agreed = replace(BANDED, bands=bands, divisor=divisor, rotation=rotation)
    assert decoded(encoded(agreed)) == agreed
    assert decoded(encoded(replace(BANDED, bands=0, divisor=0, rotation=b""))).bands == 0


IMPOSSIBLE = [
    ({"bands": 1}, "expected 0 or 2"),
    ({"bands": 257}, "expected 0 or 2"),
    ({"bands": 0}, "for a sum with bands"),
    ({"bands": 0, "rotation": b""}, "for a sum with bands"),
    ({"bands": 0, "divisor": 0}, "for a sum with bands"),
    ({"central": False}, "for central sums"),
    ({"sketch": 5}, "for central sums"),
    ({"records": 5}, "for central sums"),
    ({"quantile": 5.0}, "for central sums"),
    ({"divisor": 3}, "expected 4"),
    ({"divisor": 0}, "expected 4"),
    ({"divisor": (1 << 20) + 1}, "expected 4"),
    ({"rotation": SEED[:31]}, "32 bytes"),
]


@pytest.mark.parametrize(("changed", "why"), IMPOSSIBLE)
def test_what_a_session_may_not_say(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(ParameterError, match=why):
        replace(BANDED, **changed)


@pytest.mark.parametrize(("changed", "why"), IMPOSSIBLE)
def test_a_device_reads_no_such_session(changed: dict[str, Any], why: str) -> None:
    forged = replace(BANDED)
    for name, value in changed.items():
        object.__setattr__(forged, name, value)
    with pytest.raises(MalformedMessage, match=why):
        decoded(encoded(forged))


def test_one_rotation_for_all_sessions() -> None:
    mechanism, update = Mechanism.of(replace(BANDED, dropouts=3)), np.arange(10.0)
    one, other = (mechanism.encode(update, session, RAND) for session in (SESSION, RAND))
    assert np.array_equal(one, other)
    apart = replace(mechanism, rotation=b"")
    assert not np.array_equal(apart.encode(update, RAND, RAND), one)
    opened = apart.decode(one, 1)
    assert np.array_equal(apart.update(opened, SEED), mechanism.update(opened, SESSION))


def test_a_radius_is_the_largest_that_leaves_room() -> None:
    """By the formula of the docstring once more, in floats."""
    for bands, divisor in ((2, 30), (10, 1000)):
        mechanism = Mechanism(
            1000, 30, 5, 0, 1.0, 2.0, 28, central=True, bands=bands, divisor=divisor
        )
        a, tail = np.array(coefficients(bands)), 21 * math.log(2)

        def reach(radius: int, a: Any = a, tail: float = tail, divisor: int = divisor) -> float:
            signal = (a.sum() * divisor * radius) ** 2 / width_of(1000)
            bound = (radius + 1) ** 2 + math.ceil(1000 / 6) + math.isqrt(1000)
            rest = (a @ a) * (divisor / 4 + 4 * bound)
            return math.sqrt(2 * tail * (signal + rest)) + tail / 3

        assert reach(mechanism.radius) <= ((1 << 27) - 1) * (1 + 1e-6)
        assert reach(mechanism.radius + 1) > ((1 << 27) - 1) * (1 - 1e-6)


def wrapped(mechanism: Mechanism, tries: int) -> int:
    """Coordinates outside the ring in mixes of sums, where all devices send the same in all
    rounds. Without the noise, which is small."""
    half, count, rand = 1 << (mechanism.bits - 1), 0, Counted(b"bands")
    for i in range(tries):
        turned = replace(mechanism, rotation=i.to_bytes(32, "little"))
        sums: deque[Any] = deque(maxlen=mechanism.bands)
        for _ in range(mechanism.bands):
            steps = [
                turned.rounded(np.ones(mechanism.length), SESSION, rand(32))
                for _ in range(mechanism.clients)
            ]
            sums.appendleft(np.sum(steps, axis=0, dtype=np.int64))
        mixed = np.tensordot(coefficients(mechanism.bands), np.array(sums), 1)
        count += int(((mixed < -half) | (mixed >= half)).sum())
    return count


def test_mixed_sums_leave_the_ring_as_seldom_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a chance of 2**-4 in the place of 2**-20. |a| times as much room as one sum takes is
    too little: under one rotation what is alike in all rounds adds up."""
    mechanism = Mechanism(1 << 10, 3, 0, 0, 1.0, 0.01, 20, central=True, bands=16, divisor=3)
    samples, a = 16 << 10, np.array(coefficients(16))
    assert wrapped(mechanism, 16) == 0
    monkeypatch.setattr(mechanisms, "WRAP", 4)
    mechanisms._radius.cache_clear()
    try:
        assert 0 < wrapped(mechanism, 16) < samples / 16
        too_large = int(mechanism.radius * a.sum() / math.sqrt(a @ a))
        monkeypatch.setattr(mechanisms, "_radius", lambda *_: too_large)
        assert wrapped(mechanism, 16) > samples / 16
    finally:
        monkeypatch.undo()
        mechanisms._radius.cache_clear()


@pytest.mark.parametrize(
    ("bands", "noise", "length"), [(2, 0.7, 1), (10, 2.0, 650), (64, 9.5, 3000)]
)
def test_a_round_costs_what_it_would_without_bands(bands: int, noise: float, length: int) -> None:
    """And what a ledger counts is the record of the stream."""
    mechanism = choose(length, 4, 1, 0, 1.0, noise, central=True, bands=bands, divisor=5)
    assert mechanism.overhead <= 0.01
    (release,) = releases_of(mechanism.agreed, 7, 3, 3, 0)
    assert release == mechanism.banded(bands + 2).release(7, 3, 4, 3)
    assert release.source is Source.SERVER
    assert isinstance(release.mechanism, Discrete)
    assert release.mechanism.law.variance == mechanism.variance == mechanism.share
    assert release.mechanism.square == mechanism.banded(bands).square
    spent = compose([release], Adversary.OUTSIDER).plain[0, GDP]
    assert spent == pytest.approx(noise**-2, rel=2e-3)
    assert spent >= noise**-2


def test_nobody_adds_independent_noise_to_such_a_sum() -> None:
    mechanism = Mechanism.of(BANDED)
    opened = mechanism.decode(np.append(np.zeros(10), 4).astype(np.uint32), 4)
    with pytest.raises(ParameterError, match="a stream's"):
        mechanism.add_noise(opened, RAND)
