"""The chain: one way, nothing told that is not logged, nothing charged that is not told."""

import asyncio
import hashlib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tacit.crypto.errors import Damaged
from tacit.server.gate import chain as chains
from tacit.server.gate import journal as journals
from tacit.server.gate.base import Denial, Role, State
from tacit.server.gate.chain import Answer, Question
from tacit.server.gate.reveal import Detail, Reveal
from tacit.server.gate.validate import Form
from tacit.server.kinds import Answered, Denied
from tests.server.gate.fakes import SECRET, Gate, Toy, entries_of, grant, rows


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def question(x: np.ndarray, secret: str = SECRET, **changes: Any) -> Question:
    async def content() -> bytes:
        return x.tobytes()

    given = {"detail": None, "form": Form.BINARY, "content": content} | changes
    return Question(secret, "127.0.0.1", **given)


def ask(gate: Gate, *questions: Question) -> list[Answer | BaseException]:
    async def run() -> list[Any]:
        answers = (gate.chain.answer(each) for each in questions)
        return await asyncio.gather(*answers, return_exceptions=True)

    return asyncio.run(run())


def closed(gate: Gate) -> None:
    asyncio.run(gate.chain.close())


def denied(coroutine: Coroutine[Any, Any, Any]) -> Denial:
    with pytest.raises(Denial) as found:
        asyncio.run(coroutine)
    return found.value


def test_an_answer_is_told_counted_watched_and_logged(gate: Gate) -> None:
    gate.watch.risk = 0.25
    x = rows(1, 3, 2)
    (answer,) = ask(gate, question(x))
    assert answer.shown.labels.tolist() == [1, 3, 2]
    assert (answer.detail, answer.shown.scores, answer.shown.bands) == (Detail.LABEL, None, None)
    assert gate.records.spent == 3
    assert gate.watch.saw_of == {"k1": 3}
    assert [each.risk for each in gate.records.suspected] == [0.25]
    over = hashlib.sha256(b"".join(hashlib.sha256(row.tobytes()).digest() for row in x))
    assert gate.entries() == [Answered("k1", 3, over.hexdigest())]


def test_those_who_wait_share_calls_and_entries_and_get_their_own(gate: Gate) -> None:
    gate.records.grants |= {f"s{i}": grant(key=f"k{i}") for i in range(2, 5)}
    secrets = [SECRET, "s2", "s3", "s4"]
    asked = [question(rows(i % 4, (i + 1) % 4), secrets[i % 4]) for i in range(40)]
    told = ask(gate, *asked)
    assert [each.shown.labels.tolist() for each in told] == [
        [i % 4, (i + 1) % 4] for i in range(40)
    ]
    assert gate.logged() == sum(gate.model.calls) == sum(gate.watch.saw_of.values()) == 80
    assert len(gate.model.calls) < 20
    assert len(gate.entries()) < 40


def test_no_call_of_the_model_is_larger_than_its_bound(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chains, "MOST_INPUTS", 3)
    told = ask(gate, *[question(rows(*[i % 4] * 8)) for i in range(4)])
    assert [each.shown.labels.tolist() for each in told] == [[i] * 8 for i in range(4)]
    assert max(gate.model.calls) == 3


def test_no_answer_leaves_before_its_entry_is_durable(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever an answer is there, the file has it."""
    seen = []

    async def one(i: int) -> None:
        await gate.chain.answer(question(rows(i % 4)))
        seen.append(gate.logged())

    async def run() -> None:
        await asyncio.gather(*(one(i) for i in range(20)))

    asyncio.run(run())
    assert all(logged >= told for told, logged in enumerate(seen, 1))


@pytest.mark.parametrize(
    ("changes", "stage", "status"),
    [
        ({"secret": "wrong"}, "key", 401),
        ({"detail": "full"}, "scope", 403),
        ({"detail": "everything"}, "scope", 403),
        ({"form": "text/plain"}, "validate", 415),
        ({"x": rows(1)[..., :2]}, "validate", 422),
        ({"x": rows(*[1] * 9)}, "validate", 422),
    ],
)
def test_what_is_denied_costs_nothing(gate: Gate, changes: dict, stage: str, status: int) -> None:
    denial = denied(gate.chain.answer(question(changes.pop("x", rows(1)), **changes)))
    assert (denial.stage, denial.status) == (stage, status)
    assert gate.records.spent == 0
    assert gate.model.calls == []
    closed(gate)
    key = "" if stage == "key" else "k1"
    assert gate.entries() == [Denied(key, stage, 1)]


def test_nothing_of_a_body_is_read_for_strangers_and_the_penniless(gate: Gate) -> None:
    async def content() -> bytes:
        raise AssertionError("read")

    assert denied(gate.chain.answer(question(rows(1), "wrong", content=content))).status == 401
    gate.records.spent = 100
    assert denied(gate.chain.answer(question(rows(1), content=content))).status == 429
    gate.records.grants[SECRET] = grant(role=Role.VIEWER)
    assert denied(gate.chain.answer(question(rows(1), content=content))).status == 403


def test_a_budget_that_does_not_reach_is_not_touched(gate: Gate) -> None:
    gate.records.spent = 98
    assert denied(gate.chain.answer(question(rows(1, 2, 3)))).stage == "budget"
    assert gate.records.spent == 98
    (answer,) = ask(gate, question(rows(1, 2)))
    assert answer.shown.labels.tolist() == [1, 2]
    assert gate.records.spent == 100


def test_what_fails_is_not_charged(gate: Gate) -> None:
    gate.model.broken = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        asyncio.run(gate.chain.answer(question(rows(1))))
    assert gate.records.spent == 0
    gate.model.broken = None
    assert ask(gate, question(rows(1)))[0].shown.labels.tolist() == [1]


def test_a_request_that_is_broken_off_is_charged(gate: Gate) -> None:
    """Its answer may be made: else a thief would hang up just before he is charged."""

    async def run() -> None:
        asked = asyncio.create_task(gate.chain.answer(question(rows(1))))
        await asyncio.sleep(0.001)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await gate.chain.close()

    asyncio.run(run())
    assert gate.records.spent == 1


def test_a_full_disk_ends_all_answers(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(gate, question(rows(1)))
    full = OSError(28, "No space left on device")

    def fails(*_: object) -> None:
        raise full

    monkeypatch.setattr(gate.journal._log, "_write", fails)
    assert denied(gate.chain.answer(question(rows(1)))).stage == "log"
    assert gate.records.spent == 1
    monkeypatch.undo()  # there is room again, and it is unknown what the file has
    for secret in (SECRET, "wrong"):
        denial = denied(gate.chain.answer(question(rows(1), secret)))
        assert (denial.stage, denial.status) == ("log", 503)
    assert not gate.chain.is_sound
    assert gate.logged() == 1
    closed(gate)


@pytest.mark.parametrize("broken", [OSError(28, "full"), Damaged("the store")])
def test_records_that_fail_end_all_answers(gate: Gate, broken: Exception) -> None:
    gate.records.broken = broken
    denial = denied(gate.chain.answer(question(rows(1))))
    assert (denial.stage, denial.status) == ("records", 503)
    assert gate.model.calls == []


def test_a_watch_that_fails_lets_nothing_through(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(gate.watch, "saw", fails)
    with pytest.raises(RuntimeError, match="a bug"):
        asyncio.run(gate.chain.answer(question(rows(1))))
    assert gate.records.spent == 0
    assert gate.logged() == 0


def test_one_key_cannot_take_all_the_room(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "MOST_AT_ONCE", 4)
    told = ask(gate, *[question(rows(1)) for _ in range(10)])
    refused = [each for each in told if isinstance(each, Denial)]
    assert len(refused) == 6
    assert {(each.stage, each.status, each.retry_after) for each in refused} == {("budget", 429, 1)}
    assert ask(gate, question(rows(1)))[0].shown.labels.tolist() == [1]
    assert gate.records.spent == 5


@pytest.mark.parametrize(
    ("granted", "state", "reveal", "strict", "may"),
    [
        ({"label"}, State.OK, "label", False, ["label"]),
        ({"label", "rounded"}, State.OK, "label", False, ["label", "rounded"]),
        (set(), State.OK, "top1", False, ["label", "top1"]),
        ({"full"}, State.OK, "top1", False, ["label", "top1", "full"]),
        ({"full"}, State.DEGRADED, "top1", False, ["label"]),
        ({"full"}, State.OK, "label", True, ["label"]),
    ],
)
def test_how_much_a_key_is_told(
    tmp_path: Path, granted: set, state: State, reveal: str, strict: bool, may: list
) -> None:
    gate = Gate(tmp_path, reveal=Reveal(Detail(reveal)), is_strict=strict)
    gate.records.grants[SECRET] = grant(details=frozenset(map(Detail, granted)), state=state)
    told = ask(gate, *[question(rows(1), detail=each) for each in [None, *Detail]])
    details = [each.status if isinstance(each, Denial) else each.detail for each in told]
    assert details[0] == (reveal if reveal in may else "label")
    assert details[1:] == [each if each in may else 403 for each in Detail]
    for answer in told:
        if isinstance(answer, Answer):
            assert (answer.shown.bands is not None) == (answer.detail == "top1")
            assert (answer.shown.scores is not None) == (answer.detail in ("rounded", "full"))


def test_strangers_do_not_fill_the_log(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(200):
        denied(gate.chain.answer(question(rows(1), "wrong")))
    ask(gate, question(rows(1)))  # nor with the entries of others
    gate.chain.note()
    assert [type(each) for each in gate.entries()] == [Answered]
    monkeypatch.setattr(journals, "OTHERS_EVERY", 0.0)
    gate.chain.note()
    gate.chain.note()
    assert gate.entries()[1:] == [Denied("", "key", 200)]
    closed(gate)
    assert len(gate.entries()) == 2


def test_closing_answers_what_was_asked_and_lets_others_append(gate: Gate, tmp_path: Path) -> None:
    async def run() -> list[Answer]:
        asked = [asyncio.create_task(gate.chain.answer(question(rows(1)))) for _ in range(5)]
        await asyncio.sleep(0)
        await gate.chain.close()
        return await asyncio.gather(*asked)

    assert len(asyncio.run(run())) == 5
    assert gate.logged() == 5
    assert denied(gate.chain.answer(question(rows(1)))).status == 503
    assert len(entries_of(tmp_path / "audit.log")) >= 1


def test_no_secret_is_in_what_is_shown_of_a_question() -> None:
    assert SECRET not in repr(question(rows(1)))


def test_the_toy_model_is_what_these_tests_think() -> None:
    assert Toy().scored(rows(0, 3)).probabilities.argmax(1).tolist() == [0, 3]


def test_who_lost_his_key_while_he_sent_is_not_answered(gate: Gate) -> None:
    """A body may take ten seconds, and 64 be under way: none of them outlives a revocation."""

    async def content() -> bytes:
        del gate.records.grants[SECRET]
        return rows(1).tobytes()

    bad = denied(gate.chain.answer(question(rows(1), content=content)))
    assert (bad.stage, bad.status, gate.records.spent) == ("key", 401, 0)
    assert gate.model.calls == []


def test_who_was_degraded_while_he_sent_is_told_labels_alone(gate: Gate) -> None:
    full = grant(details=frozenset({Detail.LABEL, Detail.FULL}))
    gate.records.grants[SECRET] = full

    async def content() -> bytes:
        gate.records.grants[SECRET] = grant(details=full.details, state=State.DEGRADED)
        return rows(1).tobytes()

    bad = denied(gate.chain.answer(question(rows(1), content=content, detail="full")))
    assert (bad.stage, bad.status, gate.records.spent) == ("scope", 403, 0)
