"""A device's own account: what it counts, where it stops, and that nobody gets past it."""

import math
import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tacit.client import budget
from tacit.client.vault import FileVault
from tacit.crypto.errors import (
    BudgetExceeded,
    MalformedMessage,
    ParameterError,
    PolicyRefusal,
)
from tacit.crypto.secagg.session import Purpose, Session
from tacit.privacy.accountants import Adversary
from tacit.privacy.releases import Release, Source, Unit
from tacit.server.flower import identity
from tests.privacy.records import Shelf, release
from tests.runtime.desk import RUN
from tests.runtime.private import DELTA, PrivateDesk, cost, noised, own, policy

ROOM = 1 + 1e-9  # for the last digits of sums of floats


@pytest.fixture(scope="module")
def desk() -> Iterator[PrivateDesk]:
    with identity(RUN):
        yield PrivateDesk()


def asked(session: Session, **changed: float) -> tuple[Release, ...]:
    return budget.charges(session, policy(8.0, **changed))


# What is counted


@pytest.mark.parametrize(("said", "feared", "counted"), [(0, 1 / 3, 2), (2, 1 / 3, 2), (3, 0.0, 3)])
def test_the_larger_share_of_corrupt_devices_counts(
    desk: PrivateDesk, said: int, feared: float, counted: int
) -> None:
    (found,) = asked(desk.session(codec=noised(corrupt=said)), corrupt=feared)
    assert found.corrupt == counted


def test_a_session_that_counts_none_costs_its_wary_owner_more(desk: PrivateDesk) -> None:
    """Noise that all six share, of whom two may be corrupt."""
    (found,) = asked(desk.session(codec=noised(corrupt=0, dropouts=0), min_survivors=6))
    assert (found.survivors, found.corrupt, found.shares) == (6, 2, 4)
    trusting = cost(1, 6, 0, corrupt=0, dropouts=0)
    assert cost(1, 6, 2, corrupt=0, dropouts=0) > 1.2 * trusting


def test_the_fewest_survivors_count_and_not_those_who_are_there(desk: PrivateDesk) -> None:
    (found,) = asked(desk.session())
    assert (found.survivors, found.cohort) == (5, 6)
    (more,) = asked(desk.session(min_survivors=6))
    assert more.survivors == 6


def test_local_noise_counts_once_however_many_are_corrupt(desk: PrivateDesk) -> None:
    (found,) = asked(desk.session(codec=noised(corrupt=4)), corrupt=0.5)
    assert (found.source, found.shares) == (Source.OWN, 1)


def test_what_a_quantile_says_is_counted(desk: PrivateDesk) -> None:
    assert len(asked(desk.session(codec=noised(quantile=5.0)))) == 2


def test_sums_without_noise_are_not_in_this_account(desk: PrivateDesk) -> None:
    assert asked(desk.session(codec=None)) == ()
    assert asked(desk.session(1, Purpose.EVALUATE)) == ()
    shelf = Shelf()
    budget.check(shelf, policy(1e-6), ())  # type: ignore[arg-type]
    budget.spend(shelf, policy(1e-6), ())  # type: ignore[arg-type]
    assert not shelf


# Where it stops


def spend(storage: object, epsilon: float | None, releases: tuple[Release, ...]) -> bool:
    """Whether it was let in; `check` has to say the same."""
    agreed, before = policy(epsilon), dict(storage) if isinstance(storage, Shelf) else None
    try:
        budget.check(storage, agreed, releases)  # type: ignore[arg-type]
        fits = True
    except BudgetExceeded:
        fits = False
    assert before is None or storage == before, "to look costs nothing"
    try:
        budget.spend(storage, agreed, releases)  # type: ignore[arg-type]
    except BudgetExceeded as over:
        said = str(over)
    else:
        said = ""
    assert fits == (not said)
    if said:
        assert said == budget.SPENT
        assert not any(character.isdigit() for character in said)
        assert before is None or storage == before, "what is refused costs nothing"
    return fits


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_a_budget_stops_exactly_where_it_ends(desk: PrivateDesk, rounds: int) -> None:
    once, exactly = asked(desk.session()), cost(rounds) * ROOM
    shelf = Shelf()
    assert [spend(shelf, exactly, once) for _ in range(rounds + 1)] == [True] * rounds + [False]
    short = Shelf()
    less = cost(rounds) / ROOM
    assert [spend(short, less, once) for _ in range(rounds)] == [True] * (rounds - 1) + [False]


def test_a_smaller_sum_may_still_fit(desk: PrivateDesk) -> None:
    shelf = Shelf()
    loud = asked(desk.session(codec=noised(noise=0.5)))
    assert spend(shelf, cost() * 1.5, asked(desk.session()))
    assert not spend(shelf, cost() * 1.5, loud)
    assert spend(shelf, cost() * 1.5, asked(desk.session(codec=noised(noise=2.0))))


def test_who_asks_for_no_noise_counts_all_the_same(desk: PrivateDesk) -> None:
    """Whoever asks for some later has spent that."""
    shelf, once = Shelf(), asked(desk.session())
    for _ in range(3):
        assert spend(shelf, None, once)
    account = budget.ledger_of(shelf, policy(cost(4) * ROOM), Unit.CLIENT)  # type: ignore[arg-type]
    assert account.epsilon(budget.OURS, DELTA) == pytest.approx(cost(3), rel=1e-12)
    assert spend(shelf, cost(4) * ROOM, once)
    assert not spend(shelf, cost(4) * ROOM, once)


def test_noise_of_the_server_counts_for_those_who_trust_it(desk: PrivateDesk) -> None:
    central = asked(desk.session(codec=noised(central=True, corrupt=0)))
    shelf = Shelf()
    assert not spend(shelf, 700.0, central)
    trusting = policy(8.0, trust_server=True)
    budget.spend(shelf, trusting, central)  # type: ignore[arg-type]
    account = budget.ledger_of(shelf, trusting, Unit.CLIENT)  # type: ignore[arg-type]
    assert account.epsilon(budget.OURS, DELTA) == math.inf
    assert account.epsilon(budget.OURS, DELTA, Adversary.OUTSIDER) < 8
    # And whoever trusts it no more has nothing left.
    assert not spend(shelf, 700.0, asked(desk.session()))


# Across processes


def test_an_account_outlives_the_process(tmp_path: Path, desk: PrivateDesk) -> None:
    once = asked(desk.session())
    FileVault.create(tmp_path / "v", bytes(32))
    opened = [spend(FileVault.open(tmp_path / "v"), cost(3) * ROOM, once) for _ in range(5)]
    assert opened == [True, True, True, False, False]


def test_of_many_at_once_as_many_are_let_in_as_there_is_room_for(
    tmp_path: Path, desk: PrivateDesk
) -> None:
    once = asked(desk.session())
    FileVault.create(tmp_path / "v", bytes(32))
    barrier, let_in = threading.Barrier(6), list[bool]()

    def one() -> None:
        vault = FileVault.open(tmp_path / "v")
        barrier.wait()
        try:
            budget.spend(vault, policy(cost(2) * ROOM), once)
        except BudgetExceeded:
            let_in.append(False)
        else:
            let_in.append(True)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(let_in) == [False] * 4 + [True] * 2


def _in_a_process(folder: str, encoded: bytes, epsilon: float) -> bool:
    releases = (Release.decode(encoded),)
    try:
        budget.spend(FileVault.open(Path(folder)), policy(epsilon), releases)
    except BudgetExceeded:
        return False
    return True


def test_of_two_processes_one_is_refused(tmp_path: Path, desk: PrivateDesk) -> None:
    (once,) = asked(desk.session())
    FileVault.create(tmp_path / "v", bytes(32))
    jobs = [(str(tmp_path / "v"), once.encode(), cost(3) * ROOM)] * 8
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert sorted(pool.starmap(_in_a_process, jobs, chunksize=1)) == [False] * 5 + [True] * 3


def test_counting_is_done_alone(desk: PrivateDesk) -> None:
    """Between reading and writing nobody else is in the vault."""
    inside: list[str] = []

    class Watched(Shelf):
        @contextmanager
        def alone(self) -> Iterator[None]:  # type: ignore[override]
            inside.append("in")
            yield
            inside.append("out")

        def read(self, slot: str) -> bytes | None:
            inside.append("read")
            return super().read(slot)

        def write(self, slot: str, value: bytes) -> None:
            inside.append("write")
            super().write(slot, value)

    budget.spend(Watched(), policy(100.0), asked(desk.session()))  # type: ignore[arg-type]
    assert inside == ["in", "read", "write", "out"]


# Noise of a train function's own


def test_a_function_that_says_nothing_of_noise_is_refused_by_who_asks_for_it() -> None:
    with pytest.raises(PolicyRefusal, match=r"without noise.*policy\.epsilon"):
        budget.own_noise(policy(8.0), [])
    assert budget.own_noise(policy(None), []) == ()


def test_a_functions_own_noise_is_as_it_says() -> None:
    said = [own(round=number) for number in (1, 2)]
    assert budget.own_noise(policy(8.0), [each.encode() for each in said]) == tuple(said)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (release().encode(), "protects examples"),
        (own(source=Source.SHARED, cohort=10, survivors=10).encode(), "all on this device"),
        (own(source=Source.SERVER).encode(), "all on this device"),
    ],
)
def test_noise_of_others_is_not_its_own(said: bytes, why: str) -> None:
    with pytest.raises(ParameterError, match=why):
        budget.own_noise(policy(8.0), [own().encode(), said])


@pytest.mark.parametrize("said", [b"", b"\x01", own().encode() + b"\x00", own().encode()[:-1]])
def test_what_a_function_says_has_to_be_a_release(said: bytes) -> None:
    with pytest.raises(MalformedMessage):
        budget.own_noise(policy(8.0), [said])
