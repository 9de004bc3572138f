"""Each device's own update, out of sums over many rounds that not all devices are in.

Lam, Wei, Brooks, Reddi and Mitzenmacher 2021, "Gradient Disaggregation: Breaking Privacy in
Federated Learning by Reconstructing the User Participant Matrix" (ICML, arXiv:2106.06089): if the
model hardly changes, a device's update is about the same in each of its rounds, and the sums of
many rounds are one linear system in these updates. The paper also finds out who was in which
round, which this server knows: it asked them.

Let S_t be the devices in round t, w_i their weights. The server sees the weighted mean and the
total weight of each round, so it has the sums

    sum of w_i u_i  and  sum of w_i,  over i in S_t,

and least squares on who was where gives w_i u_i and w_i of each device, and so u_i, the mean update
that fits best: exactly, if the updates do not change and participation has as many independent
rounds as there are devices. How much they do change is the error.

**What stops it.** Noise on the sums bounds it: a device's ledger counts all of its rounds. A model
that moves fast hinders it, as updates are then no longer the same. Devices that are always in a sum
together are never told apart: the system has no more rank than there are cohorts, and its least
solution is the cohort's mean for each of its members. But cohorts are for the server to choose, so
they stop an honest one that is asked for its records, and no malicious one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Seen
from tacit.simulations.attacks.base import Conduct, Knows, Target, View, array_of, require

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Disaggregation:
    """Least squares over all rounds in the view's history that are about the same arrays."""

    name: str = "disaggregation"
    needs: Knows = Knows.NOTHING
    conduct: Conduct = Conduct.HONEST
    target: Target = Target.UPDATES

    def reconstruct(self, view: View, rng: np.random.Generator) -> Floats:
        """The mean update of each of `view.members` over its rounds: (members, length), arrays in
        the view's order, each flat.

        Draws nothing from `rng`. Raises ParameterError if the view does not name its members, or
        its weight is not known.
        """
        require(view, self.needs, self.name)
        if not view.members or not view.examples > 0:
            raise ParameterError(f"{self.name} needs to know the members of a sum, and its weight")
        rounds = [seen for seen in view.history if _fits(seen, view)]
        everyone = sorted({node for seen in rounds for node in seen.members})
        sums = np.array([_sum(seen) for seen in rounds])
        there = np.array([np.isin(everyone, seen.members) for seen in rounds], dtype=np.float64)
        found = np.linalg.pinv(there) @ sums
        rows = found[np.searchsorted(everyone, view.members)]
        totals, weights = rows[:, :-1], rows[:, -1:]
        # In fewer rounds than it takes, the least solution may give a device a weight below 0.
        usual = view.examples / len(view.members)
        guess: Floats = totals / np.where(weights > 0, weights, usual)
        return guess


def _fits(seen: Seen, view: View) -> bool:
    """Whether it is a sum of the same arrays, of known weight, over members that are known."""
    return bool(seen.members) and seen.weight > 0 and list(seen.update) == list(view.update)


def _sum(seen: Seen) -> Floats:
    """The sum over a round's devices of weight times update, and of the weights: (length + 1,)."""
    flat = [array_of(seen.update, name, "update").ravel() for name in seen.update]
    return seen.weight * np.concatenate([*flat, [1.0]])
