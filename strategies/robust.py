"""A rule that stands up to hostile devices, above secure sums: a median of the sums of groups.

    Robust(FedMedian(), groups=10, hostile=3)

A sum hides its parts, a poisoned update as well as the others, so no rule can look for the odd
one out; and to clip updates is the devices' own business, which a hostile one leaves undone. What
can be compared is sums. Devices are divided at random into `groups`, each has a secure sum of its
own, and `inner`, one of Flower's own rules (the median and the trimmed mean of Yin et
al. 2018, arXiv:1803.01498), gets one mean a group.

**What it buys.** A hostile device spoils one group. As long as fewer than half of the means that
are opened are spoilt, every coordinate of the next model is within the range of the other groups'
means, whatever the hostile devices send. That is all: what stays within the range passes, as a
hostile device that sends only a little does (Baruch et al. 2019, arXiv:1902.06156).

**What it costs.** An update hides among its group, and no longer among the cohort: a device's
policy has the last word (min_cohort, by default 3: groups of 2 take the owner's consent, and
min_survivors with it). A group of 2 or 3 is lost with its first device that drops out. Devices
whose data are unlike the others' have less of a say: their groups' means are the odd ones.

**What the server learns.** The sums of its groups. Devices stay in the group that they come to:
sums over ever other groups are as many equations, and if updates hardly change from round to
round, these can be solved for single devices (Lam et al. 2021, arXiv:2106.06089). The duel measures
it: with groups of 2 that are drawn `anew`, six rounds are enough to find a device's mean update at
a cosine of 0.9. For that price no honest device is always in a spoilt group.

**What the server could do.** It divides the cohort, and nothing shows that it does so by chance. A
server that has devices of its own can put all but one of them into a group, and has that one's
update: it takes min_cohort - 1 devices, as it does for any cohort of its choice. So min_cohort is
what an owner's anonymity stands on, and a smaller group is for servers that are trusted to divide
honestly.
"""

from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg, Strategy

from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import Roster
from tacit.server.ahead import Ahead
from tacit.server.events import OnEvent
from tacit.server.groups import SMALLEST, GroupedGrid, Groups, within_groups
from tacit.server.inbox import Tap
from tacit.server.pairwise import SecureSum
from tacit.strategies.secure import AboveSums, aggregates_as

ROBUST = (FedMedian, FedTrimmedAvg)
"""Rules of Flower that bound what a minority of replies can do, each coordinate by itself."""


class Robust(AboveSums):
    """Runs `inner` over the means of `groups` groups, so that a round stands up to `hostile`
    devices among those that are asked: None is as many as can be.

    A group whose sum is not opened is left out. If so many are missing that the rest would not
    stand up to `hostile`, the model stays as it was: a lower number has more room for drop-outs.
    With `anew` groups are drawn again in each round. `seed` repeats who is in which; None: as the
    system's randomness has it.

    Raises ParameterError for a rule that is not in ROBUST, for more hostile devices than it stands
    up to in so many groups, for sums with a committee drawn from the roster, and for a strategy
    that asks some of the devices only, where groups are to stay what they are.
    """

    def __init__(
        self,
        inner: FedAvg,
        protocol: SecureSum | None = None,
        *,
        groups: int,
        hostile: int | None = None,
        anew: bool = False,
        roster: Roster | None = None,
        seed: int | None = None,
    ) -> None:
        if not aggregates_as(inner, ROBUST):
            raise ParameterError(
                f"{type(inner).__name__} does not bound what a few groups can do: "
                f"use one of {', '.join(kind.__name__ for kind in ROBUST)}"
            )
        if groups < 1:
            raise ParameterError(f"groups={groups}, expected 1 or more")
        if not anew and inner.fraction_train < 1:
            raise ParameterError(
                "groups that stay have no room for devices that are drawn at random: give "
                f"{type(inner).__name__} fraction_train=1.0, or draw groups anew"
            )
        super().__init__(inner, protocol, roster=roster)
        most = withstood(inner, groups)
        self.hostile = most if hostile is None else hostile
        if not 0 <= self.hostile <= most:
            raise ParameterError(
                f"hostile={hostile}: {type(inner).__name__} over {groups} groups stands up to "
                f"{most} hostile devices at most"
            )
        least = next(n for n in range(1, groups + 1) if withstood(inner, n) >= self.hostile)
        self.groups = Groups(groups, least, self.hostile, anew, seed)
        within_groups(self.protocol)  # fails here rather than in a round

    @property
    def nodes(self) -> int:
        return max(super().nodes, SMALLEST * self.groups.count)

    def grid(
        self,
        inner: Grid,
        *,
        on_event: OnEvent | None = None,
        tap: Tap | None = None,
        ahead: Ahead | None = None,
    ) -> GroupedGrid:
        return GroupedGrid(
            inner,
            self.protocol,
            self.groups,
            roster=self.roster,
            weight_key=self.inner.weighted_by_key,
            on_event=on_event,
            tap=tap,
            ahead=ahead,
        )


def withstood(rule: Strategy, groups: int) -> int:
    """How many of so many means may be spoilt, and the rule's result is within the others' range.

    A median: fewer than half. A trimmed mean: as many as it cuts off at either end.
    """
    if isinstance(rule, FedTrimmedAvg):
        return int(rule.beta * groups)  # as Flower rounds; beta is below a half
    return (groups - 1) // 2
