"""The server's last stage of a sum: what hides it is opened, for exactly its survivors.

Two ways to hide a contribution are opened in two ways. Of masks, each member gives its shares of
every key that is still in the sum, which are combined one by one. Of lattice keys, it gives the sum
of its shares of all survivors' keys, which is a share of the sum of the keys. (Where all devices
hold the key, members decrypt: see `consortium`.)
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tacit.crypto import labels, shamir
from tacit.crypto.codec import Codec, Mean, Ring
from tacit.crypto.errors import ProtocolError, TacitError, TooFewClients
from tacit.crypto.lattice import keys as lattice_keys
from tacit.crypto.lattice.cipher import open_sum
from tacit.crypto.prg import add_masks
from tacit.crypto.secagg.clear import Integers
from tacit.crypto.secagg.messages import (
    HASH_BYTES,
    RevealRequest,
    Shares,
    hash_row,
    share_context,
    wanted,
)
from tacit.crypto.secagg.session import SECRET_BYTES, Session
from tacit.crypto.shamir import Octets


@dataclass(frozen=True, slots=True)
class Dealt:
    """What the server keeps of a report once its vector is folded in."""

    neighbours: tuple[int, ...]
    sealed: Mapping[int, bytes]  # by committee member
    hashes: Mapping[int, bytes]
    commitments: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """An opened sum. `bad` are survivors whose shares did not hold: leave them out from now on.

    They are named by so many committee members that one of these must be honest; a word of fewer
    could be slander. `unfit` are committee members whose shares of an encrypted sum's key did not
    fit those of the others, and did no harm. Leave nobody out for that: a device that deals one
    member a wrong share makes that member's sum wrong, and nobody can tell whose doing it was.
    """

    mean: Mean
    metrics: tuple[str, ...]
    survivors: tuple[int, ...]
    bad: tuple[int, ...]
    unfit: tuple[int, ...] = ()


@dataclass(frozen=True)  # no slots: what the sum needs is worked out once
class Closed:
    """A sum nobody joins any more: who survived, what they dealt, the masked total, and the total
    of what they sent in the clear."""

    session: Session
    id: bytes
    identities: Mapping[int, bytes]
    survivors: tuple[int, ...]
    dealt: Mapping[int, Dealt]
    total: Ring | bytes  # bytes in a consortium: a `Kind.SUM` of `tacit.crypto.he.frames`
    metrics: tuple[str, ...]
    clear: Integers | None = None

    @property
    def ring(self) -> Ring:
        """The total, of words."""
        assert not isinstance(self.total, bytes)
        return self.total

    @property
    def members(self) -> tuple[int, ...]:
        """Committee members who can attest: those who reported, and the witnesses."""
        absent = set(self.session.devices) - set(self.survivors)
        return tuple(member for member in self.session.committee if member not in absent)

    @property
    def lost(self) -> tuple[int, ...]:
        """Devices whose reports were taken and are not in the total: see `totals.Total`."""
        return tuple(sorted(self.dealt.keys() - set(self.survivors)))

    @cached_property
    def wanted(self) -> dict[int, tuple[list[int], tuple[int, ...]]]:
        """For each survivor, in order, what of its secrets the sum needs: see `messages.wanted`."""
        dropped = frozenset(self.session.devices) - set(self.survivors)
        return {d: wanted(self.dealt[d].neighbours, dropped) for d in self.survivors}

    @cached_property
    def rows(self) -> dict[int, slice]:
        """Where each survivor's shares are among those that a member opens."""
        ends = np.cumsum([len(numbers) for numbers, _ in self.wanted.values()]).tolist()
        return {
            dealer: slice(end - len(numbers), end)
            for end, (dealer, (numbers, _)) in zip(ends, self.wanted.items(), strict=True)
        }

    @property
    def opened_rows(self) -> int:
        """How many shares each member opens."""
        return sum(len(numbers) for numbers, _ in self.wanted.values())


class Revealing(ABC):
    """Stage reveal: gathers shares until the sum can be opened."""

    def __init__(
        self,
        closed: Closed,
        signatures: Mapping[int, bytes],
        bad: Mapping[int, tuple[int, ...]],
    ) -> None:
        self.closed = closed
        self._signatures = signatures
        self._bad = bad
        self._shares: dict[int, Shares] = {}
        self.refuted: dict[int, str] = {}  # members whose shares `open` left out, and why

    @property
    def members(self) -> tuple[int, ...]:
        """Whom to ask: the committee members who attested."""
        return tuple(sorted(self._signatures))

    def instead(self, silent: int) -> tuple[int, ...]:
        """Whom to ask in the place of so many that said nothing: nobody, where all were asked."""
        return ()

    def request(self) -> RevealRequest:
        """What to ask each of them. A threshold of signatures is all they check."""
        threshold = self.closed.session.threshold
        return RevealRequest(self.closed.id, tuple(sorted(self._signatures.items())[:threshold]))

    @abstractmethod
    def add(self, data: bytes, *, sender: int) -> None:
        """Take in one member's shares. Raises ProtocolError if they are not of its own, or not of
        this sum; if they hold only shows beside the others."""

    @abstractmethod
    def open(self, rand: bytes) -> Opened:
        """The sum. `rand` are 32 random bytes, drawn after the last shares arrived.

        Raises TooFewClients if there are too few good shares, and ProtocolError for a dealer or a
        member who is to blame for that, or for a sum that is none.
        """

    def _decoded(self, total: Ring, unfit: tuple[int, ...] = ()) -> Opened:
        closed, session = self.closed, self.closed.session
        codec, clear = session.codec, session.clear
        mean = codec.decode(total, len(closed.survivors))
        if isinstance(codec, Codec) and clear is not None and closed.clear is not None:
            mean = clear.joined(mean, closed.clear, codec)
        bad = tuple(dealer for dealer in closed.survivors if self._guilty(dealer))
        return Opened(mean, closed.metrics, closed.survivors, bad, unfit)

    def _guilty(self, dealer: int) -> bool:
        """Whether at least one honest member says that the dealer's shares do not hold."""
        accusers = sum(dealer in bad for bad in self._bad.values())
        return accusers > self._most_corrupt

    @property
    def _most_corrupt(self) -> int:
        """Committee members that may be corrupt: fewer than 2t - c (`threshold_for`)."""
        session = self.closed.session
        return 2 * session.threshold - session.committee_size - 1

    def _too_few(self, dealer: int, held: str) -> TacitError:
        """Why too few shares are held: the dealer's doing, or nobody's that can be named."""
        if self._guilty(dealer):
            return ProtocolError("dealt shares that do not hold", sender=dealer, stage="reveal")
        return TooFewClients(f"{held}, {self.closed.session.threshold} needed (threshold)")


class MaskRevealing(Revealing):
    """Opens masks: the key of each that is still in the sum."""

    def add(self, data: bytes, *, sender: int) -> None:
        closed = self.closed
        if sender not in self._signatures:
            raise ProtocolError("did not attest", sender=sender, stage="reveal")
        message = Shares.decode(data, closed.opened_rows, SECRET_BYTES, sender=sender)
        if message.member != sender:
            raise ProtocolError("shares of another member", sender=sender, stage="reveal")
        self._shares[sender] = message

    def open(self, rand: bytes) -> Opened:
        """Take off the masks and decode. `rand` is not used: nothing is left to chance.

        Shares that are as they were dealt all fit together. Only where they do not is each of them
        hashed, at many times the cost of all else, and `refuted` says whose are wrong.

        Raises TooFewClients if some mask has fewer than threshold good shares, and ProtocolError
        naming a dealer who is to blame for that, or whose shares do not combine to the key it
        committed to.
        """
        closed = self.closed
        plus: list[bytes] = []
        minus: list[bytes] = []
        try:
            keys = self._keys(spares=True)
        except TacitError:  # a dealer's doing, or a member's: the hashes tell
            self._refute()
            keys = self._keys(spares=False)
        for dealer, (self_key, *pair_keys) in keys.items():
            minus.append(self_key)
            # The dealer's mask with a dropped device never met its opposite: take it off too.
            _, dropped = closed.wanted[dealer]
            for device, key in zip(dropped, pair_keys, strict=True):
                (minus if dealer < device else plus).append(key)
        total = closed.ring
        add_masks(total, plus, minus)
        return self._decoded(total)

    def _refute(self) -> None:
        """Leave out each member with a share that does not match its hash.

        A share that the member itself called bad is not held against it.
        """
        for member, message in sorted(self._shares.items()):
            for dealer in self.closed.survivors:
                if dealer not in self._bad[member] and not self._matches(message, dealer):
                    self.refuted[member] = f"wrong share of device {dealer}"
                    del self._shares[member]
                    break

    def _matches(self, message: Shares, dealer: int) -> bool:
        closed = self.closed
        hashes = closed.dealt[dealer].hashes[message.member]
        context = share_context(closed.id, dealer, message.member)
        numbers, _ = closed.wanted[dealer]
        return all(
            hash_row(labels.SHARE_HASH, context, number, row.tobytes()) == _nth(hashes, number)
            for number, row in zip(numbers, message.opened[closed.rows[dealer]], strict=True)
        )

    def _keys(self, *, spares: bool) -> dict[int, list[bytes]]:
        """For each survivor the keys of its masks: its self mask, and those with the dropped.

        A threshold of good shares gives them. With `spares` the others have to be what follows from
        these (ProtocolError): no key needs them, but a member may have given a wrong one.
        """
        closed, keys, threshold = self.closed, {}, self.closed.session.threshold
        for members, dealers in self._by_members(spares=spares).items():
            points = [closed.session.point(member) for member in members]
            rows = [closed.rows[dealer] for dealer in dealers]
            shares = [
                np.concatenate([self._shares[m].opened[of_dealer] for of_dealer in rows])
                for m in members
            ]
            places = [0, *points[threshold:]]
            all_keys, *others = shamir.evaluate(
                points[:threshold], np.stack(shares[:threshold]), places
            )
            if not all(map(np.array_equal, others, shares[threshold:])):
                raise ProtocolError("shares do not fit together", sender=0, stage="reveal")
            ends = np.cumsum([row.stop - row.start for row in rows])[:-1]
            for dealer, of_dealer in zip(dealers, np.split(all_keys, ends), strict=True):
                keys[dealer] = self._committed(dealer, of_dealer)
        return keys

    def _by_members(self, *, spares: bool) -> dict[tuple[int, ...], list[int]]:
        """The survivors by the members with good shares of them: all, or without `spares` a
        threshold.

        Mostly that is one set for all, and all shares are combined in one go.
        """
        threshold = self.closed.session.threshold
        groups: dict[tuple[int, ...], list[int]] = {}
        for dealer in self.closed.survivors:
            good = [m for m in sorted(self._shares) if dealer not in self._bad[m]]
            if len(good) < threshold:
                raise self._too_few(dealer, f"{len(good)} good shares of device {dealer}")
            groups.setdefault(tuple(good if spares else good[:threshold]), []).append(dealer)
        return groups

    def _committed(self, dealer: int, keys: Octets) -> list[bytes]:
        """The keys as bytes, once each is the one that its dealer committed to."""
        context = share_context(self.closed.id, dealer, 0)
        commitments = self.closed.dealt[dealer].commitments
        for number, key in zip(self.closed.wanted[dealer][0], keys, strict=True):
            committed = _nth(commitments, number)
            if hash_row(labels.SECRET_HASH, context, number, key.tobytes()) != committed:
                raise ProtocolError(
                    "dealt shares that do not combine to its key", sender=dealer, stage="reveal"
                )
        return [key.tobytes() for key in keys]


class KeyRevealing(Revealing):
    """Opens a sum of ciphertexts: with the sum of their keys.

    A member that could not open some survivor's box has no share of that sum, and is not asked.
    """

    @property
    def members(self) -> tuple[int, ...]:
        return tuple(member for member in super().members if not self._bad[member])

    def add(self, data: bytes, *, sender: int) -> None:
        """Take in one member's share. Whether it is right only shows beside the others."""
        if sender not in self.members:
            raise ProtocolError("has no share of this sum", sender=sender, stage="reveal")
        message = Shares.decode(data, 1, self.closed.session.share_bytes, sender=sender)
        if message.member != sender:
            raise ProtocolError("shares of another member", sender=sender, stage="reveal")
        self._shares[sender] = message

    def open(self, rand: bytes) -> Opened:
        """Combine the key of the sum, decrypt, decode.

        Of m shares up to (m - threshold) // 2 wrong ones are found and left out. Raises
        TooFewClients if too few are left, and ProtocolError for a dealer whose boxes kept that many
        members from having one, or if shares disagree beyond repair.
        """
        session, scheme = self.closed.session, self.closed.session.scheme
        assert scheme is not None
        self._check_enough()
        members = sorted(self._shares)
        points = [session.point(member) for member in members]
        shares = np.concatenate([self._shares[m].opened.view("<u2") for m in members])
        wrong = lattice_keys.blame(points, shares, session.threshold, rand)
        if wrong is None:
            raise ProtocolError("shares of the key disagree", sender=0, stage="reveal")
        unfit = tuple(m for m in members if session.point(m) in wrong)
        good = [at for at, point in enumerate(points) if point not in wrong][: session.threshold]
        key = lattice_keys.combine([points[at] for at in good], shares[good])
        total = open_sum(scheme, session.public_seed, key, self.closed.ring, session.codec.size)
        return self._decoded(total, unfit)

    def _check_enough(self) -> None:
        if len(self._shares) >= self.closed.session.threshold:
            return
        survivors = self.closed.survivors
        dealer = next((d for d in survivors if self._guilty(d)), survivors[0])
        raise self._too_few(dealer, f"{len(self._shares)} shares of the sum's key")


def _nth(hashes: bytes, number: int) -> bytes:
    return hashes[number * HASH_BYTES : (number + 1) * HASH_BYTES]
