"""A server that lies, with and without help from devices, tries to see less than a whole sum."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tacit.crypto import labels, shamir
from tacit.crypto.codec import Codec, Ring
from tacit.crypto.errors import ProtocolError
from tacit.crypto.identity import NO_KEM, RunKey, derive
from tacit.crypto.prg import add_masks
from tacit.crypto.secagg import client
from tacit.crypto.secagg.messages import AttestRequest, Report, RevealRequest, Shares
from tacit.crypto.secagg.session import Purpose, Session
from tacit.crypto.shamir import Octets
from tests.crypto.federation import Federation, expected, means, vector
from tests.crypto.test_prg import LIMIT, chi_square


def combined(session: Session, shares: dict[int, Shares], nth: int) -> list[bytes]:
    """The keys of the nth survivor that these shares open: self, then pairs with the dropped.

    Every device is everyone's neighbour, so each survivor has 1 + dropped rows, and
    survivors * (1 + dropped) = rows with survivors + dropped = devices.
    """
    rows, devices = len(next(iter(shares.values())).opened), len(session.devices)
    each = next(1 + d for d in range(devices) if (devices - d) * (1 + d) == rows)
    points = [session.point(member) for member in shares]
    rows = slice(nth * each, (nth + 1) * each)
    keys = shamir.combine(points, np.stack([s.opened[rows] for s in shares.values()]))
    return [key.tobytes() for key in keys]


def shares_for(
    crew: Federation,
    session: Session,
    reports: dict[int, Report],
    states: dict[int, client.Reported],
) -> dict[int, Shares]:
    """What the members open for exactly the devices in `reports`."""
    attested, revealing = crew.attest(crew.collect(session, reports), states)
    asked = revealing.request()
    return {m: client.reveal(state, crew.roster, asked) for m, state in attested.items()}


def unsealed(crew: Federation, state: client.Reported, report: Report, at: int) -> Octets | None:
    """What a member finds in the box that a report has for it."""
    secret = crew.agreed(state.session, state.device)[report.device]
    near, sealed, hashes = report.neighbours, report.sealed[at], report.hashes[at]
    bound = client._bound(state.session, report.device, state.device, near, bytes(32))
    return client._unseal(secret, state, report.device, bound, sealed, hashes)


def self_masks_off(total: Ring, keys: list[bytes]) -> Ring:
    out = total.copy()
    add_masks(out, [], keys)
    return out


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"model": bytes([1]) * 32},
        {"config": bytes([1]) * 32},
        {"round": 2},
        {"purpose": Purpose.EVALUATE},
        {"min_survivors": 3},
        {"threshold": 4},
        {"roster": bytes([1]) * 32},
        {"codec": Codec(200, 4, 2, bound=7.0)},
        {"committee": (1, 2, 3), "threshold": 2},
        {"setup": bytes([1]) * 32},
    ],
)
def test_a_device_shown_something_else_turns_the_sum_to_noise(shown: dict[str, Any]) -> None:
    """Even for a server that ignores the check of sessions and is *given* every self key: the
    pair masks of the odd one out do not cancel (Pasquini et al. 2022 relies on their doing so)."""
    crew = Federation(4)
    codec = Codec(200, 4, 2)
    session = crew.session(codec)
    setups = {3: shown.get("setup", bytes(32))}
    odd = replace(session, **{k: v for k, v in shown.items() if k != "setup"})
    total = np.zeros(codec.size, codec.dtype)
    keys = []
    for device in crew.devices:
        told = odd if device == 3 else session
        rand = crew.rand(client.REPORT_RAND_BYTES)
        _, report = client.report(
            crew.enrolled[device],
            crew.identities[device],
            told,
            crew.agreed(told, device),
            crew.encoded(session, device),
            ("loss",),
            setups.get(device, bytes(32)),
            rand,
        )
        keys.append(derive(rand[:32], labels.SELF_MASK, told.id))
        total += vector(session, report)
    opened = self_masks_off(total, keys)
    if not shown:
        assert codec.decode(opened, 4).update.tolist() == expected(session, crew.devices)[0]
        return
    with pytest.raises(ProtocolError, match="its masks do not cancel"):
        codec.decode(opened, 4)
    assert chi_square(opened.tobytes()) < LIMIT


def test_a_cohort_shown_without_one_device_is_another_session_too() -> None:
    crew = Federation(4)
    session = crew.session()
    keys = tuple(crew.keys[device] for device in (1, 2, 3))
    small = crew.session(Codec(6, 3, 2), cohort=keys, committee=(1, 2, 3), threshold=2)
    _, report = crew.report(small, 3)
    assert small.id != session.id
    states, reports = crew.reports(session, (1, 2, 4))
    reports[3] = replace(report, session=session.id)
    with pytest.raises(ProtocolError, match="2 neighbours where everyone is one"):
        crew.run(session, reports, states)


def twin(crew: Federation, of: int, as_: int) -> RunKey:
    """The run key of one device, its top bit flipped, signed by a corrupt other as its own."""
    public = crew.keys[of].public
    same_point = public[:31] + bytes([public[31] ^ 0x80])
    body = (1).to_bytes(8, "little") + as_.to_bytes(8, "little") + same_point + NO_KEM
    return RunKey(as_, same_point, NO_KEM, crew.identities[as_].sign(labels.RUN_KEY, body))


@pytest.mark.parametrize("corrupt", [1, 5])
def test_a_twin_of_a_run_key_does_not_open_its_owners_report(corrupt: int) -> None:
    """Device `corrupt` enrols with the victim's point in another encoding, and then drops out.

    Every other device shares one X25519 secret with both. If the pair keys were not bound to the
    two devices, those opened for the dropped twin would be the victim's as well, and with the
    victim's own self key, opened by right, nothing would be left on its report.
    """
    crew, victim = Federation(5), 3
    cohort = {**crew.keys, corrupt: twin(crew, victim, corrupt)}
    session = crew.session(Codec(200, 5, 2), cohort=tuple(cohort.values()))
    session.verify_keys(crew.roster)  # nothing about the twin is forged
    survivors = tuple(device for device in crew.devices if device != corrupt)
    states, reports = crew.reports(session, survivors)
    shares = shares_for(crew, session, reports, states)
    opened = {device: combined(session, shares, row) for row, device in enumerate(survivors)}
    left = vector(session, reports[victim])
    plus: list[bytes] = []
    minus = [opened[victim][0]]
    for device in survivors:
        if device != victim:  # the key it shares with the twin, for the one it shares with us
            (minus if victim < device else plus).append(opened[device][1])
    # The victim's own mask with the twin was opened as well.
    (minus if victim < corrupt else plus).append(opened[victim][1])
    add_masks(left, plus, minus)
    with pytest.raises(ProtocolError, match="its masks do not cancel"):
        session.codec.decode(left, 1)
    assert chi_square(left.tobytes()) < LIMIT


def test_the_late_report_of_a_dropped_device_stays_masked() -> None:
    """The server counts device 4 as dropped, has all its pair keys opened, and then finds its
    report: the self mask is still on, and t - 1 corrupt members cannot take it off."""
    crew = Federation(4)
    session = crew.session(Codec(200, 4, 2))
    states, reports = crew.reports(session, crew.devices)
    late = reports.pop(4)
    shares = shares_for(crew, session, reports, {m: states[m] for m in (1, 2, 3)})
    survivors = (1, 2, 3)
    left = vector(session, late)
    add_masks(left, [combined(session, shares, row)[1] for row in range(3)], [])
    assert [device for device in survivors if device > 4] == []  # so 4 subtracted all of them
    with pytest.raises(ProtocolError, match="its masks do not cancel"):
        session.codec.decode(left, 1)
    assert chi_square(left.tobytes()) < LIMIT
    # Two corrupt members open what device 4 dealt them; the threshold is three.
    held = []
    for at, member in enumerate((1, 2)):
        opened = unsealed(crew, states[member], late, at)
        assert opened is not None
        held.append(opened)
    guess = shamir.combine([1, 2], np.stack(held))[0].tobytes()
    with pytest.raises(ProtocolError, match="its masks do not cancel"):
        session.codec.decode(self_masks_off(left, [guess]), 1)
    # The control: with its third share the report is open, so nothing else was missing.
    third = unsealed(crew, states[3], late, 2)
    assert third is not None
    key = shamir.combine([1, 2, 3], np.stack([*held, third]))[0].tobytes()
    mean = session.codec.decode(self_masks_off(left, [key]), 1)
    assert mean.update.tolist() == [4.0] * 200


def test_fewer_survivors_cannot_be_announced_after_the_fact() -> None:
    """The difference of two sums: all four, then three of them. The second set finds no state, and
    signatures on the first do not open the second."""
    crew = Federation(4)
    session = crew.session()
    states, reports = crew.reports(session, crew.devices)
    attested, revealing = crew.attest(crew.collect(session, reports), states)
    everyone = crew.reveal(revealing, attested)
    assert means(everyone) == expected(session, crew.devices)
    fewer = crew.collect(session, {d: reports[d] for d in (1, 2, 3)})
    _, second = crew.attest(fewer, states)  # as if nobody kept count
    with pytest.raises(ProtocolError, match="did not sign our set"):
        client.reveal(attested[1], crew.roster, second.request())


def test_survivors_without_shares_do_not_make_a_crowd() -> None:
    """A server pads the set with devices that never reported: what it gets for the lone victim is
    its self key, while its masks with the made-up survivors stay on."""
    crew, victim = Federation(5), 2
    session = crew.session(Codec(200, 5, 2))
    states, reports = crew.reports(session, crew.devices)
    padded = (1, 2, 3)
    junk = (bytes(len(reports[1].sealed[0])), bytes(len(reports[1].hashes[0])))
    shares = {}
    signatures, attested = [], {}
    for at, member in enumerate(crew.devices):
        boxes = [
            (reports[d].sealed[at], reports[d].hashes[at]) if d == victim else junk for d in padded
        ]
        request = AttestRequest(
            session.id,
            padded,
            tuple(reports[d].neighbours for d in padded),
            tuple(b[0] for b in boxes),
            tuple(b[1] for b in boxes),
        )
        attested[member], said = crew.attested(session, states[member], request)
        assert said.bad == (1, 3)
        signatures.append((member, said.signature))
    ask = RevealRequest(session.id, tuple(signatures[:3]))
    for member, state in attested.items():
        shares[member] = client.reveal(state, crew.roster, ask)
    self_key, with_4, with_5 = combined(session, shares, 1)
    left = vector(session, reports[victim])
    add_masks(left, [], [self_key, with_4, with_5])
    with pytest.raises(ProtocolError, match="its masks do not cancel"):
        session.codec.decode(left, 1)


def test_what_is_opened_for_one_session_opens_no_other() -> None:
    """Keys opened in round 1 mask nothing in round 2, and the run key itself is never opened."""
    crew = Federation(3)
    first, second = crew.session(Codec(200, 3, 2)), crew.session(Codec(200, 3, 2), round=2)
    states, reports = crew.reports(first, (1, 2))
    shares = shares_for(crew, first, reports, states)
    opened = [key for row in range(2) for key in combined(first, shares, row)]
    assert all(crew.enrolled[device].secret not in opened for device in crew.devices)
    _, later = crew.report(second, 1)
    for key in opened:
        for plus, minus in (([key], []), ([], [key])):
            left = vector(second, later)
            add_masks(left, plus, minus)
            assert chi_square(left.tobytes()) < LIMIT


def test_a_reflected_box_is_not_taken_for_ones_own() -> None:
    """X25519 gives both directions of a pair one secret: a box dealt by 1 to 2 is not one by 2
    to 1."""
    crew = Federation(3)
    session = crew.session()
    states, reports = crew.reports(session, crew.devices)
    request = AttestRequest(
        session.id,
        (1, 2),
        (reports[1].neighbours, reports[2].neighbours),
        (reports[1].sealed[0], reports[1].sealed[1]),
        (reports[1].hashes[0], reports[1].hashes[1]),
    )
    _, said = crew.attested(session, states[1], request)
    assert said.bad == (2,)
