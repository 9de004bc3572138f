"""What a device lets out in the clear: as much as its owner allows, counted before it leaves."""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, MetricRecord, RecordDict

import tacit.client.app
from tacit.client import ledger
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
from tacit.privacy.clear import cost
from tacit.privacy.zcdp import Spent
from tacit.server.encrypted import Encrypted
from tacit.server.flower import copy_records, identity
from tacit.server.pairwise import Binding, Pairwise
from tests.runtime import linear
from tests.runtime.desk import RUN, Desk, context

PROTOCOL = Pairwise(clear=("b", "seen"), clear_norm=8.0, clear_noise=4.0)
LAYOUT = Layout.of(linear.arrays_of(linear.initial()))
CLEAR = Clear(((30, 33),), 8.0, 4.0)
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

    def spent(self, device: int = 1) -> Spent:
        return ledger.spent(self.vault(device))


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
        r"2\.4\d+ at delta 1e-06: .*allows none \(policy\.clear_epsilon\)"
    )
    refused(lambda: desk.report(1, desk.session()), PolicyRefusal, says)
    assert desk.spent() == Spent()
    whole = Desk.session(desk)  # the same round, all of it hidden, is served
    desk.report(1, whole)


def test_the_server_is_told_the_numbers() -> None:
    desk = ClearDesk(0.0)
    session = desk.session()
    assert "cost epsilon 2.4" in desk.hear(1, "train", desk.request(session))


def test_the_owners_policy_holds_beside_the_apps() -> None:
    def strict(context: Context) -> Device:
        return replace(simulated_device(context), policy=Policy())

    desk = ClearDesk(100.0, device_of=strict)
    refused(lambda: desk.report(1, desk.session()), PolicyRefusal, "allows none")
    assert Policy(clear_epsilon=3.0).stricter(Policy(clear_epsilon=2.0)).clear_epsilon == 2.0
    for bad in (-1.0, math.nan):
        with pytest.raises(ParameterError, match="clear_epsilon"):
            Policy(clear_epsilon=bad)


def spends(desk: ClearDesk, rounds: int) -> None:
    for number in range(1, rounds + 1):
        desk.report(1, desk.session(number))
        assert desk.spent() == ONCE.times(number)


def test_a_budget_stops_exactly_where_it_ends() -> None:
    exactly = ONCE.times(3).epsilon
    spends(enough := ClearDesk(exactly), 3)
    # What is left, or was spent before, it keeps to itself: a server could know it again by that.
    says = rf"^3 coordinates [^;]* cost epsilon {ONCE.epsilon:.6g} at delta 1e-06: more than is "
    refused(lambda: enough.report(1, enough.session(4)), BudgetExceeded, says)
    assert enough.spent() == ONCE.times(3)
    spends(short := ClearDesk(math.nextafter(exactly, 0.0)), 2)
    refused(lambda: short.report(1, short.session(3)), BudgetExceeded, "clear_epsilon")
    assert short.spent() == ONCE.times(2)
    short.report(1, Desk.session(short, 3))  # what is hidden costs nothing
    assert short.spent() == ONCE.times(2)


def test_evaluation_costs_nothing() -> None:
    desk = ClearDesk(100.0)
    desk.report(1, desk.session(1, Purpose.EVALUATE))
    assert desk.spent() == Spent()


def test_each_part_counts_at_its_own_cost() -> None:
    desk = ClearDesk(100.0)
    other = Clear(((0, 5),), 2.0, 7.0)
    desk.report(1, desk.session())
    desk.report(1, desk.session(2, clear=other))
    assert desk.spent() == ONCE + cost(other)
    assert desk.spent(2) == Spent()


def test_all_runs_count() -> None:
    desk = ClearDesk(ONCE.times(2).epsilon)
    spends(desk, 2)
    for device, before in desk.contexts.items():
        state = copy_records(before.state)
        desk.contexts[device] = Context(RUN + 1, before.node_id, before.node_config, state, {})
    desk.enrol()
    next_run = desk.session(run=RUN + 1)
    refused(lambda: desk.report(1, next_run), BudgetExceeded, "clear_epsilon")
    desk.report(2, next_run)


def filed(folder: Path) -> Callable[[Context], Device]:
    """Devices whose vaults are folders, as deployed ones are."""

    def device_of(context: Context) -> Device:
        device = simulated_device(context)
        path = folder / str(device.number)
        vault = FileVault.open(path) if path.exists() else FileVault.create(path, os.urandom(32))
        return replace(device, vault=vault)

    return device_of


def test_it_survives_a_restart(tmp_path: Path) -> None:
    budget = ONCE.times(2).epsilon
    spends(ClearDesk(budget, device_of=filed(tmp_path)), 2)
    again = ClearDesk(budget, device_of=filed(tmp_path))
    again.contexts = {d: context(d - 1) for d in again.contexts}
    assert again.spent() == ONCE.times(2)
    refused(lambda: again.report(1, again.session(3)), BudgetExceeded, "clear_epsilon")


# When it is counted


def test_it_is_counted_before_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vault that cannot be written: nothing is sent."""
    desk = ClearDesk(100.0)
    vault = type(desk.vault(1))
    write = vault.write

    def full(self: Any, slot: str, value: bytes) -> None:
        if slot == "cleared":
            raise OSError("no space left")
        write(self, slot, value)

    monkeypatch.setattr(vault, "write", full)
    with pytest.raises(TacitError, match="OSError while it answered train"):
        desk.report(1, desk.session())
    assert desk.spent() == Spent()
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
    assert desk.spent() == Spent()


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
    assert desk.spent() == Spent()
    desk.report(1, desk.session())  # nor has it been served


def test_of_two_at_once_one_sees_what_the_other_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both were let in while there was enough for one."""
    budget = ONCE.epsilon
    desk = ClearDesk(budget)
    trained = desk.app._run_app

    def meanwhile(message: Message, context: Context) -> Message:
        ledger.spend(desk.vault(1), CLEAR, Policy(clear_epsilon=budget))
        return trained(message, context)

    monkeypatch.setattr(desk.app, "_run_app", meanwhile)
    refused(lambda: desk.report(1, desk.session()), BudgetExceeded, "clear_epsilon")
    assert desk.spent() == ONCE


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

    ledger.spend(Watched(), CLEAR, Policy(clear_epsilon=100.0))  # type: ignore[arg-type]
    assert inside == ["in", "read", "write"]
    assert ledger.spent(vault) == ONCE


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
    assert desk.spent() == cost(least)
    assert 0 < desk.spent().rho < Fraction(1, 10**5)


def test_the_document_says_what_sums_cost() -> None:
    """Of the largest clear parts; smaller ones cost up to 6% less."""
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    for noise in (2, 4, 8, 16):
        once = cost(Clear(((0, 10**6),), 1.0, float(noise)))
        costs = [once.times(sums).epsilon for sums in (1, 20, 100)]
        shown = " | ".join("none" if math.isinf(e) else f"{e:.2g}" for e in costs)
        assert f"| {noise} | {shown} |" in text
    least, most = (float(cost(Clear(((0, size),), 1.0, 1.0)).rho) for size in (1, 10**6))
    assert f"{least:.2f} to {most + 0.005:.2f} / noise^2" in text
