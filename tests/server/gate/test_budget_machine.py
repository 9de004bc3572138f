"""No budget is ever exceeded: takes, returns, crashes, several processes, people, time, in any
order; and nothing is lost but what a crash took."""

import shutil
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tacit.server.gate import desk
from tacit.server.gate.allowance import allowance, trust
from tacit.server.gate.base import Denial, Role, State, Suspicion
from tacit.server.gate.records import StoredRecords
from tacit.server.gate.store import one
from tests.server.gate.gates import AT, HERE, opened, records, world

KEYS, PROCESSES = st.integers(0, 3), st.integers(0, 2)
AMOUNTS = st.one_of(st.integers(1, 5), st.integers(1, 400))


class Budgets(RuleBasedStateMachine):
    """Two keys of each of two organisations, and three processes. What the clients hold in their
    hands (`given`) is counted apart from all that the gate knows."""

    @initialize(budget=st.sampled_from([1, 100, 3000, 20_000]))
    def begin(self, budget: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.gate, self.at = world(self.folder), AT
        self.keys = [self.gate.issue(house) for house in "aabb"]
        for key in self.keys:
            self.gate.budget(key.name, budget)
        self.processes = [self._process() for _ in range(3)]
        self.given: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.held: Counter[tuple[int, str]] = Counter()  # taken by this process, may be returned

    def _process(self) -> StoredRecords:
        return records(opened(self.gate.path))

    def _row(self, name: str) -> tuple:
        with self.gate.store.reading() as db:
            return one(
                db,
                "SELECT k.budget, k.spent, k.issued, k.state, k.risk, o.budget, o.spent, o.since, "
                "o.name FROM keys k JOIN organisations o ON o.name = k.organisation "
                "WHERE k.name = ?",
                name,
            )

    @rule(key=KEYS, process=PROCESSES, answers=AMOUNTS)
    def take(self, key: int, process: int, answers: int) -> None:
        found, secret = self.processes[process], self.keys[key]
        try:
            found.take(found.grant_of(secret.text, HERE, self.at), answers, self.at)
        except Denial:
            return
        self.given[secret.name] += answers
        self.held[process, secret.name] += answers
        budget, spent, issued, state, risk, all_budget, all_spent, since, house = self._row(
            secret.name
        )
        trusted = trust(budget, spent, self.at - issued) if state == "ok" else 1
        assert self.given[secret.name] <= allowance(budget, trusted, risk, State(state))
        trusted = trust(all_budget, all_spent, self.at - since)
        assert self._given_to(house) <= allowance(all_budget, trusted, 0.0, State.OK)

    def _given_to(self, house: str) -> int:
        return sum(self.given[key.name] for key in self.keys if self._row(key.name)[8] == house)

    @rule(key=KEYS, process=PROCESSES, answers=AMOUNTS)
    def give_back(self, key: int, process: int, answers: int) -> None:
        name = self.keys[key].name
        if answers := min(answers, self.held[process, name]):
            self.processes[process].give_back(self.gate.grant(self.keys[key]), answers)
            self.given[name] -= answers
            self.held[process, name] -= answers

    @rule(process=PROCESSES)
    def crash(self, process: int) -> None:
        """As kill -9 does: the file is let go of, and nothing else is done."""
        died = self.processes[process]
        for name, lease in died._leases.items():
            self.lost[name] += lease.left
        died._store.close()
        self._start(process)

    @rule(process=PROCESSES)
    def end(self, process: int) -> None:
        self.processes[process].close()
        self.processes[process]._store.close()
        self._start(process)

    def _start(self, process: int) -> None:
        self.processes[process] = self._process()
        for held in list(self.held):
            if held[0] == process:
                del self.held[held]

    @rule(key=KEYS, process=PROCESSES, risk=st.sampled_from([0.0, 0.1, 0.5]), flag=st.booleans())
    def suspect(self, key: int, process: int, risk: float, flag: bool) -> None:
        found = self.processes[process]
        found.suspect(self.gate.grant(self.keys[key]), Suspicion(risk, flag), self.at)

    @rule(key=KEYS)
    def restore(self, key: int) -> None:
        by = self.gate.by[Role.OPERATOR]
        desk.restore(self.gate.store, by, self.keys[key].name, "looked", self.at)

    @rule(key=KEYS, budget=st.sampled_from([1, 50, 300, 5000]))
    def change_budget(self, key: int, budget: int) -> None:
        """Its organisation's too; less may be left then than was given already."""
        self.gate.budget(self.keys[key].name, budget)
        for other in self.keys:
            with self.gate.store.writing() as db:
                desk.changed(self.gate.store, db, other.name)

    @rule(days=st.sampled_from([1, 31]))
    def wait(self, days: int) -> None:
        if self.at < AT + 300 * 86400.0:
            self.at += days * 86400.0

    @invariant()
    @precondition(lambda self: hasattr(self, "given"))
    def what_is_written_covers_what_was_given(self) -> None:
        for key in self.keys:
            assert self._row(key.name)[1] >= self.given[key.name] + self.lost[key.name]

    def teardown(self) -> None:
        if not hasattr(self, "given"):
            return
        for each in self.processes:
            each.close()
            each._store.close()
        for key in self.keys:  # not one answer too many, and not one too few
            assert self._row(key.name)[1] == self.given[key.name] + self.lost[key.name]
        self.gate.store.close()
        shutil.rmtree(self.folder)


TestBudgets = Budgets.TestCase
TestBudgets.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
