"""The key that devices share, in a device's vault: only newer ones, and gone after one refusal."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeAlias

import pytest
from flwr.app import RecordDict
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tacit.client import rounds
from tacit.client.vault import ContextVault, FileVault, Vault
from tacit.crypto.codec import Codec
from tacit.crypto.errors import ProtocolError
from tacit.crypto.he.keys import SUMS, GroupKey
from tacit.crypto.he.sets import PUBLIC, SEEDED
from tacit.crypto.secagg import stages
from tacit.crypto.secagg.client import Enrolled
from tacit.crypto.secagg.session import Session
from tests.crypto.federation import Federation
from tests.crypto.he.group import group

pytest.importorskip("tenseal", reason="TenSEAL is not installed: pip install '.[he]'")

CREW = Federation(5)
RUN = 1


@cache
def key(serial: int, run: int = RUN) -> GroupKey:
    """The key of an epoch. That all have one secret is no matter here."""
    held = group(SEEDED)
    return replace(held, consortium=replace(held.consortium, serial=serial, run=run))


@cache
def session(serial: int, run: int = RUN) -> Session:
    """A sum under that key, as far as its epoch says."""
    codec = Codec(6, 5, 2, bits=21)
    epoch = key(serial, run).consortium.epoch
    return CREW.session(codec, he=SEEDED.name, epoch=epoch, degree=0, run=run)


def fresh() -> Vault:
    return ContextVault(RecordDict())


def held(vault: Vault) -> int | None:
    """The serial of the key in the vault."""
    data = vault.read("group")
    return None if data is None else GroupKey.decode(data).consortium.serial


def refuse(held: GroupKey) -> bytes:
    raise ProtocolError("not the sum", sender=0, stage="open")


@contextmanager
def refused(words: str) -> Iterator[None]:
    with pytest.raises(ProtocolError, match=words):
        yield


OLDER = stages.BAD_GROUP_KEY
MISSING = stages.NO_GROUP_KEY


def test_a_key_is_kept_until_a_newer_one_comes() -> None:
    vault = fresh()
    with refused(MISSING):
        rounds.group(vault, session(1))
    rounds.keep_group(vault, key(5))
    assert rounds.group(vault, session(5)) == key(5)
    rounds.keep_group(vault, key(5))  # its delivery again: the answer to the first was lost
    for older in (1, 4):
        with refused(f"{OLDER}: epoch {older} comes after epoch 5"):
            rounds.keep_group(vault, key(older))
    assert rounds.group(vault, session(5)) == key(5)
    rounds.keep_group(vault, key(6))
    assert rounds.group(vault, session(6)) == key(6)
    for over in (5, 7):
        with refused(MISSING):
            rounds.group(vault, session(over))


def test_another_key_of_the_same_epoch_is_refused() -> None:
    """As a dealer that is asked twice would make, or one that deals two."""
    vault = fresh()
    rounds.keep_group(vault, key(5))
    other = replace(key(5), tag_secret=bytes(31) + b"\1")
    with refused("epoch 5 comes after epoch 5"):
        rounds.keep_group(vault, other)
    assert rounds.group(vault, session(5)) == key(5)


def test_a_key_of_another_set_or_consortium_is_another_epoch() -> None:
    vault = fresh()
    rounds.keep_group(vault, key(5))
    for changes in ({"dealer": 2}, {"roster": bytes(32)}, {"scheme": PUBLIC}, {"run": 2}):
        epoch = replace(key(5).consortium, **changes).epoch
        with refused(MISSING):
            rounds.group(vault, replace(session(5), epoch=epoch))


def test_a_sum_that_held_leaves_the_key_and_one_that_did_not_takes_it() -> None:
    vault = fresh()
    rounds.keep_group(vault, key(5))
    for answer in (b"one", b"two"):
        assert rounds.with_group(vault, session(5), lambda _, said=answer: said) == answer
    with refused("not the sum"):
        rounds.with_group(vault, session(5), refuse)
    assert held(vault) is None
    for again in (rounds.group, lambda v, s: rounds.with_group(v, s, lambda _: b"")):
        with refused(MISSING):
            again(vault, session(5))
    with refused(f"{OLDER}: epoch 5 comes after epoch 5"):
        rounds.keep_group(vault, key(5))
    rounds.keep_group(vault, key(6))
    assert held(vault) == 6


def test_a_key_is_good_for_so_many_sums() -> None:
    """Counted in the vault, and from the beginning for the next key. Opening is no other sum."""
    vault = fresh()
    rounds.keep_group(vault, key(5))
    for _ in range(SUMS):
        assert rounds.use_group(vault, session(5)) == key(5)
        rounds.with_group(vault, session(5), lambda _: b"")
    rounds.keep_group(vault, key(5))  # the same again counts on
    with refused(MISSING):
        rounds.use_group(vault, session(5))
    rounds.keep_group(vault, key(6))
    with refused(MISSING):
        rounds.use_group(vault, session(5))
    assert rounds.use_group(vault, session(6)) == key(6)


def test_whatever_goes_wrong_takes_the_key() -> None:
    """A refusal, a defect of ours, the end of the process: no server is told of two."""
    vault = fresh()
    for serial, error in enumerate((ProtocolError, KeyError, KeyboardInterrupt), 1):
        rounds.keep_group(vault, key(serial))

        def fail(held: GroupKey, error: type[BaseException] = error) -> bytes:
            assert vault.read("group") is None, "what a crash would leave"
            raise error("no", sender=0, stage="open") if error is ProtocolError else error

        with pytest.raises(error):
            rounds.with_group(vault, session(serial), fail)
        assert held(vault) is None


def test_a_sum_under_another_epoch_leaves_the_key_alone() -> None:
    vault = fresh()
    rounds.keep_group(vault, key(5))
    with refused(MISSING):
        rounds.with_group(vault, session(4), refuse)
    assert held(vault) == 5


def test_another_run_begins_anew() -> None:
    vault = fresh()
    rounds.keep_group(vault, key(5))
    rounds.keep_run(vault, Enrolled(2, 3, bytes(32)))
    assert held(vault) is None
    rounds.keep_group(vault, key(1, run=2))
    assert rounds.group(vault, session(1, run=2)) == key(1, run=2)


# Two processes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    FileVault.create(tmp_path / "vault", bytes(32))
    return tmp_path / "vault"


def meanwhile(folder: Path, other: Callable[[Vault], object]) -> FileVault:
    """A sum that holds, and in the middle of it another process does something."""
    vault = FileVault.open(folder)
    rounds.keep_group(vault, key(5))

    def step(held: GroupKey) -> bytes:
        other(FileVault.open(folder))
        return b"held"

    assert rounds.with_group(vault, session(5), step) == b"held"
    return vault


def test_while_one_process_decrypts_another_cannot(folder: Path) -> None:
    def other(vault: Vault) -> None:
        for again in (rounds.group, lambda v, s: rounds.with_group(v, s, refuse)):
            with refused(MISSING):
                again(vault, session(5))
        with refused(OLDER):  # nor can it be given the key once more
            rounds.keep_group(vault, key(5))

    assert held(meanwhile(folder, other)) == 5


def test_a_newer_key_that_comes_meanwhile_is_kept(folder: Path) -> None:
    vault = meanwhile(folder, lambda vault: rounds.keep_group(vault, key(6)))
    assert held(vault) == 6
    with refused(MISSING):
        rounds.group(vault, session(5))


def test_of_many_processes_one_gets_to_refuse(folder: Path) -> None:
    """The server asks them all at once, each with a guess of its own."""
    rounds.keep_group(FileVault.open(folder), key(5))
    guesses: list[int] = []
    together = threading.Barrier(8, timeout=20)

    def ask(number: int) -> None:
        def step(held: GroupKey) -> bytes:
            guesses.append(number)
            return refuse(held)

        together.wait()
        with pytest.raises(ProtocolError):
            rounds.with_group(FileVault.open(folder), session(5), step)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(guesses) == 1
    assert held(FileVault.open(folder)) is None


def test_a_key_that_is_over_does_not_come_back(folder: Path) -> None:
    """While one process decrypts, another is given a newer key, refuses under it, or has a new run
    begin: what the first puts back is not the old key."""

    def newer(held: GroupKey) -> bytes:
        rounds.keep_group(FileVault.open(folder), key(6))
        return b""

    def refused_since(held: GroupKey) -> bytes:
        newer(held)
        with refused("not the sum"):
            rounds.with_group(FileVault.open(folder), session(6), refuse)
        return b""

    def new_run(held: GroupKey) -> bytes:
        rounds.keep_run(FileVault.open(folder), replace(CREW.enrolled[1], run=2))
        return b""

    for serial, (step, left) in enumerate([(newer, 6), (refused_since, None), (new_run, None)]):
        vault = FileVault.open(folder)
        vault.take("group"), vault.take("epoch")
        rounds.keep_group(vault, key(5))
        rounds.with_group(vault, session(5), step)
        assert held(FileVault.open(folder)) == left, serial


# Any sequence


@dataclass(frozen=True)
class Keep:
    serial: int


@dataclass(frozen=True)
class Decrypt:
    serial: int
    holds: bool


@dataclass(frozen=True)
class Contribute:
    serial: int


@dataclass(frozen=True)
class Lose:
    """The vault loses the key, and nothing else."""


Move: TypeAlias = Keep | Decrypt | Contribute | Lose
SERIALS = st.integers(1, 4)
MOVES: st.SearchStrategy[Move] = st.one_of(
    st.builds(Keep, SERIALS),
    st.builds(Keep, SERIALS),
    st.builds(Decrypt, SERIALS, st.booleans()),
    st.builds(Contribute, SERIALS),
    st.just(Lose()),
)


@settings(max_examples=60)
@given(moves=st.lists(MOVES, max_size=12))
@example([Keep(1), Decrypt(1, False), Keep(1), Keep(2), Decrypt(2, True), Decrypt(2, False)])
def test_of_each_key_a_server_learns_of_one_refusal(moves: list[Move]) -> None:
    """The oracle: what is held, and the newest there was."""
    vault, holding, newest = fresh(), 0, 0
    refusals: list[int] = []
    for move in moves:
        try:
            match move:
                case Keep(serial):
                    may = serial > newest or serial == holding
                    rounds.keep_group(vault, key(serial))
                    holding, newest = serial, max(newest, serial)
                case Contribute(serial):
                    may = serial == holding
                    rounds.group(vault, session(serial))
                case Decrypt(serial, holds):
                    may = serial == holding and holds
                    if serial == holding and not holds:
                        refusals.append(serial)
                        holding = 0
                    step = (lambda _: b"") if holds else refuse
                    rounds.with_group(vault, session(serial), step)
                case Lose():
                    may, holding = True, 0
                    vault.take("group")
        except ProtocolError:
            assert not may, f"{move} should have been served"
        else:
            assert may, f"{move} should have been refused"
        assert held(vault) == (holding or None)
    assert len(set(refusals)) == len(refusals)
