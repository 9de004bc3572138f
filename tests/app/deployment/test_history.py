"""A register that was set back is not what the log says."""

import pytest

from tacit.app.deployment import history
from tacit.app.deployment.executing import Wanted, execute
from tacit.app.deployment.operators import Role, load
from tacit.app.deployment.orders import Order
from tacit.crypto.errors import Damaged
from tacit.crypto.order import Act
from tests.app.deployment.server import ANN, Server, server

__all__ = ["server"]


def do(server: Server, act: Act, settings: str = "") -> None:
    execute(server.places, Order(server.signed(act, "ann", settings), "authority"), server.journal)
    server.journal.close()


def test_a_copy_from_before_shows(server: Server) -> None:
    assert history.faults(server.places) == []
    do(server, Act.GRANT, Wanted(Role.RELEASER, ANN.public).toml())
    assert history.faults(server.places) == []
    copy = server.places.operators.read_bytes()
    do(server, Act.WITHDRAW)
    assert history.faults(server.places) == []
    assert [*history.confirmed(server.places)] == [*load(server.places)]
    server.places.operators.write_bytes(copy)
    assert "ann" not in {each.name for each in history.confirmed(server.places)}
    (said,) = history.faults(server.places)
    assert "not what the log says of ann" in said


def test_a_log_that_was_altered_is_no_witness(server: Server) -> None:
    do(server, Act.GRANT, Wanted(Role.RELEASER, ANN.public).toml())
    path = server.places.folder / "audit.log"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged):
        history.faults(server.places)
