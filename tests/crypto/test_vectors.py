"""The vectors of tests/vectors, replayed through the package."""

import json
from typing import Any

import pytest

from tacit.crypto.identity import Roster
from tacit.crypto.secagg.session import Session
from tacit.crypto.vector import others
from tests.vectors import generate


def stored(name: str) -> list[dict[str, Any]]:
    vectors: list[dict[str, Any]] = json.loads((generate.HERE / name).read_text("utf-8"))
    return vectors


SESSIONS = [vector for name in generate.SUMS for vector in stored(name)]
REFUSED = stored(generate.FILES[-1])


def test_the_files_are_what_the_script_writes() -> None:
    """A change of any byte on the wire shows here: then it is a new version of the protocol."""
    for name, content in generate.generated().items():
        stored = (generate.HERE / name).read_text("utf-8")
        assert stored == content, f"{name} is stale: python -m tests.vectors.generate"


@pytest.mark.parametrize("vector", SESSIONS, ids=lambda vector: vector["name"])
def test_what_is_stored_decodes_to_what_it_says(vector: dict[str, Any]) -> None:
    session = Session.decode(bytes.fromhex(vector["session"]))
    assert session.id.hex() == vector["session id"]
    roster = Roster.decode(bytes.fromhex(vector["roster"]))
    roster.verify(bytes.fromhex(vector["authority public"]))
    session.verify_members(roster, now=0)
    session.verify_keys(roster)
    survivors = [report["device"] for report in vector["reports"]]
    assert vector["survivors"] == survivors
    weights = [report["weight"] for report in vector["reports"]]
    wanted = [
        sum(w * x for w, x in zip(weights, column, strict=True)) / sum(weights)
        for column in zip(*(report["update"] for report in vector["reports"]), strict=True)
    ]
    # Less than a step for each device, over its share of the weight.
    codec = session.codec
    share = sum(weights) / codec.max_weight
    step, told = len(survivors) / vector["scale"] / share, vector["mean update"]
    if session.clear is not None:
        shown = [told[k] for start, stop in session.clear.ranges for k in range(start, stop)]
        exact = [total * session.clear.step / share for total in vector["clear total"]]
        assert shown == pytest.approx(exact, rel=1e-12)
        hidden = others(session.clear.ranges, len(told))
        told = [told[k] for start, stop in hidden for k in range(start, stop)]
    assert told == pytest.approx(wanted, abs=step)
    assert vector["total weight"] == pytest.approx(sum(weights), abs=0.5 / vector["weight scale"])


@pytest.fixture(scope="module")
def cases() -> dict[str, generate.Case]:
    return {case.name: case for of in generate.cases().values() for case in of}


def test_what_must_be_refused_is_refused(cases: dict[str, generate.Case]) -> None:
    for case in cases.values():
        for kind, data in case.messages().items():
            assert case.outcome(kind, data) == "accepted"
    for entry in REFUSED:
        case = cases[entry["session"]]
        data = case.messages()[entry["message"]]
        assert case.outcome(entry["message"], generate.edited(data, entry)) == entry["outcome"]


def test_every_kind_of_message_is_among_the_refused(cases: dict[str, generate.Case]) -> None:
    """Of a masked sum all are; of the other kinds those that are others there."""
    changed = {(entry["session"], entry["message"]) for entry in REFUSED}
    names = [stored(name)[0]["name"] for name in generate.SUMS]
    masked, *others = (cases[name].messages() for name in names)
    assert {kind for name, kind in changed if name == names[0]} == set(masked)
    kinds = {kind for _, kind in changed}
    assert kinds == set(masked).union(*others)
    assert "accepted" not in {entry["outcome"] for entry in REFUSED}
