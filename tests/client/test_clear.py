"""What a device lets out in the clear: as much as its owner allows, counted before it leaves."""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, MetricRecord, RecordDict

import tacit.client.app
from tacit.client import budget
from tacit.client.device import Device, simulated_device
from tacit.client.pipeline import contribution
from tacit.client.policy import Policy
from tacit.client.vault import FileVault, Vault
from tacit.crypto.codec import Codec, Mean
from tacit.crypto.errors import (
    BudgetExceeded,
    ParameterError,
    PolicyRefusal,
    ProtocolError,
    TacitError,
)
from tacit.crypto.secagg.clear import LARGEST, Clear, Integers
from tacit.crypto.secagg.messages import Report
from tacit.crypto.secagg.session import Purpose, Session
from tacit.crypto.vector import Difference, Layout
from tacit.privacy.accountants import GDP, Adversary, Spent
from tacit.privacy.accountants import cost as cost_of
from tacit.privacy.clear import release_of
from tacit.server.encrypted import Encrypted
from tacit.server.flower import copy_records, identity
from tacit.server.pairwise import Binding, Pairwise
from tests.runtime import linear
from tests.runtime.desk import RUN, Desk, context

PROTOCOL = Pairwise(clear=("b", "seen"), clear_norm=8.0, clear_noise=4.0)
LAYOUT = Layout.of(linear.arrays_of(linear.initial()))
CLEAR = Clear(((30, 33),), 8.0, 4.0)
DELTA = 1e-5
SLOT = "ledger_client_replace_one"
# Costs are sums of floats, and budgets the roots of a function of them: of 100 sums, to 10**-12.
MORE, LESS = 1 + 1e-12, 1 - 1e-12


def cost(clear: Clear) -> Spent:
    return cost_of(release_of(clear, RUN, 1, 4), Adversary.SERVER)


def budget_for(sums: int) -> float:
    return ONCE.times(sums).epsilon(DELTA)


def same(spent: float, *costs: Spent) -> bool:
    """Whether it is the epsilon of so much."""
    total = Spent.nothing(1)
    for each in costs:
        total = total.charged(slice(None), each)
    return spent == pytest.approx(total.epsilon(DELTA), rel=1e-12)


ONCE = cost(CLEAR)


@pytest.fixture(autouse=True)
def _task() -> Any:
    with identity(RUN):
        yield


class ClearDesk(Desk):
    """A desk whose sessions for training have a clear part."""

    def __init__(self, epsilon: float, **more: Any) -> None:
        policy = Policy(clear_epsilon=epsilon, lattice=True)
        super().__init__(**{"policy": policy, "protocol": PROTOCOL, **more})
        self.enrol()

    def session(self, round: int = 1, *arguments: Any, **changes: Any) -> Session:
        whole = super().session(round, *arguments)
        if whole.purpose is Purpose.TRAIN:
            changes = {"clear": CLEAR, **changes}
            hidden = max(LAYOUT.size - changes["clear"].size, 0)
            changes = {"codec": self.protocol.codec(hidden, len(self.keys)), **changes}
        return replace(whole, **changes)

    def vault(self, device: int) -> Vault:
        return self.app._device_of(self.contexts[device]).vault

    def spent(self, device: int = 1) -> float:
        return spent(self.vault(device))


def spent(vault: Vault) -> float:
    ledger = budget.clear_ledger_of(vault, Policy(clear_epsilon=1.0))
    return ledger.epsilon(budget.OURS, DELTA)


def shown(session: Session, data: bytes) -> Integers:
    assert session.clear is not None
    return session.clear.unpack(Report.decode(data, session, sender=1).clear)


def silenced(clear: Clear, rand: bytes) -> Integers:
    return np.zeros(clear.size, np.int64)


def test_a_server_resolves_names_to_what_the_device_is_asked_for() -> None:
    assert PROTOCOL.clear_of(LAYOUT) == CLEAR
    assert Pairwise().clear_of(LAYOUT) is None
    desk = ClearDesk(100.0)
    made = PROTOCOL.session(
        RUN,
        1,
        Purpose.TRAIN,
        list(desk.keys.values()),
        desk.roster,
        {},
        LAYOUT.size,
        Binding(bytes(32), bytes(32)),
        clear=CLEAR,
    )
    assert made.clear == CLEAR
    assert made.codec.length == 30


# What arrives


@pytest.mark.parametrize("protocol", [PROTOCOL, Encrypted()], ids=["pairwise", "lattice"])
def test_the_parts_are_joined_in_their_places(
    protocol: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without noise: then what is clear is as exact as what is hidden."""
    monkeypatch.setattr(tacit.client.app, "draw_noise", silenced)
    desk = ClearDesk(100.0, protocol=replace(protocol, max_weight=64.0))
    mean: Mean = desk.sum(desk.session())
    before = linear.arrays_of(desk.model)
    weights = [20 + 7 * p for p in range(4)]
    trained = [linear.fit(before, p) for p in range(4)]
    wanted = {
        name: np.average([model[name] for model in trained], axis=0, weights=weights)
        for name in before
    }
    # Each device rounds by a step at most, over its share of the weight.
    step = 4 * CLEAR.step * 64 / sum(weights)
    after = Layout.of(before).split(mean.update)
    np.testing.assert_allclose(after["w"], wanted["w"], rtol=0, atol=1e-4)
    for name in ("b", "seen"):
        np.testing.assert_allclose(after[name], wanted[name] - before[name], rtol=0, atol=step)
    assert mean.weight == sum(weights)


def test_one_device_is_clipped_and_weighted_and_hidden_in_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = ClearDesk(100.0)
    session = desk.session(clear=Clear(CLEAR.ranges, 0.5, 4.0))
    with monkeypatch.context() as patch:
        patch.setattr(tacit.client.app, "draw_noise", silenced)
        plain = shown(session, desk.report(1, session)) * session.clear.step
    b = linear.fit(linear.arrays_of(desk.model), 0)["b"]
    update = np.array([b, 1.0, 1.0])  # "seen" counts one more
    share = 20 / session.codec.max_weight
    exact = update * 0.5 / np.linalg.norm(update) * share
    np.testing.assert_allclose(plain, exact, rtol=0, atol=session.clear.step)
    noisy = shown(session, desk.report(2, session))
    assert np.abs(noisy).max() > 100  # of a deviation of 4096 steps, three times


@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_an_update_is_split_lazily_and_after_the_owners_clipping(max_norm: float | None) -> None:
    desk = ClearDesk(100.0)
    model = linear.arrays_of(desk.model)
    reply = RecordDict(
        {
            "a": linear.record(linear.fit(model, 0)),
            "m": MetricRecord({linear.WEIGHT: 20}),
        }
    )
    policy = Policy(max_norm=max_norm)
    whole = contribution(reply, model, linear.WEIGHT, policy)
    parts = contribution(reply, model, linear.WEIGHT, policy, CLEAR)
    assert isinstance(parts.update, Difference) == (max_norm is None)

    def flat(update: Any) -> np.ndarray:
        return update.whole() if isinstance(update, Difference) else update

    joined = np.concatenate([flat(parts.update), parts.clear])
    np.testing.assert_array_equal(joined, flat(whole.update))
    with pytest.raises(ParameterError, match="a range to 40 in a vector of 33"):
        contribution(reply, model, linear.WEIGHT, policy, Clear(((0, 40),), 1.0, 1.0))


# What is refused, and what it costs


def refused(act: Callable[[], object], kind: type[TacitError], reason: str) -> None:
    with pytest.raises(kind, match=reason):
        act()


def test_a_device_refuses_unless_its_owner_allows_it() -> None:
    desk = ClearDesk(0.0)
    says = (
        r"3 coordinates in the clear, clipped to 8 with noise of 4 times that, cost epsilon "
        r"2\.0\d+ at delta 1e-05: .*allows none \(policy\.clear_epsilon\)"
    )
    refused(lambda: desk.report(1, desk.session()), PolicyRefusal, says)
    assert desk.spent() == 0
    whole = Desk.session(desk)  # the same round, all of it hidden, is served
    desk.report(1, whole)


def test_the_server_is_told_the_numbers() -> None:
    desk = ClearDesk(0.0)
    session = desk.session()
    assert "cost epsilon 2.0" in desk.hear(1, "train", desk.request(session))


def test_the_owners_policy_holds_beside_the_apps() -> None:
    def strict(context: Context) -> Device:
        return replace(simulated_device(context), policy=Policy())

    desk = ClearDesk(100.0, device_of=strict)
    refused(lambda: desk.report(1, desk.session()), PolicyRefusal, "allows none")
    assert Policy(clear_epsilon=3.0).stricter(Policy(clear_epsilon=2.0)).clear_epsilon == 2.0
    for deltas in ((1e-7, 1e-5), (1e-5, 1e-7)):  # whichever of them also asks for noise
        for asks in ((None, 1.0), (1.0, None), (None, None)):
            ours, owners = (
                Policy(clear_epsilon=2.0, delta=delta, epsilon=epsilon)
                for delta, epsilon in zip(deltas, asks, strict=True)
            )
            assert ours.stricter(owners).delta == 1e-7
    for bad in (-1.0, 700.1, math.inf, math.nan):
        with pytest.raises(ParameterError, match="clear_epsilon"):
            Policy(clear_epsilon=bad)


def spends(desk: ClearDesk, rounds: int) -> None:
    for number in range(1, rounds + 1):
        desk.report(1, desk.session(number))
        assert same(desk.spent(), ONCE.times(number))


def test_a_budget_stops_exactly_where_it_ends() -> None:
    exactly = budget_for(3)
    spends(enough := ClearDesk(exactly * MORE), 3)
    # What is left, or was spent before, it keeps to itself: a server could know it again by that.
    says = (
        r"^3 coordinates in the clear, clipped to 8 with noise of 4 times that, cost epsilon "
        rf"{budget_for(1):.6g} at delta 1e-05: more than is left \(policy.clear_epsilon\)$"
    )
    refused(lambda: enough.report(1, enough.session(4)), BudgetExceeded, says)
    assert same(enough.spent(), ONCE.times(3))
    spends(short := ClearDesk(exactly * LESS), 2)
    refused(lambda: short.report(1, short.session(3)), BudgetExceeded, "clear_epsilon")
    assert same(short.spent(), ONCE.times(2))
    short.report(1, Desk.session(short, 3))  # what is hidden costs nothing
    assert same(short.spent(), ONCE.times(2))


def test_evaluation_costs_nothing() -> None:
    desk = ClearDesk(100.0)
    desk.report(1, desk.session(1, Purpose.EVALUATE))
    assert desk.spent() == 0


def test_each_part_counts_at_its_own_cost() -> None:
    desk = ClearDesk(100.0)
    other = Clear(((0, 5),), 2.0, 7.0)
    desk.report(1, desk.session())
    desk.report(1, desk.session(2, clear=other))
    assert same(desk.spent(), ONCE, cost(other))
    assert desk.spent(2) == 0


def test_all_runs_count() -> None:
    desk = ClearDesk(budget_for(2) * MORE)
    spends(desk, 2)
    for device, before in desk.contexts.items():
        state = copy_records(before.state)
        desk.contexts[device] = Context(RUN + 1, before.node_id, before.node_config, state, {})
    desk.enrol()
    next_run = desk.session(run=RUN + 1)
    refused(lambda: desk.report(1, next_run), BudgetExceeded, "clear_epsilon")
    desk.report(2, next_run)


def test_another_number_is_no_new_life() -> None:
    """A device that its authority enrolled anew has spent what it has spent."""
    desk = ClearDesk(budget_for(2) * MORE)
    spends(desk, 1)
    kept = desk.vault(1).read(SLOT)
    assert kept is not None
    desk.vault(2).write(SLOT, kept)
    desk.report(2, desk.session(2))
    refused(lambda: desk.report(2, desk.session(3)), BudgetExceeded, "clear_epsilon")
    desk.report(3, desk.session(3))


def test_costs_are_at_the_owners_delta() -> None:
    allowed = budget_for(2) * MORE
    strict = Policy(clear_epsilon=allowed, delta=1e-9)
    assert ONCE.epsilon(1e-9) < allowed < ONCE.times(2).epsilon(1e-9)
    desk = ClearDesk(allowed, policy=strict)
    spends(desk, 1)
    refused(lambda: desk.report(1, desk.session(2)), BudgetExceeded, "at delta 1e-09: more than is")


def filed(folder: Path) -> Callable[[Context], Device]:
    """Devices whose vaults are folders, as deployed ones are."""

    def device_of(context: Context) -> Device:
        device = simulated_device(context)
        path = folder / str(device.number)
        vault = FileVault.open(path) if path.exists() else FileVault.create(path, os.urandom(32))
        return replace(device, vault=vault)

    return device_of


def test_it_survives_a_restart(tmp_path: Path) -> None:
    allowed = budget_for(2) * MORE
    spends(ClearDesk(allowed, device_of=filed(tmp_path)), 2)
    again = ClearDesk(allowed, device_of=filed(tmp_path))
    again.contexts = {d: context(d - 1) for d in again.contexts}
    assert same(again.spent(), ONCE.times(2))
    refused(lambda: again.report(1, again.session(3)), BudgetExceeded, "clear_epsilon")


# When it is counted


def test_it_is_counted_before_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vault that cannot be written: nothing is sent."""
    desk = ClearDesk(100.0)
    vault = type(desk.vault(1))
    write = vault.write

    def full(self: Any, slot: str, value: bytes) -> None:
        if slot == SLOT:
            raise OSError("no space left")
        write(self, slot, value)

    monkeypatch.setattr(vault, "write", full)
    with pytest.raises(TacitError, match="OSError while it answered train"):
        desk.report(1, desk.session())
    assert desk.spent() == 0
    assert desk.vault(1).read("session") is None  # and the sum is over for this device


def fails(message: Message, context: Context) -> RecordDict:
    raise ValueError("no data")


def overweight(message: Message, context: Context) -> RecordDict:
    reply = linear.train_reply(message, context)
    reply["metrics"][linear.WEIGHT] = 10**9
    return reply


@pytest.mark.parametrize("train", [fails, overweight])
def test_training_that_comes_to_nothing_costs_nothing(train: Any) -> None:
    desk = ClearDesk(100.0, train=train)
    with pytest.raises(TacitError):
        desk.report(1, desk.session())
    assert desk.spent() == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"model": bytes(32)},
        {"min_survivors": 2},
        {"clear": Clear(((30, 33),), 8.0, 0.001)},
        {"clear": Clear(((30, 40),), 8.0, 4.0), "codec": Codec(30, 4)},
        {"clear": Clear(((1, LARGEST),), 8.0, 4.0), "codec": Codec(30, 4)},
    ],
)
def test_a_session_that_is_refused_costs_nothing(
    changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And has no noise drawn: for a large one that is all the memory there is."""
    desk = ClearDesk(100.0)
    with monkeypatch.context() as patch:
        patch.setattr(tacit.client.app, "draw_noise", None)
        with pytest.raises((ProtocolError, PolicyRefusal, BudgetExceeded)):
            desk.report(1, desk.session(**changed))
    assert desk.spent() == 0
    desk.report(1, desk.session())  # nor has it been served


def test_of_two_at_once_one_sees_what_the_other_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both were let in while there was enough for one."""
    allowed = Policy(clear_epsilon=budget_for(1) * MORE)
    desk = ClearDesk(allowed.clear_epsilon)
    session = desk.session()
    trained = desk.app._run_app

    def meanwhile(message: Message, context: Context) -> Message:
        budget.spend_clear(desk.vault(1), allowed, session)
        return trained(message, context)

    monkeypatch.setattr(desk.app, "_run_app", meanwhile)
    refused(lambda: desk.report(1, session), BudgetExceeded, r"more than is left \(policy\.clear_")
    assert same(desk.spent(), ONCE)


def test_counting_is_done_alone(tmp_path: Path) -> None:
    """Between reading and writing nobody else is in the vault."""
    vault = FileVault.create(tmp_path / "v", bytes(32))
    inside: list[str] = []

    class Watched:
        def alone(self) -> Any:
            inside.append("in")
            return vault.alone()

        def read(self, slot: str) -> bytes | None:
            inside.append("read")
            return vault.read(slot)

        def write(self, slot: str, value: bytes) -> None:
            inside.append("write")
            vault.write(slot, value)

    allowed = Policy(clear_epsilon=100.0)
    budget.spend_clear(Watched(), allowed, ClearDesk(100.0).session())  # type: ignore[arg-type]
    assert inside == ["in", "read", "write"]
    assert same(spent(vault), ONCE)


def test_noise_is_fresh_each_time_and_comes_from_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[int] = []

    def urandom(size: int) -> bytes:
        drawn.append(size)
        return os.urandom(size)

    monkeypatch.setattr(tacit.client.app, "os", SimpleNamespace(urandom=urandom))
    sent = []
    for _ in range(2):  # the same device, session and data
        desk = ClearDesk(100.0)
        drawn.clear()
        session = desk.session()
        sent.append(shown(session, desk.report(1, session)))
        assert drawn.count(32) == 2  # of the noise, and of the rounding
    assert not np.array_equal(*sent)


def test_a_sum_may_cost_next_to_nothing_and_still_counts() -> None:
    least = Clear(CLEAR.ranges, 1.0, 2.0**10)
    desk = ClearDesk(1.0)
    desk.report(1, desk.session(clear=least))
    assert same(desk.spent(), cost(least))
    assert 0 < desk.spent() < 0.006


def test_the_document_says_what_sums_cost() -> None:
    """Of the largest clear parts; smaller ones cost up to 6% less."""
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    for noise in (2, 4, 8, 16):
        once = cost(Clear(((0, 10**6),), 1.0, float(noise)))
        costs = [once.times(sums).epsilon(DELTA) for sums in (1, 20, 100)]
        shown = " | ".join("none" if math.isinf(e) else f"{e:.2g}" for e in costs)
        assert f"| {noise} | {shown} |" in text
    parts = [Clear(((0, size),), 1.0, 1.0) for size in (1, 10**6)]
    least, most = (math.sqrt(cost(part).plain[0, GDP]) for part in parts)
    assert f"m = {least:.2f} to {most + 0.005:.2f} / noise" in text
