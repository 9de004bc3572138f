"""Every role times every act, written out: whoever changes the table changes it here, too."""

import pytest

from tacit.server.gate.base import Denial, Role
from tacit.server.gate.roles import LED, MAY, TAKES_TWO, Act, check, may, over

PINNED = """
                 client  viewer  operator  releaser  authority
ask              yes     .       .         .         .
see metrics      .       yes     yes       .         yes
see states       .       yes     yes       .         yes
issue keys       .       .       yes       .         .
judge keys       .       .       yes       .         .
raise budgets    .       .       .         .         yes
release a model  .       .       .         yes       .
export a key     .       .       .         yes       .
appoint          .       .       .         .         yes
"""


def pinned() -> dict[tuple[Role, Act], bool]:
    head, *rows = PINNED.strip("\n").splitlines()
    heads = [Role(name) for name in head.split()]
    table = {}
    for row in rows:
        act = Act(row[:17].strip())
        for role, cell in zip(heads, row[17:].split(), strict=True):
            table[role, act] = cell == "yes"
    return table


def test_the_table_is_whole() -> None:
    assert set(pinned()) == {(role, act) for role in Role for act in Act}


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("act", Act)
def test_every_role_and_act(role: Role, act: Act) -> None:
    allowed = pinned()[role, act]
    assert may(role, act) is allowed
    if allowed:
        check(role, act)
    else:
        with pytest.raises(Denial) as refused:
            check(role, act)
        assert (refused.value.stage, refused.value.status) == ("scope", 403)


def test_nobody_can_change_it() -> None:
    with pytest.raises(TypeError):
        MAY[Role.CLIENT] = frozenset(Act)
    assert all(isinstance(acts, frozenset) for acts in MAY.values())


def test_what_is_no_role_may_nothing() -> None:
    assert not any(may("root", act) for act in Act)


def test_who_is_over_whom() -> None:
    assert frozenset({Role.CLIENT, Role.VIEWER}) == LED
    for role in Role:
        for act in (Act.ISSUE, Act.JUDGE):
            assert over(role, act) is (act if role in LED else Act.APPOINT)


def test_what_takes_two() -> None:
    assert frozenset({Act.RAISE, Act.RELEASE, Act.EXPORT}) == TAKES_TWO
