"""`SecureGrid`: a Flower grid whose train and evaluate replies are one secure sum.

A strategy sends its messages and gets one reply: the model plus the cohort's weighted mean update,
the mean metrics, the total weight. A strategy that needs only the mean cannot tell the difference.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from tacit.crypto.errors import (
    BudgetExceeded,
    ParameterError,
    ProtocolError,
    TacitError,
    TooFewClients,
)
from tacit.crypto.he.sets import BY_NAME
from tacit.crypto.identity import KEY_BYTES, Roster, RunKey, agree
from tacit.crypto.secagg import stages
from tacit.crypto.secagg.capsules import MAX_PAIRS, Exchange, Pairs
from tacit.crypto.secagg.messages import Report
from tacit.crypto.secagg.revealing import Opened, Revealing
from tacit.crypto.secagg.server import Attesting, Collecting
from tacit.crypto.secagg.session import Purpose, Session
from tacit.crypto.simulated import simulated_roster
from tacit.crypto.vector import Layout, Sliced, model_digest
from tacit.crypto.wire import Reader
from tacit.server.ahead import Ahead, Came, Entry, Lost
from tacit.server.broadcast import Arrays, Broadcast
from tacit.server.events import CohortCommitted, LeftOut, OnEvent, SumFailed, SumOpened, unheard
from tacit.server.he_loader import Loader, LoaderFailed
from tacit.server.inbox import Seen, Tap
from tacit.server.known_keys import KnownKeys
from tacit.server.legs import Requests, Steps, finish, leg, pause
from tacit.server.moved import moved
from tacit.server.pairwise import Binding, SecureSum
from tacit.server.private_sums import PrivateSums, seen_of
from tacit.server.tenseal import GroupKeys
from tacit.server.wrapped import WrappedGrid

DEFAULT_TIMEOUT = 3600.0
PATIENCE = 120.0  # seconds in which real devices may come back before a round is given up
DEALERS = 3  # asked for a key in one round, one after the other
# What a device says, by stage, when the group's key has to be made anew; whoever refuses to decrypt
# has given it up. Elsewhere the words are worth nothing: at enrolment they may be a stranger's.
KEY_IS_OVER = {"key": stages.BAD_GROUP_KEY, "report": stages.NO_GROUP_KEY, "reveal": ""}
Add = Callable[..., None]


class SecureGrid(WrappedGrid):
    """Runs each train or evaluate exchange as a secure sum; queries pass through.

    `roster` lists the enrolled devices, signed by their authority; without one the devices are
    those of a simulation. When a sum cannot be opened there is no reply at all, so the strategy
    keeps its model, and a `SumFailed` event says why. With `private` the sums have noise; when the
    budget of too many devices is spent, BudgetExceeded is raised, and nothing more is released.
    `ahead` is where sums are written down before they are opened and before they are used; what is
    there of a round that is run again is used as it is.
    """

    def __init__(
        self,
        inner: Grid,
        protocol: SecureSum,
        *,
        roster: Roster | None = None,
        weight_key: str = "num-examples",
        on_event: OnEvent | None = None,
        tap: Tap | None = None,
        private: PrivateSums | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        super().__init__(inner)
        self._ahead = ahead or Ahead()
        self.protocol = protocol
        self._private = private
        self._roster = roster
        self._weight_key = weight_key
        self._on_event = on_event or unheard
        self._tap = tap
        self._keys: dict[int, RunKey] = {}  # by node
        self._known = KnownKeys(self._on_event)
        self._pairs = Pairs()  # of a hybrid run
        scheme = BY_NAME.get(protocol.he)
        self._group = None if scheme is None else GroupKeys(scheme)  # of a consortium
        self._most_online = 0
        self._asked: set[int] = set()  # nodes that were asked to enrol with this roster
        self._trusts_names = True  # until a sum had too few: they may be wrong
        self._silent = 0  # nodes that did not answer when they were asked to enrol
        self._banned: set[int] = set()  # devices whose shares did not hold
        self._spent: set[int] = set()  # nodes that said in this sum that their budget is

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        asked = list(messages)
        if not asked or asked[0].metadata.message_type.startswith("query"):
            return self.inner.send_and_receive(asked, timeout=timeout)
        self._spent.clear()
        return finish(self._replies(asked, timeout or DEFAULT_TIMEOUT))

    def _replies(self, asked: Sequence[Message], timeout: float) -> Steps[list[Message]]:
        """What the strategy is shown: one reply, or none."""
        broadcast = Broadcast.of(asked)

        def whole() -> Steps[list[Message]]:
            entry = self._ahead.entry(broadcast.round, _purpose(broadcast).name.lower())
            reply = self._recalled(broadcast, entry)
            if reply is None:
                roster, nodes = yield from self._gathered(broadcast)
                reply = yield from self._summed(broadcast, roster, nodes, timeout, entry)
            return [Message(reply, reply_to=asked[0])]

        return self._tried(broadcast, whole())

    def _tried(
        self, broadcast: Broadcast, steps: Steps[list[Message]], what: str = ""
    ) -> Steps[list[Message]]:
        """What comes of these steps; no reply at all where a sum cannot be opened, so that the
        strategy keeps its model. `what` stands before the reason."""
        try:
            return (yield from steps)
        except TooFewClients as few:
            self._check_budgets(broadcast, few)
            self._asked.clear()
            self._trusts_names = False
            failed: Exception = few
        except (LoaderFailed, Lost) as lost:
            failed = lost
        except ProtocolError as broken:
            self._ban(broadcast.round, broken.stage, broken.sender, broken.reason)
            failed = broken
        if self._private is not None:
            self._private.failed()
        purpose = _purpose(broadcast).name.lower()
        self._on_event(SumFailed(broadcast.round, purpose, f"{what}{failed}"))
        return []

    def _recalled(self, broadcast: Broadcast, entry: Entry) -> RecordDict | None:
        """The reply that a sum came to before the run was interrupted, None if it is to be asked
        for. Raises Lost if it is neither."""
        if not entry.is_there:
            return None
        if self._private is not None:
            self._on_event(self._private.spent(broadcast.round))
        came = entry.recall(lambda: model_digest(broadcast.model))
        if came is None:
            return None
        self._on_event(came.opened)
        return came.reply

    def _summed(
        self,
        broadcast: Broadcast,
        roster: Roster,
        nodes: Mapping[int, int],
        timeout: float,
        entry: Entry,
    ) -> Steps[RecordDict]:
        """The reply that one sum comes to. Raises TooFewClients or ProtocolError if it is not
        opened."""
        began = time.monotonic()
        session, opened = yield from self._sum(broadcast, roster, nodes, timeout, entry)
        told = SumOpened(
            broadcast.round,
            session.purpose.name.lower(),
            len(opened.survivors),
            len(session.cohort),
            time.monotonic() - began,
            self.protocol.kind(session),
        )
        reply = self._reply(broadcast, session, opened)
        entry.keep(Came(told, reply))
        self._on_event(told)
        return reply

    def _gathered(self, broadcast: Broadcast) -> Steps[tuple[Roster, dict[int, int]]]:
        """As `_ready`; and again for PATIENCE, while real devices are silent and more are missing
        than a sum may miss: where the server was away they come back one by one, and none
        has been asked for anything yet."""
        wanted = (1 - self.protocol.drop) * len(broadcast.nodes)
        end = time.monotonic() + (0.0 if self._roster is None else PATIENCE)
        while True:
            roster, nodes = yield from self._ready(broadcast)
            there = self._devices(broadcast.nodes) & nodes.keys()
            # Who has refused is not asked again. Whether it is enough is for the session to say.
            if not self._silent or len(there) >= wanted or time.monotonic() >= end:
                return roster, nodes
            self._asked.clear()
            yield from pause(1.0)

    def _ready(self, broadcast: Broadcast) -> Steps[tuple[Roster, dict[int, int]]]:
        """The roster, and by device the nodes of those who can be in a sum: enrolled, and sharing
        what such sums take."""
        roster = self._roster or self._simulated()
        self._known.roster(broadcast.round, roster)
        yield from self._enrol(broadcast, roster)
        nodes = self._nodes(roster)
        if self.protocol.hybrid:
            nodes = yield from self._paired(broadcast, roster, nodes)
        if self._group is not None:
            nodes = yield from self._keyed(broadcast, roster, nodes, self._group)
        return roster, nodes

    def _sum(
        self,
        broadcast: Broadcast,
        roster: Roster,
        nodes: Mapping[int, int],
        timeout: float,
        entry: Entry,
    ) -> Steps[tuple[Session, Opened]]:
        """All stages of one sum. Raises TooFewClients or ProtocolError if it is not opened."""
        purpose = _purpose(broadcast)
        session = self._session(broadcast, purpose, roster, nodes)
        if self._private is not None:
            session = self._affordable(broadcast, session, roster, nodes, self._private)
        self._on_event(
            CohortCommitted(
                session.round, purpose.name.lower(), len(session.cohort), session.id.hex()
            )
        )
        if session.clear is not None:  # in part, each report can be read by itself
            entry.intend(session)
        attesting = yield from self._collected(broadcast, session, roster, nodes, timeout)
        yield from self._attest(broadcast.round, nodes, attesting)
        revealing = attesting.close()
        entry.intend(session)
        if self._private is not None:  # before anything is opened: a crash must not save a device
            self._charge(self._private, session, attesting.closed.survivors, entry)
        yield from self._reveal(broadcast.round, nodes, revealing)
        try:
            opened = revealing.open(os.urandom(KEY_BYTES))
        finally:  # named also where they are the reason that it is not opened
            for device, reason in revealing.refuted.items():
                self._on_event(LeftOut(broadcast.round, "reveal", device, reason))
        for device in opened.bad:
            self._ban(broadcast.round, "reveal", device, "dealt shares that do not hold")
        for device in opened.unfit:  # told, and not held against it
            reason = "its share of the sum's key did not fit the others'"
            self._on_event(LeftOut(broadcast.round, "reveal", device, reason))
        return session, opened

    def _charge(
        self, private: PrivateSums, session: Session, survivors: Sequence[int], entry: Entry
    ) -> None:
        try:
            private.charge(session, survivors)
        except (TacitError, OSError):
            entry.forget()  # a private sum has nothing in the clear: nothing of it was read
            raise
        self._on_event(private.spent(session.round))

    def _check_budgets(self, broadcast: Broadcast, few: TooFewClients) -> None:
        """Raises BudgetExceeded if a sum had too few since too many owners allow no more: there is
        no use in asking again."""
        if self._private is None:
            return
        roster = self._roster or simulated_roster(self._most_online)
        resting = self._devices(broadcast.nodes) - self._due(roster)
        spent, asked = len(self._spent), len(broadcast.nodes) - len(resting)
        if 2 * spent > asked:
            raise BudgetExceeded(f"{spent} of {asked} devices have spent their budgets: {few}")

    def _affordable(
        self,
        broadcast: Broadcast,
        session: Session,
        roster: Roster,
        nodes: Mapping[int, int],
        private: PrivateSums,
    ) -> Session:
        """The session of those devices whose budget has room for it. Raises BudgetExceeded if they
        are fewer than it was to be opened over."""
        left, least = dict(nodes), session.min_survivors
        while len(able := private.affordable(session)) < len(session.devices):
            if len(able) < least:
                raise BudgetExceeded(
                    f"the privacy budget of {len(session.devices) - len(able)} of "
                    f"{len(session.devices)} devices has no room for another sum"
                )
            spent = set(session.devices) - set(able)
            for device in sorted(spent):
                self._on_event(LeftOut(broadcast.round, "report", device, "its budget is spent"))
            left = {device: node for device, node in left.items() if device not in spent}
            session = self._session(broadcast, session.purpose, roster, left)
        return session

    def _simulated(self) -> Roster:
        """The roster of a simulation: as many devices as were ever online together.

        Devices refuse an older roster, so it never shrinks; when it grows, all enrol again.
        """
        online = len(list(self.inner.get_node_ids()))
        if online > self._most_online:
            self._most_online = online
            self._keys.clear()
            self._asked.clear()
        return simulated_roster(self._most_online)

    def _session(
        self, broadcast: Broadcast, purpose: Purpose, roster: Roster, nodes: Mapping[int, int]
    ) -> Session:
        """The sum that this exchange asks for, among those of its nodes that are enrolled."""
        model = broadcast.model
        keys = {device: self._keys[node] for device, node in nodes.items()}
        asked = self._devices(broadcast.nodes) & self._due(roster)
        layout, clear, protocol = Layout(()), None, self._protocol(purpose)
        if purpose is Purpose.TRAIN:
            layout = Layout.of(model)
            clear = protocol.clear_of(layout)
        config = stages.config_digest(
            dict(broadcast.config), self._weight_key, broadcast.kind, [*broadcast.content]
        )
        with _this_cohort():
            return protocol.session(
                self.run.run_id,
                broadcast.round,
                purpose,
                [key for device, key in keys.items() if device in asked],
                roster,
                {device: key for device, key in keys.items() if device not in asked},
                layout.size,
                Binding(model_digest(model), config),
                b"" if self._group is None else self._group.epoch,
                clear,
                None if self._private is None else self._private.noising,
            )

    def _protocol(self, purpose: Purpose) -> SecureSum:
        """The parameters of sums for this purpose."""
        return self.protocol

    def _seats(self, devices: int, roster: Roster) -> int:
        """The seats of a committee for so many devices, some of which may be no members."""
        with _this_cohort():
            members = len(roster.members)
            return self.protocol.shape(min(devices, members), members).seats

    def _nodes(self, roster: Roster) -> dict[int, int]:
        """The node of every device that is enrolled in this run, still a member, and has not lied.

        A member whose time is over would have all others refuse the sum.
        """
        now = _now()
        over = {member.device for member in roster.members if member.valid_until < now}
        held = {key.device: node for node, key in self._keys.items()}
        return {d: node for d, node in held.items() if d not in over | self._banned}

    def _enrol(self, broadcast: Broadcast, roster: Roster) -> Steps[None]:
        """Enrol the nodes of the cohort, and of the committee, that are not enrolled in this run.

        Which device is on which node the server learns by this alone. So where a committee is drawn
        those nodes are asked that are said to be its members' (see `_seated`): those that are not
        in the cohort once, since the silent among them would hold up every sum, and again after a
        sum that had too few, then all of them.
        """
        asked = list(broadcast.nodes)
        if seats := self._seats(len(asked), roster):
            asked += sorted(self._seated(roster, seats) - set(asked) - self._asked)
        hybrid = {stages.HYBRID: True} if self.protocol.hybrid else {}
        content = _record({stages.ROSTER: roster.encode(), **hybrid})
        fresh = {node: content for node in asked if node not in self._keys}
        self._silent = 0
        if fresh:
            run, taken = self.run.run_id, {key.device: node for node, key in self._keys.items()}
            identities = {member.device: member.public for member in roster.members}
            online = set(self.inner.get_node_ids())

            def add(content: RecordDict, *, node: int) -> None:
                key = _run_key(content)
                # First who signed it: a stranger's claim must not keep the device itself out.
                key.verify(run, identities.get(key.device, b""))
                agree(bytes(KEY_BYTES), [key])  # any secret of ours finds a low-order point
                others = (k for k in self._keys.values() if k.device != key.device)
                if any(other.public == key.public for other in others):  # or no session is built
                    raise ProtocolError("another's run key", sender=key.device, stage="enrol")
                if self.protocol.hybrid:
                    kem = _bytes(content, stages.KEM_KEY, sender=key.device, stage="enrol")
                    self._pairs.learn(key, kem)
                held = taken.get(key.device)
                if held in online:
                    raise ProtocolError("enrolled twice", sender=key.device, stage="enrol")
                if held is not None:  # the device is back, under another node
                    del self._keys[held]
                taken[key.device] = node
                self._keys[node] = key
                self._known.run(broadcast.round, key)

            enrol = self._run_leg(broadcast.round, "enrol", stages.ENROL, fresh, add)
            self._silent = yield from enrol
        self._asked.update(asked)

    def _seated(self, roster: Roster, seats: int) -> set[int]:
        """The nodes on which a committee's members may be: those named after them, or all nodes,
        where one is not named after a member of the roster. A name is a hint and no more: what a
        device is shows when it enrols."""
        nodes = {node.name: node.node_id for node in self.inner.get_nodes()}
        named = {node_name(member.device): member.device for member in roster.members}
        if not self._trusts_names or not nodes.keys() <= named.keys():
            return set(self.inner.get_node_ids())
        drawn = set(roster.drawn(seats))
        return {node for name, node in nodes.items() if named[name] in drawn}

    def _paired(
        self, broadcast: Broadcast, roster: Roster, nodes: Mapping[int, int]
    ) -> Steps[dict[int, int]]:
        """Of the parties to a hybrid sum, those who share an ML-KEM secret with all of the others.

        Pairs that share none yet are asked to: all of them in the first round, later those of
        devices that were not there or enrolled anew. Whoever misses a stage is left out.
        """
        parties = self._devices(broadcast.nodes) & self._due(roster) & nodes.keys()
        parties |= set(roster.drawn(self._seats(len(parties), roster))) & nodes.keys()
        left, at_once = sorted(parties), max(1, MAX_PAIRS // len(parties))
        for start in range(0, len(parties), at_once):
            keys = [self._keys[nodes[device]] for device in left]
            receivers = sorted(parties)[start : start + at_once]
            exchange = Exchange(self._pairs, self.run.run_id, roster, keys, receivers)
            yield from self._exchange(broadcast.round, nodes, exchange)
            left = [device for device in left if device not in exchange.left]
        return {device: nodes[device] for device in left}

    def _exchange(self, round: int, nodes: Mapping[int, int], exchange: Exchange) -> Steps[None]:
        def opened(content: RecordDict, *, node: int) -> None:
            exchange.opened(self._keys[node].device)

        deal = {nodes[d]: _message(request.encode()) for d, request in exchange.to_deal().items()}
        if not deal:
            return
        add = self._taking(exchange.add, "encapsulate")
        yield from self._run_leg(round, "encapsulate", stages.ENCAPSULATE, deal, add)
        open_ = {nodes[d]: _message(request.encode()) for d, request in exchange.to_open().items()}
        yield from self._run_leg(round, "decapsulate", stages.DECAPSULATE, open_, opened)

    def _keyed(
        self, broadcast: Broadcast, roster: Roster, nodes: Mapping[int, int], group: GroupKeys
    ) -> Steps[dict[int, int]]:
        """The nodes of the devices that hold the consortium's key; all are to be given it.

        A key is dealt to all that are there, in this cohort or not: one for those alone would not
        do for the next cohort.
        """
        parties = self._devices(broadcast.nodes) & self._due(roster) & nodes.keys()
        held = {device: self._keys[node] for device, node in nodes.items()}
        add, round = self._taking(group.dealt, "deal"), broadcast.round
        for _ in range(DEALERS):
            if group.covers(roster, (held[device] for device in parties), now=_now()):
                break
            with _this_cohort():
                asked = group.propose(self.run.run_id, roster, held.values(), parties)
            request = {nodes[asked.dealer]: _message(asked.encode())}
            yield from self._run_leg(round, "deal", stages.DEAL, request, add)
        devices = {node: device for device, node in nodes.items()}

        def kept(content: RecordDict, *, node: int) -> None:
            group.delivered(devices[node])

        boxes = {nodes[d]: _message(box.encode()) for d, box in group.to_deliver(parties).items()}
        silent = yield from self._run_leg(round, "key", stages.KEY, boxes, kept)
        if 2 * silent > len(boxes):  # it may be the key that silences them
            group.give_up()
        group.used()
        self._known.group(round, group.epoch)
        holders = group.holders  # some of whom may have said since that they are not enrolled
        return {d: node for d, node in nodes.items() if d in holders and node in self._keys}

    def _collected(
        self,
        broadcast: Broadcast,
        session: Session,
        roster: Roster,
        nodes: Mapping[int, int],
        timeout: float,
    ) -> Steps[Attesting]:
        """Stage report: the sum of what the devices send."""
        with ExitStack() as opened:

            def loader() -> Loader:
                assert session.packing is not None
                return opened.enter_context(Loader(session.packing))

            def show(report: Report) -> None:
                self._show_clear(broadcast, session, nodes, report)

            collecting = Collecting(session, roster, loader if session.he else None, show)
            yield from self._report(broadcast, session, nodes, collecting, timeout)
            for device, reason in collecting.strays().items():
                self._on_event(LeftOut(broadcast.round, "report", device, reason))
            attesting = collecting.close()
            for device in attesting.closed.lost:
                reason = "its report was lost with the process that loads ciphertexts"
                self._on_event(LeftOut(broadcast.round, "report", device, reason))
            return attesting

    def _report(
        self,
        broadcast: Broadcast,
        session: Session,
        nodes: Mapping[int, int],
        collecting: Collecting,
        timeout: float,
    ) -> Steps[None]:
        ours = ConfigRecord({stages.SESSION: session.encode(), stages.WEIGHT_KEY: self._weight_key})
        content = RecordDict({**broadcast.content, stages.RECORD: ours})
        requests = dict.fromkeys((nodes[device] for device in session.devices), content)
        add = self._taking(collecting.add, "report")
        yield from self._run_leg(broadcast.round, "report", broadcast.kind, requests, add, timeout)

    def _attest(self, round: int, nodes: Mapping[int, int], attesting: Attesting) -> Steps[None]:
        closed, session = attesting.closed, attesting.closed.session
        seated = {key.device for key in session.witnesses}

        def request(member: int) -> RecordDict:
            fields = {stages.MESSAGE: attesting.request(member).encode(session)}
            if member in seated:  # it was not asked for a report, so it has not seen the session
                fields[stages.SESSION] = session.encode()
            return _record(fields)

        # One by one: together they are all the shares that the devices dealt, once more.
        requests = ((nodes[member], request(member)) for member in closed.members)
        yield from self._run_leg(
            round, "attest", stages.ATTEST, requests, self._taking(attesting.add, "attest")
        )

    def _reveal(self, round: int, nodes: Mapping[int, int], revealing: Revealing) -> Steps[None]:
        content, members = _message(revealing.request().encode()), revealing.members
        for _ in range(2):
            requests = {nodes[member]: content for member in members}
            silent = yield from self._run_leg(
                round, "reveal", stages.REVEAL, requests, self._taking(revealing.add, "reveal")
            )
            if not (members := revealing.instead(silent)):
                break

    def _taking(self, add: Add, stage: str) -> Add:
        """`add` for the bytes of a stage, told the device that a node's answer comes from."""

        def take(content: RecordDict, *, node: int) -> None:
            device = self._keys[node].device
            add(_bytes(content, stages.MESSAGE, sender=device, stage=stage), sender=device)

        return take

    def _run_leg(
        self,
        round: int,
        stage: str,
        kind: str,
        requests: Requests,
        add: Add,
        deadline: float | None = None,
    ) -> Steps[int]:
        """Send one stage; hand good answers to `add`; leave out the silent and the wrong. How many
        were silent."""
        deadline, silent = deadline or self.protocol.stage_deadline, 0
        for answer in leg(self.inner, requests, kind, round=round, deadline=deadline):
            if answer is None:
                yield
                continue
            reason = answer.reason
            if answer.content is not None:
                try:
                    add(answer.content, node=answer.node)
                    continue
                except LoaderFailed:  # no fault of this node's, and none of the others'
                    raise
                except TacitError as refused:
                    reason = str(refused)
            elif not answer.refused:
                silent += 1
            self._on_event(LeftOut(round, stage, self._number(answer.node), reason))
            if answer.refused and stages.NOT_ENROLLED in answer.reason:
                # It lost its run key (a restart, another run): let it enrol again.
                self._keys.pop(answer.node, None)
                self._asked.discard(answer.node)
            if answer.refused and stages.BUDGET_IS_SPENT in answer.reason:
                self._spent.add(answer.node)
            over = KEY_IS_OVER.get(stage)
            if answer.refused and self._group and over is not None and over in answer.reason:
                self._group.give_up()
        return silent

    def _ban(self, round: int, stage: str, device: int, reason: str) -> None:
        if device:  # 0 is this server: nobody to leave out
            self._banned.add(device)
            self._on_event(LeftOut(round, stage, device, reason))

    def _devices(self, nodes: Iterable[int]) -> set[int]:
        """The devices on these nodes, of those that are enrolled."""
        return {self._keys[node].device for node in nodes if node in self._keys}

    def _due(self, roster: Roster) -> frozenset[int]:
        """The members who may be in the next sum: all, but where cohorts take turns."""
        members = [member.device for member in roster.members]
        return frozenset(members) if self._private is None else self._private.due(members)

    def _number(self, node: int) -> int:
        """The device on a node; before it has enrolled, the node's own number."""
        return self._keys[node].device if node in self._keys else node

    def _reply(self, broadcast: Broadcast, session: Session, opened: Opened) -> RecordDict:
        mean = opened.mean
        values = dict(zip(opened.metrics, mean.metrics.tolist(), strict=False))  # of as many slots
        reply = RecordDict({"metrics": MetricRecord({**values, self._weight_key: mean.weight})})
        if session.purpose is Purpose.TRAIN:
            model = broadcast.model
            self._show(session, model, opened)
            reply["arrays"] = moved(model, self._update(session, model, opened))
        return reply

    def _update(self, session: Session, model: Arrays, opened: Opened) -> Sliced:
        """The mean update, with the noise that the server owes it."""
        if self._private is None:
            return opened.mean.decoded
        layout = Layout.of(model)
        return self._private.update(session, layout, opened.mean, opened.survivors)

    def _show(self, session: Session, model: Arrays, opened: Opened) -> None:
        """What this server has seen, before it adds any noise itself."""
        if self._tap is None:
            return
        mean, layout = opened.mean, Layout.of(model)
        update = mean.update if self._private is None else seen_of(session, layout, mean)
        clients, kind = len(opened.survivors), self.protocol.kind(session)
        parts = layout.split(update)
        members = tuple(sorted(n for n, k in self._keys.items() if k.device in opened.survivors))
        self._tap(Seen(session.round, model, parts, clients, mean.weight, kind, members))

    def _show_clear(
        self, broadcast: Broadcast, session: Session, nodes: Mapping[int, int], report: Report
    ) -> None:
        """What one device sends in the clear; its weight is in it, and not known."""
        if self._tap is None or session.clear is None:
            return
        model, clear = broadcast.model, session.clear
        part = Layout.of(model).within(clear.ranges)
        update = part.split(clear.unpack(report.clear).astype(np.float64) * clear.step)
        shown, node = {name: model[name] for name in update}, nodes[report.device]
        self._tap(Seen(broadcast.round, shown, update, 1, 0.0, self.protocol.name, (node,)))


def node_name(device: int) -> str:
    """By which a node is to be registered, for the server to find its device among many."""
    return f"device-{device}"


def _purpose(broadcast: Broadcast) -> Purpose:
    return Purpose[broadcast.kind.split(".")[0].upper()]


def _run_key(content: RecordDict) -> RunKey:
    reader = Reader(
        _bytes(content, stages.RUN_KEY, sender=0, stage="enrol"), sender=0, stage="enrol"
    )
    key = RunKey.read(reader)
    reader.end()
    return key


def _bytes(content: RecordDict, name: str, *, sender: int, stage: str) -> bytes:
    record = content.get(stages.RECORD)
    value = record.get(name) if isinstance(record, ConfigRecord) else None
    if not isinstance(value, bytes):
        raise ProtocolError(f"no {name!r} in the reply", sender=sender, stage=stage)
    return value


def _message(data: bytes) -> RecordDict:
    return _record({stages.MESSAGE: data})


def _record(fields: Mapping[str, bytes | bool]) -> RecordDict:
    return RecordDict({stages.RECORD: ConfigRecord(dict(fields))})


@contextmanager
def _this_cohort() -> Iterator[None]:
    """A cohort that nothing protects is one sum that fails; the next one may be another."""
    try:
        yield
    except ParameterError as unsafe:
        raise TooFewClients(str(unsafe)) from None


def _now() -> int:
    return int(time.time())
