"""The front's TLS: version 1.3, with the certificate that is in the server's folder now.

`tacit server join` puts a renewed certificate there, and the next connection has it. While the
files do not fit each other, as in the middle of a renewal, the last that did are used.
"""

import logging
import ssl
from pathlib import Path

from tacit.server.front.refusal import HANDSHAKE, NOTHING_SHARED, PLAIN, SLOW, UNTRUSTED

_log = logging.getLogger(__name__)

# As `tacit server join` and `tacit server init` call them; a test holds them equal.
CERTIFICATE, KEY = "server.crt", "server.key"
_PLAIN = {"HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG"}
_NOTHING_SHARED = {
    "UNSUPPORTED_PROTOCOL",
    "VERSION_TOO_LOW",
    "NO_SHARED_CIPHER",
    "NO_SUITABLE_KEY_SHARE",
    "NO_SUITABLE_SIGNATURE_ALGORITHM",
    "TLSV1_ALERT_PROTOCOL_VERSION",
}
_UNTRUSTED = ("ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "ALERT_CERTIFICATE_")


class Certificate:
    """The TLS context, made anew when the files in `folder` change."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError (ssl.SSLError, too) if there is no certificate that can be used."""
        self._files = (folder / CERTIFICATE, folder / KEY)
        self._seen = self._stamp()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """For the next connection."""
        try:
            if (stamp := self._stamp()) != self._seen:
                self._context = self._load()
                self._seen = stamp
                _log.info("the certificate was renewed")
        except OSError as bad:
            _log.warning("the certificate cannot be renewed: %s", bad)
        return self._context

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        found = (path.stat() for path in self._files)
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0  # nothing to resume, so no state that outlives a connection
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(*self._files)
        return context


def why(failed: OSError) -> str | None:
    """The reason of a handshake that failed; None where nobody said anything, as probes do."""
    if isinstance(failed, ssl.SSLError):
        reason = failed.reason or ""
        if reason in _PLAIN:
            return PLAIN
        if reason in _NOTHING_SHARED:
            return NOTHING_SHARED
        return UNTRUSTED if any(part in reason for part in _UNTRUSTED) else HANDSHAKE
    if isinstance(failed, ConnectionAbortedError):  # asyncio's, when its time is over
        return SLOW
    return None
