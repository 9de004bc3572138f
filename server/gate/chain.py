"""The one way from a request to an answer.

    key -> scope -> budget -> validate -> model -> reveal -> watch -> respond -> log

Each stage is a line: of `answer`, which has one request, or from the model on of `_answer_all`,
which has all that wait at the same time, and does once what would be dear for each: a call of the
model, a look at a key, an `fsync`. No answer leaves before its entry in the log is durable. Where
the log or the records of keys cannot be kept, nothing is answered.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from tacit.crypto.errors import Damaged
from tacit.server.gate import validate
from tacit.server.gate.base import Denial, Grant, Records, State, Watch
from tacit.server.gate.batches import Batches
from tacit.server.gate.card import Card
from tacit.server.gate.journal import CANNOT, Journal
from tacit.server.gate.metrics import Metrics
from tacit.server.gate.model import Floats32, Model, Scored
from tacit.server.gate.reveal import Detail, Reveal, Shown
from tacit.server.gate.roles import Act, check, may
from tacit.server.kinds import Answered

MOST_INPUTS = 256  # to a call of the model
MOST_TOGETHER = 64  # requests that are answered at once
MOST_WAITING = 512  # requests: those that come then are told to come back
MOST_AT_ONCE = 64  # of one key


@dataclass(frozen=True, slots=True)
class Question:
    """A request for answers as it came: nothing of it is looked at before the key is, and `content`
    reads its body once somebody is to answer it. `form` is its media type."""

    secret: str = field(repr=False)
    address: str
    detail: str | None
    form: str
    content: Callable[[], Awaitable[bytes]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is told, and how much that is."""

    shown: Shown
    detail: Detail


@dataclass(frozen=True, slots=True)
class _Asked:
    """Inputs that are to be answered, and how."""

    grant: Grant
    reveal: Reveal
    x: Floats32


class Chain:
    """The gate of one model. `reveal` is what is told to who does not ask for more; `is_strict`
    tells nobody more, whatever was granted."""

    def __init__(
        self, card: Card, model: Model, records: Records, watch: Watch, journal: Journal,
        metrics: Metrics, *, reveal: Reveal, is_strict: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self.card, self.reveal, self.metrics = card, reveal, metrics
        self._model, self._records, self._watch = model, records, watch
        self._journal, self._clock = journal, clock
        self._is_strict = is_strict
        self._running: Counter[str] = Counter()
        self._answering = Batches("model", self._answer_all, MOST_TOGETHER, MOST_WAITING)

    @property
    def is_sound(self) -> bool:
        """Whether anything can be answered."""
        return self._journal.is_sound

    async def answer(self, question: Question) -> Answer:
        """Raises Denial, and then nothing is told and nothing is charged."""
        began, at = time.perf_counter(), self._clock()
        with self._denials() as known:
            grant = self._records.grant_of(question.secret, question.address, at)  # key
            known.append(grant.key)
            reveal = self._scope(grant, question.detail)  # scope
            with self._budget(grant, at) as take:  # budget: an answer, before anything is read
                x = await self._validate(question)  # validate
                # Again: a body may take seconds, and the key be revoked or degraded meanwhile.
                grant = self._records.grant_of(question.secret, question.address, self._clock())
                reveal = self._scope(grant, question.detail)
                take(len(x) - 1)
                shown = await self._answering.do(_Asked(grant, reveal, x))  # model, ..., log
        self.metrics.answered(len(x), time.perf_counter() - began)
        return Answer(shown, reveal.detail)

    def admit(self, secret: str, address: str, act: Act) -> Grant:
        """Whoever wants something else than answers. Raises Denial."""
        with self.admitted(secret, address, act) as grant:
            return grant

    @contextmanager
    def admitted(self, secret: str, address: str, *acts: Act) -> Iterator[Grant]:
        """Who may do one of these `acts`, while he does it: what is denied to him inside is counted
        and logged like any other denial."""
        with self._denials() as known:
            grant = self._records.grant_of(secret, address, self._clock())
            known.append(grant.key)
            if not any(may(grant.role, act) for act in acts):
                raise Denial("scope", 403, f"a key of role {grant.role} may not {acts[0]}")
            yield grant

    def revealed_to(self, grant: Grant) -> list[Detail]:
        """What this key may ask for, least first."""
        if self._is_strict or grant.state is not State.OK:
            return [Detail.LABEL]
        may = {Detail.LABEL, self.reveal.detail, *grant.details}
        return [each for each in Detail if each in may]

    def note(self) -> None:
        """To be called every few seconds: what is counted meanwhile goes to the log."""
        self._journal.keep([])

    async def close(self) -> None:
        """Answer what was asked, and close the log."""
        await self._answering.close()
        self._journal.close()

    def _scope(self, grant: Grant, asked: str | None) -> Reveal:
        check(grant.role, Act.ASK)
        may = self.revealed_to(grant)
        detail = asked or (self.reveal.detail if self.reveal.detail in may else Detail.LABEL)
        if detail not in may:
            raise Denial("scope", 403, f"this key may be told: {', '.join(may)}")
        return Reveal(Detail(detail), self.reveal.digits)

    async def _validate(self, question: Question) -> Floats32:
        form = validate.form_of(question.form)
        return validate.inputs(await question.content(), form, self.card)

    @contextmanager
    def _budget(self, grant: Grant, at: float) -> Iterator[Callable[[int], None]]:
        """Takes one answer, and more inside; all of them are given back where none is told."""
        if self._running[grant.key] >= MOST_AT_ONCE:
            raise Denial("budget", 429, "too many requests of this key at once", 1.0)
        taken = 0

        def take(answers: int) -> None:
            nonlocal taken
            if answers:
                self._records.take(grant, answers, at)
                taken += answers

        self._running[grant.key] += 1
        try:
            take(1)
            yield take
        except Exception:  # but not a request that was broken off: its answer may be made by now
            if taken:
                self._records.give_back(grant, taken)
            raise
        finally:
            self._running[grant.key] -= 1
            if not self._running[grant.key]:
                del self._running[grant.key]

    @contextmanager
    def _denials(self) -> Iterator[list[str]]:
        """Counts what is denied inside, for the key that is in the list by then."""
        known: list[str] = []
        try:
            if not self.is_sound:
                raise Denial("log", 503, CANNOT)
            yield known
        except Denial as denial:
            self._denied(known, denial)
            raise
        except (OSError, Damaged) as broken:
            failed = Denial("records", 503, "the gate cannot keep its records: it answers nothing")
            self._denied(known, failed)
            raise failed from broken

    def _denied(self, known: list[str], denial: Denial) -> None:
        self._journal.denied(known[0] if known else "", denial.stage)
        self.metrics.denied(denial.stage, denial.status)

    def _answer_all(self, asked: list[_Asked]) -> list[Shown]:
        """What is told to each, and by then it is logged. In a thread of its own."""
        at = self._clock()
        scored = self._scored([each.x for each in asked])  # model
        shown = [
            each.reveal.shown(of.probabilities) for each, of in zip(asked, scored, strict=True)
        ]
        entries = []
        for key, mine in _by_key(asked).items():
            grant, x = asked[mine[-1]].grant, _joined([asked[i].x for i in mine])
            suspicion = self._watch.saw(grant, x, _together([scored[i] for i in mine]), at)  # watch
            self._records.suspect(grant, suspicion, at)  # respond
            self.metrics.suspected(suspicion.risk)
            entries.append(Answered(key, len(x), _digest(x)))
        self._journal.keep(entries)  # log
        return shown

    def _scored(self, asked: list[Floats32]) -> list[Scored]:
        """In as few calls of the model as can be."""
        x = _joined(asked)
        starts = range(0, len(x), MOST_INPUTS)
        scored = _together([self._model.scored(x[at : at + MOST_INPUTS]) for at in starts])
        parts, at = [], 0
        for each in asked:
            rows = slice(at, at := at + len(each))
            parts.append(Scored(scored.probabilities[rows], scored.features[rows]))
        return parts


def _by_key(asked: list[_Asked]) -> dict[str, list[int]]:
    """Where each key's requests are."""
    found: dict[str, list[int]] = {}
    for i, each in enumerate(asked):
        found.setdefault(each.grant.key, []).append(i)
    return found


def _joined(parts: list[Floats32]) -> Floats32:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _together(parts: list[Scored]) -> Scored:
    return Scored(
        _joined([part.probabilities for part in parts]), _joined([part.features for part in parts])
    )


def _digest(x: Floats32) -> str:
    """SHA-256 over the SHA-256 of each input, as float32, little-endian: whoever has kept an input
    can show that it was asked, and nobody finds it from this but by guessing all of it."""
    rows = np.ascontiguousarray(x, "<f4").reshape(len(x), -1)
    over = hashlib.sha256()
    for row in rows:
        over.update(hashlib.sha256(row.tobytes()).digest())
    return over.hexdigest()
