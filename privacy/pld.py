"""Privacy loss distributions, by dp-accounting: tighter than Rényi divergences where units are
drawn. It needs the extra [dp]; a device does not need it.

What is released is replaced with the Gaussian release that it hides as well as, as in
`tacit.privacy.accountants`: the library knows no Skellam noise, and needs to know none.
"""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tacit.crypto.errors import ParameterError
from tacit.privacy.accountants import (
    DISTANCE,
    GDP,
    Adversary,
    cost,
    gdp,
    is_amplified,
)
from tacit.privacy.gaussian import beside
from tacit.privacy.releases import Concentrated, Release

INTERVAL = 1e-3  # of the grid that losses are rounded up to


def epsilon(
    releases: Iterable[Release], delta: float, adversary: Adversary, interval: float = INTERVAL
) -> float:
    """For a unit that is in each, or could have been drawn for each. inf if there is no guarantee.

    Raises ParameterError without dp-accounting, and for zCDP, which has no distribution of losses.
    """
    dp = _library()
    events: Counter[tuple[float, float]] = Counter()
    distance = 0.0
    for release in releases:
        if isinstance(release.mechanism, Concentrated):
            raise ParameterError("zCDP does not say how losses are distributed")
        plain = cost(release, adversary).plain[0]
        if math.isinf(plain[GDP]):
            return math.inf
        distance += float(plain[DISTANCE])
        rate = release.rate if is_amplified(release, adversary) else 1.0
        events[gdp(release), rate] += 1
    accountant = dp.pld.PLDAccountant(
        dp.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=interval
    )
    for (square, rate), count in events.items():
        event = dp.GaussianDpEvent(1 / math.sqrt(square))
        accountant.compose(event if rate == 1 else dp.PoissonSampledDpEvent(rate, event), count)
    return beside(lambda left: float(accountant.get_epsilon(left)), delta, distance)


def _library() -> Any:
    try:
        import dp_accounting
        import dp_accounting.pld
    except ImportError:
        raise ParameterError(
            "privacy loss distributions need dp-accounting: pip install '.[dp]' in Tacit's checkout"
        ) from None
    return dp_accounting
