"""A device in a hybrid run: what it asks for, what it keeps, what it forgets."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict

from tacit.client import rounds
from tacit.client.device import Device, simulated_device
from tacit.client.policy import Policy
from tacit.client.vault import FileVault
from tacit.crypto.errors import MalformedMessage, PolicyRefusal, ProtocolError, TacitError
from tacit.crypto.identity import NO_KEM
from tacit.crypto.secagg import stages
from tacit.crypto.secagg.hybrid import Capsule, EncapsulateRequest
from tacit.crypto.secagg.server import Collecting
from tacit.server.flower import identity
from tacit.server.pairwise import Pairwise
from tests.runtime import linear
from tests.runtime.desk import RUN, Desk, context, field, stage

HYBRID = Pairwise(hybrid=True)


@pytest.fixture(autouse=True)
def _task() -> Iterator[None]:
    with identity(RUN):
        yield


@pytest.fixture
def desk() -> Desk:
    """Four devices whose owners want hybrid sums, all enrolled, no secret exchanged yet."""
    return Desk(protocol=HYBRID, policy=Policy(hybrid=True)).enrol()


def refused(
    act: Callable[..., object], reason: str, kind: type[TacitError] = ProtocolError
) -> None:
    with pytest.raises(kind, match=reason):
        act()


def kept(desk: Desk, device: int, slot: str = "kem") -> bytes | None:
    return simulated_device(desk.contexts[device]).vault.read(slot)


def forgotten(desk: Desk, device: int) -> None:
    """The device has lost all it kept, as one in memory does when it starts again."""
    desk.contexts[device] = context(device - 1)


# Enrolment


def test_a_hybrid_run_gives_the_sum_of_one_that_is_not(desk: Desk) -> None:
    plain = Desk().enrol()
    hybrid, usual = desk.exchange().session(), plain.session()
    assert (hybrid.hybrid, usual.hybrid) == (True, False)
    mean, other = desk.sum(hybrid), plain.sum(usual)
    assert mean.update.tobytes() == other.update.tobytes()
    assert (mean.weight, mean.metrics.tolist()) == (other.weight, other.metrics.tolist())


def test_a_device_enrols_with_an_ml_kem_key_only_if_asked_to() -> None:
    plain = Desk().enrol()
    assert {key.kem for key in plain.keys.values()} == {NO_KEM}
    for said in ({}, {"hybrid": False}):
        record = stage(roster=plain.roster.encode(), **said)
        reply = plain.ask(1, stages.ENROL, record).config_records[stages.RECORD]
        assert set(reply) == {stages.RUN_KEY}
    record = stage(roster=plain.roster.encode(), hybrid="yes")
    refused(lambda: plain.ask(1, stages.ENROL, record), "no 'hybrid'", MalformedMessage)


def test_asked_again_it_answers_the_same(desk: Desk) -> None:
    before = dict(desk.keys), dict(desk.kem)
    assert (desk.enrol().keys, desk.kem) == before
    # ... also where it is asked to enrol as if the run were another kind of run.
    reply = desk.ask(1, stages.ENROL, stage(roster=desk.roster.encode()))
    assert field(reply, stages.KEM_KEY) == desk.kem[1]
    plain = Desk().enrol()
    plain.protocol = HYBRID
    record = stage(roster=plain.roster.encode(), hybrid=True)
    assert stages.KEM_KEY not in plain.ask(1, stages.ENROL, record).config_records[stages.RECORD]


# Sessions


def test_an_owner_may_insist_on_hybrid_sums(desk: Desk) -> None:
    desk.exchange()
    session = replace(desk.session(), hybrid=False)
    refused(lambda: desk.report(1, session), r"X25519 alone.*policy\.hybrid", PolicyRefusal)

    def strict(context: Context) -> Device:
        return replace(simulated_device(context), policy=Policy(hybrid=True))

    owned = Desk(policy=Policy(), device_of=strict).enrol()
    refused(lambda: owned.report(1, owned.session()), "X25519 alone", PolicyRefusal)


def test_a_session_that_is_called_plain_for_one_device_is_another_one() -> None:
    desk = Desk(protocol=HYBRID).enrol().exchange()
    session = desk.session()
    plain = replace(session, hybrid=False)
    collecting = Collecting(session, desk.roster)
    with pytest.raises(ProtocolError, match="device 4: report is for another session"):
        collecting.add(desk.report(4, plain), sender=4)
    # Its secrets are those of X25519 alone, and are not taken for the others.
    vault = simulated_device(desk.contexts[4]).vault
    alone, both = rounds.agreed(vault, plain), rounds.agreed(vault, session)
    assert not set(alone.values()) & set(both.values())
    assert rounds.agreed(vault, plain) == alone


def test_a_missing_secret_is_told_before_anything_is_counted_or_trained() -> None:
    trained: list[int] = []

    def train(message: Message, context: Context) -> RecordDict:
        trained.append(context.node_id)
        return linear.train_reply(message, context)

    desk = Desk(protocol=HYBRID, train=train).enrol()
    session = desk.session()
    refused(lambda: desk.report(1, session), "device 2: we share no ML-KEM secret with it")
    refused(lambda: desk.report(4, session), "device 1: we share no ML-KEM secret with it")
    assert not trained
    desk.exchange().sum(session)  # the same session: neither device had served it
    assert len(trained) == 4


def test_a_peer_that_enrolled_anew_gets_a_new_secret(desk: Desk) -> None:
    desk.exchange().sum(desk.session())
    old = desk.keys[2]
    forgotten(desk, 2)
    desk.enrol([2])
    assert desk.keys[2].kem != old.kem
    session = desk.session(2)
    refused(lambda: desk.report(1, session), "device 2: we share no ML-KEM secret")
    refused(lambda: desk.report(3, session), "device 2: we share no ML-KEM secret")
    desk.open(2, {1: desk.capsules(1, [2])[2]})
    sealed = desk.capsules(2, [3, 4])
    for device in (3, 4):
        desk.open(device, {2: sealed[device]})
    desk.sum(session)


# Capsules


def test_capsules_go_where_they_were_sent(desk: Desk) -> None:
    one, two = desk.capsules(1, [2, 3, 4]), desk.capsules(2, [3, 4])
    refused(lambda: desk.open(3, {1: one[4]}), "device 1: capsule for device 3 is not signed")
    refused(lambda: desk.open(3, {1: two[3]}), "device 1: capsule for device 3 is not signed")
    refused(lambda: desk.open(3, {2: one[3]}), "device 2: capsule for device 3 is not signed")
    broken = Capsule(bytes(1088), one[3].signature)
    refused(lambda: desk.open(3, {1: broken, 2: two[3]}), "device 1: capsule for device 3")
    assert kept(desk, 3) is None  # nothing of a message that does not hold
    desk.open(3, {1: one[3], 2: two[3]})


def test_a_capsule_from_before_its_receiver_enrolled_anew_is_refused(desk: Desk) -> None:
    old = desk.capsules(1, [3])
    forgotten(desk, 3)
    desk.enrol([3])
    refused(lambda: desk.open(3, {1: old[3]}), "device 1: capsule for device 3 is not signed")


def test_a_capsule_from_before_its_dealer_enrolled_anew_is_refused(desk: Desk) -> None:
    old = desk.capsules(1, [3])
    forgotten(desk, 1)
    desk.enrol([1])
    refused(lambda: desk.open(3, {1: old[3]}), "device 1: capsule for device 3 is not signed")


def test_a_capsule_of_another_run_is_refused(desk: Desk) -> None:
    old, states = desk.capsules(1, [3]), {d: c.state for d, c in desk.contexts.items()}
    for device, state in states.items():
        config = desk.contexts[device].node_config
        desk.contexts[device] = Context(RUN + 1, 1000, config, state, {})
    with identity(RUN + 1):
        desk.enrol()
        refused(lambda: desk.open(3, {1: old[3]}), "device 1: capsule for device 3 is not signed")


def test_a_dealer_asked_twice_draws_a_new_secret_and_the_last_one_counts(desk: Desk) -> None:
    """What it sealed first may have been lost. Old capsules get a server a sum that is noise."""
    desk.exchange()
    again = desk.capsules(1, [2])
    session = desk.session(1)
    with pytest.raises(ProtocolError, match=r"shares that do not hold|do not cancel"):
        desk.sum(session)  # device 2 has not been told
    desk.open(2, {1: again[2]})
    desk.open(2, {1: again[2]})
    desk.sum(desk.session(2))


def test_only_a_hybrid_run_has_these_stages() -> None:
    plain, hybrid = Desk().enrol(), Desk(protocol=HYBRID).enrol()
    plain.kem = hybrid.kem
    for kind in (stages.ENCAPSULATE, stages.DECAPSULATE):
        content = stage(message=bytes(4))
        refused(lambda k=kind, c=content: plain.ask(1, k, c), "enrolled without an ML-KEM key")
        hybrid.ask(1, kind, content)
        refused(lambda k=kind: hybrid.ask(1, k, stage(message=b"x")), "early", MalformedMessage)
        refused(lambda k=kind: hybrid.ask(1, k, stage(other=b"")), "no 'mess", MalformedMessage)
        forgotten(hybrid, 4)
        refused(lambda k=kind, c=content: hybrid.ask(4, k, c), stages.NOT_ENROLLED)


def test_a_capsule_in_the_middle_of_a_sum_opens_nothing_more(desk: Desk) -> None:
    """The shares that were sealed under the secret before it do not open any more."""
    desk.exchange()
    session = desk.session()
    attesting = desk.collected(session)
    desk.capsules(1, [2])
    for device in session.devices:
        said = desk.attest(device, attesting.request(device), session)
        attesting.add(said, sender=device)
    assert attesting.close()._bad[1] == (2,)


# What is kept


def test_secrets_survive_a_restart_and_not_the_next_run(tmp_path: Path) -> None:
    vaults = {
        device: FileVault.create(tmp_path / str(device), bytes([device]) * 32)
        for device in (1, 2, 3, 4)
    }

    def device_of(context: Context) -> Device:
        device = simulated_device(context)
        return replace(device, vault=FileVault.open(vaults[device.number].folder))

    desk = Desk(protocol=HYBRID, device_of=device_of).enrol().exchange()
    for device in desk.contexts:
        desk.contexts[device] = context(device - 1)  # Flower's own memory is lost
    desk.sum(desk.session())
    assert vaults[2].read("kem") is not None
    assert vaults[2].read("agreed") is not None
    moved = desk.contexts[2]
    desk.contexts[2] = Context(RUN + 1, moved.node_id, moved.node_config, RecordDict(), {})
    with identity(RUN + 1):
        desk.enrol([2])
    assert vaults[2].read("kem") is None
    assert vaults[2].read("agreed") is None
    assert not [path.name for path in vaults[2].folder.iterdir() if "kem" in path.name]


def test_one_secret_is_kept_for_each_device(desk: Desk) -> None:
    desk.exchange()
    size = len(kept(desk, 1) or b"")
    assert size == 4 + 3 * (8 + 32 + 32)
    desk.capsules(1, [2, 3])
    assert len(kept(desk, 1) or b"") == size
    assert kept(desk, 1, "agreed") is None  # what came of the old ones is gone with them


def test_seeds_and_secrets_are_in_no_log_and_no_reply(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        desk.exchange()
        desk.hear(3, stages.DECAPSULATE, stage(message=b"garbage"))
        desk.hear(3, stages.ENCAPSULATE, stage(message=EncapsulateRequest(()).encode()))
        told = desk.hear(1, "train", desk.request(replace(desk.session(), min_survivors=2)))
        desk.collected(desk.session())
    state = rounds.run_state(simulated_device(desk.contexts[1]).vault, RUN)
    assert state is not None
    assert len(state.kem_seed) == 64
    stored = kept(desk, 1)
    assert stored is not None
    for secret in (state.kem_seed, state.secret, stored[-32:]):
        for shown in (caplog.text, told, repr(state)):
            assert secret.hex() not in shown
            assert repr(secret)[2:-1] not in shown
