"""Who on the server's machine may touch what of the server's folder.

All processes of a server run as one Unix user, who is not root and owns all of it. Others:

    DIR         0700   shared with operators' group: 0710, so that they get to what is named here
    inbox       1730   a member of the group puts orders in; he can neither list it nor take away
    operators   0644   names, roles and public keys
    audit.log   0644   for whoever gets into DIR
    released    0755   what releasers let out; files 0644
    all else    no group and no others: keys, runs (updates, ledgers, models), Flower's, logs

The modes of folders hold for all that is in them. Viewers need none of it: they have the dashboard.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from tacit.app.deployment.inbox import MODE as INBOX
from tacit.app.deployment.places import Places
from tacit.crypto.errors import ParameterError

PRIVATE, SHARED, PUBLIC = 0o700, 0o710, 0o755
_KEYS = ("server.key", "audit.key", "owner.key")


def prepare(places: Places) -> None:
    """Make the folders that are not there, and give each the mode that it is to have; DIR itself
    stays shared with a group if it is."""
    places.folder.chmod(stat.S_IMODE(places.folder.stat().st_mode) & SHARED)
    for folder in _private(places):
        folder.mkdir(exist_ok=True)
        folder.chmod(PRIVATE)
    for folder, mode in ((places.inbox, INBOX), (places.released, PUBLIC)):
        folder.mkdir(exist_ok=True)
        folder.chmod(mode)


def share(places: Places, group: str) -> None:
    """Let members of a Unix group put orders in, and fetch what was released. What an order may do
    is still for its signature to say. Raises ParameterError for no such group, and where this is
    not for this user to do."""
    try:
        for folder in (places.folder, places.inbox):
            shutil.chown(folder, group=group)
        places.inbox.chmod(INBOX)
        places.folder.chmod(SHARED)
    except LookupError:
        raise ParameterError(f"there is no Unix group {group}") from None
    except OSError as bad:
        raise ParameterError(
            f"{bad.filename} cannot be given to the group {group}: {bad.strerror}; its owner can, "
            "if he is in that group, or root"
        ) from None


def faults(places: Places) -> list[str]:
    """What others may do and are not to, in words."""
    return [
        f"{path} has mode {mode:o}: others can get at it: chmod {most:o}"
        for path, most in _most(places)
        if path.exists() and (mode := stat.S_IMODE(os.lstat(path).st_mode)) & ~most
    ]


def _most(places: Places) -> Iterator[tuple[Path, int]]:
    yield places.folder, SHARED
    yield places.inbox, INBOX
    yield places.released, PUBLIC
    yield places.operators, 0o644
    for folder in _private(places):
        yield folder, PRIVATE
    for path in (*(places.folder / name for name in _KEYS), places.secret):
        yield path, 0o600
    for path in places.keys.glob("*.key"):
        yield path, 0o600


def _private(places: Places) -> tuple[Path, ...]:
    return (
        places.runs,
        places.orders,
        places.keys,
        places.link,
        places.flwr,
        places.front,
        places.logs,
        places.tracked,
    )
