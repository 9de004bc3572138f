"""What a sum is said to cost a device: bytes to the byte, seconds by their laws."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.codec import Codec
from tacit.crypto.lattice.sets import SETS
from tacit.crypto.secagg import costs
from tacit.crypto.secagg.costs import Cost, encrypted, masked
from tacit.crypto.secagg.messages import Report
from tacit.crypto.secagg.session import Session
from tests.crypto.federation import Federation


def check_bytes(session: Session, report: Report, cost: Cost) -> None:
    assert cost.vector == len(report.packed)
    boxes = b"".join([*report.sealed, *report.hashes])
    assert cost.sealed == len(boxes) + len(report.commitments)
    sent = len(report.encode(session))
    assert 0 < sent - cost.vector - cost.sealed < 200  # the header, the neighbours, a signature


@pytest.mark.parametrize("bits", [16, 32, 40])
def test_bytes_of_masked_reports(bits: int) -> None:
    crew = Federation(9)
    codec = Codec(1000, 9, 2, max_weight=100.0, metric_bound=10.0, bits=bits)
    session = crew.session(codec, committee=(1, 2, 5, 7, 8), threshold=3)
    _, report = crew.report(session, 4)
    check_bytes(session, report, masked(codec.size, bits, 8, 5))
    sparse = replace(session, degree=3)
    _, report = crew.report(sparse, 4)
    assert 0 < len(report.neighbours) < 8
    check_bytes(sparse, report, masked(codec.size, bits, len(report.neighbours), 5))


@pytest.mark.parametrize("name", list(SETS))
def test_bytes_of_encrypted_reports(name: str) -> None:
    crew, scheme = Federation(9), SETS[name].room(9, 1006)
    codec = Codec(1000, 9, 2, max_weight=100.0, metric_bound=10.0, bits=scheme.bits)
    committee = {"committee": (1, 2, 5, 7, 8), "threshold": 3}
    session = crew.session(codec, lattice=name, degree=0, **committee)
    _, report = crew.report(session, 4)
    check_bytes(session, report, encrypted(scheme, codec.size, 5))


sizes, bits, degrees = st.integers(1, 10**8), st.integers(8, 62), st.integers(1, 1000)
members = st.integers(2, 255)


@given(sizes, bits, degrees, members)
def test_more_of_anything_costs_more(size: int, bits: int, degree: int, members: int) -> None:
    cost = masked(size, bits, degree, members)
    assert cost.total == pytest.approx(cost.seconds + (cost.vector + cost.sealed) / costs.UPLINK)
    for more in (
        masked(size + 64, bits, degree, members),
        masked(size, bits, degree + 1, members),
        masked(size, bits, degree, members + 1),
    ):
        assert more.total > cost.total
    for scheme in SETS.values():
        cost = encrypted(scheme, size, members)
        assert encrypted(scheme, size + 3, members).total > cost.total
        assert encrypted(scheme, size, members + 1).total > cost.total


def test_a_mask_is_twice_the_work_in_words_of_64_bits() -> None:
    assert 2 * costs.mask_seconds(32) == costs.mask_seconds(33)
