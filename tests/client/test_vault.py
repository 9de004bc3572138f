"""The device's drawers: durable, sealed, and each content taken once."""

import errno
import os
import stat
from pathlib import Path

import pytest
from flwr.app import RecordDict
from hypothesis import given
from hypothesis import strategies as st

from tacit.client.vault import ContextVault, FileVault, Vault, is_locked, locked
from tacit.crypto.errors import ParameterError

SECRET = b"the secret of a device"


@pytest.fixture
def vault(tmp_path: Path) -> FileVault:
    return FileVault.create(tmp_path / "vault", bytes(range(32)))


@pytest.fixture(params=["file", "context"])
def any_vault(request: pytest.FixtureRequest, tmp_path: Path) -> Vault:
    if request.param == "file":
        return FileVault.create(tmp_path / "vault", os.urandom(32))
    return ContextVault(RecordDict())


def files(vault: FileVault) -> list[Path]:
    return sorted(vault.folder.iterdir())


def test_write_read_take(any_vault: Vault) -> None:
    assert any_vault.read("a") is None
    assert any_vault.take("a") is None
    any_vault.write("a", SECRET)
    any_vault.write("b", b"")
    assert any_vault.read("a") == any_vault.read("a") == SECRET
    any_vault.write("a", b"second")
    assert any_vault.take("a") == b"second"
    assert any_vault.read("a") is None
    assert any_vault.take("a") is None
    assert any_vault.read("b") == b""


def test_what_is_written_is_there_for_the_next_process(vault: FileVault) -> None:
    vault.write("a", SECRET)
    assert FileVault.open(vault.folder).read("a") == SECRET
    assert FileVault.open(vault.folder).take("a") == SECRET
    assert vault.read("a") is None


def test_files_are_the_owners_and_sealed(vault: FileVault) -> None:
    vault.write("a", SECRET)
    for file in files(vault):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert SECRET not in file.read_bytes()
    assert stat.S_IMODE(vault.folder.stat().st_mode) == 0o700


def test_no_two_writes_look_alike(vault: FileVault) -> None:
    seen = set()
    for _ in range(20):
        vault.write("a", SECRET)
        seen.add((vault.folder / "a.sealed").read_bytes())
    assert len(seen) == 20


def test_a_wider_umask_does_not_widen_the_files(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        vault = FileVault.create(tmp_path / "vault", bytes(32))
        vault.write("a", SECRET)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in files(vault)} == {0o600}


def test_every_altered_byte_is_noticed(vault: FileVault) -> None:
    vault.write("a", SECRET)
    file = vault.folder / "a.sealed"
    sealed = file.read_bytes()
    for at in range(len(sealed)):
        file.write_bytes(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])
        with pytest.raises(ParameterError, match="slot 'a' of the vault is damaged"):
            vault.read("a")
    for size in range(len(sealed)):
        file.write_bytes(sealed[:size])
        with pytest.raises(ParameterError, match="damaged"):
            vault.take("a")
    file.write_bytes(sealed)
    assert vault.take("a") == SECRET


def test_a_slot_under_another_name_is_noticed(vault: FileVault) -> None:
    vault.write("a", SECRET)
    vault.write("b", b"other")
    (vault.folder / "a.sealed").replace(vault.folder / "b.sealed")
    with pytest.raises(ParameterError, match="slot 'b' of the vault is damaged"):
        vault.read("b")


def test_a_slot_of_another_vault_is_noticed(vault: FileVault, tmp_path: Path) -> None:
    other = FileVault.create(tmp_path / "other", bytes(32))
    other.write("a", SECRET)
    (vault.folder / "a.sealed").write_bytes((other.folder / "a.sealed").read_bytes())
    with pytest.raises(ParameterError, match="damaged"):
        vault.read("a")


def test_a_vault_is_never_written_over(vault: FileVault) -> None:
    vault.write("a", SECRET)
    with pytest.raises(ParameterError, match="there is a vault in"):
        FileVault.create(vault.folder, bytes(32))
    assert vault.read("a") == SECRET


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_size_makes_no_vault(tmp_path: Path, size: int) -> None:
    with pytest.raises(ParameterError, match="32 random bytes"):
        FileVault.create(tmp_path / "vault", bytes(size))
    assert not (tmp_path / "vault").exists()


def test_no_vault_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"no vault in .*FileVault\.create"):
        FileVault.open(tmp_path / "nothing")
    (tmp_path / FileVault.KEY_FILE).write_bytes(b"short")
    with pytest.raises(ParameterError, match=r"the key of the vault in .* is damaged"):
        FileVault.open(tmp_path)


@pytest.mark.parametrize("slot", ["", "../a", "a/b", "a.b", "a b", "/a", "."])
def test_a_slot_is_a_plain_name(vault: FileVault, slot: str) -> None:
    for act in (vault.read, vault.take, lambda s: vault.write(s, SECRET)):
        with pytest.raises(ParameterError, match="plain name"):
            act(slot)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_content(
    vault: FileVault, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    vault.write("a", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os if step == "fsync" else Path, step, crash)
        with pytest.raises(PowerCut):
            vault.write("a", b"new")
    again = FileVault.open(vault.folder)
    assert again.read("a") == b"old"
    again.write("a", b"newer")  # what the crash left lying about is in nobody's way
    assert again.read("a") == b"newer"
    left = [file.suffix for file in files(vault) if file.suffix != ".new"]
    assert left == [".sealed", ".key", ".use"]


def test_content_is_on_the_disk_before_its_name_is(
    vault: FileVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync of the file, then the rename, then fsync of the folder."""
    steps: list[str] = []
    sync, replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def rename(path: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    vault.write("a", SECRET)
    assert steps == ["file", "rename", "folder"]
    steps.clear()
    vault.take("a")
    assert steps == ["folder"]


def test_a_crash_while_taking_gives_nothing_out(
    vault: FileVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.write("a", SECRET)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", crash)
        with pytest.raises(PowerCut):
            vault.take("a")  # it raises: nobody was handed the state
    assert vault.take("a") is None
    with monkeypatch.context() as patch:
        vault.write("a", SECRET)
        patch.setattr(os, "fsync", crash)
        with pytest.raises(PowerCut):
            vault.take("a")  # nor here, though it is gone
    assert vault.take("a") is None


def test_of_two_who_take_at_once_one_gets_it_and_the_other_takes_nothing_newer(
    vault: FileVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the removal of one, another process takes the state and writes the
    next: that stays."""
    vault.write("a", SECRET)
    opened, others = FileVault._opened, []

    def slow(self: FileVault, slot: str, sealed: bytes) -> bytes:
        if not others:
            others.append(b"")
            others.append(FileVault.open(vault.folder).take("a"))
            vault.write("a", b"next")
        return opened(self, slot, sealed)

    monkeypatch.setattr(FileVault, "_opened", slow)
    taken = [vault.take("a"), others[1]]
    assert sorted(taken, key=str) == sorted([None, SECRET], key=str)
    assert vault.read("a") == b"next"


def test_nothing_is_written_into_a_file_that_was_put_there(vault: FileVault) -> None:
    """Someone who can write to the folder, but not read our files, prepares readable ones."""
    for name in ("a.new", "a.sealed.new", "a.sealed"):
        (vault.folder / name).touch()
        (vault.folder / name).chmod(0o666)
    with (vault.folder / "a.sealed").open("rb") as watched:
        vault.write("a", SECRET)
        assert watched.read() == b""
    assert stat.S_IMODE((vault.folder / "a.sealed").stat().st_mode) == 0o600


def test_the_key_stays_out_of_repr(vault: FileVault) -> None:
    assert repr(vault) == f"FileVault(folder={vault.folder!r})"
    state = RecordDict()
    ContextVault(state).write("a", SECRET)
    assert "secret" not in repr(ContextVault(state))


@given(content=st.binary(max_size=300))
def test_any_content_comes_back(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    vault = FileVault.create(tmp_path_factory.mktemp("v") / "vault", bytes(32))
    vault.write("a", content)
    assert vault.read("a") == content


class PowerCut(BaseException):
    """Not an Exception: nothing that catches errors may go on after it."""


def crash(*_: object, **__: object) -> None:
    raise PowerCut


@pytest.mark.parametrize("act", ["write", "take"])
def test_what_a_crash_leaves_lying_about_is_tidied_up(
    vault: FileVault, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    vault.write("a", SECRET)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace" if act == "write" else "unlink", crash)
        with pytest.raises(PowerCut):
            vault.write("a", b"new") if act == "write" else vault.take("a")
    (left,) = vault.leftovers()
    assert vault.tidy() == [left]
    assert not vault.leftovers()
    assert vault.read("a") == (SECRET if act == "write" else None)
    assert vault.tidy() == []


def test_tidying_takes_nothing_from_those_who_write(
    vault: FileVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    writers = []
    for number in range(3):
        if (child := os.fork()) == 0:
            for _ in range(200):
                vault.write(f"slot{number}", SECRET)
                if vault.take(f"slot{number}") != SECRET:
                    os._exit(1)
            os._exit(0)
        writers.append(child)
    ended: list[int] = []
    while len(ended) < 3:
        vault.tidy()
        found = (os.waitpid(child, os.WNOHANG) for child in writers if child not in ended)
        for child, status in found:
            if child:
                assert status == 0
                ended.append(child)
    assert not vault.leftovers()


def test_a_full_disk_is_not_filled_with_beginnings(
    vault: FileVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    vault.write("a", SECRET)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            vault.write("a", b"new")
    assert not vault.leftovers()
    assert vault.read("a") == SECRET


def test_whether_somebody_has_a_lock_is_asked_without_making_one(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not is_locked(lock)
    assert not lock.exists()
    with locked(lock):
        assert is_locked(lock)
    assert not is_locked(lock)
