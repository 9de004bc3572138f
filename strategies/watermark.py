"""Any of the strategies that need only the mean, with a mark in every model that it makes.

The mark is trained into the model after each aggregation, on the server, from nothing but a key
(WAFFLE, Tekgul et al. 2021, arXiv:2008.07298). No device sees a trigger, and nothing is asked of
devices: it works above secure sums as above others. It is done to what a sum has released, and uses
no data, so under differential privacy it is post-processing and costs nothing (Dwork and Roth 2014,
proposition 2.1): the ledger is told of sums, and there are as many as without it.

Where the server never sees the model there is nothing to train: there a device has to bear the mark
(`tacit.client.signature`).
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, FedAvgM, Result
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.server.loop import EvaluateFn, Plan, in_its_dtypes, run_rounds
from tacit.strategies.around import Around
from tacit.strategies.robust import ROBUST
from tacit.strategies.secure import MEAN_ONLY, AboveSums, aggregates_as

Embed: TypeAlias = Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]
"""From a model to the same with the mark: names, shapes and dtypes stay."""


class Watermarked(Around):
    """Marks each model that `inner` makes of a round, and has it go on from there.

    `Watermarked(Secure(FedAdam(...)), embed)` runs over secure sums; around a strategy that is not
    secure, over what the grid gives. A round without a sum leaves the model, and its mark, as they
    were. All that has to be remembered between rounds is the inner strategy's.

    Raises ParameterError for a strategy of which it is not known what it remembers of a model.
    """

    inner: FedAvg | AboveSums

    def __init__(self, inner: FedAvg | AboveSums, embed: Embed) -> None:
        super().__init__(inner)
        self._base = inner.inner if isinstance(inner, AboveSums) else inner
        if not aggregates_as(self._base, (*MEAN_ONLY, *ROBUST)):
            raise ParameterError(
                f"{type(self._base).__name__} may remember a model in its own way, and would go on "
                "from one without the mark"
            )
        self._embed = embed
        self._sent = ArrayRecord()

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
        if isinstance(self.inner, AboveSums):
            return self.inner.lead(
                self, grid, initial_arrays, num_rounds, timeout, train_config, evaluate_config,
                evaluate_fn,
            )  # fmt: skip
        return run_rounds(
            grid,
            self,
            initial_arrays,
            Plan(num_rounds, timeout, nodes=self._base.min_available_nodes),
            train_config=train_config,
            evaluate_config=evaluate_config,
            evaluate_fn=evaluate_fn,
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._sent = arrays
        return self.inner.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = self.inner.aggregate_train(server_round, replies)
        if arrays is None:
            return None, metrics
        model = in_its_dtypes(arrays, self._sent)  # what devices will get, and what is trained
        marked = self._embed({name: array.numpy() for name, array in model.items()})
        arrays = ArrayRecord({name: Array(np.asarray(array)) for name, array in marked.items()})
        if isinstance(self._base, FedAvgM):  # the others take the model that they send next
            self._base.current_arrays = arrays
        return arrays, metrics
