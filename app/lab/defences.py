"""The defences of a matrix: as a run is set up, so that what is measured is what there is.

A defence is written as its name, then settings as for `--set`: "distributed privacy.epsilon=8".
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tacit.app.config import Settings
from tacit.crypto.errors import ParameterError
from tacit.simulations.named import nearest

DEFENCES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "none": ('secure.protocol="plain"',),
        "ideal-sum": ('secure.protocol="plain"',),
        "secure": ('secure.protocol="pairwise"',),
        "model-check": ('secure.protocol="pairwise"',),
        "lattice": ('secure.protocol="lattice"', "policy.lattice=true"),
        "tenseal": ('secure.protocol="tenseal"', "policy.consortium=true"),
        "local": ('privacy.mode="local"',),
        "distributed": ('privacy.mode="distributed"',),
        "central": ('privacy.mode="central"',),
        "fixed-cohorts": ('privacy.mode="central"', "privacy.bands=2", "privacy.cohorts=2"),
    }
)
# By the cell, or by the defence's name: with others the trial would not be what it is called.
_SAID = (
    "data.",
    "model.",
    "run.",
    "train.epochs",
    "train.batch_size",
    "train.learning_rate",
    "secure.protocol",
    "privacy.mode",
)


@dataclass(frozen=True, slots=True)
class Defence:
    """What stands between the devices' updates and the attack.

    none         each update in the clear
    ideal-sum    their sum, by somebody who is trusted and binds nobody to anything: what it does
                 not stop, no sum stops by being one
    model-check  a secure sum whose devices list the fingerprint of the model that was agreed on, in
                 `policy.models`
    secure       a secure sum under pairwise masks; lattice, tenseal: one under encryption
    local, distributed, central   a secure sum with noise of that kind; of a central one the
                 attack has the models that were released, as the server would have it without
    fixed-cohorts   devices in two groups that take turns, as a central run with correlated noise
                 has them; the attack is the trusted server's, which sees sums as they are
    """

    name: str
    changes: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Defence":
        """Raises ParameterError for a name or a setting that is not there, or not a defence's."""
        try:
            name, *changes = shlex.split(text, posix=False) or [""]
        except ValueError as torn:
            raise ParameterError(f"defence {text!r}: {torn}") from None
        if name not in DEFENCES:
            raise ParameterError(
                f"unknown defence {name!r}{nearest(name, DEFENCES)}; there are "
                f"{', '.join(DEFENCES)}"
            )
        for change in changes:
            if change.startswith(_SAID):
                key = change.partition("=")[0]
                raise ParameterError(f"defence {text!r}: a matrix says {key} in another place")
        every = (*DEFENCES[name], *changes)
        Settings().changed(every)
        return cls(name, every)

    @property
    def is_open(self) -> bool:
        """Whether devices send their updates as they are."""
        return self.name in ("none", "ideal-sum")

    @property
    def is_private(self) -> bool:
        """Whether there is noise, for whoever is not trusted."""
        return self.name in ("local", "distributed", "central", "fixed-cohorts")

    @property
    def sums(self) -> bool:
        """Whether the attack has a sum, rather than single updates."""
        return self.name != "none"
