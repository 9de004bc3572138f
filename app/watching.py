"""`tacit dashboard`, put together: which files of a folder are looked at, and who may look."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tacit.app import journal
from tacit.app.deployment import history
from tacit.app.deployment.operators import Operators, Role
from tacit.app.deployment.places import Places, server_in
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
    """What there is to see at a path: one run, a folder of runs, a deployed server, or a federation
    on one machine. Raises ParameterError if nothing is there, or trials of attacks."""
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
    places = server_in(path)
    if not _is_server(places):
        return House(name, lambda: _runs(path))
    server = ServerFiles(places.folder / journal.LOG, places.front / journal.LOG, places.state)
    return House(name, lambda: _runs(places.runs), server)


def viewers_of(path: Path) -> Who | None:
    """Whose a token is, by a server's register of operators and its log, which are read again when
    they have changed; None where no viewer is registered."""
    viewers = _Viewers(server_in(path))

    def who(token: str) -> str | None:
        found = None if (register := viewers.now()) is None else register.viewer(token)
        return None if found is None else found.name

    return who if any(each.role is Role.VIEWER for each in viewers.now() or ()) else None


@dataclass(slots=True)
class _Viewers:
    """Who has a role: a copy of the register from an earlier day lets nobody in whose role has
    ended since, and a log that was altered lets nobody in."""

    places: Places
    _stamp: object = None
    _last: Operators | None = None

    def now(self) -> Operators | None:
        try:
            stamp = [_stamp(self.places.operators), _stamp(self.places.folder / journal.LOG)]
            if stamp != self._stamp:
                self._last = history.confirmed(self.places)
                self._stamp = stamp
        except (TacitError, OSError):
            self._stamp = self._last = None
        return self._last


def _stamp(path: Path) -> tuple[int, int, int]:
    about = path.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns


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
