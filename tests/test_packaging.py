"""Tacit arrives whole by every road: wheel, source archive, editable install, Flower bundle.

The roads start from a copy of the work tree under a plain name, as a bundle demands; what arrives
is imported by an interpreter that cannot see the work tree, nor the editable install beside it.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.test_layout import PROJECT, ROOMS, ROOT, modules

pytestmark = pytest.mark.slow

PACKAGES = ("tacit", *ROOMS)
LEFT_BEHIND = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pyc")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a checkout holds, links kept as links, in a folder called `tacit-app`."""
    copy = tmp_path_factory.mktemp("tree") / "tacit-app"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=LEFT_BEHIND)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, copy / name)
    for name in ("tests", "runs"):  # must not travel, in any shape
        (copy / name).mkdir()
        (copy / name / "secret.py").write_text("")
        (copy / name / "secret.json").write_text("{}")
    return copy


def call(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that has to succeed."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def isolated(folder: Path, code: str) -> list[str]:
    """Words that `code` prints with `folder` first on the path, then the libraries.

    -I drops the current folder and the user's; -S drops site.py, and with it the .pth file through
    which an editable install would put the work tree back on the path.
    """
    libraries = sysconfig.get_path("purelib")
    start = f"import sys; sys.path[:0] = [{str(folder)!r}]; sys.path.append({libraries!r})\n"
    return call(sys.executable, "-I", "-S", "-c", start + code, cwd=folder).split()


IMPORT_ALL = """
import importlib, pathlib
for name in {names}:
    print(pathlib.Path(importlib.import_module(name).__file__).resolve())
"""


def named(path: Path) -> str:
    """The import name of a module of the work tree."""
    return ".".join(("tacit", *path.with_suffix("").parts)).removesuffix(".__init__")


def shipped() -> set[str]:
    """Where everything in the rooms belongs inside a wheel: modules, and the data beside them."""
    held = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    return {f"tacit/{name}" for name in held} | {"tacit/__init__.py", "tacit/py.typed"}


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the source archive, which is built from the tree: both roads in one."""
    out = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, tree, cwd=out)
    (built,) = out.glob("*.whl")
    return built


def test_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (licence,) = (name for name in archive.namelist() if name.endswith("licenses/LICENSE"))
        assert b"Apache License" in archive.read(licence)
    assert names == shipped()


def test_every_module_imports_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    call(*pip, "--target", target, wheel, cwd=tmp_path)
    names = [named(path) for path in modules(*ROOMS)]
    origins = isolated(target, IMPORT_ALL.format(names=names))
    assert len(origins) == len(names)
    assert [origin for origin in origins if not Path(origin).is_relative_to(target.resolve())] == []


def test_base_installation_asks_for_nothing_heavy(wheel: Path) -> None:
    """Requirements without an extra are those a device installs: no torch among them."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    asked = [line.split(": ")[1] for line in lines if line.startswith("Requires-Dist: ")]
    base = {line.split(">")[0].split("<")[0] for line in asked if "extra ==" not in line}
    ours = {"cryptography", "flwr", "numpy"}
    assert base == ours | {"click", "h11", "httpx", "pydantic", "rich", "tomli-w", "typer"}


def test_editable_install_leads_to_the_work_tree(tmp_path: Path) -> None:
    """From any folder, and through the links: a new package is found without a new install."""
    code = "import pathlib, tacit.client; print(pathlib.Path(tacit.client.__file__).resolve())"
    found = call(sys.executable, "-I", "-c", code, cwd=tmp_path).strip()
    assert Path(found) == ROOT / "client" / "__init__.py"


@pytest.fixture(scope="module")
def bundle(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Flower app bundle, unpacked as a device unpacks it."""
    out = tmp_path_factory.mktemp("bundle")
    flwr = "from flwr.cli.app import app; app()"
    call(sys.executable, "-c", flwr, "build", "--app", tree, cwd=out)
    (built,) = out.glob("*.fab")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(out / "app")
    return out / "app"


def test_bundle_holds_the_code_and_nothing_else(bundle: Path) -> None:
    held = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    code = {path.as_posix() for path in modules(*ROOMS)}
    fixed = {"LICENSE", "pyproject.toml", ".info/CONTENT", "tacit/__init__.py"}
    assert {name for name in held if name.endswith(".py")} == {*code, "tacit/__init__.py"}
    assert {name for name in held - code - fixed if name.split("/")[0] not in ROOMS} == set()


def test_bundle_runs_where_tacit_is_not_installed(bundle: Path) -> None:
    """The links are lost in a bundle; the shim in tacit/__init__.py has to do."""
    components = PROJECT["tool"]["flwr"]["app"]["components"].values()
    names = ["tacit", *(component.split(":")[0] for component in components)]
    origins = isolated(bundle, IMPORT_ALL.format(names=names))
    assert len(origins) == len(names)
    assert [origin for origin in origins if not Path(origin).is_relative_to(bundle.resolve())] == []


def test_isolation_hides_the_editable_install(tmp_path: Path) -> None:
    """Else the tests above would pass on an empty wheel."""
    code = "import importlib.util; print(importlib.util.find_spec('tacit'))"
    assert isolated(tmp_path, code) == ["None"]
