"""The gate's records: who may ask, and how much is left to him, whatever crashes.

Budgets are reserved ahead. A block of answers is written down as spent, durably, before the first
of them is given; the rest of the block is then given from memory. What a killed process had not
given of it is lost, and never given twice: what is written down is never less than what was given.
A clean end returns the rest. Several processes may use one file, each with blocks of its own; near
the end of a budget one may hold what another one lacks, until it ends.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from sqlite3 import Connection

from tacit.crypto.errors import ParameterError
from tacit.server.gate import keys
from tacit.server.gate.allowance import RISK_STEP, ahead, stepped
from tacit.server.gate.base import Denial, Grant, State, Suspicion
from tacit.server.gate.known import Known, admit, known, room
from tacit.server.gate.networks import RuleFile, is_in
from tacit.server.gate.store import Store, one
from tacit.server.gate.windows import Windows
from tacit.server.kinds import Judged


@dataclass(slots=True)
class _Lease:
    """Answers of a key that are written down as spent: `left` were not given, `given` were, by
    this process."""

    organisation: str
    left: int = 0
    given: int = 0


class StoredRecords:
    """`base.Records` in a `Store`. Safe to use from several threads.

    `close` returns what is reserved and was not given; the store stays open. What another process
    did to a key, such as to revoke it, counts `within` seconds; what this one did, at once.
    """

    def __init__(
        self, store: Store, windows: Windows, rules: RuleFile | None = None, within: float = 0.0
    ) -> None:
        self._store, self._windows, self._rules = store, windows, rules
        self._within = within
        self._known: dict[str, Known] = {}
        self._leases: dict[str, _Lease] = {}
        self._changes = 0
        self._at = 0.0  # when a key was asked for last
        self._is_open = True

    def grant_of(self, secret: str, address: str, at: float) -> Grant:
        if self._rules is not None and not self._rules.allow(address):
            raise Denial("key", 403, "not from this address")
        key = keys.parse(secret)
        with self._store.lock:
            self._at = at
            self._refresh()
            found = self._find(key.name, at) if key is not None else None
        grant = admit(found, key, at)
        if found is not None and found.networks and not is_in(address, found.networks):
            raise Denial("key", 403, "not from this address")
        return grant

    def take(self, grant: Grant, answers: int, at: float) -> None:
        if answers < 1:
            raise ParameterError(f"{answers} answers are none to take")
        with self._store.lock:
            self._check_open()
            lease = self._leases.setdefault(grant.key, _Lease(grant.organisation))
            if lease.left < answers:
                self._reserve(grant.key, lease, answers - lease.left, at)
            self._windows.pass_through(grant.key, grant.organisation, answers)
            lease.left -= answers
            lease.given += answers

    def give_back(self, grant: Grant, answers: int) -> None:
        """Windows count them all the same: a request that is no good is a request. Raises
        ParameterError for more than this process took."""
        with self._store.lock:
            self._check_open()
            lease = self._leases.get(grant.key)
            if lease is None or not 0 <= answers <= lease.given:
                raise ParameterError(f"{answers} answers were not taken for {grant.key}")
            lease.left += answers
            lease.given -= answers
            found = self._find(grant.key, self._at)
            if found is None or found.grant != grant:  # it may be allowed less than when it took
                self._return([grant.key])

    def left(self, grant: Grant) -> int:
        with self._store.lock:
            with self._store.reading() as db:
                of_key, of_all = room(db, grant.key, self._at)
            for name, lease in self._leases.items():  # reserved here is not gone
                of_key += lease.left * (name == grant.key)
                of_all += lease.left * (lease.organisation == grant.organisation)
            return max(0, min(of_key, of_all))

    def suspect(self, grant: Grant, suspicion: Suspicion, at: float) -> State:
        """Risk is kept in steps, and only ever raised here: what was seen is not unseen because
        other things were asked since. A person's word takes it back."""
        with self._store.lock:
            self._check_open()
            found = self._find(grant.key, at)
        if found is None:
            raise ParameterError(f"no key {grant.key}")
        now, risk = found.grant, stepped(suspicion.risk)
        is_news = risk > now.risk + RISK_STEP / 2
        degrades = suspicion.is_flagged and now.state is State.OK
        if at < found.excused or not (is_news or degrades):
            return now.state
        return self._note(grant.key, suspicion, risk, at)

    def close(self) -> None:
        with self._store.lock:
            if self._is_open:
                self._return(self._leases)
                self._is_open = False

    def _check_open(self) -> None:
        if not self._is_open:
            raise ParameterError("these records were closed")

    def _find(self, name: str, at: float) -> Known | None:
        found = self._known.get(name)
        if found is None:
            with self._store.reading() as db:
                found = known(db, name, at)
            if found is not None:
                self._known[name] = found
        return found

    def _refresh(self) -> None:
        """Forget what is not so any more, and return what is reserved for it: less may be allowed
        now than was then."""
        if not self._store.is_moved(self._within):
            return
        with self._store.reading() as db:
            changes = self._store.changes()
            rows = db.execute("SELECT name FROM keys WHERE changed > ?", (self._changes,))
            names = [name for (name,) in rows] if changes != self._changes else []
        self._changes = changes
        for name in names:
            self._known.pop(name, None)
        self._return(names)

    def _reserve(self, name: str, lease: _Lease, need: int, at: float) -> None:
        try:
            self._write_down(name, lease, need, at)
        except Denial:
            others = [
                each
                for each, other in self._leases.items()
                if each != name and other.left and other.organisation == lease.organisation
            ]
            if not others:
                raise
            self._return(others)
            self._write_down(name, lease, need, at)

    def _write_down(self, name: str, lease: _Lease, need: int, at: float) -> None:
        """Write a block of at least `need` answers down as spent, by key and organisation."""
        with self._store.writing() as db:
            of_key, of_all = room(db, name, at)
            left = min(of_key, of_all)
            if left < need:
                whose = "key" if of_key <= of_all else "organisation"
                raise Denial("budget", 429, f"the {whose}'s budget does not have as many answers")
            block = max(need, ahead(left))
            _spend(db, name, lease.organisation, block)
        lease.left += block

    def _return(self, names: Iterable[str]) -> None:
        leases = [(name, self._leases[name]) for name in names if name in self._leases]
        back = [(name, lease.organisation, lease.left) for name, lease in leases if lease.left]
        if not back:
            return
        # First here, then in the file: what fails in between is lost, and not there twice.
        for _, lease in leases:
            lease.left = 0
        with self._store.writing() as db:
            for name, organisation, left in back:
                _spend(db, name, organisation, -left)

    def _note(self, name: str, suspicion: Suspicion, risk: float, at: float) -> State:
        """Keep a risk, and degrade a key that is flagged, as it is now: others act on it, too.
        Not inside the lock, since whoever hears of it may want another one."""
        with self._store.writing() as db:
            was = State(one(db, "SELECT state FROM keys WHERE name = ?", name)[0])
            now = State.DEGRADED if suspicion.is_flagged and was is State.OK else was
            db.execute(
                "UPDATE keys SET risk = max(risk, ?), state = ?, changed = ? WHERE name = ?",
                (risk, now, self._store.change(), name),
            )
            if now is not was:
                self._store.say(Judged(name, was, now, "gate", _evidence(suspicion)), at)
        with self._store.lock:
            self._refresh()
        return now


def _spend(db: Connection, name: str, organisation: str, answers: int) -> None:
    db.execute("UPDATE keys SET spent = spent + ? WHERE name = ?", (answers, name))
    db.execute("UPDATE organisations SET spent = spent + ? WHERE name = ?", (answers, organisation))


def _evidence(suspicion: Suspicion) -> str:
    figures = (f"{name} {figure:.4g}" for name, figure in sorted(suspicion.figures.items()))
    return ", ".join((f"risk {suspicion.risk:.2f}", *figures))
