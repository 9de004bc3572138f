"""Connections that keep the gate waiting are closed, and others are answered meanwhile."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import uvicorn

from tacit.server.gate import patience
from tacit.server.gate.application import application
from tests.server.gate.fakes import SECRET, Gate, rows

SECONDS = 0.4
Loop = Callable[[], asyncio.AbstractEventLoop]


class Quick(patience.Patient):
    seconds = SECONDS


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Loop:
    """uvicorn takes uvloop where it is there."""
    if request.param == "asyncio":
        return asyncio.new_event_loop
    return pytest.importorskip("uvloop").new_event_loop


def against(
    folder: Path,
    loop: Loop,
    attack: Callable[[int], Awaitable[None]],
    servers: list[uvicorn.Server] | None = None,
) -> None:
    """A server on a port of its own, in this event loop."""

    async def run() -> None:
        gate = Gate(folder)
        app = application(gate.chain, gate.records, lambda: None)
        server = uvicorn.Server(
            uvicorn.Config(app, port=0, http=Quick, ws="none", log_level="error")
        )
        if servers is not None:
            servers.append(server)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            await attack(server.servers[0].sockets[0].getsockname()[1])
        finally:
            server.should_exit = True
            await serving

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


def request(body: bytes = rows(1).tobytes()) -> bytes:
    head = (
        "POST /v1/answers HTTP/1.1\r\nHost: gate\r\nContent-Type: application/octet-stream\r\n"
        f"Authorization: Bearer {SECRET}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def answered(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return head


async def ended(reader: asyncio.StreamReader) -> float:
    """Seconds until the other side closes."""
    began = time.perf_counter()
    try:
        while await asyncio.wait_for(reader.read(1), 10 * SECONDS):
            pass
    except ConnectionResetError:
        pass
    return time.perf_counter() - began


@pytest.mark.parametrize("sent", [0, 30, len(request()) - 1])
def test_a_request_that_does_not_come_to_an_end_is_closed(
    tmp_path: Path, loop: Loop, sent: int
) -> None:
    async def attack(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request()[:sent])
        assert SECONDS / 2 < await ended(reader) < 5 * SECONDS
        writer.close()

    against(tmp_path, loop, attack)


def test_a_byte_now_and_then_does_not_help_and_others_are_answered(
    tmp_path: Path, loop: Loop
) -> None:
    async def attack(port: int) -> None:
        slow, writer = await asyncio.open_connection("127.0.0.1", port)

        async def trickle() -> None:
            for at in range(len(request())):
                writer.write(request()[at : at + 1])
                await asyncio.sleep(SECONDS / 20)

        trickling = asyncio.create_task(trickle())
        good, asking = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            asking.write(request())
            assert b"200 OK" in await answered(good)
        assert await ended(slow) < 5 * SECONDS
        trickling.cancel()
        writer.close()
        asking.close()

    against(tmp_path, loop, attack)


def test_a_second_request_that_is_slow_is_closed_too(tmp_path: Path, loop: Loop) -> None:
    async def attack(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request())
        assert b"200 OK" in await answered(reader)
        writer.write(request()[:40])
        assert await ended(reader) < 5 * SECONDS
        writer.close()

    against(tmp_path, loop, attack)


def test_an_honest_connection_lives_as_long_as_it_asks(tmp_path: Path, loop: Loop) -> None:
    async def attack(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(8):
            writer.write(request())
            assert b"200 OK" in await answered(reader)
            await asyncio.sleep(SECONDS / 3)
        writer.close()

    against(tmp_path, loop, attack)


def test_a_head_without_end_is_closed_at_once(tmp_path: Path, loop: Loop) -> None:
    async def attack(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health HTTP/1.1\r\n")
        for _ in range(2 * patience.HEAD_BYTES // 1000):
            writer.write(b"X-Long: " + b"a" * 1000 + b"\r\n")
        assert await ended(reader) < SECONDS
        writer.close()

    against(tmp_path, loop, attack)


def test_a_body_that_is_too_large_is_refused_before_it_is_there(tmp_path: Path, loop: Loop) -> None:
    async def attack(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(bytes(10_000_000))[:2000])
        assert b"413" in await asyncio.wait_for(answered(reader), 5)
        writer.close()

    against(tmp_path, loop, attack)


def test_who_does_not_read_what_he_is_told_is_closed(tmp_path: Path, loop: Loop) -> None:
    """Without a key 1024 of them, which is all that the gate takes, kept everybody out for good."""
    servers: list[uvicorn.Server] = []

    async def attack(port: int) -> None:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            running = asyncio.get_running_loop()
            await running.sock_connect(deaf, ("127.0.0.1", port))
            asked = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
            await running.sock_sendall(deaf, asked * 5000)
            await asyncio.sleep(SECONDS / 2)
            (state,) = (each.server_state for each in servers)
            assert len(state.connections) == 1
            await asyncio.sleep(4 * SECONDS)
            assert not state.connections

    against(tmp_path, loop, attack, servers)


@pytest.mark.parametrize("endless", [b"a:b\r\n" * 1000, b"a" * 5000], ids=["many", "long"])
def test_what_follows_a_body_has_an_end(
    tmp_path: Path, loop: Loop, endless: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a key: uvicorn keeps all headers, of which 13 MB took 200 MB until time was up."""

    async def attack(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = "POST /v1/answers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head.encode())
        assert b"401" in await answered(reader)
        writer.write(b"0\r\n")
        sent = 0
        with suppress(ConnectionError):
            while sent < 10 * patience.IGNORED_BYTES:
                writer.write(endless)
                await writer.drain()
                sent += len(endless)
        assert sent < 4 * patience.IGNORED_BYTES  # with what is in the sockets' buffers
        writer.close()

    monkeypatch.setattr(Quick, "seconds", 60.0)
    against(tmp_path, loop, attack)
