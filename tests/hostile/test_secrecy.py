"""What fewer than a threshold of members, and the server, know of one encrypted vector: nothing.

Of its key that is a proof, over the field. Of its ciphertext nobody has a proof: it is the hardness
of ring-LWE. There the attacks that come to mind are run, and score like a coin.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

import tacit.client.app
from tacit.client.policy import Policy
from tacit.crypto.lattice import keys as lattice_keys
from tacit.crypto.lattice.keys import FIELD, Elements, Shares
from tacit.crypto.lattice.sampler import Noise
from tacit.crypto.secagg.client import REPORT_RAND_BYTES
from tacit.crypto.secagg.session import Session
from tacit.server.flower import copy_records
from tests.hostile.attack import Attack, Removal, nothing, replaced, trial, trials
from tests.hostile.crowd import WEIGHT, Crowd
from tests.hostile.guesses import GUESSES, Seen
from tests.hostile.kinds import LATTICE
from tests.hostile.test_rounds import ONCE
from tests.runtime import linear

pytestmark = pytest.mark.kinds(LATTICE)


# Shares: for any other key there are coefficients that explain all that is seen


def polynomial(zeros: Sequence[int], value: int) -> list[int]:
    """Coefficients of the one that is 0 at `zeros` and `value` at 0, the constant first."""
    out = [value % FIELD]
    for zero in zeros:  # times 1 - x / zero
        factor = -pow(zero, -1, FIELD)
        out = [
            (low + factor * high) % FIELD for low, high in zip([*out, 0], [0, *out], strict=True)
        ]
    return out


def dealt(key: Elements, coefficients: Elements, points: Sequence[int]) -> Shares:
    """What `share` deals of a key with these coefficients, (threshold - 1, N)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lattice_keys, "_uniform", lambda rand, count: coefficients.reshape(-1))
        return lattice_keys.share(key, len(coefficients) + 1, points, bytes(32))


@st.composite
def dealings(draw: st.DrawFn) -> tuple[Elements, Elements, Elements, list[int], list[int]]:
    """Keys and coefficients of two devices, (2, N) and (2, t - 1, N); two other keys that have the
    same sum; all members' points, and those of t - 1 corrupt ones."""
    points = draw(st.lists(st.integers(1, 255), min_size=2, max_size=7, unique=True))
    threshold = draw(st.integers(2, len(points)))
    corrupt = draw(st.permutations(points))[: threshold - 1]
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    keys = rng.integers(-48, 49, (2, 8))
    other = rng.integers(-48, 49, 8)
    return (
        keys,
        rng.integers(0, FIELD, (2, threshold - 1, 8)),
        np.array([other, keys.sum(0) - other]),
        points,
        corrupt,
    )


@settings(max_examples=60)
@given(dealings())
def test_all_that_is_seen_of_shares_is_explained_by_any_keys_of_the_same_sum(
    case: tuple[Elements, Elements, Elements, list[int], list[int]],
) -> None:
    """Corrupt members' shares of either key, and the opened sums of everybody's: they are the same
    for other keys with other coefficients. These are the old ones plus something fixed, so they are
    just as likely, and what is seen says nothing of which keys it were."""
    keys, coefficients, others, points, corrupt = case
    explained = coefficients.copy()
    for at in range(keys.shape[1]):
        moved = polynomial(corrupt, int(others[0, at] - keys[0, at]))
        explained[0, :, at] = (explained[0, :, at] + moved[1:]) % FIELD
        explained[1, :, at] = (explained[1, :, at] - moved[1:]) % FIELD
    true = [dealt(*one, points) for one in zip(keys, coefficients, strict=True)]
    told = [dealt(*one, points) for one in zip(others, explained, strict=True)]
    known = [points.index(point) for point in corrupt]
    for one, other in zip(true, told, strict=True):
        assert np.array_equal(one[known], other[known])
    for at in range(len(points)):
        sums = [lattice_keys.add(np.array([one[at], two[at]])) for one, two in (true, told)]
        assert np.array_equal(*sums)
    # One share more, and there is nothing left to explain: it tells the keys apart.
    spare = next(at for at in range(len(points)) if at not in known)
    held = [*known, spare]
    for shares, key in zip((*true, *told), (*keys, *others), strict=True):
        found = lattice_keys.combine([points[at] for at in held], shares[held])
        assert np.array_equal(found, key)
    differ = keys[0] != others[0]
    assert np.array_equal(true[0][spare] != told[0][spare], differ)


# Ciphertexts: guess which of two inputs is whose


SUMS = 100
LONG = 2048  # coordinates: all coefficients of a block carry something
HONEST, COLLUDERS = (1, 2), (3, 4, 5)


def game(sums: int, colluders: Sequence[int] = COLLUDERS) -> Iterator[tuple[int, Seen]]:
    """Sums of five devices, four of whose shares open a key: what was true, and what is seen.

    Of the honest two, one adds the largest update that there is, and the other its opposite; a coin
    says which. Colluders hand over their keys of the run, and those that they encrypt with.
    """
    coins = np.random.default_rng(1).integers(0, 2, sums)

    def train(message: Message, context: Context) -> RecordDict:
        number = message.content.config_records["config"]["server-round"]
        device = int(context.node_config["partition-id"]) + 1
        sign = (-1) ** int(coins[number - 1] + device) if device in HONEST else 0
        metrics = MetricRecord({linear.WEIGHT: WEIGHT, "loss": 1.0})
        moved = np.full(LONG, 8.0 * sign)
        return RecordDict({"arrays": linear.record({"w": moved}), "metrics": metrics})

    crowd = Crowd(policy=Policy(corrupt=0.2), train=train, corrupt=colluders)
    crowd.model = linear.record({"w": np.zeros(LONG)})
    for number, coin in enumerate(coins, start=1):
        session = crowd.session(number)
        assert session.threshold == 4
        with told_keys() as drawn:
            crowd.heard(session)
        crowd.opens(session, session.devices)
        reports = {one.device: one for one in crowd.adversary.dealt[session.id]}
        pool = crowd.adversary.pools[session.id]
        opened = pool.key(list(reports.values()))
        assert opened is not None
        theirs = np.sum([drawn[d - 1] for d in COLLUDERS], axis=0, dtype=np.int64)
        shares = {
            session.point(member): share
            for member, dealers, share in pool.learnt()
            if dealers == [reports[1]]
        }
        assert len(shares) == len(colluders)
        yield (
            int(coin),
            Seen(
                session,
                reports[1].vector(),
                reports[2].vector(),
                opened - theirs,
                shares,
                (encoded(session, -8.0), encoded(session, 8.0)),
            ),
        )


def encoded(session: Session, value: float) -> np.ndarray:
    """What a device of such an update encrypts. All values are on the grid, so nothing is rounded
    by chance."""
    codec = session.codec
    return codec.encode(np.full(codec.length, value), np.array([1.0]), WEIGHT, bytes(32))


@contextmanager
def told_keys() -> Iterator[list[Noise]]:
    """The lattice keys that are drawn meanwhile."""
    drawn: list[Noise] = []

    def draw(degree: int, width: int, rand: bytes, real: Any = lattice_keys.draw) -> Noise:
        drawn.append(real(degree, width, rand))
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lattice_keys, "draw", draw)
        yield drawn


def one_key(degree: int, width: int, rand: bytes, draw: Any = lattice_keys.draw) -> Noise:
    """`draw` of devices that all have the same key."""
    key: Noise = draw(degree, width, bytes(32))
    return key


def few_coefficients(degree: int, width: int, rand: bytes) -> Noise:
    """`draw` of devices whose key has a single coefficient."""
    key: Noise = np.zeros(degree, np.int8)
    key[int.from_bytes(rand[:4], "little") % degree] = 1
    return key


def test_which_of_two_inputs_it_was_is_anyones_guess() -> None:
    hits = dict.fromkeys(GUESSES, 0)
    for coin, seen in game(SUMS):
        for name, guess in GUESSES.items():
            hits[name] += guess(seen) == coin
    # A coin is right Bin(SUMS, 1/2) times: by Hoeffding's inequality further off the mean than this
    # with a probability of 1e-9 at most.
    far = math.sqrt(SUMS * math.log(2e9) / 2)
    assert all(abs(found - SUMS / 2) < far for found in hits.values()), hits


WITHOUT: dict[str, tuple[Removal, tuple[int, ...]]] = {
    "half of the keys": (replaced(lattice_keys, "draw", one_key), COLLUDERS),
    "the shares": (nothing, (2, *COLLUDERS)),  # as many as are needed to open a sum: or one report
    "correlation": (replaced(lattice_keys, "draw", few_coefficients), COLLUDERS),
}


@pytest.mark.parametrize("name", GUESSES)
def test_each_guess_is_right_each_time_where_less_is_hidden(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With keys that are alike, one share more, or keys of a single coefficient."""
    remove, colluders = WITHOUT[name]
    remove(monkeypatch)
    assert all(GUESSES[name](seen) == coin for coin, seen in game(32, colluders))


# One key used twice: the difference of two vectors


VICTIM = 3
# What a report draws is the same each time; run keys are drawn as ever.
SAME_LUCK = SimpleNamespace(
    urandom=lambda size: bytes(size) if size == REPORT_RAND_BYTES else os.urandom(size)
)


def drifting() -> Callable[[Message, Context], RecordDict]:
    """A train function that comes to something else each time, as one that shuffles does."""
    calls = iter(range(1, 1000))

    def train(message: Message, context: Context) -> RecordDict:
        model = linear.arrays_of(message.content.array_records["arrays"])
        rng = np.random.default_rng(next(calls))
        moved = model["w"] + rng.integers(-7, 8, model["w"].shape)
        metrics = MetricRecord({linear.WEIGHT: WEIGHT, "loss": 1.0})
        return RecordDict({"arrays": linear.record({"w": moved}), "metrics": metrics})

    return train


def difference(session: Session, one: bytes, other: bytes) -> np.ndarray | None:
    """That of the vectors in two ciphertexts, if these are under one key: then what is left beside
    it are errors. None if there is more."""
    scheme = session.scheme
    assert scheme is not None
    words = [np.frombuffer(data[: session.vector_bytes], scheme.dtype) for data in (one, other)]
    moved = (words[0] - words[1]).view("i4").astype(np.int64)
    steps = np.rint(moved / (1 << scheme.shift)).astype(np.int64)
    if np.abs(moved - (steps << scheme.shift)).max() > 2 * scheme.error:
        return None
    return steps


def read_out(crowd: Crowd, reports: Sequence[tuple[Session, bytes]]) -> bool:
    """Whether the difference of two updates of the victim is read from its reports."""
    (session, one), (_, other) = reports
    steps = difference(session, one, other)
    if steps is None:
        return False
    first, second = (np.random.default_rng(n).integers(-7, 8, 5) for n in (1, 2))
    return bool(np.array_equal(steps[:5], (first - second) * session.codec.scale))


def the_session_again() -> bool:
    """The same session twice, to a device whose luck repeats."""
    crowd = Crowd(train=drifting())
    session = crowd.session()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tacit.client.app, "os", SAME_LUCK)
        return read_out(crowd, [(session, crowd.report(VICTIM, session)) for _ in range(2)])


def two_rounds() -> bool:
    """Two rounds, to a device whose luck repeats."""
    crowd = Crowd(train=drifting())
    sessions = [crowd.session(number) for number in (1, 2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tacit.client.app, "os", SAME_LUCK)
        return read_out(crowd, [(session, crowd.report(VICTIM, session)) for session in sessions])


def from_a_backup() -> bool:
    """The same session twice, to a device that was set back in between: it has forgotten."""
    crowd, reports = Crowd(train=drifting()), []
    session, backup = crowd.session(), copy_records(crowd.contexts[VICTIM].state)
    for _ in range(2):
        before = crowd.contexts[VICTIM]
        crowd.contexts[VICTIM] = Context(
            before.run_id, before.node_id, before.node_config, copy_records(backup), {}
        )
        reports.append((session, crowd.report(VICTIM, session)))
    return read_out(crowd, reports)


REUSE: dict[str, Attack] = {
    "the session again": Attack(the_session_again, ONCE, "was served before"),
    "luck that repeats": Attack(
        two_rounds, replaced(Session, "id", property(lambda session: bytes(32)))
    ),
    "a device set back": Attack(from_a_backup, replaced(tacit.client.app, "os", SAME_LUCK)),
}


@trials(REUSE)
def test_one_key_for_two_vectors(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key is made of fresh luck and of the session, so it takes the same luck in the same session
    to have one twice. A session is served once; a device set back to where it had not served it
    draws anew."""
    trial(attack, defended, monkeypatch)
