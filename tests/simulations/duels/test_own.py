"""The duels of the log, of sealed files and of membership: each holds, and none without what it is
about."""

from collections.abc import Iterator
from typing import Any

import pytest

from tacit.crypto.sealed import Context
from tacit.server.auditlog import verify
from tacit.simulations.duels import log, membership, sealed
from tacit.simulations.duels.base import Fought, Line, Role, Scale
from tacit.simulations.duels.log import Log
from tacit.simulations.duels.membership import Membership
from tacit.simulations.duels.sealed import Sealed

QUICK = Scale(quick=True)


def fight(duel: Any) -> tuple[Fought, list[float]]:
    told: list[float] = []
    return duel.fight(QUICK, told.append), told


def broken(fought: Fought) -> set[Role]:
    return {line.role for line in fought.lines if not line.holds}


def untimed(fought: Fought) -> tuple[Line, ...]:
    return tuple(line for line in fought.lines if "a second" not in line.what)


@pytest.mark.parametrize("duel", [Log(), Sealed()], ids=["log", "sealed"])
def test_it_holds_and_is_the_same_each_time(duel: Any) -> None:
    fought, told = fight(duel)
    assert fought.holds
    assert {Role.ATTACK, Role.DEFENCE, Role.PRICE} <= {line.role for line in fought.lines}
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert fought.limits
    again, _ = fight(duel)
    assert untimed(again) == untimed(fought)


def test_a_log_that_nobody_verifies_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "verify", lambda *arguments: None)
    fought, _ = fight(Log())
    assert broken(fought) == {Role.DEFENCE}


def test_without_a_kept_head_truncation_and_forks_go_unnoticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log, "verify", lambda path, key, kept: verify(path, key))
    fought, _ = fight(Log())
    seen = {line.what for line in fought.lines if not line.holds}
    assert seen == {"truncate goes unnoticed", "fork goes unnoticed"}


def test_files_that_anybody_opens_do_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(source: Any, key: Any, expected: Any) -> tuple[Context, Iterator[bytes]]:
        return Context(), iter(())

    monkeypatch.setattr(sealed, "unseal", opened)
    fought, _ = fight(Sealed())
    assert broken(fought) == {Role.DEFENCE}


def test_membership_holds_with_noise_and_would_not_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small: fewer models than a quick duel, as the law is the same."""
    monkeypatch.setattr(membership, "QUICK", membership.Size(8, 30, 30, 0.002, 0.008))
    fought, told = fight(Membership())
    assert fought.holds
    assert told[-1] == 1.0
    by_what = {(line.setting.split(",")[0], line.what): line for line in fought.lines}
    epsilon = by_what["DP-SGD", "epsilon at delta 1e-05, for each example"].figure.value
    assert 1 < epsilon < 11
    assert any(line.role is Role.PRICE for line in fought.lines)
    assert not any("decimal" in line.setting and line.role is Role.DEFENCE for line in fought.lines)
    plain = by_what["no defence", "members found at 0.1 % false alarms"]
    private = by_what["DP-SGD", "members found at 0.1 % false alarms"]
    assert plain.figure.low > private.target  # type: ignore[operator]
