"""Which bundles a device runs: what its owner said, and nothing that a server says."""

from pathlib import Path

import pytest

from tacit.client.node import bundles
from tacit.client.node.bundles import Bundles
from tacit.client.vault import FileVault
from tacit.crypto.errors import ParameterError

OWN, NEW, OTHER = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture
def vault(tmp_path: Path) -> FileVault:
    return FileVault.create(tmp_path / "vault", bytes(32))


def test_at_first_it_is_the_installed_one_alone(vault: FileVault) -> None:
    allowed = bundles.load(vault)
    assert allowed.allow(OWN, OWN)
    assert not allowed.allow(OTHER, OWN)
    assert allowed.all(OWN) == [OWN]


def test_after_an_update_it_is_the_new_one_and_not_the_old(vault: FileVault) -> None:
    bundles.change(vault, OWN, add=[OTHER])
    allowed = bundles.load(vault)
    assert allowed.allow(NEW, NEW)
    assert not allowed.allow(OWN, NEW)
    assert allowed.all(NEW) == [NEW, OTHER]


def test_what_is_removed_stays_away_and_can_come_back(vault: FileVault) -> None:
    bundles.change(vault, OWN, add=[OTHER])
    assert bundles.change(vault, OWN, remove=[OWN]) == Bundles(False, frozenset([OTHER]))
    assert not bundles.load(vault).allow(OWN, OWN)
    assert not bundles.load(vault).allow(NEW, NEW), "an update would bring it back"
    bundles.change(vault, OWN, add=[OWN], remove=[OTHER])
    assert bundles.load(vault) == Bundles()


def test_one_that_was_allowed_by_name_can_be_removed_when_it_is_the_installed_one(
    vault: FileVault,
) -> None:
    bundles.change(vault, OWN, add=[NEW])
    bundles.change(vault, NEW, remove=[NEW])
    assert bundles.load(vault).all(NEW) == []


def test_removing_what_is_not_there_changes_nothing(vault: FileVault) -> None:
    with pytest.raises(ParameterError, match="not allowed anyway"):
        bundles.change(vault, OWN, add=[NEW], remove=[OTHER])
    assert bundles.load(vault) == Bundles()


@pytest.mark.parametrize("data", [b"", b"[]", b'{"own": 1}', b'{"own": true, "others": ["x"]}'])
def test_a_list_that_cannot_be_read_allows_nothing(vault: FileVault, data: bytes) -> None:
    vault.write("bundles", data)
    with pytest.raises(ParameterError):
        bundles.load(vault)


def test_another_devices_list_is_not_taken(vault: FileVault, tmp_path: Path) -> None:
    other = FileVault.create(tmp_path / "other", bytes([1] * 32))
    bundles.change(other, OWN, add=[OTHER])
    (vault.folder / "bundles.sealed").write_bytes((other.folder / "bundles.sealed").read_bytes())
    with pytest.raises(ParameterError, match="damaged"):
        bundles.load(vault)


@pytest.mark.parametrize("text", ["", "a" * 63, "g" * 64, "a" * 65, "0x" + "a" * 62])
def test_what_is_no_hash(text: str) -> None:
    with pytest.raises(ParameterError, match="no SHA-256"):
        bundles.parse(text)


def test_a_hash_may_be_written_large() -> None:
    assert bundles.parse(" " + "AB" * 32 + "\n") == "ab" * 32
