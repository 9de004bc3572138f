"""`python -m tacit.server.front DIR --upstream HOST:PORT --upstream-ca FILE`: the front's process.

Ends with 0 on SIGTERM and SIGINT, and with 2 and a line about it where it cannot begin.
"""

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path

from tacit.crypto.enrolment import ServerRequest, decode_request
from tacit.crypto.errors import ParameterError, TacitError
from tacit.server.front.credentials import Credentials
from tacit.server.front.exchange import House
from tacit.server.front.ledger import LOG, Ledger
from tacit.server.front.limits import Limits
from tacit.server.front.listener import Listener, listening, many_files
from tacit.server.front.memory import keep_end, unknown_until
from tacit.server.front.nodes import Nodes
from tacit.server.front.tls import Certificate
from tacit.server.front.upstream import Upstream

_log = logging.getLogger("tacit.front")

FRONT = "front"  # in the server's folder, as `tacit.app.deployment.places` has it


async def front(
    folder: Path, listen: tuple[str, int], upstream: str, ca: Path, limits: Limits
) -> None:
    """Serve until cancelled."""
    own = folder / FRONT
    is_first = not (own / LOG).exists()
    ledger = Ledger(own)
    try:
        link = Upstream(upstream, ca, limits)
        unknown = unknown_until(own, time.time(), is_first=is_first)
        house = House(limits, Credentials(Nodes(folder), unknown), link, ledger)
        listener = Listener(house, Certificate(folder), listening(*listen))
        keeping = asyncio.create_task(ledger.keep())
        _log.info("listening on %s:%d", listen[0] or "*", listen[1])
        try:
            await listener.serve()
        finally:
            keep_end(own, time.time())
            keeping.cancel()
            await link.close()
    finally:
        await ledger.close()


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit code."""
    asked = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of each request
    many_files()
    try:
        where = _split(asked.listen) if asked.listen else ("", _port(asked.folder))
        limits = Limits(connections=asked.connections, per_address=asked.per_address)
        _run(front(asked.folder, where, asked.upstream, asked.upstream_ca, limits))
    except (OSError, TacitError) as wrong:
        _log.error("%s", wrong)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tacit.server.front",
        description="Let devices through to SuperLink, and nobody else.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="of tacit server init")
    parser.add_argument("--upstream", required=True, metavar="HOST:PORT", help="SuperLink's")
    parser.add_argument("--upstream-ca", required=True, type=Path, metavar="FILE")
    parser.add_argument("--listen", metavar="HOST:PORT", help="by default all, and init's port")
    parser.add_argument("--connections", type=int, default=Limits().connections, metavar="N")
    parser.add_argument("--per-address", type=int, default=Limits().per_address, metavar="N")
    return parser


def _run(serving: Coroutine[None, None, None]) -> None:
    async def until_told() -> None:
        task = asyncio.ensure_future(serving)
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(each, task.cancel)
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(until_told())


def _split(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 <= int(port) < 1 << 16:
        raise ParameterError(f"{text} is no HOST:PORT")
    return host.strip("[]"), int(port)


def _port(folder: Path) -> int:
    """Of the request that the server was enrolled with."""
    for path in folder.glob("*.request"):
        request = decode_request(path.read_bytes())
        if isinstance(request, ServerRequest):
            return request.port
    raise ParameterError(f"no server in {folder}: tacit server init makes one")


if __name__ == "__main__":
    sys.exit(main())
