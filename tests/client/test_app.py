"""`SecureClientApp` against servers that try: what is refused, why, and what is left afterwards."""

import io
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp

from tacit.client.app import DeviceFailed, SecureClientApp
from tacit.client.device import Device, simulated_device
from tacit.client.policy import Policy
from tacit.crypto.codec import Codec
from tacit.crypto.errors import MalformedMessage, PolicyRefusal, ProtocolError, TacitError
from tacit.crypto.identity import NO_KEM, Member, Roster, RunKey, run_public
from tacit.crypto.secagg import stages
from tacit.crypto.secagg.messages import AttestRequest
from tacit.crypto.secagg.server import Attesting
from tacit.crypto.secagg.session import Purpose, Session
from tacit.crypto.simulated import simulated_identity
from tacit.crypto.vector import Layout, model_digest
from tacit.server.flower import copy_records, identity
from tacit.simulations.engine.device import handle
from tests.runtime import linear
from tests.runtime.desk import RUN, Desk, answer, context, field, message, stage, trained

SECRET = "patient 4711 is ill"


@pytest.fixture(autouse=True)
def _task() -> Iterator[None]:
    with identity(RUN):
        yield


@pytest.fixture
def desk() -> Desk:
    return Desk().enrol()


def refused(
    act: Callable[..., object], reason: str, kind: type[TacitError] = ProtocolError
) -> None:
    with pytest.raises(kind, match=reason):
        act()


# Outside a secure sum


@pytest.mark.parametrize("kind", ["train", "evaluate", "query", "train.other", "query.keys"])
def test_nothing_is_answered_outside_a_secure_sum(desk: Desk, kind: str) -> None:
    content = RecordDict({"arrays": desk.model, "config": ConfigRecord({"server-round": 1})})
    refused(lambda: desk.ask(1, kind, content), "outside a secure sum", PolicyRefusal)


def test_an_owner_may_allow_it() -> None:
    desk = Desk(policy=Policy(plain=True))
    content = RecordDict({"arrays": desk.model, "config": ConfigRecord({"server-round": 1})})
    reply = desk.ask(1, "train", content)
    assert reply.metric_records["metrics"][linear.WEIGHT] == 20
    assert "accuracy" in desk.ask(1, "evaluate", content).metric_records["metrics"]


def test_the_owners_vault_forbids_what_the_app_allows() -> None:
    """The app comes from whoever submits the run; the policy in the vault does not."""

    def strict(context: Context) -> Device:
        return replace(simulated_device(context), policy=Policy())

    desk = Desk(policy=Policy(plain=True), device_of=strict)
    content = RecordDict({"arrays": desk.model, "config": ConfigRecord({"server-round": 1})})
    refused(lambda: desk.ask(1, "train", content), "policy.plain", PolicyRefusal)


def test_an_app_without_a_policy_leaves_it_to_the_vault() -> None:
    def loose(context: Context) -> Device:
        return replace(simulated_device(context), policy=Policy(plain=True))

    desk = Desk(policy=None, device_of=loose)
    content = RecordDict({"arrays": desk.model, "config": ConfigRecord({"server-round": 1})})
    assert desk.ask(1, "train", content).metric_records["metrics"][linear.WEIGHT] == 20


def only(model: ArrayRecord) -> Policy:
    """The policy of an owner who allows this model's structure, and plain requests."""
    return Policy(plain=True, models=(Layout.of(linear.arrays_of(model)).fingerprint,))


def slipped_in(model: ArrayRecord) -> ArrayRecord:
    return linear.record({**linear.arrays_of(model), "planted": np.zeros((9, 30))})


@pytest.mark.parametrize("kind", ["train", "evaluate", "query"])
def test_a_model_that_the_owner_does_not_list_is_refused_in_the_clear_too(kind: str) -> None:
    desk = Desk(policy=only(linear.initial()))
    config = ConfigRecord({"server-round": 1})
    content = RecordDict({"arrays": slipped_in(desk.model), "config": config})
    refused(lambda: desk.ask(1, kind, content), "policy.models", PolicyRefusal)
    # As a second one, beside one that is listed, a function could still read it.
    content = RecordDict({"arrays": desk.model, "more": slipped_in(desk.model), "config": config})
    refused(lambda: desk.ask(1, kind, content), "policy.models", PolicyRefusal)
    if kind != "query":
        desk.ask(1, kind, RecordDict({"arrays": desk.model, "config": config}))


@pytest.mark.parametrize("purpose", Purpose)
def test_a_model_that_the_owner_does_not_list_is_refused_before_anything_is_trained(
    purpose: Purpose,
) -> None:
    trained_on = []

    def train(message: Message, context: Context) -> RecordDict:
        trained_on.append(context.node_id)
        return linear.train_reply(message, context)

    desk = Desk(policy=only(linear.initial()), train=train).enrol()
    listed, desk.model = desk.model, slipped_in(desk.model)
    refused(lambda: desk.report(1, desk.session(1, purpose)), "policy.models", PolicyRefusal)
    assert not trained_on
    desk.model = listed
    desk.sum(desk.session(1, purpose))  # nor has the round been served


def test_a_record_of_our_name_and_another_kind_is_no_secure_sum(desk: Desk) -> None:
    content = RecordDict({stages.RECORD: desk.model, "config": ConfigRecord({"server-round": 1})})
    refused(lambda: desk.ask(1, "train", content), "outside a secure sum", PolicyRefusal)


def test_it_is_flowers_client_app(desk: Desk) -> None:
    assert isinstance(desk.app, ClientApp)
    mean = desk.sum(desk.session())
    want = [linear.fit(linear.arrays_of(desk.model), p) for p in range(4)]
    weights = [20 + 7 * p for p in range(4)]
    step = 4 * 10_000 / (desk.session(9).codec.scale * sum(weights))  # less than a step each
    exact = np.average([model["w"] for model in want], axis=0, weights=weights)
    np.testing.assert_allclose(mean.update[:30], exact, rtol=0, atol=step)
    assert mean.weight == sum(weights)


# Sessions outside the policy, or about something else


def other_model(desk: Desk) -> bytes:
    return model_digest({"w": np.ones(3)})


def run_key_of_ours(desk: Desk) -> tuple[RunKey, ...]:
    """Our own key, made up by the server: it does not have our identity to sign with."""
    forged = RunKey(1, run_public(bytes(range(32))), NO_KEM, desk.keys[1].signature)
    return (forged, *(desk.keys[d] for d in (2, 3, 4)))


def stolen_key(desk: Desk) -> tuple[RunKey, ...]:
    """A neighbour's key replaced by one whose secret the server holds, signed by nobody."""
    forged = RunKey(2, run_public(bytes(range(32))), NO_KEM, desk.keys[2].signature)
    return tuple(forged if d == 2 else desk.keys[d] for d in (1, 2, 3, 4))


SESSIONS: list[tuple[str, Callable[[Desk], Session], type[TacitError], str]] = [
    ("cohort of two", lambda d: d.session(cohort=(1, 2)), PolicyRefusal, "a cohort of 2"),
    ("two survivors", lambda d: d.session(min_survivors=2), PolicyRefusal, "a sum over 2"),
    (
        "a committee of one",
        lambda d: d.session(committee=(2,), threshold=1),
        PolicyRefusal,
        "threshold 1 of 1",
    ),
    (
        "narrow ring",
        lambda d: d.session(codec=Codec(33, 4, 0, 1.0, 1.0, 10.0, bits=14)),
        PolicyRefusal,
        "a ring of 14 bits",
    ),
    ("another model", lambda d: d.session(model=other_model(d)), ProtocolError, "the model is not"),
    ("other settings", lambda d: d.session(config=bytes(32)), ProtocolError, "the configuration"),
    ("another action", lambda d: d.session(kind="train.b"), ProtocolError, "the configuration"),
    ("another roster", lambda d: d.session(roster=bytes(32)), ProtocolError, "another roster"),
    ("another run", lambda d: d.session(run=RUN + 1), ProtocolError, "our key of this run"),
    ("without us", lambda d: d.session(cohort=(2, 3, 4)), ProtocolError, "our key of this run"),
    (
        "our key",
        lambda d: d.session(cohort=None, **forge(d, run_key_of_ours)),
        ProtocolError,
        "our key",
    ),
    (
        "a peer's key",
        lambda d: d.session(**forge(d, stolen_key)),
        ProtocolError,
        "device 2.*not signed",
    ),
]


def forge(desk: Desk, cohort: Callable[[Desk], tuple[RunKey, ...]]) -> dict[str, Any]:
    return {"cohort_keys": cohort(desk)}


@pytest.mark.parametrize(
    ("made", "kind", "reason"), [s[1:] for s in SESSIONS], ids=[s[0] for s in SESSIONS]
)
def test_sessions_that_are_refused(
    desk: Desk, made: Callable[[Desk], Session], kind: type[TacitError], reason: str
) -> None:
    session = made(desk)
    content = desk.request(session)
    refused(lambda: desk.ask(1, "train", content), reason, kind)
    # Nothing was counted: the honest session of the same round is still served, and whole.
    desk.sum(desk.session())


def test_a_session_to_evaluate_is_refused_in_a_train_message(desk: Desk) -> None:
    session = desk.session(purpose=Purpose.EVALUATE)
    refused(lambda: desk.ask(1, "train", desk.request(session)), "to evaluate in a train message")
    session = desk.session(kind="evaluate")
    refused(lambda: desk.ask(1, "evaluate", desk.request(session)), "to train in a evaluate")


EXTRAS: dict[str, dict[str, Any]] = {
    "a second model": {"more": ArrayRecord({"w": Array(np.zeros(2))})},
    "a second configuration": {"more": ConfigRecord({"rate": 0.0})},
    "numbers on the side": {"more": MetricRecord({"rate": 0.0})},
    "other settings": {"config": ConfigRecord({"server-round": 1, "rate": 0.0})},
    "no settings": {"config": ConfigRecord()},
    "another round": {"config": ConfigRecord({"server-round": 2})},
    "another type": {"config": ConfigRecord({"server-round": 1.0})},
}


@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS)
def test_nothing_a_function_could_read_is_left_unbound(desk: Desk, extra: dict[str, Any]) -> None:
    """Devices asked to do different things give a sum in which one of them stands out."""
    content = desk.request(desk.session(), **extra)
    refused(lambda: desk.ask(1, "train", content), ".", TacitError)
    desk.sum(desk.session())


def test_different_models_in_one_session_are_noticed_by_every_device(desk: Desk) -> None:
    """Pasquini et al. 2022: a model of its own for each device, one session for all."""
    session = desk.session()
    desk.model = linear.record({**linear.arrays_of(desk.model), "w": np.ones(30)})
    for device in desk.contexts:
        refused(lambda d=device: desk.report(d, session), "the model is not")


def test_a_session_for_each_device_opens_nothing(desk: Desk) -> None:
    """... or a session of its own for each: then the masks do not cancel, which the count shows."""
    honest = desk.session()
    attesting = desk.collected(honest, devices=(1, 2, 3))
    desk.model = linear.record({**linear.arrays_of(desk.model), "w": np.ones(30)})
    other = desk.session()
    assert other.id != honest.id
    report = desk.report(4, other)
    refused(lambda: Attesting(attesting.closed).add(report, sender=4), ".", TacitError)
    # The members of the honest session know nothing of device 4's; it knows nothing of theirs.
    refused(
        lambda: desk.attest(4, attesting.request(4), attesting.closed.session), "another session"
    )


@pytest.mark.parametrize(
    "session", [b"", b"\x01", b"\xff" * 400], ids=["empty", "short", "wrong version"]
)
def test_garbage_for_a_session_is_malformed(desk: Desk, session: bytes) -> None:
    ours = stage(session=session, weight_key=linear.WEIGHT)
    content = RecordDict({"arrays": desk.model, "config": ConfigRecord(), **ours})
    refused(lambda: desk.ask(1, "train", content), ".", MalformedMessage)


def test_a_tampered_session_is_refused_wherever_it_was_tampered_with(desk: Desk) -> None:
    """One byte changed: what decodes at all is refused, for whatever reason comes first."""
    good, before = desk.session().encode(), desk.contexts[1]
    accepted = set()
    for at in range(0, len(good), 3):
        bad = good[:at] + bytes([good[at] ^ 0x41]) + good[at + 1 :]
        ours = stage(session=bad, weight_key=linear.WEIGHT)
        content = RecordDict({"arrays": desk.model, "config": ConfigRecord(desk.config(1)), **ours})
        # A fresh device each time, or the first session that it takes would hide the others.
        state = copy_records(before.state)
        desk.contexts[1] = Context(RUN, before.node_id, before.node_config, state, {})
        try:
            desk.ask(1, "train", content)
        except TacitError:
            continue
        accepted.add(at)
    # What a server is free to choose: the round, the codec's slots, width and bounds, threshold
    # and min_survivors if the policy holds. All are in the session's id, so a session that was
    # changed for one device is another one, and its masks do not cancel.
    digests = 3 * 32
    free = {*range(9, 13), *range(26, 52), *range(len(good) - digests - 9, len(good) - digests - 1)}
    assert accepted
    assert accepted <= free


def test_missing_fields_are_malformed(desk: Desk) -> None:
    for kind in ("train", stages.ENROL, stages.ATTEST, stages.REVEAL):
        refused(lambda k=kind: desk.ask(1, k, stage(nothing=b"")), ".", TacitError)
    content = stage(session="text, not bytes", weight_key=b"bytes, not text")
    refused(lambda: desk.ask(1, "train", content), "no 'session'", MalformedMessage)


# Rounds: once, and forward


def test_a_session_is_served_once(desk: Desk) -> None:
    session = desk.session()
    desk.report(1, session)
    refused(lambda: desk.report(1, session), r"round 1 \(train\) was served before")
    # A replay is a server that is up to something: the sum it was about is over here as well.
    request = AttestRequest(session.id, (), (), (), ())
    refused(lambda: desk.attest(1, request, session), "asked for Reported, at NoneType")


def test_a_round_is_not_repeated_with_another_cohort_or_another_model(desk: Desk) -> None:
    """The difference of two sums over nearly the same devices is one device's update."""
    desk.collected(desk.session())
    refused(lambda: desk.report(1, desk.session(cohort=(1, 2, 3))), "was served before")
    desk.model = linear.record({**linear.arrays_of(desk.model), "w": np.ones(30)})
    refused(lambda: desk.report(1, desk.session()), "was served before")


def test_rounds_only_go_forward(desk: Desk) -> None:
    desk.sum(desk.session(5))
    for round_ in (1, 4, 5):
        refused(lambda r=round_: desk.report(1, desk.session(r)), "was served before")
    # Within a round, training comes before evaluation, and each comes once.
    evaluation = desk.session(5, Purpose.EVALUATE)
    assert desk.sum(evaluation).weight == 122
    refused(lambda: desk.report(1, evaluation), r"round 5 \(evaluate\) was served")
    refused(lambda: desk.report(1, desk.session(5)), r"round 5 \(train\) was served")
    desk.sum(desk.session(6))


def test_a_new_session_ends_the_one_before(desk: Desk) -> None:
    attesting = desk.collected(desk.session(1))
    desk.collected(desk.session(2))
    refused(
        lambda: desk.attest(1, attesting.request(1), attesting.closed.session), "another session"
    )
    # ... and that question ended the second as well: nothing of either is ever opened here.
    refused(lambda: desk.attest(1, attesting.request(1), attesting.closed.session), "at NoneType")


def test_what_the_policy_refuses_ends_a_running_sum(desk: Desk) -> None:
    """A server that asks for what it may not have gets no more of what it might have had."""
    session = desk.session(1)
    attesting = desk.collected(session)
    refused(lambda: desk.report(1, desk.session(2, min_survivors=2)), "a sum over 2", PolicyRefusal)
    refused(lambda: desk.attest(1, attesting.request(1), session), "at NoneType")


@pytest.mark.parametrize("kind", [stages.ENROL, stages.ATTEST, stages.REVEAL, "train"])
def test_a_malformed_message_ends_a_running_sum(desk: Desk, kind: str) -> None:
    session = desk.session(1)
    attesting = desk.collected(session)
    refused(lambda: desk.ask(1, kind, stage(nothing=b"")), ".", TacitError)
    refused(lambda: desk.attest(1, attesting.request(1), session), "at NoneType")


def test_counters_are_written_before_the_training_starts() -> None:
    """A device that loses power while it trains must not serve the same session again."""
    powered = {"off": True}

    def train(message: Message, context: Context) -> RecordDict:
        if powered["off"]:
            raise KeyboardInterrupt
        return linear.train_reply(message, context)

    desk = Desk(train=train).enrol()
    session = desk.session()
    with pytest.raises(KeyboardInterrupt):
        desk.report(1, session)
    powered["off"] = False
    refused(lambda: desk.report(1, session), "was served before")


# Attest and reveal


def test_one_set_is_attested_once(desk: Desk) -> None:
    attesting = desk.collected(desk.session())
    desk.attest(1, attesting.request(1), attesting.closed.session)
    refused(
        lambda: desk.attest(1, attesting.request(1), attesting.closed.session),
        "asked for Reported, at Attested",
    )
    # ... which ended it: no reveal for a server that asks twice.
    for device in (2, 3, 4):
        attesting.add(
            desk.attest(device, attesting.request(device), attesting.closed.session), sender=device
        )
    refused(lambda: desk.reveal(1, attesting.close().request()), "asked for Attested, at NoneType")


def test_no_reveal_without_attest(desk: Desk) -> None:
    attesting = desk.collected(desk.session())
    for device in (2, 3, 4):
        attesting.add(
            desk.attest(device, attesting.request(device), attesting.closed.session), sender=device
        )
    request = attesting.close().request()
    refused(lambda: desk.reveal(1, request), "asked for Attested, at Reported")
    assert desk.reveal(2, request)
    refused(lambda: desk.reveal(2, request), "asked for Attested, at NoneType")


def test_a_member_is_not_asked_about_fewer_than_it_agreed_to(desk: Desk) -> None:
    attesting = desk.collected(desk.session())
    whole = attesting.request(1)
    few = AttestRequest(
        whole.session, (1, 2), whole.neighbours[:2], whole.sealed[:2], whole.hashes[:2]
    )
    session = attesting.closed.session
    refused(lambda: desk.attest(1, few, session), "2 survivors, at least 3 needed")
    refused(lambda: desk.attest(1, whole, session), "at NoneType")


def test_signatures_on_another_set_open_nothing(desk: Desk) -> None:
    """A server that shows two sets to two halves of the committee."""
    attesting = desk.collected(desk.session())
    for device in (1, 2, 3, 4):
        whole = attesting.request(device)
        if device > 2:  # these are told that device 1 dropped out
            rest = (whole.neighbours[1:], whole.sealed[1:], whole.hashes[1:])
            whole = AttestRequest(whole.session, (2, 3, 4), *rest)
        data = desk.attest(device, whole, attesting.closed.session)
        if device > 2:
            refused(
                lambda d=device, a=data: attesting.add(a, sender=d), "did not sign our survivors"
            )
        else:
            attesting.add(data, sender=device)
    with pytest.raises(TacitError, match="2 of 4 committee members attested, 3 needed"):
        attesting.close()


# Enrolment


def roster(*members: Member, serial: int = 4, authority: int = 0) -> Roster:
    honest = [Member(d, simulated_identity(d).public, 1 << 60) for d in (1, 2, 3, 4)]
    changed = {member.device: member for member in members}
    listed = [changed.get(member.device, member) for member in honest]
    return Roster.signed(simulated_identity(authority), serial, listed, bytes(32))


ROSTERS: dict[str, tuple[bytes, str]] = {
    "by another authority": (roster(authority=9).encode(), "not signed by the authority"),
    "older than ours": (roster(serial=3).encode(), "older than the one we hold"),
    "without us": (
        Roster.signed(
            simulated_identity(0),
            5,
            [Member(2, simulated_identity(2).public, 1 << 60)],
            bytes(32),
        ).encode(),
        "not on the roster",
    ),
    "expired": (
        roster(Member(1, simulated_identity(1).public, 1), serial=5).encode(),
        "membership has expired",
    ),
    "another key for us": (
        roster(Member(1, simulated_identity(8).public, 1 << 60), serial=5).encode(),
        "lists another key for us",
    ),
    "cut short": (roster().encode()[:-1], "bytes early"),
    "with a tail": (roster().encode() + b"x", "after the end"),
    "empty": (b"", "bytes early"),
}


@pytest.mark.parametrize(("data", "reason"), ROSTERS.values(), ids=ROSTERS)
def test_rosters_that_are_refused(desk: Desk, data: bytes, reason: str) -> None:
    refused(lambda: desk.ask(1, stages.ENROL, stage(roster=data)), reason)
    desk.sum(desk.session())  # and the one it holds is still the one it holds


def test_a_roster_with_one_bit_changed_is_refused() -> None:
    desk = Desk()
    good = desk.roster.encode()
    for at in range(0, len(good), 7):
        bad = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        refused(lambda data=bad: desk.ask(1, stages.ENROL, stage(roster=data)), ".")


def test_a_peer_that_has_expired_since_is_refused(desk: Desk) -> None:
    desk.roster = roster(Member(3, simulated_identity(3).public, 1), serial=5)
    for device in (1, 2):
        desk.ask(device, stages.ENROL, stage(roster=desk.roster.encode()))
    refused(lambda: desk.report(1, desk.session()), "device 3: membership has expired")


def test_not_enrolled(desk: Desk) -> None:
    desk.contexts[1] = context(0)
    refused(lambda: desk.report(1, desk.session()), "not enrolled in the run")


def test_enrolling_again_publishes_the_same_key(desk: Desk) -> None:
    before = dict(desk.keys)
    assert desk.enrol().keys == before


def test_another_run_has_another_key_and_the_old_one_is_gone(desk: Desk) -> None:
    """Forward secrecy: what is not on the device cannot be taken from it."""
    session, old = desk.session(), desk.keys[1]
    state = desk.contexts[1].state
    desk.contexts[1] = Context(RUN + 1, 1000, desk.contexts[1].node_config, state, {})
    desk.enrol([1])
    assert desk.keys[1].public != old.public
    desk.contexts[1] = Context(RUN, 1000, desk.contexts[1].node_config, state, {})
    refused(lambda: desk.report(1, session), "not enrolled in the run")


def test_in_another_run_the_rounds_begin_again(desk: Desk) -> None:
    desk.sum(desk.session(5))
    for device, before in desk.contexts.items():
        moved = Context(RUN + 1, before.node_id, before.node_config, before.state, {})
        desk.contexts[device] = moved
    with identity(RUN + 1):
        desk.enrol()
        desk.report(1, replace(desk.session(1), run=RUN + 1))


# What an exception tells, and what it does not


def raising(error: BaseException) -> linear.TrainReply:
    def train(message: Message, context: Context) -> RecordDict:
        raise error

    return train


class Odd(Exception):
    """An exception that tells its text in every way there is."""

    def __str__(self) -> str:
        return SECRET

    __repr__ = __str__


@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        Odd(),
        SystemExit(SECRET),
        # Also an error of our own: a trainer's can quote a label or a path.
        MalformedMessage(SECRET, sender=0, stage="x"),
    ],
)
@pytest.mark.parametrize("plain", [False, True])
def test_what_the_owners_function_raises_stays_on_the_device(
    error: BaseException, plain: bool, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(train=raising(error), policy=Policy(plain=plain)).enrol()
    content = desk.request(desk.session())
    if plain:
        del content[stages.RECORD]
    with caplog.at_level(logging.WARNING, "tacit.client"):
        told = desk.hear(1, "train", content)
    assert told
    assert SECRET not in told
    assert type(error).__name__ in told
    assert SECRET in caplog.text  # the owner does get to know


def test_a_deliberate_refusal_of_the_owners_function_is_passed_on() -> None:
    desk = Desk(train=raising(PolicyRefusal("this device is on battery"))).enrol()
    refused(lambda: desk.report(1, desk.session()), "on battery", PolicyRefusal)


def test_a_reply_that_is_an_error_is_not_passed_on() -> None:
    app = SecureClientApp(device_of=simulated_device)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(Error(7, SECRET), reply_to=message)

    desk = Desk()
    desk.app = app
    told = desk.enrol().hear(1, "train", desk.request(desk.session()))
    assert told
    assert SECRET not in told


PEEKS: dict[str, tuple[linear.TrainReply, dict[str, float]]] = {
    # A server sets a bound far too low on purpose, and reads the refusal.
    "the weight": (trained(num_examples=57), {"max_weight": 1e-3}),
    "a loss": (trained(loss=0.57432), {"metric_bound": 1e-6}),
    "a coordinate": (trained({"w": np.full(30, 0.57432)}), {"bound": 1e-6}),
    "a bad metric": (trained(loss=[0.57432]), {}),
    "not a number": (trained({"w": np.full(30, np.nan)}), {}),
    "a shape": (trained({"w": np.full(5743, 0.5)}), {}),
}


@pytest.mark.parametrize(("train", "bounds"), PEEKS.values(), ids=PEEKS)
def test_a_refusal_to_encode_shows_no_number(
    train: linear.TrainReply, bounds: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(train=train).enrol()
    honest = desk.session()
    codec = replace(honest.codec, **bounds)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "tacit.client"):
        told = desk.hear(1, "train", desk.request(replace(honest, codec=codec)))
    assert told
    assert "does not fit the session; the device's log has the details" in told
    assert not re.search(r"\d", told.replace("DeviceFailed", ""))
    assert "tacit.client" in {entry.name for entry in caplog.records}


def test_an_error_of_the_devices_own_shows_no_text() -> None:
    """A full disk names a path, a library quotes what it met."""

    def broken(context: Context) -> Device:
        raise OSError(28, SECRET, "/home/ward-7/vault")

    desk = Desk(device_of=broken)
    told = desk.hear(1, stages.ENROL, stage(roster=desk.roster.encode()))
    assert told
    assert "ward" not in told
    assert SECRET not in told
    assert "OSError while it answered query.tacit_enrol" in told


def test_arrays_that_are_no_arrays_are_an_error_of_the_server(desk: Desk) -> None:
    archive = io.BytesIO()
    np.savez(archive, w=np.zeros(30))
    for data in (b"", b"garbage", archive.getvalue()):
        bad = Array("float64", (30,), "numpy.ndarray", data)
        content = desk.request(desk.session())
        content["arrays"] = ArrayRecord({"w": bad})
        refused(lambda c=content: desk.ask(1, "train", c), "while it answered", DeviceFailed)


def test_secrets_are_in_no_log_and_no_exception(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        session = desk.session()
        desk.collected(session)
        desk.hear(1, "train", desk.request(session))
        desk.hear(1, stages.ATTEST, stage(message=b"garbage"))
    run_secret = simulated_device(desk.contexts[1]).vault.read("run")
    assert run_secret is not None
    for secret in (run_secret[-32:], simulated_identity(1).secret):
        assert secret.hex() not in caplog.text
        assert repr(secret)[2:-1] not in caplog.text


def test_the_reply_answers_the_message_and_holds_one_record(desk: Desk) -> None:
    request = message(desk.request(desk.session()), "train")
    reply = answer(desk.app, request, desk.contexts[1])
    assert isinstance(reply, Message)
    assert reply.metadata.reply_to_message_id == request.metadata.message_id
    assert list(reply.content) == [stages.RECORD]
    assert list(reply.content.config_records[stages.RECORD]) == [stages.MESSAGE]
    assert len(field(reply.content)) < 8_000


def test_the_function_sees_the_message_as_its_strategy_made_it() -> None:
    seen = []

    def train(message: Message, context: Context) -> RecordDict:
        seen.append(sorted(message.content))
        return linear.train_reply(message, context)

    desk = Desk(train=train).enrol()
    desk.report(1, desk.session())
    assert seen == [["arrays", "config"]]


def test_mods_see_the_plain_reply_before_it_is_masked() -> None:
    """A device-side mod, such as Flower's clipping, works on what it was written for."""
    passed = []

    def mod(message: Message, context: Context, call_next: Any) -> Message:
        reply: Message = call_next(message, context)
        passed.append(sorted(reply.content))
        return reply

    app = SecureClientApp(device_of=simulated_device, mods=[mod])
    linear.register(app)
    desk = Desk()
    desk.app = app
    desk.enrol().report(1, desk.session())
    assert passed == [["arrays", "metrics"]]


def test_the_engine_shows_what_flower_would(desk: Desk) -> None:
    """`handle` is how all engines answer for a device: the reason is the exception's text."""
    request = message(RecordDict(), "train")
    reply = handle(desk.app, request, desk.contexts[1]).reply
    assert reply.has_error()
    assert reply.error.reason is not None
    assert reply.error.reason.startswith("PolicyRefusal: train outside a secure sum")
