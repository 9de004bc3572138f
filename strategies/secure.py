"""Any Flower strategy that needs only the mean, above a sum nobody can look into."""

from abc import abstractmethod
from collections.abc import Sequence

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    FedYogi,
    Result,
    Strategy,
)

from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import Roster
from tacit.privacy.ledger import Storage
from tacit.server.ahead import Ahead
from tacit.server.events import OnEvent
from tacit.server.grid import SecureGrid
from tacit.server.inbox import Tap
from tacit.server.loop import EvaluateFn, Plan, run_rounds
from tacit.server.pairwise import Pairwise, SecureSum
from tacit.server.private import Privacy
from tacit.server.private_sums import Memory, PrivateSums, turns_of
from tacit.strategies.around import Around

MEAN_ONLY = (FedAvg, FedProx, FedAvgM, FedAdam, FedAdagrad, FedYogi)
"""Strategies of Flower whose aggregation sees the replies only through their weighted mean."""


class AboveSums(Around):
    """One of Flower's strategies, `inner`, that runs over secure sums.

    `protocol` are the sums' parameters; `roster` lists the enrolled devices, and without one they
    are those of a simulation. Every device must run a `SecureClientApp`. `private` are the sums of
    a run whose sums have noise.
    """

    inner: FedAvg

    def __init__(
        self, inner: FedAvg, protocol: SecureSum | None = None, *, roster: Roster | None = None
    ) -> None:
        super().__init__(inner)
        self.protocol = protocol or Pairwise()
        self.roster = roster
        self.private: PrivateSums | None = None

    @abstractmethod
    def grid(
        self,
        inner: Grid,
        *,
        on_event: OnEvent | None = None,
        tap: Tap | None = None,
        ahead: Ahead | None = None,
    ) -> SecureGrid:
        """The grid that this strategy's rounds have to run over. `ahead`: see `SecureGrid`."""

    @property
    def nodes(self) -> int:
        """Nodes to wait for before the first round."""
        return self.inner.min_available_nodes

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFn | None = None,
    ) -> Result:
        """Run all rounds, as any Flower strategy's `start` does."""
        return self.lead(
            self.inner, grid, initial_arrays, num_rounds, timeout, train_config, evaluate_config,
            evaluate_fn,
        )  # fmt: skip

    def lead(
        self,
        strategy: Strategy,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int,
        timeout: float,
        train_config: ConfigRecord | None,
        evaluate_config: ConfigRecord | None,
        evaluate_fn: EvaluateFn | None,
    ) -> Result:
        """As `start`, by a strategy that stands around `inner`, or is it."""
        result = run_rounds(
            self.grid(grid),
            strategy,
            initial_arrays,
            Plan(num_rounds, timeout, nodes=self.nodes),
            train_config=train_config,
            evaluate_config=evaluate_config,
            evaluate_fn=evaluate_fn,
        )
        if self.private is not None:
            self.private.end()
        return result


class Secure(AboveSums):
    """Runs `inner` over secure sums: per round it is shown one reply, the cohort's weighted mean.

    Raises ParameterError for a strategy that has to look at single updates (Krum, the medians,
    ...): it would silently see a cohort of one. See `tacit.strategies.robust` for medians.

    With `privacy` the sums have noise: `Distributed`, `Local` or `Central` of
    `tacit.server.private`. `storage` is where the ledger of what they cost is kept, in memory by
    default; `private.statement()` says what it comes to. No metrics leave devices then, so
    ParameterError is raised too for a strategy that has devices evaluate. With `turns` of a
    `Central` the strategy asks all devices, and a round is with those whose turn it is: one that
    draws them at random is refused.
    """

    def __init__(
        self,
        inner: FedAvg,
        protocol: SecureSum | None = None,
        *,
        roster: Roster | None = None,
        privacy: Privacy | None = None,
        storage: Storage | None = None,
    ) -> None:
        if not aggregates_as(inner, MEAN_ONLY):
            raise ParameterError(
                f"{type(inner).__name__} must look at single updates, and a secure sum hides them: "
                f"use one of {', '.join(kind.__name__ for kind in MEAN_ONLY)}; medians can go over "
                "sums in groups (tacit.strategies.robust, or secure.groups)"
            )
        if privacy is not None and getattr(inner, "fraction_evaluate", 0.0) > 0:
            raise ParameterError(
                "what devices find when they evaluate would leave them without noise: give "
                f"{type(inner).__name__} fraction_evaluate=0.0, and evaluate on the server"
            )
        if turns_of(privacy) is not None and getattr(inner, "fraction_train", 1.0) < 1:
            raise ParameterError(
                "where cohorts take turns no devices are drawn at random: give "
                f"{type(inner).__name__} fraction_train=1.0"
            )
        super().__init__(inner, protocol, roster=roster)
        if privacy is not None:
            self.private = PrivateSums(privacy, storage or Memory())

    def grid(
        self,
        inner: Grid,
        *,
        on_event: OnEvent | None = None,
        tap: Tap | None = None,
        ahead: Ahead | None = None,
    ) -> SecureGrid:
        return SecureGrid(
            inner,
            self.protocol,
            roster=self.roster,
            weight_key=self.inner.weighted_by_key,
            on_event=on_event,
            tap=tap,
            private=self.private,
            ahead=ahead,
        )


def aggregates_as(strategy: Strategy, kinds: Sequence[type]) -> bool:
    """Whether `strategy` aggregates as one of `kinds` does.

    A subclass may change how nodes are chosen and configured; one that brings its own aggregation
    of training replies is not trusted to need no more than they do.
    """
    owner = next((k for k in type(strategy).__mro__ if "aggregate_train" in vars(k)), None)
    return owner in kinds
