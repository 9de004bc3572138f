"""The server's last stage of a consortium's sum: members, who hold the key, decrypt it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tacit.crypto.errors import ProtocolError, TooFewClients
from tacit.crypto.secagg.messages import Decryption, RevealRequest
from tacit.crypto.secagg.revealing import Closed, Opened, Revealing
from tacit.crypto.wire import unpack

OPENERS = 3
AGREEING = 2


class SumRevealing(Revealing):
    """Has the sum decrypted by OPENERS of its members, of whom AGREEING have to say the same.

    One alone could say what it likes, as two in league still can; it is the price of a key that
    everybody holds, and nobody is named a liar for it. They take turns from round to round.
    """

    def __init__(
        self,
        closed: Closed,
        signatures: Mapping[int, bytes],
        bad: Mapping[int, tuple[int, ...]],
    ) -> None:
        super().__init__(closed, signatures, bad)
        self._turns = _turns(sorted(signatures), closed.session.round)
        self._asked = OPENERS
        self._said: dict[bytes, set[int]] = {}  # by what was said, who said it

    @property
    def members(self) -> tuple[int, ...]:
        return self._turns[: self._asked]

    def instead(self, silent: int) -> tuple[int, ...]:
        """The next in turn, unless enough agree already. In the place of those who refuse, others
        are asked only if somebody found the sum to hold: else they might all give the key up."""
        if self._agreed() is not None:
            return ()
        first, answered = self._asked, sum(map(len, self._said.values()))
        self._asked += first - answered if answered else silent
        return self._turns[first : self._asked]

    def request(self) -> RevealRequest:
        total = self.closed.total
        assert isinstance(total, bytes)
        return replace(super().request(), total=total)

    def add(self, data: bytes, *, sender: int) -> None:
        """Take in one member's decryption. Whether it is right only shows beside the others."""
        if sender not in self.members or any(sender in who for who in self._said.values()):
            raise ProtocolError("not asked, or sent twice", sender=sender, stage="reveal")
        message = Decryption.decode(data, self.closed.session, sender=sender)
        if message.member != sender:
            raise ProtocolError("decryption of another member", sender=sender, stage="reveal")
        self._said.setdefault(message.packed, set()).add(sender)

    def open(self, rand: bytes) -> Opened:
        """Decode what enough members say alike; `rand` is not used.

        Raises TooFewClients if they do not, and ProtocolError for a sum that is none.
        """
        codec, packed = self.closed.session.codec, self._agreed()
        if packed is not None:
            return self._decoded(unpack(packed, codec.size, codec.bits))
        answered = sum(map(len, self._said.values()))
        raise TooFewClients(
            f"{answered} members decrypted the sum, {AGREEING} have to, and to say the same"
        )

    def _agreed(self) -> bytes | None:
        """What enough members say alike."""
        return next((said for said, who in self._said.items() if len(who) >= AGREEING), None)


def _turns(attested: Sequence[int], round: int) -> tuple[int, ...]:
    """All of them, beginning with those whose turn it is."""
    first = round * OPENERS % len(attested)
    return (*attested[first:], *attested[:first])
