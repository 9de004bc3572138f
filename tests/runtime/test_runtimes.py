"""One app, three engines: the same bits in this process, under Ray, and over SuperLink."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tacit.client.device import SIMULATION, save_device
from tacit.client.vault import FileVault
from tacit.crypto.identity import Identity, Member, Roster
from tacit.crypto.simulated import simulated_identity
from tacit.simulations.engine.grid import run_in_process
from tests.runtime import linear
from tests.runtime.processes import Processes, answers, free_port

pytestmark = [pytest.mark.runtime, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
DEVICES = 3

PROJECT = """
[project]
name = "linear"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "tests"

[tool.flwr.app.components]
serverapp = "tests.runtime.linear:server"
clientapp = "tests.runtime.linear:app"

[tool.flwr.app.config]
"""

RAY = f"""
from flwr.simulation import run_simulation
from tests.runtime import linear

run_simulation(
    server_app=linear.server,
    client_app=linear.app,
    num_supernodes={DEVICES},
    backend_config={{"client_resources": {{"num_cpus": 1, "num_gpus": 0.0}},
                     "init_args": {{"num_cpus": 2, "include_dashboard": False}}}},
)
"""


def environment(folder: Path, **more: str) -> dict[str, str]:
    """What a process of Flower's needs to know, and nothing that a shell happens to hold."""
    quiet = {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")}
    return {
        **quiet,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        linear.OUT: str(folder / "model.npz"),
        **more,
    }


def model(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as file:
        return dict(file)


@pytest.fixture
def expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, NDArray[Any]]:
    """The model of the in-process engine. It was trained: it is not the initial one."""
    monkeypatch.setenv(linear.OUT, str(tmp_path / "expected.npz"))
    monkeypatch.setenv(SIMULATION, "1")
    run_in_process(linear.server, linear.secure_app, devices=DEVICES)
    expected = model(tmp_path / "expected.npz")
    assert np.abs(expected["w"]).max() > 0.01
    assert expected["seen"].tolist() == [1, 1]
    return expected


def same(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> None:
    # Ring sums do not depend on their order, and the training adds in one fixed order: not a
    # tolerance but the same bits.
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_rays_simulation_runtime_gives_the_same_bits(
    tmp_path: Path, expected: dict[str, NDArray[Any]]
) -> None:
    pytest.importorskip("ray")
    env = environment(tmp_path, **{SIMULATION: "1"})
    with Processes(tmp_path) as processes:
        processes.start("ray", [sys.executable, "-c", RAY], env)
        processes.wait_for("ray", 120)
    same(model(tmp_path / "model.npz"), expected)


def test_superlink_and_supernodes_give_the_same_bits(
    tmp_path: Path, expected: dict[str, NDArray[Any]]
) -> None:
    vaults, roster = enrol(tmp_path)
    env = environment(tmp_path, **{linear.ROSTER: str(roster)})
    port = free_port()
    link = f"127.0.0.1:{port}"
    app, home = tmp_path / "linear", tmp_path / "flwr"
    app.mkdir()
    home.mkdir()
    (app / "pyproject.toml").write_text(PROJECT)
    (home / "config.toml").write_text(f'[superlink.test]\naddress = "{link}"\ninsecure = true\n')
    with Processes(tmp_path) as processes:
        processes.start("superlink", ["flower-superlink", "--insecure", "--port", str(port)], env)
        processes.wait_until("SuperLink", lambda: answers(port), 60)
        for number, vault in enumerate(vaults):
            config = f'partition-id={number} vault="{vault}"'
            command = ["flower-supernode", "--insecure", "--superlink", link]
            command += ["--node-config", config, "--port", str(free_port())]
            # A home each, as on machines of their own: nothing is shared but the app's code.
            own = {**env, "FLWR_HOME": str(tmp_path / f"node-{number}")}
            processes.start(f"supernode-{number}", command, own)
        processes.start("run", ["flwr", "run", str(app), "test"], env)
        processes.wait_for("run", 60)
        processes.wait_until("model", (tmp_path / "model.npz").is_file, 120)
    same(model(tmp_path / "model.npz"), expected)
    for vault in vaults:
        # Each device served the one session and holds nothing of it any more.
        assert FileVault.open(vault).read("served") is not None
        assert FileVault.open(vault).read("session") is None


def enrol(folder: Path) -> tuple[list[Path], Path]:
    """A vault for each device, and the roster that the federation's authority signs."""
    authority = Identity(os.urandom(32))
    members, vaults = [], []
    for number in range(1, DEVICES + 1):
        # That of the simulated device, from which it derives how it rounds: then the models can be
        # compared bit for bit.
        identity = simulated_identity(number)
        vaults.append(folder / f"vault-{number}")
        save_device(
            FileVault.create(vaults[-1], os.urandom(32)), number, identity, authority.public
        )
        members.append(Member(number, identity.public, int(time.time()) + 3600))
    roster = folder / "roster"
    roster.write_bytes(Roster.signed(authority, 1, members, os.urandom(32)).encode())
    return vaults, roster
