"""What a server's log says of operators and of what they ordered.

The register of operators is signed by the server, and a copy from an earlier day is signed as well:
in it, who was withdrawn since has a role. The log is longer than it was on that day, and tells.
"""

from dataclasses import replace

from tacit.app.deployment.operators import Operator, Operators, load
from tacit.app.deployment.places import Places
from tacit.app.journal import LOG
from tacit.server import auditlog, entries
from tacit.server.deployed import Granted, OrderRefused, Withdrawn


def faults(places: Places) -> list[str]:
    """Where they differ, in words. A supervisor that was killed in the midst of an order may have
    left a difference; it is gone when it is up again. Raises Damaged for a damaged one of both."""
    said = _said(places)
    held = {each.name: _of(each) for each in load(places)}
    return [
        f"{places.operators} is not what the log says of {name}: it is of another time"
        for name in sorted({*said, *held})
        if said.get(name) != held.get(name)
    ]


def confirmed(places: Places) -> Operators:
    """The register, of those alone who have their role by the log too. Raises Damaged for a damaged
    one of both."""
    said, register = _said(places), load(places)
    held = tuple(each for each in register if said.get(each.name) == _of(each))
    return replace(register, known=held)


def refusal(places: Places, order: str, since: float) -> str | None:
    """Why an order, by its text, was refused since then (Unix time), the last time; None if it was
    not, as far as the log says. Raises Damaged for a damaged log."""
    found = None
    with (places.folder / LOG).open("rb") as file:
        for batch in auditlog.batches(file):
            for noted in map(entries.read, batch.entries):
                match noted.entry:
                    case OrderRefused(said, _, reason) if said == order and noted.at >= since:
                        found = reason
    return found


def _of(operator: Operator) -> tuple[str, str]:
    """As the log says it."""
    return str(operator.role), operator.key.hex()


def _said(places: Places) -> dict[str, tuple[str, str]]:
    """Role and key of those who have one, by the log."""
    path = places.folder / LOG
    auditlog.verify(path, load(places).server)
    said = {}
    with path.open("rb") as file:
        for batch in auditlog.batches(file):
            for each in batch.entries:
                match entries.read(each).entry:
                    case Granted(name, role, key):
                        said[name] = (role, key)
                    case Withdrawn(name):
                        said.pop(name, None)
    return said
