"""The parameters of sums under TenSEAL, and the stages in which a consortium gets its key."""

import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from tacit.crypto.codec import Codec
from tacit.crypto.errors import ParameterError, ProtocolError
from tacit.crypto.he.dealing import Deal, Delivery
from tacit.crypto.he.frames import library
from tacit.crypto.he.keys import SUMS, Consortium
from tacit.crypto.he.sets import BY_NAME, PUBLIC, Scheme
from tacit.crypto.identity import Roster, RunKey
from tacit.server.pairwise import SecureSum, Shape

log = logging.getLogger("tacit.server")

CKKS = (
    "%s is a set of CKKS. Devices round what it decrypts to, which would give the key away, to the "
    "exact sum; BFV (%s) does the same in a quarter of the bytes"
)


@dataclass(frozen=True, slots=True)
class TenSeal(SecureSum):
    """Sums of vectors that all devices encrypt under one key, with a standard library.

    For consortia that have to use one: the server by itself learns the sum and nothing else, but
    **a device in league with it opens every contribution**. `parameters` names the set, which also
    says how many bits a coordinate has and how many devices there may be: see
    `tacit.crypto.he.sets`. The whole cohort is the committee, and no sum is `hybrid`. The rest is
    what a `SecureSum` has. Needs `pip install '.[he]' in Tacit's checkout`.
    """

    seats: int | None = 0
    parameters: str = PUBLIC.name

    name: ClassVar[str] = "tenseal"

    def __post_init__(self) -> None:
        library()
        if os.name != "posix":
            raise ParameterError("sums under TenSEAL need a server with POSIX pipes")
        if self.seats:
            raise ParameterError("sums under TenSEAL have no seats: the cohort is the committee")
        if self.hybrid:
            raise ParameterError(
                "sums under TenSEAL know no hybrid keys: take masks or lattice keys, or leave out "
                "hybrid, in the policy too"
            )
        SecureSum.__post_init__(self)

    @property
    def he(self) -> str:
        return self.parameters

    @property
    def scheme(self) -> Scheme:
        """Raises ParameterError for an unknown set."""
        if self.parameters not in BY_NAME:
            raise ParameterError(
                f"parameters={self.parameters!r}, expected one of {', '.join(BY_NAME)} for tenseal"
            )
        return BY_NAME[self.parameters]

    def codec(self, length: int, clients: int) -> Codec:
        """As wide as the set's slots have room for."""
        scheme = self.scheme
        return self._codec(length, clients, scheme.plain_bits // scheme.fields)

    def room(self, length: int, clients: int) -> int:
        """Less what the tails of a sum take: see `Noised.width`."""
        return self.codec(length, clients).bits - clients.bit_length()

    def shape(self, devices: int, roster: int) -> Shape:
        return self._shape(devices, roster, 0)


class GroupKeys:
    """The keys of a run, one after the other: who was given which, by whom.

    The server holds no key, only boxes. There is a new key as soon as a device is asked that is
    not among the members of the last one, once one of these is no member of the roster any more,
    after SUMS sums, and after `give_up`.
    """

    def __init__(self, scheme: Scheme) -> None:
        if scheme.scale:
            log.warning(CKKS, scheme.name, PUBLIC.name)
        self._scheme = scheme
        self._serial = 0
        self._turn = 0
        self._given_up = False
        self._sums = 0
        self._consortium: Consortium | None = None
        self._boxes: dict[int, bytes] = {}
        self._holders: set[int] = set()

    @property
    def epoch(self) -> bytes:
        """Of the newest key, empty if there is none."""
        return self._consortium.epoch if self._consortium and self._holders else b""

    @property
    def holders(self) -> frozenset[int]:
        """Who said that it holds the newest key."""
        return frozenset(self._holders)

    def give_up(self) -> None:
        """A device has refused a sum or its box, or lost the key: there has to be another.

        The sum that is under way may end with this one: whoever cannot take part in it says so.
        """
        self._given_up = True

    def used(self) -> None:
        """Another sum begins under the newest key."""
        self._sums += 1

    def covers(self, roster: Roster, keys: Iterable[RunKey], *, now: int) -> bool:
        """Whether the newest key is good, and was dealt to all of these, by this roster, to nobody
        whose membership is over: else those who do not hold it yet would refuse it."""
        held = self._consortium
        if held is None or self._given_up or not self._holders or self._sums >= SUMS:
            return False
        try:
            held.verify(roster, now=now)
        except ProtocolError:
            return False
        return set(keys) <= set(held.members)

    def propose(
        self, run: int, roster: Roster, keys: Iterable[RunKey], dealers: Iterable[int]
    ) -> Consortium:
        """What the next dealer is to be asked: `dealers` take turns, so that one who is silent or
        deals what is no key is not asked again before the others were.

        Serials go on from the time of day, since devices take only newer ones and a server may
        have been started again in the middle of a run. Raises ParameterError for fewer than two.
        """
        self._consortium, self._given_up, self._sums = None, False, 0
        self._boxes.clear()
        self._holders.clear()
        self._serial = max(self._serial + 1, int(time.time()))
        turns = sorted(dealers)
        dealer = turns[self._turn % len(turns)] if turns else 0
        self._turn += 1
        members = tuple(sorted(keys, key=lambda key: key.device))
        self._consortium = Consortium(
            run, roster.digest(), members, dealer, self._serial, self._scheme
        )
        return self._consortium

    def dealt(self, data: bytes, *, sender: int) -> None:
        """Take in the dealer's boxes. Raises ProtocolError."""
        held = self._consortium
        if held is None or sender != held.dealer or self._boxes:
            raise ProtocolError("not asked to deal", sender=sender, stage="deal")
        boxes = Deal.decode(data, held, sender=sender).boxes
        self._boxes = dict(zip(held.others, boxes, strict=True))
        self._holders = {sender}

    def to_deliver(self, devices: Iterable[int]) -> Mapping[int, Delivery]:
        """What to send to those of `devices` that do not hold the key."""
        held = self._consortium
        if held is None:
            return {}
        missing = sorted((set(devices) & self._boxes.keys()) - self._holders)
        return {device: Delivery(held, self._boxes[device]) for device in missing}

    def delivered(self, device: int) -> None:
        """A device said that it holds the key."""
        self._holders.add(device)
