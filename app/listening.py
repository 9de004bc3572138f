"""Where our servers listen, and how: the gate, and the dashboard."""

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from tacit.crypto.errors import ParameterError
from tacit.server.gate.patience import Patient

MOST_CONNECTIONS = 1024
GRACE = 10  # seconds in which what was asked is answered when the server is told to stop


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is asked. TLS is by both files, or by a `proxy` in front, from whose address
    alone `X-Forwarded-For` is believed.

    Raises ParameterError for a host that others reach and keys would travel to in the clear, and
    for a proxy that is no address or network: the server would believe a "*" whoever says it, and
    not find a name in any connection.
    """

    host: str = "127.0.0.1"
    port: int = 8443
    certificate: Path | None = None
    key: Path | None = None
    proxy: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ParameterError("TLS takes both: --tls-cert and --tls-key")
        if not (self.has_tls or self.proxy or self.is_loopback):
            raise ParameterError(
                f"keys would travel to {self.host} in the clear: --tls-cert and --tls-key, or "
                "--proxy with the address of the proxy that ends TLS in front"
            )

        try:
            is_place = self.proxy is None or ip_network(self.proxy).prefixlen > 0
        except ValueError:
            is_place = False
        if not is_place:
            raise ParameterError(f"--proxy {self.proxy} is no address, such as 10.0.0.1")

    @property
    def has_tls(self) -> bool:
        return self.certificate is not None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.has_tls else 'http'}://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False


def check_free(place: Place) -> None:
    """Raises ParameterError where nobody can listen: before a server says that it is open."""
    try:
        family, kind, *_, address = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as bad:
        raise ParameterError(
            f"nothing can listen at {place.host}, port {place.port}: {bad.strerror}; "
            "name another --port or --host"
        ) from None


class _Server(uvicorn.Server):
    """Says at once that it was told to stop: answers without an end have to be ended by whoever
    gives them."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_stop()
        super().handle_exit(sig, frame)


def serve(app: ASGIApp, place: Place, on_stop: Callable[[], None] = lambda: None) -> None:
    """Until the process is told to stop, then `on_stop`; what was asked is answered first."""
    options = uvicorn.Config(
        app, place.host, place.port, http=Patient, ws="none", log_level="warning",
        access_log=False, server_header=False, limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=GRACE, proxy_headers=place.proxy is not None,
        forwarded_allow_ips=place.proxy or "", ssl_certfile=place.certificate,
        ssl_keyfile=place.key, ssl_version=ssl.PROTOCOL_TLS_SERVER,
    )  # fmt: skip
    with suppress(KeyboardInterrupt):  # by then it has stopped as it should
        _Server(options, on_stop).run()
