"""How much may be asked in a minute, by a key and by an organisation. This bounds load alone.

Counted by the `limits` library, in memory, or in Redis where several processes are one gate. Its
clock is the machine's. Fixed windows: at a boundary twice as many may pass, which is a matter of
load and not of secrets, and they cost a third of sliding ones.
"""

import math
import time

from limits import RateLimitItem, parse
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter

from tacit.crypto.errors import ParameterError
from tacit.server.gate.base import Denial

MEMORY = "memory://"


class Windows:
    """`key` and `organisation` as in "600/minute", `storage` as `limits` names it.

    Raises ParameterError for what `limits` does not understand or cannot reach the means for.
    """

    def __init__(
        self,
        key: str = "600/minute",
        organisation: str = "1200/minute",
        storage: str = MEMORY,
    ) -> None:
        self._key, self._organisation = _item("key", key), _item("organisation", organisation)
        try:
            kept = storage_from_string(storage, wrap_exceptions=True)
        except (ConfigurationError, ValueError) as bad:
            # Not the text itself: an address of Redis may hold a password.
            raise ParameterError(f"windows cannot be kept there: {type(bad).__name__}") from None
        self._limiter = FixedWindowRateLimiter(kept)

    def pass_through(self, key: str, organisation: str, answers: int) -> None:
        """Count `answers` in both windows. Raises Denial, and counts none, if one has no room.

        Between processes that share Redis two may pass at once where one had room for either.
        """
        windows = (self._key, "key", key), (self._organisation, "organisation", organisation)
        try:
            for item, kind, name in windows:
                if answers > item.amount:
                    raise Denial("budget", 429, f"at most {item.amount} answers in one request")
                if not self._limiter.test(item, kind, name, cost=answers):
                    stats = self._limiter.get_window_stats(item, kind, name)
                    wait = max(1.0, math.ceil(stats.reset_time - time.time()))
                    raise Denial("budget", 429, f"too many for now, for this {kind}", wait)
            for item, kind, name in windows:
                self._limiter.hit(item, kind, name, cost=answers)
        except StorageError:
            raise Denial("budget", 503, "the gate cannot count at the moment", 1.0) from None


def _item(of: str, text: str) -> RateLimitItem:
    try:
        item = parse(text)
    except ValueError:
        raise ParameterError(f"{text!r} is no window for a {of}: such as 600/minute") from None
    if item.amount < 1:
        raise ParameterError(f"a window for a {of} lets at least one answer through")
    return item
