"""A small federation for tests, its bytes counted rather than drawn, and a round step by step."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import shake_128
from typing import Any

import numpy as np

from tacit.crypto import labels
from tacit.crypto.codec import Codec, Ring
from tacit.crypto.identity import Identity, Member, Roster, RunKey
from tacit.crypto.secagg import client
from tacit.crypto.secagg.messages import AttestRequest, Report, RevealRequest, signed_part
from tacit.crypto.secagg.server import Attesting, Collecting, Opened, Revealing
from tacit.crypto.secagg.session import Purpose, Session, threshold_for

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

    def __post_init__(self) -> None:
        self.authority = Identity(self.rand(32))
        self.devices = tuple(range(1, self.size + 1))
        self.identities = {device: Identity(self.rand(32)) for device in self.devices}
        self.roster = Roster.signed(
            self.authority,
            1,
            [Member(d, self.identities[d].public, NOW) for d in self.devices],
        )
        self.enrolled: dict[int, client.Enrolled] = {}
        self.keys: dict[int, RunKey] = {}
        for device in self.devices:
            self.enrolled[device], self.keys[device] = client.enrol(
                self.identities[device], 1, device, self.rand(32)
            )

    def session(self, codec: Codec | None = None, **changed: Any) -> Session:
        """A session of everyone, everyone on the committee, unless `changed` says otherwise."""
        settings: dict[str, Any] = {
            "run": 1,
            "round": 1,
            "purpose": Purpose.TRAIN,
            "codec": codec or Codec(6, self.size, 2),
            "cohort": tuple(self.keys.values()),
            "committee": self.devices,
            "threshold": threshold_for(self.size, 0),
            "min_survivors": 2,
            "roster": self.roster.digest(),
            "model": bytes(32),
            "config": bytes(32),
        }
        return Session(**(settings | changed))

    def encoded(self, session: Session, device: int) -> Ring:
        """The contribution of a device: its number in every coordinate, twice that as its loss."""
        codec = session.codec
        update = np.full(codec.length, float(device))
        return codec.encode(update, np.array([2.0 * device]), codec.max_weight)

    def report(
        self, session: Session, device: int, setup: bytes = bytes(32)
    ) -> tuple[client.Reported, Report]:
        return client.report(
            self.enrolled[device],
            self.identities[device],
            session,
            self.encoded(session, device),
            METRICS,
            setup,
            self.rand(client.report_rand_size(session)),
        )

    def reports(
        self, session: Session, devices: Iterable[int]
    ) -> tuple[dict[int, client.Reported], dict[int, Report]]:
        both = {device: self.report(session, device) for device in devices}
        return {d: pair[0] for d, pair in both.items()}, {d: pair[1] for d, pair in both.items()}

    def resigned(self, session: Session, report: Report, **changed: Any) -> Report:
        """The report as its own device would sign it after a change."""
        fresh = replace(report, **changed)
        body = fresh.body(session.codec.bits)
        return replace(
            fresh, signature=self.identities[report.device].sign(labels.REPORT, signed_part(body))
        )

    def collect(self, session: Session, reports: Mapping[int, Report]) -> Attesting:
        collecting = Collecting(session, self.roster)
        for device, report in reports.items():
            collecting.add(report.encode(session.codec.bits), sender=device)
        return collecting.close()

    def attest(
        self, attesting: Attesting, states: Mapping[int, client.Reported]
    ) -> tuple[dict[int, client.Attested], Revealing]:
        session, attested = attesting.closed.session, {}
        for member, state in states.items():
            request = AttestRequest.decode(attesting.request(member).encode(), session)
            attested[member], said = client.attest(state, self.identities[member], request)
            attesting.add(said.encode(), sender=member)
        return attested, attesting.close()

    def reveal(self, revealing: Revealing, states: Mapping[int, client.Attested]) -> Opened:
        session = revealing.closed.session
        for member, state in states.items():
            request = RevealRequest.decode(revealing.request().encode(), session)
            revealing.add(client.reveal(state, self.roster, request).encode(), sender=member)
        return revealing.open()

    def run(self, session: Session, reports: Mapping[int, Report], states: Any) -> Opened:
        """All stages after `report`, everyone who has a state answering."""
        attested, revealing = self.attest(self.collect(session, reports), states)
        return self.reveal(revealing, attested)


def means(opened: Opened) -> tuple[list[float], list[float]]:
    return opened.mean.update.tolist(), opened.mean.metrics.tolist()


def expected(session: Session, survivors: Iterable[int]) -> tuple[list[float], list[float]]:
    """What `Federation.encoded` adds up to."""
    mean = float(np.mean(list(survivors)))
    return [mean] * session.codec.length, [2 * mean, 0.0][: session.codec.metrics]
