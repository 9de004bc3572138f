"""A device in private sums: nothing leaves it without noise, and nothing that is not counted."""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

import tacit.client.app
from tacit.client import budget, rounds
from tacit.client.pipeline import PRIVACY, Stated
from tacit.client.policy import Policy
from tacit.crypto.errors import (
    BudgetExceeded,
    ParameterError,
    PolicyRefusal,
    ProtocolError,
    TacitError,
)
from tacit.crypto.secagg import client as secagg
from tacit.crypto.secagg import stages
from tacit.crypto.secagg.messages import Report
from tacit.crypto.secagg.noised import Noised
from tacit.crypto.secagg.session import Purpose, Session
from tacit.crypto.vector import Layout
from tacit.privacy.mechanisms import Mechanism
from tacit.privacy.releases import Unit
from tacit.server.encrypted import Encrypted
from tacit.server.flower import copy_records, identity
from tests.crypto.federation import Counted
from tests.runtime import linear
from tests.runtime.desk import RUN, context, trained
from tests.runtime.private import (
    DELTA,
    SIZE,
    PrivateDesk,
    cost,
    filed,
    noised,
    own,
    policy,
    stating,
)

ROOM = 1 + 1e-9  # for the last digits of sums of floats
EXAMPLES = {"records": 16, "noise": 2.0}


@pytest.fixture(autouse=True)
def _task() -> Iterator[None]:
    with identity(RUN):
        yield


def refused(act: Callable[[], object], kind: type[TacitError], reason: str) -> None:
    with pytest.raises(kind, match=reason):
        act()


def counted(monkeypatch: pytest.MonkeyPatch, **more: Any) -> PrivateDesk:
    """A desk whose devices draw the same bytes each time: first their keys, then all of a sum's."""
    for seed in (b"keys", b"sum"):
        monkeypatch.setattr(tacit.client.app, "os", SimpleNamespace(urandom=Counted(seed)))
        if seed == b"keys":
            desk = PrivateDesk(**more)
    return desk


def encodes(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Every vector that is about to be masked."""
    seen: list[np.ndarray] = []
    hide = secagg.report

    def watched(*args: Any) -> Any:
        seen.append(args[4].copy())
        return hide(*args)

    monkeypatch.setattr(secagg, "report", watched)
    return seen


# What arrives


@pytest.mark.parametrize("changed", [{}, {"noise": 0.01, "quantile": 5.0}, {"central": True}])
def test_a_sum_is_the_mean_of_clipped_updates_and_noise(changed: dict[str, Any]) -> None:
    desk = PrivateDesk(None)
    codec = noised(**{"clip": 0.3, "noise": 0.01, "corrupt": 0, **changed})
    session = desk.session(codec=codec)
    mechanism, opened = Mechanism.of(codec), desk.sum(session)
    before = linear.arrays_of(desk.model)
    updates = []
    for partition in range(6):
        after = linear.fit(before, partition)
        flat = np.concatenate([after["w"], [after["b"]], [0, 0]])  # counters do not move
        updates.append(flat * min(1, 0.3 / np.linalg.norm(flat)))
    exact = np.mean(updates, axis=0)
    found = mechanism.update(opened, session.id)
    # Rounding is off by a step at most, for each of six; noise by 7 deviations at most.
    step = 1 / mechanism.scale
    noise = 0 if codec.central else math.sqrt(float(mechanism.share) * 6) / 6 * step
    assert np.abs(found - exact).max() < 7 * noise + math.sqrt(SIZE) * step
    assert np.linalg.norm(exact) > 10 * np.linalg.norm(found - exact)
    assert opened.weight == 6
    assert np.linalg.norm(updates, axis=1).max() == pytest.approx(0.3)


def test_names_and_numbers_of_a_reply_stay_on_the_device() -> None:
    desk = PrivateDesk()
    report = Report.decode(desk.report(1, session := desk.session()), session, sender=1)
    assert report.metrics == ()


@pytest.mark.parametrize(
    "changed",
    [
        {linear.WEIGHT: 10_000, "loss": 1e9},
        {linear.WEIGHT: 10**12},
        {"loss": math.nan},
        {"loss": [1.0, 2.0]},
        {"patients": 4711.0},
    ],
)
def test_metrics_and_weight_have_no_part_in_it(
    changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same bytes to draw from, the same vector and the same report, bit for bit."""

    def other(message: Message, context: Context) -> RecordDict:
        reply = linear.train_reply(message, context)
        for name, value in changed.items():
            reply["metrics"][name] = value
        return reply

    def without(message: Message, context: Context) -> RecordDict:
        reply = linear.train_reply(message, context)
        del reply["metrics"]
        return reply

    sent = []
    seen = encodes(monkeypatch)
    for train in (linear.train_reply, other, without):
        desk = counted(monkeypatch, train=train)
        sent.append(desk.report(1, desk.session()))
    assert len(seen) == 3
    assert sent[0] == sent[1] == sent[2]


def test_noise_is_fresh_each_time_and_comes_from_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same device, session and data: another vector. There is nothing to replay."""
    seen, drawn = encodes(monkeypatch), list[int]()

    def urandom(size: int) -> bytes:
        drawn.append(size)
        return os.urandom(size)

    first = PrivateDesk()
    states = {d: copy_records(c.state) for d, c in first.contexts.items()}
    session = first.session()
    monkeypatch.setattr(tacit.client.app, "os", SimpleNamespace(urandom=urandom))
    for _ in range(3):
        before = first.contexts[1]
        state = copy_records(states[1])
        first.contexts[1] = Context(RUN, before.node_id, before.node_config, state, {})
        first.report(1, session)
    one, two, three = (signed(vector) for vector in seen)
    assert drawn.count(32) == 3  # of noise and rounding
    assert drawn[::2] == [32] * 3
    mechanism = Mechanism.of(noised())
    deviation = math.sqrt(2 * float(mechanism.share))
    for a, b in ((one, two), (two, three), (one, three)):
        # Of 33 differences the mean square is that of two shares: within 7 deviations of a chi
        # square's with so many degrees of freedom.
        found = np.mean((a - b) ** 2) / deviation**2
        assert abs(found - 1) < 7 * math.sqrt(2 / SIZE)
        assert not np.array_equal(a, b)


def signed(vector: np.ndarray) -> np.ndarray:
    return vector[:SIZE].view(np.int32).astype(float)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("codec", [noised(), noised(**EXAMPLES), noised(quantile=5.0)])
def test_an_update_that_went_wrong_is_zeros_and_no_error(
    bad: float, codec: Noised, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To refuse would be an answer, and one without noise."""
    seen = encodes(monkeypatch)
    agreed = policy(100.0, unit="record" if codec.records else "client")
    for w in (np.zeros(30), np.full(30, bad), np.r_[np.zeros(29), bad]):
        train = stating(trained({"w": w}), clip=1.0)
        desk = counted(monkeypatch, train=train, policy=agreed)
        desk.report(1, desk.session(codec=codec))
        assert desk.spent(unit=Unit.RECORD if codec.records else Unit.CLIENT) > 0
    for vector in seen[1:]:
        assert np.array_equal(vector[:SIZE], seen[0][:SIZE])


def test_arrays_of_whole_numbers_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counters of `linear` go up by one: neither they nor 10**15 in their place show."""
    seen = encodes(monkeypatch)
    for count in (0, 1, 10**15):
        train = trained({"w": np.full(30, 0.1), "seen": np.full(2, count)})
        desk = counted(monkeypatch, train=train)
        desk.report(1, desk.session())
    assert np.array_equal(seen[0], seen[1])
    assert np.array_equal(seen[0], seen[2])


# What is refused

CENTRAL = {"central": True, "corrupt": 0}
REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any], type[TacitError], str]] = {
    "no noise": ({}, {"codec": None}, PolicyRefusal, r"a sum without noise.*policy\.epsilon"),
    "an evaluation": ({}, {"purpose": Purpose.EVALUATE}, PolicyRefusal, "an evaluation"),
    "an evaluation, of examples": (
        {"unit": "record"},
        {"purpose": Purpose.EVALUATE},
        PolicyRefusal,
        "an evaluation",
    ),
    "the server's noise": (
        {},
        {"codec": noised(**CENTRAL)},
        PolicyRefusal,
        r"promises to add.*policy\.trust_server",
    ),
    "examples, not devices": (
        {},
        {"codec": noised(**EXAMPLES)},
        PolicyRefusal,
        r"protects a record, this device asks for client \(policy\.unit\)",
    ),
    "devices, not examples": (
        {"unit": "record"},
        {"codec": noised()},
        PolicyRefusal,
        r"protects a client, this device asks for record \(policy\.unit\)",
    ),
    "a clip above the norm": (
        {"max_norm": 0.5},
        {"codec": noised(clip=0.6)},
        PolicyRefusal,
        r"clipped to 0\.6, this device asks for 0\.5 \(policy\.max_norm\)",
    ),
    "hardly any noise": ({}, {"codec": noised(noise=0.01)}, BudgetExceeded, stages.BUDGET_IS_SPENT),
    "noise on norms, hardly any": (
        {},
        {"codec": noised(quantile=0.01)},
        BudgetExceeded,
        stages.BUDGET_IS_SPENT,
    ),
    "a ring without room": (
        {},
        {"codec": replace(noised(), bits=8, noise=20.0)},
        ParameterError,
        "leave no room",
    ),
}


def literal(text: str) -> str:
    return text.replace("(", r"\(").replace(")", r"\)") if text is stages.BUDGET_IS_SPENT else text


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
def test_sums_that_are_refused(case: Any) -> None:
    """Before anything is trained, at no cost; an honest session of the same round is served."""
    asks, changed, kind, reason = case
    agreed = policy(8.0, **asks)
    changed, calls = dict(changed), list[int]()

    def train(message: Message, context: Context) -> RecordDict:
        calls.append(1)
        return linear.train_reply(message, context)

    desk = PrivateDesk(policy=agreed, train=train)
    session = desk.session(1, changed.pop("purpose", Purpose.TRAIN), **changed)
    refused(lambda: desk.report(1, session), kind, literal(reason))
    assert not calls
    assert desk.spent() == desk.spent(unit=Unit.RECORD) == 0.0
    honest = {"codec": noised(clip=0.25)} if agreed.unit == "client" else {}
    if honest:
        desk.report(1, desk.session(**honest))
        assert calls
        assert desk.spent() > 0


@pytest.mark.parametrize("kind", ["train", "evaluate", "query"])
def test_nothing_is_answered_in_the_clear(kind: str) -> None:
    desk = PrivateDesk(policy=policy(8.0, plain=True))
    content = RecordDict({"arrays": desk.model, "config": ConfigRecord({"server-round": 1})})
    refused(lambda: desk.ask(1, kind, content), PolicyRefusal, r"has no noise.*policy\.epsilon")


def test_who_trusts_the_server_takes_its_promise() -> None:
    desk = PrivateDesk(policy=policy(8.0, trust_server=True))
    desk.report(1, desk.session(codec=noised(**CENTRAL)))
    assert desk.spent() == math.inf
    desk.report(1, desk.session(2))


def test_the_owners_policy_holds_beside_the_apps(tmp_path: Path) -> None:
    """An app of whoever submits the run asks for nothing; the vault does."""
    apps = (None, policy(None, trust_server=True), policy(700.0, trust_server=True))
    for number, app in enumerate(apps):
        desk = PrivateDesk(policy=app, device_of=filed(tmp_path / str(number), policy(8.0)))
        refused(lambda d=desk: d.report(1, d.session(codec=None)), PolicyRefusal, "without noise")
        central = desk.session(codec=noised(**CENTRAL))
        refused(lambda d=desk, s=central: d.report(1, s), PolicyRefusal, "trust_server")
        loud = desk.session(codec=noised(noise=0.1))
        refused(lambda d=desk, s=loud: d.report(1, s), BudgetExceeded, "no more")


def test_the_stricter_of_two_budgets_holds() -> None:
    asking = policy(8.0, unit="record", trust_server=True)
    other = Policy(epsilon=2.0, delta=1e-6, unit="record")
    both = asking.stricter(other)
    assert (both.epsilon, both.delta, both.unit, both.trust_server) == (2.0, 1e-6, "record", False)
    assert both == other.stricter(asking)
    silent = Policy(delta=1e-9, unit="client")
    kept = asking.stricter(silent)
    assert (kept.epsilon, kept.delta, kept.unit, kept.trust_server) == (8.0, DELTA, "record", True)
    for bad in (0.0, -1.0, math.nan, 701.0):
        with pytest.raises(ParameterError, match="epsilon"):
            Policy(epsilon=bad)
    with pytest.raises(ParameterError, match="unit"):
        Policy(unit="patient")
    with pytest.raises(ParameterError, match="delta"):
        Policy(epsilon=1.0, delta=0.0)


def test_an_app_cannot_have_its_owner_pay_from_another_account(tmp_path: Path) -> None:
    """Examples are protected until the budget is spent. Then a run whose app asks for noise that
    protects devices, of which nothing was ever spent: the owner by itself refuses that too."""
    examples = noised(**EXAMPLES)
    owner = policy(cost(**EXAMPLES) * ROOM, unit="record")
    desk = PrivateDesk(policy=None, device_of=filed(tmp_path, owner), train=stating(clip=1.0))
    desk.report(1, desk.session(codec=examples))
    refused(lambda: desk.report(1, desk.session(2, codec=examples)), BudgetExceeded, "no more")
    refused(lambda: desk.report(1, desk.session(2, codec=noised(noise=8.0))), PolicyRefusal, "asks")
    other = PrivateDesk(
        policy=policy(700.0), device_of=filed(tmp_path, owner), train=stating(clip=1.0)
    )
    for codec in (noised(noise=8.0), examples):
        session = other.session(2, codec=codec)
        refused(lambda s=session: other.report(1, s), PolicyRefusal, "another unit")
    with pytest.raises(PolicyRefusal, match="another unit"):
        policy(1.0).stricter(owner)


# Where it ends


def spends(desk: PrivateDesk, rounds: range) -> None:
    for number in rounds:
        desk.report(1, desk.session(number))
        assert desk.spent() == pytest.approx(cost(number), rel=1e-12)


def test_a_budget_stops_exactly_where_it_ends() -> None:
    desk = PrivateDesk(cost(3) * ROOM)
    spends(desk, range(1, 4))
    refused(lambda: desk.report(1, desk.session(4)), BudgetExceeded, "no more")
    assert desk.spent() == pytest.approx(cost(3), rel=1e-12)
    short = PrivateDesk(cost(3) / ROOM)
    spends(short, range(1, 3))
    refused(lambda: short.report(1, short.session(3)), BudgetExceeded, "no more")
    assert desk.spent(2) == 0.0  # each has its own


def test_all_runs_count() -> None:
    desk = PrivateDesk(cost(2) * ROOM)
    spends(desk, range(1, 3))
    for device, before in desk.contexts.items():
        state = copy_records(before.state)
        desk.contexts[device] = Context(RUN + 1, before.node_id, before.node_config, state, {})
    desk.enrol()
    again = desk.session(run=RUN + 1)
    refused(lambda: desk.report(1, again), BudgetExceeded, "no more")
    desk.report(2, again)


def test_another_number_is_not_another_budget(tmp_path: Path) -> None:
    """Enrolled once more, with what the vault of device 1 holds of an account."""
    exactly = cost(2) * ROOM
    first = PrivateDesk(exactly, device_of=filed(tmp_path / "first"))
    spends(first, range(1, 3))
    again = PrivateDesk(exactly, device_of=filed(tmp_path / "again"))
    (slot,) = {file.stem for file in (tmp_path / "first" / "1").glob("ledger_*.sealed")}
    account = first.vault().read(slot)
    assert account is not None
    again.vault(2).write(slot, account)
    session = again.session(3)
    refused(lambda: again.report(2, session), BudgetExceeded, "no more")
    again.report(3, session)


def test_it_survives_a_restart(tmp_path: Path) -> None:
    exactly = cost(2) * ROOM
    spends(PrivateDesk(exactly, device_of=filed(tmp_path)), range(1, 3))
    again = PrivateDesk(exactly, device_of=filed(tmp_path))
    again.contexts = {d: context(d - 1) for d in again.contexts}
    assert again.spent() == pytest.approx(cost(2), rel=1e-12)
    refused(lambda: again.report(1, again.session(3)), BudgetExceeded, "no more")


def test_the_fewest_survivors_and_the_owners_share_of_corrupt_ones_are_counted() -> None:
    """The session counts on all, honestly: this owner counts on four."""
    desk = PrivateDesk()
    session = desk.session(codec=noised(dropouts=0, corrupt=0), min_survivors=6)
    desk.report(1, session)
    found = desk.spent()
    assert found == pytest.approx(cost(1, 6, 2, dropouts=0, corrupt=0), rel=1e-12)
    assert found > 1.2 * cost(1, 6, 0, dropouts=0, corrupt=0)


def test_the_server_hears_no_number_of_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    """The same words whatever is left, and whatever was asked."""
    said = set()
    for left in (0.5, 1.5):
        desk = PrivateDesk(cost() * left)
        if left > 1:
            desk.report(1, desk.session())
        for noise in (0.3, 0.1):
            session = desk.session(2, codec=noised(noise=noise))
            said.add(desk.hear(1, "train", desk.request(session)))
    (words,) = said
    assert stages.BUDGET_IS_SPENT in words
    assert not any(character.isdigit() for character in words)
    assert "refused: 1 releases" in caplog.text


# When it is counted


def test_it_is_counted_before_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vault that cannot be written: nothing is sent."""
    desk = PrivateDesk()
    vault = type(desk.vault())
    write = vault.write

    def full(self: Any, slot: str, value: bytes) -> None:
        if slot.startswith("ledger_"):
            raise OSError("no space left")
        write(self, slot, value)

    monkeypatch.setattr(vault, "write", full)
    with pytest.raises(TacitError, match="OSError while it answered train"):
        desk.report(1, desk.session())
    assert desk.spent() == 0.0
    assert desk.vault().read("session") is None  # and the sum is over for this device


class PowerCut(BaseException):
    """Nothing that catches errors may go on after it."""


@pytest.mark.parametrize("where", ["begin", "answer_to"])
def test_a_crash_after_it_was_counted_leaves_it_counted(
    where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    desk = PrivateDesk(cost() * ROOM, device_of=filed(tmp_path))
    session = desk.session()

    def cut(*_: Any) -> None:
        raise PowerCut

    with monkeypatch.context() as patch:
        place: Any = rounds if where == "begin" else tacit.client.app
        patch.setattr(place, where, cut)
        with pytest.raises(PowerCut):
            desk.report(1, session)
    assert desk.spent() == pytest.approx(cost(), rel=1e-12)
    refused(lambda: desk.report(1, desk.session(2)), BudgetExceeded, "no more")


def test_a_crash_before_leaves_nothing_that_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = PrivateDesk()

    def cut(*_: Any) -> None:
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(budget, "spend", cut)
        with pytest.raises(PowerCut):
            desk.report(1, desk.session())
    assert desk.spent() == 0.0
    refused(lambda: desk.report(1, desk.session()), ProtocolError, "was served before")


def fails(message: Message, context: Context) -> RecordDict:
    raise ValueError("patient 4711 is ill")


@pytest.mark.parametrize("changed", [{}, EXAMPLES])
def test_training_that_fails_is_answered_like_any_other(
    changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With zeros, noise, and at its cost: see tests/hostile/test_private.py for who would ask. The
    owner finds it in the log."""
    seen, sent = encodes(monkeypatch), list[bytes]()
    for train in (fails, stating(trained(), clip=1.0)):
        agreed = policy(100.0, unit="record" if changed else "client")
        desk = counted(monkeypatch, train=train, policy=agreed)
        sent.append(desk.report(1, desk.session(codec=noised(**changed))))
        unit = Unit.RECORD if changed else Unit.CLIENT
        assert desk.spent(unit=unit) == pytest.approx(cost(**changed), rel=1e-12)
    assert len(seen) == 2
    assert sent[0] == sent[1]
    assert "ValueError in the device's train function" in caplog.text


def test_without_noise_to_hide_it_a_failure_is_told() -> None:
    desk = PrivateDesk(None, train=fails)
    refused(lambda: desk.report(1, desk.session(codec=None)), TacitError, "ValueError in the")
    assert desk.spent() == 0.0


def declines(message: Message, context: Context) -> RecordDict:
    raise PolicyRefusal("not today")


def test_what_a_function_refuses_on_purpose_is_told_and_costs_nothing() -> None:
    desk = PrivateDesk(train=declines)
    refused(lambda: desk.report(1, desk.session()), PolicyRefusal, "not today")
    assert desk.spent() == 0.0


MISFITS = [
    trained({"w": np.zeros(31)}),
    trained({"more": np.ones(1)}),
    lambda message, context: RecordDict(),
]


@pytest.mark.parametrize("train", MISFITS)
def test_arrays_that_do_not_fit_are_answered_like_any_others(
    train: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A function may leave them out where a loss is no number: with zeros, and at its cost."""
    sent = []
    for function in (train, trained()):
        desk = counted(monkeypatch, train=function)
        sent.append(desk.report(1, desk.session()))
        assert desk.spent() == pytest.approx(cost(), rel=1e-12)
    assert sent[0] == sent[1]
    assert "zeros in its place" in caplog.text


@pytest.mark.parametrize(
    ("changed", "kind", "reason"),
    [
        ({"model": bytes(32)}, ProtocolError, "the model is not"),
        ({"config": bytes(32)}, ProtocolError, "the configuration"),
        ({"min_survivors": 2, "codec": noised(dropouts=4, corrupt=0)}, PolicyRefusal, "a sum over"),
        ({"run": RUN + 1}, ProtocolError, "our key of this run"),
    ],
)
def test_a_session_that_is_refused_costs_nothing(
    changed: dict[str, Any], kind: type[TacitError], reason: str
) -> None:
    desk = PrivateDesk()
    refused(lambda: desk.report(1, desk.session(**changed)), kind, reason)
    assert desk.spent() == 0.0
    desk.report(1, desk.session())  # nor has it been served


def test_a_session_of_another_length_says_nothing_and_costs_nothing() -> None:
    desk = PrivateDesk()
    session = desk.session(codec=noised(length=SIZE + 1))
    refused(lambda: desk.report(1, session), ProtocolError, "not as many coordinates")
    assert desk.spent() == 0.0


def test_of_two_at_once_one_sees_what_the_other_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both were let in while there was enough for one."""
    desk = PrivateDesk(cost() * ROOM)
    train, session = desk.app._run_app, desk.session()

    def meanwhile(message: Message, context: Context) -> Message:
        agreed = policy(cost() * ROOM)
        budget.spend(desk.vault(), agreed, budget.charges(session, agreed))
        return train(message, context)

    monkeypatch.setattr(desk.app, "_run_app", meanwhile)
    refused(lambda: desk.report(1, session), BudgetExceeded, "no more")
    assert desk.spent() == pytest.approx(cost(), rel=1e-12)
    assert desk.vault().read("session") is None


# One example


def of_examples(epsilon: float | None = 100.0, **more: Any) -> PrivateDesk:
    return PrivateDesk(policy=policy(epsilon, unit="record"), **more)


def test_a_function_that_does_not_clip_is_not_private() -> None:
    """It says nothing, or zero, or that it clips to more: refused, and counted as nothing."""
    codec = noised(**EXAMPLES)
    for train, reason in [
        (linear.train_reply, "does not clip what each example adds"),
        (stating(), "does not clip what each example adds"),
        (stating(clip=0.0), "does not clip what each example adds"),
        (stating(clip=math.nextafter(1.0, 2.0)), "adds to more than this"),
    ]:
        desk = of_examples(train=train)
        refused(lambda d=desk: d.report(1, d.session(codec=codec)), PolicyRefusal, reason)
        assert desk.spent(unit=Unit.RECORD) == 0.0
    desk = of_examples(train=stating(clip=1.0))
    desk.report(1, desk.session(codec=codec))
    assert desk.spent(unit=Unit.RECORD) == pytest.approx(cost(**EXAMPLES), rel=1e-12)
    assert desk.spent() == 0.0


@pytest.mark.parametrize("epsilon", [100.0, None])
def test_a_functions_own_noise_is_counted(epsilon: float | None) -> None:
    """Whether its owner asks for noise or not."""
    said = [own(round=number).encode() for number in range(3)]
    desk = of_examples(epsilon, train=stating(releases=said))
    desk.report(1, desk.session(codec=None))
    once = desk.spent(unit=Unit.RECORD)
    desk.report(1, desk.session(2, codec=None))
    assert 0 < once < desk.spent(unit=Unit.RECORD)
    short = of_examples(once * ROOM, train=stating(releases=said))
    short.report(1, short.session(codec=None))
    refused(lambda: short.report(1, short.session(2, codec=None)), BudgetExceeded, "no more")


def probed(bound: float, train: Any, epsilon: float = 100.0) -> tuple[str, float]:
    """What a server hears that gives coordinates that much room, and what the device counts."""
    desk = of_examples(epsilon, train=train)
    session = desk.session(codec=None)
    session = replace(session, codec=replace(session.codec, bound=bound))
    heard = desk.hear(1, "train", desk.request(session))
    return heard, desk.spent(unit=Unit.RECORD)


def test_whether_an_update_fits_is_counted_as_well() -> None:
    """Its noise was drawn, and a refusal tells on which side of a bound it came out: paid for like
    the whole of it, and the same whatever came out once nothing is left."""
    train = stating(trained({"w": np.full(30, 0.1)}), releases=[own().encode()])
    fits, spent = probed(1.0, train)
    assert not fits
    heard, as_much = probed(0.01, train)
    assert "does not fit" in heard
    assert as_much == spent > 0
    refusals = {probed(bound, train, spent / 2) for bound in (0.01, 1.0)}
    assert len(refusals) == 1
    ((said, nothing),) = refusals
    assert stages.BUDGET_IS_SPENT in said
    assert nothing == 0.0


@pytest.mark.parametrize("metrics", [{"loss": math.nan}, {"loss": [1.0, 2.0]}])
def test_metrics_beside_a_functions_own_noise_are_not_looked_at(metrics: dict[str, Any]) -> None:
    """They have none: to refuse them would tell a server that a loss is no number."""
    said = trained({"w": np.full(30, 0.1)}, **metrics)
    desk = of_examples(train=stating(said, releases=[own().encode()]))
    desk.report(1, desk.session(codec=None))


def test_without_any_an_update_does_not_leave() -> None:
    desk = of_examples()
    refused(lambda: desk.report(1, desk.session(codec=None)), PolicyRefusal, "without noise")
    desk = of_examples(train=stating(clip=1.0))
    refused(lambda: desk.report(1, desk.session(codec=None)), PolicyRefusal, "without noise")


def weighing(reply: linear.TrainReply, weight: int) -> linear.TrainReply:
    def train(message: Message, context: Context) -> RecordDict:
        content = reply(message, context)
        content["metrics"][linear.WEIGHT] = weight
        return content

    return train


def test_metrics_do_not_go_with_a_functions_own_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = encodes(monkeypatch)
    for loss, weight in ((1.0, 20), (9.0, 700)):
        said = trained({"w": np.full(30, 0.1)}, loss=loss)
        desk = counted(
            monkeypatch,
            policy=policy(100.0, unit="record"),
            train=stating(weighing(said, weight), releases=[own().encode()]),
        )
        session = desk.session(codec=None)
        report = Report.decode(desk.report(1, session), session, sender=1)
        assert report.metrics == ()
    assert np.array_equal(*seen)


@pytest.mark.parametrize(
    "said",
    [
        {"clip": 1},
        {"clip": -1.0},
        {"clip": math.nan},
        {"clip": math.inf},
        {"clip": "1"},
        {"releases": b"x"},
        {"releases": [1, 2]},
        {"noise": 1.0},
    ],
)
def test_what_a_function_says_has_to_make_sense(said: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="expected clip, a float"):
        Stated.of(RecordDict({PRIVACY: ConfigRecord(said)}))
    desk = of_examples(train=stating(**said))
    refused(lambda: desk.report(1, desk.session(codec=noised(**EXAMPLES))), TacitError, "not fit")
    assert desk.spent(unit=Unit.RECORD) == 0.0


def test_a_record_of_another_kind_says_nothing() -> None:
    arrays = ArrayRecord({"clip": Array(np.ones(1))})
    with pytest.raises(ParameterError, match="expected clip"):
        Stated.of(RecordDict({PRIVACY: arrays}))
    assert Stated.of(RecordDict()) == Stated()


# Through other protocols


def test_lattice_keys_carry_noise_too() -> None:
    codec = noised(noise=0.01)
    desk = PrivateDesk(None, protocol=Encrypted())
    session = desk.session(codec=codec)
    assert session.lattice
    opened = desk.sum(session)
    found = Mechanism.of(codec).update(opened, session.id)
    layout = Layout.of(linear.arrays_of(desk.model))
    assert np.linalg.norm(layout.split(found)["w"]) > 0.1
    assert desk.spent() > 100


def test_a_private_session_in_an_evaluate_message_is_none() -> None:
    desk = PrivateDesk()
    session: Session = desk.session()
    content = desk.request(session)
    refused(lambda: desk.ask(1, "evaluate", content), ProtocolError, "to train in a evaluate")
