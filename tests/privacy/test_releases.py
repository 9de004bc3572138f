"""Records of releases: what can be built, and their bytes."""

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import MalformedMessage, ParameterError
from tacit.privacy.releases import (
    Concentrated,
    Discrete,
    Gaussian,
    Neighbours,
    Release,
    Source,
    Unit,
)
from tacit.privacy.samplers import DiscreteGaussian, Skellam
from tests.privacy.records import SKELLAM, release, releases


@given(releases())
def test_a_record_comes_back_from_its_bytes(record: Release) -> None:
    data = record.encode()
    assert Release.decode(data) == record
    assert len(data) < 256


@given(releases(), st.data())
def test_whatever_decodes_encodes_the_same(record: Release, data: st.DataObject) -> None:
    raw = bytearray(record.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    raw = raw[: data.draw(st.sampled_from([len(raw), at]))]
    try:
        found = Release.decode(bytes(raw))
    except MalformedMessage:
        return
    assert found.encode() == bytes(raw)
    assert found != record


def test_known_bytes() -> None:
    """A record that is kept has to be read by later versions."""
    assert release().encode().hex() == (
        "0201010101010000000000000001000000"  # version, what it is, run, round
        "0c0000000a00000003000000000000000000f03f"  # devices, rate
        "00"  # who knows how many were drawn
        "0140420f00000000000000100000000000"  # Skellam, square, length
        "0300000040420f0100000007"  # a million sevenths
    )


def fraction(numerator: bytes, denominator: bytes) -> bytes:
    parts = (numerator, denominator)
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


@pytest.mark.parametrize(
    ("numerator", "denominator"),
    [
        (b"\x0a", b"\x02"),
        (b"\x0a\0", b"\x01"),
        (b"\x01", b""),
        (b"", b"\x01"),
        (b"\x05", b"\x01\0"),
    ],
)
def test_a_variance_has_one_encoding(numerator: bytes, denominator: bytes) -> None:
    record = release(Discrete(Skellam(Fraction(5)), 1, 1)).encode()
    end = len(fraction(b"\x05", b"\x01"))
    assert record.endswith(fraction(b"\x05", b"\x01"))
    with pytest.raises(MalformedMessage):
        Release.decode(record[:-end] + fraction(numerator, denominator))


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 37, 38])
def test_a_kind_that_there_is_not_is_refused(at: int) -> None:
    raw = bytearray(release().encode())
    raw[at] = 9
    with pytest.raises(MalformedMessage):
        Release.decode(bytes(raw))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"survivors": 13}, "corrupt < survivors <= cohort"),
        ({"corrupt": 10}, "corrupt < survivors <= cohort"),
        ({"corrupt": -1}, "corrupt < survivors <= cohort"),
        ({"survivors": 0, "corrupt": 0}, "corrupt < survivors <= cohort"),
        ({"cohort": 1 << 32}, "corrupt < survivors <= cohort"),
        ({"rate": 0.0}, "0 < rate <= 1"),
        ({"rate": 1.5}, "0 < rate <= 1"),
        ({"rate": math.nan}, "0 < rate <= 1"),
        ({"round": -1}, "no such round"),
        ({"run": 1 << 64}, "no such round"),
        ({"neighbours": Neighbours.ADD_OR_REMOVE}, "takes its noise along"),
        ({"neighbours": Neighbours.ADD_OR_REMOVE, "source": Source.OWN}, "takes its noise along"),
        ({"neighbours": Neighbours.ADD_OR_REMOVE, "unit": Unit.RECORD}, "a count tells"),
        ({"neighbours": Neighbours.ADD_OR_REMOVE, "source": Source.SERVER}, "a count tells"),
        ({"mechanism": Concentrated(0.5, 0.0)}, "not of a share"),
    ],
)
def test_what_makes_no_sense_cannot_be_built(changes: dict[str, object], why: str) -> None:
    with pytest.raises(ParameterError, match=why):
        replace(release(), **changes)


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: Gaussian(0.0, 1.0), "sensitivity=0.0"),
        (lambda: Gaussian(1.0, -1.0), "sigma=-1.0"),
        (lambda: Gaussian(1.0, math.inf), "sigma=inf"),
        (lambda: Gaussian(math.nan, 1.0), "sensitivity=nan"),
        (lambda: Concentrated(0.0, 0.0), "rho=0.0"),
        (lambda: Concentrated(math.nan, 0.0), "rho=nan"),
        (lambda: Concentrated(1.0, 1.0), "distance=1.0"),
        (lambda: Concentrated(1.0, -0.0), "distance=-0.0"),
        (lambda: Concentrated(1.0, math.nan), "distance=nan"),
        (lambda: replace(SKELLAM, square=0), "square=0"),
        (lambda: replace(SKELLAM, square=(1 << 62) + 1), "square="),
        (lambda: replace(SKELLAM, length=0), "length=0"),
        (lambda: replace(SKELLAM, law=10), "no accountant knows"),
        (lambda: replace(SKELLAM, law=Skellam(Fraction(3**400, 4**317))), "more than 64 bytes"),
    ],
)
def test_impossible_mechanisms_are_refused(build: object, why: str) -> None:
    with pytest.raises(ParameterError, match=why):
        build()


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: replace(release(), unit=1), "unit=1 is of type int"),
        (lambda: replace(release(), neighbours=2), "neighbours=2 is of type int"),
        (lambda: replace(release(), source=3), "source=3 is of type int"),
        (lambda: replace(release(), use=1), "use=1 is of type int"),
        (lambda: replace(release(), corrupt=2.5), "corrupt=2.5 is of type float"),
        (lambda: replace(release(), survivors=np.int64(9)), "is of type int64"),
        (lambda: replace(release(), rate=np.float32(0.1)), "is of type float32"),
        (lambda: replace(release(), is_count_hidden=1), "is_count_hidden=1 is of type int"),
        (lambda: replace(SKELLAM, square=np.int64(1 << 62)), "is of type int64"),
        (lambda: Gaussian(np.float16(200), 3000.0), "is of type float16"),
        (lambda: Concentrated(np.float32(0.1), 0.0), "is of type float32"),
    ],
)
def test_what_only_looks_like_a_value_is_refused(build: Callable[[], object], why: str) -> None:
    """As REPLACE_ONE, 2 would cost a quarter: no accountant takes it for the member that it equals.
    And four times an int64 of 2**62 is 0."""
    with pytest.raises(ParameterError, match=why):
        build()


def test_what_may_be_built() -> None:
    come_and_go = {"neighbours": Neighbours.ADD_OR_REMOVE, "is_count_hidden": True}
    release(unit=Unit.RECORD, **come_and_go)
    release(source=Source.SERVER, **come_and_go)
    release(Concentrated(0.5, 0.0), source=Source.OWN)


def test_shares_of_honest_survivors_count() -> None:
    assert [release(source=source).shares for source in Source] == [7, 1, 1]


def test_the_distance_is_that_of_all_samples_that_count() -> None:
    law = DiscreteGaussian(Fraction(10**6))
    counted = release(Discrete(law, 1, 1000)).distance
    assert counted == pytest.approx(7 * 1000 * law.distance)
    assert release(Discrete(law, 1, 1000), source=Source.OWN).distance < counted / 6
    assert release(Gaussian(1.0, 1.0)).distance == 0.0
    assert release(Concentrated(1.0, 1e-9), source=Source.OWN).distance == 1e-9
