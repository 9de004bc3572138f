"""The supervisor: keeps a server's processes running, its nodes registered, and its runs going.

One for each folder, and the only one that writes its log. It can be killed at any moment: what it
has to know is in the folder, its processes end with it, and the next one goes on. It never signals
a process that it did not start, and knows one by its number and its start time.
"""

import os
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tacit.app import server_folder
from tacit.app.config import Settings
from tacit.app.deployment import founding, link, nodes, state
from tacit.app.deployment.carried import carry_out
from tacit.app.deployment.child import Child, Spec, turn_over
from tacit.app.deployment.control import Control, FlowerNode, Unreachable
from tacit.app.deployment.fleet import Fleet
from tacit.app.deployment.orders import Rejected, taken
from tacit.app.deployment.proc import is_alive, signal_group, started
from tacit.app.deployment.runs import Runs
from tacit.app.deployment.state import NodeShown, RefusedShown, Shown, State
from tacit.app.deployment.told import Told
from tacit.app.deployment.waking import until_told
from tacit.app.journal import Journal
from tacit.crypto.errors import TacitError
from tacit.server.deployed import OrderRefused, ProcessEnded, ProcessStarted
from tacit.server.kinds import Kind

TICK = 0.3  # seconds
NODES_EVERY, NODES_ANYHOW = 2.0, 60.0
RUNS_EVERY = 1.0  # each look is a question to SuperLink, of which it takes a hundred a second
STRANGERS_EVERY = 5.0
LOGS_EVERY = 20.0
PAUSE = 5.0  # seconds after the system failed
# Seconds in which SuperLink, though it runs, does not answer: then it is killed. Flower gives its
# runs up after 60; it may take long to start, with a large database.
HUNG, STARTS = 40.0, 180.0
LEAST_FREE = 100_000_000  # bytes of disk without which no run is begun
LEFT_OVER_S = 10.0
REFUSALS = 20  # that are shown

Say = Callable[[str], None]


@dataclass(slots=True)
class Supervisor:
    """All that is kept going in one server's folder."""

    fleet: Fleet
    port: int
    say: Say
    told: Told
    control: Control
    children: dict[str, Child]
    refused: deque[RefusedShown]
    runs: Runs = field(init=False)
    troubles: dict[str, str] = field(default_factory=dict)
    _nodes: list[FlowerNode] = field(default_factory=list)
    _answered: float = 0.0
    _is_ready: bool = False
    _synced: object = None
    _due: dict[str, float] = field(default_factory=dict)
    _shown: State = field(default_factory=State)

    def __post_init__(self) -> None:
        places = self.fleet.places
        self.runs = Runs(places, self.control, self.told, self._ready, self._end_serverapps)

    def tick(self) -> None:
        """Everything that may have something to do, once."""
        now = time.monotonic()
        self._look_after(now)
        self._guarded("orders", 0.0, self._take_orders)
        self._guarded("nodes", NODES_EVERY, self._keep_nodes)
        if self._is_ready and "nodes" not in self.troubles:
            self._guarded("runs", RUNS_EVERY, self.runs.step)
            self._guarded("strangers", STRANGERS_EVERY, self.runs.end_strangers)
        self._end_what_hangs(now)
        self._guarded("logs", LOGS_EVERY, self._turn_logs_over)
        self.told.write()
        self._guarded("state", 0.0, self._show)

    def _look_after(self, now: float) -> None:
        for name, child in self.children.items():
            if (how := child.look(now)) is not None:
                self._note(ProcessEnded(name, how))
                if name == link.SUPERLINK:
                    self._is_ready, self._answered = False, 0.0
                    self.control.close()
            if child.is_due(now) and (name == link.SUPERLINK or self._is_ready):
                try:
                    child.begin()
                except OSError as bad:
                    child.failed_to_begin(f"cannot be started: {bad.strerror}", now)
                else:
                    self._note(ProcessStarted(name))

    def _take_orders(self) -> None:
        for found in taken(self.fleet.places, time.time()):
            if isinstance(found, Rejected):
                self._refuse(found.order, found.by, found.reason)
                continue
            try:
                carry_out(found, self.fleet.places, self.runs, self.told.journal)
            except TacitError as wrong:
                self._refuse(f"{found.act} {found.name}", found.by, str(wrong))

    def _refuse(self, order: str, by: str, why: str) -> None:
        self._note(OrderRefused(order, by, why))
        self.refused.append(RefusedShown(round(time.time(), 1), order, by, why))

    def _keep_nodes(self) -> None:
        if self.children[link.SUPERLINK].pid is None:
            return
        self._nodes = self.control.nodes()
        self._answered = time.monotonic()
        mark, anyhow = self.fleet.joined_mark(), self._every("sync", NODES_ANYHOW)
        if mark != self._synced or not self._is_ready or anyhow:
            wanted = server_folder.joined(self.fleet.places.folder).nodes
            for done in nodes.apply(self.control, wanted):
                self._note(done)
            if mark != self._synced and self._synced is not None:
                self._after_an_answer()
            self._nodes, self._synced = self.control.nodes(), mark
        self._is_ready = True

    def _after_an_answer(self) -> None:
        """What a process waits long for may be in it, such as a new certificate."""
        for child in self.children.values():
            child.retry()

    def _ready(self, settings: Settings) -> str:
        """Why a run cannot be begun now; nothing if it can."""
        folder = self.fleet.places.folder
        try:
            faults = server_folder.faults(folder, int(time.time()))
        except TacitError as bad:
            faults = [str(bad)]
        if faults:
            return f"{'; '.join(faults)} (tacit server check {folder})"
        if (free := shutil.disk_usage(folder).free) < LEAST_FREE:
            return f"the disk is full: {free // 1_000_000} MB are left, make room"
        online, devices = sum(each.is_online for each in self._nodes), settings.data.devices
        if online < settings.enough:
            enough = "all have" if settings.enough == devices else f"{settings.enough} have"
            return f"{online} of {devices} devices are online, and {enough} to be: start the others"
        return ""

    def _end_serverapps(self) -> None:
        self.children[link.SUPEREXEC].kill()

    def _end_what_hangs(self, now: float) -> None:
        superlink = self.children[link.SUPERLINK]
        silent = now - (self._answered or superlink.since)
        if superlink.pid is not None and silent > (HUNG if self._answered else STARTS):
            self.say("superlink does not answer any more, and is killed")
            superlink.kill()

    def _turn_logs_over(self) -> None:
        for child in self.children.values():
            turn_over(child.spec.log)

    def _show(self) -> None:
        """Write the state, if it is not as it was."""
        shown = State(
            pid=os.getpid(),
            start=started(os.getpid()),
            port=self.port,
            is_ready=self._is_ready,
            processes=tuple(_shown(each) for each in self.children.values()),
            nodes=tuple(NodeShown(each.name, each.is_online) for each in self._nodes),
            troubles=tuple(filter(None, [*self.troubles.values(), self.told.trouble])),
            refused=tuple(self.refused),
        )
        if shown != self._shown:
            self._shown = shown
            shown.write(self.fleet.places)

    def _guarded(self, what: str, every: float, do: Callable[[], None]) -> None:
        """Do it, at most `every` so many seconds. What goes wrong is said, once, and everything
        else goes on; where the disk or the memory failed, it gets time to recover."""
        if not self._every(what, every):
            return
        try:
            do()
        except (TacitError, OSError) as bad:
            why = str(bad)
            if isinstance(bad, Unreachable) and not self._is_ready:
                why = "SuperLink is starting"
            if isinstance(bad, OSError):
                self._due[what] = time.monotonic() + PAUSE
            if self.troubles.get(what) != why:
                self.say(f"{what}: {why}")
            self.troubles[what] = why
        else:
            self.troubles.pop(what, None)

    def _note(self, entry: Kind) -> None:
        self.told.note(entry)

    def _every(self, what: str, seconds: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + seconds
        return True

    def begin(self) -> None:
        """Before the first tick."""
        self.runs.load()

    def end(self) -> None:
        """End all processes, devices first and SuperLink last."""
        self.control.close()  # or SuperLink waits for it
        for stage in (self._devices(), [link.FRONT], [link.SUPEREXEC], [link.SUPERLINK]):
            children = [self.children[name] for name in stage if name in self.children]
            for child in children:
                child.end(time.monotonic())
            while any(child.pid is not None for child in children):
                for child in children:
                    if (how := child.look(time.monotonic())) is not None:
                        self._note(ProcessEnded(child.spec.name, how))
                time.sleep(0.05)
        self.told.write()
        self.told.journal.close()

    def _devices(self) -> list[str]:
        return [name for name in self.children if name not in link.OURS]


def supervise(fleet: Fleet, say: Say) -> None:
    """Be the supervisor of this fleet until SIGTERM or SIGINT. Raises ParameterError if there is
    one, or the server has joined no authority."""
    places = fleet.places
    server_folder.joined(places.folder)
    with state.alone(places), until_told() as asleep:
        before = state.read(places)
        _end_left_over(before, say)
        fleet.check_port()
        port = link.choose_port(before.port)
        journal = Journal(places.folder)
        founding.found(places, journal, fleet.first_roles)
        link.prepare(places, port, int(time.time()))
        supervisor = _made(fleet, port, Told(journal, say), before)
        try:
            supervisor.begin()
            say(f"up: SuperLink at {link.LOOPBACK}:{port}")
            while not asleep(TICK):
                supervisor.tick()
        finally:
            say("ending")
            supervisor.end()
            State(port=port, refused=tuple(supervisor.refused)).write(places)


def _made(fleet: Fleet, port: int, told: Told, before: State) -> Supervisor:
    places = fleet.places
    specs: list[Spec] = [link.superlink(places, port), link.superexec(places, port)]
    specs += [fleet.front(port), *fleet.nodes()]
    children = {spec.name: Child(spec) for spec in specs}
    control = Control(f"{link.LOOPBACK}:{port}", link.ca_of(places))
    refused = deque(before.refused, maxlen=REFUSALS)
    return Supervisor(fleet, port, told.say, told, control, children, refused)


def _shown(child: Child) -> Shown:
    return Shown(
        child.spec.name, child.state, child.pid, child.start, child.began, child.restarts,
        child.ended,
    )  # fmt: skip


def _end_left_over(before: State, say: Say) -> None:
    """Processes of a supervisor that was killed, where they did not end with it."""
    left = [each for each in before.processes if each.pid and is_alive(each.pid, each.start)]
    end = time.monotonic() + LEFT_OVER_S
    for each in left:
        say(f"{each.name} of an earlier supervisor is ended")
        signal_group(each.pid or 0, signal.SIGKILL)
    while any(is_alive(each.pid or 0, each.start) for each in left):
        if time.monotonic() >= end:
            raise TimeoutError("processes of an earlier supervisor do not end")
        time.sleep(0.05)
