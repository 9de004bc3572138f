"""What a run may be ordered with: settings that do not reach beyond what is the server's to give.

A run is carried out by the server's own user, who can read its keys and write anywhere in its
folder. An operator may be somewhere else, and has a role, not that user's rights. So of the three
settings that name a place or code on the server's machine

    data.root, data.name=npz:PATH, folder:PATH   are below TACIT_DATA, which the server's owner sets
    run.track=tensorboard:DIR, mlflow:DIR        are below DIR/tracked, where ServerApps work
    package.module:function                      is of a package that is installed, and none of
                                                 Python's own: http.server:test would serve files
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from tacit.app import trackers
from tacit.app.config import Settings
from tacit.crypto.errors import ParameterError
from tacit.simulations.named import check_own

DATA = "TACIT_DATA"
_PLACES = ("npz", "folder")  # what a name of data with a path begins with
_FILES = ("tensorboard", "mlflow")  # trackers that write where they are told


def parsed(name: str, settings: str) -> Settings:
    """An order's settings, under the run's name. Raises ParameterError."""
    try:
        tree = tomllib.loads(settings)
    except tomllib.TOMLDecodeError as bad:
        raise ParameterError(f"the settings of {name} are no TOML: {bad}") from None
    section = tree.setdefault("run", {})
    if not isinstance(section, dict):
        raise ParameterError(f"the settings of {name}: run is a section")
    section["name"] = name
    found = Settings.of(tree, f"the settings of {name}")
    if not found.run.name:
        raise ParameterError("a run takes a name")
    check_confined(found, os.environ)
    return found


def check_confined(settings: Settings, environ: Mapping[str, str]) -> None:
    """Raises ParameterError, with what to do, for settings that reach too far. `environ` is that of
    the server."""
    for fault in _faults(settings, environ.get(DATA, "")):
        raise ParameterError(fault)
    for name in (settings.data.name, settings.model.name):
        check_own(name)


def _faults(settings: Settings, allowed: str) -> Iterator[str]:
    kind, _, path = settings.data.name.partition(":")
    places = [path] if kind in _PLACES else []
    for place in filter(None, [settings.data.root, *places]):
        if not (allowed and _is_below(Path(place), Path(allowed))):
            yield (
                f"data are read below {allowed or DATA} on a server, and {place} is not: "
                f"{'put them there' if allowed else f'its owner sets {DATA} before tacit up'}"
            )
    for tracker, target in trackers.parse(settings.run.track):
        if tracker in _FILES and (Path(target).is_absolute() or ".." in Path(target).parts):
            yield (
                f"run.track = {tracker}:{target}: a server writes below its folder tracked, so "
                f"name a folder without / in front and without .., as in {tracker}:shown"
            )


def _is_below(path: Path, folder: Path) -> bool:
    """After all links. What is relative means something else in each process, and is not."""
    plain = path.expanduser()
    return plain.is_absolute() and plain.resolve().is_relative_to(folder.expanduser().resolve())
