"""One-time codes: RFC 6238's own, each once, few tries, and sealed."""

import os

import pyotp
import pytest

from tacit.crypto.errors import Damaged, ParameterError
from tacit.server.gate.base import Denial, Role
from tacit.server.gate.totp import LOCK, MOST_WRONG, NONCE_BYTES, SEED_BYTES, STEP, Codes
from tests.server.gate.gates import AT, World

RAND_BYTES = SEED_BYTES + NONCE_BYTES


class Phone:
    """Somebody's telephone."""

    def __init__(self, address: str) -> None:
        found = pyotp.parse_uri(address)
        assert isinstance(found, pyotp.TOTP)
        self.totp = found

    def code(self, at: float) -> str:
        return self.totp.at(int(at))

    def wrong(self, at: float) -> str:
        near = {self.totp.at(int(at) + step * STEP) for step in (-1, 0, 1)}
        return next(code for code in ("000000", "111111", "222222", "3") if code not in near)


@pytest.fixture
def codes(gate: World) -> Codes:
    return Codes(gate.store, os.urandom(32))


def phone(codes: Codes, gate: World, role: Role = Role.AUTHORITY) -> Phone:
    return Phone(codes.enrol(gate.by[role], os.urandom(RAND_BYTES), AT))


def refusal(codes: Codes, gate: World, code: str, at: float) -> Denial:
    with pytest.raises(Denial) as refused:
        codes.check(gate.by[Role.AUTHORITY], code, at)
    return refused.value


def test_rfc_6238(gate: World, codes: Codes) -> None:
    """Appendix B, SHA-1: its eight digits end in these six. Times are in the order of the table."""
    by = gate.by[Role.AUTHORITY]
    codes.enrol(by, b"12345678901234567890" + bytes(NONCE_BYTES), AT)
    for at, code in (
        (59, "287082"),
        (1111111109, "081804"),
        (1234567890, "005924"),
        (2000000000, "279037"),
    ):
        codes.check(by, code, float(at))


def test_each_code_is_good_once(gate: World, codes: Codes) -> None:
    mine, by = phone(codes, gate), gate.by[Role.AUTHORITY]
    code = mine.code(AT)
    codes.check(by, code, AT)
    for later in (AT, AT + STEP):
        assert refusal(codes, gate, code, later).status == 403
    assert refusal(codes, gate, mine.code(AT - STEP), AT).status == 403  # earlier than one used
    codes.check(by, mine.code(AT + STEP), AT + STEP)


def test_a_clock_may_be_a_step_off(gate: World, codes: Codes) -> None:
    mine, by = phone(codes, gate), gate.by[Role.AUTHORITY]
    codes.check(by, mine.code(AT - STEP), AT)
    codes.check(by, mine.code(AT + 11 * STEP), AT + 10 * STEP)
    assert refusal(codes, gate, mine.code(AT + 98 * STEP), AT + 100 * STEP).status == 403
    assert refusal(codes, gate, mine.code(AT + 102 * STEP), AT + 100 * STEP).status == 403


def test_few_tries(gate: World, codes: Codes) -> None:
    mine, by = phone(codes, gate), gate.by[Role.AUTHORITY]
    at = AT
    for wait in (LOCK, 2 * LOCK, 4 * LOCK):
        for _ in range(MOST_WRONG):
            assert refusal(codes, gate, mine.wrong(at), at).status == 403
        locked = refusal(codes, gate, mine.code(at), at + wait - 1)  # the right one, too
        assert (locked.status, locked.retry_after) == (429, 1.0)
        at += wait
    codes.check(by, mine.code(at), at)
    for _ in range(MOST_WRONG - 1):
        refusal(codes, gate, mine.wrong(at), at)
    codes.check(by, mine.code(at + STEP), at + STEP)


def test_wrong_codes_are_counted_whatever_crashes(gate: World, codes: Codes) -> None:
    mine = phone(codes, gate)
    for _ in range(MOST_WRONG):
        refusal(Codes(gate.store, codes.sealing), gate, mine.wrong(AT), AT)
    assert refusal(Codes(gate.store, codes.sealing), gate, mine.code(AT), AT).status == 429


@pytest.mark.parametrize("code", ["", "12345", "1234567", "abcdef", "१२३४५६", "0" * 10_000])
def test_what_is_no_code(gate: World, codes: Codes, code: str) -> None:
    phone(codes, gate)
    assert refusal(codes, gate, code, AT).status == 403


def test_codes_are_somebodys(gate: World, codes: Codes) -> None:
    phone(codes, gate)
    other = phone(codes, gate, Role.RELEASER)
    assert refusal(codes, gate, other.code(AT), AT).status == 403
    with pytest.raises(Denial, match="no codes"):
        codes.check(gate.by[Role.OPERATOR], "000000", AT)


def test_a_stolen_key_does_not_set_up_codes_anew(gate: World, codes: Codes) -> None:
    mine, by = phone(codes, gate), gate.by[Role.AUTHORITY]
    for code in (None, mine.wrong(AT)):
        with pytest.raises(Denial):
            codes.enrol(by, os.urandom(RAND_BYTES), AT, code)
    fresh = Phone(codes.enrol(by, os.urandom(RAND_BYTES), AT, mine.code(AT)))
    refusal(codes, gate, mine.code(AT + STEP), AT + STEP)
    codes.check(by, fresh.code(AT + STEP), AT + STEP)


def test_what_codes_are_made_of_is_sealed(gate: World, codes: Codes) -> None:
    rand = os.urandom(RAND_BYTES)
    codes.enrol(gate.by[Role.AUTHORITY], rand, AT)
    kept = b"".join(path.read_bytes() for path in gate.path.parent.iterdir())
    assert rand[:SEED_BYTES] not in kept
    assert repr(codes.sealing) not in repr(codes)
    with pytest.raises(Damaged, match="does not open"):
        Codes(gate.store, bytes(32)).check(gate.by[Role.AUTHORITY], "000000", AT)
    with gate.store.writing() as db:  # somebody puts his own in another one's place
        db.execute("UPDATE totp SET name = ?", (gate.by[Role.RELEASER].key,))
    with pytest.raises(Damaged, match="does not open"):
        codes.check(gate.by[Role.RELEASER], "000000", AT)


def test_a_seed_takes_as_many_bytes(gate: World, codes: Codes) -> None:
    with pytest.raises(ParameterError, match="random bytes"):
        codes.enrol(gate.by[Role.AUTHORITY], bytes(5), AT)
