"""The front's port: who connects gets a place or none, then a handshake, then an exchange."""

import asyncio
import errno
import logging
import socket
from contextlib import suppress

from tacit.crypto.errors import ParameterError
from tacit.server.front.doors import Doors, Place
from tacit.server.front.exchange import Exchange, House
from tacit.server.front.refusal import MANY
from tacit.server.front.tally import place_of
from tacit.server.front.tls import Certificate, why

_log = logging.getLogger(__name__)

_BACKLOG = 256
_PIECE = 1 << 16
_GRACE = 5.0  # seconds that requests have to end when the front does
_GONE = {errno.ECONNABORTED, errno.EPROTO}


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there, for IPv4 and IPv6 where `host` is "". Raises ParameterError."""
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
            )
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as bad:
        raise ParameterError(f"cannot listen on {host or 'all'}:{port}: {bad.strerror}") from None


class Listener:
    """Serves until cancelled, and then lets what was begun end."""

    def __init__(self, house: House, certificate: Certificate, port: socket.socket) -> None:
        self._house, self._certificate, self._port = house, certificate, port
        self._doors = Doors(house.limits)
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Never returns. Raises only CancelledError."""
        loop = asyncio.get_running_loop()
        self._port.setblocking(False)
        try:
            while True:
                try:
                    connection, address = await loop.sock_accept(self._port)
                except OSError as bad:  # no more files, or he is gone already
                    await asyncio.sleep(0.0 if bad.errno in _GONE else 0.1)
                    continue
                self._begin(connection, str(address[0]))
        finally:
            self._port.close()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_GRACE)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, connection: socket.socket, host: str) -> None:
        connection.setblocking(False)
        # asyncio does it only where a socket names its protocol. Without, an answer's head waits
        # 40 ms for its acknowledgement before the body is sent.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        place, lost = self._doors.enter(place_of(host))
        if lost is not None:
            self._house.ledger.turned_away(MANY, lost)
        if place is None:
            self._house.ledger.turned_away(MANY, host)
            connection.close()
            return
        task = asyncio.create_task(self._connection(connection, host, place))
        place.drop = task.cancel
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, connection: socket.socket, host: str, place: Place) -> None:
        try:
            if (streams := await self._shaken(connection, host)) is None:
                return
            reader, writer = streams
            try:
                await Exchange(self._house, place, host, reader, writer).run()
            finally:
                await _end(writer)
        finally:
            connection.close()
            self._doors.leave(place)

    async def _shaken(
        self, connection: socket.socket, host: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Streams above TLS; None, and a line in the log, if there is no handshake."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_PIECE, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._certificate.context(),
                ssl_handshake_timeout=self._house.limits.handshake,
                ssl_shutdown_timeout=1.0,
            )
        except OSError as failed:
            if (reason := why(failed)) is not None:
                self._house.ledger.turned_away(reason, host)
            return None
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def many_files() -> None:
    """As many open files as the system allows this process: each connection takes two."""
    import resource  # Unix has it

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        _log.warning("at most %d open files, so fewer connections", soft)


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1.5):
            await writer.wait_closed()
    writer.transport.abort()
