"""`tacit dashboard`, put together: which files of a folder are looked at, and who may look."""

from collections.abc import Iterator
from pathlib import Path

from tacit.app import journal
from tacit.app.deployment import operators
from tacit.app.deployment.operators import Operators, Role
from tacit.app.deployment.places import Places
from tacit.app.folder import STATUS
from tacit.app.listening import Place
from tacit.crypto.errors import ParameterError, TacitError
from tacit.server.dashboard.application import Who
from tacit.server.dashboard.house import House, ServerFiles
from tacit.server.dashboard.run import RunFiles
from tacit.simulations.trial import PLAN

FEDERATION, RUNS = Path("federation"), Path("runs")  # where our commands put things


def usual() -> Path:
    """Where there is something to see: a local federation, or else simulated runs."""
    return FEDERATION if FEDERATION.is_dir() else RUNS


def house_of(path: Path) -> House:
    """What there is to see at a path: one run, a folder of runs, or a deployed server. Raises
    ParameterError if nothing is there, or trials of attacks."""
    if not path.is_dir():
        raise ParameterError(
            f"no folder at {path}: name that of a run, as tacit simulate --out has it, or of a "
            "server, as tacit up --dir has it"
        )
    if (path / PLAN).exists():
        raise ParameterError(
            f"{path} holds trials of attacks, which have no rounds: its report.html shows them"
        )
    name = path.resolve().name
    if (path / STATUS).exists():
        return House(name, lambda: [_run(path, name)])
    places = Places(path)
    if not _is_server(places):
        return House(name, lambda: _runs(path))
    server = ServerFiles(path / journal.LOG, places.front / journal.LOG, places.state)
    return House(name, lambda: _runs(places.runs), server)


def viewers_of(path: Path) -> Who | None:
    """Whose a token is, by a server's register of operators, which is read again each time; None
    where no viewer is registered."""
    places = Places(path)

    def viewers() -> Operators | None:
        try:
            return operators.load(places)
        except (TacitError, OSError):
            return None

    def who(token: str) -> str | None:
        register = viewers()
        found = None if register is None else register.viewer(token)
        return None if found is None else found.name

    there = viewers() or ()
    return who if any(each.role is Role.VIEWER for each in there) else None


def check_place(place: Place, who: Who | None) -> None:
    """Raises ParameterError where strangers could look, and nobody asks them who they are."""
    if who is None and (place.proxy is not None or not place.is_loopback):
        raise ParameterError(
            f"anybody who reaches {place.host} could look: tacit server grant NAME --role viewer "
            "makes a token, in a server's folder; or leave out --host and --proxy"
        )


def _is_server(places: Places) -> bool:
    signs = (places.state, places.runs, places.front, places.folder / "server.key")
    return any(sign.exists() for sign in signs)


def _runs(folder: Path) -> Iterator[RunFiles]:
    """Runs in a folder, which may not be there yet."""
    try:
        names = sorted(path.name for path in folder.iterdir() if (path / STATUS).is_file())
    except OSError:
        return
    for name in names:
        yield _run(folder / name, name)


def _run(path: Path, name: str) -> RunFiles:
    return RunFiles(
        name, path / "metrics.jsonl", path / STATUS, path / "config.toml", path / journal.LOG
    )
