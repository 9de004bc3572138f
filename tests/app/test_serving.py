"""`tacit serve`: what is served and what is refused, and that a kill of it loses nothing."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tomli_w
from fastapi import FastAPI

from tacit.app import journal, released, sealing
from tacit.app.cli import main
from tacit.app.config import Settings
from tacit.app.gatehouse import GateFolder
from tacit.app.journal import Journal, digest_of
from tacit.app.listening import Place, check_free
from tacit.app.released import Release
from tacit.app.serving import EVENTS, baseline_of, check_sensitive, gate
from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.sealed import Context
from tacit.server.auditlog import verify
from tacit.server.gate import desk
from tacit.server.gate.allowance import MOST_AHEAD
from tacit.server.gate.base import Grant, Role
from tacit.server.gate.baseline import Baseline
from tacit.server.gate.fitting import fit
from tacit.server.gate.keys import DRAW_BYTES, Key
from tacit.server.gate.known import found, identified
from tacit.server.gate.reveal import Reveal
from tacit.server.gate.store import one
from tacit.server.gate.windows import Windows
from tacit.server.kinds import Answered, GateOpened, Released
from tests.server.gate.fakes import entries_of

BUDGET = 1_000_000
WIDE = f"{BUDGET}/minute"
CONNECTIONS, INPUTS = 8, 3
SETTINGS = Settings().changed(["data.devices=4", "model.name=softmax", "run.rounds=1"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder as a finished run leaves it, with a model that nobody trained."""
    from safetensors.numpy import save

    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text(SETTINGS.toml())
    rng = np.random.default_rng(0)
    arrays = {"fc.weight": rng.normal(size=(10, 64)), "fc.bias": np.zeros(10)}
    model = folder / "model.safetensors"
    model.write_bytes(save({name: each.astype(np.float32) for name, each in arrays.items()}))
    log = Journal(folder)
    log.note(Released("model.safetensors", digest_of(model)))
    log.close()
    return folder


@pytest.fixture
def there(tmp_path: Path) -> Iterator[GateFolder]:
    GateFolder.make(tmp_path / "gate")
    with GateFolder.open(tmp_path / "gate") as folder:
        yield folder


def client_of(folder: GateFolder) -> Key:
    """A client's key with a large budget."""
    now = time.time()
    ends = now + 1000
    root = identified(folder.store, desk.found_gate(
        folder.store, os.urandom(DRAW_BYTES), now, ends).text, now)  # fmt: skip
    operator = desk.issue(
        folder.store, root, desk.Wanted("house", Role.OPERATOR, ends), os.urandom(DRAW_BYTES), now
    )
    key = desk.issue(
        folder.store, identified(folder.store, operator.text, now),
        desk.Wanted("clinic", Role.CLIENT, ends), os.urandom(DRAW_BYTES), now,
    )  # fmt: skip
    with folder.store.writing() as db:
        db.execute("UPDATE keys SET budget = ?", (BUDGET,))
        db.execute("UPDATE organisations SET budget = ?", (BUDGET,))
        desk.changed(folder.store, db, key.name)
    return key


def quick_baseline(release: Release, folder: GateFolder) -> Baseline:
    """From a few streams of honest users: the real one takes seconds."""
    few = partial(fit, streams=3, length=200)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tacit.app.serving.fit", few)
        return baseline_of(release, folder)


def spent(folder: Path, key: Key) -> int:
    with GateFolder.open(folder) as there, there.store.reading() as db:
        return int(one(db, "SELECT spent FROM keys WHERE name = ?", key.name)[0])


# What is served


def test_a_release_is_what_its_log_says(run: Path) -> None:
    found = released.opened(run, None, 64)
    assert found.is_logged
    assert found.card.digest == digest_of(run / "model.safetensors")
    assert (found.card.shape, found.card.classes) == ((1, 8, 8), 10)
    assert (found.card.low, found.card.high) == (0.0, 1.0)
    x = np.random.default_rng(1).random((3, 1, 8, 8), np.float32)
    assert found.model.scored(x).probabilities.shape == (3, 10)


def test_a_model_that_its_log_does_not_know_is_not_served(run: Path) -> None:
    data = bytearray((run / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (run / "model.safetensors").write_bytes(data)
    with pytest.raises(Damaged, match="not the one that"):
        released.opened(run, None, 64)
    (run / journal.LOG).unlink()
    assert not released.opened(run, None, 64).is_logged


def test_a_log_that_was_altered_serves_nothing(run: Path) -> None:
    log = run / journal.LOG
    log.write_bytes(log.read_bytes().replace(b"model.safe", b"model.sage"))
    with pytest.raises(Damaged):
        released.opened(run, None, 64)


def test_a_sealed_model_is_served_to_who_has_its_key(run: Path) -> None:
    digest, sealed = digest_of(run / "model.safetensors"), run / "model.safetensors.sealed"
    key = sealing.new_key(run / "own.key")
    sealing.seal_file(run / "model.safetensors", sealed, [key.public], Context())
    (run / "model.safetensors").unlink()
    found = released.opened(sealed, run / "own.key", 64)
    assert (found.card.digest, found.is_logged) == (digest, True)
    with pytest.raises(ParameterError, match="--key"):
        released.opened(sealed, None, 64)
    sealing.new_key(run / "other.key")
    with pytest.raises(Damaged, match="not sealed to this key"):
        released.opened(sealed, run / "other.key", 64)


def test_what_cannot_be_served_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="no model at"):
        released.opened(tmp_path / "nothing", None, 64)
    settings = {"model": {"name": "mlp"}, "data": {"devices": 4}}
    (run / "config.toml").write_text(tomli_w.dumps(settings))
    with pytest.raises(ParameterError, match="are not those of mlp"):
        released.opened(run, None, 64)
    (run / journal.LOG).unlink()
    (run / "model.safetensors").write_bytes(b"no model")
    with pytest.raises(Damaged, match="no safetensors"):
        released.opened(run, None, 64)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "::", "gate.example"])
def test_keys_do_not_travel_in_the_clear(host: str) -> None:
    with pytest.raises(ParameterError, match="in the clear"):
        Place(host)
    assert Place(host, proxy="10.0.0.1").url.startswith("http://")
    assert Place(host, certificate=Path("c"), key=Path("k")).url.startswith("https://")
    with pytest.raises(ParameterError, match="both"):
        Place(host, certificate=Path("c"))


@pytest.mark.parametrize("proxy", ["", "*", "0.0.0.0/0", "::/0", "proxy.example", "10.0.0.1, *"])
def test_a_proxy_is_at_an_address(proxy: str) -> None:
    """uvicorn takes "*" for everybody, who then say themselves where they ask from."""
    with pytest.raises(ParameterError, match="no address"):
        Place(proxy=proxy)
    for good in ("10.0.0.1", "10.0.0.0/30", "fd00::1"):
        assert Place(proxy=good).proxy == good


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_this_machine_they_may(host: str) -> None:
    assert "127" in Place(host).url or "::1" in Place(host).url or "localhost" in Place(host).url


def test_a_model_of_sensitive_data_takes_privacy_and_two_people(
    run: Path, there: GateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ParameterError, match="had no privacy"):
        check_sensitive(released.opened(run, None, 64), there)
    private = SETTINGS.changed(["privacy.mode=central"])
    (run / "config.toml").write_text(private.toml())
    release = released.opened(run, None, 64)
    with pytest.raises(ParameterError, match="two people have to release"):
        check_sensitive(release, there)
    monkeypatch.setattr("tacit.app.serving.is_released", lambda _, digest: True)
    check_sensitive(release, there)


def test_a_gate_is_opened_in_its_log(run: Path, there: GateFolder) -> None:
    release = released.opened(run, None, 64)
    baseline = quick_baseline(release, there)
    for _ in range(2):
        with gate(release.card, release.model, there, baseline, Windows(), Reveal()):
            pass
    found = entries_of(there.path / journal.LOG)
    assert found == [GateOpened(release.card.digest, "label")] * 2
    again = baseline_of(release, there)
    assert np.array_equal(again.limits, baseline.limits)


def test_operators_have_a_page_and_hear_of_what_others_do(run: Path, there: GateFolder) -> None:
    """Of what is done from the command line while the gate has the log, too: each act once."""
    key, release = client_of(there), released.opened(run, None, 64)
    operator = next(
        each.grant for each in desk.standings(there.store, root_of(there), time.time())
        if each.grant.role is Role.OPERATOR
    )  # fmt: skip
    viewer = desk.issue(
        there.store, operator, desk.Wanted("house", Role.VIEWER, time.time() + 1000),
        os.urandom(DRAW_BYTES), time.time(),
    )  # fmt: skip

    async def looked(app: FastAPI) -> None:
        through = httpx.ASGITransport(app)
        headers = {"Authorization": f"Bearer {viewer.text}"}
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=through, base_url="http://gate", headers=headers) as client,
        ):
            assert "/operator/page.js" in (await client.get("/operator")).text
            with GateFolder.open(there.path) as other:
                desk.suspend(other.store, operator, key.name, "looks odd", time.time())
            told = (await client.get("/v1/operator/view")).json()
        assert told["gate"]["digest"] == release.card.digest
        assert told["drift"] == {"is_watched": True, "share": 0.0, "told": []}
        states = {each["key"]: each["state"] for each in told["keys"]["shown"]}
        assert states[key.name] == "suspended"

    baseline = quick_baseline(release, there)
    with gate(release.card, release.model, there, baseline, Windows(), Reveal()) as app:
        asyncio.run(looked(app))
    events = [json.loads(line) for line in (there.path / EVENTS).read_text().splitlines()]
    judged = [each for each in events if each["event"] == "Judged"]
    assert [(each["key"], each["reason"]) for each in judged] == [(key.name, "looks odd")]
    assert sum(each["event"] == "KeyIssued" for each in events) == 4


def root_of(folder: GateFolder) -> Grant:
    with folder.store.reading() as db:
        (name,) = one(db, "SELECT name FROM keys WHERE role = ?", Role.AUTHORITY)
        return found(db, name, time.time()).grant


# The command


@pytest.fixture
def tacit(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tacit", *map(str, arguments)])
        code: object = 0
        try:
            main.run()
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return int(str(code)), " ".join((out + err).split())

    return call


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", "0.0.0.0"), "in the clear"),
        (("--reveal", "everything"), "--reveal is one of"),
        (("--sensitivity", "some"), "--sensitivity is one of"),
        (("--sensitivity", "high", "--reveal", "full"), "labels alone"),
        (("--window", "often"), "is no window"),
        (("--tls-cert", "a.pem"), "both"),
        ((), "no gate at"),
    ],
)
def test_a_mistake_ends_in_one_line(
    tacit: Callable[..., Any], run: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, shown = tacit("serve", run, "--gate", run.parent / "none", *arguments)
    assert code == 2
    assert said in shown


# kill -9


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def started(run: Path, folder: Path) -> tuple["subprocess.Popen[bytes]", int]:
    port = free_port()
    command = [sys.executable, "-m", "tacit.app.cli.main", "serve", str(run), "--gate", str(folder),
               "--port", str(port), "--window", WIDE, "--organisation-window", WIDE]  # fmt: skip
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process, port
        except OSError:
            time.sleep(0.05)
    assert process.stdout is not None
    raise AssertionError(process.stdout.read().decode())


async def asked_until(port: int, key: Key, kill: Callable[[int], bool]) -> int:
    """How many requests were answered, by several connections, until they are cut off."""
    x = np.random.default_rng(0).random((INPUTS, 1, 8, 8)).round(3)
    body = json.dumps({"inputs": x.tolist()}).encode()
    request = (
        f"POST /v1/answers HTTP/1.1\r\nHost: gate\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key.text}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    answered = 0

    async def one() -> None:
        nonlocal answered
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while True:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200"), head
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                answered += 1
                if kill(answered):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return answered


def test_a_kill_in_mid_answer_loses_no_entry_and_gains_no_budget(
    run: Path, there: GateFolder
) -> None:
    """A kill, and after a restart an end as it should be."""
    key, told = client_of(there), 0
    quick_baseline(released.opened(run, None, 64), there)
    there.store.close()
    for requests, how in ((150, signal.SIGKILL), (50, signal.SIGTERM)):
        process, port = started(run, there.path)

        def kill(answered: int, process: Any = process, how: int = how, at: int = requests) -> bool:
            if answered == at:
                process.send_signal(how)
            return False

        told += INPUTS * asyncio.run(asked_until(port, key, kill))
        process.wait(30)
        log = there.path / journal.LOG
        verify(log)
        logged = sum(each.queries for each in entries_of(log) if isinstance(each, Answered))
        assert told <= logged <= spent(there.path, key)
        assert logged - told <= 2 * CONNECTIONS * INPUTS  # what was on its way
    before = spent(there.path, key)
    assert before - logged <= MOST_AHEAD  # what was reserved when it was killed
    assert key.text.encode() not in b"".join(p.read_bytes() for p in there.path.iterdir())


def test_a_port_in_use_is_an_error_that_names_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = Place("127.0.0.1", port := taken.getsockname()[1], None, None, None)
        with pytest.raises(ParameterError, match=f"port {port}: Address already in use"):
            check_free(place)
    check_free(place)
