"""What an operator's settings may not reach: files, folders and code of the server's user."""

from pathlib import Path

import pytest

from tacit.app.deployment.ordered import DATA, check_confined, parsed
from tacit.crypto.errors import ParameterError
from tacit.simulations.named import resolve
from tests.app.small import small


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "keys").mkdir()
    (tmp_path / "data" / "out").symlink_to(tmp_path / "keys")
    return tmp_path / "data"


def test_what_is_below_the_owners_folder_can_be_read(data: Path) -> None:
    for setting in (f"data.name=npz:{data}/a.npz", f"data.name=folder:{data}/b", "data.root="):
        check_confined(small(setting), {DATA: str(data)})
    check_confined(small(f"data.root={data}"), {DATA: str(data)})


@pytest.mark.parametrize("path", ["/etc/a.npz", "{}/../keys", "{}/out/a.npz", "a.npz", "~/a.npz"])
@pytest.mark.parametrize("setting", ["data.name=npz:", "data.name=folder:", "data.root="])
def test_nothing_else_can_be(data: Path, setting: str, path: str) -> None:
    settings = small(setting + path.format(data))
    with pytest.raises(ParameterError, match="put them there"):
        check_confined(settings, {DATA: str(data)})
    with pytest.raises(ParameterError, match="before tacit up"):
        check_confined(settings, {})


@pytest.mark.parametrize("target", ["/etc/cron.d", "..", "a/../../keys", "../audit.log"])
@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow"])
def test_trackers_write_below_their_folder(tracker: str, target: str) -> None:
    with pytest.raises(ParameterError, match="without / in front"):
        check_confined(small(f"run.track={tracker}:{target}"), {})
    check_confined(small(f"run.track={tracker}:shown/a, wandb:project"), {})


@pytest.mark.parametrize("name", ["http.server:test", "os:abort", "sys:exit", "code:interact"])
def test_pythons_own_functions_are_not_called(name: str) -> None:
    for setting in (f"data.name={name}", f"model.name={name}"):
        with pytest.raises(ParameterError, match="Python's own"):
            check_confined(small(setting), {})
    with pytest.raises(ParameterError, match="Python's own"):  # on devices, too
        resolve(name)
    check_confined(small("data.name=ward.data:patients"), {})


def test_an_order_is_held_to_it() -> None:
    with pytest.raises(ParameterError, match="without / in front"):
        parsed("one", '[run]\ntrack = "mlflow:/srv"\n')
