"""Questions to a port, each on a connection of its own, and never for long."""

import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from cryptography import x509

SECONDS = 5.0
_MOST = 1 << 16  # bytes of an answer


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and when: `headers` in lower case, `at` Unix time."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    at: float

    @property
    def words(self) -> str:
        """What the front says to who has shown a key."""
        with suppress(ValueError, TypeError):
            found = json.loads(self.body)
            if isinstance(found, dict) and isinstance(found.get("detail"), str):
                return str(found["detail"])
        return ""


def connect(host: str, port: int) -> socket.socket:
    """Raises OSError, as all of these do."""
    return socket.create_connection((host, port), timeout=SECONDS)


def sent_in_plain(host: str, port: int) -> bytes:
    """What comes back for a request without TLS."""
    with connect(host, port) as connection, suppress(OSError):
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        return connection.recv(_MOST)
    return b""


def handshake(host: str, port: int, context: ssl.SSLContext) -> tuple[x509.Certificate, str]:
    """The certificate that was served, and the version and cipher of TLS."""
    with (
        connect(host, port) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        found = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")
        cipher = connection.cipher() or ("",)
        return found, f"{connection.version()} {cipher[0]}"


def ask(
    host: str,
    port: int,
    context: ssl.SSLContext,
    method: str,
    path: str,
    headers: Mapping[str, str],
) -> Answer:
    """One request, without a body."""
    connection = http.client.HTTPSConnection(host, port, timeout=SECONDS, context=context)
    try:
        connection.request(method, path, headers={"content-length": "0", **headers})
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, response.read(_MOST), time.time())
    except http.client.HTTPException as bad:
        raise OSError(f"no HTTP: {type(bad).__name__}") from None
    finally:
        connection.close()
