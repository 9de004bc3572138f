"""Federations whose models bear marks, or none: what the watermark duel is fought over."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn

from tacit.client.app import SecureClientApp
from tacit.client.device import simulated_device
from tacit.client.policy import Policy
from tacit.client.signature import Signature
from tacit.client.torch_trainer import TorchTrainer
from tacit.client.trainer import Arrays, Examples, LocalPlan
from tacit.crypto import labels
from tacit.crypto.identity import derive
from tacit.crypto.mark import MarkKey, Signs, Triggers
from tacit.server.private import Central
from tacit.simulations.data.dataset import Dataset, take
from tacit.simulations.data.partition import parse, partition
from tacit.simulations.duels.ground import Ground, ground
from tacit.simulations.engine.grid import run_in_process
from tacit.simulations.ownership import embedding, examples_of, signature_of
from tacit.strategies.secure import Secure
from tacit.strategies.watermark import Watermarked

DEVICES, TRIGGERS, BITS = 10, 100, 20
SIGNED = "conv1.weight"
PLAN = LocalPlan(epochs=2, batch_size=16, learning_rate=0.05, momentum=0.9)
WEIGHT = "num-examples"
LEAST = 20  # examples of a device: one that counts for next to nothing does not get its bits in


@dataclass(frozen=True, slots=True)
class Case:
    """One federation. `spread` is a partition's name; with `noise`, in units of a clip of 1, sums
    are under central differential privacy."""

    seed: int
    rounds: int
    spread: str = "iid"
    is_marked: bool = True
    noise: float = 0.0
    data: str = "digits"
    plan: LocalPlan = PLAN


def network(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two 3x3 convolutions (32 and 64 wide) with group normalisation, ReLU and pooling."""
    channels, height, width = shape
    part = nn.Sequential()
    for i, (inputs, outputs) in enumerate(((channels, 32), (32, 64))):
        part.add_module(f"conv{i}", nn.Conv2d(inputs, outputs, 3, padding=1))
        part.add_module(f"norm{i}", nn.GroupNorm(outputs // 8, outputs))
        part.add_module(f"relu{i}", nn.ReLU())
        part.add_module(f"pool{i}", nn.MaxPool2d(2))
    part.add_module("flatten", nn.Flatten())
    part.add_module("fc", nn.Linear(64 * (height // 4) * (width // 4), classes))
    return part


def trainer_of(where: Ground) -> TorchTrainer:
    return TorchTrainer(partial(network, where.shape, where.classes))


def loaded(where: Ground, model: Arrays) -> nn.Module:
    """The module that holds a copy of `model`."""
    module = network(where.shape, where.classes)
    module.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in model.items()})
    return module.eval()


def arrays_of(module: nn.Module) -> Arrays:
    return {name: w.detach().numpy().copy() for name, w in module.state_dict().items()}


def key_of(seed: int, holder: int) -> MarkKey:
    """Of the server, 0, or of device 1, 2, ...; a simulation's, so no secret."""
    seeds = seed.to_bytes(8, "little") + holder.to_bytes(8, "little")
    return MarkKey(derive(bytes(32), labels.SIMULATED, b"mark", seeds))


def triggers_of(key: MarkKey, where: Ground) -> Examples:
    return examples_of(Triggers(TRIGGERS), key, where.shape, where.classes)


def bits_of(key: MarkKey, model: Arrays) -> Signature:
    return signature_of(Signs(BITS, SIGNED), key, model)


def federated(case: Case) -> tuple[Arrays, ...]:
    """The models of the last fifth of the rounds, by the strategy, the devices' app and the secure
    sums that a deployment has. The last one is what is released."""
    where = ground(case.data, case.seed)
    models: list[Arrays] = []
    server = ServerApp()

    def keep(round_: int, arrays: ArrayRecord) -> None:
        if round_ > case.rounds - max(1, case.rounds // 5):
            models.append({name: array.numpy() for name, array in arrays.items()})

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        initial = {k: Array(a) for k, a in trainer_of(where).initial(case.seed).items()}
        strategy = _strategy(case, where)
        strategy.start(grid, ArrayRecord(initial), case.rounds, evaluate_fn=keep)

    run_in_process(server, lambda: _app(case, where), devices=DEVICES, run_id=case.seed + 1)
    return tuple(models)


def _strategy(case: Case, where: Ground) -> Secure | Watermarked:
    fedavg = FedAvg(
        fraction_evaluate=0.0,
        min_train_nodes=DEVICES,
        min_available_nodes=DEVICES,
        weighted_by_key=WEIGHT,
    )
    privacy = Central(clip=1.0, noise=case.noise) if case.noise else None
    secure = Secure(fedavg, privacy=privacy)
    if not case.is_marked:
        return secure
    examples = triggers_of(key_of(case.seed, 0), where)
    return Watermarked(secure, embedding(trainer_of(where), examples))


def _app(case: Case, where: Ground) -> ClientApp:
    app = SecureClientApp(Policy(min_bits=8), simulated_device)
    trainer, shares = trainer_of(where), _shares(case, where)
    signatures: dict[int, Signature] = {}

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition_ = int(context.node_config["partition-id"])
        record = next(iter(message.content.array_records.values()))
        model = {name: array.numpy() for name, array in record.items()}
        round_ = int(message.content.config_records["config"]["server-round"])  # type: ignore[arg-type]
        plan = _plan(case, round_, partition_)
        examples = shares[partition_]
        if case.is_marked:
            if partition_ not in signatures:
                signatures[partition_] = bits_of(key_of(case.seed, partition_ + 1), model)
            trained, _ = trainer.fit_signed(model, examples, plan, signatures[partition_])
        else:
            trained, _ = trainer.fit(model, examples, plan)
        arrays = ArrayRecord({name: Array(array) for name, array in trained.items()})
        metrics = MetricRecord({WEIGHT: len(examples)})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


def _plan(case: Case, round_: int, device: int) -> LocalPlan:
    return replace(case.plan, seed=(case.seed * 1000 + round_) * DEVICES + device)


def _shares(case: Case, where: Ground) -> list[Examples]:
    data = Dataset(case.data, where.trained, where.held, where.classes, where.shape)
    parts = partition(data, DEVICES, parse(case.spread), case.seed, min_examples=LEAST)
    return [take(where.trained, part) for part in parts]
