"""The device's side of a masked sum, one frozen state per stage.

    enrol ─> Enrolled ─report─> Reported ─attest─> Attested ─reveal─> (end)

Each function takes the state the last stage left and what arrived, and returns the next state and
the message to send. No input or output, no clock, no hidden randomness. Each state but `Enrolled`
is good for one step, and `Enrolled` for one report in each session: two sets attested, two reports
or two reveals could give an input away. Python cannot consume a value, so whoever stores states
goes through `tacit.client.rounds`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tacit.crypto import labels, shamir
from tacit.crypto.codec import Ring
from tacit.crypto.errors import ParameterError, ProtocolError
from tacit.crypto.identity import (
    KEY_BYTES,
    Identity,
    Roster,
    RunKey,
    agree,
    derive,
    run_public,
    verified,
)
from tacit.crypto.prg import add_masks
from tacit.crypto.secagg.messages import (
    SECRET_BYTES,
    Attestation,
    AttestRequest,
    Report,
    RevealRequest,
    Shares,
    hash_rows,
    pair_context,
    share_context,
    signed_part,
    survivors_digest,
)
from tacit.crypto.secagg.session import DIGEST_BYTES, Session
from tacit.crypto.shamir import Octets

# A sealing key is derived for one dealer, one member, one session and, through their hashes, one
# set of shares: even a device set back to an old state never seals two messages under one key.
_NONCE = bytes(12)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A run key is drawn and published; good for one report in every sum of the run."""

    run: int
    device: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reported:
    """The contribution is sent. Waiting, as a committee member, for the survivors."""

    session: Session
    device: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Attested:
    """One set of survivors is signed; its shares, (survivors, 1 + dropped, 32), may be opened."""

    session: Session
    device: int
    survivors: tuple[int, ...]
    opened: Octets = field(repr=False)


def enrol(identity: Identity, run: int, device: int, rand: bytes) -> tuple[Enrolled, RunKey]:
    """Once per run: draw a run key from 32 fresh random bytes and sign its public half."""
    if len(rand) != KEY_BYTES:
        raise ParameterError(f"enrol takes {KEY_BYTES} random bytes")
    return Enrolled(run, device, rand), RunKey.signed(identity, run, device, rand)


def report_rand_size(session: Session) -> int:
    """Fresh random bytes that `report` takes."""
    shares = shamir.rand_size(len(session.cohort), SECRET_BYTES, session.threshold)
    return SECRET_BYTES + shares


def report(
    state: Enrolled,
    identity: Identity,
    session: Session,
    encoded: Ring,
    metrics: Sequence[str],
    setup: bytes,
    rand: bytes,
) -> tuple[Reported, Report]:
    """Mask the encoded contribution and deal the shares of every mask's key.

    y = encoded + PRG(self) + sum_{j > i} PRG(pair_ij) - sum_{j < i} PRG(pair_ij)   mod 2**bits.

    The caller has checked the session: its members and keys, its policy, its digests. `metrics`
    names the filled slots, sorted; `setup` is 32 bytes that stand for all else the device trains
    under (see `pair_context`). Raises ProtocolError if the session is of another run or does
    not hold our key, or holds a low-order point, and ParameterError for a vector of another codec.
    """
    me = state.device
    if session.run != state.run or me not in session.devices:
        raise ProtocolError(f"session is not for device {me} in this run", sender=0, stage="report")
    if len(setup) != DIGEST_BYTES:
        raise ParameterError(f"setup is a digest of {DIGEST_BYTES} bytes")
    if len(rand) != report_rand_size(session):
        raise ParameterError(f"report takes {report_rand_size(session)} random bytes")
    if encoded.shape != (session.codec.size,) or encoded.dtype != session.codec.dtype:
        raise ParameterError("the vector was not encoded by the session's codec")
    if session.key(me).public != run_public(state.secret):
        raise ProtocolError("session does not hold our run key", sender=0, stage="report")
    session_id = session.id
    agreed = agree(state.secret, session.cohort)
    pairs = {
        peer: derive(agreed[peer], labels.PAIR_MASK, pair_context(session_id, setup, me, peer))
        for peer in session.neighbours(me)
    }
    self_key = derive(rand[:SECRET_BYTES], labels.SELF_MASK, session_id)
    vector = encoded.copy()
    add_masks(
        vector,
        plus=[self_key, *(key for peer, key in pairs.items() if peer > me)],
        minus=[key for peer, key in pairs.items() if peer < me],
    )
    secrets = np.frombuffer(self_key + b"".join(pairs.values()), np.uint8).reshape(-1, SECRET_BYTES)
    points = [session.point(member) for member in session.committee]
    dealt = shamir.share(secrets, session.threshold, points, rand[SECRET_BYTES:])
    sealed, hashes = [], []
    for member, shares in zip(session.committee, dealt, strict=True):
        context = share_context(session_id, me, member)
        hashes.append(hash_rows(labels.SHARE_HASH, context, shares))
        key = derive(agreed[member], labels.SHARE_KEY, context, hashes[-1])
        sealed.append(AESGCM(key).encrypt(_NONCE, shares.tobytes(), context))
    commitments = hash_rows(labels.SECRET_HASH, share_context(session_id, me, 0), secrets)
    unsigned = Report(
        session_id, me, tuple(metrics), vector, tuple(sealed), tuple(hashes), commitments, b""
    )
    signature = identity.sign(labels.REPORT, signed_part(unsigned.body(session.codec.bits)))
    message = Report(
        session_id, me, tuple(metrics), vector, tuple(sealed), tuple(hashes), commitments, signature
    )
    return Reported(session, me, state.secret), message


def attest(
    state: Reported, identity: Identity, request: AttestRequest
) -> tuple[Attested, Attestation]:
    """Sign the one set of survivors whose sum we will help to open.

    Raises ProtocolError for a set that is too small, not part of the cohort, or not sorted: then
    nothing of this session is ever opened by us.
    """
    session, me = state.session, state.device
    survivors = request.survivors
    _check_survivors(state, request)
    dropped = [device for device in session.devices if device not in set(survivors)]
    opened = np.zeros((len(survivors), 1 + len(dropped), SECRET_BYTES), np.uint8)
    agreed = agree(state.secret, (session.key(dealer) for dealer in survivors))
    bad = []
    for row, (dealer, sealed, hashes) in enumerate(
        zip(survivors, request.sealed, request.hashes, strict=True)
    ):
        shares = _unseal(agreed[dealer], state, dealer, sealed, hashes)
        if shares is None:
            bad.append(dealer)
            continue
        order = session.neighbours(dealer)
        # Only what the sum needs is kept: the survivor's self key, and its pair keys with the
        # dropped. A dropped device's self key is never among them, so its report stays masked
        # even if it arrives late.
        wanted = [0, *(1 + order.index(device) for device in dropped)]
        opened[row] = shares[wanted]
    digest = survivors_digest(session.id, survivors)
    signature = identity.sign(labels.SURVIVORS, digest)
    return Attested(session, me, survivors, opened), Attestation(me, tuple(bad), signature)


def reveal(state: Attested, roster: Roster, request: RevealRequest) -> Shares:
    """Open our shares for the set we signed, once at least `threshold` members signed the same.

    Raises ProtocolError if the signatures are too few, repeated, by strangers, or not valid, or if
    the roster is not the session's.
    """
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
    identities = {member.device: member.public for member in roster.members}
    for member, signature in request.signatures:
        public = identities.get(member, b"")
        if not verified(public, labels.SURVIVORS, digest, signature):
            raise ProtocolError("did not sign our set of survivors", sender=member, stage="reveal")
    return Shares(state.device, state.opened)


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
    agreed: bytes, state: Reported, dealer: int, sealed: bytes, hashes: bytes
) -> Octets | None:
    """The shares `dealer` dealt us, (1 + neighbours, 32); None if they are not what they claim."""
    context = share_context(state.session.id, dealer, state.device)
    key = derive(agreed, labels.SHARE_KEY, context, hashes)
    try:
        raw = AESGCM(key).decrypt(_NONCE, sealed, context)
    except InvalidTag:
        return None
    shares = np.frombuffer(raw, np.uint8).reshape(-1, SECRET_BYTES)
    return shares if hash_rows(labels.SHARE_HASH, context, shares) == hashes else None
