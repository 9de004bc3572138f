"""Canaries on the path that updates take: rotated, clipped, rounded and noised on each device,
summed under masks while some devices drop out, opened and decoded.

A canary is an update as long as the clip, and the device that has it sends that or zeros: what is
released should hardly tell which. The adversary is the server. It sees each sum that is opened,
knows what everybody else's update is, and is told all that corrupt devices send; it knows neither
the dither nor the noise of the others. No more devices stay than must, so there is no noise to
spare. Devices are honest from 1 on, then corrupt, and the last ones drop out.

A secure sum is exact, so masks change no bit of what is released, and cost most of the time. Where
many sums are needed, some of them may be mere additions in the ring; each that has masks is held
against that.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.codec import Mean, Ring
from tacit.crypto.errors import ParameterError, ProtocolError
from tacit.crypto.secagg import client
from tacit.crypto.secagg.memory import Rand
from tacit.crypto.secagg.messages import AttestRequest, RevealRequest
from tacit.crypto.secagg.server import Collecting
from tacit.crypto.secagg.session import DIGEST_BYTES, SECRET_BYTES, Purpose, Session, threshold_for
from tacit.crypto.simulated import simulated_identity, simulated_roster
from tacit.crypto.vector import Floats
from tacit.privacy.accountants import GDP, Adversary, Spent, compose
from tacit.privacy.charges import releases_of
from tacit.privacy.mechanisms import Mechanism

# What a device makes of its update: its number, the mechanism, the update, the sum's id, secret
# bytes. Only controls (`tacit.simulations.controls`) have another than `honest`.
Device: TypeAlias = Callable[[int, Mechanism, Floats, bytes, bytes], Ring]
Step: TypeAlias = Callable[[int, int], None]

COMMITTEE = 32  # members, and neighbours of each device, at most: large cohorts stay quick
RUN = 1


def honest(number: int, mechanism: Mechanism, update: Floats, session: bytes, rand: bytes) -> Ring:
    return mechanism.encode(update, session, rand)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the server has of one sum: the mean update (length,), of how many, under which id; the
    sum in the ring; and what corrupt devices told it of what they sent."""

    session: bytes
    survivors: int
    mean: Floats = field(repr=False)
    total: Ring = field(repr=False)
    told: tuple[Ring, ...] = field(repr=False)


class Cohort:
    """Devices 1..clients of a mechanism, enrolled in one run of which each sum is a round."""

    def __init__(self, mechanism: Mechanism, rand: Rand, device: Device = honest) -> None:
        """Raises ParameterError for fewer than two survivors, which no secure sum is over, and
        where the server adds the noise. `rand(n)` returns n fresh random bytes."""
        if mechanism.central:
            raise ParameterError("in central mode the server sees sums without noise")
        self.mechanism, self.rounds = mechanism, 0
        self._rand, self._device = rand, device
        self.devices = range(1, mechanism.clients + 1)
        self.survivors = self.devices[: mechanism.clients - mechanism.dropouts]
        self.corrupt = self.survivors[len(self.survivors) - mechanism.corrupt :]
        self._roster = simulated_roster(mechanism.clients)
        self._identities = {number: simulated_identity(number) for number in self.devices}
        both = {n: client.enrol(self._identities[n], RUN, n, rand(32)) for n in self.devices}
        self._enrolled = {number: state for number, (state, _) in both.items()}
        self._keys = tuple(key for _, key in both.values())
        first = self._session()
        first.verify_members(self._roster, now=0)
        first.verify_keys(self._roster)
        self._agreed = {n: client.agree_all(self._enrolled[n], first) for n in self.devices}

    def spent(self, rounds: int) -> Spent:
        """What so many sums cost a device, by what a server's ledger would be told of them."""
        mechanism, survivors = self.mechanism, len(self.survivors)
        releases = [
            release
            for number in range(rounds)
            for release in releases_of(mechanism.agreed, RUN, number, survivors, mechanism.corrupt)
        ]
        return compose(releases, Adversary.SERVER)

    def sum(self, updates: Floats, *, masked: bool) -> Seen:
        """One sum of the updates (survivors, length), in the order of `survivors`.

        Raises ProtocolError if a sum under masks is not, bit by bit, the sum of what was masked.
        """
        self.rounds += 1
        session = self._session()
        sent = {
            number: self._device(number, self.mechanism, update, session.id, self._rand(32))
            for number, update in zip(self.survivors, updates, strict=True)
        }
        total = np.zeros(self.mechanism.size, self.mechanism.dtype)
        for ring in sent.values():
            total += ring
        count = len(self.survivors)
        opened = self.mechanism.decode(total, count)
        if masked:
            under = self._opened(session, sent)
            if not np.array_equal(under.decoded[:], opened.decoded[:]):
                raise ProtocolError("not the sum of what was masked", sender=0, stage="open")
        mean = self.mechanism.update(opened, session.id)
        told = tuple(sent[number] for number in self.corrupt)
        return Seen(session.id, count, mean, total, told)

    def unknown(self, seen: Seen) -> Floats:
        """The sum of updates (length,) and what is unknown of its noise: without the contributions
        of corrupt devices."""
        rest = seen.mean * seen.survivors
        for ring in seen.told:
            alone = ring.copy()
            alone[-1] = seen.survivors
            opened = self.mechanism.decode(alone, seen.survivors)
            rest -= self.mechanism.update(opened, seen.session) * seen.survivors
        return rest

    def _session(self) -> Session:
        mechanism = self.mechanism
        committee = tuple(self.devices[:COMMITTEE])
        return Session(
            run=RUN,
            round=self.rounds,
            purpose=Purpose.TRAIN,
            codec=mechanism.agreed,
            cohort=self._keys,
            witnesses=(),
            degree=min(mechanism.clients - 1, COMMITTEE),
            committee=committee,
            seats=0,
            threshold=threshold_for(len(committee), 0),
            min_survivors=len(self.survivors),
            hybrid=False,
            lattice="",
            he="",
            epoch=b"",
            roster=self._roster.digest(),
            model=bytes(DIGEST_BYTES),
            config=bytes(DIGEST_BYTES),
        )

    def _opened(self, session: Session, sent: dict[int, Ring]) -> Mean:
        """The sum under masks, through all stages."""
        collecting, reported = Collecting(session, self._roster), {}
        for number, ring in sent.items():
            reported[number], report = client.report(
                self._enrolled[number],
                self._identities[number],
                session,
                self._agreed[number],
                ring.copy(),  # it is overwritten
                (),
                bytes(DIGEST_BYTES),
                self._rand(client.REPORT_RAND_BYTES),
            )
            collecting.add(report.encode(session), sender=number)
        attesting, attested = collecting.close(), {}
        for number in attesting.closed.members:
            request = AttestRequest.decode(attesting.request(number).encode(session), session)
            attested[number], said = client.attest(
                reported[number],
                self._identities[number],
                self._agreed[number],
                bytes(DIGEST_BYTES),
                request,
            )
            attesting.add(said.encode(), sender=number)
        revealing = attesting.close()
        for number in revealing.members:
            asked = RevealRequest.decode(revealing.request().encode(), session)
            shares = client.reveal(attested[number], self._roster, asked)
            revealing.add(shares.encode(), sender=number)
        return revealing.open(self._rand(SECRET_BYTES)).mean


@dataclass(frozen=True, slots=True)
class Trials:
    """Runs of `rounds` sums each, in all of which device 1 sends a canary `reach` clips long, or
    zeros in all. The canary is in the first coordinate, and the others' updates (survivors - 1,
    length), which are known and the same in each sum, have nothing there."""

    cohort: Cohort
    others: Floats = field(repr=False)
    rounds: int = 1
    reach: float = 1.0

    @classmethod
    def drawn(cls, cohort: Cohort, rand: Rand, rounds: int = 1, reach: float = 1.0) -> "Trials":
        """The others' updates are of any direction, and as long as the clip."""
        rng = np.random.default_rng(int.from_bytes(rand(32), "little"))
        others = rng.normal(size=(len(cohort.survivors) - 1, cohort.mechanism.length))
        others[:, 0] = 0
        norms = np.linalg.norm(others, axis=1, keepdims=True)
        others *= cohort.mechanism.clip / np.maximum(norms, 1e-9)
        return cls(cohort, others, rounds, reach)

    def score(self, *, present: bool, masked: bool) -> float:
        """What all sums have where the canary is, in clips, once what is known is taken off:
        nothing and noise, or `rounds` * `reach` and noise."""
        cohort, found = self.cohort, 0.0
        clip = cohort.mechanism.clip
        first = np.zeros((1, cohort.mechanism.length))
        first[0, 0] = clip * self.reach if present else 0.0
        updates = np.vstack([first, self.others])
        for _ in range(self.rounds):
            found += float(cohort.unknown(cohort.sum(updates, masked=masked))[0]) / clip
        return found

    def scores(self, runs: int, masked: int, step: Step) -> tuple[Floats, Floats]:
        """Of so many runs without the canary, and with it, by turns; (runs,) each. `masked` of each
        kind are under masks, spread evenly; `step` is told how many of all are done."""
        found = np.empty((2, runs))
        for i in range(runs):
            under = (i + 1) * masked // runs > i * masked // runs
            for present in (False, True):
                found[int(present), i] = self.score(present=present, masked=under)
            step(i + 1, runs)
        return found[0], found[1]


def one_run(
    cohort: Cohort, rand: Rand, rounds: int, step: Step
) -> tuple[Floats, NDArray[np.bool_]]:
    """One run, all of it under masks, in which each honest survivor has a canary in a coordinate of
    its own, and by the toss of a coin sends it or zeros. Returns their scores and who sent it,
    (canaries,) each.

    Raises ParameterError if there are not so many coordinates.
    """
    mechanism, canaries = cohort.mechanism, len(cohort.survivors) - len(cohort.corrupt)
    if canaries > mechanism.length:
        raise ParameterError(f"{canaries} canaries in {mechanism.length} coordinates: raise length")
    coins = np.frombuffer(rand(canaries), np.uint8) & 1 == 1
    updates = np.zeros((len(cohort.survivors), mechanism.length))
    updates[np.arange(canaries), np.arange(canaries)] = coins * mechanism.clip
    scores = np.zeros(canaries)
    for i in range(rounds):
        scores += cohort.unknown(cohort.sum(updates, masked=True))[:canaries] / mechanism.clip
        step(i + 1, rounds)
    return scores, coins


def noise_of(starts: Sequence[Cohort], sums: int, *, masked: bool) -> NDArray[np.int64]:
    """Noise in steps, of sums of nothing, after each start of a federation: (sums, coordinates) in
    all. Contributions of corrupt devices are taken off: their noise is no secret."""
    found = []
    for cohort in starts:
        mechanism = cohort.mechanism
        nothing = np.zeros((len(cohort.survivors), mechanism.length))
        for _ in range(sums):
            seen = cohort.sum(nothing, masked=masked)
            left = seen.total.copy()
            for ring in seen.told:
                left -= ring
            found.append(left[:-1] & np.uint32((1 << mechanism.bits) - 1))
    return np.array(found, np.int64)


def off_lattice(released: Floats) -> Floats:
    """1.0 where a released number, in units of the sensitivity, cannot be 1 + noise, for float64
    noise: it is below 1/4 and has a digit that the sum of 1 and a float64 has lost. 0.0 elsewhere.

    Noise between -5/4 and -3/4 is a multiple of 2**-53, and added to 1 it stays one; what is
    nearer to 0 has finer digits (Mironov 2012, doi:10.1145/2382196.2382264).
    """
    fine = released * 2.0**53
    found: Floats = ((np.abs(released) < 0.25) & (np.rint(fine) != fine)).astype(np.float64)
    return found


def m_of(spent: Spent) -> float:
    """The m of m-GDP that was spent."""
    return math.sqrt(float(spent.plain[0, GDP]))
