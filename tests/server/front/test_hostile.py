"""Requests that no device makes. What reaches SuperLink is one that the front wrote, or none."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import h11
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from tacit.server.front import asked, refusal
from tacit.server.front.asked import PATHS
from tacit.server.front.limits import Limits
from tacit.server.front.refusal import Refusal
from tests.server.front.fronts import (
    HEARTBEAT,
    NODE,
    STRANGER,
    Recorder,
    Standing,
    front,
    prepared,
    request,
    signed,
    trusting,
    until_end,
)

LIMITS = Limits(head=0.4, idle=0.6, stall=0.4, handshake=0.5, slowest=1 << 20)
KNOWN = {path.decode() for path in PATHS}


@pytest.fixture
def hasty(tmp_path: Path, behind: int, recorder: Recorder) -> Iterator[Standing]:
    """A front that waits for nobody."""
    recorder.got.clear()
    prepared(tmp_path)
    with front(tmp_path, behind, LIMITS) as found:
        yield found


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_the_paths_are_those_that_flowers_client_calls() -> None:
    import inspect
    import re

    from flwr.supernode import fleet_http_client

    called = {*re.findall(r'path="([^"]+)"', inspect.getsource(fleet_http_client))}
    assert {*PATHS} == {path.encode() for path in called} - {
        b"/v1/fleet/register-node",
        b"/v1/fleet/unregister-node",
    }


def test_a_request_is_written_anew(standing: Standing, recorder: Recorder) -> None:
    sent = request(body=b"abc", cookie="x=1", x_forwarded_for="1.2.3.4", forwarded="for=1.2.3.4",
                   authorization="Bearer x", connection="keep-alive, flwr-signature",
                   user_agent="curl", content_type="application/protobuf")  # fmt: skip
    answer = standing.raw(sent)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"x-inner" not in answer
    assert b"secret" not in answer
    ((method, path, headers, body),) = recorder.got
    assert (method, path, body) == ("POST", HEARTBEAT, b"abc")
    assert headers["host"].startswith("127.0.0.1:")
    assert {*headers} == {
        *("host", "content-length", "content-type"),
        *("flwr-public-key", "flwr-signature", "flwr-timestamp"),
    }


def added(header: bytes) -> tuple[bytes, bytes]:
    return b"content-length: 0", b"content-length: 0\r\n" + header


SMUGGLED = {
    "two lengths": added(b"content-length: 30"),
    "two equal lengths in one": (b"content-length: 0", b"content-length: 0, 5"),
    "a length with a sign": (b"content-length: 0", b"content-length: +0"),
    "a length and chunks": added(b"transfer-encoding: chunked"),
    "chunks": (b"content-length: 0", b"transfer-encoding: chunked"),
    "hidden chunks": added(b"transfer-encoding: xchunked"),
    "chunks after a tab": added(b"Transfer-Encoding:\tchunked"),
    "chunks with a space": added(b"Transfer-Encoding : chunked"),
    "a null": added(b"x: \x00"),
    "a bare return": added(b"x: a\rtransfer-encoding: chunked"),
    "an upgrade": added(b"upgrade: h2c\r\nconnection: upgrade"),
    "two hosts": (b"host: x", b"host: x\r\nhost: y"),
    "no host": (b"host: x\r\n", b""),
    "trailers": added(b"trailer: flwr-signature"),
    "no length": (b"content-length: 0\r\n", b""),
    "version 1.0": (b"HTTP/1.1", b"HTTP/1.0"),
    "version 2": (b"HTTP/1.1", b"HTTP/2.0"),
    "the preface of HTTP/2": (b"POST ", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nPOST "),
    "two keys": (b"flwr-timestamp", b"flwr-public-key: QQ==\r\nflwr-timestamp"),
    "packed": added(b"content-encoding: gzip"),
}  # fmt: skip


@pytest.mark.parametrize("name", SMUGGLED)
def test_nothing_is_smuggled(standing: Standing, recorder: Recorder, name: str) -> None:
    """A second request inside the first, for whoever reads it otherwise than the front does."""
    old, new = SMUGGLED[name]
    inner = b"GET /v1/control/list-runs HTTP/1.1\r\nhost: x\r\n\r\n"
    sent = request()
    assert old in sent
    answer = standing.raw(sent.replace(old, new, 1) + inner)
    assert status(answer) >= 400
    assert answer.endswith(b"\r\n\r\n")  # no body
    assert b"connection: close" in answer.lower()
    assert not recorder.got
    standing.waits_for(refusal.MALFORMED)


def test_a_folded_header_is_a_part_of_the_one_before(
    standing: Standing, recorder: Recorder
) -> None:
    assert status(standing.raw(request(x="y\r\n transfer-encoding: chunked", body=b"abc"))) == 200
    ((_, _, headers, body),) = recorder.got
    assert ("transfer-encoding" in headers, body) == (False, b"abc")


def test_of_two_requests_in_one_piece_each_is_looked_at(
    standing: Standing, recorder: Recorder
) -> None:
    inner = b"GET /v1/control/list-runs HTTP/1.1\r\nhost: x\r\n\r\n"
    with standing.tls() as connection:
        connection.sendall(request(body=b"abc") + inner)
        got = b""
        while piece := connection.recv(1 << 16):
            got += piece
    assert got.count(b"HTTP/1.1 200") == got.count(b"HTTP/1.1 404") == 1
    assert [path for _, path, _, _ in recorder.got] == [HEARTBEAT]


TARGETS = [
    "/v1/control/list-runs",
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/..%2fcontrol%2flist-runs",
    "/v1/fleet//send-node-heartbeat",
    "//v1/fleet/send-node-heartbeat",
    "/v1/fleet/send-node-heartbeat/",
    "/v1/fleet/send-node-heartbeat?x=1",
    "/v1/fleet/send-node-heartbeat?",
    "/v1/fleet/send-node-heartbeat;x",
    "/v1/fleet/send-node-heartbeat%00",
    "/v1/fleet/send-node%2dheartbeat",
    "/V1/fleet/send-node-heartbeat",
    "/v1/fleet/register-node",
    "/v1/fleet/unregister-node",
    "https://127.0.0.1/v1/fleet/send-node-heartbeat",
    "https://127.0.0.1/v1/control/list-runs",
    "*",
    "127.0.0.1:8000",
    "/health?x",
    "/health/",
    "/docs",
]


@pytest.mark.parametrize("target", TARGETS)
def test_other_paths_are_not_there(standing: Standing, recorder: Recorder, target: str) -> None:
    for method in ("POST", "GET", "CONNECT", "OPTIONS"):
        answer = standing.raw(request(target, method=method))
        assert status(answer) == 404
        assert answer.endswith(b"\r\n\r\n")
    assert not recorder.got
    standing.waits_for(refusal.PATH)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "CONNECT", "TRACE", "post"])
def test_other_methods_are_not_there(standing: Standing, recorder: Recorder, method: str) -> None:
    assert status(standing.raw(request(method=method))) == 404
    assert not recorder.got


@settings(max_examples=300)
@given(
    target=some.one_of(
        some.binary(min_size=1, max_size=80),
        some.sampled_from(sorted(PATHS)).flatmap(
            lambda path: some.tuples(
                some.integers(0, len(path)), some.binary(min_size=1, max_size=6)
            ).map(lambda cut: path[: cut[0]] + cut[1] + path[cut[0] :])
        ),
    )
)
def test_no_target_but_those_is_let_through(target: bytes) -> None:
    """Whatever h11 takes for a target, `read` takes only the paths themselves."""
    try:
        event = h11.Request(
            method=b"POST", target=target, headers=[("host", "x"), ("content-length", "1")]
        )
    except h11.LocalProtocolError:
        return
    if target in PATHS:
        return
    with pytest.raises(Refusal) as caught:
        asked.read(event, Limits())
    assert caught.value.status == 404


@settings(max_examples=200)
@given(
    headers=some.lists(
        some.tuples(
            some.sampled_from(
                [
                    "host",
                    "content-length",
                    "transfer-encoding",
                    "te",
                    "upgrade",
                    "x",
                    "flwr-signature",
                ]
            ),
            some.sampled_from(["1", "0", "2", "chunked", "x"]),
        ),
        max_size=6,
    )
)
def test_what_is_let_through_has_one_length_and_no_second_reading(
    headers: list[tuple[str, str]],
) -> None:
    try:
        event = h11.Request(method="POST", target=HEARTBEAT, headers=headers)
        found = asked.read(event, Limits())
    except (h11.LocalProtocolError, Refusal):
        return
    lengths = {value for name, value in headers if name == "content-length"}
    assert lengths == {str(found.length)}
    assert not {name for name, _ in headers} & {"transfer-encoding", "te", "upgrade"}
    assert [name for name, _ in headers].count("host") == 1
    assert all(name in (b"flwr-signature",) for name, _ in found.headers)


def test_a_body_of_a_stranger_is_not_read(standing: Standing, recorder: Recorder) -> None:
    huge = request("/v1/fleet/push-object", content_length=str(1 << 28), **signed(STRANGER))
    started = time.monotonic()
    assert status(standing.raw(huge)) == 401
    assert time.monotonic() - started < 4
    assert not recorder.got


@pytest.mark.parametrize(
    ("path", "length"),
    [(HEARTBEAT, (64 << 10) + 1), ("/v1/fleet/push-object", (512 << 20) + 1)],
)
def test_what_is_too_large(standing: Standing, recorder: Recorder, path: str, length: int) -> None:
    assert status(standing.raw(request(path, content_length=str(length)))) == 413
    standing.waits_for(refusal.LARGE)
    assert not recorder.got


def test_a_head_that_is_too_large(standing: Standing, recorder: Recorder) -> None:
    answer = standing.raw(request(x="y" * (17 << 10)))
    assert status(answer) == 431
    assert not recorder.got


def test_a_head_that_drips(hasty: Standing) -> None:
    """A byte now and then keeps nothing open: the whole head has one deadline."""
    started = time.monotonic()
    with hasty.tls() as connection:
        for byte in request():
            try:
                connection.sendall(bytes([byte]))
            except (ConnectionError, ssl.SSLError):
                break
            time.sleep(0.05)
            if time.monotonic() - started > 4:
                break
    assert time.monotonic() - started < 3.5
    hasty.waits_for(refusal.SLOW)


def test_a_body_that_drips(hasty: Standing, recorder: Recorder) -> None:
    started = time.monotonic()
    with hasty.tls() as connection:
        connection.sendall(request(content_length="60000"))
        for _ in range(80):
            try:
                connection.sendall(b"x")
            except (ConnectionError, ssl.SSLError):
                break
            time.sleep(0.05)
    assert time.monotonic() - started < 3.5
    assert hasty.waits_for(refusal.SLOW).who == "1-one"
    assert not recorder.got


def test_silence(hasty: Standing) -> None:
    """After a handshake, before one, and on a connection that a node has spoken on."""
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=5) as plain:
        assert plain.recv(1) == b""
    hasty.waits_for(refusal.SLOW)
    with hasty.tls() as connection:
        assert status(until_end(connection)) == 408
    with hasty.tls() as connection:
        connection.sendall(request())
        assert status(until_end(connection)) == 200
        assert connection.recv(1) == b""  # idle: no refusal
    assert {entry.who for entry in hasty.said()} == {""}


def test_a_reader_that_stops_reading(hasty: Standing, recorder: Recorder) -> None:
    recorder.body = b"x" * (32 << 20)
    try:
        with hasty.tls() as connection:
            connection.sendall(request("/v1/fleet/pull-object"))
            assert hasty.waits_for(refusal.SLOW).who == "1-one"
    finally:
        recorder.body = b"fine"


def test_an_answer_is_not_held_up(standing: Standing) -> None:
    """Head and body are two writes: without TCP_NODELAY the second waits 40 ms for the first."""
    took = []
    with standing.tls() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(15):
            connection.sendall(request())
            first = connection.recv(1)
            started = time.monotonic()
            assert first + until_end(connection)
            took.append(time.monotonic() - started)
    assert sorted(took)[5] < 0.02


def test_an_answer_and_a_body_are_passed_on_in_pieces(
    standing: Standing, recorder: Recorder
) -> None:
    content = bytes(range(256)) * (3 << 12)  # 3 MiB
    recorder.body = content[::-1]
    with httpx.Client(verify=trusting(), base_url=f"https://127.0.0.1:{standing.port}") as client:
        answer = client.post("/v1/fleet/push-object", content=content, headers=signed(NODE))
        assert answer.content == content[::-1]
        assert client.post(HEARTBEAT, headers=signed(NODE)).status_code == 200  # once more, on it
    assert [body for *_, body in recorder.got] == [content, b""]
    assert len(standing.listener._doors) <= 1


def test_one_address_has_so_many_connections(tmp_path: Path, behind: int) -> None:
    prepared(tmp_path)
    with front(tmp_path, behind, Limits(per_address=3)) as found, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(found.tls())
        with pytest.raises((ssl.SSLError, ConnectionError)):
            found.tls()
        assert found.waits_for(refusal.MANY).address == "127.0.0.1"
    # and once they are gone there is room again


def test_a_node_gets_in_though_strangers_have_all_places(tmp_path: Path, behind: int) -> None:
    prepared(tmp_path)
    with front(tmp_path, behind, Limits(connections=4)) as found, ExitStack() as stack:
        node = stack.enter_context(found.tls())
        node.sendall(request())
        assert status(until_end(node)) == 200
        strangers = [stack.enter_context(found.tls()) for _ in range(3)]
        assert status(found.raw(request())) == 200  # the oldest stranger made way
        assert strangers[0].recv(1) == b""
        node.sendall(request())  # and the node did not
        assert status(until_end(node)) == 200
        found.waits_for(refusal.MANY)


def test_superlink_away_and_back(tmp_path: Path, recorder: Recorder) -> None:
    from tests.server.front.fronts import link

    prepared(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = free.getsockname()[1]
    with front(tmp_path, nobody) as found:
        answer = found.raw(request(body=b"abc"))
        assert status(answer) == 503  # which a SuperNode tries again after
        assert status(found.raw(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")) == 503
        assert not found.said()  # it is not the device's fault
    other = tmp_path / "other"
    other.mkdir()
    with link(other, recorder) as port, front(tmp_path, port) as found:
        assert status(found.raw(request())) == 200


def test_somebody_else_on_superlinks_port_gets_nothing(
    tmp_path: Path, recorder: Recorder, behind: int
) -> None:
    """The internal CA is what tells SuperLink from another program on the loopback."""
    from tacit.crypto.certificate import pem
    from tests.server.front.fronts import CA

    recorder.got.clear()
    prepared(tmp_path)
    (tmp_path / "link-ca.crt").write_bytes(pem(CA))
    with front(tmp_path, behind) as found:
        assert status(found.raw(request(body=b"abc"))) == 503
    assert not recorder.got


def test_a_proxy_of_the_environment_is_not_used(
    tmp_path: Path, behind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    prepared(tmp_path)
    with front(tmp_path, behind) as found:
        assert status(found.raw(request())) == 200


def test_limits_are_above_zero() -> None:
    for name in Limits.__slots__:
        with pytest.raises(ValueError, match=name):
            replace(Limits(), **{name: 0})


def test_a_signature_from_before_the_front_began_is_tried_again(
    tmp_path: Path, behind: int, recorder: Recorder
) -> None:
    """What was used then, nobody knows any more."""
    from tacit.server.front.credentials import Credentials
    from tacit.server.front.nodes import Nodes

    recorder.got.clear()
    prepared(tmp_path)
    young = Credentials(Nodes(tmp_path), time.time())
    with front(tmp_path, behind, credentials=young) as found:
        assert status(found.raw(request(**signed(NODE, at=time.time() - 60)))) == 503
        found.waits_for(refusal.EARLY)
    assert not recorder.got
