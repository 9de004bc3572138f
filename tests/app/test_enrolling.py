"""`tacit authority`, `tacit device`, `tacit server`: from nobody to three devices, and on; and that
Flower takes what they make."""

import argparse
import shutil
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from flwr.app import Context, RecordDict
from flwr.cli.supernode.register import try_load_public_key
from flwr.common.args import try_obtain_root_certificates, try_obtain_server_certificates
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication

from tacit.app import server_folder
from tacit.app.authority import opened
from tacit.app.certificates import DAY
from tacit.app.cli import enrolling
from tacit.client.device import enrolled_device, load_device, load_policy
from tacit.client.node.base import NODE_LOCK
from tacit.client.vault import FileVault, locked
from tacit.crypto.answers import ServerAnswer, decode_answer
from tacit.crypto.identity import Roster
from tests.app.inprocess import Tacit, command
from tests.app.test_certificates import shake


@pytest.fixture
def tacit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Tacit:
    """Runs the command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    return command(monkeypatch, capfd)


def ask(tacit: Tacit, *arguments: str) -> tuple[str, str]:
    """Where a request is, and its fingerprint."""
    said = tacit(*arguments, "--json").result()
    return said["request"], said["fingerprint"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `three` keeps what it made the first time."""
    return tmp_path_factory.mktemp("built")


@pytest.fixture
def three(tacit: Tacit, built: Path) -> str:
    """A server and three devices, enrolled as people would; the authority's fingerprint."""
    if not any(built.iterdir()):
        enrol_three(tacit)
        shutil.copytree(Path(), built, dirs_exist_ok=True)
    shutil.copytree(built, Path(), dirs_exist_ok=True)
    said: str = tacit("authority", "show", "--json").result()["fingerprint"]
    return said


def enrol_three(tacit: Tacit) -> None:
    ours: str = tacit("authority", "init", "--json").result()["fingerprint"]
    path, heard = ask(tacit, "server", "init", "front", "--address", "localhost,127.0.0.1")
    tacit("authority", "enrol", path, "--fingerprint", heard)
    tacit("server", "join", "front", "authority/answers/front.answer", "--fingerprint", ours)
    asked = [ask(tacit, "device", "init", f"ward-{n}") for n in (1, 2, 3)]
    heard_all = [part for _, each in asked for part in ("--fingerprint", each.lower())]
    tacit("authority", "enrol", *(path for path, _ in asked), *heard_all)
    for n in (1, 2, 3):
        answer = f"authority/answers/ward-{n}.answer"
        tacit("device", "join", f"ward-{n}", answer, "--fingerprint", ours)
    tacit("server", "join", "front", "authority/answers/front.answer")


def test_from_nobody_to_three_devices(tacit: Tacit, three: str) -> None:
    assert tacit("server", "check", "front").out == "front: nothing is wrong\n"
    roster = Roster.decode(Path("front/roster.bin").read_bytes())
    assert (roster.serial, [member.device for member in roster.members]) == (2, [1, 2, 3])
    now = int(time.time())
    for n in (1, 2, 3):
        config = {"vault": str(Path(f"ward-{n}").absolute())}
        device = enrolled_device(Context(1, n, config, RecordDict(), {}))
        assert device.number == n
        roster.verify(device.authority)
        assert roster.member(n, now=now).public == device.identity.public
    shown = tacit("authority", "show").out
    assert three in shown
    assert "device 2  ward-2  until 20" in shown
    assert "server front  localhost:9092" in shown
    said = tacit("authority", "show", "--json").result()
    assert (said["serial"], said["devices"], said["servers"]) == (2, 3, 1)
    assert tacit("log", "verify", "authority/audit.log", "--key", said["authority"]).code == 0
    shown = tacit("log", "show", "authority/audit.log").out
    assert 'enrolled: device 2, name "ward-2", fingerprint "' in shown


def test_flower_takes_the_keys_and_certificates(tacit: Tacit, three: str) -> None:
    for n in (1, 2, 3):
        arguments = argparse.Namespace(
            auth_supernode_private_key=f"ward-{n}/node.key", auth_supernode_public_key=None
        )
        keys = _try_setup_client_authentication(arguments)
        assert keys is not None
        (registered,) = Path("front/nodes").glob(f"{n}-ward-{n}-*.pub")
        assert try_load_public_key(registered) == public_key_to_bytes(keys[1])
        assert try_load_public_key(Path(f"ward-{n}/node.key.pub")) == public_key_to_bytes(keys[1])
        trusting = argparse.Namespace(insecure=False, root_certificates=f"ward-{n}/ca.crt")
        assert try_obtain_root_certificates(trusting, "localhost:9092") == (
            Path("front/ca.crt").read_bytes()
        )
    serving = argparse.Namespace(
        insecure=False,
        ssl_certfile="front/server.crt",
        ssl_keyfile="front/server.key",
        ssl_ca_certfile="front/ca.crt",
    )
    assert try_obtain_server_certificates(serving) is not None


def test_devices_and_server_shake_hands(tacit: Tacit, three: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("front/server.crt", "front/server.key")
    for host in ("localhost", "127.0.0.1"):
        asking = ssl.create_default_context(cafile="ward-1/ca.crt")
        assert shake(context, asking, host) == "TLSv1.3"
    # After a new CA's key: who has joined anew refuses the old certificate, and the other way.
    tacit("authority", "renew", "--new-ca")
    tacit("device", "join", "ward-1", "authority/answers/ward-1.answer")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(context, ssl.create_default_context(cafile="ward-1/ca.crt"), "localhost")
    tacit("server", "join", "front", "authority/answers/front.answer")
    fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    fresh.load_cert_chain("front/server.crt", "front/server.key")
    assert shake(fresh, ssl.create_default_context(cafile="ward-1/ca.crt"), "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(fresh, ssl.create_default_context(cafile="ward-2/ca.crt"), "localhost")


def test_a_revoked_device_is_to_be_unregistered(tacit: Tacit, three: str) -> None:
    old = Path("front/joined").read_bytes()
    Path("old.answer").write_bytes(old)
    tacit("authority", "revoke", "ward-2", "--reason", "stolen")
    said = tacit("server", "join", "front", "authority/answers/front.answer").out
    (retired,) = Path("front/retired").glob("*.pub")
    assert f"no node of this key is let in any more: {retired}" in said
    assert not list(Path("front/nodes").glob("2-*"))
    assert try_load_public_key(retired) == try_load_public_key(Path("ward-2/node.key.pub"))
    roster = Roster.decode(Path("front/roster.bin").read_bytes())
    assert [member.device for member in roster.members] == [1, 3]
    refused = tacit("server", "join", "front", "old.answer", code=2)
    assert "the answer is old: its roster is number 2, and number 3 is here already" in refused.err
    refused = tacit("device", "join", "ward-1", "authority/answers/ward-1.answer")  # as it was
    assert "has keys that are no good any more" in tacit("authority", "show").out


def test_a_device_gets_new_keys_under_its_number(tacit: Tacit, three: str) -> None:
    before = load_device(FileVault.open(Path("ward-2"))).identity.public
    path, heard = ask(tacit, "device", "rotate", "ward-2")
    refused = tacit("authority", "enrol", path, "--yes", code=2)
    assert "the name ward-2 is taken" in refused.err
    tacit("authority", "rotate", "2", path, "--fingerprint", heard)
    said = tacit("device", "join", "ward-2", "authority/answers/ward-2.answer", "--json").result()
    assert (said["device"], said["new_keys"], said["serial"]) == (2, True, 3)
    assert load_device(FileVault.open(Path("ward-2"))).identity.public != before
    tacit("server", "join", "front", "authority/answers/front.answer")
    (fresh,) = Path("front/nodes").glob("2-*")
    assert try_load_public_key(fresh) == try_load_public_key(Path("ward-2/node.key.pub"))
    assert len(list(Path("front/retired").glob("2-*"))) == 1


def test_a_node_that_runs_is_to_be_started_again(tacit: Tacit, three: str) -> None:
    answer = "authority/answers/ward-1.answer"
    with locked(Path("ward-1") / NODE_LOCK):
        assert "end it and start it again" in tacit("device", "join", "ward-1", answer).out
    assert "start it: tacit device run" in tacit("device", "join", "ward-1", answer).out


def test_fingerprints_are_compared_or_nothing_is_done(tacit: Tacit, three: str) -> None:
    path, heard = ask(tacit, "device", "init", "ward-4")
    refused = tacit("authority", "enrol", path, code=2)
    assert f"compare the fingerprint of the request of ward-4, {heard}" in refused.err
    wrong = "AAAA-" + heard[5:]
    refused = tacit("authority", "enrol", path, "--fingerprint", wrong, code=2)
    assert "somebody changed the file on its way" in refused.err
    assert tacit("authority", "show", "--json").result()["devices"] == 3
    tacit("authority", "enrol", path, "--fingerprint", heard)
    answer = "authority/answers/ward-4.answer"
    for more in ((), ("--fingerprint", wrong)):
        refused = tacit("device", "join", "ward-4", answer, *more, code=2)
        assert "nothing was done" in refused.err
    tacit("device", "join", "ward-4", answer, "--fingerprint", three)


def test_a_person_at_a_terminal_is_asked(
    tacit: Tacit, three: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, heard = ask(tacit, "device", "init", "ward-4")
    asked: list[str] = []
    answers = iter((False, True))

    def confirm(text: str) -> bool:
        asked.append(text)
        return next(answers)

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(typer, "confirm", confirm)
    for code in (2, 0):
        ended = tacit("authority", "enrol", path, code=code)
        assert heard in ended.out
        assert ("the fingerprints differ" in ended.err) == (code == 2)
    assert len(asked) == 2
    assert tacit("authority", "enrol", path, "--json", code=2)  # a program is not asked


def test_two_people(tacit: Tacit) -> None:
    tacit("authority", "approver", "bob.key")
    tacit("authority", "init", "two", "--approver", "bob.key.pub")
    path, _ = ask(tacit, "server", "init", "front", "--address", "localhost")
    refused = tacit("authority", "enrol", path, "--dir", "two", "--yes", code=2)
    assert "acts of this authority take a second person" in refused.err
    said = tacit("authority", "enrol", path, "-d", "two", "--yes", "--approve-by", "bob.key").out
    bob = Path("bob.key.pub").read_text().strip()
    assert f"approved by {bob}" in said
    assert bob in tacit("log", "show", "two/audit.log").out
    assert f"approver {bob}" in tacit("authority", "show", "-d", "two").out
    tacit("server", "join", "front", "two/answers/front.answer", "--yes")
    tacit("server", "check", "front")
    secret = Path("bob.key").read_bytes()
    for file in (*Path("two").rglob("*"), *Path("front").rglob("*")):
        assert not file.is_file() or secret not in file.read_bytes()


def test_an_owner_writes_a_policy(tacit: Tacit) -> None:
    Path("policy.toml").write_text("[policy]\nmin_cohort = 5\nepsilon = 4.0\n")
    tacit("device", "init", "v", "--policy", "policy.toml", "--set", "policy.max_norm=2", "--plain")
    policy = load_policy(FileVault.open(Path("v")))
    assert (policy.min_cohort, policy.epsilon, policy.max_norm, policy.plain) == (5, 4.0, 2.0, True)
    refused = tacit("device", "init", "w", "--set", "policy.min_cohrt=5", code=2)
    assert "did you mean policy.min_cohort?" in refused.err
    assert not Path("w").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("authority show -d nowhere", "no authority in nowhere: tacit authority init makes one"),
        ("authority init front", "front is there, and not empty"),
        ("authority enrol nowhere --yes", "no file at nowhere"),
        ("authority enrol authority/register --yes", "no file of the kind 'tacit request'"),
        ("authority revoke ward-9", "no device ward-9 is enrolled"),
        ("authority renew --ca --new-ca", "leave out --ca"),
        ("authority init new --approver 00", "a public key is 64 hexadecimal digits"),
        ("authority init ..", ".. has no name: name a folder that is not there"),
        ("authority init .", ". has no name"),
        ("device init ward-1", "ward-1 is there, and not empty"),
        ("device init new --name a/b", "is no name"),
        ("device join nowhere authority/answers/ward-1.answer", "no vault in nowhere"),
        ("device join ward-1 authority/answers/ward-2.answer", "for ward-2, with other keys"),
        ("device join ward-1 authority/answers/front.answer", "is the answer to a server"),
        ("device join ward-1 ward-1/node.key", "no file of the kind 'tacit answer'"),
        ("server join front authority/answers/ward-1.answer", "is the answer to a device"),
        ("server join ward-1 authority/answers/front.answer", "no server in ward-1"),
        ("server check nowhere", "no server in nowhere"),
        ("server init new --address 1.2.3.4.5", "'1.2.3.4.5' is no host"),
        ("server init new --address LOCALHOST", "is no host: a name in lower case"),
    ],
)
def test_a_mistake_says_what_to_do(tacit: Tacit, three: str, arguments: str, said: str) -> None:
    ended = tacit(*arguments.split(), code=None)
    assert ended.code in (1, 2)
    assert said in " ".join(ended.err.split())
    assert not Path("new").exists()


def test_another_authority_is_refused(tacit: Tacit, three: str) -> None:
    tacit("authority", "init", "evil")
    tacit("authority", "enrol", "front/front.request", "-d", "evil", "--yes")
    refused = tacit("server", "join", "front", "evil/answers/front.answer", "--yes", code=2)
    assert f"this server has joined the authority {three}" in refused.err
    path, _ = ask(tacit, "device", "rotate", "ward-1")
    tacit("authority", "enrol", path, "-d", "evil", "--yes")
    refused = tacit("device", "join", "ward-1", "evil/answers/ward-1.answer", "--yes", code=2)
    assert "has joined another authority than that of the answer" in refused.err


def test_a_server_takes_the_answer_to_its_own_request(tacit: Tacit, three: str) -> None:
    """Not another server's, and not that to a key it had in another folder."""
    path, _ = ask(tacit, "server", "init", "back", "--address", "localhost")
    refused = tacit("server", "join", "back", "authority/answers/front.answer", "--yes", code=2)
    assert "the answer is for front, with another key than that of back" in refused.err
    assert not Path("back/joined").exists()
    path, _ = ask(tacit, "server", "init", "again", "--address", "localhost", "--name", "front")
    refused = tacit("server", "join", "again", "authority/answers/front.answer", "--yes", code=2)
    assert "to an earlier request of this one" in refused.err
    tacit("authority", "rotate", "front", path, "--yes")
    tacit("server", "join", "again", "authority/answers/front.answer", "--yes")
    refused = tacit("server", "join", "front", "authority/answers/front.answer", code=2)
    assert "another key than that of front" in refused.err


def test_an_altered_request_is_refused(tacit: Tacit, three: str) -> None:
    path, _ = ask(tacit, "device", "init", "ward-4")
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])
    refused = tacit("authority", "enrol", path, "--yes", code=1)
    assert "ward-4.request: a request that cannot be used" in refused.err
    assert "it was altered" in refused.err


def test_a_wrong_clock_is_said(tacit: Tacit, three: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = ask(tacit, "device", "init", "ward-4")
    now = int(time.time())
    monkeypatch.setattr(enrolling, "_now", lambda: now - 3600)
    refused = tacit("authority", "enrol", path, "--yes", code=2)
    assert "one of the two clocks is wrong" in refused.err
    for ended in (
        tacit("device", "join", "ward-1", "authority/answers/ward-1.answer", code=2),
        tacit("server", "join", "front", "authority/answers/front.answer", code=2),
        tacit("server", "check", "front", code=1),
    ):
        assert "set the clock" in ended.err


def test_what_ends_is_said_before_and_after(
    tacit: Tacit, three: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = int(time.time())
    monkeypatch.setattr(enrolling, "_now", lambda: now + 340 * DAY)
    said = tacit("server", "check", "front")
    assert "soon: a membership ends in 2" in said.out
    monkeypatch.setattr(enrolling, "_now", lambda: now + 398 * DAY)
    ended = tacit("server", "check", "front", code=1)
    assert "the server's certificate ended on" in ended.err
    assert "memberships are over: devices 1, 2, 3" in ended.err
    tacit("authority", "renew")
    tacit("server", "join", "front", "authority/answers/front.answer")
    tacit("server", "check", "front")


def test_check_finds_what_is_not_as_it_was(tacit: Tacit, three: str) -> None:
    shutil.copytree("front", "aside")

    def fault(change: Callable[[Path], object]) -> str:
        shutil.rmtree("front")
        shutil.copytree("aside", "front")
        change(Path("front"))
        return tacit("server", "check", "front", code=1).err

    other = server_folder.prepare(Path("other"), "front", ("localhost",), 9092, int(time.time()))
    assert other.name == "front"
    node = next(Path("front/nodes").glob("1-*")).name
    assert "others can read" in fault(lambda it: (it / "server.key").chmod(0o644))
    assert "server.key is not there" in fault(lambda it: (it / "server.key").unlink())
    assert "is not the key that was certified" in fault(
        lambda it: shutil.copy("other/server.key", it / "server.key")
    )
    assert "roster.bin is not as it was answered" in fault(lambda it: (it / "roster.bin").unlink())
    assert f"{node} is not as it was" in fault(lambda it: (it / "nodes" / node).write_bytes(b""))
    assert "an answer that cannot be used" in fault(
        lambda it: (it / "joined").write_bytes((it / "joined").read_bytes()[:-1])
    )
    assert "does not name 127.0.0.1" not in fault(lambda it: (it / "ca.crt").unlink())
    shutil.rmtree("front")
    shutil.copytree("aside", "front")
    (Path("front") / "roster.bin").unlink()
    tacit("server", "join", "front", "authority/answers/front.answer")
    tacit("server", "check", "front")


def test_a_server_goes_by_nothing_before_it_joins(tacit: Tacit) -> None:
    tacit("server", "init", "front", "--address", "localhost")
    assert "has joined no authority" in tacit("server", "check", "front", code=2).err


def test_nothing_that_is_printed_is_secret(tacit: Tacit, three: str) -> None:
    secrets = [Path("front/server.key").read_bytes()]
    secrets += [path.read_bytes() for path in Path("authority").glob("*.key")]
    shown = "".join(
        tacit(*line.split(), code=None).out
        for line in (
            "authority show --json",
            "authority renew --ca",
            "log show authority/audit.log",
            "device join ward-1 authority/answers/ward-1.answer",
            "server join front authority/answers/front.answer --json",
        )
    )
    for secret in secrets:
        assert secret.hex() not in shown
        assert secret.decode("latin-1") not in shown
    answer = decode_answer(Path("front/joined").read_bytes())
    assert isinstance(answer, ServerAnswer)
    with opened(Path("authority")) as authority:
        assert authority.identity.secret.hex() not in repr(authority)
