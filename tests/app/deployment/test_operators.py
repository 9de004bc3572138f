"""Who may what: the register's laws, its one encoding, tokens, and modes that hold others off."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.app.deployment import founding, modes, operators
from tacit.app.deployment.operators import MAY, Operator, Operators, Role, load, save
from tacit.app.deployment.places import Places
from tacit.app.journal import Journal, signer
from tacit.crypto import labels
from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.identity import SIGNATURE_BYTES, Identity
from tacit.server.deployed import Granted
from tacit.server.gate import keys as tokens
from tacit.server.gate.base import Role as AtGate
from tests.app.deployment.server import ANN, Server, entries, server

__all__ = ["server"]

KEEPER = Identity(b"k" * 32)
BOSS = Operator("boss", Role.AUTHORITY, b"b" * 32)
FIRST = Operators(KEEPER.public, (BOSS,))

OPERATORS = st.builds(
    lambda name, role, key, ended, audit: Operator(
        name, role, key, audit and role is Role.RELEASER, ended
    ),
    st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,20}\Z"),
    st.sampled_from(Role),
    st.binary(min_size=32, max_size=32),
    st.booleans(),
    st.booleans(),
)


def test_roles_are_the_gates_without_its_clients() -> None:
    """Two tables, since the gate is an extra, and one set of words."""
    assert {*Role} == {*AtGate} - {AtGate.CLIENT}
    assert {*MAY} == {*Role}


@given(st.lists(OPERATORS, max_size=6))
def test_a_register_comes_back(listed: list[Operator]) -> None:
    made = Operators(KEEPER.public, tuple(listed))
    data = made.encode(KEEPER)
    assert Operators.decode(data) == made
    assert Operators.decode(data).encode(KEEPER) == data


def test_an_altered_register_is_refused() -> None:
    data = FIRST.granted(Operator("ann", Role.RELEASER, ANN.public, True)).encode(KEEPER)
    for at in range(len(data)):
        wrong = bytearray(data)
        wrong[at] ^= 1
        with pytest.raises(Damaged):
            Operators.decode(bytes(wrong))
    for other in (b"", data[:-1], data + b"\0", FIRST.encode(Identity(b"e" * 32))):
        with pytest.raises(Damaged):
            Operators.decode(other)


def test_a_signed_register_has_one_encoding() -> None:
    """Whoever signs it: what follows the end, and a yes that is 2, are no register."""
    body = FIRST.encode(KEEPER)[:-SIGNATURE_BYTES]
    for wrong in (body + b"\0", body[:-1] + b"\2", body[:-2] + b"\2\0"):
        with pytest.raises(Damaged):
            Operators.decode(wrong + KEEPER.sign(labels.OPERATORS, wrong))


def test_a_key_has_one_role_and_once() -> None:
    held = FIRST.granted(Operator("ann", Role.OPERATOR, ANN.public))
    with pytest.raises(ParameterError, match="ann has a role already"):
        held.granted(Operator("ann", Role.RELEASER, b"x" * 32))
    with pytest.raises(ParameterError, match="takes a new one"):
        held.granted(Operator("eve", Role.AUTHORITY, ANN.public))
    gone = held.withdrawn("ann")
    assert gone.named("ann") is None
    with pytest.raises(ParameterError, match="takes a new one"):
        gone.granted(Operator("ann", Role.OPERATOR, ANN.public))
    again = gone.granted(Operator("ann", Role.OPERATOR, b"x" * 32))
    found = again.of_key(ANN.public)
    assert found is not None
    assert found.is_withdrawn


def test_the_last_authority_stays() -> None:
    with pytest.raises(ParameterError, match="last authority"):
        FIRST.withdrawn("boss")
    two = FIRST.granted(Operator("ann", Role.AUTHORITY, ANN.public)).withdrawn("boss")
    assert [each.name for each in two] == ["ann"]
    with pytest.raises(ParameterError, match="last authority"):
        two.withdrawn("ann")
    with pytest.raises(ParameterError, match="nobody called boss"):
        two.withdrawn("boss")


def test_a_register_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "MAX_OPERATORS", 1)
    with pytest.raises(ParameterError, match="at most 1"):
        FIRST.granted(Operator("ann", Role.OPERATOR, ANN.public))


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.RELEASER])
def test_only_a_releaser_needs_an_audit(role: Role) -> None:
    with pytest.raises(ParameterError, match="only a releaser"):
        Operator("ann", role, ANN.public, needs_audit=True)


def test_a_viewer_is_known_by_a_token_and_by_nothing_else() -> None:
    token, other = (tokens.drawn(bytes([n]) * tokens.DRAW_BYTES) for n in (1, 2))
    held = FIRST.granted(Operator("screen", Role.VIEWER, token.digest))
    found = held.viewer(token.text + "\n")
    assert found is not None
    assert found.name == "screen"
    for wrong in ("", "tacit", other.text, token.text[:-1], token.digest.hex(), BOSS.key.hex()):
        assert held.viewer(wrong) is None
    assert held.withdrawn("screen").viewer(token.text) is None
    assert held.of_key(token.digest) is None
    assert token.secret.hex() not in repr(held) + held.encode(KEEPER).hex()


def test_a_token_of_another_roles_digest_opens_nothing() -> None:
    token = tokens.drawn(bytes(tokens.DRAW_BYTES))
    held = FIRST.granted(Operator("ann", Role.OPERATOR, token.digest))
    assert held.viewer(token.text) is None


def test_a_server_is_founded_once(server: Server) -> None:
    first = load(server.places)
    assert [(each.name, each.role) for each in first] == [
        ("authority", Role.AUTHORITY),
        ("operator", Role.OPERATOR),
        ("releaser", Role.RELEASER),
    ]
    assert first.server == signer(server.places.folder).public
    assert not founding.found(server.places, server.journal, founding.LOCAL)
    assert load(server.places) == first
    assert server.events() == []


def test_founding_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places, journal = Places(tmp_path), Journal(tmp_path)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(founding, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            founding.found(places, journal)
    before = (places.keys / "authority.key").read_bytes()
    assert founding.found(places, journal)
    journal.close()
    assert (places.keys / "authority.key").read_bytes() == before
    assert [each.key for each in load(places)] == [Identity(before).public]


def test_a_register_of_another_server_is_not_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"another audit\.key"):
        save(server.places, FIRST, signer(server.places.folder))
    with pytest.raises(ParameterError, match="no server's folder"):
        load(Places(tmp_path))


def test_modes_are_as_they_are_said_to_be(server: Server) -> None:
    assert modes.faults(server.places) == []
    wrong = {
        server.places.keys / "authority.key": 0o640,
        server.places.keys: 0o750,
        server.places.runs: 0o701,
        server.places.folder / "audit.key": 0o604,
        server.places.inbox: 0o1733,
        server.places.operators: 0o664,
        server.places.folder: 0o755,
    }
    for path, mode in wrong.items():
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        (said,) = modes.faults(server.places)
        assert said.startswith(f"{path} has mode {mode:o}")
        path.chmod(before)
    server.places.inbox.chmod(0o755)
    modes.prepare(server.places)
    assert stat.S_IMODE(server.places.inbox.stat().st_mode) == 0o1730


def test_no_such_group(server: Server) -> None:
    with pytest.raises(ParameterError, match="no Unix group nobody-has-this"):
        modes.share(server.places, "nobody-has-this")


GROUP, MEMBER, OTHER = 54321, 54322, 54323  # numbers need no names


@pytest.fixture
def shared() -> Iterator[Server]:
    """A server whose inbox is a group's, where other users get to."""
    outer = Path(tempfile.mkdtemp())
    outer.chmod(0o755)
    made = Server(outer / "server")
    for folder in (made.places.folder, made.places.inbox):
        os.chown(folder, -1, GROUP)
    made.places.folder.chmod(modes.SHARED)
    made.places.inbox.chmod(0o1730)
    yield made
    made.journal.close()
    shutil.rmtree(outer)


TRY = """
import os, sys
os.setgroups([{group}]); os.setgid({user}); os.setuid({user})
def tried(do, *arguments):
    try:
        do(*arguments)
        return "y"
    except OSError:
        return "n"
put = lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
read = lambda path: open(path, "rb").read(1)
d = sys.argv[1]
print(
    tried(put, d + "/inbox/mine.order"),
    tried(read, d + "/operators"),
    tried(os.listdir, d + "/released"),
    tried(os.listdir, d + "/inbox"),
    tried(os.unlink, d + "/inbox/theirs.order"),
    tried(os.rename, d + "/inbox/theirs.order", d + "/inbox/x"),
    tried(os.listdir, d),
    tried(os.listdir, d + "/runs"),
    tried(os.listdir, d + "/keys"),
    tried(read, d + "/audit.key"),
    tried(read, d + "/keys/operator.key"),
    tried(put, d + "/x"),
    tried(put, d + "/released/x"),
    tried(put, d + "/orders/x"),
    sep="",
)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="takes root")
@pytest.mark.parametrize(
    ("user", "group", "can"), [(MEMBER, GROUP, "yyynnnnnnnnnnn"), (OTHER, OTHER, "nnnnnnnnnnnnnn")]
)
def test_what_others_can_on_this_machine(shared: Server, user: int, group: int, can: str) -> None:
    theirs = shared.places.inbox / "theirs.order"
    theirs.touch()
    os.chown(theirs, MEMBER + 100, GROUP)
    code = TRY.format(user=user, group=group)
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(shared.places.folder)],
        capture_output=True,
        text=True,
        timeout=30,
        cwd="/",
    )
    assert done.stdout.strip() == can, done.stderr


def test_the_first_keys_are_in_the_log(server: Server) -> None:
    server.journal.close()
    first = entries(server.places)[0]
    key = server.who(Role.AUTHORITY).public.hex()
    assert first == Granted("authority", "authority", key, "server")


def test_a_withdrawn_operator_is_no_other_one() -> None:
    gone = FIRST.granted(Operator("ann", Role.OPERATOR, ANN.public)).withdrawn("ann")
    found = gone.of_key(ANN.public)
    assert found == replace(Operator("ann", Role.OPERATOR, ANN.public), is_withdrawn=True)
    assert not any(operators.may(found, act) for act in MAY[Role.OPERATOR])
