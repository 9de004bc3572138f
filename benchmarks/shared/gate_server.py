"""A server for `benchmarks/gate.py`: the bare model, the same with batches, or the gate.

    python gate_server.py KIND PORT FOLDER

Prints a key on its first line.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import uvicorn  # noqa: E402
from fastapi import FastAPI, Request, Response  # noqa: E402

from tacit.app.gatehouse import GateFolder  # noqa: E402
from tacit.app.serving import gate  # noqa: E402
from tacit.server.gate import desk, validate  # noqa: E402
from tacit.server.gate.base import Role  # noqa: E402
from tacit.server.gate.baseline import Baseline  # noqa: E402
from tacit.server.gate.batches import Batches  # noqa: E402
from tacit.server.gate.card import Card  # noqa: E402
from tacit.server.gate.desk import Wanted  # noqa: E402
from tacit.server.gate.fitting import fit  # noqa: E402
from tacit.server.gate.keys import DRAW_BYTES  # noqa: E402
from tacit.server.gate.known import identified  # noqa: E402
from tacit.server.gate.model import Floats32, TorchModel  # noqa: E402
from tacit.server.gate.patience import Patient  # noqa: E402
from tacit.server.gate.reveal import Reveal  # noqa: E402
from tacit.server.gate.store import Store  # noqa: E402
from tacit.server.gate.windows import Windows  # noqa: E402

SHAPE, CLASSES = (1, 8, 8), 10
PLENTY = 10**10
WIDE = f"{PLENTY}/minute"


def bare(model: TorchModel, card: Card, *, batched: bool) -> FastAPI:
    """What serves a model without a gate."""
    app = FastAPI()

    def score(asked: list[Floats32]) -> Sequence[Floats32]:
        found = model.scored(np.concatenate(asked)).probabilities
        return np.split(found, np.cumsum([len(x) for x in asked])[:-1])

    batches = Batches("model", score, 64, 512)

    @app.post("/v1/answers")
    async def answers(request: Request) -> Response:
        form = validate.form_of(request.headers["content-type"])
        x = validate.inputs(await request.body(), form, card)
        scores = await batches.do(x) if batched else model.scored(x).probabilities
        told = {"labels": scores.argmax(1).tolist()}
        return Response(json.dumps(told), media_type="application/json")

    return app


def baseline(model: TorchModel) -> Baseline:
    """Fitted to noise, which costs what honest data do."""
    rng = np.random.default_rng(0)
    return fit(model, rng.random((400, *SHAPE), np.float32), rng, streams=30)


def key_of(store: Store) -> str:
    """A client's key with a budget that does not end."""
    now = time.time()
    ends = now + 86400.0
    root = identified(store, desk.found_gate(store, os.urandom(DRAW_BYTES), now, ends).text, now)
    operator = desk.issue(
        store, root, Wanted("house", Role.OPERATOR, ends), os.urandom(DRAW_BYTES), now
    )
    key = desk.issue(
        store, identified(store, operator.text, now), Wanted("clients", Role.CLIENT, ends),
        os.urandom(DRAW_BYTES), now,
    )  # fmt: skip
    with store.writing() as db:
        db.execute("UPDATE keys SET budget = ?", (PLENTY,))
        db.execute("UPDATE organisations SET budget = ?", (PLENTY,))
        desk.changed(store, db, key.name)
    return key.text


def main() -> None:
    import torch

    from tacit.simulations.models import factory

    kind, port, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = TorchModel(factory("cnn")(SHAPE, CLASSES), SHAPE)
    card = Card("cnn", "0" * 64, SHAPE, CLASSES)
    if kind != "gate":
        print("none", flush=True)
        serve(bare(model, card, batched=kind != "bare"), port)
        return
    GateFolder.make(folder / "gate")
    with GateFolder.open(folder / "gate") as there:
        print(key_of(there.store), flush=True)
        with gate(card, model, there, baseline(model), Windows(WIDE, WIDE), Reveal()) as app:
            serve(app, port)


def serve(app: FastAPI, port: int) -> None:
    uvicorn.run(app, port=port, http=Patient, ws="none", log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
