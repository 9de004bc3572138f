"""`tacit serve`, put together: a release, a gate's folder, the chain, and a server around it."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI

from tacit.app.gatehouse import NETWORKS, GateFolder
from tacit.app.journal import LOG, opened
from tacit.app.released import Release
from tacit.crypto.errors import ParameterError
from tacit.server.entries import GateOpened
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
from tacit.server.gate.patience import Patient
from tacit.server.gate.records import StoredRecords
from tacit.server.gate.reveal import Detail, Reveal
from tacit.server.gate.said import hand_over
from tacit.server.gate.watch import KeyWatch
from tacit.server.gate.windows import Windows

EVENTS = "events.jsonl"
MOST_CONNECTIONS = 1024
WITHIN = 0.05  # seconds until what the command line does to a key counts
GRACE = 10  # seconds in which what was asked is answered when the server is told to stop


@dataclass(frozen=True, slots=True)
class Place:
    """Where the gate is asked. TLS is by both files, or by a `proxy` in front, from whose address
    alone `X-Forwarded-For` is believed.

    Raises ParameterError for a host that others reach and keys would travel to in the clear, and
    for a proxy that is no address or network: the server would believe a "*" whoever says it, and
    not find a name in any connection.
    """

    host: str = "127.0.0.1"
    port: int = 8443
    certificate: Path | None = None
    key: Path | None = None
    proxy: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ParameterError("TLS takes both: --tls-cert and --tls-key")
        if not (self.has_tls or self.proxy or self._is_loopback):
            raise ParameterError(
                f"keys would travel to {self.host} in the clear: --tls-cert and --tls-key, or "
                "--proxy with the address of the proxy that ends TLS in front"
            )

        try:
            is_place = self.proxy is None or ip_network(self.proxy).prefixlen > 0
        except ValueError:
            is_place = False
        if not is_place:
            raise ParameterError(f"--proxy {self.proxy} is no address, such as 10.0.0.1")

    @property
    def has_tls(self) -> bool:
        return self.certificate is not None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.has_tls else 'http'}://{host}:{self.port}"

    @property
    def _is_loopback(self) -> bool:
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False


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


def check_free(place: Place) -> None:
    """Raises ParameterError where nobody can listen: before the gate says that it is open."""
    try:
        family, kind, *_, address = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as bad:
        raise ParameterError(
            f"nothing can listen at {place.host}, port {place.port}: {bad.strerror}; "
            "name another --port or --host"
        ) from None


def serve(app: FastAPI, place: Place) -> None:
    """Until the process is told to stop; then what was asked is answered first."""
    options = uvicorn.Config(
        app, place.host, place.port, http=Patient, ws="none", log_level="warning",
        access_log=False, server_header=False, limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=GRACE, proxy_headers=place.proxy is not None,
        forwarded_allow_ips=place.proxy or "", ssl_certfile=place.certificate,
        ssl_keyfile=place.key, ssl_version=ssl.PROTOCOL_TLS_SERVER,
    )  # fmt: skip
    with suppress(KeyboardInterrupt):  # by then it has stopped as it should
        uvicorn.Server(options).run()


def _rules(path: Path) -> RuleFile | None:
    return RuleFile(path) if path.exists() else None
