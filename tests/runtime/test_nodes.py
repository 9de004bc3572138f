"""Nodes of `tacit device run` on a real SuperLink: what they run, refuse, and outlive."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.shared.deployed import TACIT, Deployment
from tacit.app.config import Settings
from tacit.app.deployment import bundle
from tacit.client.node import bundles
from tacit.client.vault import FileVault

pytestmark = [pytest.mark.runtime, pytest.mark.slow, pytest.mark.timeout(280)]

DEVICES = 3


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment.started(tmp_path_factory.mktemp("deployed") / "all", DEVICES) as started:
        yield started


def settings(name: str, rounds: int = 2, **more: object) -> dict[str, Any]:
    changes = [
        f"run.name={name}",
        f"run.rounds={rounds}",
        f"data.devices={DEVICES}",
        "model.backend=numpy",
        "data.partition=iid",
        "strategy.fraction_evaluate=0.0",
        *(f"{key.replace('__', '.')}={value}" for key, value in more.items()),
    ]
    return dict(Settings().changed(changes).flat())


def log(deployment: Deployment, device: int = 0) -> str:
    return deployment._log(TACIT, deployment.fleet.vaults[device]).read_text()


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_secure_round_has_two_legs_more_and_a_node_is_one_process(
    deployment: Deployment,
) -> None:
    with deployment.nodes(TACIT) as pids:
        plain = deployment.run(TACIT, "plain", settings("plain", secure__protocol="plain"))
        secure = deployment.run(TACIT, "secure", settings("secure"))
        assert (plain.legs, secure.legs) == (1, 3)
        assert secure.messages["query.tacit_enrol"] == 1, "once a run"
        for pid in pids:
            assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            assert "token" not in line
            assert "secret" not in line


def test_a_bundle_that_its_owners_have_not_allowed_runs_nowhere(deployment: Deployment) -> None:
    own = bundle.digest(bundle.build())
    for vault in deployment.fleet.vaults:
        bundles.change(FileVault.open(vault), own, remove=[own])
    try:
        with deployment.nodes(TACIT):
            ran = deployment.run(TACIT, "refused", settings("refused", rounds=1))
            assert not ran.messages, "no app has answered any"
            assert f"bundle {own}, which is not allowed" in log(deployment)
    finally:
        for vault in deployment.fleet.vaults:
            bundles.change(FileVault.open(vault), own, add=[own])


def test_a_node_that_was_killed_comes_back_by_itself_when_its_place_is_free(
    deployment: Deployment,
) -> None:
    """Flower takes a node for alive until it has been silent for a minute."""
    with deployment.nodes(TACIT) as pids:
        until(lambda: "connected" in log(deployment))
        os.kill(pids[0], signal.SIGKILL)
    # The context above waits until all are offline, which takes that minute.
    with deployment.nodes(TACIT):
        assert deployment.run(TACIT, "again", settings("again", rounds=1)).legs == 4


def test_a_key_that_was_put_out_is_turned_away_and_told_what_to_do(deployment: Deployment) -> None:
    with deployment.nodes(TACIT):
        name = deployment.fleet.vaults[2].name
        (node,) = [each for each in deployment.control.nodes() if each.name == name]
        deployment.control.unregister(node)
        until(lambda: "tacit device join" in log(deployment, 2))
        assert "Traceback" not in log(deployment, 2)
