"""A server's folder with operators, as tests want one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tacit.app.deployment import founding, operators
from tacit.app.deployment.operators import Operator, Role
from tacit.app.deployment.orders import Order, Rejected, taken
from tacit.app.deployment.places import Places
from tacit.app.journal import LOG, Journal, signer
from tacit.crypto.identity import Identity
from tacit.crypto.order import Act, SignedOrder
from tacit.server.auditlog import batches
from tacit.server.entries import read

NOW = 1_800_000_000.0
ANN = Identity(b"a" * 32)


class Server:
    """DIR/server with a key of each role; `now` stands still."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.places, self.journal, self.now = Places(folder), Journal(folder), NOW
        founding.found(self.places, self.journal, founding.LOCAL)

    @property
    def id(self) -> bytes:
        return operators.load(self.places).server

    def key(self, role: Role) -> Path:
        return self.places.keys / f"{role}.key"

    def who(self, role: Role) -> Identity:
        return operators.read_key(self.key(role))

    def grant(self, operator: Operator) -> None:
        """Without an order."""
        held = operators.load(self.places).granted(operator)
        operators.save(self.places, held, signer(self.places.folder))

    def withdraw(self, name: str) -> None:
        held = operators.load(self.places).withdrawn(name)
        operators.save(self.places, held, signer(self.places.folder))

    def signed(
        self,
        act: Act = Act.RUN,
        name: str = "one",
        settings: str = "",
        by: Identity | None = None,
        *,
        server: bytes | None = None,
        at: float | None = None,
    ) -> SignedOrder:
        return SignedOrder.signed(
            by or self.who(operators.role_for(act)),
            act,
            name,
            settings,
            server=self.id if server is None else server,
            issued=int(1000 * (self.now if at is None else at)),
            nonce=os.urandom(16),
        )

    def drop(self, content: SignedOrder | bytes, name: str = "") -> Path:
        """Into the inbox, as anybody could."""
        data = content if isinstance(content, bytes) else content.encode()
        path = self.places.inbox / f"{name or os.urandom(8).hex()}.order"
        path.write_bytes(data)
        return path

    def look(self) -> list[Order | Rejected]:
        return list(taken(self.places, self.now))

    def refused(self) -> Rejected:
        """The one thing that is in the inbox, which is refused, and gone."""
        (found,) = self.look()
        assert isinstance(found, Rejected)
        assert not any(self.places.inbox.iterdir())
        return found

    def events(self) -> list[object]:
        """What the log says, but for its beginning."""
        self.journal.close()
        return entries(self.places)[len(founding.LOCAL) :]


def entries(places: Places) -> list[object]:
    """All that a server's log says."""
    with (places.folder / LOG).open("rb") as file:
        return [read(each).entry for batch in batches(file) for each in batch.entries]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "server")
    yield made
    made.journal.close()
