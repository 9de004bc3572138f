"""What the gate costs: answers a second, and how long one takes, beside the bare model.

    python benchmarks/gate.py [--quick] [--json FILE] [--long]
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np


SHAPE, CLASSES = (1, 8, 8), 10


def serve(kind: str, port: int, folder: Path) -> None:
    import torch
    import uvicorn
    from fastapi import FastAPI, Request, Response

    torch.set_num_threads(1)
    from tacit.server.gate.model import TorchModel
    from tacit.server.gate.card import Card
    from tacit.server.gate import validate
    from tacit.server.gate.batches import Batches
    from tacit.simulations.models import factory

    torch.manual_seed(0)
    model = TorchModel(factory("cnn")(SHAPE, CLASSES), SHAPE)
    card = Card("cnn", "00" * 32, SHAPE, CLASSES)
    if kind.startswith("bare"):
        app = FastAPI()

        def score(asked):
            s = model.scored(np.concatenate(asked))
            out, at = [], 0
            for each in asked:
                out.append(s.probabilities[at : at + len(each)])
                at += len(each)
            return out

        batches = Batches("model", score, 64, 512)

        @app.post("/v1/answers")
        async def answers(request: Request) -> Response:
            body = await request.body()
            x = validate.inputs(body, validate.form_of(request.headers["content-type"]), card)
            p = model.scored(x).probabilities if kind == "bare-inline" else await batches.do(x)
            return Response(json.dumps({"labels": p.argmax(1).tolist()}), media_type="application/json")
    else:
        from tests.server.gate.fakes import FakeRecords, FakeWatch, SECRET, grant, KEEPER
        from tacit.server.auditlog import AuditLog
        from tacit.server.gate.application import application
        from tacit.server.gate.chain import Chain
        from tacit.server.gate.events import Events
        from tacit.server.gate.journal import Journal
        from tacit.server.gate.metrics import Metrics
        from tacit.server.gate.reveal import Reveal

        records = FakeRecords({SECRET: grant(budget=10**9)})
        log = AuditLog.create(folder / "audit.log", KEEPER, os.urandom(16))
        journal = Journal(log, Events(folder / "events.jsonl"))
        chain = Chain(card, model, records, FakeWatch(), journal, Metrics(), reveal=Reveal())
        app = application(chain, records)
    uvicorn.run(app, port=port, log_level="warning", access_log=False)


class Client(asyncio.Protocol):
    def __init__(self, bench):
        self.bench = bench

    def connection_made(self, transport):
        self.transport = transport
        self.ask()

    def ask(self):
        self.began = time.perf_counter()
        self.transport.write(self.bench.request)

    def data_received(self, data):
        if not data.endswith(b"}"):
            return
        b = self.bench
        assert b"200 OK" in data[:20] or b"HTTP" not in data, data
        b.times.append(time.perf_counter() - self.began)
        if time.perf_counter() < b.end:
            self.ask()
        else:
            self.transport.close()

    def connection_lost(self, exc):
        self.bench.open -= 1
        if not self.bench.open:
            self.bench.done.set_result(None)


def cpu(pid):
    f = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK")


class Bench:
    pass


async def load(port, conns, seconds, per):
    b = Bench()
    x = np.random.default_rng(0).random((per, *SHAPE)).round(3)
    body = json.dumps({"inputs": x.tolist()}).encode()
    b.request = (b"POST /v1/answers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer tacit_secret_of_a_client\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)) + body
    b.times = []
    b.open = conns
    b.end = time.perf_counter() + seconds
    b.done = asyncio.get_running_loop().create_future()
    for _ in range(conns):
        await asyncio.get_running_loop().create_connection(lambda: Client(b), "127.0.0.1", port)
    began = time.perf_counter()
    await b.done
    t = np.array(b.times)
    return len(t) * per / (time.perf_counter() - began), np.percentile(t, 50) * 1e3, np.percentile(t, 99) * 1e3


def main():
    if sys.argv[1] == "--serve":
        return serve(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    import uvloop
    for kind in sys.argv[1].split(","):
        with tempfile.TemporaryDirectory() as folder:
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                port = s.getsockname()[1]
            p = subprocess.Popen([sys.executable, __file__, "--serve", kind, str(port), folder], env=os.environ | {"OMP_NUM_THREADS": "1"})
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.1)
            for conns, per in ((1, 1), (32, 1), (32, 16)):
                uvloop.run(load(port, conns, 1, per))
                c = cpu(p.pid); w=time.perf_counter()
                r = uvloop.run(load(port, conns, 4, per))
                c, w = cpu(p.pid)-c, time.perf_counter()-w
                print(kind, conns, per, "%.0f answers/s  p50 %.2f ms p99 %.2f ms" % r, "cpu %.0f us/request, %.2f cores"%(1e6*c/(r[0]*w/per), c/w), flush=True)
            p.terminate(); p.wait()

main()
