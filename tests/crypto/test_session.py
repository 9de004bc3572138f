"""A session: what cannot be one, and that every field of it is in its id."""

from dataclasses import fields, replace
from typing import Any

import pytest

from tacit.crypto.codec import Codec
from tacit.crypto.errors import MalformedMessage, ParameterError, ProtocolError
from tacit.crypto.he.frames import Kind, frame_bytes
from tacit.crypto.he.packing import Packing
from tacit.crypto.he.sets import PUBLIC
from tacit.crypto.identity import NO_KEM, Identity, Roster, RunKey
from tacit.crypto.secagg.clear import Clear
from tacit.crypto.secagg.session import Purpose, Session, threshold_for
from tacit.crypto.secagg.stages import Value, config_digest
from tests.crypto.federation import NOW, Federation

CREW = Federation(5)
SESSION = CREW.session()
KEYS = tuple(CREW.keys.values())
OUTSIDER = RunKey(9, bytes([9]) * 32, NO_KEM, bytes(64))
HYBRID_KEYS = tuple(replace(key, kem=bytes([key.device]) * 32) for key in KEYS)
DRAWN: dict[str, Any] = {"committee": (1, 2, 3, 9), "seats": 5, "threshold": 3}
# A sum under a key that all of the cohort hold.
SHARED: dict[str, Any] = {
    "he": "bfv-4096",
    "epoch": bytes(range(32)),
    "degree": 0,
    "codec": Codec(6, 5, 2, bits=21),
}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"cohort": ()}, "cohort must be sorted"),
        ({"cohort": KEYS[::-1]}, "cohort must be sorted"),
        ({"cohort": (KEYS[0], *KEYS)}, "cohort must be sorted, without repeats"),
        ({"cohort": (replace(KEYS[0], device=0), *KEYS[1:])}, "devices from 1"),
        ({"cohort": (*KEYS[:4], replace(KEYS[0], device=5))}, "two devices share one run key"),
        ({"committee": (2, 1, 3)}, "committee must be sorted"),
        ({"committee": (1, 1, 2)}, "committee must be sorted and without repeats"),
        ({"committee": (1, 2, 6)}, "committee must be part of the cohort, or its witnesses"),
        ({"witnesses": KEYS[:1]}, "witnesses must be sorted, without repeats, not in the cohort"),
        ({"witnesses": (OUTSIDER,)}, "a witness has to be on the committee"),
        (
            {"witnesses": (OUTSIDER,), "committee": (1, 2, 3, 9)},
            "witnesses are for a committee drawn",
        ),
        ({"witnesses": (replace(KEYS[0], device=9),), **DRAWN}, "two devices share one run key"),
        ({"seats": 4}, "5 members on 4 seats"),
        ({"seats": 256, "threshold": 129}, "at most 255"),
        ({"seats": 9, "threshold": 4}, "threshold 4 for a committee of 9, 5 of them there"),
        ({"seats": 11, "threshold": 6}, "threshold 6 for a committee of 11, 5 of them there"),
        ({"degree": 0}, r"degree 0, expected 1\.\.4"),
        ({"degree": 5}, r"degree 5, expected 1\.\.4"),
        ({"committee": ()}, "threshold 3 for a committee of 0"),
        ({"committee": (), "threshold": 0}, "threshold 0 for a committee of 0"),
        ({"codec": Codec(6, 4, 2)}, "codec for 4 devices, cohort of 5"),
        ({"codec": Codec(6, 6, 2)}, "codec for 6 devices, cohort of 5"),
        ({"threshold": 2}, "expected more than half of it, and at most those there"),
        ({"threshold": 6}, "expected more than half of it, and at most those there"),
        ({"threshold": 0}, "expected more than half"),
        ({"threshold": -3}, "expected more than half"),
        ({"committee": (1, 2, 3, 4), "threshold": 2}, "expected more than half"),  # exactly half
        ({"min_survivors": 1}, r"min_survivors=1, expected 2\.\.5"),
        ({"min_survivors": 0}, "min_survivors=0"),
        ({"min_survivors": 6}, r"min_survivors=6, expected 2\.\.5"),
        ({"hybrid": True}, "a hybrid session, and device 1 has no ML-KEM key"),
        ({"lattice": "none", "degree": 0}, "lattice 'none' with degree 0"),
        ({"lattice": "4096-64-2"}, "lattice '4096-64-2' with degree 4"),
        ({"lattice": "2048-32-1", "degree": 0}, "a modulus of|no room|fields of"),
        (
            {"lattice": "2048-32-1", "degree": 0, "codec": Codec(6, 5, 2, bits=27)},
            "5 clients leave no room for 27 bits in 2048-32-1",
        ),
        (
            {
                "cohort": (*HYBRID_KEYS[:4], replace(KEYS[4], kem=NO_KEM)),
                "hybrid": True,
            },
            "device 5 has no ML-KEM key",
        ),
        (
            {"cohort": HYBRID_KEYS, "witnesses": (OUTSIDER,), "hybrid": True, **DRAWN},
            "device 9 has no ML-KEM key",
        ),
        ({**SHARED, "he": "none"}, "he 'none': degree 0, hybrid False"),
        ({**SHARED, "degree": 4}, "he 'bfv-4096': degree 4, hybrid False"),
        ({**SHARED, "cohort": HYBRID_KEYS, "hybrid": True}, "degree 0, hybrid True"),
        ({**SHARED, "lattice": "2048-32-1"}, "both lattice '2048-32-1' and he 'bfv-4096'"),
        ({**SHARED, "epoch": b""}, "an epoch of 0 bytes with he 'bfv-4096'"),
        ({**SHARED, "epoch": bytes(31)}, "an epoch of 31 bytes with he 'bfv-4096'"),
        ({"epoch": bytes(32)}, "an epoch of 32 bytes with he ''"),
        (
            {"epoch": bytes(32), "lattice": "2048-32-1", "degree": 0},
            "an epoch of 32 bytes with he ''",
        ),
        ({**SHARED, "committee": (1, 2, 3, 4)}, "the committee of a consortium is its cohort"),
        ({**SHARED, "seats": 5}, "the committee of a consortium is its cohort"),
        (
            {**SHARED, "witnesses": (OUTSIDER,), **DRAWN},
            "the committee of a consortium is its cohort",
        ),
        ({**SHARED, "codec": Codec(6, 5, 2, bits=43)}, r"43 bits, expected 8\.\.42"),
        ({"roster": bytes(31)}, "digests have 32 bytes"),
        ({"model": b""}, "digests have 32 bytes"),
        ({"config": bytes(33)}, "digests have 32 bytes"),
    ],
)
def test_an_impossible_session_is_not_built(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        CREW.session(**changed)


def test_a_consortium_has_no_more_devices_than_its_set_has_room_for() -> None:
    crowd = Federation(31)
    shared = {**SHARED, "threshold": 16, "committee": crowd.devices}
    wide = {**shared, "codec": Codec(6, 31, 2, bits=25), "he": "bfv-4096-seeded"}
    assert crowd.session(**{**wide, "he": "bfv-4096"}).packing is not None
    with pytest.raises(ParameterError, match=r"31 clients, expected 1\.\.30 with bfv-4096-seeded"):
        crowd.session(**wide)


def test_what_a_consortiums_session_says_of_its_messages() -> None:
    shared = CREW.session(**SHARED)
    assert not shared.is_masked
    assert not shared.is_complete
    assert (shared.scheme, SESSION.packing) == (None, None)
    assert shared.packing == Packing(PUBLIC, shared.codec.size, 21, 5)
    assert shared.vector_bytes == frame_bytes(Kind.CONTRIBUTION, shared.packing)
    assert Session.decode(shared.encode()) == shared


def test_a_committee_of_256_is_not_built() -> None:
    cohort = tuple(RunKey(d, d.to_bytes(32, "little"), NO_KEM, bytes(64)) for d in range(1, 257))
    settings: dict[str, Any] = {"cohort": cohort, "codec": Codec(1, 256, 0), "threshold": 129}
    assert CREW.session(**settings, committee=tuple(range(1, 256))).point(255) == 255
    with pytest.raises(ParameterError, match="256 members on 256 seats, at most 255"):
        CREW.session(**settings, committee=tuple(range(1, 257)))


# Every field, changed alone to another value that a session may have.
OTHERS: dict[str, Any] = {
    "run": 2,
    "round": 2,
    "purpose": Purpose.EVALUATE,
    "codec": Codec(6, 5, 2, bits=31),
    "cohort": (*KEYS[:4], replace(KEYS[4], signature=bytes(64))),
    "witnesses": (OUTSIDER,),
    "degree": 3,
    "committee": (1, 2, 3, 4),
    "seats": 5,
    "threshold": 4,
    "min_survivors": 3,
    "hybrid": True,
    "lattice": "4096-64-2",
    "he": "bfv-4096",
    "epoch": bytes([1]) * 32,
    "roster": bytes([1]) * 32,
    "model": bytes([1]) * 32,
    "config": bytes([1]) * 32,
    "clear": Clear(((2, 4),), 1.0, 1.0),
}
CODECS: dict[str, Any] = {
    "length": 7,
    "clients": 4,
    "metrics": 3,
    "bound": 4.0,
    "metric_bound": 999.0,
    "max_weight": 9.0,
    "bits": 33,
}
# Beside the one above: other ranges of one size, another norm, another deviation.
CLEARS = (
    Clear(((3, 5),), 1.0, 1.0),
    Clear(((2, 3), (4, 5)), 1.0, 1.0),
    Clear(((2, 4),), 2.0, 1.0),
    Clear(((2, 4),), 1.0, 2.0),
)


def test_every_field_is_in_the_id() -> None:
    assert set(OTHERS) == {field.name for field in fields(Session)}
    assert set(CODECS) == {field.name for field in fields(Codec)}
    ids = [SESSION.id]
    also = {
        "committee": {"threshold": 4},
        "witnesses": DRAWN,
        "hybrid": {"cohort": HYBRID_KEYS},
        "lattice": {"degree": 0, "codec": replace(SESSION.codec, bits=27)},
        "he": SHARED,
        "epoch": {name: value for name, value in SHARED.items() if name != "epoch"},
    }
    for name, other in OTHERS.items():
        changed = also.get(name, {}) | {name: other}
        ids.append(replace(SESSION, **changed).id)
    ids.append(replace(SESSION, **{**SHARED, "he": "bfv-2048-seeded"}).id)
    ids.append(replace(SESSION, threshold=4, committee=(2, 3, 4, 5)).id)
    for name, other in CODECS.items():
        if name != "clients":  # always the size of the cohort
            ids.append(replace(SESSION, codec=replace(SESSION.codec, **{name: other})).id)
    smaller = replace(SESSION.codec, clients=4)
    ids.append(
        replace(
            SESSION, codec=smaller, cohort=KEYS[:4], degree=3, committee=(1, 2, 3), threshold=3
        ).id
    )
    ids.append(replace(SESSION, **DRAWN, witnesses=(replace(OUTSIDER, signature=b"1" * 64),)).id)
    ids += [replace(SESSION, clear=other).id for other in CLEARS]
    ids.append(replace(SESSION, cohort=HYBRID_KEYS).id)  # keys of a hybrid run, and no hybrid sum
    assert len(set(ids)) == len(ids)
    assert replace(SESSION).id == SESSION.id


def test_a_session_decodes_to_itself() -> None:
    assert Session.decode(SESSION.encode()) == SESSION
    with pytest.raises(MalformedMessage, match="session of version 1, this device speaks 2"):
        Session.decode(b"\1" + SESSION.encode()[1:])
    data = bytearray(SESSION.encode())
    data[13] = 3
    with pytest.raises(MalformedMessage, match="3 is not a valid Purpose"):
        Session.decode(bytes(data))
    hybrid = replace(SESSION, cohort=HYBRID_KEYS, hybrid=True)
    assert Session.decode(hybrid.encode()) == hybrid
    data = bytearray(hybrid.encode())
    data[-3 * 32 - 4 * 4 - 1] = 2  # before four empty fields and three digests
    with pytest.raises(MalformedMessage, match="hybrid is 2, expected 0 or 1"):
        Session.decode(bytes(data))


def test_parties_points_and_keys() -> None:
    drawn = CREW.session(witnesses=(OUTSIDER,), **DRAWN)
    assert drawn.parties == (1, 2, 3, 4, 5, 9)
    assert drawn.key(9) == OUTSIDER
    assert drawn.point(9) == 4
    assert (drawn.committee_size, SESSION.committee_size) == (5, 5)
    assert SESSION.is_complete
    assert not CREW.session(degree=3).is_complete
    session = CREW.session(committee=(2, 4, 5), threshold=2)
    assert session.devices == session.parties == (1, 2, 3, 4, 5)
    assert session.committee_size == 3
    assert [session.point(member) for member in session.committee] == [1, 2, 3]
    assert session.key(4) == CREW.keys[4]


@pytest.mark.parametrize("committee", range(1, 13))
def test_two_sets_never_gather_a_threshold_each(committee: int) -> None:
    """Honest members sign one set, corrupt ones both; and t is the smallest that holds."""
    for corrupt in range(committee):
        threshold = threshold_for(committee, corrupt)
        honest = committee - corrupt

        def both(needed: int, honest: int = honest, corrupt: int = corrupt) -> bool:
            return any(
                first + corrupt >= needed and honest - first + corrupt >= needed
                for first in range(honest + 1)
            )

        assert not both(threshold)
        assert corrupt < threshold <= committee
        assert both(threshold - 1) or 2 * (threshold - 1) <= committee + corrupt


def test_keys_are_checked_against_the_roster() -> None:
    SESSION.verify_members(CREW.roster, now=NOW)
    SESSION.verify_keys(CREW.roster)
    swapped = replace(KEYS[4], public=KEYS[4].public[::-1])
    with pytest.raises(ProtocolError, match="device 5: run key is not signed"):
        CREW.session(cohort=(*KEYS[:4], swapped)).verify_keys(CREW.roster)
    with pytest.raises(ProtocolError, match="device 1: run key is not signed"):
        CREW.session(run=2).verify_keys(CREW.roster)
    stranger = RunKey.signed(Identity(bytes(32)), 1, 6, bytes([7]) * 32)
    strange = CREW.session(Codec(6, 6, 2), cohort=(*KEYS, stranger))
    with pytest.raises(ProtocolError, match="device 6: run key is not signed"):
        strange.verify_keys(CREW.roster)
    with pytest.raises(ProtocolError, match="device 6: not on the roster"):
        strange.verify_members(CREW.roster, now=NOW)


def test_members_are_checked_against_the_roster_of_the_session() -> None:
    with pytest.raises(ProtocolError, match="membership has expired"):
        SESSION.verify_members(CREW.roster, now=NOW + 1)
    other = Roster.signed(CREW.authority, 2, CREW.roster.members, bytes(32))
    with pytest.raises(ProtocolError, match="session names another roster"):
        SESSION.verify_members(other, now=NOW)
    one_expired = Roster.signed(
        CREW.authority,
        1,
        [replace(m, valid_until=0) if m.device == 3 else m for m in CREW.roster.members],
        bytes(32),
    )
    with pytest.raises(ProtocolError, match="device 3: membership has expired"):
        CREW.session(roster=one_expired.digest()).verify_members(one_expired, now=1)


def test_a_cohort_is_known_by_run_roster_and_keys() -> None:
    """The device verifies a cohort's keys once for each digest, so all they rest on is in it."""
    digests = {SESSION.cohort_digest}
    for changed in ("run", "roster", "cohort"):
        digests.add(replace(SESSION, **{changed: OTHERS[changed]}).cohort_digest)
    assert len(digests) == 4
    digests.add(replace(SESSION, witnesses=(OUTSIDER,), **DRAWN).cohort_digest)
    assert len(digests) == 5
    assert replace(SESSION, round=9, min_survivors=3).cohort_digest == SESSION.cohort_digest


CONFIGS: list[dict[str, Value]] = [
    {},
    {"a": 1},
    {"a": 2},
    {"a": 1.0},
    {"a": True},
    {"a": False},
    {"a": "1"},
    {"a": b"1"},
    {"a": [1]},
    {"a": [[1]]},
    {"a": [1, 1]},
    {"a": [1.0]},
    {"a": []},
    {"a": ["ab", "c"]},
    {"a": ["a", "bc"]},
    {"a": 0.0},
    {"a": -0.0},
    {"b": 1},
    {"a": 1, "b": 1},
    {"ab": 1},
]


def test_configurations_have_digests_of_their_own() -> None:
    digests = [config_digest(config, "w", "train", ["x"]) for config in CONFIGS]
    digests += [
        config_digest({}, "n", "train", ["x"]),
        config_digest({}, "w", "train.other", ["x"]),
    ]
    digests += [config_digest({}, "", "wtrain", ["x"]), config_digest({}, "wtrain", "", ["x"])]
    digests += [config_digest({}, "w", "train", names) for names in ([], ["y"], ["x", "y"])]
    assert len(set(digests)) == len(digests)
    ordered, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    assert config_digest(ordered, "w", "train", ["x"]) == config_digest(other, "w", "train", ["x"])
    with pytest.raises(ParameterError, match="holds a NoneType"):
        config_digest({"a": None}, "w", "train", [])  # type: ignore[dict-item]
