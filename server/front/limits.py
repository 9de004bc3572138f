"""How much of everything the front allows, and for how long it waits."""

from dataclasses import dataclass

from tacit.crypto.errors import ParameterError

KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts, bytes and seconds. All are above 0.

    A body has `stall` seconds for each piece, and in all a second for each `slowest` bytes besides.
    """

    connections: int = 1024
    per_address: int = 256  # a site may have many devices behind one address
    handshake: float = 10.0
    head: float = 10.0  # from a request's first byte, or a stranger's handshake, to its last header
    idle: float = 90.0  # between the requests of a node; SuperNodes call every few seconds
    stall: float = 30.0
    slowest: int = 4 * KIB  # bytes a second
    head_bytes: int = 16 * KIB
    object_bytes: int = 512 * MIB  # of what a node pushes at once: Flower does not cut all records
    answer: float = 120.0  # for SuperLink to begin its own

    def __post_init__(self) -> None:
        if wrong := [name for name in self.__slots__ if getattr(self, name) <= 0]:
            raise ParameterError(f"a front's {wrong[0]} has to be above 0")
