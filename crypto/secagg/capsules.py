"""The server's side of a hybrid run: it carries capsules from device to device, and keeps none.

    Pairs ─> Exchange: to_deal ─add─> to_open ─opened─> (Pairs know)

What the server verifies here the devices verify again. But a capsule that does not hold has to be
found before it is carried: it would be its receiver who refuses, and is left out for it.
"""

from collections.abc import Collection, Iterable

from tacit.crypto.errors import ProtocolError
from tacit.crypto.identity import Roster, RunKey
from tacit.crypto.secagg.hybrid import (
    Capsule,
    DecapsulateRequest,
    Encapsulated,
    EncapsulateRequest,
    Peer,
)

MAX_PAIRS = 1 << 15  # in one exchange, which holds 1.3 kB out and 1.2 kB back for each


class Pairs:
    """Which run keys share an ML-KEM secret, as far as the server has heard.

    Run keys, not devices: one that enrols anew shares a secret with nobody.
    """

    def __init__(self) -> None:
        self._publics: dict[RunKey, bytes] = {}
        self._dealers: dict[RunKey, set[RunKey]] = {}  # of the capsules that a device has opened

    def learn(self, key: RunKey, public: bytes) -> None:
        """Keep a device's ML-KEM key. Raises ProtocolError unless it holds and `key` names it."""
        Peer(key, public).loaded()
        self._publics[key] = public

    def peer(self, key: RunKey) -> Peer:
        """A run key with the ML-KEM key that goes with it."""
        return Peer(key, self._publics[key])

    def lacking(self, peer: RunKey, parties: Iterable[RunKey]) -> list[RunKey]:
        """Who of `parties` is to deal `peer` a secret, and has not."""
        dealers = self._dealers.get(peer, ())
        return [key for key in parties if key.device < peer.device and key not in dealers]

    def share(self, peer: RunKey, dealers: Iterable[RunKey]) -> None:
        """`peer` has opened the capsules of `dealers`."""
        self._dealers.setdefault(peer, set()).update(dealers)


class Exchange:
    """Stages encapsulate and decapsulate: the capsules that `receivers` lack, of all `parties`."""

    def __init__(
        self,
        pairs: Pairs,
        run: int,
        roster: Roster,
        parties: Iterable[RunKey],
        receivers: Collection[int],
    ) -> None:
        self._pairs = pairs
        self._run = run
        self._identities = {member.device: member.public for member in roster.members}
        self._keys = {key.device: key for key in sorted(parties, key=lambda key: key.device)}
        self._asked: dict[int, list[RunKey]] = {}  # by dealer, for whom
        self._capsules: dict[int, list[tuple[RunKey, Capsule]]] = {}  # by receiver
        self._left: set[int] = set()
        for peer in (key for device, key in self._keys.items() if device in receivers):
            for dealer in pairs.lacking(peer, self._keys.values()):
                self._asked.setdefault(dealer.device, []).append(peer)

    def to_deal(self) -> dict[int, EncapsulateRequest]:
        """What to ask each dealer. Whoever does not answer is left out."""
        self._left |= self._asked.keys()
        return {
            dealer: EncapsulateRequest(tuple(map(self._pairs.peer, peers)))
            for dealer, peers in sorted(self._asked.items())
        }

    def add(self, data: bytes, *, sender: int) -> None:
        """A dealer's capsules. Raises ProtocolError if one does not hold, and takes none."""
        answer, asked = Encapsulated.decode(data, sender=sender), self._asked[sender]
        if [device for device, _ in answer.capsules] != [peer.device for peer in asked]:
            raise ProtocolError(
                "capsules for others than asked", sender=sender, stage="encapsulate"
            )
        dealer, capsules = self._keys[sender], [capsule for _, capsule in answer.capsules]
        for peer, capsule in zip(asked, capsules, strict=True):
            capsule.verify(self._run, dealer, peer, self._identities.get(sender, b""))
        for peer, capsule in zip(asked, capsules, strict=True):
            self._capsules.setdefault(peer.device, []).append((dealer, capsule))
        self._left.remove(sender)

    def to_open(self) -> dict[int, DecapsulateRequest]:
        """What to send each receiver that is still there. Whoever does not answer is left out."""
        told = {}
        for receiver, capsules in self._capsules.items():
            if receiver not in self._left:
                told[receiver] = sorted(capsules, key=lambda row: row[0].device)
        self._left |= told.keys()
        return {receiver: DecapsulateRequest(tuple(rows)) for receiver, rows in told.items()}

    def opened(self, receiver: int) -> None:
        """A receiver has kept the secrets in its capsules."""
        dealers = (dealer for dealer, _ in self._capsules[receiver])
        self._pairs.share(self._keys[receiver], dealers)
        self._left.remove(receiver)

    @property
    def left(self) -> frozenset[int]:
        """Whom to leave out: all others of `parties` share a secret with each of `receivers`."""
        return frozenset(self._left)
