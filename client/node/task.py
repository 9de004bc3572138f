"""One message, handled by an app in a process of its own.

The process is forked from the node, which has loaded what an app needs already: it begins at once,
and shares that memory with the node. The message reaches it as memory, too; only its answer goes
through a pipe. So no token, no port and no argument of a command tells anybody on the machine what
is going on. A node forks while it has one thread, which is what makes forking safe.

The app is a bundle that the device's owner has allowed, and it runs as the owner: a process of its
own keeps its memory, its crashes and its randomness apart, it does not keep it from the vault.
"""

import contextlib
import ctypes
import os
import random
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from flwr.clientapp import ClientApp

from tacit.client.node import flower
from tacit.client.node.flower import Delivery, ErrorCode, Reply

_SIZE = struct.Struct("!Q")
_PIPE_BYTES = 1 << 20
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG

Load = Callable[[], ClientApp]


@dataclass(frozen=True, slots=True)
class Task:
    """A message, and all that its app is told. `load` is None for a bundle with code in it."""

    delivery: Delivery
    objects: dict[str, bytes] = field(repr=False)
    run: flower.Run = field(repr=False)
    bundle: bytes = field(repr=False)
    node: int
    config: flower.Config
    state: bytes | None = field(default=None, repr=False)
    load: Load | None = field(default=None, repr=False)


class Crashed(Exception):
    """The app's process ended without an answer."""


def run(task: Task, seconds: float, meanwhile: Callable[[], float]) -> Reply:
    """Have the task done; `task.objects` is empty afterwards.

    `meanwhile` is called again after as many seconds as it returned. Raises Crashed if there is no
    answer, also after `seconds`: then it would be of no use to anybody.
    """
    out, into = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _child(task, into, parent)
    os.close(into)
    try:
        task.objects.clear()
        got = _all(out, time.monotonic() + seconds, meanwhile)
    finally:
        os.close(out)
        _end(child)
    return _unpacked(got)


def answer(task: Task) -> Reply:
    """The app's answer, or the error that stands for it, with the codes of Flower's own process."""
    message = flower.received(task.delivery, task.objects)
    context = None
    try:
        number = int.from_bytes(os.urandom(7))
        context = flower.context(task.run, task.bundle, task.node, task.config, number, task.state)
        app = task.load() if task.load is not None else _loaded(task)
        return flower.sent(app(message=message, context=context), context.state)
    except flower.LoadClientAppError as bad:
        traceback.print_exc()
        reply = flower.error_reply(message, ErrorCode.LOAD_CLIENT_APP_EXCEPTION, str(bad))
    except Exception as bad:  # noqa: BLE001 - whatever an app raises is its answer
        traceback.print_exc()
        reason = f"{type(bad)}:<'{bad}'>"
        reply = flower.error_reply(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
    return flower.sent(reply, None if context is None else context.state)


def _loaded(task: Task) -> ClientApp:
    # A bundle with code may bring a Tacit of its own: it shall not run half of it and half of ours.
    for name in [each for each in sys.modules if each.partition(".")[0] == "tacit"]:
        if name != __name__ and not name.startswith("tacit.client.node"):
            del sys.modules[name]
    return flower.install(task.run, task.bundle)


def _child(task: Task, into: int, parent: int) -> None:
    """The forked process, from beginning to end."""
    status = 1
    try:
        _alone(into, parent)
        reply = answer(task)
        sys.stdout.flush()  # the parent ends this process as soon as it has all of the answer
        with os.fdopen(into, "wb", buffering=_PIPE_BYTES) as pipe:
            for part in _packed(reply):
                pipe.write(_SIZE.pack(len(part)))
                pipe.write(part)
        status = 0
    except BaseException:  # noqa: BLE001 - nothing may climb into the node's own frames
        traceback.print_exc()
    finally:
        os._exit(status)


def _alone(into: int, parent: int) -> None:
    """Give up what a fork has of its parent's: handlers, connections, and states of generators."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # it died just before
            os._exit(1)
    os.closerange(3, into)
    os.closerange(into + 1, os.sysconf("SC_OPEN_MAX"))
    random.seed()
    np.random.seed()  # noqa: NPY002 - a bundle may draw from it; two messages shall not draw alike
    if (torch := sys.modules.get("torch")) is not None:
        torch.seed()


def _all(pipe: int, until: float, meanwhile: Callable[[], float]) -> bytearray:
    """All that comes out of the pipe until its other end closes."""
    got = bytearray()
    while True:
        wait = min(meanwhile(), left := until - time.monotonic())
        if left <= 0:
            raise Crashed("the app did not answer in time, and was stopped")
        if not select.select([pipe], [], [], max(wait, 0.0))[0]:
            continue
        part = os.read(pipe, _PIPE_BYTES)
        if not part:
            return got
        got += part


def _end(child: int) -> None:
    """The child is gone when this returns."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)  # its answer is here, or of no use any more
    os.waitpid(child, 0)


def _packed(reply: Reply) -> Iterator[bytes]:
    yield reply.message
    yield reply.tree
    yield b"" if reply.state is None else b"\x01" + reply.state
    for name, content in reply.objects.items():
        yield name.encode()
        yield content
    yield b"end"


def _unpacked(data: bytearray) -> Reply:
    """Raises Crashed if the app's process ended before it had said all."""
    parts = list(_parts(data))
    if len(parts) < 4 or parts[-1] != b"end" or len(parts) % 2:
        raise Crashed("the app's process ended without an answer")
    message, tree, state, *rest = parts[:-1]
    objects = {rest[at].decode(): rest[at + 1] for at in range(0, len(rest), 2)}
    return Reply(message, tree, objects, state[1:] if state else None)


def _parts(data: bytearray) -> Iterator[bytes]:
    at = 0
    with memoryview(data) as view:
        while at + _SIZE.size <= len(view):
            (length,) = _SIZE.unpack_from(view, at)
            at += _SIZE.size
            if at + length > len(view):
                return
            yield bytes(view[at : at + length])
            at += length
