"""Grants, withdrawals and releases: done as ordered, once, with an entry before each deed."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from tacit.app import signed
from tacit.app.deployment import executing, operators, releasing
from tacit.app.deployment.executing import Wanted, execute
from tacit.app.deployment.operators import Operator, Role
from tacit.app.deployment.orders import Order
from tacit.app.folder import MODEL, RunFolder
from tacit.app.journal import Journal, digest_of, signer
from tacit.app.release import FORMAT
from tacit.crypto.errors import Damaged, ParameterError, TacitError
from tacit.crypto.order import Act
from tacit.server.deployed import Granted, Withdrawn
from tacit.server.entries import encode
from tacit.server.kinds import Audited, Released
from tests.app.deployment.server import ANN, Server, server
from tests.app.small import small

__all__ = ["server"]

ANNS = Wanted(Role.OPERATOR, ANN.public)


def ordered(
    server: Server, act: Act, name: str, settings: str = "", *, is_again: bool = False
) -> Order:
    made = server.signed(act, name, settings)
    return Order(made, str(operators.role_for(act)), is_again)


def run(server: Server, name: str = "one", *, finished: bool = True) -> RunFolder:
    folder = RunFolder.create(server.places.runs / name, small(), status="queued")
    if finished:
        folder.finish(ArrayRecord({"w": Array(np.arange(6, dtype=np.float32))}))
        folder.journal.close()
    return folder


def test_a_role_is_granted_and_withdrawn(server: Server) -> None:
    execute(server.places, ordered(server, Act.GRANT, "ann", ANNS.toml()), server.journal)
    found = operators.load(server.places).named("ann")
    assert found == Operator("ann", Role.OPERATOR, ANN.public)
    execute(server.places, ordered(server, Act.WITHDRAW, "ann"), server.journal)
    assert operators.load(server.places).named("ann") is None
    assert server.events() == [
        Granted("ann", "operator", ANN.public.hex(), "authority"),
        Withdrawn("ann", "authority"),
    ]


@pytest.mark.parametrize(
    "settings",
    [
        "",
        "role",
        'role = "operator"',
        ANNS.toml() + "x = 1\n",
        ANNS.toml().replace("operator", "client"),
        ANNS.toml().replace("false", "true"),
        ANNS.toml().replace("false", "0"),
        ANNS.toml().replace(ANN.public.hex(), "abcd"),
        ANNS.toml().replace('key = "', 'key = "zz'),
        "[role]\n",
    ],
)
def test_a_grant_that_does_not_say_what_is_none(server: Server, settings: str) -> None:
    before = server.places.operators.read_bytes()
    with pytest.raises(ParameterError):
        execute(server.places, ordered(server, Act.GRANT, "ann", settings), server.journal)
    assert server.places.operators.read_bytes() == before
    assert server.events() == []


def test_the_last_authority_is_not_withdrawn(server: Server) -> None:
    with pytest.raises(ParameterError, match="last authority"):
        execute(server.places, ordered(server, Act.WITHDRAW, "authority"), server.journal)
    assert server.events() == []


def test_a_run_is_not_done_at_once(server: Server) -> None:
    with pytest.raises(ParameterError, match="not done at once"):
        execute(server.places, ordered(server, Act.RUN, "one"), server.journal)
    assert {*Act} - executing.AT_ONCE == {Act.RUN, Act.RESUME, Act.STOP}


@pytest.mark.parametrize("act", sorted(executing.AT_ONCE, key=str))
def test_what_was_done_already_is_not_done_twice(server: Server, act: Act) -> None:
    """Its doer was killed right after it, and the order is handed out again."""
    run(server)
    server.grant(Operator("bob", Role.OPERATOR, b"b" * 32))
    name, settings = {
        Act.GRANT: ("ann", ANNS.toml()),
        Act.WITHDRAW: ("bob", ""),
        Act.RELEASE: ("one", ""),
    }[act]
    execute(server.places, ordered(server, act, name, settings), server.journal)
    before = server.places.operators.read_bytes()
    again = ordered(server, act, name, settings, is_again=True)
    execute(server.places, again, server.journal)
    assert server.places.operators.read_bytes() == before
    assert len(server.events()) == 1
    with pytest.raises(TacitError):  # a second order is another matter
        execute(server.places, ordered(server, act, name, settings), server.journal)


def test_a_deed_has_an_entry_before_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(executing, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            execute(server.places, ordered(server, Act.GRANT, "ann", ANNS.toml()), server.journal)
    assert len(server.events()) == 1
    again = ordered(server, Act.GRANT, "ann", ANNS.toml(), is_again=True)
    execute(server.places, again, server.journal)
    assert operators.load(server.places).named("ann") is not None


def test_a_model_is_released(server: Server) -> None:
    folder = run(server)
    execute(server.places, ordered(server, Act.RELEASE, "one"), server.journal)
    target = server.places.released / "one.safetensors"
    assert target.read_bytes() == (folder.path / MODEL).read_bytes()
    assert target.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in server.places.released.iterdir()] == [target.name]
    assert server.events() == [Released("one.safetensors", digest_of(target))]


def test_what_is_not_finished_is_not_released(server: Server) -> None:
    run(server, finished=False)
    for name, why in (("one", "one is queued"), ("two", "no run")):
        with pytest.raises(ParameterError, match=why):
            execute(server.places, ordered(server, Act.RELEASE, name), server.journal)


def alter_model(folder: Path) -> None:
    data = bytearray((folder / MODEL).read_bytes())
    data[-1] ^= 1
    (folder / MODEL).write_bytes(data)


def alter_log(folder: Path) -> None:
    data = bytearray((folder / "audit.log").read_bytes())
    data[-1] ^= 1
    (folder / "audit.log").write_bytes(data)


def other_log(folder: Path) -> None:
    """Whole, of the altered model, and of another keeper."""
    alter_model(folder)
    (folder / "audit.log").unlink()
    key = (folder / "audit.key").read_bytes()
    (folder / "audit.key").unlink()
    journal = Journal(folder)
    journal.note(Released(MODEL, digest_of(folder / MODEL)))
    journal.close()
    (folder / "audit.key").write_bytes(key)


def link_model(folder: Path) -> None:
    (folder / MODEL).rename(folder / "other")
    (folder / MODEL).symlink_to(folder / "other")


def lose_model(folder: Path) -> None:
    (folder / MODEL).unlink()


@pytest.mark.parametrize("damage", [alter_model, alter_log, other_log, link_model, lose_model])
def test_what_is_not_what_the_run_ended_with_is_not_released(
    server: Server, damage: Callable[[Path], None]
) -> None:
    damage(run(server).path)
    with pytest.raises(Damaged):
        execute(server.places, ordered(server, Act.RELEASE, "one"), server.journal)
    assert not any(server.places.released.iterdir())
    assert server.events() == []


def test_a_kill_leaves_no_half_a_model(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    run(server)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            execute(server.places, ordered(server, Act.RELEASE, "one"), server.journal)
    assert not any(server.places.released.iterdir())
    order = ordered(server, Act.RELEASE, "one", is_again=True)
    execute(server.places, order, server.journal)
    assert releasing.released(server.places, "one").exists()


def audited(
    folder: RunFolder, *, holds: bool = True, quick: bool = False, model: str | None = None
) -> None:
    """A report as `tacit audit release` signs one, without the attacks."""
    report = {
        "format": FORMAT,
        "quick": quick,
        "holds": holds,
        "release": {"model": model or digest_of(folder.path / MODEL)},
    }
    data = signed.signed(report, signer(folder.path))
    folder.journal.note(Audited(signed.REPORT, hashlib.sha256(data).hexdigest(), holds))
    folder.journal.close()
    (folder.path / signed.REPORT).write_bytes(data)


@pytest.fixture
def strict(server: Server) -> Server:
    """Whose releaser needs an audit."""
    server.withdraw("releaser")
    server.grant(Operator("careful", Role.RELEASER, ANN.public, needs_audit=True))
    return server


def careful(server: Server) -> Order:
    return Order(server.signed(Act.RELEASE, by=ANN), "careful")


def test_an_audited_model_is_released(strict: Server) -> None:
    audited(run(strict))
    execute(strict.places, careful(strict), strict.journal)
    assert releasing.released(strict.places, "one").exists()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"holds": False}, "does not hold"),
        ({"quick": True}, "quick look"),
        ({"model": "00"}, "another model"),
        (None, "no report"),
    ],
)
def test_a_model_without_a_good_audit_is_not(
    strict: Server, how: dict[str, object] | None, why: str
) -> None:
    folder = run(strict)
    if how is not None:
        audited(folder, **how)  # type: ignore[arg-type]
    with pytest.raises(TacitError, match=why):
        execute(strict.places, careful(strict), strict.journal)
    assert not any(strict.places.released.iterdir())


def test_an_earlier_audit_does_not_stand_for_a_later_one(strict: Server) -> None:
    folder = run(strict)
    audited(folder)
    first = (folder.path / signed.REPORT).read_bytes()
    audited(folder, holds=False)
    (folder.path / signed.REPORT).write_bytes(first)
    with pytest.raises(ParameterError, match="not its last one"):
        execute(strict.places, careful(strict), strict.journal)


def test_an_audit_of_another_key_does_not_pass(strict: Server) -> None:
    """Whole, in a log of its own that is whole, and brought in with it: neither is the run's."""
    folder = run(strict)
    (folder.path / "audit.key").rename(folder.path / "kept.key")
    (folder.path / "audit.log").rename(folder.path / "kept.log")
    folder.journal.note(Released(MODEL, digest_of(folder.path / MODEL)))
    audited(folder)
    (folder.path / "kept.key").rename(folder.path / "audit.key")
    with pytest.raises(Damaged, match="another key"):
        releasing._check_audit(folder.path)


def test_an_audit_that_was_altered_does_not_pass(strict: Server) -> None:
    folder = run(strict)
    audited(folder, holds=False)
    path = folder.path / signed.REPORT
    said = json.loads(path.read_bytes())
    said["report"]["holds"] = True
    path.write_bytes(encode(said) + b"\n")
    with pytest.raises(Damaged, match="signature does not fit"):
        execute(strict.places, careful(strict), strict.journal)
