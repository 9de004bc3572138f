"""What a session says of noise: nothing impossible, the same bytes back, and no way around it."""

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.codec import LARGEST, SMALLEST, Codec
from tacit.crypto.errors import (
    MalformedMessage,
    ParameterError,
    ProtocolError,
    TooFewClients,
)
from tacit.crypto.secagg.clear import Clear
from tacit.crypto.secagg.noised import (
    LEAST_BITS,
    MOST_BANDS,
    MOST_BITS,
    MOST_RECORDS,
    Noised,
)
from tacit.crypto.secagg.session import Purpose, Session
from tacit.crypto.wire import Reader, Writer
from tests.crypto.federation import Federation
from tests.strategies import windows

FINE: dict[str, Any] = {
    "length": 10,
    "clients": 5,
    "dropouts": 2,
    "corrupt": 1,
    "clip": 1.5,
    "noise": 0.75,
    "bits": 14,
}


@st.composite
def any_noised(draw: st.DrawFn) -> Noised:
    """Whatever can be built, the ends more often than the rest."""
    length = draw(st.integers(1, 1 << 31) | st.sampled_from([1, 1 << 31]))
    clients = draw(st.integers(1, 1 << 20) | st.sampled_from([1, 1 << 20]))
    central = draw(st.booleans())
    corrupt = 0 if central else draw(st.integers(0, clients - 1))
    kind = draw(st.sampled_from(["plain", "sketch", "records", "quantile", "bands"]))
    bands = draw(st.integers(2, MOST_BANDS)) if central and kind == "bands" else 0
    return Noised(
        length,
        clients,
        draw(st.integers(0, clients - 1 - corrupt)),
        corrupt,
        draw(st.floats(SMALLEST, LARGEST)),
        draw(st.floats(0, exclude_min=True, allow_infinity=False)),
        draw(st.integers(LEAST_BITS, MOST_BITS)),
        draw(st.integers(0, length - 1)) if kind == "sketch" else 0,
        central,
        draw(st.integers(0, MOST_RECORDS)) if kind == "records" else 0,
        draw(st.floats(0, allow_infinity=False)) if kind == "quantile" else 0.0,
        bands,
        draw(st.integers(clients, 1 << 20)) if bands else 0,
        draw(st.sampled_from([b"", bytes(range(32))])) if bands else b"",
    )


def written(noised: Noised) -> bytes:
    writer = Writer()
    noised.write(writer)
    return writer.data()


def read(data: bytes) -> Noised:
    reader = Reader(data, sender=0, stage="report")
    found = Noised.read(reader)
    reader.end()
    return found


# On the wire


@given(any_noised())
def test_what_is_written_is_read(noised: Noised) -> None:
    data = written(noised)
    again = read(data)
    assert again == noised
    assert written(again) == data
    assert all(
        type(getattr(again, f.name)) is type(getattr(noised, f.name)) for f in fields(Noised)
    )


def test_every_field_is_on_the_wire() -> None:
    """Or two devices could be told different things about one session."""
    base = Noised(**FINE)
    changes: list[dict[str, Any]] = [
        {"length": 11},
        {"clients": 6},
        {"dropouts": 1},
        {"corrupt": 0},
        {"clip": 1.25},
        {"noise": 0.5},
        {"bits": 15},
        {"sketch": 3},
        {"central": True, "corrupt": 0},
        {"records": 1},
        {"quantile": 2.0},
        {"bands": 2, "divisor": 5, "central": True, "corrupt": 0},
        {"divisor": 6, "bands": 2, "central": True, "corrupt": 0},
        {"rotation": bytes(32), "bands": 2, "divisor": 5, "central": True, "corrupt": 0},
    ]
    assert {next(iter(change)) for change in changes} == {f.name for f in fields(Noised)}
    told = [written(replace(base, **change)) for change in changes]
    assert len({written(base), *told}) == 1 + len(changes)


def test_whatever_bytes_come_they_are_read_as_they_are_or_refused() -> None:
    for data in windows(written(Noised(**FINE, quantile=3.0))):
        try:
            found = read(data)
        except MalformedMessage:
            continue
        assert written(found) == data


def test_central_is_yes_or_no() -> None:
    data = bytearray(written(Noised(**FINE)))
    at = len(data) - 4 - 4 - 4 - 8 - 4 - 1  # rotation, divisor, bands, quantile, records
    assert data[at] == 0
    data[at] = 2
    with pytest.raises(MalformedMessage, match="central is 2"):
        read(bytes(data))


# What cannot be


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"length": 0}, "expected 1"),
        ({"length": (1 << 31) + 1}, "expected 1"),
        ({"clients": 0, "dropouts": 0, "corrupt": 0}, "expected 1"),
        ({"clients": (1 << 20) + 1}, "expected 1"),
        ({"dropouts": -1}, "no honest one"),
        ({"corrupt": -1}, "no honest one"),
        ({"dropouts": 4}, "no honest one"),
        ({"corrupt": 3}, "no honest one"),
        ({"central": True}, "corrupt is 0"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"clip": -1.0}, "clip=-1.0"),
        ({"clip": math.nan}, "clip=nan"),
        ({"clip": math.inf}, "clip=inf"),
        ({"noise": 0.0}, "noise=0.0"),
        ({"noise": -1.0}, "noise=-1.0"),
        ({"noise": math.nan}, "noise=nan"),
        ({"noise": math.inf}, "noise=inf"),
        ({"bits": LEAST_BITS - 1}, "bits=7"),
        ({"bits": MOST_BITS + 1}, "bits=33"),
        ({"sketch": 10}, "sketch=10"),
        ({"sketch": -1}, "sketch=-1"),
        ({"records": -1}, "records=-1"),
        ({"records": MOST_RECORDS + 1}, "records="),
        ({"records": 1, "sketch": 5}, "a sketch may lengthen"),
        ({"records": 1, "quantile": 1.0}, "of devices' norms"),
        ({"quantile": -1.0}, "quantile=-1.0"),
        ({"quantile": math.nan}, "quantile=nan"),
        ({"quantile": math.inf}, "quantile=inf"),
    ],
)
def test_what_cannot_be_is_neither_built_nor_read(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(ParameterError, match=why):
        Noised(**(FINE | changed))
    if any(isinstance(value, int) and value < 0 for value in changed.values()):
        return  # there is no way to write it
    # A server that builds it all the same is refused where it arrives.
    forged = Noised(**FINE)
    for name, value in changed.items():
        object.__setattr__(forged, name, value)
    data = written(forged)
    with pytest.raises(MalformedMessage, match=f"{why}|not finite"):
        read(data)


# The sum


@given(st.data(), st.integers(LEAST_BITS, MOST_BITS), st.booleans())
def test_decoding_reads_the_ring_to_its_edges(
    data: st.DataObject, bits: int, has_quantile: bool
) -> None:
    noised = Noised(6, 5, 2, 1, 1.0, 1.0, bits, quantile=1.0 if has_quantile else 0.0)
    half = 1 << (bits - 1)
    numbers = st.sampled_from([-half, 1 - half, -1, 0, 1, half - 1]) | st.integers(-half, half - 1)
    sums = data.draw(st.lists(numbers, min_size=noised.size - 1, max_size=noised.size - 1))
    survivors = data.draw(st.integers(3, 5))
    high = data.draw(st.integers(0, (1 << 32 - bits) - 1)) << bits  # what a ring does not see
    total = np.array([(x % (1 << bits)) | high for x in (*sums, survivors)], np.uint32)
    mean = noised.decode(total, survivors)
    steps = mean.decoded[:] * survivors
    assert np.allclose(steps, sums[:6], rtol=4e-16, atol=0)
    assert mean.metrics.tolist() == sums[6:]
    assert mean.weight == survivors
    assert noised.metrics == 0


def test_a_sum_without_the_noise_that_was_promised_is_not_read() -> None:
    noised = Noised(**FINE)
    total = np.array([0] * 10 + [2], np.uint32)
    with pytest.raises(TooFewClients, match="2 survivors, 3 needed for their noise"):
        noised.decode(total, 2)
    total[-1] = 3
    noised.decode(total, 3)
    assert noised.least == 3


def test_masks_that_did_not_cancel_show() -> None:
    noised = Noised(**FINE)
    total = np.array([0] * 10 + [4], np.uint32)
    with pytest.raises(ProtocolError, match="masks do not cancel"):
        noised.decode(total, 3)
    with pytest.raises(ParameterError, match="expected 11 elements"):
        noised.decode(total[1:], 4)
    noised.decode(total, 4)


def test_sizes() -> None:
    noised = Noised(**FINE)
    assert (noised.coordinates, noised.size, noised.width) == (10, 11, 14 + 3)
    assert replace(noised, sketch=4).size == 5
    assert replace(noised, quantile=1.0).size == 12
    assert noised.dtype == np.uint32


@given(any_noised())
def test_the_width_holds_a_sum_of_all_that_a_ring_holds(noised: Noised) -> None:
    """So a sum that is not modulo anything never runs over."""
    most = noised.clients << (noised.bits - 1)
    assert most <= 1 << (noised.width - 1)


# The session


def noised_session(devices: int = 5, **changes: Any) -> Session:
    plain = Federation(devices).session(min_survivors=3)
    noised = Noised(10, devices, devices - plain.min_survivors, 0, 1.0, 1.0)
    return replace(plain, **({"codec": noised} | changes))


def test_a_session_goes_out_and_comes_back_as_it_was() -> None:
    session = noised_session()
    again = Session.decode(session.encode())
    assert again == session
    assert again.id == session.id
    assert isinstance(again.codec, Noised)


def test_a_session_of_another_kind_of_codec_is_another_session() -> None:
    plain = Federation(5).session()
    encoded = bytearray(plain.encode())
    at = 1 + 8 + 4 + 1
    assert encoded[at] == 0
    encoded[at] = 2
    with pytest.raises(MalformedMessage, match="codec of kind 2"):
        Session.decode(bytes(encoded))
    encoded[at] = 1
    with pytest.raises(MalformedMessage):
        Session.decode(bytes(encoded))
    assert isinstance(plain.codec, Codec)


def test_all_that_noise_depends_on_is_in_the_sessions_name() -> None:
    session = noised_session()
    assert isinstance(session.codec, Noised)
    names = {session.id}
    for changed in ({"noise": 2.0}, {"clip": 2.0}, {"corrupt": 1}, {"records": 1}, {"bits": 17}):
        names.add(replace(session, codec=replace(session.codec, **changed)).id)
    assert len(names) == 6


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"purpose": Purpose.EVALUATE}, "a private sum is for training"),
        ({"clear": Clear(((0, 1),), 1.0, 4.0)}, "nothing of it is in the clear"),
        ({"codec": Noised(10, 5, 0, 0, 1.0, 1.0)}, "whose noise takes 5"),
        ({"codec": Noised(10, 4, 1, 0, 1.0, 1.0)}, "codec for 4 devices"),
    ],
)
def test_sessions_that_would_let_out_more_cannot_be(changed: dict[str, Any], why: str) -> None:
    session = noised_session()
    with pytest.raises(ParameterError, match=why):
        replace(session, **changed)
    forged = noised_session()
    for name, value in changed.items():
        object.__setattr__(forged, name, value)
    forged.__dict__.pop("_encoded", None)
    with pytest.raises(MalformedMessage, match=why):
        Session.decode(forged.encode())


def test_fewer_survivors_than_the_noise_takes_are_refused_one_by_one() -> None:
    session = noised_session(9)
    assert isinstance(session.codec, Noised)
    least = session.min_survivors
    for more in range(3):
        for over in range(3):
            codec = replace(session.codec, dropouts=9 - least - more)
            if over >= more:
                replace(session, codec=codec, min_survivors=least + over)
            else:
                with pytest.raises(ParameterError, match="whose noise takes"):
                    replace(session, codec=codec, min_survivors=least + over)
