"""Sessions that are not the same for all devices, and sessions that no owner agrees to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from tacit.client.policy import Policy
from tacit.crypto.codec import Codec, Ring
from tacit.crypto.errors import TacitError
from tacit.crypto.prg import add_masks
from tacit.crypto.secagg import hiding, stages
from tacit.crypto.secagg.messages import Report
from tacit.crypto.secagg.session import Purpose, Session
from tacit.crypto.wire import unpack
from tacit.server.pairwise import Pairwise
from tests.crypto.test_prg import LIMIT, chi_square
from tests.hostile.adversary import read
from tests.hostile.attack import Attack, nothing, replaced, trial, trials
from tests.hostile.crowd import Crowd, count_randomness, unit
from tests.hostile.kinds import LATTICE, PAIRS, Kind, current
from tests.runtime import linear
from tests.runtime.desk import RUN

pytestmark = pytest.mark.kinds(PAIRS, LATTICE)
VICTIM = 3
LONG = 400  # coordinates: enough for a statistic of the noise


# A session of its own for one device


@contextmanager
def told_self_keys(into: list[bytes]) -> Iterator[None]:
    """Grants the adversary the key of every self mask: all that is left are the masks of pairs."""

    def spying(vector: Ring, plus: list[bytes], minus: list[bytes]) -> None:
        into.append(plus[0])
        add_masks(vector, plus, minus)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hiding, "add_masks", spying)
        yield


Change = Callable[[Crowd], dict[str, Any]]  # what the server does to the others; session fields


def silent_model(crowd: Crowd) -> dict[str, Any]:
    crowd.silence()
    return {}


def silent_settings(crowd: Crowd) -> dict[str, Any]:
    crowd.settings = {"silent": True}
    return {}


def silent_run(crowd: Crowd) -> dict[str, Any]:
    for device, before in crowd.contexts.items():
        if device != VICTIM:
            crowd.contexts[device] = Context(
                RUN, before.node_id, before.node_config, before.state, {"silent": True}
            )
    return {}


def fields(**changes: Any) -> Change:
    return lambda crowd: changes


def singled_out(change: Change) -> np.ndarray:
    """Pasquini et al. 2022: the victim is shown one thing and all others another, best of all such
    that these send zeros. What is left of the sum once the self masks are off."""
    crowd, keys = Crowd(), list[bytes]()
    crowd.model = linear.record({"w": np.zeros(LONG)})
    with told_self_keys(keys):
        session = crowd.session()
        sent = [(session, crowd.report(VICTIM, session))]
        changes = change(crowd)
        others = crowd.session(**changes)
        sent += [(others, crowd.report(d, others)) for d in others.devices if d != VICTIM]
    codec = session.codec
    total = np.zeros(codec.size, codec.dtype)
    for shown, data in sent:
        packed = Report.decode(data, shown, sender=0).packed
        total += unpack(packed, codec.size, codec.bits)
    add_masks(total, [], keys)
    return total


def stands_out(change: Change) -> Callable[[], bool]:
    """Whether the sum opens, and the victim's input is in it by itself or with all the others'."""

    def run() -> bool:
        crowd = Crowd()
        crowd.model = linear.record({"w": np.zeros(LONG)})
        total = singled_out(change)
        reading = read(crowd.session(), total, len(crowd.keys))
        if reading is None:
            assert chi_square(total.tobytes()) < LIMIT
        return reading is not None and reading[VICTIM - 1] == 1

    return run


ONE_ID = replaced(Session, "id", property(lambda session: bytes(32)))
ONE_SETUP = replaced(stages, "setup_digest", lambda config: bytes(32))

SHOWN: dict[str, Attack] = {
    "another model": Attack(stands_out(silent_model), ONE_ID),
    "other settings": Attack(stands_out(silent_settings), ONE_ID),
    "another run configuration": Attack(stands_out(silent_run), ONE_SETUP),
    "another round": Attack(stands_out(fields(round=2)), ONE_ID),
    "another threshold": Attack(stands_out(fields(threshold=5)), ONE_ID),
    "more survivors": Attack(stands_out(fields(min_survivors=5)), ONE_ID),
    "another committee": Attack(stands_out(fields(committee=(1, 2, 4, 5), threshold=4)), ONE_ID),
    "a drawn committee": Attack(stands_out(fields(seats=5)), ONE_ID),
    "other bounds": Attack(stands_out(fields(codec=Codec(LONG, 5, 16, 7.0, bits=28))), ONE_ID),
}


@pytest.mark.kinds(PAIRS)
@trials(SHOWN)
def test_a_device_that_is_shown_something_else(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise, by a statistic of its bytes, and the count does not come out. Without the binding the
    sum opens, and of a model that silences all others it is the victim's input."""
    trial(attack, defended, monkeypatch)


@pytest.mark.kinds(PAIRS)
def test_without_the_binding_the_victim_is_read_out_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ONE_ID(monkeypatch)
    total = singled_out(silent_model)
    crowd = Crowd()
    crowd.model = linear.record({"w": np.zeros(LONG)})
    alone = tuple(int(at == VICTIM - 1) for at in range(LONG))
    assert read(crowd.session(), total, 5) == alone


@pytest.mark.kinds(PAIRS)
@pytest.mark.parametrize(
    "change",
    [
        fields(degree=3),
        lambda crowd: {"cohort_keys": [crowd.keys[d] for d in (1, 2, VICTIM, 4)]},
    ],
    ids=["another graph", "another cohort"],
)
def test_other_edges_leave_masks_on_with_any_binding(
    change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These two even a constant id would not save: the masks of one side have no other side."""
    count_randomness(monkeypatch)  # or the sparse graph might, once in a while, be complete
    for binding in (nothing, ONE_ID):
        binding(monkeypatch)
        crowd = Crowd(policy=Policy(security=0, corrupt=0.0))
        session, keys = crowd.session(), list[bytes]()
        with told_self_keys(keys):
            crowd.heard(session, [VICTIM])
            other = crowd.session(**change(crowd))
            crowd.heard(other, [device for device in other.devices if device != VICTIM])
        dealt = [one for many in crowd.adversary.dealt.values() for one in many]
        total = np.sum([one.vector() for one in dealt], axis=0, dtype=session.codec.dtype)
        add_masks(total, [], keys)
        assert read(session, total, len(dealt)) is None


# What the device checks of the message itself


def lenient(message: Message, context: Context) -> RecordDict:
    """A train function that looks for its settings under a name, and has a default."""
    rate = message.content.get("config", ConfigRecord()).get("rate", 1.0)
    reply = unit(message, context)
    model = linear.arrays_of(message.content.array_records["arrays"])
    update = linear.arrays_of(reply.array_records["arrays"])["w"] - model["w"]
    return RecordDict(
        {
            "arrays": linear.record({"w": model["w"] + rate * update}),
            "metrics": MetricRecord({linear.WEIGHT: 10_000}),
        }
    )


def settings_under_another_name() -> bool:
    """All devices are told the same session and a learning rate of 0. In the message to the victim
    the settings stand under another name, where its function does not look."""
    crowd = Crowd(train=lenient)
    crowd.settings = {"rate": 0.0}
    session = crowd.session()
    crowd.heard(session, [device for device in session.devices if device != VICTIM])
    content = crowd.request(session)
    content["setting"] = content.pop("config")
    record = crowd.ask(VICTIM, "train", content)[stages.RECORD]
    crowd.adversary.reported(session, record[stages.MESSAGE])
    crowd.opens(session, session.devices)
    return crowd.adversary.reads(session, VICTIM)


def test_settings_under_another_name_are_other_settings() -> None:
    try:
        read_out = settings_under_another_name()
    except TacitError:
        return
    assert not read_out


def by_group(message: Message, context: Context) -> RecordDict:
    """A train function that reads what Flower says of the message: its group, usually the round."""
    reply = unit(message, context)
    if message.metadata.group_id != "victim":
        reply["arrays"] = message.content.array_records["arrays"]
    return reply


def test_what_flower_says_of_a_message_is_the_same_for_all() -> None:
    crowd = Crowd(train=by_group)
    session = crowd.session()
    for device in session.devices:
        message = crowd_message(crowd, session, "victim" if device == VICTIM else "1")
        try:
            reply = crowd.app(message, crowd.contexts[device])
        except TacitError:
            return
        data = reply.content.config_records[stages.RECORD][stages.MESSAGE]
        crowd.adversary.reported(session, data)
    crowd.opens(session, session.devices)
    assert not crowd.adversary.reads(session, VICTIM)


def crowd_message(crowd: Crowd, session: Session, group: str) -> Message:
    from tacit.server.flower import assign_message_id

    built = Message(crowd.request(session), 1000, "train", group_id=group)
    assign_message_id(built, "a message")
    return built


# Sessions outside the policy: a server asks, and reads what it is given


def bought_committee() -> bool:
    """A committee of the server's own: two colluders, who open whatever is dealt to them."""
    crowd = Crowd(7, corrupt=(6, 7))
    session = crowd.session(committee=(6, 7), threshold=2)
    crowd.heard(session)
    crowd.adversary.sign(session, session.devices, 6)
    return crowd.adversary.reads(session, VICTIM) or all_open(crowd, session)


def all_open(crowd: Crowd, session: Session) -> bool:
    """Whether each single report is open."""
    openings = {devices for devices, _ in crowd.adversary.readings(session.id)}
    return all((device,) in openings for device in session.devices)


def alone_among_colluders() -> bool:
    """A sum over two of five, one of whom is the server's."""
    crowd = Crowd(5, protocol=Pairwise(min_survivors=2), corrupt=(5,))
    session = crowd.session()
    crowd.heard(session)
    crowd.opens(session, (VICTIM, 5))
    return crowd.adversary.reads(session, VICTIM)


def low_threshold() -> bool:
    """A threshold that the colluders reach by themselves: 2t > c is all that a session asks for."""
    crowd = Crowd(7, corrupt=(4, 5, 6, 7))
    session = crowd.session(threshold=4)
    crowd.heard(session, [VICTIM, 1, 2])
    return crowd.adversary.reads(session, VICTIM)


def chosen_members() -> bool:
    """A drawn committee, but of the server's drawing: colluders on all its seats."""
    crowd = Crowd(16, corrupt=(12, 13, 14, 15, 16))
    session = crowd.session(committee=(12, 13, 14, 15, 16), seats=5, threshold=5)
    crowd.heard(session)
    return all_open_alone(crowd, session, VICTIM)


def all_open_alone(crowd: Crowd, session: Session, device: int) -> bool:
    dealt = [one for one in crowd.adversary.dealt[session.id] if one.device == device]
    total = crowd.adversary.total(dealt)
    return total is not None and read(session, total, 1) is not None


ACCEPTING = replaced(Policy, "check", nothing)
NO_COMMITTEE = replaced(Policy, "_check_committee", nothing)

BOUGHT: dict[str, Attack] = {
    "a committee of colluders": Attack(
        bought_committee, NO_COMMITTEE, "threshold 2 of 2 falls to 2 corrupt members"
    ),
    "one honest survivor": Attack(
        alone_among_colluders, ACCEPTING, "a sum over 2, this device asks for 3"
    ),
    "a low threshold": Attack(
        low_threshold, NO_COMMITTEE, "threshold 4 of 7 falls to 2 corrupt members"
    ),
    "a committee of the server's drawing": Attack(
        chosen_members, NO_COMMITTEE, "a committee that the roster's beacon did not draw"
    ),
}


@trials(BOUGHT)
def test_a_session_made_to_be_opened(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


Fields = dict[str, Any]
REFUSED: dict[str, tuple[Fields, str]] = {
    "a cohort of two": ({"cohort": (1, VICTIM)}, "a cohort of 2, this device asks for 3"),
    "a sum over two": ({"min_survivors": 2}, "a sum over 2, this device asks for 3"),
    "one honest device in the sum": (
        {"cohort": (1, 2, 3, 4, 5, 6), "min_survivors": 3},
        "a sum over 3 with 2 of the cohort corrupt: this device asks for 4",
    ),
    "a bare majority": ({"threshold": 4}, "threshold 4 of 7 falls to 2 corrupt members"),
    "a committee of one": (
        {"committee": (1,), "threshold": 1},
        "threshold 1 of 1 falls to 1 corrupt members",
    ),
    "a ring below 30 bits": ({}, r"a ring of 2[48] bits, this device asks for 30"),
    "few seats": (
        {"seats": 2, "threshold": 2, "committee": None},
        "threshold 2 of 2 falls to 2 corrupt members",
    ),
}


SPARSE: dict[str, tuple[Fields, str]] = {
    "a graph of one edge each": ({"degree": 1}, "1 neighbours in a cohort of 7"),
    "a graph with an edge less": ({"degree": 5}, "5 neighbours in a cohort of 7"),
}
defended_or_not = pytest.mark.parametrize("defended", [True, False], ids=["defended", "undefended"])


@pytest.mark.kinds(PAIRS)
@defended_or_not
@pytest.mark.parametrize(("changes", "reason"), SPARSE.values(), ids=SPARSE)
def test_graphs_that_the_policy_refuses(
    changes: Fields, reason: str, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused_by_the_policy(changes, reason, defended, monkeypatch)


@defended_or_not
@pytest.mark.parametrize(("changes", "reason"), REFUSED.values(), ids=REFUSED)
def test_sessions_that_the_policy_refuses(
    changes: Fields, reason: str, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused_by_the_policy(changes, reason, defended, monkeypatch)


def refused_by_the_policy(
    changes: Fields, reason: str, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with its reason; a device without a policy answers every one of them."""
    ring = reason.startswith("a ring")
    crowd = Crowd(7, policy=Policy(min_bits=30) if ring else None)
    if changes.get("committee", ()) is None:
        changes = {**changes, "committee": crowd.roster.drawn(changes["seats"])}
    session = crowd.session(**changes)
    trial(
        Attack(lambda: bool(crowd.report(VICTIM, session)), ACCEPTING, reason),
        defended,
        monkeypatch,
    )
    if (
        defended and not ring
    ):  # nothing was counted: the honest session of the round is still served
        assert crowd.report(VICTIM, crowd.session())


IMPOSSIBLE: dict[str, tuple[Fields, str]] = {
    "a cohort of one": (
        {"cohort": (VICTIM,), "committee": (VICTIM,), "threshold": 1},
        "codec for 7 devices",
    ),
    "one survivor": ({"min_survivors": 1}, "min_survivors=1, expected 2..7"),
    "more survivors than devices": ({"min_survivors": 8}, "min_survivors=8, expected 2..7"),
    "a threshold of one": ({"threshold": 1}, "threshold 1 for a committee of 7"),
    "half of the committee": ({"threshold": 3}, "threshold 3 for a committee of 7"),
    "more than the committee": ({"threshold": 8}, "threshold 8 for a committee of 7"),
    "strangers on the committee": ({"committee": (1, 2, 99), "threshold": 2}, "part of the cohort"),
    "a member twice": ({"committee": (1, 2, 2), "threshold": 2}, "sorted and without repeats"),
    "a ring of 7 bits": ({"bits": 7}, "bits=7, expected 8..62"),
    "a ring of 63 bits": ({"bits": 63}, "bits=63, expected 8..62"),
    "a huge bound": ({"bound": 1e30}, "bound=1e\\+30, expected"),
    "a bound that leaves no room": ({"bound": 1e12}, r"leave no room in 2[48] bits"),
    "a tiny bound": ({"bound": 1e-30}, "bound=1e-30, expected"),
    "no weight": ({"max_weight": 0.0}, "max_weight=0.0, expected"),
    "a digest cut short": ({"model": bytes(31)}, "31 bytes where 32 belong"),
}


IMPOSSIBLE_OF: dict[Kind, dict[str, tuple[Fields, str]]] = {
    PAIRS: {
        "nobody's neighbour": ({"degree": 0}, "degree 0, expected 1..6"),
        "more neighbours than devices": ({"degree": 7}, "degree 7, expected 1..6"),
    },
    LATTICE: {
        "a neighbour": ({"degree": 1}, "lattice '2048-32-1' with degree 1"),
        "no such set": ({"lattice": "1024-32-1"}, "lattice '1024-32-1' with degree 0"),
        "no room for the noise": ({"bits": 27}, "7 clients leave no room for 27 bits in 2048-32-1"),
    },
}


def as_built(crowd: Crowd, changes: Fields) -> bytes:
    """The bytes of a session that could not be built: the server is not held to our checks."""
    changes = dict(changes)
    cohort = changes.pop("cohort", None)
    of_codec = {
        name: changes.pop(name) for name in ("bits", "bound", "max_weight") if name in changes
    }
    session = crowd.session()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "__post_init__", nothing)
        patch.setattr(Codec, "__post_init__", nothing)
        if cohort is not None:
            changes["cohort"] = tuple(crowd.keys[device] for device in cohort)
        return replace(session, codec=replace(session.codec, **of_codec), **changes).encode()


@pytest.mark.parametrize(("changes", "reason"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_sessions_that_cannot_be(changes: Fields, reason: str) -> None:
    refused_as_impossible(changes, reason)


def test_sessions_of_a_kind_that_cannot_be() -> None:
    for changes, reason in IMPOSSIBLE_OF[current()].values():
        refused_as_impossible(changes, reason)


def refused_as_impossible(changes: Fields, reason: str) -> None:
    crowd = Crowd(7)

    def ask() -> bool:
        content = crowd.raw_request(as_built(crowd, changes), 1)
        return bool(crowd.ask(VICTIM, "train", content))

    with pytest.raises(TacitError, match=reason):
        ask()
    assert crowd.report(VICTIM, crowd.session())


# Training outside a session


def plain(kind: str, **records: Any) -> Callable[[], bool]:
    """Whether a device's answer to a message without a session holds its input."""

    def run() -> bool:
        crowd = Crowd()
        content = RecordDict(
            {"arrays": crowd.model, "config": ConfigRecord(crowd.config(1)), **records}
        )
        reply = crowd.ask(VICTIM, kind, content)
        moved = linear.arrays_of(reply.array_records["arrays"])["w"]
        return bool(moved[VICTIM - 1] == 1)

    return run


BARE = ConfigRecord({"session": b"", "weight-key": linear.WEIGHT})
OPEN = replaced(Policy, "check_plain", nothing)
OUTSIDE = "outside a secure sum: this device's owner does not allow it"
PLAIN: dict[str, Attack] = {
    "a plain train message": Attack(plain("train"), OPEN, OUTSIDE),
    "with the action spelled out": Attack(plain("train.default"), OPEN, OUTSIDE),
    "our record in capitals": Attack(plain("train", TACIT=MetricRecord()), OPEN, OUTSIDE),
    "our record, of numbers": Attack(
        plain("train", tacit=MetricRecord({"session": 1})), OPEN, OUTSIDE
    ),
    "our record, of arrays": Attack(lambda: model_in_our_record(), OPEN, OUTSIDE),
    "a name that begins like ours": Attack(
        plain("train", **{"tacit ": MetricRecord()}), OPEN, OUTSIDE
    ),
}


def model_in_our_record() -> bool:
    """The model itself under our record's name."""
    crowd = Crowd(train=lambda message, context: unit_of_any(message, context))
    content = RecordDict({stages.RECORD: crowd.model, "config": ConfigRecord(crowd.config(1))})
    reply = crowd.ask(VICTIM, "train", content)
    return bool(linear.arrays_of(reply.array_records["arrays"])["w"][VICTIM - 1] == 1)


def unit_of_any(message: Message, context: Context) -> RecordDict:
    model: ArrayRecord = next(iter(message.content.array_records.values()))
    moved = linear.arrays_of(model)["w"].copy()
    moved[int(context.node_config["partition-id"])] += 1
    return RecordDict({"arrays": linear.record({"w": moved})})


@pytest.mark.kinds(PAIRS)
@trials(PLAIN)
def test_training_outside_a_session(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


@pytest.mark.kinds(PAIRS)
@pytest.mark.parametrize(
    "kind", ["query", "query.keys", "query.tacit_attests", "train.tacit", "evaluate", "evaluate.x"]
)
@pytest.mark.parametrize("record", [None, BARE], ids=["plain", "with our record"])
def test_no_kind_of_message_is_answered_outside_a_session(
    kind: str, record: ConfigRecord | None
) -> None:
    crowd = Crowd()
    more = {} if record is None else {stages.RECORD: record}
    content = RecordDict({"arrays": crowd.model, "config": ConfigRecord(), **more})
    with pytest.raises(TacitError):
        crowd.ask(VICTIM, kind, content)


def test_a_session_does_not_cover_another_kind_of_message() -> None:
    """An honest session to train, sent as another message: the function it names is bound to it."""
    crowd = Crowd()
    session = crowd.session()
    for kind in ("evaluate", "train.other", "query"):
        with pytest.raises(TacitError, match=r"to train in a|the configuration is not"):
            crowd.ask(VICTIM, kind, crowd.request(session))
    evaluation = crowd.request(crowd.session(purpose=Purpose.EVALUATE))
    with pytest.raises(TacitError, match="to evaluate in a train message"):
        crowd.ask(VICTIM, "train", evaluation)
