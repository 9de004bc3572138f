"""The whole protocol in one function: specification, demonstration and oracle for every engine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tacit.crypto.codec import Codec
from tacit.crypto.identity import KEY_BYTES, Identity, Member, Roster, RunKey
from tacit.crypto.secagg import client
from tacit.crypto.secagg.capsules import Exchange, Pairs
from tacit.crypto.secagg.hybrid import (
    SEED_BYTES,
    DecapsulateRequest,
    EncapsulateRequest,
    KemKey,
    decapsulate,
    encapsulate,
)
from tacit.crypto.secagg.messages import AttestRequest, RevealRequest
from tacit.crypto.secagg.revealing import Opened
from tacit.crypto.secagg.server import Collecting
from tacit.crypto.secagg.session import DIGEST_BYTES, Purpose, Session, threshold_for
from tacit.crypto.vector import Floats

Rand = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Contribution:
    """One device's input: update (codec.length,), metrics in the order of their names, weight."""

    update: Floats = field(repr=False)
    metrics: Floats = field(repr=False)
    weight: float = field(repr=False)


def secure_sum(
    codec: Codec,
    inputs: Mapping[int, Contribution],
    metrics: tuple[str, ...],
    rand: Rand,
    *,
    silent: Mapping[int, str] | None = None,
    min_survivors: int = 2,
    corrupt: int = 0,
    degree: int | None = None,
    hybrid: bool = False,
    lattice: str = "",
) -> Opened:
    """Run enrol, report, attest and reveal among `inputs`, everyone on the committee.

    `silent` maps a device to the stage from which on it says nothing: "report", "attest" or
    "reveal". `rand(n)` returns n fresh random bytes. `degree` is that of the graph of masks,
    complete by default. A `hybrid` sum has secrets of ML-KEM too, in whose encapsulation `rand` has
    no part. `lattice` names the set of an encrypted sum. Raises as the stages do.
    """
    quiet = dict(silent or {})
    devices = sorted(inputs)
    authority = Identity(rand(32))
    identities = {device: Identity(rand(32)) for device in devices}
    members = [Member(device, identities[device].public, 1) for device in devices]
    roster = Roster.signed(authority, 1, members, rand(32))
    enrolled, keys = {}, {}
    for device in devices:
        enrolled[device], keys[device] = client.enrol(
            identities[device], 1, device, rand(32), rand(SEED_BYTES) if hybrid else b""
        )
    kem = exchange(identities, roster, enrolled, keys) if hybrid else {}
    session = Session(
        run=1,
        round=1,
        purpose=Purpose.TRAIN,
        codec=codec,
        cohort=tuple(keys.values()),
        witnesses=(),
        degree=0 if lattice else len(devices) - 1 if degree is None else degree,
        committee=tuple(devices),
        seats=0,
        threshold=threshold_for(len(devices), corrupt),
        min_survivors=min_survivors,
        hybrid=hybrid,
        lattice=lattice,
        he="",
        epoch=b"",
        roster=roster.digest(),
        model=bytes(32),
        config=bytes(32),
    )

    collecting = Collecting(session, roster)
    agreed = {}
    reported = {}
    for device, given in inputs.items():
        if quiet.get(device) == "report":
            continue
        session.verify_members(roster, now=0)
        session.verify_keys(roster)
        agreed[device] = client.agree_all(enrolled[device], session, kem.get(device))
        encoded = codec.encode(given.update, given.metrics, given.weight, rand(KEY_BYTES))
        reported[device], message = client.report(
            enrolled[device],
            identities[device],
            session,
            agreed[device],
            encoded,
            metrics,
            bytes(DIGEST_BYTES),
            rand(client.REPORT_RAND_BYTES),
        )
        collecting.add(message.encode(session), sender=device)

    attesting = collecting.close()
    attested = {}
    for device, state in reported.items():
        if quiet.get(device) == "attest":
            continue
        request = AttestRequest.decode(attesting.request(device).encode(session), session)
        attested[device], attestation = client.attest(
            state, identities[device], agreed[device], bytes(DIGEST_BYTES), request
        )
        attesting.add(attestation.encode(), sender=device)

    revealing = attesting.close()
    for device in revealing.members:
        if quiet.get(device) == "reveal":
            continue
        asked = RevealRequest.decode(revealing.request().encode(), session)
        revealing.add(client.reveal(attested[device], roster, asked).encode(), sender=device)
    return revealing.open(rand(KEY_BYTES))


def exchange(
    identities: Mapping[int, Identity],
    roster: Roster,
    enrolled: Mapping[int, client.Enrolled],
    keys: Mapping[int, RunKey],
) -> dict[int, dict[int, bytes]]:
    """Run encapsulate and decapsulate among all: for each device, its ML-KEM secrets by device."""
    secrets: dict[int, dict[int, bytes]] = {device: {} for device in keys}
    kem = {device: KemKey(state.kem_seed) for device, state in enrolled.items()}
    run, pairs = next(iter(enrolled.values())).run, Pairs()
    for device, key in keys.items():
        pairs.learn(key, kem[device].public)
    carried = Exchange(pairs, run, roster, keys.values(), keys)
    for me, asked in carried.to_deal().items():
        peers = EncapsulateRequest.decode(asked.encode()).peers
        fresh, answer = encapsulate(identities[me], roster, run, keys[me], peers, now=0)
        secrets[me] |= {peer.device: secret for peer, secret in fresh.items()}
        carried.add(answer.encode(), sender=me)
    for me, told in carried.to_open().items():
        capsules = DecapsulateRequest.decode(told.encode()).capsules
        opened = decapsulate(kem[me], roster, run, keys[me], capsules, now=0)
        secrets[me] |= {dealer.device: secret for dealer, secret in opened.items()}
        carried.opened(me)
    return secrets
