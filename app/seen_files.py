"""What a server saw, in files: for attacks on a run that is over."""

import io
import json
from pathlib import Path

import numpy as np

from tacit.app.slots import write
from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Seen


def save_seen(path: Path, seen: Seen) -> None:
    """Write one seen update as npz."""
    arrays = {f"model/{name}": array for name, array in seen.model.items()}
    arrays |= {f"update/{name}": array for name, array in seen.update.items()}
    about = {
        "round": seen.round,
        "clients": seen.clients,
        "weight": seen.weight,
        "protocol": seen.protocol,
        "members": seen.members,
        "names": list(seen.model),
    }
    buffer = io.BytesIO()
    np.savez(buffer, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
    write(path, buffer.getvalue())


def load_seen(path: Path) -> Seen:
    """Raises ParameterError for a file that `save_seen` did not write."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            names = about.pop("names")
            model = {name: file[f"model/{name}"] for name in names}
            update = {name: file[f"update/{name}"] for name in names}
            about["members"] = tuple(map(int, about["members"]))
        return Seen(model=model, update=update, **about)
    except (OSError, ValueError, KeyError, TypeError) as bad:
        raise ParameterError(f"{path} cannot be read: {bad}") from None
