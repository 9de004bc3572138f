"""The loader: what is no ciphertext costs its sender, and never the sum."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.crypto.errors import MalformedMessage, ParameterError, TooFewClients
from tacit.crypto.he.bfv import Key, decrypt, encrypt
from tacit.crypto.he.frames import Kind, frame, frame_bytes, read_frame
from tacit.crypto.he.packing import Packing
from tacit.crypto.he.sets import PUBLIC, SCHEMES, SEEDED, WIDE, Scheme
from tacit.server import he_loader
from tacit.server.he_loader import Loader, LoaderFailed, child_command
from tests.strategies import mutations

pytest.importorskip("tenseal", reason="TenSEAL is not installed: pip install '.[he]'")
if os.name != "posix":
    pytest.skip("needs POSIX pipes", allow_module_level=True)

EVERY = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: scheme.name)


@cache
def key(scheme: Scheme) -> Key:
    return Key.make(scheme)


@cache
def packing(scheme: Scheme, clients: int = 30) -> Packing:
    """Of two ciphertexts."""
    return Packing(scheme, 3 * scheme.degree, 21, clients)


@cache
def contribution(scheme: Scheme, value: int) -> bytes:
    """A vector of one number, without tags."""
    vector = np.full(packing(scheme).size, value, np.uint32)
    return encrypt(key(scheme), packing(scheme), packing(scheme).pack(vector))


def opened(loader: Loader) -> tuple[int, set[int]]:
    """How many, and the numbers that occur in the sum."""
    held = loader.packing
    count, slots = decrypt(key(held.scheme), held, loader.total(), stage="open")
    return count, set(held.unpack(slots[: held.words]).tolist())


@pytest.fixture(scope="module")
def shared() -> Iterator[dict[Scheme, Loader]]:
    """One loader for each set; a test adds to it and looks at what changed."""
    loaders = {scheme: Loader(packing(scheme, 30)) for scheme in (PUBLIC, SEEDED)}
    yield loaders
    for loader in loaders.values():
        loader.close()


@EVERY
def test_a_sum_is_that_of_the_library(scheme: Scheme) -> None:
    with Loader(packing(scheme), keep=2) as loader:
        for value in range(1, 6):
            loader.add(contribution(scheme, value), sender=value)
        assert opened(loader) == (5, {15})
        loader.add(contribution(scheme, 6), sender=6)  # a sum goes on after it was asked for
        assert opened(loader) == (6, {21})


def poisoned(scheme: Scheme) -> dict[str, bytes]:
    """Contributions whose headers are as they should be."""
    good = contribution(scheme, 1)
    _, blocks = read_frame(good, Kind.CONTRIBUTION, packing(scheme), sender=1, stage="report")
    first, last = map(bytes, blocks)

    def of(*blocks: bytes) -> bytes:
        return frame(Kind.CONTRIBUTION, packing(scheme), 1, list(blocks))

    def flipped(at: int) -> bytes:
        changed = bytearray(last)
        changed[at] ^= 0x40
        return bytes(changed)

    other = Key.make(WIDE if scheme is PUBLIC else PUBLIC)
    held = Packing(other.scheme, 8, 21, 30)
    foreign = encrypt(other, held, np.zeros(held.words, np.int64))
    _, (block,) = read_frame(foreign, Kind.CONTRIBUTION, held, sender=1, stage="report")
    limit = scheme.contribution_bytes
    return {
        "empty": of(first, b""),
        "truncated": of(first, last[:-20]),
        "half": of(first, last[: len(last) // 2]),
        "with a tail": of(first, last + b"\0"),
        "random": of(first, os.urandom(len(last))),
        "as large as may be": of(first, os.urandom(limit)),
        "of another set": of(first, bytes(block)[:limit]),
        "its header": of(first, flipped(2)),
        "its size": of(first, flipped(9)),
        "a size that is huge": of(first, last[:15] + b"\xff\xff\xff\x7f" + last[19:]),
        "zeros": of(first, bytes(len(last))),
    }


@pytest.mark.parametrize("scheme", [PUBLIC, SEEDED], ids=lambda scheme: scheme.name)
def test_what_does_not_load_costs_its_sender(scheme: Scheme) -> None:
    """Some of it the library takes for a ciphertext of something: then nothing was broken."""
    with Loader(packing(scheme), seconds=20) as loader:
        loader.add(contribution(scheme, 4), sender=1)
        refused = set()
        for what, data in poisoned(scheme).items():
            before = len(loader.senders)
            try:
                loader.add(data, sender=9)
            except MalformedMessage:
                assert len(loader.senders) == before
                refused.add(what)
        assert {"empty", "truncated", "half", "random", "zeros", "of another set"} <= refused
        with pytest.raises(MalformedMessage) as caught:
            loader.add(poisoned(scheme)["truncated"], sender=9)
        assert (caught.value.sender, caught.value.stage) == (9, "report")
        count = len(loader.senders)
        loader.add(contribution(scheme, 5), sender=2)
        assert len(loader.senders) == count + 1
        if count == 1:
            assert opened(loader) == (2, {9})


@settings(max_examples=40)
@given(st.data())
@pytest.mark.parametrize("scheme", [PUBLIC, SEEDED], ids=lambda scheme: scheme.name)
def test_changed_bytes_add_up_or_are_refused(
    scheme: Scheme, shared: dict[Scheme, Loader], data: st.DataObject
) -> None:
    loader = shared[scheme]
    if len(loader.senders) >= 25:  # of accepted noise
        loader.close()
        loader = shared[scheme] = Loader(packing(scheme))
    before = len(loader.senders)
    changed = data.draw(mutations(contribution(scheme, 1)))
    try:
        loader.add(changed, sender=7)
    except MalformedMessage:
        assert len(loader.senders) == before
    else:
        assert len(loader.senders) == before + 1


@given(st.binary(max_size=300))
@settings(max_examples=30)
def test_random_bytes_never_reach_the_process(shared: dict[Scheme, Loader], data: bytes) -> None:
    loader = shared[SEEDED]
    before = len(loader.senders)
    with pytest.raises(MalformedMessage):
        loader.add(data, sender=3)
    assert len(loader.senders) == before


def test_an_oversized_message_is_refused_unread(shared: dict[Scheme, Loader]) -> None:
    limit = frame_bytes(Kind.CONTRIBUTION, packing(SEEDED))
    with pytest.raises(MalformedMessage, match="at most"):
        shared[SEEDED].add(bytes(limit + 1), sender=3)
    assert len(contribution(SEEDED, 1)) <= limit


def test_one_device_too_many() -> None:
    few = Packing(SEEDED, 8, 21, 1)
    message = encrypt(key(SEEDED), few, np.zeros(few.words, np.int64))
    with Loader(few) as loader:
        with pytest.raises(TooFewClients, match="no contribution is in the sum"):
            loader.total()
        loader.add(message, sender=1)
        with pytest.raises(ParameterError, match="room for 1"):
            loader.add(message, sender=2)
        assert len(loader.senders) == 1


# A process that serves as the real one does, until it meets the number MARK in a message.
MARKED = """
import json, os, resource, sys, time
sys.path[:] = json.loads(sys.argv[1])
from tacit.crypto.he.bfv import Summer
from tacit.server import he_child

honest = Summer.add

def add(self, data, *, sender):
    if {mark!r} in bytes(data):
        {then}
    honest(self, data, sender=sender)

Summer.add = add
he_child.main()
"""


def marked(then: str, mark: bytes) -> list[str]:
    python, isolated, option, _, path = child_command()
    return [python, isolated, option, MARKED.format(mark=mark, then=then), path]


FAULTS = {
    "crash": "os.kill(os.getpid(), 11)",
    "exit": "os._exit(0)",
    "hang": "time.sleep(600)",
    "error": "raise KeyError",
    "no pipe": "os.closerange(3, 30)",
    "memory": "[bytearray(1 << 28) for _ in range(40)]",
    "spin": "\n        while True: pass",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_message_that_breaks_the_process_costs_its_sender(fault: str) -> None:
    """Before and after the sum was saved: nothing that was accepted is lost."""
    bad = contribution(SEEDED, 2)
    command = marked(FAULTS[fault], bad[5000:5016])
    with Loader(packing(SEEDED), seconds=1.0, keep=2, command=command) as loader:
        values = (3, 4, 5) if fault == "crash" else (12,)
        for at, value in enumerate(values, 1):
            with pytest.raises(MalformedMessage, match="broke the process") as caught:
                loader.add(bad, sender=8)
            assert caught.value.sender == 8
            loader.add(contribution(SEEDED, value), sender=value)
            assert len(loader.senders) == at
        assert opened(loader) == (len(values), {12})


def test_a_message_that_breaks_a_process_later_is_dropped(tmp_path: Path) -> None:
    """It was accepted; when it is replayed it is not. The sum is that of all others."""
    bad, flag = contribution(SEEDED, 2), tmp_path / "flag"
    then = f"os.path.exists({str(flag)!r}) and os._exit(1)"
    with Loader(packing(SEEDED), command=marked(then, bad[5000:5016])) as loader:
        loader.add(contribution(SEEDED, 3), sender=1)
        loader.add(bad, sender=2)
        loader.add(contribution(SEEDED, 4), sender=3)
        assert loader.senders == (1, 2, 3)
        flag.touch()
        os.kill(pid(loader), signal.SIGKILL)
        while not loader._child.is_dead():
            time.sleep(0.01)
        loader.add(contribution(SEEDED, 5), sender=4)
        assert opened(loader) == (3, {12})
        assert loader.senders == (1, 3, 4)


def test_a_sum_of_which_nothing_is_left_is_one_of_too_few(tmp_path: Path) -> None:
    """And no misuse of the loader, which would end a server's run."""
    bad, flag = contribution(SEEDED, 2), tmp_path / "flag"
    then = f"os.path.exists({str(flag)!r}) and os._exit(1)"
    with Loader(packing(SEEDED), command=marked(then, bad[5000:5016])) as loader:
        loader.add(bad, sender=2)
        flag.touch()
        os.kill(pid(loader), signal.SIGKILL)
        with pytest.raises(TooFewClients, match="no contribution is in the sum"):
            loader.total()
        assert loader.senders == ()


def test_a_process_that_died_before_is_nobodys_fault() -> None:
    with Loader(packing(SEEDED), keep=2) as loader:
        loader.add(contribution(SEEDED, 3), sender=1)
        os.kill(pid(loader), signal.SIGKILL)
        while not loader._child.is_dead():
            time.sleep(0.01)
        loader.add(contribution(SEEDED, 4), sender=2)
        assert opened(loader) == (2, {7})


def pid(loader: Loader) -> int:
    return loader._child._process.pid


# What answers as it likes: it has been taken over.
LIAR = """
import os, struct, sys
header = struct.Struct("<BQ")
file = int(sys.argv[-1])
while request := os.read(0, header.size):
    if request[0] == 4:
        os.ftruncate(file, 0)
        os.write(file, b"abc")
    os.write(1, header.pack(0, 0) if request[0] != 4 else {answer})
"""


@pytest.mark.parametrize(
    "answer",
    [
        "header.pack(0, 3)",
        "header.pack(0, 100)",
        "header.pack(0, 1 << 60)",
        "header.pack(7, 0)",
        "header.pack(1, 0)",
        "header.pack(0, 0) + b'more'",
    ],
)
def test_a_process_that_lies_gives_no_sum(answer: str) -> None:
    command = [sys.executable, "-I", "-c", LIAR.format(answer=answer)]
    with Loader(packing(SEEDED), command=command) as loader:
        loader.add(contribution(SEEDED, 1), sender=1)
        with pytest.raises(LoaderFailed):
            loader.total()


@pytest.mark.parametrize(
    "command",
    [
        ["/no/such/program"],
        [sys.executable, "-I", "-c", "raise SystemExit"],
        [sys.executable, "-I", "-c", "import time; time.sleep(600)"],
    ],
)
def test_a_process_that_does_not_start(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(he_loader, "START_SECONDS", 0.3)
    with pytest.raises(LoaderFailed, match="does not start"):
        Loader(packing(SEEDED), command=command)


def test_without_files_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The public set needs none; what both sides hold is then a file on the disk."""
    monkeypatch.delattr(os, "memfd_create")
    with Loader(packing(PUBLIC)) as loader:
        loader.add(contribution(PUBLIC, 3), sender=1)
        assert opened(loader) == (1, {3})


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="reads Linux's /proc")
def test_the_process_is_fenced_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACIT_TEST_SECRET", "1234")
    with Loader(packing(SEEDED), seconds=5) as loader:
        loader.add(contribution(SEEDED, 1), sender=1)
        folder = Path(f"/proc/{pid(loader)}")
        limits = {
            line[:26].strip(): line[26:].split()[0]
            for line in (folder / "limits").read_text().splitlines()
        }
        assert int(limits["Max address space"]) < 1 << 31
        assert int(limits["Max cpu time"]) < 30
        assert int(limits["Max file size"]) < 1 << 20
        assert limits["Max core file size"] == "0"
        assert b"1234" not in (folder / "environ").read_bytes()


def test_close_ends_the_process() -> None:
    loader = Loader(packing(SEEDED))
    process = loader._child._process
    loader.close()
    assert process.returncode is not None
    loader.close()


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"seconds": float("nan")}, {"keep": 0}])
def test_impossible_settings(wrong: dict) -> None:
    with pytest.raises(ParameterError):
        Loader(packing(SEEDED), **wrong)
