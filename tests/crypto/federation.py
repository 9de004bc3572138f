"""A small federation for tests, its bytes counted rather than drawn, and a round step by step."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import shake_128
from typing import Any

import numpy as np

from tacit.crypto import labels
from tacit.crypto.codec import Codec, Ring
from tacit.crypto.identity import Identity, Member, Roster, RunKey
from tacit.crypto.secagg import client
from tacit.crypto.secagg.hybrid import SEED_BYTES
from tacit.crypto.secagg.memory import exchange
from tacit.crypto.secagg.messages import (
    Attestation,
    AttestRequest,
    Report,
    RevealRequest,
    signed_part,
)
from tacit.crypto.secagg.revealing import Opened, Revealing
from tacit.crypto.secagg.server import Attesting, Collecting
from tacit.crypto.secagg.session import Purpose, Session, threshold_for
from tacit.crypto.wire import unpack

NOW = 1_700_000_000
METRICS = ("loss",)


@dataclass
class Counted:
    """Bytes that anyone can draw again: the n-th call gives SHAKE-128(seed, n)."""

    seed: bytes = b"tacit"
    calls: int = 0

    def __call__(self, size: int) -> bytes:
        self.calls += 1
        return shake_128(self.seed + self.calls.to_bytes(8, "little")).digest(size)


@dataclass
class Federation:
    """Devices 1..n, enrolled in run 1, and what each of them keeps."""

    size: int = 4
    rand: Callable[[int], bytes] = field(default_factory=Counted)
    hybrid: bool = False

    def __post_init__(self) -> None:
        self.authority = Identity(self.rand(32))
        self.devices = tuple(range(1, self.size + 1))
        self.identities = {device: Identity(self.rand(32)) for device in self.devices}
        self.roster = Roster.signed(
            self.authority,
            1,
            [Member(d, self.identities[d].public, NOW) for d in self.devices],
            self.rand(32),
        )
        self.enrolled: dict[int, client.Enrolled] = {}
        self.keys: dict[int, RunKey] = {}
        for device in self.devices:
            seed = self.rand(SEED_BYTES) if self.hybrid else b""
            self.enrolled[device], self.keys[device] = client.enrol(
                self.identities[device], 1, device, self.rand(32), seed
            )
        self.kem: dict[int, dict[int, bytes]] = (
            exchange(self.identities, self.roster, self.enrolled, self.keys) if self.hybrid else {}
        )

    def session(self, codec: Codec | None = None, **changed: Any) -> Session:
        """A session of everyone, everyone on the committee, unless `changed` says otherwise."""
        settings: dict[str, Any] = {
            "run": 1,
            "round": 1,
            "purpose": Purpose.TRAIN,
            "codec": codec or Codec(6, self.size, 2),
            "cohort": tuple(self.keys.values()),
            "witnesses": (),
            "degree": len(changed.get("cohort", self.keys)) - 1,
            "committee": self.devices,
            "seats": 0,
            "threshold": threshold_for(self.size, 0),
            "min_survivors": 2,
            "hybrid": self.hybrid,
            "lattice": "",
            "he": "",
            "epoch": b"",
            "roster": self.roster.digest(),
            "model": bytes(32),
            "config": bytes(32),
        }
        return Session(**(settings | changed))

    def encoded(self, session: Session, device: int) -> Ring:
        """The contribution of a device: its number in every coordinate, twice that as its loss."""
        codec = session.codec
        update = np.full(codec.length, float(device))
        return codec.encode(update, np.array([2.0 * device]), codec.max_weight, self.rand(32))

    def agreed(self, session: Session, device: int) -> dict[int, bytes]:
        return client.agree_all(self.enrolled[device], session, self.kem.get(device))

    def report(
        self, session: Session, device: int, setup: bytes = bytes(32)
    ) -> tuple[client.Reported, Report]:
        return client.report(
            self.enrolled[device],
            self.identities[device],
            session,
            self.agreed(session, device),
            self.encoded(session, device),
            METRICS,
            setup,
            self.rand(client.REPORT_RAND_BYTES),
        )

    def reports(
        self, session: Session, devices: Iterable[int]
    ) -> tuple[dict[int, client.Reported], dict[int, Report]]:
        both = {device: self.report(session, device) for device in devices}
        return {d: pair[0] for d, pair in both.items()}, {d: pair[1] for d, pair in both.items()}

    def resigned(self, session: Session, report: Report, **changed: Any) -> Report:
        """The report as its own device would sign it after a change."""
        fresh = replace(report, **changed)
        content = signed_part(fresh.header(session), fresh.packed, fresh.clear)
        return replace(fresh, signature=self.identities[report.device].sign(labels.REPORT, content))

    def attested(
        self, session: Session, state: client.Reported, request: AttestRequest
    ) -> tuple[client.Attested, Attestation]:
        """What a member makes of a request."""
        agreed = self.agreed(session, state.device)
        return client.attest(state, self.identities[state.device], agreed, bytes(32), request)

    def collect(self, session: Session, reports: Mapping[int, Report]) -> Attesting:
        collecting = Collecting(session, self.roster)
        for device, report in reports.items():
            collecting.add(report.encode(session), sender=device)
        return collecting.close()

    def attest(
        self, attesting: Attesting, states: Mapping[int, client.Reported]
    ) -> tuple[dict[int, client.Attested], Revealing]:
        session, attested = attesting.closed.session, {}
        for member, state in states.items():
            request = AttestRequest.decode(attesting.request(member).encode(session), session)
            attested[member], said = self.attested(session, state, request)
            attesting.add(said.encode(), sender=member)
        return attested, attesting.close()

    def reveal(self, revealing: Revealing, states: Mapping[int, client.Attested]) -> Opened:
        session = revealing.closed.session
        for member, state in states.items():
            request = RevealRequest.decode(revealing.request().encode(), session)
            revealing.add(client.reveal(state, self.roster, request).encode(), sender=member)
        return revealing.open(self.rand(32))

    def run(self, session: Session, reports: Mapping[int, Report], states: Any) -> Opened:
        """All stages after `report`, everyone who has a state answering."""
        attested, revealing = self.attest(self.collect(session, reports), states)
        return self.reveal(revealing, attested)


def asked(
    session: Session, reports: Mapping[int, Report], survivors: Sequence[int], member: int
) -> AttestRequest:
    """What a server asks of a member about any survivors it likes."""
    at = session.committee.index(member) if member in session.committee else 0
    chosen = [reports[device] for device in survivors]
    return AttestRequest(
        session.id,
        tuple(survivors),
        tuple(report.neighbours for report in chosen),
        tuple(report.sealed[at] for report in chosen),
        tuple(report.hashes[at] for report in chosen),
    )


def vector(session: Session, report: Report) -> Ring:
    """The masked vector of a report."""
    return unpack(report.packed, session.codec.size, session.codec.bits)


def means(opened: Opened) -> tuple[list[float], list[float]]:
    return opened.mean.update.tolist(), opened.mean.metrics.tolist()


def expected(session: Session, survivors: Iterable[int]) -> tuple[list[float], list[float]]:
    """What `Federation.encoded` adds up to."""
    mean = float(np.mean(list(survivors)))
    return [mean] * session.codec.length, [2 * mean, 0.0][: session.codec.metrics]
