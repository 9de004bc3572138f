"""A server's first operators: keys that are made with it, since nobody could grant them a role."""

import os
from collections.abc import Sequence

from tacit.app.deployment import modes
from tacit.app.deployment.operators import Operator, Operators, Role, read_key, save
from tacit.app.deployment.places import Places
from tacit.app.journal import Journal, signer
from tacit.client.files import new_file
from tacit.crypto.identity import KEY_BYTES
from tacit.server.deployed import Granted

SERVER = (Role.AUTHORITY,)  # who is to move the key elsewhere, and to grant all else
LOCAL = (Role.AUTHORITY, Role.OPERATOR, Role.RELEASER)  # one person has all of it anyway


def found(places: Places, journal: Journal, roles: Sequence[Role] = SERVER) -> bool:
    """Make folders, keys and the register of operators; False, and nothing is changed but modes,
    where there is a register. Each role gets a key of its own, DIR/keys/ROLE.key.

    The register comes last: what was cut off before is gone on with, under the same keys.
    """
    modes.prepare(places)
    if places.operators.exists():
        return False
    made = []
    for role in roles:
        path = places.keys / f"{role}.key"
        if not path.exists():
            new_file(path, os.urandom(KEY_BYTES))
        made.append(Operator(role, role, read_key(path).public))
    for each in made:
        journal.note(Granted(each.name, each.role, each.key.hex(), "server"))
    keeper = signer(places.folder)
    save(places, Operators(keeper.public, tuple(made)), keeper)
    return True
