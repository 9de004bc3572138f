"""All duels, by name: the one list that `tacit duel` reads."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import cast

from tacit.crypto.errors import ParameterError
from tacit.simulations.duels.base import Duel
from tacit.simulations.duels.release import Probe
from tacit.simulations.named import nearest, resolve

# Named, not imported: a list of names need not load what trains models.
DUELS: Mapping[str, str] = MappingProxyType(
    {
        "extraction-linear": "tacit.simulations.duels.extraction:ExtractionLinear",
        "extraction-deep": "tacit.simulations.duels.extraction:ExtractionDeep",
        "extraction-floor": "tacit.simulations.duels.extraction:ExtractionFloor",
        "detection": "tacit.simulations.duels.detection:Detection",
        "layers": "tacit.simulations.duels.layers:Layers",
        "inversion": "tacit.simulations.duels.inversion:Inversion",
        "watermark": "tacit.simulations.duels.watermark:Watermark",
        "poisoning": "tacit.simulations.duels.poisoning:Poisoning",
        "membership": "tacit.simulations.duels.membership:Membership",
        "sealed": "tacit.simulations.duels.sealed:Sealed",
        "log": "tacit.simulations.duels.log:Log",
    }
)

# Attacks that can be pointed at a release, beside membership, which needs the run's settings.
PROBES: Mapping[str, str] = MappingProxyType(
    {
        "extraction": "tacit.simulations.duels.released:extraction",
        "inversion": "tacit.simulations.duels.released:inversion",
    }
)


def probe(name: str) -> Probe:
    """The attack on a release of this name, loaded; one of PROBES."""
    return resolve(PROBES[name])


def duel(name: str) -> Duel:
    """The duel of this name, loaded. Raises ParameterError, naming the nearest, if it is none."""
    if name not in DUELS:
        raise ParameterError(
            f"unknown duel {name!r}{nearest(name, list(DUELS))}; there are {', '.join(DUELS)}"
        )
    return cast(Duel, resolve(DUELS[name])())


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The names in the order of the list, each once; all, if none is given. Raises as `duel`."""
    for name in names:
        if name not in DUELS:
            duel(name)
    return tuple(name for name in DUELS if name in names or not names)
