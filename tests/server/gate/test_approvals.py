"""What takes two people is done by no fewer, once, in time, and said."""

import os

import pytest

from tacit.crypto.errors import ParameterError
from tacit.server.gate import approvals, desk
from tacit.server.gate.approvals import NEEDS, WITHIN, Deed, Request
from tacit.server.gate.base import Denial, Grant, Role
from tacit.server.gate.reveal import Detail
from tacit.server.gate.roles import TAKES_TWO, Act, may
from tacit.server.gate.totp import Codes
from tacit.server.kinds import Approved
from tests.server.gate.gates import AT, HERE, World, records
from tests.server.gate.test_totp import RAND_BYTES, Phone

DIGEST = "ab" * 32
PAIR = {Act.RAISE: Role.AUTHORITY, Act.RELEASE: Role.RELEASER, Act.EXPORT: Role.RELEASER}


class Two:
    """One who asks and one who approves, of each role that matters."""

    def __init__(self, gate: World) -> None:
        self.gate, self.codes = gate, Codes(gate.store, os.urandom(32))
        self.client = gate.issue()
        self.second = {role: gate.grant(gate.issue("house", role)) for role in PAIR.values()}
        self.phones = {
            grant.key: Phone(self.codes.enrol(grant, os.urandom(RAND_BYTES), AT))
            for grant in (*self.second.values(), *gate.by.values())
        }

    def subject(self, deed: Deed) -> tuple[str, int]:
        return {
            Deed.KEY_BUDGET: (self.client.name, 500),
            Deed.ORGANISATION_BUDGET: ("clinic", 700),
            Deed.FULL_SCORES: (self.client.name, 0),
            Deed.RELEASE: (DIGEST, 0),
            Deed.EXPORT: ("audit.key", 0),
        }[deed]

    def ask(self, deed: Deed, by: Grant | None = None, at: float = AT) -> Request:
        subject, amount = self.subject(deed)
        asking = by or self.gate.by[PAIR[NEEDS[deed]]]
        return approvals.ask(self.gate.store, asking, deed, subject, at, amount)

    def approve(self, request: Request, by: Grant | None = None, at: float = AT) -> Request:
        approving = by or self.second[PAIR[NEEDS[request.deed]]]
        code = self.phones[approving.key].code(at)
        return approvals.approve(self.codes, approving, request.number, code, at)

    def approved(self) -> list[Approved]:
        return [each for each in self.gate.said if isinstance(each, Approved)]


@pytest.fixture
def two(gate: World) -> Two:
    return Two(gate)


def test_every_act_that_takes_two_has_a_deed() -> None:
    assert set(NEEDS.values()) == TAKES_TWO
    assert set(NEEDS) == set(Deed)


@pytest.mark.parametrize("deed", Deed)
def test_one_asks_and_another_approves(two: Two, deed: Deed) -> None:
    asker, approver = two.gate.by[PAIR[NEEDS[deed]]], two.second[PAIR[NEEDS[deed]]]
    request = two.ask(deed)
    assert two.approved() == []
    assert approvals.waiting(two.gate.store, approver, AT) == [request]
    two.approve(request)
    subject, amount = two.subject(deed)
    said = f"{subject}: {amount}" if amount else subject
    assert two.approved() == [Approved(deed, said, asker.key, approver.key)]
    assert approvals.waiting(two.gate.store, approver, AT) == []
    with pytest.raises(ParameterError, match="no request"):
        two.approve(request, at=AT + 60)


@pytest.mark.parametrize("deed", Deed)
@pytest.mark.parametrize("role", Role)
def test_no_other_role_asks_or_approves(two: Two, deed: Deed, role: Role) -> None:
    if may(role, NEEDS[deed]):
        return
    with pytest.raises(Denial, match="may not"):
        two.ask(deed, two.gate.by[role])
    request = two.ask(deed)
    with pytest.raises(Denial, match="may not"):
        two.approve(request, two.gate.by[role])
    assert two.approved() == []


@pytest.mark.parametrize("deed", Deed)
def test_nobody_is_two(two: Two, deed: Deed) -> None:
    request = two.ask(deed)
    with pytest.raises(Denial, match="himself"):
        two.approve(request, two.gate.by[PAIR[NEEDS[deed]]])
    assert two.approved() == []


def test_a_code_is_needed_and_good_for_one_approval(two: Two) -> None:
    first, second = two.ask(Deed.KEY_BUDGET), two.ask(Deed.FULL_SCORES)
    by = two.second[Role.AUTHORITY]
    with pytest.raises(Denial, match="wrong"):
        approvals.approve(two.codes, by, first.number, "", AT)
    two.approve(first)
    with pytest.raises(Denial, match="used"):
        two.approve(second)
    assert len(two.approved()) == 1


def test_requests_end(two: Two) -> None:
    request = two.ask(Deed.RELEASE)
    with pytest.raises(ParameterError, match="too old"):
        two.approve(request, at=AT + WITHIN)
    two.approve(two.ask(Deed.RELEASE, at=AT), at=AT + WITHIN - 1)


def test_who_asked_has_to_be_good_still(two: Two) -> None:
    request = two.ask(Deed.KEY_BUDGET)
    desk.suspend(two.gate.store, two.gate.root, two.gate.by[Role.AUTHORITY].key, "why", AT)
    with pytest.raises(Denial, match="no good"):
        two.approve(request)
    desk.revoke(two.gate.store, two.gate.root, two.gate.by[Role.AUTHORITY].key, AT)
    with pytest.raises(Denial, match="no good"):
        two.approve(request)


def test_a_budget_is_what_was_approved_at_once(two: Two) -> None:
    found = records(two.gate.store)
    grant = found.grant_of(two.client.text, HERE, AT)
    found.take(grant, 100, AT)
    with pytest.raises(Denial):
        found.take(grant, 1, AT)
    two.approve(two.ask(Deed.KEY_BUDGET))
    with pytest.raises(Denial, match="organisation"):
        found.take(found.grant_of(two.client.text, HERE, AT), 1, AT)
    two.approve(two.ask(Deed.ORGANISATION_BUDGET), at=AT + 60)
    assert found.grant_of(two.client.text, HERE, AT).budget == 500
    assert found.left(grant) == 400
    found.take(grant, 400, AT)
    with pytest.raises(Denial, match="key"):
        found.take(grant, 1, AT)


def test_full_scores(two: Two) -> None:
    found = records(two.gate.store)
    assert Detail.FULL not in found.grant_of(two.client.text, HERE, AT).details
    two.approve(two.ask(Deed.FULL_SCORES))
    assert found.grant_of(two.client.text, HERE, AT).details == {Detail.LABEL, Detail.FULL}


def test_a_release_stands_and_an_export_is_done_once(two: Two) -> None:
    store, by = two.gate.store, two.gate.by[Role.RELEASER]
    two.ask(Deed.RELEASE)
    assert not approvals.is_released(store, DIGEST)
    two.approve(two.ask(Deed.RELEASE))
    assert approvals.is_released(store, DIGEST)
    assert not approvals.is_released(store, "cd" * 32)
    with pytest.raises(Denial, match="not approved"):
        approvals.use(store, by, Deed.EXPORT, "audit.key", AT)
    two.approve(two.ask(Deed.EXPORT), at=AT + 60)
    for who, subject, at in (
        (two.second[Role.RELEASER], "audit.key", AT + 61),  # it was another one who asked
        (by, "other.key", AT + 61),
        (by, "audit.key", AT + 60 + WITHIN),
    ):
        with pytest.raises(Denial, match="not approved"):
            approvals.use(store, who, Deed.EXPORT, subject, at)
    approvals.use(store, by, Deed.EXPORT, "audit.key", AT + 61)
    with pytest.raises(Denial, match="was used"):
        approvals.use(store, by, Deed.EXPORT, "audit.key", AT + 61)


@pytest.mark.parametrize(
    ("deed", "subject", "amount"),
    [
        (Deed.KEY_BUDGET, "nobody", 5),
        (Deed.ORGANISATION_BUDGET, "nobody'; --", 5),
        (Deed.ORGANISATION_BUDGET, "clinic", 0),
        (Deed.ORGANISATION_BUDGET, "clinic", -5),
        (Deed.ORGANISATION_BUDGET, "clinic", 10**13),
        (Deed.FULL_SCORES, "nobody", 0),
        (Deed.RELEASE, "ab", 0),
        (Deed.RELEASE, "AB" * 32, 0),
        (Deed.RELEASE, DIGEST, 1),
        (Deed.EXPORT, "", 0),
    ],
)
def test_what_cannot_be_done_is_not_asked(two: Two, deed: Deed, subject: str, amount: int) -> None:
    by = two.gate.by[PAIR[NEEDS[deed]]]
    with pytest.raises(ParameterError):
        approvals.ask(two.gate.store, by, deed, subject, AT, amount)


def test_an_operators_key_gets_no_budget(two: Two) -> None:
    by, other = two.gate.by[Role.AUTHORITY], two.gate.by[Role.OPERATOR].key
    with pytest.raises(ParameterError, match="asks the model"):
        approvals.ask(two.gate.store, by, Deed.KEY_BUDGET, other, AT, 5)


def test_one_key_asks_for_no_more_than_anybody_can_look_through(two: Two) -> None:
    """A stolen key would else fill the records, and the page of everybody who has to look."""
    for _ in range(approvals.MOST_WAITING):
        last = two.ask(Deed.FULL_SCORES)
    with pytest.raises(Denial, match="wait already"):
        two.ask(Deed.FULL_SCORES)
    two.ask(Deed.FULL_SCORES, two.second[Role.AUTHORITY])  # others may
    two.approve(last)
    two.ask(Deed.FULL_SCORES)
    two.ask(Deed.FULL_SCORES, at=AT + WITHIN)  # and those of before are too old
