"""`tacit dashboard`, put together: which files of a folder are looked at, and who may look."""

from collections.abc import Iterator
from pathlib import Path

from tacit.app import journal
from tacit.app.deployment.places import Places
from tacit.app.folder import STATUS
from tacit.app.listening import Place
from tacit.crypto.errors import ParameterError
from tacit.server.dashboard.application import Who
from tacit.server.dashboard.house import House, ServerFiles
from tacit.server.dashboard.run import RunFiles
from tacit.simulations.trial import PLAN

FEDERATION, RUNS = Path("federation"), Path("runs")  # where our commands put things


def house_of(path: Path | None) -> House:
    """What there is to see at a path: one run, a folder of runs, or a deployed server.

    Without a path it is a local federation's folder, or else that of simulated runs. Raises
    ParameterError if nothing is there, or trials of attacks.
    """
    if path is None:
        path = FEDERATION if FEDERATION.is_dir() else RUNS
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
    server = ServerFiles(path / journal.LOG, places.front / journal.LOG)
    return House(name, lambda: _runs(places.runs), server)


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
