"""`tacit serve`, put together: a release, a gate's folder, and the chain."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fastapi import FastAPI

from tacit.app.gatehouse import NETWORKS, GateFolder
from tacit.app.journal import LOG, opened
from tacit.app.released import Release
from tacit.crypto.errors import ParameterError
from tacit.server.gate.application import application
from tacit.server.gate.approvals import is_released
from tacit.server.gate.base import Grant, Suspicion
from tacit.server.gate.baseline import Baseline
from tacit.server.gate.card import Card
from tacit.server.gate.chain import Chain
from tacit.server.gate.drift import Drift
from tacit.server.gate.events import Events
from tacit.server.gate.fitting import fit
from tacit.server.gate.journal import Journal
from tacit.server.gate.metrics import Metrics
from tacit.server.gate.model import Floats32, Model, Scored
from tacit.server.gate.networks import RuleFile
from tacit.server.gate.page.overview import House
from tacit.server.gate.page.routes import operators
from tacit.server.gate.records import StoredRecords
from tacit.server.gate.reveal import Detail, Reveal
from tacit.server.gate.said import hand_over
from tacit.server.gate.watch import KeyWatch
from tacit.server.gate.windows import Windows
from tacit.server.kinds import GateOpened

EVENTS = "events.jsonl"
WITHIN = 0.05  # seconds until what the command line does to a key counts


def check_sensitive(release: Release, folder: GateFolder) -> None:
    """What a model of sensitive data has to be: trained with privacy, and released by two people.
    Raises ParameterError."""
    if release.settings.privacy.mode == "none":
        raise ParameterError("its run had no privacy: sensitive data take privacy.mode")
    if not is_released(folder.store, release.card.digest):
        raise ParameterError(
            f"two people have to release {release.card.digest}: tacit gate ask release, and "
            "tacit gate approve"
        )


def baseline_of(release: Release, folder: GateFolder) -> Baseline:
    """What honest users of this model are like: found once, from examples that it was not trained
    on, and kept beside the keys."""
    path = folder.path / f"baseline-{release.card.digest[:16]}.npz"
    if not path.exists():
        rng = np.random.default_rng(0)  # nothing secret: the same release has the same baseline
        fit(release.model, release.dataset.test.x, rng).save(path)
    return Baseline.load(path)


@dataclass(slots=True)
class Lookout:
    """A `Watch` of keys, and of whether it is the world that has changed."""

    keys: KeyWatch
    drift: Drift
    events: Events

    def saw(self, grant: Grant, x: Floats32, scored: Scored, at: float) -> Suspicion:
        suspicion = self.keys.saw(grant, x, scored, at)
        if (proposal := self.drift.saw(grant, scored, suspicion, at)) is not None:
            self.events.propose(proposal)
        return suspicion


@contextmanager
def gate(
    card: Card, model: Model, folder: GateFolder, baseline: Baseline, windows: Windows,
    reveal: Reveal, *, is_strict: bool = False,
) -> Iterator[FastAPI]:  # fmt: skip
    """The gate of a model, open. All that the folder's log is to say is there when it closes."""
    events = Events(folder.path / EVENTS)
    log_path = folder.path / LOG
    journal = Journal(
        opened(folder.path), events, lambda log: hand_over(folder.store, log, log_path, events.hear)
    )
    watch = Lookout(KeyWatch(baseline), Drift(baseline), events)
    try:
        rules = _rules(folder.path / NETWORKS)
        records = StoredRecords(folder.store, windows, rules, WITHIN)
        chain = Chain(
            card, model, records, watch, journal, Metrics(), reveal=reveal, is_strict=is_strict,
        )  # fmt: skip
        most = Detail.LABEL if is_strict else reveal.detail
        journal.keep([GateOpened(card.digest, most)])
        house = House(
            card, most, folder.store, journal, events.lately, folder.codes, rules, watch.keys,
            watch.drift,
        )  # fmt: skip
        yield application(chain, records, records.close, [operators(chain, house)])
    finally:
        journal.close()


def _rules(path: Path) -> RuleFile | None:
    return RuleFile(path) if path.exists() else None
