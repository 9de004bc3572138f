"""The house stands: imports point one way, one name per module, nothing heavy on a device."""

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import tacit

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

# Who may import whom. `client` and `server` meet in `crypto` and `privacy`, never directly.
MAY_IMPORT: dict[str, set[str]] = {
    "crypto": set(),
    "privacy": {"crypto"},
    "client": {"crypto", "privacy"},
    "server": {"crypto", "privacy"},
    "strategies": {"crypto", "privacy", "server"},
    "simulations": {"crypto", "privacy", "client", "server", "strategies"},
    "app": {"crypto", "privacy", "client", "server", "strategies", "simulations"},
}
ROOMS = tuple(MAY_IMPORT)

# What a room may import, at any depth, beyond the standard library. Five rooms come with the base
# installation, so at module level they may only use what the base installation has.
BASE = {"cryptography", "flwr", "httpx", "numpy", "rich", "typer"}
PURE = {"cryptography", "numpy", "tenseal"}
SIM = {
    "datasets",
    "flwr_datasets",
    "imageio",
    "safetensors",
    "scipy",
    "skimage",
    "sklearn",
    "torch",
}
GATE = {
    "fastapi",
    "limits",
    "prometheus_client",
    "pydantic",
    "pyotp",
    "river",
    "starlette",
    "uvicorn",
}
FRONT = {"h11", "httpx"}
FLOWERS = {"fastapi", "pydantic", "starlette", "uvicorn"}  # what Flower brings, and may load
DISTRIBUTION = {
    "dp_accounting": "dp-accounting",
    "flwr_datasets": "flwr-datasets",
    "prometheus_client": "prometheus-client",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "starlette": "fastapi",  # it is what FastAPI is made of, and comes with it
    "tomli_w": "tomli-w",
}
MAY_USE: dict[str, set[str]] = {
    "crypto": PURE,
    "privacy": PURE | {"dp_accounting", "scipy"},
    "client": BASE | {"safetensors", "torch"},
    "server": BASE | FRONT | GATE | {"safetensors", "torch"},
    "strategies": {"flwr", "numpy"},
    "simulations": BASE | SIM,
    "app": BASE | GATE | SIM | {"pydantic", "ray", "tomli_w"},
}
BASE_ROOMS = ("crypto", "privacy", "client", "server", "strategies")
# Modules, and folders of them, that exist for an extra, and are imported only where it is wanted.
NEEDS_AN_EXTRA = {
    "client/clipped.py": {"torch"},
    "client/example_gradients.py": {"torch"},
    "client/torch_trainer.py": {"torch"},
    "server/dashboard": FLOWERS | {"prometheus_client"},
    "server/front": FRONT,
    "server/gate": GATE,
}

# Chance and time are arguments in the pure rooms, and no global generator is used anywhere.
IMPURE = {"asyncio", "datetime", "random", "secrets", "socket", "subprocess", "threading", "time"}
SEEDED_BY_HAND = {"BitGenerator", "Generator", "PCG64", "Philox", "SeedSequence", "default_rng"}
DRAWS_FROM: dict[str, set[str]] = {
    "crypto": set(),
    "privacy": {"Generator"},
    "client": {"Generator"},
    "server": SEEDED_BY_HAND,
    "strategies": SEEDED_BY_HAND,
    "simulations": SEEDED_BY_HAND,
    "app": SEEDED_BY_HAND,
}
# Flower's strategies sample nodes with the global `random`, so the loop around them seeds it.
SEEDS_FLOWER = "server/loop.py"
# A forked process has the state of its parent's global generators, which the app may draw from.
SEEDS_A_FORK = "client/node/answering.py"
# Modules of `client` that shuffle a device's own examples; nothing secret is drawn there.
SHUFFLES = {"client/fitting.py", "client/numpy_trainer.py", "client/torch_trainer.py"}


def modules(*rooms: str) -> list[Path]:
    """Every module of these rooms, relative to the root."""
    found = (path for room in rooms for path in (ROOT / room).rglob("*.py"))
    return sorted(path.relative_to(ROOT) for path in found if "__pycache__" not in path.parts)


def parse(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text("utf-8"), str(path))


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of what the nodes under `tree` import; a relative import starts with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = "." * node.level + (node.module or "")
            yield from (f"{parent}.{alias.name}" for alias in node.names)


def imported_at_load(body: list[ast.stmt]) -> Iterator[str]:
    """What runs when the module is imported: not inside functions, not `if TYPE_CHECKING`."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imported_at_load(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for name in ("body", "orelse", "finalbody"):
                yield from imported_at_load(getattr(node, name, []))
            for handler in getattr(node, "handlers", []):
                yield from imported_at_load(handler.body)


def third_party(names: Iterator[str]) -> set[str]:
    tops = {name.split(".")[0] for name in names}
    return tops - sys.stdlib_module_names - {"tacit", ""}


def needs_an_extra(path: Path) -> set[str]:
    """What this module may import beyond the base installation, as it is never imported there."""
    found = (NEEDS_AN_EXTRA.get(one.as_posix()) for one in (path, *path.parents))
    return next((extra for extra in found if extra), set())


def faults(room: str, path: Path) -> list[str]:
    """What is wrong with the imports of one module."""
    tree = parse(path)
    names = list(imported(tree))
    found = [f"relative import {name}" for name in names if name.startswith(".")]
    for name in names:
        top, *rest = name.split(".")
        if top in MAY_IMPORT:
            found.append(f"{name} would be a second copy of tacit.{name}")
        elif top == "tacit" and {*rest[:1]} & MAY_IMPORT.keys() - {room, *MAY_IMPORT[room]}:
            found.append(f"{room} may not import {name}")
    used = third_party(iter(names)) - MAY_IMPORT.keys()
    found += [f"{room} may not use {name}" for name in sorted(used - MAY_USE[room])]
    if room in BASE_ROOMS:
        extra = needs_an_extra(path)
        heavy = (third_party(imported_at_load(tree.body)) & used) - BASE - extra
        found += [f"{name} is not in the base installation" for name in sorted(heavy)]
    if room in ("crypto", "privacy"):
        found += [f"{name} makes it impure" for name in names if name.split(".")[0] in IMPURE]
    elif "random" in {name.split(".")[0] for name in names} and path.as_posix() != SEEDS_FLOWER:
        found.append("random: pass a np.random.Generator")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room: str) -> None:
    wrong = [f"{path}: {fault}" for path in modules(room) for fault in faults(room, path)]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("room", "path", "source", "reason"),
    [
        ("crypto", "crypto/x.py", "from tacit.client import app", "may not import tacit.client"),
        ("client", "client/x.py", "import tacit.server.loop", "may not import tacit.server"),
        ("server", "server/x.py", "def f():\n  import tacit.client", "may not import tacit.client"),
        ("crypto", "crypto/x.py", "from . import codec", "relative import"),
        ("app", "app/x.py", "import server", "second copy"),
        ("app", "app/x.py", "from crypto.codec import Codec", "second copy"),
        ("privacy", "privacy/x.py", "import flwr", "may not use flwr"),
        ("client", "client/x.py", "try:\n  import torch\nexcept E:\n  pass", "base installation"),
        ("client", "client/x.py", "class A:\n  import torch", "base installation"),
        ("privacy", "privacy/x.py", "import time", "impure"),
        ("client", "client/x.py", "from random import random", "Generator"),
        ("client", "client/torch_trainer.py", "import torch", None),
        ("client", "client/x.py", "def f():\n  import torch", None),
        ("client", "client/x.py", "if TYPE_CHECKING:\n  import torch", None),
    ],
)
def test_the_import_rules_can_fail(
    room: str, path: str, source: str, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "parse", lambda _: ast.parse(source))
    found = faults(room, Path(path))
    assert any(reason in fault for fault in found) if reason else not found


def draws(tree: ast.AST) -> set[str]:
    """Names taken from numpy's random module."""
    taken = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) in ("np.random", "numpy.random")
    }
    asked = (name.removeprefix("numpy.") for name in imported(tree) if name.startswith("numpy."))
    return taken | {name.removeprefix("random.") for name in asked if name.startswith("random")}


@pytest.mark.parametrize("path", modules(*ROOMS), ids=str)
def test_randomness_is_passed_in(path: Path) -> None:
    allowed = SEEDED_BY_HAND if path.as_posix() in SHUFFLES else DRAWS_FROM[path.parts[0]]
    assert draws(parse(path)) - ({"seed"} if path.as_posix() == SEEDS_A_FORK else set()) <= allowed


@pytest.mark.parametrize(
    ("source", "drawn"),
    [
        ("import numpy as np\nnp.random.seed(1)", {"seed"}),
        ("import numpy\nx = numpy.random.normal()", {"normal"}),
        ("from numpy.random import default_rng", {"default_rng"}),
        ("from numpy import random", {"random"}),
        ("def f(rng: np.random.Generator): rng.normal()", {"Generator"}),
    ],
)
def test_the_randomness_rule_can_fail(source: str, drawn: set[str]) -> None:
    assert draws(ast.parse(source)) == drawn


@pytest.mark.parametrize("path", modules(*ROOMS), ids=str)
def test_every_module_says_what_it_is(path: Path) -> None:
    said = ast.get_docstring(parse(path))
    assert said, f"{path} has no docstring"


def test_the_import_name_holds_a_shim_and_links_only() -> None:
    here = ROOT / "tacit"
    held = {path.name for path in here.iterdir()} - {"__pycache__"}
    assert held == {"__init__.py", "py.typed", *ROOMS}
    for room in ROOMS:
        assert (here / room).readlink() == Path("..") / room


def test_every_package_is_listed() -> None:
    """setuptools does not look below what it is told: an unlisted package is not in the wheel."""
    folders = {path.parent for path in modules(*ROOMS)}
    where = {"tacit": "tacit"} | {
        ".".join(("tacit", *folder.parts)): folder.as_posix() for folder in folders
    }
    listed = PROJECT["tool"]["setuptools"]
    assert listed["packages"] == sorted(where)
    assert listed["package-dir"] == where
    assert [folder for folder in folders if not (ROOT / folder / "__init__.py").is_file()] == []


def test_tools_read_every_room_once() -> None:
    """Through the links ruff would see each file twice, under a name that nobody imports."""
    assert set(PROJECT["tool"]["ruff"]["extend-exclude"]) == {f"tacit/{room}" for room in ROOMS}
    banned = PROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert set(banned) == set(ROOMS)


def requirements() -> dict[str, SpecifierSet]:
    """Direct dependencies of the base installation and of all extras, with their ranges."""
    extras = PROJECT["project"]["optional-dependencies"].values()
    groups = [PROJECT["project"]["dependencies"], *extras]
    asked = [Requirement(text) for group in groups for text in group]
    return {one.name: one.specifier for one in asked if one.name != "tacit"}


def test_every_room_uses_what_is_declared() -> None:
    """What a room may use is a dependency of our own, not a guest of somebody else's."""
    declared = {*requirements(), "ray"}  # ray comes with flwr[simulation]
    may_use = {DISTRIBUTION.get(name, name) for names in MAY_USE.values() for name in names}
    assert may_use <= declared


def test_one_version() -> None:
    assert PROJECT["project"]["version"] == tacit.__version__


def test_every_pin_is_inside_its_range() -> None:
    """constraints.txt pins each direct dependency exactly, at a version pyproject.toml allows."""
    lines = (line.strip() for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines())
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    direct = requirements()
    assert set(pins) == {*direct, "ray"}  # ray comes with flwr[simulation]
    assert [name for name, allowed in direct.items() if not allowed.contains(pins[name])] == []


def fresh(code: str) -> str:
    """What `code` prints in an interpreter that has imported nothing yet."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=clean,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


DEVICE = """
import importlib, sys
import flwr.clientapp, numpy, cryptography
resident = lambda: next(
    int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")
)
before = resident() if {measure} else 0
for name in {names}:
    importlib.import_module(name)
grown = resident() - before if {measure} else 0
print(grown, *sorted({optional} & sys.modules.keys()))
"""


def device(*rooms: str, measure: bool = False) -> tuple[int, list[str]]:
    """Import all a device may import; returns kB grown beyond Flower, optional libraries loaded."""
    names = [
        ".".join(("tacit", *path.with_suffix("").parts)).removesuffix(".__init__")
        for path in modules(*rooms)
        if not needs_an_extra(path)
    ]
    optional = SIM | GATE - FLOWERS | {"dp_accounting", "matplotlib", "pandas", "ray", "tenseal"}
    grown, *loaded = fresh(DEVICE.format(names=names, measure=measure, optional=optional)).split()
    return int(grown), loaded


def test_base_rooms_load_nothing_optional() -> None:
    """Names of modules, not seconds: a device without torch starts, on any machine."""
    assert device(*BASE_ROOMS)[1] == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_device_is_small() -> None:
    """Resident memory of `tacit.client` beyond Python and Flower: under 80 MB."""
    grown, _ = device("client", measure=True)
    assert grown < 80 * 1024
