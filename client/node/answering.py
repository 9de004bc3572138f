"""The process in which a run's app handles messages, from inside."""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
from flwr.clientapp import ClientApp

from tacit.client.node import flower, frames
from tacit.client.node.flower import Delivery, ErrorCode, Reply

_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG

Load = Callable[[], ClientApp]


@dataclass(frozen=True, slots=True)
class Job:
    """A run, and what its app is told of the device. `load` is None for a bundle that has code."""

    run: flower.Run = field(repr=False)
    bundle: bytes = field(repr=False)
    node: int
    config: flower.Config
    load: Load | None = field(default=None, repr=False)


def be_worker(job: Job, line: socket.socket, parent: int) -> NoReturn:
    """What a forked process does until its node hangs up: answer one message after another."""
    status = 1
    try:
        _be_alone(line.fileno(), parent)
        while True:
            asked = frames.receive(line)
            delivery, objects, state = Delivery.decode(asked)
            asked.clear()
            reply = answer(job, delivery, objects, state)
            sys.stdout.flush()  # the node may end this process as soon as it has the answer
            frames.send(line, reply.encode())
    except frames.Cut:
        status = 0
    except BaseException:  # noqa: BLE001 - nothing may climb into the node's own frames
        _complain()
    finally:
        os._exit(status)


def answer(job: Job, delivery: Delivery, objects: dict[str, bytes], state: bytes | None) -> Reply:
    """The app's answer, or the error that stands for it, with the codes of Flower's own process."""
    message = flower.received(delivery, objects)
    context = None
    try:
        task = int.from_bytes(os.urandom(7))
        context = flower.context(job.run, job.bundle, job.node, job.config, task, state)
        app = job.load() if job.load is not None else _brought(job)
        return flower.sent(app(message=message, context=context), context.state)
    except flower.LoadClientAppError as bad:
        _complain()
        reply = flower.error_reply(message, ErrorCode.LOAD_CLIENT_APP_EXCEPTION, str(bad))
    except Exception as bad:  # noqa: BLE001 - whatever an app raises is its answer
        _complain()
        reason = f"{type(bad)}:<'{bad}'>"
        reply = flower.error_reply(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
    return flower.sent(reply, None if context is None else context.state)


def _brought(job: Job) -> ClientApp:
    """The app in the bundle."""
    if (loaded := _apps.get(job.run.run_id)) is None:
        # It may bring a Tacit of its own: it shall not run half of that and half of ours.
        for name in [each for each in sys.modules if each.partition(".")[0] == "tacit"]:
            if not name.startswith("tacit.client.node"):
                del sys.modules[name]
        loaded = _apps[job.run.run_id] = flower.install(job.run, job.bundle)
    return loaded


_apps: dict[int, ClientApp] = {}  # at most one, as a process has one run


def _complain() -> None:
    """Log the exception. Where nothing can be written, work goes on."""
    with contextlib.suppress(OSError):
        traceback.print_exc()


def _be_alone(line: int, parent: int) -> None:
    """Give up what a fork has of its parent's: handlers, connections, and states of generators."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # it died just before
            os._exit(1)
    # What was written to may be a file that is about to be closed.
    sys.stdout, sys.stderr = (os.fdopen(each, "w", closefd=False, buffering=1) for each in (1, 2))
    os.closerange(3, line)
    os.closerange(line + 1, os.sysconf("SC_OPEN_MAX"))
    np.random.seed()  # noqa: NPY002 - a bundle may draw from it; two runs shall not draw alike; `random` sees to itself
    if (torch := sys.modules.get("torch")) is not None:
        torch.seed()
