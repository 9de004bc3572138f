"""Servers that would have a private sum with less noise than it costs, or for less than it costs.

Device d adds the d-th unit vector, as long as the clip. Whoever reads a sum to the nearest whole
number in each coordinate knows who is in it; with the noise that was agreed nobody does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from tacit.client import budget, rounds
from tacit.client.app import SecureClientApp
from tacit.client.numpy_trainer import NumpyTrainer
from tacit.client.pipeline import PRIVACY, Stated
from tacit.client.policy import Policy
from tacit.client.trainer import Examples, LocalPlan
from tacit.crypto.codec import Decoded, Mean
from tacit.crypto.errors import ProtocolError
from tacit.crypto.prg import add_masks
from tacit.crypto.secagg import client as secagg
from tacit.crypto.secagg.noised import Noised
from tacit.crypto.secagg.session import Session
from tacit.privacy.accountants import Adversary, compose
from tacit.privacy.charges import releases_of
from tacit.privacy.mechanisms import Mechanism, choose
from tacit.privacy.rotation import Rotation
from tacit.server.flower import copy_records
from tests.crypto.test_prg import LIMIT, chi_square
from tests.hostile.attack import Attack, nothing, replaced, together, trial, trials
from tests.hostile.crowd import Crowd, count_randomness, unit
from tests.hostile.kinds import LATTICE, PAIRS
from tests.hostile.test_sessions import ONE_ID, told_self_keys
from tests.privacy.records import Shelf
from tests.runtime import linear
from tests.runtime.desk import RUN

pytestmark = pytest.mark.kinds(PAIRS, LATTICE)
VICTIM, DEVICES, LENGTH = 3, 5, 16
ALL = tuple(range(1, DEVICES + 1))
DELTA = 1e-5
TIMES = 25  # noise of half a clip is a tenth of one in the mean of so many sums


def noised(**changed: Any) -> Noised:
    """As an honest server has it: of five, one may be missing and one corrupt."""
    base = {
        "length": LENGTH,
        "clients": DEVICES,
        "dropouts": 1,
        "corrupt": 1,
        "clip": 1.0,
        "noise": 0.5,
    }
    return choose(**(base | changed)).agreed


def cost(codec: Noised, survivors: int = 4, corrupt: int = 1, sums: int = 1) -> float:
    """Epsilon of so many, and a hair."""
    once = releases_of(codec, RUN, 1, survivors, corrupt)
    return compose(once * sums, Adversary.SERVER).epsilon(DELTA) * (1 + 1e-9)


ENOUGH = 50.0  # for whatever is not a matter of the budget


class Private(Crowd):
    """A crowd whose owners ask for noise, and a server that opens all sums it can."""

    def __init__(self, epsilon: float | None = ENOUGH, length: int = LENGTH, **more: Any) -> None:
        asks = {"epsilon": epsilon, "delta": DELTA, **more.pop("asks", {})}
        super().__init__(DEVICES, policy=Policy(**asks), **more)
        self.model = linear.record({"w": np.zeros(length)})

    def private(self, codec: Noised, round: int = 1, **changes: Any) -> Session:
        """A server may say what it likes, also what a session cannot say."""
        plain = self.session(round)
        try:
            return replace(plain, codec=codec, **changes)
        except ValueError:
            forged = replace(plain)
            for name, value in {"codec": codec, **changes}.items():
                object.__setattr__(forged, name, value)
            return forged

    def total(self, session: Session, survivors: tuple[int, ...] = ALL) -> np.ndarray:
        """The ring elements of the sum over the latest reports."""
        self.heard(session)
        self.opens(session, survivors)
        latest = self.adversary.dealt[session.id][-len(session.devices) :]
        found = self.adversary.total([dealt for dealt in latest if dealt.device in survivors])
        assert found is not None
        return found

    def opens_to(self, session: Session, survivors: tuple[int, ...] = ALL) -> np.ndarray:
        """What the sum says, in clips."""
        return in_clips(session, self.total(session, survivors))


def in_clips(session: Session, total: np.ndarray) -> np.ndarray:
    """Without any of the checks of an honest server."""
    assert isinstance(session.codec, Noised)
    mechanism = Mechanism.of(session.codec)
    steps = Decoded(total[: mechanism.coordinates], mechanism.bits, 1.0)
    found: np.ndarray = mechanism.update(Mean(steps, np.zeros(0), 1.0), session.id)
    return found


def says_who(sums: np.ndarray) -> bool:
    """Whether each coordinate is nearest to what it is without noise."""
    return np.rint(sums).tolist() == [1.0] * DEVICES + [0.0] * (len(sums) - DEVICES)


# Less noise


def left_out() -> bool:
    crowd = Private()
    session = crowd.session()
    crowd.heard(session)
    crowd.opens(session, ALL)
    return any(
        reading[:DEVICES] == (1,) * DEVICES for _, reading in crowd.adversary.readings(session.id)
    )


def sums(codec: Noised, **more: Any) -> Callable[[], bool]:
    def run() -> bool:
        crowd = Private(**more)
        return says_who(crowd.opens_to(crowd.private(codec)))

    return run


def clipped_examples(message: Message, context: Context) -> RecordDict:
    """A function that clips each example to a hundredth: true, and of no use to this owner."""
    reply = unit(message, context)
    reply[PRIVACY] = ConfigRecord({"clip": 0.01})
    return reply


NOBODY_CHECKS = replaced(Policy, "_check_noise", nothing)
NOBODY_COUNTS = together(replaced(budget, "check", nothing), replaced(budget, "spend", nothing))

LESS: dict[str, Attack] = {
    "no noise at all": Attack(
        left_out,
        together(NOBODY_CHECKS, replaced(budget, "own_noise", lambda policy, said: ())),
        "a sum without noise",
    ),
    "hardly any noise": Attack(sums(noised(noise=0.01)), NOBODY_COUNTS, "allows no more"),
    "noise that the server promises": Attack(
        sums(noised(central=True, corrupt=0)),
        together(NOBODY_CHECKS, NOBODY_COUNTS),
        "promises to add",
    ),
    "noise for a hundredth of an update": Attack(
        sums(noised(records=128, clip=0.01, noise=2.0), train=clipped_examples),
        NOBODY_CHECKS,
        "noise that protects a record",
    ),
}


@trials(LESS)
def test_a_server_asks_for_less_noise(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_randomness(monkeypatch)
    trial(attack, defended, monkeypatch)


# Noise of a crowd, over fewer

LONG = 4000  # coordinates: a mean square is within 11% of its variance, by 5 deviations


def square(session: Session, total: np.ndarray) -> float:
    """The mean square of noise, of what was promised."""
    assert isinstance(session.codec, Noised)
    found = in_clips(session, total)
    mechanism = Mechanism.of(session.codec)
    return float(np.mean((found * mechanism.scale) ** 2) / mechanism.variance)


def over_fewer() -> bool:
    """All five share the noise, and four are enough to open."""
    crowd = Private(ENOUGH, LONG)
    crowd.silence()
    codec = noised(length=LONG, dropouts=0, corrupt=0)
    session = crowd.private(codec, min_survivors=4)
    return square(session, crowd.total(session, (1, 2, 3, 4))) < 0.89


def called_complete() -> bool:
    """As the device is told, all have to survive; the committee is asked about four."""
    crowd = Private(ENOUGH, LONG)
    crowd.silence()
    codec = noised(length=LONG, dropouts=0, corrupt=0)
    session = crowd.private(codec, min_survivors=5)
    return square(session, crowd.total(session, (1, 2, 3, 4))) < 0.89


@contextmanager
def confided(into: dict[int, np.ndarray]) -> Iterator[None]:
    """What each device adds to the sum, before it is hidden: a corrupt one tells."""
    hide = secagg.report

    def telling(
        state: Any, identity: Any, session: Any, agreed: Any, encoded: Any, *rest: Any
    ) -> Any:
        into[state.device] = encoded.copy()
        return hide(state, identity, session, agreed, encoded, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secagg, "report", telling)
        yield


def with_a_traitor() -> bool:
    """The session counts on the noise of all; one of them tells its own. This owner's budget is
    for what the session says that it costs."""
    codec = noised(length=LONG, dropouts=1, corrupt=0)
    crowd, told = Private(cost(codec, 4, 0), LONG), dict[int, np.ndarray]()
    crowd.silence()
    session = crowd.private(codec)
    with confided(told):
        total = crowd.total(session, (1, 2, 3, 4))
    total -= told[4]
    return square(session, total) < 0.89


def believing(session: Session, policy: Policy) -> Any:
    """`budget.charges` of a device that counts as many corrupt devices as it is told."""
    codec = session.codec
    if not isinstance(codec, Noised):
        return ()
    return releases_of(codec, session.run, session.round, session.min_survivors, codec.corrupt)


FEWER: dict[str, Attack] = {
    "opened over fewer than the noise takes": Attack(
        over_fewer, replaced(Session, "_check_noised", nothing), "whose noise takes 5"
    ),
    "a corrupt device, and the session counts none": Attack(
        with_a_traitor, replaced(budget, "charges", believing), "allows no more"
    ),
}


@trials(FEWER)
def test_a_server_opens_a_sum_with_less_noise_than_was_promised(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_randomness(monkeypatch)
    trial(attack, defended, monkeypatch)


def test_with_all_that_was_promised_the_noise_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measure of the attacks above, of an honest session with its traitor."""
    count_randomness(monkeypatch)
    crowd, told = Private(ENOUGH, LONG), dict[int, np.ndarray]()
    crowd.silence()
    session = crowd.private(noised(length=LONG))
    with confided(told):
        total = crowd.total(session, (1, 2, 3, 4))
    assert square(session, total.copy()) > 1.2  # four shares, of which three are enough
    total -= told[4]
    assert abs(square(session, total) - 1) < 0.11


def test_a_committee_does_not_open_a_sum_over_fewer() -> None:
    with pytest.raises(ProtocolError, match="4 survivors, at least 5 needed"):
        called_complete()


# Again and again


def on_average(
    again: Callable[[Private, int], Session], epsilon: float | None
) -> Callable[[], bool]:
    """One and the same input under fresh noise, TIMES times."""

    def run() -> bool:
        crowd = Private(epsilon)
        found = [crowd.opens_to(again(crowd, number)) for number in range(1, TIMES + 1)]
        assert not says_who(found[0])
        return says_who(np.mean(found, axis=0))

    return run


def replayed(crowd: Private, number: int) -> Session:
    return crowd.private(noised())


def next_round(crowd: Private, number: int) -> Session:
    return crowd.private(noised(), number)


def next_run(crowd: Private, number: int) -> Session:
    """Each device in a run of its own that it never was in."""
    run = RUN + number
    for device, before in crowd.contexts.items():
        state = copy_records(before.state)
        crowd.contexts[device] = Context(run, before.node_id, before.node_config, state, {})
    crowd.enrol()
    return crowd.private(noised(), run=run)


def restarted(crowd: Private, number: int) -> Session:
    for device in crowd.contexts:
        crowd.restart(device)
    return crowd.private(noised(), number)


def forgetful(vault: Any, policy: Policy, unit: Any) -> Any:
    """`budget.ledger_of` of a device that begins anew each time."""
    return ledger_of(Shelf(), policy, unit)


ledger_of = budget.ledger_of
SOME = cost(noised(), sums=3)
FORGETFUL = replaced(budget, "ledger_of", forgetful)
AGAIN: dict[str, Attack] = {
    "the same session": Attack(
        on_average(replayed, None), replaced(rounds, "serve_once", nothing), "was served before"
    ),
    "round after round": Attack(on_average(next_round, SOME), FORGETFUL, "allows no more"),
    "run after run": Attack(on_average(next_run, SOME), FORGETFUL, "allows no more"),
    "restart after restart": Attack(on_average(restarted, SOME), FORGETFUL, "allows no more"),
}


@trials(AGAIN)
def test_a_server_averages_the_noise_away(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_randomness(monkeypatch)
    trial(attack, defended, monkeypatch)


# A session of its own for one device


def told_apart(**changed: Any) -> Callable[[], bool]:
    """The victim is asked for another noise than all others. Whether the sum opens all the same,
    once the self masks are off."""

    def run() -> bool:
        crowd, keys = Private(ENOUGH, 400), list[bytes]()
        codec = replace(noised(length=400), bits=16)
        session, others = crowd.private(codec), crowd.private(replace(codec, **changed))
        total = np.zeros(codec.size, codec.dtype)
        with told_self_keys(keys):
            for device in session.devices:
                asked = session if device == VICTIM else others
                crowd.adversary.reported(asked, crowd.report(device, asked))
        for dealt in (one for many in crowd.adversary.dealt.values() for one in many):
            total += dealt.vector()
        add_masks(total, [], keys)
        opens = (int(total[-1]) - DEVICES) % (1 << codec.bits) == 0
        assert opens or chi_square((total & 0xFFFF).astype("<u2").tobytes()) < LIMIT
        return opens

    return run


APART: dict[str, Attack] = {
    "others add next to nothing": Attack(told_apart(noise=0.2), ONE_ID),
    "another clip": Attack(told_apart(clip=8.0), ONE_ID),
    "others add all of it": Attack(told_apart(corrupt=3), ONE_ID),
}


@pytest.mark.kinds(PAIRS)
@trials(APART)
def test_one_device_is_asked_for_other_noise(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


# More than a clip


def loud(message: Message, context: Context) -> RecordDict:
    """The victim's update is a hundred times as long as any other."""
    reply = unit(message, context)
    if int(context.node_config["partition-id"]) == VICTIM - 1:
        w = linear.arrays_of(reply["arrays"])["w"]
        reply["arrays"] = linear.record({"w": w * 100})
    return reply


def heard_over_all() -> bool:
    """Its owner lets an update be one long at most, and counts no epsilon."""
    crowd = Private(None, train=loud, asks={"max_norm": 1.0})
    found = crowd.opens_to(crowd.private(noised(clip=1000.0, noise=0.001)))
    return bool(found[VICTIM - 1] > 50)


def lengthened() -> bool:
    """One example, in a sketch that adds up all it has: whether it moves the sum by more than what
    is counted for it."""
    base = choose(64, DEVICES, 1, 1, 1.0, 1.0, records=16)
    forged = object.__new__(Noised)
    for name in Noised.__slots__:
        object.__setattr__(forged, name, getattr(base, name))
    object.__setattr__(forged, "sketch", 4)
    sent: list[np.ndarray] = []
    for present in (0.0, 1.0):
        example = np.zeros(64)

        def train(message: Message, context: Context, x: np.ndarray = example) -> RecordDict:
            arrays = linear.record({"w": linear.arrays_of(message.content["arrays"])["w"] + x})
            said = ConfigRecord({"clip": 1.0})
            return RecordDict({"arrays": arrays, PRIVACY: said})

        with pytest.MonkeyPatch.context() as patch:
            count_randomness(patch, b"keys")
            crowd = Private(ENOUGH, 64, train=train, asks={"unit": "record"})
            session = crowd.private(forged)
            longest = Rotation(64, 4, session.id).back(np.ones(4, np.float32)).astype(float)
            example += present * longest / np.linalg.norm(longest) * (1 - 1e-6)
            count_randomness(patch, b"sum")
            told = dict[int, np.ndarray]()
            with confided(told):
                crowd.report(VICTIM, session)
        sent.append(told[VICTIM][:-1].view(np.int32).astype(float))
    bound = Mechanism.of(session.codec).bound
    return float(np.sum((sent[0] - sent[1]) ** 2)) > bound


LONGER: dict[str, Attack] = {
    "a huge clip": Attack(heard_over_all, NOBODY_CHECKS, r"policy\.max_norm"),
    "examples in a sketch": Attack(
        lengthened, replaced(Noised, "__post_init__", nothing), "a sketch may lengthen"
    ),
}


@trials(LONGER)
def test_a_server_has_one_count_for_more_than_it_costs(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_randomness(monkeypatch)
    trial(attack, defended, monkeypatch)


def test_examples_that_nobody_clips_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update as long as it likes, under noise for one of its examples."""
    count_randomness(monkeypatch)
    attack = Attack(
        sums(noised(records=128, clip=0.01, noise=2.0), asks={"unit": "record"}),
        replaced(Stated, "check", nothing),
        "does not clip what each example adds",
    )
    with monkeypatch.context() as patch:
        trial(attack, True, patch)
    trial(attack, False, monkeypatch)


# Training that is made to fail


PIXELS, SOUGHT = 7, 4


def ill(has_it: bool) -> Callable[[Message, Context], RecordDict]:
    """The trainer that comes with Tacit, on one device's examples: in one of them a pixel is lit,
    or in none."""
    x = np.random.default_rng(1).uniform(0, 1, (20, PIXELS)).astype(np.float32)
    x[:, SOUGHT] = 0
    x[11, SOUGHT] = has_it
    examples = Examples(x, np.arange(20) % 2)
    trainer = NumpyTrainer(PIXELS, 2)

    def train(message: Message, context: Context) -> RecordDict:
        model = linear.arrays_of(next(iter(message.content.array_records.values())))
        trained, loss = trainer.fit(model, examples, LocalPlan())
        metrics = MetricRecord({linear.WEIGHT: 20, "loss": loss})
        return RecordDict({"arrays": linear.record(trained), "metrics": metrics})

    return train


def hears_of_it() -> bool:
    """A model that overflows where that pixel is lit. Whether the server is answered otherwise by
    the one than by the other, at no cost: it may ask about every pixel, round after round."""
    weight, bias = np.zeros((2, PIXELS), np.float32), np.full(2, 3e38, np.float32)
    weight[0, SOUGHT] = 3e38
    heard = []
    for has_it in (False, True):
        crowd = Private(train=ill(has_it))
        crowd.model = linear.record({"fc.weight": weight, "fc.bias": bias})
        session = crowd.private(noised(length=weight.size + bias.size))
        heard.append(crowd.hear(VICTIM, "train", crowd.request(session)))
    return heard[0] != heard[1]


def told_as_it_is(app: Any, message: Message, context: Context, session: Session) -> Any:
    return app._run_app(message, context).content


@pytest.mark.parametrize("defended", [True, False], ids=["defended", "undefended"])
def test_a_server_has_training_fail_where_it_finds_what_it_looks_for(
    defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    removal = replaced(SecureClientApp, "_answered", told_as_it_is)
    trial(Attack(hears_of_it, removal), defended, monkeypatch)
