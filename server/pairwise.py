"""The parameters of pairwise-masked sums, and how a session is made from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tacit.crypto.codec import Codec
from tacit.crypto.errors import ParameterError, TooFewClients
from tacit.crypto.identity import RunKey
from tacit.crypto.secagg.session import Purpose, Session, threshold_for

# Everyone deals shares to everyone: 48 bytes for each pair of others in every report, 0.8 MB each
# at this size. A sparser graph is what larger cohorts want.
MAX_COHORT = 128


@dataclass(frozen=True, slots=True)
class Binding:
    """What a session is about: digests of the roster, the model and the configuration."""

    roster: bytes
    model: bytes
    config: bytes


@dataclass(frozen=True, slots=True)
class Pairwise:
    """Sums under pairwise masks, everyone masking against everyone, everyone on the committee.

    bits            width of the ring: what one coordinate takes on the wire
    bound           largest |coordinate| of an update
    metrics         slots for metrics; metric_bound is the largest |value|
    max_weight      largest weight (example count) of a device
    corrupt         fraction of the committee that may collude with the server
    min_survivors   fewest reports a sum is opened over; None: the threshold
    stage_deadline  seconds for each of enrol, attest, reveal

    What a device refuses is its policy's business: see `tacit.client.policy.Policy`.
    """

    bits: int = 32
    bound: float = 8.0
    metrics: int = 16
    metric_bound: float = 1000.0
    max_weight: float = 10_000.0
    corrupt: float = 1 / 3
    min_survivors: int | None = None
    stage_deadline: float = 60.0

    name = "pairwise"

    def __post_init__(self) -> None:
        if not 0 <= self.corrupt < 1:
            raise ParameterError(f"corrupt={self.corrupt}, expected 0 <= corrupt < 1")
        if not self.stage_deadline > 0:
            raise ParameterError(f"stage_deadline={self.stage_deadline}, expected seconds above 0")
        if self.min_survivors is not None and self.min_survivors < 2:
            raise ParameterError(f"min_survivors={self.min_survivors}, expected at least 2")
        self._codec(0, 2)  # fails here rather than in a round

    def session(
        self,
        run: int,
        round: int,
        purpose: Purpose,
        cohort: Sequence[RunKey],
        length: int,
        binding: Binding,
    ) -> Session:
        """One sum over `cohort` of updates of `length` coordinates.

        Raises TooFewClients for a cohort smaller than min_survivors or than 2, and ParameterError
        for one of more than MAX_COHORT, or one the codec has no room for.
        """
        size = len(cohort)
        if size > MAX_COHORT:
            raise ParameterError(
                f"{size} devices in one sum, at most {MAX_COHORT}: sample fewer per round"
            )
        threshold = threshold_for(size, math.floor(self.corrupt * size))
        least = self.min_survivors or max(2, threshold)
        if size < max(2, least):
            raise TooFewClients(f"a cohort of {size}, at least {max(2, least)} needed")
        ordered = tuple(sorted(cohort, key=lambda key: key.device))
        return Session(
            run=run,
            round=round,
            purpose=purpose,
            codec=self._codec(length, size),
            cohort=ordered,
            committee=tuple(key.device for key in ordered),
            threshold=threshold,
            min_survivors=least,
            roster=binding.roster,
            model=binding.model,
            config=binding.config,
        )

    def _codec(self, length: int, clients: int) -> Codec:
        return Codec(
            length=length,
            clients=clients,
            metrics=self.metrics,
            bound=self.bound,
            metric_bound=self.metric_bound,
            max_weight=self.max_weight,
            bits=self.bits,
        )
