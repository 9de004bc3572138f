"""The benchmark of a report's cost measures the report that it reckons with."""

import pytest

from benchmarks.report_costs import MASKS, cost
from tacit.crypto.secagg import client, costs
from tacit.crypto.secagg.session import Session


@pytest.mark.parametrize("lattice", [MASKS, "2048-32-1"])
def test_one_report_is_measured_and_reckoned(lattice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[Session] = []
    right = client.report

    def noting(state, identity, session, *rest):  # type: ignore[no-untyped-def]
        sessions.append(session)
        return right(state, identity, session, *rest)

    monkeypatch.setattr(client, "report", noting)
    measured, reckoned = cost(100, 4, 3, lattice)
    session = sessions[-1]
    assert (len(session.cohort), len(session.committee), session.codec.length) == (4, 3, 100)
    assert (session.lattice, session.degree) == ((lattice, 0) if lattice else ("", 3))
    size, bits = session.codec.size, session.codec.bits
    own = costs.masked(size, bits, 3, 3)
    if session.scheme is not None:
        own = costs.encrypted(session.scheme, size, 3)
    assert reckoned == own.seconds
    assert 0 < measured < 1
