"""The faults' own language, and what each corruption does to a reply."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from tacit.crypto.errors import ParameterError
from tacit.server.flower import error_reply, identity
from tacit.simulations.engine.faults import (
    CALM,
    Corrupt,
    Corruption,
    Crash,
    Delay,
    Drop,
    Fault,
    parse_fault,
    plan_for,
    round_of,
    stage_of,
)


def message(kind: str = "train", group: str = "", **config: int) -> Message:
    with identity(1):
        content = RecordDict({"config": ConfigRecord({**config})})
        return Message(content, 1000, kind, group_id=group)


def reply() -> Message:
    arrays = {"w": Array(np.ones((2, 3), np.float32)), "n": Array(np.arange(4))}
    content = {
        "arrays": ArrayRecord(arrays),
        "metrics": MetricRecord({"num-examples": 5, "loss": 0.5}),
        "config": ConfigRecord({"one": b"abcdefgh", "many": [b"abcd", b"efghijkl"], "n": [1, 2]}),
    }
    return Message(RecordDict(content), reply_to=message())


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("drop report 3,7 @2-4", Drop("report", {3, 7}, {2, 3, 4})),
        ("drop reveal 3 after", Drop("reveal", {3}, after=True)),
        ("drop enrol 0-2,9 @ 1,5 after", Drop("enrol", {0, 1, 2, 9}, {1, 5}, after=True)),
        ("delay 2.5 attest 0", Delay(2.5, "attest", {0})),
        ("corrupt wrong-shape report 1@2", Corrupt("report", {1}, {2}, Corruption.WRONG_SHAPE)),
        ("  crash   evaluate 0-0 ", Crash("evaluate", {0})),
    ],
)
def test_parse(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a kind should follow"),
        ("dorp report 3", "did you mean 'drop'"),
        ("explode report 3", "known are drop, delay, corrupt, crash"),
        ("drop reprot 3", "did you mean 'report'"),
        ("drop report", "devices"),
        ("drop report three", "does not name devices"),
        ("drop report 3,", "does not name devices"),
        ("drop report -3", "does not name devices"),
        ("drop report 4-2", "runs backwards"),
        ("drop report 3 @", "rounds"),
        ("drop report 3 @x", "does not name rounds"),
        ("drop report 3 @2 4", "cannot read '4'"),
        ("crash report 3 after", "cannot read 'after'"),
        ("delay soon report 3", "not a number of seconds"),
        ("delay -1 report 3", "expected 0 or more"),
        ("delay nan report 3", "expected 0 or more"),
        ("corrupt nam report 3", "did you mean 'nan'"),
    ],
)
def test_parse_refuses(text: str, says: str) -> None:
    with pytest.raises(ParameterError, match=says) as refused:
        parse_fault(text)
    assert repr(text) in str(refused.value)


def test_a_fault_built_in_code_is_checked_as_well() -> None:
    with pytest.raises(ParameterError, match="did you mean 'report'"):
        Drop("raport", {1})
    with pytest.raises(ParameterError, match="-1 is not a device"):
        Crash("report", {-1})
    with pytest.raises(ParameterError, match=r"1\.5 is not a round"):
        Crash("report", {1}, {1.5})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "stage"),
    [
        ("query.tacit_enrol", "enrol"),
        ("query.tacit_encapsulate", "encapsulate"),
        ("query.tacit_decapsulate", "decapsulate"),
        ("query.tacit_report", None),
        ("train", "report"),
        ("train.masked", "report"),
        ("query.tacit_attest", "attest"),
        ("query.tacit_reveal", "reveal"),
        ("evaluate.tacit", "evaluate"),
        ("query", None),
        ("query.enrol", None),
    ],
)
def test_stage_of(kind: str, stage: str | None) -> None:
    assert stage_of(kind) == stage


def test_round_of() -> None:
    assert round_of(message(group="7", **{"server-round": 3})) == 7
    assert round_of(message(group="x", **{"server-round": 3})) == 3
    assert round_of(message(lr=1)) is None


def test_plan_takes_due_faults_together() -> None:
    faults = (
        Delay(1.0, "report", {0, 1}),
        Delay(2.0, "report", {0}, {3}),
        Drop("report", {0}, {4}),
        Drop("enrol", {0}),
    )
    assert plan_for(faults, message(group="3"), 0).delay == 3.0
    assert not plan_for(faults, message(group="3"), 0).silent
    assert plan_for(faults, message(group="4"), 0).silent
    assert plan_for(faults, message(group="4"), 1).delay == 1.0
    assert plan_for(faults, message(), 0).delay == 1.0  # no round: only what is for good
    assert plan_for(faults, message(), 2) is CALM
    assert plan_for(faults, message("query"), 0) is CALM


def spoil(how: Corruption, device: int = 0, seed: int = 0) -> RecordDict:
    before = reply()
    after = plan_for([Corrupt("report", {device}, how=how, seed=seed)], message(), device).spoil(
        before
    )
    assert before.content == reply().content, "the device's own reply must stay as it was"
    assert after is not None
    return after.content


def test_nan_is_in_every_float_array() -> None:
    arrays = spoil(Corruption.NAN)["arrays"]
    assert np.isnan(arrays["w"].numpy()).all()
    assert arrays["w"].numpy().shape == (2, 3)
    assert np.array_equal(arrays["n"].numpy(), np.arange(4))


def test_wrong_shape_and_other_key_change_the_first_array() -> None:
    assert spoil(Corruption.WRONG_SHAPE)["arrays"]["w"].numpy().shape == (7,)
    assert set(spoil(Corruption.OTHER_KEY)["arrays"]) == {"n", "w.other"}


def test_huge_weight() -> None:
    metrics = spoil(Corruption.HUGE_WEIGHT)["metrics"]
    assert dict(metrics) == {"num-examples": 10**12, "loss": 0.5}


def test_garbage_fills_every_bytes_field_and_repeats() -> None:
    content, clean = spoil(Corruption.GARBAGE), reply().content
    assert content["arrays"]["w"].data != clean["arrays"]["w"].data
    assert len(content["arrays"]["w"].data) == len(clean["arrays"]["w"].data)
    assert content["config"]["one"] != b"abcdefgh"
    assert [len(blob) for blob in content["config"]["many"]] == [4, 8]
    assert content["config"]["many"] != [b"abcd", b"efghijkl"]
    assert content["config"]["n"] == [1, 2]
    assert content == spoil(Corruption.GARBAGE)
    assert content != spoil(Corruption.GARBAGE, seed=1)
    assert content != spoil(Corruption.GARBAGE, device=1)


def test_a_custom_corruption_sees_the_reply_and_an_error_is_left_alone() -> None:
    def shrink(spoilt: Message) -> Message:
        del spoilt.content["arrays"]
        return spoilt

    plan = plan_for([Corrupt("report", {0}, how=shrink)], message(), 0)
    after = plan.spoil(reply())
    assert after is not None
    assert "arrays" not in after.content
    error = error_reply(message(), 2, "no")
    assert plan.spoil(error) is error
