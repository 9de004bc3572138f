"""Moving a device through a sum, one message at a time, each state used once."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from tacit.client.vault import Vault
from tacit.crypto.errors import ProtocolError
from tacit.crypto.identity import KEY_BYTES
from tacit.crypto.secagg.client import Attested, Enrolled, Reported, agree_all
from tacit.crypto.secagg.messages import SECRET_BYTES
from tacit.crypto.secagg.session import DIGEST_BYTES, Purpose, Session
from tacit.crypto.wire import Reader, Writer

State = Enrolled | Reported | Attested
S = TypeVar("S", Reported, Attested)
M = TypeVar("M")

_SESSION = "session"
_RUN = "run"
_AGREED = "agreed"
_SERVED = "served"


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
    vault.take(_AGREED)
    vault.write(_RUN, encode_state(state))


def agreed(vault: Vault, session: Session) -> dict[int, bytes]:
    """Our secret with each party of the session: kept for a cohort, since in every round of a run
    they are the same. Raises ProtocolError if we are not enrolled in the run, or for a low-order
    point."""
    data = vault.read(_AGREED)
    if data is not None and data[:DIGEST_BYTES] == session.cohort_digest:
        secrets = data[DIGEST_BYTES:]
        return {
            party: secrets[at * KEY_BYTES : (at + 1) * KEY_BYTES]
            for at, party in enumerate(session.parties)
        }
    state = run_state(vault, session.run)
    if state is None:
        raise ProtocolError("this device has no key of this run", sender=0, stage="rounds")
    fresh = agree_all(state, session)
    vault.write(_AGREED, session.cohort_digest + b"".join(fresh[p] for p in session.parties))
    return fresh


def run_state(vault: Vault, run: int) -> Enrolled | None:
    """The device's key for `run`, None if it is not enrolled in it."""
    data = vault.read(_RUN)
    state = None if data is None else decode_state(data)
    return state if isinstance(state, Enrolled) and state.run == run else None


def serve_once(vault: Vault, session: Session) -> None:
    """Count this session as served, durably, before anything of it leaves the device.

    Raises ProtocolError for a (round, purpose) at or below one already served in this run: no
    replay, no restart, no second sum over another set.
    """
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
        case Enrolled(run, device, secret):
            return Writer().u8(0).u64(run).u64(device).fixed(secret, KEY_BYTES).data()
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
        state = Enrolled(reader.u64(), reader.u64(), reader.fixed(KEY_BYTES))
    elif kind == 1:
        session = Session.decode(reader.blob())
        state = Reported(session, reader.u64())
    elif kind == 2:
        session = Session.decode(reader.blob())
        device = reader.u64()
        count = reader.count(len(session.cohort))
        survivors = tuple(reader.u64() for _ in range(count))
        opened = reader.blob()
        if len(opened) % SECRET_BYTES:
            raise reader.bad(f"{len(opened)} bytes of shares of {SECRET_BYTES}")
        shares = np.frombuffer(opened, np.uint8).reshape(-1, SECRET_BYTES)
        state = Attested(session, device, survivors, shares)
    else:
        raise reader.bad(f"state of kind {kind}")
    reader.end()
    return state
