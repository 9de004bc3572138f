"""Flower's SecAgg+ as an app: its workflow and its mod, around the training that Tacit's app does.

It is the only file of a bundle of its own, so it is loaded under the name `secagg_app`. Where its
ServerApp runs, TACIT_RUNS names a folder for what each round took.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import Grid, LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow

from tacit.app.config import Settings
from tacit.app.material import device_data, trainer_for

SETTINGS = Settings().changed(["model.backend=numpy"])


def _settings(context: Context) -> Settings:
    return SETTINGS.changed([f"data.devices={context.run_config['devices']}"])


class Device(NumPyClient):
    """Trains the digits, as the ready-made app of Tacit does."""

    def __init__(self, context: Context) -> None:
        self._settings = _settings(context)
        self._device = int(context.node_config["partition-id"])

    def fit(
        self, parameters: list[Any], config: dict[str, Any]
    ) -> tuple[list[Any], int, dict[str, Any]]:
        settings = self._settings
        examples, _ = device_data(settings.data, settings.run.seed, self._device)
        trainer = trainer_for(settings.model, settings.data, settings.run.seed)
        names = list(trainer.initial(settings.run.seed))
        model = dict(zip(names, parameters, strict=True))
        trained, _ = trainer.fit(model, examples, settings.train.plan(seed=1, proximal_mu=0.0))
        return [np.asarray(trained[name]) for name in names], len(examples), {}


client = ClientApp(lambda context: Device(context).to_client(), mods=[secaggplus_mod])
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    settings, rounds = _settings(context), int(context.run_config["rounds"])
    trainer = trainer_for(settings.model, settings.data, settings.run.seed)
    model = [np.asarray(array) for array in trainer.initial(settings.run.seed).values()]
    devices = settings.data.devices
    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=devices,
        min_available_clients=devices,
        initial_parameters=ndarrays_to_parameters(model),
    )
    legacy = LegacyContext(context, ServerConfig(num_rounds=rounds), strategy)
    secagg = SecAggPlusWorkflow(devices | 1, devices // 2 + 1, timeout=120.0)
    folder = Path(os.environ["TACIT_RUNS"]) / str(context.run_config["name"])
    folder.mkdir(parents=True)

    def timed(grid: Grid, context: Context) -> None:
        began = time.monotonic()
        secagg(grid, context)
        line = {"event": "RoundFinished", "seconds": time.monotonic() - began}
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    workflow = DefaultWorkflow(fit_workflow=timed, evaluate_workflow=lambda *_: None)
    workflow(grid, legacy)
