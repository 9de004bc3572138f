"""The device's side of a secure sum, one frozen state per stage.

    enrol ─> Enrolled ─┬─ report ──> Reported ─attest─> Attested ─reveal─> (end)
                       └─ witness ──────┘

Each function takes the state the last stage left and what arrived, and returns the next state and
the message to send. No input or output, no clock, no hidden randomness. Each state but `Enrolled`
is good for one step, and `Enrolled` for one report in each session: two sets attested, two reports
or two reveals could give an input away. Python cannot consume a value, so whoever stores states
goes through `tacit.client.rounds`.

`agreed` is what `agree_all` gives: one secret with each party of the session. It depends on the run
keys, and in a hybrid session on what was encapsulated to them (see `hybrid`), but on nothing else
of the session: a device computes it once for a cohort and keeps it as it keeps its run key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tacit.crypto import labels
from tacit.crypto.codec import Ring
from tacit.crypto.errors import ParameterError, ProtocolError
from tacit.crypto.he.keys import GroupKey
from tacit.crypto.he.sums import open_sum
from tacit.crypto.identity import (
    KEY_BYTES,
    NO_KEM,
    Identity,
    Roster,
    RunKey,
    agree,
    derive,
    run_public,
    verified,
)
from tacit.crypto.lattice import keys as lattice_keys
from tacit.crypto.secagg.clear import Integers
from tacit.crypto.secagg.graph import to_bits
from tacit.crypto.secagg.hiding import Hidden, he_sum, hide
from tacit.crypto.secagg.hybrid import KemKey, combine
from tacit.crypto.secagg.messages import (
    Attestation,
    AttestRequest,
    Decryption,
    Report,
    RevealRequest,
    Shares,
    hash_rows,
    share_context,
    signed_part,
    survivors_digest,
    wanted,
)
from tacit.crypto.secagg.session import DIGEST_BYTES, SECRET_BYTES, Session
from tacit.crypto.shamir import Octets
from tacit.crypto.wire import pack

REPORT_RAND_BYTES = 2 * SECRET_BYTES  # for the self key, and for the coefficients of the shares

# A sealing key is derived for one dealer, one member, one session and, through their hashes, one
# set of shares: even a device set back to an old state never seals two messages under one key.
_NONCE = bytes(12)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A run key is drawn and published; good for one report in every sum of the run.

    `kem_seed` is what the ML-KEM key is made from, empty in a run that is not hybrid.
    """

    run: int
    device: int
    secret: bytes = field(repr=False)
    kem_seed: bytes = field(default=b"", repr=False)

    @property
    def kem(self) -> KemKey | None:
        """The ML-KEM key of a hybrid run."""
        return KemKey(self.kem_seed) if self.kem_seed else None

    def run_key(self, identity: Identity) -> RunKey:
        """The public half, signed: the same each time."""
        kem = NO_KEM if self.kem is None else self.kem.digest
        return RunKey.signed(identity, self.run, self.device, self.secret, kem)


@dataclass(frozen=True, slots=True)
class Reported:
    """A report is sent, or none was asked for: a committee member waiting for the survivors."""

    session: Session
    device: int


@dataclass(frozen=True, slots=True)
class Attested:
    """One set of survivors is signed; its shares may be opened: `opened` of a `Shares`. It has no
    rows under lattice keys if some survivor's share did not open, and in a consortium never."""

    session: Session
    device: int
    survivors: tuple[int, ...]
    opened: Octets = field(repr=False)


def enrol(
    identity: Identity, run: int, device: int, rand: bytes, kem_seed: bytes = b""
) -> tuple[Enrolled, RunKey]:
    """Once per run: draw a run key from 32 fresh random bytes and sign its public half.

    `kem_seed` is 64 more where the run is hybrid.
    """
    if len(rand) != KEY_BYTES:
        raise ParameterError(f"enrol takes {KEY_BYTES} random bytes")
    state = Enrolled(run, device, rand, kem_seed)
    return state, state.run_key(identity)


def agree_all(
    state: Enrolled, session: Session, kem: Mapping[int, bytes] | None = None
) -> dict[int, bytes]:
    """Our secret with each party of the session, ourselves among them, as its run keys give it.

    In a hybrid session `kem` holds the ML-KEM secret with each other party, and all secrets are of
    both kinds. Raises ProtocolError for a low-order point, or a party that `kem` lacks.
    """
    agreed = agree(state.secret, (session.key(party) for party in session.parties))
    if not session.hybrid:
        return agreed
    if state.kem is None:
        raise ProtocolError("we enrolled without an ML-KEM key", sender=0, stage="report")
    return combine(agreed, {**(kem or {}), state.device: state.kem.own_secret()})


def report(
    state: Enrolled,
    identity: Identity,
    session: Session,
    agreed: Mapping[int, bytes],
    encoded: Ring,
    metrics: Sequence[str],
    setup: bytes,
    rand: bytes,
    group: GroupKey | None = None,
    clear: Integers | None = None,
) -> tuple[Reported, Report]:
    """Hide the encoded contribution, and deal shares of what opens it.

    In pairs: mask it, y = encoded + PRG(self) + sum_{j > i} PRG(pair_ij) - sum_{j < i} PRG(pair_ij)
    mod 2**bits, over the neighbours j of i in the session's graph, and deal every mask's key. In an
    encrypted sum: encrypt it under a fresh lattice key, and deal that. In a consortium: encrypt it
    under `group`, the key that all of them hold, and deal nothing. `clear` is what the session has
    us send in the clear, with all the noise that protects it.

    The caller has checked the session: its members and keys, its policy, its digests. `metrics`
    names the filled slots, sorted; `setup` is 32 bytes that stand for all else the device trains
    under (see `pair_context`); `rand` is 64 fresh random bytes. `encoded` is overwritten, so
    that the plain vector is gone. Raises ProtocolError if the session is of another run
    or does not hold our key, and ParameterError for a vector of another codec,
    or a clear part that is not the session's.
    """
    me = state.device
    _check_report(state, session, encoded, setup, rand)
    open_part = _packed(session, clear)
    hidden = hide(session, me, agreed, encoded, setup, rand, group)
    sealed, hashes = _seal(session, me, agreed, setup, hidden)
    commitments = hash_rows(labels.SECRET_HASH, share_context(session.id, me, 0), hidden.committed)
    unsigned = Report(
        hidden.packed,
        session.id,
        me,
        tuple(metrics),
        hidden.neighbours,
        sealed,
        hashes,
        commitments,
        b"",
        open_part,
    )
    content = signed_part(unsigned.header(session), hidden.packed, open_part)
    signature = identity.sign(labels.REPORT, content)
    return Reported(session, me), replace(unsigned, signature=signature)


def _check_report(
    state: Enrolled, session: Session, encoded: Ring, setup: bytes, rand: bytes
) -> None:
    me = state.device
    if session.run != state.run or me not in session.devices:
        raise ProtocolError(f"session is not for device {me} in this run", sender=0, stage="report")
    if session.key(me).public != run_public(state.secret):
        raise ProtocolError("session does not hold our run key", sender=0, stage="report")
    if len(setup) != DIGEST_BYTES:
        raise ParameterError(f"setup is a digest of {DIGEST_BYTES} bytes")
    if len(rand) != REPORT_RAND_BYTES:
        raise ParameterError(f"report takes {REPORT_RAND_BYTES} random bytes")
    if encoded.shape != (session.codec.size,) or encoded.dtype != session.codec.dtype:
        raise ParameterError("the vector was not encoded by the session's codec")


def _packed(session: Session, clear: Integers | None) -> bytes:
    """The clear part as it is sent: empty if the session has none."""
    if (session.clear is None) != (clear is None):
        raise ParameterError("a clear part without a session for it, or the other way round")
    return b"" if session.clear is None or clear is None else session.clear.pack(clear)


def _seal(
    session: Session, me: int, agreed: Mapping[int, bytes], setup: bytes, hidden: Hidden
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """For each committee member, its shares of all secrets, sealed to it; and their hashes. Both
    are empty where nothing is dealt."""
    if session.he:
        nothing = (b"",) * len(session.committee)
        return nothing, nothing
    sealed, hashes = [], []
    for member, shares in zip(session.committee, hidden.dealt, strict=True):
        context = share_context(session.id, me, member)
        hashes.append(hash_rows(labels.SHARE_HASH, context, shares))
        key = derive(agreed[member], labels.SHARE_KEY, context, hashes[-1])
        bound = _bound(session, me, member, hidden.neighbours, setup)
        sealed.append(AESGCM(key).encrypt(_NONCE, shares.tobytes(), bound))
    return tuple(sealed), tuple(hashes)


def _bound(
    session: Session, dealer: int, member: int, near: tuple[int, ...], setup: bytes
) -> bytes:
    """What a box is bound to.

    `near`: a server that could name other neighbours would have us open the key of a living pair as
    that of a dropped one. `setup`, in an encrypted sum: masks of devices that were set up otherwise
    would not cancel, but ciphertexts add up all the same, so their boxes must not open.
    """
    context = share_context(session.id, dealer, member) + to_bits(session, near)
    return context + setup if session.lattice else context


def witness(state: Enrolled, session: Session) -> Reported:
    """Sit on the committee of a sum that we do not contribute to.

    The caller has checked the session as for a report. Raises ProtocolError if it is of another run
    or does not list us, with our key, as a witness.
    """
    me = state.device
    ours = (key for key in session.witnesses if key.device == me)
    if session.run != state.run or next(ours, None) is None:
        raise ProtocolError(f"device {me} is no witness in this run", sender=0, stage="attest")
    if session.key(me).public != run_public(state.secret):
        raise ProtocolError("session does not hold our run key", sender=0, stage="attest")
    return Reported(session, me)


def attest(
    state: Reported,
    identity: Identity,
    agreed: Mapping[int, bytes],
    setup: bytes,
    request: AttestRequest,
) -> tuple[Attested, Attestation]:
    """Sign the one set of survivors whose sum we will help to open. `setup` is as for `report`.

    Raises ProtocolError for a set that is too small, not part of the cohort, or not sorted: then
    nothing of this session is ever opened by us.
    """
    session, me = state.session, state.device
    survivors = request.survivors
    _check_survivors(state, request)
    opened, bad = _opened(state, agreed, setup, request)
    digest = survivors_digest(session.id, survivors)
    signature = identity.sign(labels.SURVIVORS, digest)
    return Attested(session, me, survivors, opened), Attestation(me, tuple(bad), signature)


def _opened(
    state: Reported, agreed: Mapping[int, bytes], setup: bytes, request: AttestRequest
) -> tuple[Octets, list[int]]:
    """Our shares of what the sum needs, and the survivors whose boxes did not open."""
    session, me, survivors = state.session, state.device, request.survivors
    if session.he:
        return np.zeros((0, session.share_bytes), np.uint8), []
    dropped = frozenset(session.devices) - set(survivors)
    opened, bad = [], []
    for dealer, near, sealed, hashes in zip(
        survivors, request.neighbours, request.sealed, request.hashes, strict=True
    ):
        # Only what the sum needs is kept: the survivor's self key, and its pair keys with the
        # dropped. A dropped device's self key is never among them, so its report stays masked
        # even if it arrives late.
        numbers, _ = wanted(near, dropped)
        bound = _bound(session, dealer, me, near, setup)
        shares = _unseal(agreed[dealer], state, dealer, bound, sealed, hashes)
        if shares is None:
            bad.append(dealer)
            shares = np.zeros((1 + len(near), session.share_bytes), np.uint8)
        opened.append(shares[numbers])
    together = np.concatenate(opened)
    return (_summed(together, bad) if session.lattice else together), bad


def _summed(shares: Octets, bad: Sequence[int]) -> Octets:
    """Our share of the sum of all survivors' keys, (1, share bytes); no row without all of theirs.

    Were those left out that did not open, a server that spoils boxes could have the sum of any few
    keys opened, or a single one.
    """
    added = lattice_keys.add(shares.view("<u2"))[None].astype("<u2").view(np.uint8)
    return added[:0] if bad else added


def reveal(state: Attested, roster: Roster, request: RevealRequest) -> Shares:
    """Open our shares for the set we signed, once at least `threshold` members signed the same.

    Raises ProtocolError if the signatures are too few, repeated, by strangers, or not valid, if the
    roster is not the session's, or if we have no share of an encrypted sum of all of them.
    """
    session = state.session
    if session.lattice and not len(state.opened):
        raise ProtocolError("we lack a share of some survivor's key", sender=0, stage="reveal")
    _check_signatures(state, roster, request)
    return Shares(state.device, state.opened)


def decrypt(
    state: Attested, roster: Roster, setup: bytes, group: GroupKey, request: RevealRequest
) -> Decryption:
    """As `reveal`, in a consortium: the sum over the set that we signed.

    Raises ProtocolError as `reveal`, and for a total that is not the sum over just that set. **Then
    the group's key must not be used again**: see `tacit.crypto.he.sums`.
    """
    session = state.session
    assert session.packing is not None
    group.consortium.check(session)
    _check_signatures(state, roster, request)
    named = he_sum(session, setup)
    vector = open_sum(group, session.packing, named, state.survivors, request.total)
    return Decryption(state.device, pack(vector, session.codec.bits))


def _check_signatures(state: Attested, roster: Roster, request: RevealRequest) -> None:
    session = state.session
    if request.session != session.id:
        raise ProtocolError("reveal is for another session", sender=0, stage="reveal")
    if roster.digest() != session.roster:
        raise ProtocolError("session names another roster", sender=0, stage="reveal")
    digest = survivors_digest(session.id, state.survivors)
    members = [member for member, _ in request.signatures]
    if len(set(members)) != len(members) or not set(members) <= set(session.committee):
        raise ProtocolError("signatures by strangers, or one twice", sender=0, stage="reveal")
    if len(members) < session.threshold:
        raise ProtocolError(
            f"{len(members)} signatures, {session.threshold} needed", sender=0, stage="reveal"
        )
    for member, signature in request.signatures:
        if not verified(roster.identity(member), labels.SURVIVORS, digest, signature):
            raise ProtocolError("did not sign our set of survivors", sender=member, stage="reveal")


def _check_survivors(state: Reported, request: AttestRequest) -> None:
    session, survivors = state.session, request.survivors
    if state.device not in session.committee:
        raise ProtocolError("we are not on the committee", sender=0, stage="attest")
    if request.session != session.id:
        raise ProtocolError("attest is for another session", sender=0, stage="attest")
    if list(survivors) != sorted(set(survivors)) or not set(survivors) <= set(session.devices):
        raise ProtocolError("survivors are not part of the cohort", sender=0, stage="attest")
    if len(survivors) < session.min_survivors:
        raise ProtocolError(
            f"{len(survivors)} survivors, at least {session.min_survivors} needed",
            sender=0,
            stage="attest",
        )


def _unseal(
    secret: bytes, state: Reported, dealer: int, bound: bytes, sealed: bytes, hashes: bytes
) -> Octets | None:
    """The shares `dealer` dealt us, (secrets, share bytes); None if they do not hold."""
    session = state.session
    context = share_context(session.id, dealer, state.device)
    key = derive(secret, labels.SHARE_KEY, context, hashes)
    try:
        raw = AESGCM(key).decrypt(_NONCE, sealed, bound)
    except InvalidTag:
        return None
    shares = np.frombuffer(raw, np.uint8).reshape(-1, session.share_bytes)
    return shares if hash_rows(labels.SHARE_HASH, context, shares) == hashes else None
