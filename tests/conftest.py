"""What every test may lean on: quiet libraries, hypothesis profiles, data, Flower's identity."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before numpy or torch is imported: two test workers share few cores, and a sum that is split
# over threads may differ in its last bit. Subprocesses inherit all of this.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
# Nobody's test run calls home, and no Flower run installs packages of its own.
os.environ.update(
    FLWR_TELEMETRY_ENABLED="0",
    FLWR_DISABLE_UPDATE_CHECK="1",
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION="1",
    RAY_USAGE_STATS_ENABLED="0",
    HF_HUB_DISABLE_TELEMETRY="1",
)

# No deadline: a slow machine is not a wrong answer. `ci` draws the same examples every time;
# --hypothesis-profile picks the other one.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs real data where there is none, and say how to get it run."""
    named = os.environ.get("TACIT_DATA", "")
    if named and Path(named).is_dir():
        return
    why = f"TACIT_DATA={named} is no folder" if named else "TACIT_DATA names no folder of data"
    for item in items:
        if item.get_closest_marker("needs_data"):
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder that TACIT_DATA names; only for tests marked `needs_data`."""
    return Path(os.environ["TACIT_DATA"])


@pytest.fixture(autouse=True, scope="session")
def _flower_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give Flower a home of its own, so that tests neither read nor write the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLWR_HOME", str(tmp_path_factory.mktemp("flower")))
        yield


@pytest.fixture
def task_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run 1, node 1, task 1: Flower builds a `Message` only where these are known.

    Not automatic: a test of an engine must see that the engine sets them itself.
    """
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
