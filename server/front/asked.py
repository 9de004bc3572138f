"""What may be asked of the front: the methods of Flower's Fleet API, letter by letter.

The request that SuperLink gets is written anew, of a known path, a length and a few known headers.
So nothing that two programs could read in two ways is passed on: no other path, query or method,
no transfer encoding, no header that is not named here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType

import h11

from tacit.server.front.limits import KIB, MIB, Limits
from tacit.server.front.refusal import LARGE, MALFORMED, PATH, Refusal

HEALTH = b"/health"
ACTIVATE = b"/v1/fleet/activate-node"
_SMALL, _TREES = 64 * KIB, 64 * MIB
# What a SuperNode of Flower 1.41 calls that has a key, and the most that it sends there: 0 is
# `Limits.object_bytes`. Nodes without a key call two more, to register and unregister themselves.
PATHS = MappingProxyType(
    {
        ACTIVATE: _SMALL,
        b"/v1/fleet/deactivate-node": _SMALL,
        b"/v1/fleet/send-node-heartbeat": _SMALL,
        b"/v1/fleet/pull-messages": _SMALL,
        b"/v1/fleet/push-messages": _TREES,
        b"/v1/fleet/get-run": _SMALL,
        b"/v1/fleet/get-fab": _SMALL,
        b"/v1/fleet/push-object": 0,
        b"/v1/fleet/pull-object": _SMALL,
        b"/v1/fleet/confirm-message-received": _SMALL,
    }
)
KEY, SIGNATURE, TIMESTAMP = b"flwr-public-key", b"flwr-signature", b"flwr-timestamp"
_PASSED_ON = frozenset(
    {
        b"content-type",
        b"accept",
        KEY,
        SIGNATURE,
        TIMESTAMP,
        b"flwr-package-name",
        b"flwr-package-version",
        b"flwr-component-name",
    }
)
_NEVER = frozenset({b"transfer-encoding", b"upgrade", b"te", b"trailer", b"content-encoding"})


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that may be passed on, if it is signed: `length` is that of its body in bytes."""

    path: bytes
    length: int
    headers: tuple[tuple[bytes, bytes], ...]

    def header(self, name: bytes) -> bytes:
        """Its value, b"" if there is none."""
        return next((value for key, value in self.headers if key == name), b"")


def read(request: h11.Request, limits: Limits) -> Asked:
    """What is asked for. Raises Refusal, and says nothing, for all that devices do not ask."""
    if sum(map(len, (request.target, *chain(*request.headers)))) > limits.head_bytes:
        raise Refusal(LARGE, 431)
    names = [name for name, _ in request.headers]  # in lower case, as h11 has them
    if request.http_version != b"1.1" or _NEVER & {*names} or _repeats(names):
        raise Refusal(MALFORMED, 400)
    if request.target == HEALTH and request.method in (b"GET", b"HEAD"):
        return Asked(HEALTH, 0, _kept(request))
    most = PATHS.get(request.target)
    if most is None or request.method != b"POST":
        raise Refusal(PATH, 404)
    length = next((value for name, value in request.headers if name == b"content-length"), None)
    if length is None:
        raise Refusal(MALFORMED, 411)
    if int(length) > (most or limits.object_bytes):
        raise Refusal(LARGE, 413)
    return Asked(request.target, int(length), _kept(request))


def _kept(request: h11.Request) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(pair for pair in request.headers if pair[0] in _PASSED_ON)


def _repeats(names: Sequence[bytes]) -> bool:
    """Whether a header that counts is there twice: one program may take the first, one the last."""
    counted = [name for name in names if name in _PASSED_ON or name in (b"host", b"content-length")]
    return len(counted) != len({*counted})
