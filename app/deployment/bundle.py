"""The bundle that a deployed run hands to its devices: a name, and no code.

Flower sends a device the code it shall run, as a FAB. Tacit's has none: it names the apps that are
installed on the device already, and holds the defaults of all settings. It is the same, byte for
byte, wherever this version makes it. So a device can say beforehand which one it runs, and a server
cannot send it another.

The format is Flower's, read in `flwr.cli.build` 1.41: a zip archive with `pyproject.toml` and a
list of what is in it. Nothing is compressed, as another zlib would give other bytes.
"""

import hashlib
import io
import json
import zipfile
from functools import lru_cache

from tacit import __version__
from tacit.app.config import Settings

SERVER_APP, CLIENT_APP = "tacit.app.server:app", "tacit.app.client:app"
_MOMENT = (1980, 1, 1, 0, 0, 0)  # the first that the format knows
_UNIX = 3
_FILE = 0o100644 << 16


@lru_cache(maxsize=1)
def build() -> bytes:
    """This version's bundle."""
    project = _project().encode()
    listed = f"pyproject.toml,{digest(project)},{len(project) * 8}"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as fab:
        _add(fab, "pyproject.toml", project)
        _add(fab, ".info/CONTENT", listed.encode())
    return archive.getvalue()


def digest(content: bytes) -> str:
    """What Flower calls a bundle's hash: SHA-256, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _project() -> str:
    """The bundle's pyproject.toml, written here: a library for it may lay it out anew some day."""
    tables: dict[str, dict[str, object]] = {
        "project": {
            "name": "tacit",
            "version": __version__,
            "description": "Runs the Tacit that is installed.",
            "license": "Apache-2.0",
            "dependencies": [],
        },
        "tool.flwr.app": {"publisher": "tacit"},
        "tool.flwr.app.components": {"serverapp": SERVER_APP, "clientapp": CLIENT_APP},
    }
    for section, settings in Settings().model_dump(exclude={"faults"}).items():
        tables[f"tool.flwr.app.config.{section}"] = settings
    return "\n".join(_table(name, values) for name, values in tables.items())


def _table(name: str, values: dict[str, object]) -> str:
    # JSON's notation of texts, numbers and truth is TOML's, too.
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join([f"[{name}]", *lines, ""])


def _add(fab: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _MOMENT)
    entry.create_system, entry.external_attr = _UNIX, _FILE  # as on every machine
    fab.writestr(entry, content)
