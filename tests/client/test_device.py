"""Who a device is: read back as it was saved, and told by its owner alone."""

import logging
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict, UserConfig

from tacit.client.device import (
    SIMULATION,
    Device,
    enrolled_device,
    load_device,
    save_device,
    simulated_device,
)
from tacit.client.policy import Policy
from tacit.client.vault import ContextVault, FileVault
from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import Identity
from tacit.crypto.simulated import simulated_authority, simulated_identity

IDENTITY = Identity(bytes(range(32)))
AUTHORITY = Identity(bytes(range(32, 64)))
POLICY = Policy(min_cohort=9, max_norm=1.5, models=("ab" * 32, "cd" * 32))


def context(run_config: UserConfig | None = None, **node: str | int) -> Context:
    config: UserConfig = {name.replace("_", "-"): value for name, value in node.items()}
    return Context(1, 2, config, RecordDict(), run_config or {})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    vault = FileVault.create(tmp_path / "vault", bytes(32))
    save_device(vault, 5, IDENTITY, AUTHORITY.public, POLICY)
    return vault.folder


def test_a_device_comes_back_as_it_was_saved(saved: Path) -> None:
    device = enrolled_device(context(vault=str(saved)))
    assert (device.number, device.identity, device.authority) == (5, IDENTITY, AUTHORITY.public)
    assert device.policy == POLICY
    assert device.vault.read("device") is not None


def test_the_owners_policy_is_the_default_one_unless_it_is_written(tmp_path: Path) -> None:
    vault = FileVault.create(tmp_path / "vault", bytes(32))
    save_device(vault, 5, IDENTITY, AUTHORITY.public)
    assert load_device(vault).policy == Policy()


def test_an_empty_vault_says_what_to_do(tmp_path: Path) -> None:
    vault = FileVault.create(tmp_path / "vault", bytes(32))
    with pytest.raises(ParameterError, match="enrol it first"):
        load_device(vault)


UNREADABLE = [
    b"{",
    b"[]",
    b'{"min_cohort": 1}',
    b'{"unknown": 1}',
    b'{"models": null}',
    b'{"models": ["mlp"]}',
    b"\xff",
]


@pytest.mark.parametrize("policy", UNREADABLE)
def test_a_policy_that_cannot_be_read_is_not_read_as_a_loose_one(
    saved: Path, policy: bytes
) -> None:
    FileVault.open(saved).write("policy", policy)
    with pytest.raises(ParameterError, match="policy in this vault cannot be read"):
        load_device(FileVault.open(saved))


def test_a_node_without_a_vault_says_how_to_give_it_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SIMULATION, raising=False)
    with pytest.raises(ParameterError, match=r"--node-config 'vault=\"/path\"'.*" + SIMULATION):
        enrolled_device(context(partition_id=0))


@pytest.mark.parametrize("value", ["", "0", "true", "yes"])
def test_only_one_value_of_the_environment_means_simulation(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(SIMULATION, value)
    with pytest.raises(ParameterError, match="no vault"):
        enrolled_device(context(partition_id=0))


def test_a_run_cannot_turn_a_device_into_a_simulated_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's configuration is the submitter's; node config and environment are the owner's."""
    monkeypatch.delenv(SIMULATION, raising=False)
    with pytest.raises(ParameterError, match="no vault"):
        enrolled_device(context({SIMULATION: "1", "vault": "/tmp"}, partition_id=0))


def test_in_a_simulation_a_node_without_a_vault_is_a_simulated_device(
    monkeypatch: pytest.MonkeyPatch, saved: Path
) -> None:
    monkeypatch.setenv(SIMULATION, "1")
    device = enrolled_device(context(partition_id=3))
    assert device.number == 4
    assert device.identity == simulated_identity(4)
    assert device.authority == simulated_authority()
    assert isinstance(device.vault, ContextVault)
    # One that has a vault stays who it is.
    assert enrolled_device(context(partition_id=3, vault=str(saved))).identity == IDENTITY


def test_a_simulated_device_needs_its_partition() -> None:
    with pytest.raises(ParameterError, match="partition-id"):
        simulated_device(context())


def test_secrets_stay_out_of_repr_and_logs(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        device = enrolled_device(context(vault=str(saved)))
        text = repr(device) + repr(device.vault) + repr(device.identity) + caplog.text
    assert isinstance(device, Device)
    for secret in (IDENTITY.secret, FileVault.open(saved).key):
        assert repr(secret)[2:-1] not in text
        assert secret.hex() not in text
