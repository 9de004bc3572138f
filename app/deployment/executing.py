"""What the supervisor does at once when it is ordered: grant, withdraw, release.

The log's entry comes before the deed, and both are durable before the next order is taken. So after
a kill there may be an entry twice, and never a deed without one.
"""

import tomllib
from dataclasses import dataclass
from typing import Any

from tacit.app.deployment import releasing
from tacit.app.deployment.operators import Operator, Role, load, save
from tacit.app.deployment.orders import Order
from tacit.app.deployment.places import Places
from tacit.app.journal import Journal, signer
from tacit.crypto.errors import ParameterError
from tacit.crypto.order import Act
from tacit.server.deployed import Granted, Withdrawn

AT_ONCE = frozenset({Act.GRANT, Act.WITHDRAW, Act.RELEASE})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an order to grant asks for: its settings."""

    role: Role
    key: bytes
    needs_audit: bool = False

    def toml(self) -> str:
        return (
            f'role = "{self.role}"\nkey = "{self.key.hex()}"\n'
            f"needs_audit = {'true' if self.needs_audit else 'false'}\n"
        )

    @classmethod
    def of(cls, settings: str) -> "Wanted":
        """Raises ParameterError for anything that `toml` does not say."""
        try:
            said: dict[str, Any] = tomllib.loads(settings)
            wanted = cls(Role(said["role"]), bytes.fromhex(said["key"]), said["needs_audit"])
            is_exact = wanted.toml() == settings
        except (ValueError, KeyError, TypeError):
            is_exact = False
        if not is_exact:
            raise ParameterError("the order does not say which role and key are to be granted")
        return wanted


def execute(places: Places, order: Order, journal: Journal) -> None:
    """Do it, or raise a TacitError, and nothing was done: its text is the reason."""
    match order.act:
        case Act.GRANT:
            _grant(places, order, journal)
        case Act.WITHDRAW:
            _withdraw(places, order, journal)
        case Act.RELEASE:
            by = load(places).of_key(order.signed.key)
            releasing.release(
                places,
                order.name,
                journal,
                needs_audit=by is None or by.needs_audit,
                is_again=order.is_again,
            )
        case _:
            raise ParameterError(f"a {order.act} is not done at once")


def _grant(places: Places, order: Order, journal: Journal) -> None:
    before, wanted = load(places), Wanted.of(order.settings)
    operator = Operator(order.name, wanted.role, wanted.key, wanted.needs_audit)
    if order.is_again and before.named(order.name) == operator:
        return
    after = before.granted(operator)
    journal.note(Granted(operator.name, operator.role, operator.key.hex(), order.by))
    save(places, after, signer(places.folder))


def _withdraw(places: Places, order: Order, journal: Journal) -> None:
    before = load(places)
    if order.is_again and before.named(order.name) is None:
        return
    after = before.withdrawn(order.name)
    journal.note(Withdrawn(order.name, order.by))
    save(places, after, signer(places.folder))
