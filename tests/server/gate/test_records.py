"""Who may ask, what is taken, what is held against him: the same for every process, and at once."""

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from tacit.crypto.errors import Damaged, ParameterError
from tacit.server.gate import desk
from tacit.server.gate.allowance import DEFAULT_BUDGET
from tacit.server.gate.base import Denial, Role, State, Suspicion
from tacit.server.gate.desk import Wanted
from tacit.server.gate.keys import DRAW_BYTES, Key
from tacit.server.gate.networks import RuleFile
from tacit.server.gate.records import StoredRecords
from tacit.server.gate.reveal import Detail
from tacit.server.gate.store import Store
from tacit.server.gate.windows import Windows
from tacit.server.kinds import Judged
from tests.server.gate.gates import AT, HERE, LIFE, World, opened, records

FLAGGED = Suspicion(0.62, True, {"ood": 1.25, "duplicates": 0.5})


def refusal(call, *given) -> Denial:
    with pytest.raises(Denial) as refused:
        call(*given)
    return refused.value


def drain(found: StoredRecords, key: Key, at: float = AT) -> int:
    """Answers that are given one by one until none is."""
    for count in range(10_000):
        try:
            found.take(found.grant_of(key.text, HERE, at), 1, at)
        except Denial:
            return count
    raise AssertionError("no end")


def test_a_grant_says_what_was_issued(gate: World) -> None:
    named = frozenset({Detail.LABEL, Detail.TOP1})
    key = gate.issue(details=named, networks=("10.0.0.0/8",))
    grant = records(gate.store).grant_of(key.text, HERE, AT)
    assert (grant.key, grant.organisation, grant.role) == (key.name, "clinic", Role.CLIENT)
    assert (grant.details, grant.networks) == (named, ("10.0.0.0/8",))
    assert (grant.budget, grant.trust, grant.risk) == (DEFAULT_BUDGET, 1, 0.0)
    assert (grant.state, grant.issued, grant.expires) == (State.OK, AT, AT + LIFE)


def test_wrong_unknown_and_no_keys_are_refused_alike(gate: World) -> None:
    found, key = records(gate.store), gate.issue()
    revoked = gate.issue()
    desk.revoke(gate.store, gate.by[Role.OPERATOR], revoked.name, AT)
    unknown = Key(os.urandom(8).hex(), key.secret)
    wrong = Key(key.name, os.urandom(32))
    near = Key(key.name, key.secret[:-1] + bytes([key.secret[-1] ^ 1]))
    texts = ["", "x", key.text[:-1], unknown.text, wrong.text, near.text, revoked.text]
    said = set()
    for text in texts:
        bad = refusal(found.grant_of, text, HERE, AT)
        said.add((bad.stage, bad.status, bad.reason, bad.retry_after, str(bad)))
        assert key.name not in str(bad)
    assert said == {("key", 401, "no valid key", None, "key: no valid key")}


def test_the_secret_is_kept_nowhere(gate: World) -> None:
    found, key = records(gate.store), gate.issue()
    found.take(found.grant_of(key.text, HERE, AT), 1, AT)
    kept = b"".join(path.read_bytes() for path in gate.path.parent.iterdir())
    assert key.name.encode() in kept
    assert key.digest in kept
    for secret in (key.secret, key.secret.hex().encode()):
        assert secret not in kept


def test_a_key_ends_at_the_second(gate: World) -> None:
    found, key = records(gate.store), gate.issue(expires=AT + 60)
    found.grant_of(key.text, HERE, AT + 59.999)
    for late in (AT + 60, AT + 60.001, AT + 1e9):
        refused = refusal(found.grant_of, key.text, HERE, late)
        assert (refused.status, refused.reason) == (401, "the key has expired")
        wrong = Key(key.name, bytes(32)).text  # who has not the secret is not told that much
        assert refusal(found.grant_of, wrong, HERE, late).reason == "no valid key"


def test_rotation(gate: World) -> None:
    found, old = records(gate.store), gate.issue()
    grant = found.grant_of(old.text, HERE, AT)
    found.take(grant, 30, AT)
    new = desk.rotate(gate.store, grant, old.name, 60.0, os.urandom(DRAW_BYTES), AT)
    assert new.name == old.name
    for key in (old, new):  # both count on one budget
        found.take(found.grant_of(key.text, HERE, AT + 59.9), 30, AT + 59.9)
    found.grant_of(new.text, HERE, AT + 60)
    assert refusal(found.grant_of, old.text, HERE, AT + 60).reason == "no valid key"
    assert drain(found, new, AT + 60) == DEFAULT_BUDGET - 90
    at_once = desk.rotate(gate.store, grant, old.name, 0.0, os.urandom(DRAW_BYTES), AT + 61)
    assert refusal(found.grant_of, new.text, HERE, AT + 61).status == 401
    found.grant_of(at_once.text, HERE, AT + 61)
    assert refusal(found.grant_of, at_once.text, HERE, AT + LIFE).status == 401  # not renewed


def test_rotation_never_lengthens_the_life_of_a_secret(gate: World) -> None:
    old = gate.issue(expires=AT + 100)
    by, rand = gate.grant(old), os.urandom(DRAW_BYTES)
    desk.rotate(gate.store, by, old.name, 10.0, rand, AT)
    desk.rotate(gate.store, by, old.name, 90.0, os.urandom(DRAW_BYTES), AT + 5)
    assert refusal(records(gate.store).grant_of, old.text, HERE, AT + 10).status == 401


def test_networks(gate: World, tmp_path: Path) -> None:
    key, free = gate.issue(networks=("10.0.0.0/8", "fd00::/8")), gate.issue()
    found = records(gate.store)
    for inside in (HERE, "::ffff:10.1.1.1", "fd00::1"):
        found.grant_of(key.text, inside, AT)
    for outside in ("11.0.0.1", "::1", "", "testclient"):
        assert refusal(found.grant_of, key.text, outside, AT).status == 403
        found.grant_of(free.text, outside, AT)
    (tmp_path / "networks").write_text("deny 10.0.0.0/24")
    ruled = records(gate.store, rules=RuleFile(tmp_path / "networks"))
    assert refusal(ruled.grant_of, key.text, HERE, AT).status == 403
    assert refusal(ruled.grant_of, "x", HERE, AT).status == 403  # nothing is said of the key
    assert ruled.grant_of(key.text, "10.1.0.1", AT).state is State.OK  # and nobody is judged


def test_budgets_of_key_and_organisation(gate: World) -> None:
    found, one, two = records(gate.store), gate.issue(), gate.issue()
    assert drain(found, one) == DEFAULT_BUDGET
    assert drain(found, two) == 0  # a second key is not a second budget
    assert drain(found, gate.issue("other")) == DEFAULT_BUDGET
    refused = refusal(found.take, gate.grant(one), 1, AT)
    assert (refused.stage, refused.status, refused.retry_after) == ("budget", 429, None)


def test_what_one_key_reserves_another_one_of_the_house_can_have(gate: World) -> None:
    """Within a process nobody is refused what nobody was given."""
    found, one, two = records(gate.store), gate.issue(), gate.issue()
    found.take(gate.grant(one), 1, AT)
    assert drain(found, two) == DEFAULT_BUDGET - 1


def test_a_refusal_takes_nothing(gate: World) -> None:
    found, key = records(gate.store), gate.issue()
    grant = gate.grant(key)
    refusal(found.take, grant, DEFAULT_BUDGET + 1, AT)
    narrow = StoredRecords(gate.store, Windows("5/hour", "5/hour"))
    refusal(narrow.take, grant, 6, AT)
    narrow.close()
    assert found.left(grant) == DEFAULT_BUDGET
    assert drain(found, key) == DEFAULT_BUDGET


@pytest.mark.parametrize("answers", [0, -1, -100])
def test_nothing_and_less_is_not_taken(gate: World, answers: int) -> None:
    with pytest.raises(ParameterError):
        records(gate.store).take(gate.by[Role.CLIENT], answers, AT)


def test_no_more_is_given_back_than_was_taken(gate: World) -> None:
    found, grant = records(gate.store), gate.by[Role.CLIENT]
    with pytest.raises(ParameterError, match="not taken"):
        found.give_back(grant, 1)
    found.take(grant, 10, AT)
    found.give_back(grant, 4)
    for wrong in (7, -1):
        with pytest.raises(ParameterError, match="not taken"):
            found.give_back(grant, wrong)
    found.give_back(grant, 6)
    assert found.left(grant) == DEFAULT_BUDGET


def test_a_clean_end_gives_back_what_was_reserved(gate: World) -> None:
    found, grant = records(gate.store), gate.by[Role.CLIENT]
    found.take(grant, 3, AT)
    spent = "SELECT spent FROM keys WHERE name = ?"
    with gate.store.reading() as db:
        assert db.execute(spent, (grant.key,)).fetchone()[0] > 3  # written ahead
    found.close()
    with gate.store.reading() as db:
        assert db.execute(spent, (grant.key,)).fetchone() == (3,)
    with pytest.raises(ParameterError, match="closed"):
        found.take(grant, 1, AT)
    found.close()


def test_the_watch_degrades_and_never_suspends(gate: World) -> None:
    found, key = records(gate.store), gate.issue()
    grant = found.grant_of(key.text, HERE, AT)
    assert found.suspect(grant, Suspicion(0.04, False), AT) is State.OK
    assert found.suspect(grant, FLAGGED, AT) is State.DEGRADED
    now = found.grant_of(key.text, HERE, AT)
    assert (now.state, round(now.risk, 6)) == (State.DEGRADED, 0.6)
    for _ in range(3):
        assert found.suspect(now, Suspicion(1.0, True), AT) is State.DEGRADED
    evidence = "risk 0.62, duplicates 0.5, ood 1.25"
    assert gate.said[-1] == Judged(key.name, "ok", "degraded", "gate", evidence)
    assert sum(isinstance(entry, Judged) for entry in gate.said) == 1
    assert drain(found, key) == 0  # of risk 1 by now


def test_degraded_is_half(gate: World) -> None:
    found, key = records(gate.store), gate.issue()
    found.suspect(found.grant_of(key.text, HERE, AT), Suspicion(0.0, True), AT)
    assert drain(found, key) == DEFAULT_BUDGET // 2


def test_what_was_reserved_before_does_not_outlive_it(gate: World) -> None:
    found, key = records(gate.store), gate.issue()
    gate.budget(key.name, 1000)
    for _ in range(499):
        found.take(found.grant_of(key.text, HERE, AT), 1, AT)
    found.suspect(found.grant_of(key.text, HERE, AT), Suspicion(0.0, True), AT)
    assert drain(found, key) == 1


def test_risk_is_only_raised_and_not_for_every_query(gate: World) -> None:
    found, key = records(gate.store), gate.issue()
    grant = found.grant_of(key.text, HERE, AT)
    for risk in (0.3, 0.1, 0.31, 0.32, 0.34):
        found.suspect(grant, Suspicion(risk, False), AT)
    assert round(found.grant_of(key.text, HERE, AT).risk, 6) == 0.3
    found.suspect(grant, Suspicion(0.1, True), AT)
    assert round(found.grant_of(key.text, HERE, AT).risk, 6) == 0.3
    with gate.store.reading():
        before = gate.store.changes()
    for step in range(10_000):
        found.suspect(grant, Suspicion(step / 10_000, False), AT)
    with gate.store.reading():
        assert gate.store.changes() - before <= 20


def test_a_person_suspends_restores_and_excuses(gate: World) -> None:
    found, key, by = records(gate.store), gate.issue(), gate.by[Role.OPERATOR]
    grant = found.grant_of(key.text, HERE, AT)
    found.suspect(grant, FLAGGED, AT)
    desk.suspend(gate.store, by, key.name, "looked at it", AT)
    assert refusal(found.grant_of, key.text, HERE, AT).status == 403
    assert found.suspect(grant, FLAGGED, AT) is State.SUSPENDED
    desk.restore(gate.store, by, key.name, "a camera that is a pixel off", AT, 60.0)
    now = found.grant_of(key.text, HERE, AT)
    assert (now.state, now.risk) == (State.OK, 0.0)
    assert found.suspect(now, FLAGGED, AT + 59) is State.OK
    assert found.suspect(now, FLAGGED, AT + 60) is State.DEGRADED
    states = [(e.was, e.now, e.by) for e in gate.said if isinstance(e, Judged)]
    assert states == [
        ("ok", "degraded", "gate"),
        ("degraded", "suspended", by.key),
        ("suspended", "ok", by.key),
        ("ok", "degraded", "gate"),
    ]


def test_trust_grows(gate: World) -> None:
    found, key = records(gate.store), gate.issue()
    month = 30 * 86400.0
    assert drain(found, key, AT) == 100
    assert drain(found, key, AT + month - 1) == 0
    assert drain(found, key, AT + month) == 100
    assert drain(found, key, AT + 12 * month) == 200  # one with each base that is used: four in all
    assert drain(found, key, AT + 13 * month) == 0


def test_other_processes_know_at_once(gate: World) -> None:
    other = opened(gate.path)
    here, there = records(gate.store), records(other)
    key, by = gate.issue(), gate.by[Role.OPERATOR]
    there.grant_of(key.text, HERE, AT)
    here.suspect(here.grant_of(key.text, HERE, AT), FLAGGED, AT)
    assert there.grant_of(key.text, HERE, AT).state is State.DEGRADED
    desk.suspend(gate.store, by, key.name, "why", AT)
    assert refusal(there.grant_of, key.text, HERE, AT).status == 403
    desk.restore(gate.store, by, key.name, "why", AT)
    there.grant_of(key.text, HERE, AT)
    desk.revoke(gate.store, by, key.name, AT)
    assert refusal(there.grant_of, key.text, HERE, AT).status == 401
    other.close()


@pytest.mark.parametrize(
    "name", ["'; DROP TABLE keys; --", '" OR 1=1 --', "x', 1, 0, 0); --", "Robert'); --", "%", "🏥"]
)
def test_names_are_names(gate: World, name: str) -> None:
    found, key = records(gate.store), gate.issue(name)
    assert found.grant_of(key.text, HERE, AT).organisation == name
    assert drain(found, key) == DEFAULT_BUDGET
    assert drain(found, gate.issue("clinic")) == DEFAULT_BUDGET
    assert len(desk.standings(gate.store, gate.by[Role.VIEWER], AT)) == 8


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 101, " a", "a\x00"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ParameterError, match="name"):
        Wanted(name, Role.CLIENT, AT + LIFE)


def test_threads_share_a_budget(gate: World) -> None:
    found, key = records(gate.store), gate.issue()
    gate.budget(key.name, 2000)
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(drain(found, key))) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sum(counts) == 2000


def test_a_damaged_file_serves_nothing(gate: World) -> None:
    gate.store.close()
    whole = gate.path.read_bytes()
    for cut in (whole[:5000], b"no database" * 1000, b"", whole[:4096] + bytes(len(whole) - 4096)):
        gate.path.write_bytes(cut)
        with pytest.raises(Damaged, match=r"gate\.sqlite"):
            Store(gate.path)
    gate.path.write_bytes(whole)
    Store(gate.path).close()


def test_a_file_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "gate.sqlite"
    with pytest.raises(ParameterError, match="tacit gate init"):
        Store(path)
    assert not path.exists()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE t (a)")
    other.close()
    path.chmod(0o600)
    with pytest.raises(Damaged, match="no file of a gate"):
        Store(path)


def test_files_are_for_their_owner(gate: World) -> None:
    records(gate.store).take(gate.by[Role.CLIENT], 1, AT)
    for path in gate.path.parent.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    gate.path.chmod(0o640)
    with pytest.raises(ParameterError, match="chmod 600"):
        Store(gate.path)


def test_a_file_that_breaks_while_it_is_used(gate: World) -> None:
    found, key = records(gate.store), gate.issue()
    with gate.store.writing() as db:
        db.execute("DROP TABLE secrets")
    with pytest.raises((Damaged, Denial)):
        found.grant_of(key.text, HERE, AT)


def test_a_file_that_is_locked_for_long(gate: World) -> None:
    other = sqlite3.connect(gate.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    gate.store._open().execute("PRAGMA busy_timeout = 10")
    found = records(gate.store)
    refused = refusal(found.take, gate.by[Role.CLIENT], 1, AT)
    assert (refused.status, refused.retry_after) == (503, 1.0)
    other.execute("ROLLBACK")
    found.take(gate.by[Role.CLIENT], 1, AT)
    other.close()


def test_what_comes_back_to_a_key_that_was_degraded_meanwhile_is_weighed_anew(gate: World) -> None:
    """Else requests that are kept half sent are a hoard for when it is degraded."""
    found, key = records(gate.store), gate.issue()
    before = found.grant_of(key.text, HERE, AT)
    found.take(before, 50, AT)
    assert found.suspect(before, Suspicion(0.9, True), AT) is State.DEGRADED
    found.give_back(before, 50)
    assert drain(found, key) == 5  # 100 * (1 - 0.9) / 2


def test_what_others_did_counts_in_a_while_and_what_was_done_here_at_once(
    gate: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("tacit.server.gate.store.time.monotonic", lambda: now[0])
    found, key, mine = records(gate.store, within=0.05), gate.issue(), gate.issue()
    for each in (key, mine):
        found.grant_of(each.text, HERE, AT)
    other = opened(gate.path)
    desk.revoke(other, gate.by[Role.OPERATOR], key.name, AT)
    other.close()
    assert found.grant_of(key.text, HERE, AT).key == key.name
    now[0] += 0.0625
    with pytest.raises(Denial):
        found.grant_of(key.text, HERE, AT)
    desk.revoke(gate.store, gate.by[Role.OPERATOR], mine.name, AT)
    with pytest.raises(Denial):
        found.grant_of(mine.text, HERE, AT)
