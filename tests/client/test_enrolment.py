"""A device joins, renews and joins again: whom it believes, what it refuses, and after crashes."""

import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from tacit.app.certificates import DAY, new_ca
from tacit.client.device import is_enrolled, load_device
from tacit.client.enrolment import (
    ADDRESS,
    CA,
    NODE_KEY,
    NODE_PUBLIC,
    SKEW,
    check,
    join,
    name_of,
    prepare,
    renew,
)
from tacit.client.policy import Policy
from tacit.client.vault import FileVault
from tacit.crypto.answers import DeviceAnswer, Issue, decode_answer
from tacit.crypto.approval import Trust
from tacit.crypto.certificate import pem
from tacit.crypto.enrolment import DeviceRequest, decode_request
from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import Identity, Member, Roster
from tacit.crypto.nodekey import NodeKey, compressed
from tests.crashes import crash_everywhere

NOW = 1_800_000_000
AUTHORITY, EVE = Identity(b"a" * 32), Identity(b"e" * 32)
CERTIFICATE = new_ca(NodeKey(b"c" * 56), NOW)
POLICY = Policy(min_cohort=7, max_norm=2.0)


def answer(
    request: DeviceRequest,
    serial: int = 1,
    *,
    device: int = 1,
    at: int = NOW,
    until: int = NOW + DAY,
    signer: Identity = AUTHORITY,
    beacon: bytes = bytes(32),
) -> DeviceAnswer:
    roster = Roster.signed(signer, serial, [Member(device, request.public, until)], beacon)
    said = Issue(Trust(signer.public), at, CERTIFICATE, "fl.example.org:9092", roster, None)
    made = DeviceAnswer.signed(signer, said, device, request.name, request.public, request.node)
    found = decode_answer(made.encode())
    assert isinstance(found, DeviceAnswer)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "vault"


@pytest.fixture
def request_(folder: Path) -> DeviceRequest:
    return prepare(folder, "ward-3", POLICY, NOW)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def unchanged(folder: Path, refused: DeviceAnswer, match: str, now: int = NOW) -> None:
    before = files(folder)
    for act in (join, check):
        with pytest.raises(ParameterError, match=match):
            act(FileVault.open(folder), refused, now)
    assert files(folder) | {"vault.lock": b""} == before | {"vault.lock": b""}


def test_a_vault_waits_for_its_answer(folder: Path, request_: DeviceRequest) -> None:
    assert decode_request((folder / "ward-3.request").read_bytes()) == request_
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    vault = FileVault.open(folder)
    assert name_of(vault) == "ward-3"
    assert not is_enrolled(vault)
    with pytest.raises(ParameterError, match="enrol it first"):
        load_device(vault)
    with pytest.raises(ParameterError, match="not joined yet"):
        renew(vault, NOW)


def test_a_device_is_who_the_answer_says(folder: Path, request_: DeviceRequest) -> None:
    said = answer(request_, device=5)
    joined = join(FileVault.open(folder), said, NOW)
    device = load_device(FileVault.open(folder))
    assert (joined.device.number, device.number, joined.changed) == (5, 5, True)
    assert device.identity.public == request_.public
    assert (device.authority, device.policy) == (AUTHORITY.public, POLICY)
    assert device.vault.read("roster") == said.issue.roster.encode()
    key = load_ssh_private_key((folder / NODE_KEY).read_bytes(), None)
    assert compressed(key.public_key()) == request_.node  # type: ignore[union-attr,arg-type]
    assert stat.S_IMODE((folder / NODE_KEY).stat().st_mode) == 0o600
    assert (folder / CA).read_bytes() == pem(CERTIFICATE)
    assert (folder / ADDRESS).read_text() == "fl.example.org:9092\n"
    assert (folder / NODE_PUBLIC).read_bytes().startswith(b"ecdsa-sha2-nistp384 ")
    assert not (folder / "ward-3.request").exists()


def test_nothing_is_overwritten(folder: Path, request_: DeviceRequest) -> None:
    before = files(folder)
    with pytest.raises(ParameterError, match="there, and not empty"):
        prepare(folder, "ward-3", POLICY, NOW)
    (folder.parent / "file").write_bytes(b"x")
    with pytest.raises(ParameterError, match="a file at"):
        prepare(folder.parent / "file", "ward-3", POLICY, NOW)
    assert files(folder) == before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["file", "vault"]
    with pytest.raises(ParameterError, match="is no name"):
        prepare(folder.parent / "other", "../x", POLICY, NOW)
    assert not (folder.parent / "other").exists()


def test_an_answer_to_others_is_refused(folder: Path, request_: DeviceRequest) -> None:
    theirs = prepare(folder.parent / "other", "ward-4", POLICY, NOW)
    unchanged(folder, answer(theirs), "for ward-4, with other keys than this vault's, ward-3")
    unchanged(folder, answer(replace(theirs, name="ward-3")), "for another device")
    # Its identity and somebody else's node key, as a confused authority could answer.
    unchanged(folder, answer(replace(request_, node=theirs.node)), "other keys")


def test_a_device_belongs_to_one_authority(folder: Path, request_: DeviceRequest) -> None:
    join(FileVault.open(folder), answer(request_), NOW)
    unchanged(folder, answer(request_, 2, signer=EVE), "has joined another authority")


def test_an_old_answer_is_refused(folder: Path, request_: DeviceRequest) -> None:
    join(FileVault.open(folder), answer(request_, 5), NOW)
    unchanged(folder, answer(request_, 4), "old: its roster is number 4, and number 5")
    unchanged(folder, answer(request_, 5, beacon=b"1" * 32), "two rosters with the number 5")
    again = join(FileVault.open(folder), answer(request_, 5), NOW)
    assert not again.changed
    assert not join(FileVault.open(folder), answer(request_, 6), NOW).changed
    assert load_device(FileVault.open(folder)).policy == POLICY


def test_a_roster_that_the_server_showed_counts_too(folder: Path, request_: DeviceRequest) -> None:
    """At run time devices take newer rosters from the server: see `tacit.client.app`."""
    join(FileVault.open(folder), answer(request_, 5), NOW)
    newer = answer(request_, 9).issue.roster
    FileVault.open(folder).write("roster", newer.encode())
    unchanged(folder, answer(request_, 8), "number 8, and number 9")


def test_clocks_and_terms(folder: Path, request_: DeviceRequest) -> None:
    unchanged(folder, answer(request_, at=NOW + SKEW + 1), "set the clock")
    unchanged(folder, answer(request_, until=NOW - 1), "membership is over")
    unchanged(folder, answer(request_, until=1 << 40), "CA's certificate ended", NOW + 4000 * DAY)
    unchanged(folder, answer(request_, at=0), "valid from .*set the clock", NOW - DAY)
    join(FileVault.open(folder), answer(request_, at=NOW + SKEW, until=NOW), NOW)


def test_an_enrolled_device_does_not_become_another(folder: Path, request_: DeviceRequest) -> None:
    join(FileVault.open(folder), answer(request_, device=3), NOW)
    asked = renew(FileVault.open(folder), NOW)
    unchanged(folder, answer(asked, 2, device=4), "device 3, and the answer makes it 4")


def test_new_keys_hold_when_they_are_answered(folder: Path, request_: DeviceRequest) -> None:
    vault = FileVault.open(folder)
    join(vault, answer(request_), NOW)
    vault.write("ledger", b"what was spent")
    before = (folder / NODE_KEY).read_bytes()
    first, second = renew(vault, NOW), renew(vault, NOW)
    assert len({request_.public, first.public, second.public}) == 3
    assert load_device(vault).identity.public == request_.public
    assert (folder / NODE_KEY).read_bytes() == before
    unchanged(folder, answer(first, 2), "an earlier request")
    # Meanwhile it takes a newer certificate for the old keys, and goes on waiting.
    assert not join(vault, answer(request_, 2), NOW).changed
    assert join(vault, answer(second, 3), NOW).changed
    device = load_device(vault)
    assert (device.identity.public, device.number, device.policy) == (second.public, 1, POLICY)
    assert vault.read("ledger") == b"what was spent"
    assert (folder / NODE_KEY).read_bytes() != before
    unchanged(folder, answer(request_, 4), "with other keys")


def test_a_vault_made_by_hand_says_that_it_was(folder: Path, request_: DeviceRequest) -> None:
    FileVault.create(folder.parent / "hand", bytes(32))
    unchanged(folder.parent / "hand", answer(request_), "was not made by tacit device init")


def test_a_vault_is_made_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin() -> None:
        prepare(tmp_path / "new", "ward-3", POLICY, NOW)

    def then() -> None:
        left = [path for path in tmp_path.iterdir() if path.suffix != ".new"]
        if left:  # the crash was after the renaming
            assert [path.name for path in left] == ["new"]
            decode_request((tmp_path / "new" / "ward-3.request").read_bytes())
            assert name_of(FileVault.open(tmp_path / "new")) == "ward-3"
            shutil.rmtree(left[0])

    assert crash_everywhere(monkeypatch, begin, then) > 5


def test_joining_can_be_stopped_and_started_over(
    folder: Path, request_: DeviceRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First joining, and with new keys: the device is the old one or the new one, and a second
    call makes it the new one."""
    for said in (answer(request_), None):
        if said is None:
            said = answer(renew(FileVault.open(folder), NOW), 2)
        spare = folder.parent / "spare"
        shutil.copytree(folder, spare)

        def begin(said: DeviceAnswer = said, spare: Path = spare) -> None:
            shutil.rmtree(folder)
            shutil.copytree(spare, folder)
            join(FileVault.open(folder), said, NOW)

        def then(said: DeviceAnswer = said) -> None:
            vault = FileVault.open(folder)
            if is_enrolled(vault):
                assert load_device(vault).identity.public in (request_.public, said.public)
                assert load_device(vault).policy == POLICY
            join(vault, said, NOW)
            assert load_device(vault).identity.public == said.public
            key = load_ssh_private_key((folder / NODE_KEY).read_bytes(), None)
            assert compressed(key.public_key()) == said.node  # type: ignore[union-attr,arg-type]

        assert crash_everywhere(monkeypatch, begin, then) > 8
        shutil.rmtree(spare)


def test_secrets_are_sealed_and_not_shown(folder: Path, request_: DeviceRequest) -> None:
    vault = FileVault.open(folder)
    pending = vault.read("pending")
    assert pending is not None
    joined = join(vault, answer(request_), NOW)
    secret, node = pending[:32], pending[32:]
    assert Identity(secret).public == request_.public
    shown = repr(joined) + repr(request_) + repr(vault)
    for each in (secret, node):
        assert all(each not in content for content in files(folder).values())
        assert each.hex() not in shown
        assert repr(each)[2:-1] not in shown
    assert vault.read("pending") is None
    assert not (folder / "pending.sealed").exists()
