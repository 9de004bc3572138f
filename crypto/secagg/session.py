"""What all parties of one sum agree on.

Every key, signature and hash of a sum is bound to `Session.id`. A server that shows two devices
different models, cohorts or parameters gives them different ids, so their masks do not cancel and
it gets noise: the defence against model-inconsistency attacks (Pasquini et al. 2022,
doi:10.1145/3548606.3560557).
"""

import hashlib
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property, lru_cache

import numpy as np

from tacit.crypto import labels
from tacit.crypto.codec import Codec, Ring
from tacit.crypto.errors import ParameterError, ProtocolError
from tacit.crypto.he.frames import Kind, frame_bytes
from tacit.crypto.he.packing import Packing
from tacit.crypto.he.sets import BY_NAME
from tacit.crypto.identity import NO_KEM, Roster, RunKey, derive
from tacit.crypto.lattice.sets import FAILURE, SETS, Lattice
from tacit.crypto.secagg.clear import Clear
from tacit.crypto.secagg.noised import Noised
from tacit.crypto.shamir import MAX_POINTS
from tacit.crypto.vector import others
from tacit.crypto.wire import VERSION, Reader, Writer, packed_size

DIGEST_BYTES = 32
SECRET_BYTES = 32  # of a mask's key


class Purpose(IntEnum):
    """What a sum is for. Within one round, training comes before evaluation."""

    TRAIN = 1
    EVALUATE = 2


@dataclass(frozen=True)  # no slots: `id` and `devices` are computed once and kept
class Session:
    """One sum. Impossible or contradictory parameters cannot be built (ParameterError).

    The devices of `cohort` contribute, each masking against `degree` others on average: see
    `tacit.crypto.secagg.graph`. Any `threshold` members of `committee` open the sum; fewer than
    `min_survivors` reports open nothing.

    A committee is part of the cohort, chosen by the server (`seats` is 0), or it is those of the
    `seats` devices that the roster's beacon draws who are there. Of these, some may not be in the
    cohort: their keys are in `witnesses`. All tuples are sorted by device.

    In a `hybrid` session every secret of two parties comes from X25519 and ML-KEM together.

    `lattice` names the parameter set of an encrypted sum (see `tacit.crypto.lattice.sets`), `he`
    that of a sum under a key which all devices hold (see `tacit.crypto.he`), and `epoch` that key.
    In both nobody masks against anybody, and `degree` is 0; in the second nothing is dealt either:
    the committee is the whole cohort, and its members decrypt the sum. Both empty: devices mask in
    pairs.

    `clear` is what of an update devices send in the clear, None if they hide all of it; `codec` is
    for the coordinates that they hide. In a private sum it is a `Noised`, and no sum over fewer
    devices than its noise takes is ever opened.
    """

    run: int
    round: int
    purpose: Purpose
    codec: Codec | Noised
    cohort: tuple[RunKey, ...]
    witnesses: tuple[RunKey, ...]
    degree: int
    committee: tuple[int, ...]
    seats: int
    threshold: int
    min_survivors: int
    hybrid: bool
    lattice: str
    he: str
    epoch: bytes  # digest, or empty
    roster: bytes  # digest
    model: bytes  # digest
    config: bytes  # digest
    clear: Clear | None = None

    def __post_init__(self) -> None:
        self._check_parties()
        self._check_committee()
        if self.codec.clients != len(self.devices):
            raise ParameterError(
                f"codec for {self.codec.clients} devices, cohort of {len(self.devices)}"
            )
        self._check_hiding()
        self._check_noised()
        self._check_clear()
        if not 2 <= self.min_survivors <= len(self.devices):
            raise ParameterError(
                f"min_survivors={self.min_survivors}, expected 2..{len(self.devices)} (the cohort)"
            )
        if {len(self.roster), len(self.model), len(self.config)} != {DIGEST_BYTES}:
            raise ParameterError(f"digests have {DIGEST_BYTES} bytes")

    def _check_hiding(self) -> None:
        if self.lattice and self.he:
            raise ParameterError(f"both lattice {self.lattice!r} and he {self.he!r}")
        if len(self.epoch) != (DIGEST_BYTES if self.he else 0):
            raise ParameterError(f"an epoch of {len(self.epoch)} bytes with he {self.he!r}")
        if self.lattice:
            if self.lattice not in SETS or self.degree:
                raise ParameterError(f"lattice {self.lattice!r} with degree {self.degree}")
            self._check_room()
        elif self.he:
            self._check_consortium()
        elif not 1 <= self.degree < max(2, len(self.devices)):
            raise ParameterError(
                f"degree {self.degree}, expected 1..{len(self.devices) - 1} (all others)"
            )

    def _check_noised(self) -> None:
        if not isinstance(self.codec, Noised):
            return
        if self.purpose is not Purpose.TRAIN or self.clear is not None:
            raise ParameterError("a private sum is for training, and nothing of it is in the clear")
        if self.min_survivors < self.codec.least:
            raise ParameterError(
                f"a sum over {self.min_survivors}, whose noise takes {self.codec.least}"
            )

    def _check_clear(self) -> None:
        if self.clear is None:
            return
        if self.purpose is not Purpose.TRAIN or self.codec.length < 1:
            raise ParameterError("a clear part is for training, and leaves something to hide")
        others(self.clear.ranges, self.codec.length + self.clear.size)

    def _check_consortium(self) -> None:
        if self.he not in BY_NAME or self.degree or self.hybrid:
            raise ParameterError(f"he {self.he!r}: degree {self.degree}, hybrid {self.hybrid}")
        if self.committee != self.devices or self.seats:
            raise ParameterError("the committee of a consortium is its cohort")
        Packing.of(BY_NAME[self.he], self.codec)

    def _check_room(self) -> None:
        scheme, clients = self.scheme, len(self.devices)
        if scheme is not None and scheme.failure(clients, self.codec.size) > -FAILURE:
            raise ParameterError(
                f"{clients} clients leave no room for {self.codec.bits} bits in {self.lattice}"
            )

    def _check_parties(self) -> None:
        devices, extra = self.devices, [key.device for key in self.witnesses]
        if list(devices) != sorted(set(devices)) or not devices or devices[0] < 1:
            raise ParameterError("cohort must be sorted, without repeats, devices from 1")
        if extra != sorted(set(extra) - set(devices)) or (extra and extra[0] < 1):
            raise ParameterError("witnesses must be sorted, without repeats, not in the cohort")
        if not set(extra) <= set(self.committee):
            raise ParameterError("a witness has to be on the committee")
        keys = [key.public for key in (*self.cohort, *self.witnesses)]
        if len(set(keys)) < len(keys):
            raise ParameterError("two devices share one run key")
        plain = [key.device for key in self._keys.values() if key.kem == NO_KEM]
        if self.hybrid and plain:
            raise ParameterError(f"a hybrid session, and device {plain[0]} has no ML-KEM key")

    def _check_committee(self) -> None:
        size, present = self.committee_size, len(self.committee)
        if list(self.committee) != sorted(set(self.committee)):
            raise ParameterError("committee must be sorted and without repeats")
        if not set(self.committee) <= set(self._keys):
            raise ParameterError("committee must be part of the cohort, or its witnesses")
        if self.witnesses and not self.seats:
            raise ParameterError("witnesses are for a committee drawn by the roster's beacon")
        if not present <= size <= MAX_POINTS:
            raise ParameterError(f"{present} members on {size} seats, at most {MAX_POINTS}")
        # 2t > c: two sets of survivors can then never both be attested by honest members alone.
        if not size < 2 * self.threshold <= 2 * present:
            raise ParameterError(
                f"threshold {self.threshold} for a committee of {size}, {present} of them there: "
                "expected more than half of it, and at most those there"
            )

    @cached_property
    def devices(self) -> tuple[int, ...]:
        """Device numbers of the cohort, sorted."""
        return tuple(key.device for key in self.cohort)

    @cached_property
    def id(self) -> bytes:
        """32 bytes that two parties share only if they agree on every field."""
        return hashlib.sha256(labels.SESSION + self.encode()).digest()

    @cached_property
    def _keys(self) -> dict[int, RunKey]:
        return {key.device: key for key in (*self.cohort, *self.witnesses)}

    @property
    def parties(self) -> tuple[int, ...]:
        """All who take part: the cohort, then the witnesses."""
        return tuple(self._keys)

    def key(self, party: int) -> RunKey:
        """The run key of a device of the cohort, or of a witness."""
        return self._keys[party]

    @property
    def is_complete(self) -> bool:
        """Whether every device masks against every other."""
        return self.is_masked and self.degree >= len(self.devices) - 1

    @property
    def is_masked(self) -> bool:
        """Whether devices mask in pairs."""
        return not self.lattice and not self.he

    @cached_property
    def scheme(self) -> Lattice | None:
        """How a sum under lattice keys is encrypted, None for any other: the named set, with
        elements as wide as the codec's."""
        return replace(SETS[self.lattice], bits=self.codec.bits) if self.lattice else None

    @cached_property
    def packing(self) -> Packing | None:
        """How a sum under a shared key is encrypted, None for any other."""
        return Packing.of(BY_NAME[self.he], self.codec) if self.he else None

    @property
    def public_seed(self) -> bytes:
        """What all ciphertexts of an encrypted sum have in common: the seed of its polynomials."""
        return derive(self.id, labels.LATTICE_PUBLIC)

    @property
    def vector_bytes(self) -> int:
        """Bytes of a contribution as it is sent; of one under a shared key, the most it takes."""
        if self.packing is not None:
            return frame_bytes(Kind.CONTRIBUTION, self.packing)
        if self.scheme is not None:
            return self.scheme.packed_size(self.codec.size)
        return packed_size(self.codec.size, self.codec.bits)

    @property
    def clear_bytes(self) -> int:
        """Bytes of what a device sends in the clear."""
        return 0 if self.clear is None else self.clear.packed_size

    @property
    def share_bytes(self) -> int:
        """Bytes of a share of one secret: as many as the secret has, of a lattice key two for each
        coefficient."""
        return SECRET_BYTES if self.scheme is None else self.scheme.share_bytes

    def nothing(self) -> Ring:
        """The sum of no contributions, to which reports are added. (Under a shared key a library
        does that: see `totals`.)"""
        if self.scheme is not None:
            return np.zeros(self.scheme.size(self.codec.size), self.scheme.dtype)
        return np.zeros(self.codec.size, self.codec.dtype)

    @property
    def committee_size(self) -> int:
        """Seats of the committee, those of absent members too: what the threshold is counted on."""
        return self.seats or len(self.committee)

    def point(self, member: int) -> int:
        """Where a committee member's Shamir shares are evaluated, 1..255."""
        return self.committee.index(member) + 1

    @cached_property
    def cohort_digest(self) -> bytes:
        """32 bytes that name all parties, their run keys and their roster in this run."""
        writer = Writer().u64(self.run).fixed(self.roster, DIGEST_BYTES)
        for key in self._keys.values():
            key.write(writer)
        return hashlib.sha256(labels.COHORT + writer.data()).digest()

    def verify_members(self, roster: Roster, *, now: int) -> None:
        """Raises ProtocolError unless all parties are on `roster` and not expired at `now`."""
        if roster.digest() != self.roster:
            raise ProtocolError("session names another roster", sender=0, stage="report")
        for device in self.parties:
            member = roster.by_device.get(device)
            if member is None:
                raise ProtocolError("not on the roster", sender=device, stage="report")
            if member.valid_until < now:
                raise ProtocolError("membership has expired", sender=device, stage="report")

    def verify_keys(self, roster: Roster) -> None:
        """Raises ProtocolError unless every run key is signed by its member of `roster`.

        What was verified once need not be again while `cohort_digest` stays the same.
        """
        for key in self._keys.values():
            key.verify(self.run, roster.identity(key.device))

    def encode(self) -> bytes:
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        writer = Writer().u8(VERSION).u64(self.run).u32(self.round).u8(self.purpose)
        writer.u8(isinstance(self.codec, Noised))
        self.codec.write(writer)
        for keys in (self.cohort, self.witnesses):
            writer.u32(len(keys))
            for key in keys:
                key.write(writer)
        writer.u32(self.degree).u32(len(self.committee))
        for member in self.committee:
            writer.u64(member)
        writer.u32(self.seats).u32(self.threshold).u32(self.min_survivors)
        writer.u8(self.hybrid).text(self.lattice).text(self.he).blob(self.epoch)
        for digest in (self.roster, self.model, self.config):
            writer.fixed(digest, DIGEST_BYTES)
        if self.clear is None:
            return writer.u32(0).data()
        self.clear.write(writer)
        return writer.data()

    @classmethod
    @lru_cache(maxsize=2)  # a device reads its session at every stage, and it is nobody's secret
    def decode(cls, data: bytes) -> "Session":
        """Raises MalformedMessage, also for parameters no session may have."""
        reader = Reader(data, sender=0, stage="report")
        if (version := reader.u8()) != VERSION:
            raise reader.bad(f"session of version {version}, this device speaks {VERSION}")
        run, round_, purpose = reader.u64(), reader.u32(), reader.u8()
        if (noised := reader.u8()) > 1:
            raise reader.bad(f"a codec of kind {noised}")
        codec = Noised.read(reader) if noised else Codec.read(reader)
        cohort, witnesses = RunKey.read_all(reader), RunKey.read_all(reader, MAX_POINTS)
        degree = reader.u32()
        committee = tuple(reader.u64() for _ in range(reader.count(MAX_POINTS)))
        seats, threshold, min_survivors = reader.u32(), reader.u32(), reader.u32()
        hybrid = reader.u8()
        if hybrid > 1:
            raise reader.bad(f"hybrid is {hybrid}, expected 0 or 1")
        lattice, he, epoch = reader.text(), reader.text(), reader.blob(DIGEST_BYTES)
        roster, model, config = (reader.fixed(DIGEST_BYTES) for _ in range(3))
        clear = Clear.read(reader)
        reader.end()
        try:
            session = cls(
                run,
                round_,
                Purpose(purpose),
                codec,
                cohort,
                witnesses,
                degree,
                committee,
                seats,
                threshold,
                min_survivors,
                bool(hybrid),
                lattice,
                he,
                epoch,
                roster,
                model,
                config,
                clear,
            )
        except ValueError as bad:  # ParameterError, or a purpose that does not exist
            raise reader.bad(str(bad)) from None
        # Whatever decodes encodes to the same bytes, so there is no need to do it again.
        session.__dict__["_encoded"] = data
        return session


def threshold_for(committee: int, corrupt: int) -> int:
    """The smallest t with 2t > committee + corrupt.

    Then two different sets of survivors can never both gather t signatures although `corrupt`
    members sign both, and `corrupt` members alone can never open anything.
    """
    return (committee + corrupt) // 2 + 1
