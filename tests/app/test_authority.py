"""An authority's acts: who is in afterwards, what is refused, crashes, thieves, and the log."""

import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from tacit.app import acts, register_file, server_folder
from tacit.app.authority import Authority, create, new_approver, opened, read_approver
from tacit.app.certificates import CA_DAYS, DAY, SKEW
from tacit.app.register import Register
from tacit.crypto.answers import DeviceAnswer, ServerAnswer, decode_answer
from tacit.crypto.approval import Approval, Trust
from tacit.crypto.certificate import public_of
from tacit.crypto.enrolment import DeviceRequest, ServerRequest
from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.identity import Identity, Roster
from tacit.crypto.nodekey import NodeKey
from tacit.server.auditlog import batches, verify
from tacit.server.entries import read
from tacit.server.kinds import RosterIssued
from tests.crashes import crash_everywhere

NOW = 1_800_000_000
BOB, EVE = Identity(b"b" * 32), Identity(b"e" * 32)


def device(name: str, seed: int, made: int = NOW) -> DeviceRequest:
    return DeviceRequest.signed(
        name, made, Identity(bytes([seed]) * 32), NodeKey(bytes([seed]) * 56)
    )


def server(name: str = "front", seed: int = 200, host: str = "localhost") -> ServerRequest:
    return ServerRequest.signed(name, NOW, (host,), 9092, NodeKey(bytes([seed]) * 56))


A, B, C = device("a", 1), device("b", 2), device("c", 3)
Make = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create(tmp_path / "authority", [], 365, NOW)
    return tmp_path / "authority"


@pytest.fixture
def full(folder: Path) -> Path:
    with opened(folder) as authority:
        acts.enrol(authority, [server(), A, B], NOW)
    return folder


def look(folder: Path) -> Register:
    with opened(folder) as authority:
        return authority.register


def answer(folder: Path, name: str) -> DeviceAnswer | ServerAnswer:
    return decode_answer((folder / "answers" / f"{name}.answer").read_bytes())


def told(folder: Path) -> list[str]:
    with (folder / "audit.log").open("rb") as file:
        entries = [read(entry).entry for batch in batches(file) for entry in batch.entries]
    return [type(entry).__name__ for entry in entries]


def issued(folder: Path) -> list[RosterIssued]:
    with (folder / "audit.log").open("rb") as file:
        entries = [read(entry).entry for batch in batches(file) for entry in batch.entries]
    return [entry for entry in entries if isinstance(entry, RosterIssued)]


def unchanged(
    folder: Path, act: Callable[[Authority], object], match: str, error: type = ParameterError
) -> None:
    """The act is refused, and all files are as before, but for the lock."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(error, match=match), opened(folder) as authority:
        act(authority)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    lock = {folder / "authority.lock": b""}
    assert before | lock == after | lock


# Acts


def test_a_new_authority_has_nobody_and_keys_of_its_own(folder: Path) -> None:
    register = look(folder)
    assert (register.serial, register.devices, register.servers) == (0, (), ())
    for path in folder.glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(list(folder.glob("*.key"))) == 2
    with pytest.raises(ParameterError, match="there, and not empty"):
        create(folder, [], 365, NOW)


def test_devices_get_numbers_and_answers(full: Path) -> None:
    with opened(full) as authority:
        written = acts.enrol(authority, [C], NOW + 5)
    assert {path.name for path in written} == {"c.answer", "front.answer"}
    said = answer(full, "c")
    assert isinstance(said, DeviceAnswer)
    assert (said.device, said.name, said.public, said.node) == (3, "c", C.public, C.node)
    assert said.issue.address == "localhost:9092"
    assert said.issue.issued == NOW + 5
    roster = Roster.decode((full / "roster.bin").read_bytes())
    roster.verify(said.issue.trust.authority)
    assert [member.device for member in roster.members] == [1, 2, 3]
    assert roster.member(3, now=NOW).valid_until == NOW + 5 + 365 * DAY
    for_server = answer(full, "front")
    assert isinstance(for_server, ServerAnswer)
    assert [node.name for node in for_server.nodes] == ["a", "b", "c"]
    assert for_server.issue.roster == roster


def test_each_act_issues_a_roster_with_the_next_serial_and_a_new_beacon(full: Path) -> None:
    seen = [look(full).roster]
    for act in (
        lambda authority: acts.enrol(authority, [C], NOW),
        lambda authority: acts.rotate(authority, "c", device("c", 4), NOW),
        lambda authority: acts.revoke(authority, "3", "lost", NOW),
        lambda authority: acts.renew(authority, NOW),
        lambda authority: acts.revoke(authority, "front", "", NOW),
    ):
        with opened(full) as authority:
            act(authority)
        seen.append(look(full).roster)
    assert [roster.serial for roster in seen if roster] == [1, 2, 3, 4, 5, 6]
    assert len({roster.beacon for roster in seen if roster}) == 6
    assert told(full) == [
        *("Certified", "Enrolled", "Enrolled", "RosterIssued"),
        *("Enrolled", "RosterIssued", "Rotated", "RosterIssued", "Revoked", "RosterIssued"),
        *("Renewed", "RosterIssued", "Dismissed", "RosterIssued"),
    ]
    assert [each.digest for each in issued(full)] == [r.digest().hex() for r in seen if r]
    whole = verify(full / "audit.log", look(full).trust.authority)
    assert whole.unfinished == 0


def test_a_revoked_device_is_out_for_good(full: Path) -> None:
    with opened(full) as authority:
        acts.revoke(authority, "a", "stolen", NOW)
    said = answer(full, "front")
    assert isinstance(said, ServerAnswer)
    assert [node.key for node in said.retired] == [A.node]
    assert [node.key for node in said.nodes] == [B.node]
    assert not (full / "answers" / "a.answer").exists()
    unchanged(full, lambda it: acts.enrol(it, [A], NOW), "enrolled already, or was")
    # Its node key with another identity is not let in, either.
    half = DeviceRequest.signed("x", NOW, Identity(b"x" * 32), NodeKey(bytes([1]) * 56))
    unchanged(full, lambda it: acts.enrol(it, [half], NOW), "enrolled already, or was")
    unchanged(full, lambda it: acts.revoke(it, "a", "", NOW), "was revoked already")
    with opened(full) as authority:
        acts.enrol(authority, [device("a", 9)], NOW)
    assert [each.number for each in look(full).devices] == [2, 3]  # 1 is not given again


def test_new_keys_retire_the_old_ones(full: Path) -> None:
    fresh = device("a", 7)
    with opened(full) as authority:
        acts.rotate(authority, "1", fresh, NOW)
    said = answer(full, "front")
    assert isinstance(said, ServerAnswer)
    assert [node.key for node in said.retired] == [A.node]
    assert look(full).find("a").public == fresh.public
    assert look(full).find("a").number == 1
    unchanged(full, lambda it: acts.rotate(it, "a", A, NOW), "enrolled already, or was")
    unchanged(full, lambda it: acts.rotate(it, "b", device("a", 8), NOW), "b that would change")
    unchanged(full, lambda it: acts.rotate(it, "a", server("a", 99), NOW), "request a server's")
    unchanged(full, lambda it: acts.rotate(it, "x", A, NOW), "no device x")


def test_a_server_may_move(full: Path) -> None:
    with opened(full) as authority:
        acts.rotate(authority, "front", server(seed=201, host="other.example.org"), NOW)
    said = answer(full, "front")
    assert isinstance(said, ServerAnswer)
    assert public_of(said.certificate) == server(seed=201).key
    assert said.issue.address == "other.example.org:9092"
    unchanged(full, lambda it: acts.rotate(it, "front", device("front", 5), NOW), "a device's")


@pytest.mark.parametrize(
    ("requests", "match"),
    [
        ([A], "enrolled already"),
        ([device("A", 5)], "taken"),  # on some file systems the same file
        ([device("front", 5)], "taken"),
        ([C, device("c", 5)], "taken"),
        ([device("D", 5), device("d", 6)], "taken"),
        ([C, device("d", 3)], "enrolled already"),
        ([server("back")], "enrolled already"),
        ([replace(C, public=A.public)], "enrolled already"),
        ([C, device("d", 5, NOW + SKEW + 1)], "made 301 s from now"),
    ],
)
def test_all_are_let_in_or_none(full: Path, requests: list[DeviceRequest], match: str) -> None:
    unchanged(full, lambda authority: acts.enrol(authority, requests, NOW), match)


def test_an_authority_that_ended_does_nothing_but_renew(full: Path) -> None:
    late = NOW + (CA_DAYS + 1) * DAY
    for act in (
        lambda it: acts.enrol(it, [C], late),
        lambda it: acts.enrol(it, [server("back", 99)], late),
        lambda it: acts.revoke(it, "a", "", late),
        lambda it: acts.renew(it, late),
    ):
        unchanged(full, act, "the CA's certificate ended on .*tacit authority renew --ca")
    unchanged(full, lambda it: acts.revoke(it, "a", "", NOW - DAY), "set the clock")
    with opened(full) as authority:
        written = acts.renew(authority, late, ca="certificate")
    assert {path.name for path in written} == {"a.answer", "b.answer", "front.answer"}
    assert look(full).find("a").until == late + 365 * DAY


def test_a_ca_is_renewed_with_its_key_or_another(full: Path) -> None:
    before = look(full).ca
    with opened(full) as authority:
        acts.renew(authority, NOW + DAY, ca="certificate")
    same = look(full).ca
    assert same != before
    assert public_of(same) == public_of(before)
    with opened(full) as authority:
        acts.renew(authority, NOW + DAY, ca="key")
    other = look(full).ca
    assert public_of(other) != public_of(before)
    with opened(full) as authority:
        acts.enrol(authority, [server("back", 99)], NOW + DAY)  # by the new key


def test_an_authority_that_was_set_back_goes_on_above(full: Path) -> None:
    with opened(full) as authority:
        acts.renew(authority, NOW, serial=50)
    assert look(full).serial == 50
    with opened(full) as authority:
        acts.renew(authority, NOW, serial=3)
    assert look(full).serial == 51


# Two people


@pytest.fixture
def two(tmp_path: Path) -> Path:
    create(tmp_path / "two", [BOB.public], 365, NOW)
    return tmp_path / "two"


def test_an_act_takes_a_second_person(two: Path) -> None:
    for act in (
        lambda it: acts.enrol(it, [A], NOW),
        lambda it: acts.renew(it, NOW),
        lambda it: acts.renew(it, NOW, ca="key"),  # and leaves no key behind
    ):
        unchanged(two, act, "nothing was done: acts of this authority take a second person")
    unchanged(two, lambda it: acts.enrol(it, [A], NOW, EVE), "none of this authority's approvers")
    with opened(two) as authority:
        acts.enrol(authority, [A, server()], NOW, BOB)
    for act in (
        lambda it: acts.revoke(it, "a", "", NOW),
        lambda it: acts.rotate(it, "a", device("a", 5), NOW),
        lambda it: acts.revoke(it, "front", "", NOW),
    ):
        unchanged(two, act, "nothing was done")


def test_the_second_signature_is_kept_with_the_act(two: Path) -> None:
    with opened(two) as authority:
        acts.enrol(authority, [A], NOW, BOB)
    register, (entry,) = look(two), issued(two)
    assert register.roster is not None
    with (two / "audit.log").open("rb") as file:
        first = next(b for b in batches(file) if b.entries).entries[0]
    act = sha256(sha256(first).digest()).digest()
    assert entry.act == act.hex()
    approval = Approval(bytes.fromhex(entry.approver), act, bytes.fromhex(entry.approval))
    assert approval == register.approval
    assert approval.is_for(register.roster, register.trust)


def test_an_approver_is_not_needed_where_none_was_named(folder: Path) -> None:
    unchanged(folder, lambda it: acts.enrol(it, [A], NOW, BOB), "none of this authority's")


def test_a_stolen_authority_does_not_convince_a_server(two: Path, tmp_path: Path) -> None:
    """A thief has the authority's key and the CA's, and not Bob's."""
    asked = server_folder.prepare(tmp_path / "server", "front", ("localhost",), 9092, NOW)
    with opened(two) as authority:
        acts.enrol(authority, [A, B, asked], NOW, BOB)
    good = answer(two, "front")
    assert isinstance(good, ServerAnswer)
    server_folder.join(tmp_path / "server", good, NOW)
    thief = Identity((two / "authority.key").read_bytes())
    mine = device("evil", 66)
    held = good.issue.roster.members
    member = replace(held[0], device=3, public=mine.public)
    roster = Roster.signed(thief, 2, [*held, member], bytes(32))
    nodes = (*good.nodes, replace(good.nodes[0], device=3, key=mine.node))
    # Without an approval, or with that of an earlier roster, it is no answer at all.
    for approval in (None, good.issue.approval):
        issue = replace(good.issue, roster=roster, approval=approval)
        forged = ServerAnswer.signed(thief, issue, "front", good.key, good.certificate, nodes, ())
        with pytest.raises(Damaged, match="not approved"):
            decode_answer(forged.encode())
        (tmp_path / "copy").mkdir()
        shutil.copytree(tmp_path / "server", tmp_path / "copy", dirs_exist_ok=True)
        (tmp_path / "copy" / "joined").write_bytes(forged.encode())
        with pytest.raises(Damaged, match="not approved"):
            server_folder.faults(tmp_path / "copy", NOW)
        shutil.rmtree(tmp_path / "copy")
    # With no approvers, or the thief's own, it is one, and this server knows better.
    for approvers in ((), (EVE.public,)):
        trust = Trust(thief.public, approvers)
        issue = replace(
            good.issue, trust=trust, roster=roster, approval=Approval.signed(EVE, roster, bytes(32))
        )
        forged = ServerAnswer.signed(thief, issue, "front", good.key, good.certificate, nodes, ())
        found = decode_answer(forged.encode())
        assert isinstance(found, ServerAnswer)
        with pytest.raises(ParameterError, match="other approvers than this server knows"):
            server_folder.join(tmp_path / "server", found, NOW)
    # A roster that is put where the ServerApp reads it shows, too.
    (tmp_path / "server" / "roster.bin").write_bytes(roster.encode())
    (fault,) = server_folder.faults(tmp_path / "server", NOW)
    assert "roster.bin is not as it was answered" in fault


def test_an_approvers_key_is_made_once(tmp_path: Path) -> None:
    public = new_approver(tmp_path / "bob.key")
    assert read_approver(tmp_path / "bob.key").public == public
    assert (tmp_path / "bob.key.pub").read_text() == public.hex() + "\n"
    assert stat.S_IMODE((tmp_path / "bob.key").stat().st_mode) == 0o600
    with pytest.raises(ParameterError, match="already"):
        new_approver(tmp_path / "bob.key")
    (tmp_path / "bob.key.pub").unlink()
    with pytest.raises(ParameterError, match="already"):
        new_approver(tmp_path / "bob.key")
    for path in (tmp_path / "none", tmp_path, tmp_path / "long"):
        (tmp_path / "long").write_bytes(bytes(33))
        with pytest.raises(ParameterError, match="is no key that"):
            read_approver(path)


# Faults


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("register", "register is not what it wrote"),
        ("audit.log", "record|head|header|log"),
        ("authority.key", "register is not what it wrote"),
    ],
)
def test_a_folder_that_was_altered_is_damaged(full: Path, name: str, match: str) -> None:
    data = (full / name).read_bytes()
    for at in range(0, len(data), max(1, len(data) // 12)):
        (full / name).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises((Damaged, ParameterError), match=match), opened(full):
            pass
    (full / name).write_bytes(data)
    look(full)


def test_a_file_that_is_missing_is_named(full: Path) -> None:
    for name, match in (
        ("register", "register is not there"),
        ("authority.key", "authority.key cannot be read"),
        ("audit.log", "no audit log"),
    ):
        (full / name).rename(full / "aside")
        with pytest.raises((Damaged, ParameterError), match=match), opened(full):
            pass
        (full / "aside").rename(full / name)
    with pytest.raises(ParameterError, match="no authority in"), opened(full / "answers"):
        pass


def test_a_lost_ca_key_does_not_stop_a_revocation(full: Path) -> None:
    next(full.glob("ca-*.key")).unlink()
    unchanged(full, lambda it: acts.renew(it, NOW), "CA's key, .* is not there", Damaged)
    with opened(full) as authority:
        acts.revoke(authority, "a", "", NOW)


def test_an_older_register_does_not_fit_its_log(full: Path) -> None:
    old = (full / "register").read_bytes()
    with opened(full) as authority:
        acts.revoke(authority, "a", "", NOW)
    (full / "register").write_bytes(old)
    with pytest.raises(Damaged, match="taken from another time"), opened(full):
        pass


def test_one_process_at_a_time(full: Path) -> None:
    with opened(full), pytest.raises(ParameterError, match="another process"), opened(full):
        pass
    look(full)


def test_what_was_published_is_published_again(full: Path) -> None:
    (full / "roster.bin").unlink()
    shutil.rmtree(full / "answers")
    before = look(full)
    assert Roster.decode((full / "roster.bin").read_bytes()) == before.roster
    assert answer(full, "a") == answer(full, "a")
    assert isinstance(answer(full, "front"), ServerAnswer)


def test_a_register_comes_back_as_it_was(full: Path) -> None:
    identity = Identity((full / "authority.key").read_bytes())
    for register in (look(full), replace(look(full), roster=None, approval=None)):
        data = register_file.encode(register, identity)
        assert register_file.decode(data, identity.public) == register
        for wrong in (data + b"\0", data[:-1], b"", data[:80]):
            with pytest.raises(Damaged):
                register_file.decode(wrong, identity.public)
        with pytest.raises(Damaged):
            register_file.decode(data, EVE.public)


def test_a_crash_anywhere_leaves_the_act_done_or_not(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spare = full.parent / "spare"
    shutil.copytree(full, spare)

    def begin() -> None:
        shutil.rmtree(full)
        shutil.copytree(spare, full)
        with opened(full) as authority:
            acts.enrol(authority, [C], NOW)

    done = set()

    def then() -> None:
        register = look(full)
        is_done = register.serial == 2
        done.add(is_done)
        assert len(register.devices) == 2 + is_done
        assert told(full)[4:] == (["Enrolled", "RosterIssued"] if is_done else [])
        assert register.roster is not None
        assert (full / "roster.bin").read_bytes() == register.roster.encode()
        for name in ("front", "c")[: 1 + is_done]:
            assert answer(full, name).issue.roster == register.roster
        assert issued(full)[-1].digest == register.roster.digest().hex()
        if not is_done:
            with opened(full) as authority:
                acts.enrol(authority, [C], NOW)
            assert look(full).serial == 2

    assert crash_everywhere(monkeypatch, begin, then) > 8
    assert done == {True, False}


def test_a_log_that_a_crash_cut_short_is_finished(full: Path) -> None:
    size = (full / "audit.log").stat().st_size
    with opened(full) as authority:
        acts.enrol(authority, [C], NOW)
    whole = (full / "audit.log").read_bytes()
    for length in range(size, len(whole), 37):
        (full / "audit.log").write_bytes(whole[:length])
        look(full)
        assert told(full)[-2:] == ["Enrolled", "RosterIssued"]


def test_no_secret_is_shown_or_written_elsewhere(two: Path) -> None:
    with opened(two) as authority:
        acts.enrol(authority, [A, server()], NOW, BOB)
        shown = repr(authority)
    secrets = [path.read_bytes() for path in two.glob("*.key")] + [BOB.secret]
    for secret in secrets:
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
        for path in two.rglob("*"):
            if path.is_file() and path.suffix != ".key":
                assert secret not in path.read_bytes()
