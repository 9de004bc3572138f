"""Moving a device through a sum, one message at a time, each state used once."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from tacit.client.vault import Vault
from tacit.crypto.errors import ProtocolError
from tacit.crypto.he.keys import SUMS, GroupKey
from tacit.crypto.identity import KEY_BYTES, MAX_DEVICES, RunKey
from tacit.crypto.secagg import stages
from tacit.crypto.secagg.client import Attested, Enrolled, Reported, agree_all
from tacit.crypto.secagg.hybrid import SEED_BYTES
from tacit.crypto.secagg.session import DIGEST_BYTES, Purpose, Session
from tacit.crypto.wire import Reader, Writer

State = Enrolled | Reported | Attested
S = TypeVar("S", Reported, Attested)
M = TypeVar("M")

_SESSION = "session"
_RUN = "run"
_KEM = "kem"
_AGREED = "agreed"
_SERVED = "served"
_GROUP = "group"  # the key that we share with the others, while it is good
_EPOCH = "epoch"  # run and serial of the newest of these, good or not, and sums we were in


def advance(
    vault: Vault, expected: type[S], step: Callable[[S], tuple[Reported | Attested | None, M]]
) -> M:
    """Take the state out of the vault, run `step`, put the next state in, return the message.

    The old state is gone before `step` runs: a repeated or out-of-order message, or one whose step
    failed, finds nothing, and the sum is over for this device. Raises ProtocolError if the vault
    does not hold an `expected`.
    """
    data = vault.take(_SESSION)
    state = None if data is None else decode_state(data)
    if not isinstance(state, expected):
        raise ProtocolError(
            f"asked for {expected.__name__}, at {type(state).__name__}",
            sender=0,
            stage="rounds",
        )
    following, message = step(state)
    if following is not None:
        vault.write(_SESSION, encode_state(following))
    return message


def begin(vault: Vault, state: Reported) -> None:
    """Keep the first state of a sum. An unfinished earlier sum is over."""
    vault.write(_SESSION, encode_state(state))


def forget(vault: Vault) -> None:
    """Whatever sum was running is over."""
    vault.take(_SESSION)


def keep_run(vault: Vault, state: Enrolled) -> None:
    """Keep the run key. The key of an earlier run is gone, and all secrets that came of it: nothing
    of that run can be opened any more."""
    with vault.alone():
        for slot in (_SESSION, _AGREED, _KEM, _GROUP, _EPOCH):
            vault.take(slot)
        vault.write(_RUN, encode_state(state))


def keep_kem(vault: Vault, secrets: Mapping[RunKey, bytes]) -> None:
    """Keep ML-KEM secrets of this run, by the run keys they are shared with.

    A device's latest takes the place of one before: the message that was to bring that one to it,
    or to us, may have been lost.
    """
    kept = _kem(vault) | {key.device: (key.kem, secret) for key, secret in secrets.items()}
    writer = Writer().u32(len(kept))
    for device, (kem, secret) in sorted(kept.items()):
        writer.u64(device).fixed(kem, DIGEST_BYTES).fixed(secret, KEY_BYTES)
    vault.take(_AGREED)
    vault.write(_KEM, writer.data())


def _kem(vault: Vault) -> dict[int, tuple[bytes, bytes]]:
    """By device: the digest of the ML-KEM key it enrolled with, and our secret with it."""
    data = vault.read(_KEM)
    if data is None:
        return {}
    reader = Reader(data, sender=0, stage="vault")
    kept = {
        reader.u64(): (reader.fixed(DIGEST_BYTES), reader.fixed(KEY_BYTES))
        for _ in range(reader.count(MAX_DEVICES))
    }
    reader.end()
    return kept


def agreed(vault: Vault, session: Session) -> dict[int, bytes]:
    """Our secret with each party of the session: kept for a cohort, since in every round of a run
    they are the same. Raises ProtocolError if we are not enrolled in the run, for a low-order
    point, or in a hybrid session for a party that we share no ML-KEM secret with."""
    data, name = vault.read(_AGREED), session.cohort_digest + bytes([session.hybrid])
    if data is not None and data.startswith(name):
        secrets = data[len(name) :]
        return {
            party: secrets[at * KEY_BYTES : (at + 1) * KEY_BYTES]
            for at, party in enumerate(session.parties)
        }
    state = run_state(vault, session.run)
    if state is None:
        raise ProtocolError("this device has no key of this run", sender=0, stage="rounds")
    fresh = agree_all(state, session, _kem_with(vault, session) if session.hybrid else None)
    vault.write(_AGREED, name + b"".join(fresh[p] for p in session.parties))
    return fresh


def _kem_with(vault: Vault, session: Session) -> dict[int, bytes]:
    """The ML-KEM secrets with parties of the session. One that enrolled anew has other keys, and
    none comes of the secret with its old ones."""
    kept = _kem(vault)
    there = ((party, session.key(party).kem) for party in session.parties if party in kept)
    return {party: kept[party][1] for party, digest in there if kept[party][0] == digest}


def keep_group(vault: Vault, group: GroupKey) -> None:
    """Keep the key of a new epoch. The one before is gone, and with it all that is under it.

    Raises ProtocolError, BAD_GROUP_KEY, for an epoch that is no newer than one we had in this run:
    a key that was given up, by us or for another, stays so. The one we hold may come again.
    """
    consortium = group.consortium
    with vault.alone():
        kept = vault.read(_GROUP)
        if kept == group.encode():
            return
        run, serial, _ = _epoch(vault)
        if run == consortium.run and consortium.serial <= serial:
            raise ProtocolError(
                f"{stages.BAD_GROUP_KEY}: epoch {consortium.serial} comes after epoch {serial}",
                sender=0,
                stage="key",
            )
        _write_epoch(vault, consortium.run, consortium.serial, 0)
        vault.write(_GROUP, group.encode())


def _epoch(vault: Vault) -> tuple[int, int, int]:
    reader = Reader(vault.read(_EPOCH) or bytes(16), sender=0, stage="vault")
    run, serial, sums = reader.u64(), reader.u32(), reader.u32()
    reader.end()
    return run, serial, sums


def _write_epoch(vault: Vault, run: int, serial: int, sums: int) -> None:
    vault.write(_EPOCH, Writer().u64(run).u32(serial).u32(sums).data())


def use_group(vault: Vault, session: Session) -> GroupKey:
    """The key of the session's epoch, for one more contribution under it. That is counted, durably.

    Raises ProtocolError if we do not hold it, or contributed to SUMS sums under it.
    """
    with vault.alone():
        held = group(vault, session)
        run, serial, sums = _epoch(vault)
        if sums >= SUMS:
            raise ProtocolError(stages.NO_GROUP_KEY, sender=0, stage="report")
        _write_epoch(vault, run, serial, sums + 1)
    return held


def group(vault: Vault, session: Session) -> GroupKey:
    """The key of the session's epoch. Raises ProtocolError if we do not hold it."""
    kept = vault.read(_GROUP)
    held = None if kept is None else GroupKey.decode(kept)
    if held is None or held.consortium.epoch != session.epoch:
        raise ProtocolError(stages.NO_GROUP_KEY, sender=0, stage="report")
    return held


def with_group(vault: Vault, session: Session, step: Callable[[GroupKey], M]) -> M:
    """Run `step`, which may refuse what it is given, with the key of the session's epoch.

    The key is out of the vault while it runs and comes back only if it went well. Each refusal may
    tell a server one bit about the key (see `tacit.crypto.he.tags`): of us it gets one, and no more
    contributions under that key.
    """
    with vault.alone():
        held = group(vault, session)
        vault.take(_GROUP)
    message = step(held)
    consortium = held.consortium
    with vault.alone():
        if _epoch(vault)[:2] == (consortium.run, consortium.serial):  # no newer one, no other run
            vault.write(_GROUP, held.encode())
    return message


def run_state(vault: Vault, run: int) -> Enrolled | None:
    """The device's key for `run`, None if it is not enrolled in it."""
    data = vault.read(_RUN)
    state = None if data is None else decode_state(data)
    return state if isinstance(state, Enrolled) and state.run == run else None


def serve_once(vault: Vault, session: Session) -> None:
    """Count this session as served, durably, before anything of it leaves the device.

    Raises ProtocolError for a (round, purpose) at or below one already served in this run: no
    replay, no restart, no second sum over another set. Of two processes at once, one is refused.
    """
    with vault.alone():
        _serve_once(vault, session)


def _serve_once(vault: Vault, session: Session) -> None:
    served = _served(vault)
    highest = served.get(session.run, (0, 0))
    asked = (session.round, int(session.purpose))
    if asked <= highest:
        raise ProtocolError(
            f"round {asked[0]} ({session.purpose.name.lower()}) was served before: "
            f"this run is at round {highest[0]} ({Purpose(highest[1]).name.lower()})",
            sender=0,
            stage="report",
        )
    served[session.run] = asked
    writer = Writer().u32(len(served))
    for run, (round_, purpose) in sorted(served.items()):
        writer.u64(run).u32(round_).u8(purpose)
    vault.write(_SERVED, writer.data())


def _served(vault: Vault) -> dict[int, tuple[int, int]]:
    data = vault.read(_SERVED)
    if data is None:
        return {}
    reader = Reader(data, sender=0, stage="vault")
    served = {reader.u64(): (reader.u32(), reader.u8()) for _ in range(reader.count(1 << 24))}
    reader.end()
    return served


def encode_state(state: State) -> bytes:
    """A state as bytes for the vault: secrets included."""
    match state:
        case Enrolled(run, device, secret, kem_seed):
            writer = Writer().u8(0).u64(run).u64(device).fixed(secret, KEY_BYTES)
            return writer.blob(kem_seed).data()
        case Reported(session, device):
            return Writer().u8(1).blob(session.encode()).u64(device).data()
        case Attested(session, device, survivors, opened):
            writer = Writer().u8(2).blob(session.encode()).u64(device).u32(len(survivors))
            for survivor in survivors:
                writer.u64(survivor)
            return writer.blob(opened.tobytes()).data()


def decode_state(data: bytes) -> State:
    """Inverse of `encode_state`. Raises MalformedMessage."""
    reader = Reader(data, sender=0, stage="vault")
    kind = reader.u8()
    state: State
    if kind == 0:
        run, device, secret = reader.u64(), reader.u64(), reader.fixed(KEY_BYTES)
        seed = reader.blob()
        if len(seed) not in (0, SEED_BYTES):
            raise reader.bad(f"an ML-KEM seed of {len(seed)} bytes")
        state = Enrolled(run, device, secret, seed)
    elif kind == 1:
        session = Session.decode(reader.blob())
        state = Reported(session, reader.u64())
    elif kind == 2:
        session = Session.decode(reader.blob())
        device = reader.u64()
        count = reader.count(len(session.cohort))
        survivors = tuple(reader.u64() for _ in range(count))
        opened = reader.blob()
        if len(opened) % session.share_bytes:
            raise reader.bad(f"{len(opened)} bytes of shares of {session.share_bytes}")
        shares = np.frombuffer(opened, np.uint8).reshape(-1, session.share_bytes)
        state = Attested(session, device, survivors, shares)
    else:
        raise reader.bad(f"state of kind {kind}")
    reader.end()
    return state
