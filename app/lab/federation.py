"""A cell's federation, run for real: what the adversary has of it, and what only the scorer has."""

import json
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from tacit.app.config import Settings
from tacit.app.lab.attacks import BUILT
from tacit.app.lab.defences import Defence
from tacit.app.material import Material, device_data, material, trainer_for
from tacit.app.simulation import simulate
from tacit.crypto.errors import ParameterError, TooFewClients
from tacit.crypto.vector import Floats, Layout
from tacit.privacy.accountants import Adversary
from tacit.server.events import Event, LeftOut, SumFailed
from tacit.server.inbox import Seen
from tacit.server.private_sums import Memory, PrivateSums
from tacit.simulations.engine.device import FIRST_NODE_ID
from tacit.simulations.hostile import HostileServer, ideal_sum
from tacit.simulations.quiet import hushed
from tacit.simulations.trial import Cell

LEAST = 3  # devices without which there is no run, whatever is attacked


@dataclass(frozen=True, slots=True)
class Scene:
    """One federation after its end.

    devices    in what is seen
    seen       what the adversary has, in order: empty if the devices gave nothing away
    stopped    why they did not, in their words
    updates    each device's own, (length,) each, by round and node: the truth, for scorers alone
    ledger     what a private run let out
    is_all     whether nothing else was seen of the run: of several sums that share devices and
               ledger, no bound is one's own
    """

    devices: int
    settings: Settings
    held: Material = field(repr=False)
    seen: tuple[Seen, ...] = field(repr=False)
    stopped: str = ""
    updates: dict[tuple[int, int], Floats] = field(default_factory=dict, repr=False)
    ledger: PrivateSums | None = field(default=None, repr=False)
    is_all: bool = True

    @property
    def against(self) -> Adversary:
        """Who the adversary is: the server, or where that is trusted, whoever sees its models."""
        central = self.settings.privacy.mode == "central"
        return Adversary.OUTSIDER if central else Adversary.SERVER

    @property
    def members(self) -> tuple[int, ...]:
        """The nodes in what was seen, or would have been."""
        if self.seen:
            return self.seen[0].members
        return tuple(range(FIRST_NODE_ID, FIRST_NODE_ID + self.devices))

    @property
    def epsilon(self) -> float | None:
        """What the run cost the device that spent most, at its delta."""
        if self.ledger is None:
            return None
        said = self.ledger.statement()
        figure = said.outsider if self.against is Adversary.OUTSIDER else said.server
        return None if figure is None else figure.worst

    def bound(self, inputs: int, candidates: int) -> float | None:
        """The most of the inputs that any attack identifies among these candidates, where all is
        known but the one: reconstruction robustness (Hayes, Mahloujifar and Balle 2023).

        The scorer matches guesses with inputs, so an attack that names `inputs` of the candidates
        is right about an input without having seen anything if that is one of those named: of the
        candidates that are not the other inputs. None for a run that is not private, and where this
        is not all that was seen of it.
        """
        if self.ledger is None or not self.is_all:
            return None
        prior = inputs / (candidates - inputs + 1)
        return 1.0 if prior >= 1 else self.ledger.ledger.chance(prior, self.against)

    def examples(self, members: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The examples that these nodes hold, in order: the truth, for scorers alone."""
        data, seed = self.settings.data, self.settings.run.seed
        devices = [device_data(data, seed, member - FIRST_NODE_ID)[0] for member in members]
        return np.concatenate([d.x for d in devices]), np.concatenate([d.y for d in devices])


def settings_of(cell: Cell, seed: int) -> Settings:
    """The run of a cell: full-batch steps, and no more examples or devices than it says.

    Raises ParameterError for a defence or a setting that is not there, or does not go with a cell.
    """
    defence, attack = Defence.parse(cell.defence), cell.attack.partition(" ")[0]
    if defence.sums and cell.devices < LEAST:
        raise ParameterError(f"{cell.defence}: a sum is over {LEAST} devices or more")
    if defence.name == "central" and cell.rounds > 1:
        raise ParameterError("central: what is let out is attacked after one round")
    # Room for larger weights than there are would only cost precision; under noise all weigh 1.
    weights = [] if defence.is_private else [f"secure.max_weight={float(cell.examples)}"]
    settings = Settings().changed(
        [
            f"data.name={json.dumps(cell.data)}",
            'data.partition="iid"',
            f"data.devices={max(cell.devices, LEAST)}",
            f"data.limit={cell.examples}",
            f"data.min_examples={cell.examples}",
            "data.hold_out=0.0",
            f"model.name={json.dumps(cell.model)}",
            f"train.epochs={cell.steps}",
            "train.batch_size=0",
            "train.momentum=0.0",
            f"train.learning_rate={cell.rate}",
            f"run.rounds={cell.rounds}",
            f"run.seed={seed}",
            "strategy.fraction_evaluate=0.0",
            *defence.changes,
            *weights,
        ]
    )
    agreed = trainer_for(settings.model, settings.data, seed).initial(0)
    changes = [f"model.name={json.dumps(BUILT[attack])}"] if attack in BUILT else []
    if defence.name == "model-check":
        changes.append(f'policy.models="{Layout.of(agreed).fingerprint}"')
    return settings.changed(changes)


def unused(held: Material) -> NDArray[np.float32]:
    """Examples that no device holds: what an adversary may know of their kind in general."""
    everyone = held.dataset.train.x
    used = {index for share in held.shares for index in share}
    rest = everyone[[index for index in range(len(everyone)) if index not in used]]
    return np.concatenate([rest, held.dataset.test.x])


def run(
    cell: Cell, seed: int, hostile: HostileServer | None = None, *, noting: bool = False
) -> Scene:
    """Run the cell's federation with this seed, its server `hostile` or else an honest one; with
    each device's own updates noted down where that is asked for."""
    settings = settings_of(cell, seed)
    inbox: list[Seen] = []
    events: list[Event] = []
    updates: dict[tuple[int, int], Floats] = {}
    storage = Memory()

    def trained(round: int, node: int, update: Floats) -> None:
        updates[round, node] = update

    scene = partial(Scene, cell.devices, settings, material(settings.data, seed))
    try:
        with hushed():
            finished = simulate(
                settings,
                tap=inbox.append,
                on_event=events.append,
                hostile=hostile,
                trained=trained if noting else None,
                storage=storage,
            )
    except TooFewClients as failed:
        return scene((), _reasons(events) or str(failed))
    private, defence = settings.private, Defence.parse(cell.defence).name
    ledger = None
    if private is not None and defence != "fixed-cohorts":  # there the adversary sees no noise
        ledger = PrivateSums(private, storage)
    if defence == "central":
        seen = _released(settings, inbox, finished.result.arrays)
    else:
        seen = _had(cell, settings, inbox)
    return scene(seen, "" if seen else _reasons(events), updates, ledger)


def _had(cell: Cell, settings: Settings, inbox: list[Seen]) -> tuple[Seen, ...]:
    """Of the updates in the clear, the first device's, or what they come to together."""
    if Defence.parse(cell.defence).name == "ideal-sum":
        rounds = sorted({seen.round for seen in inbox})
        return tuple(ideal_sum([s for s in inbox if s.round == number]) for number in rounds)
    if settings.secure.protocol == "plain":
        return tuple(seen for seen in inbox if seen.members == (FIRST_NODE_ID,))
    return tuple(inbox)


def _released(settings: Settings, inbox: list[Seen], released: ArrayRecord) -> tuple[Seen, ...]:
    """How far the model that was let out is from the one before, noise and all: what there is to
    attack for whoever is not the server. Of one round, as what FedAvg does then is to add."""
    whole = next((seen for seen in inbox if seen.clients > 1), None)
    if whole is None:
        return ()
    after = {name: array.numpy().astype(np.float64) for name, array in released.items()}
    moved = {name: after[name] - value for name, value in whole.model.items()}
    return (replace(whole, update=moved, protocol="released model"),)


def _reasons(events: list[Event]) -> str:
    """What the devices said, each reason once, the most frequent first."""
    told = [event.reason for event in events if isinstance(event, LeftOut)]
    told = told or [event.reason for event in events if isinstance(event, SumFailed)]
    return "; ".join(sorted(set(told), key=lambda reason: (-told.count(reason), reason))[:3])
