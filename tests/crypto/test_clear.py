"""What travels outside the hidden vector: nothing is lost or moved, and its sum is exact."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.codec import Codec
from tacit.crypto.errors import MalformedMessage, ParameterError, ProtocolError
from tacit.crypto.secagg import client
from tacit.crypto.secagg.clear import LARGEST, Clear, Integers
from tacit.crypto.secagg.messages import Report
from tacit.crypto.secagg.server import Collecting
from tacit.crypto.secagg.session import Purpose, Session
from tacit.crypto.secagg.totals import ClearTotal, Contribution, RingTotal
from tacit.crypto.vector import Arrays, Difference, Entry, Layout, Ranges, others
from tacit.crypto.wire import Reader, Writer
from tests.crypto.federation import METRICS, Federation
from tests.strategies import two_models

CLEAR = Clear(((0, 2), (3, 7)), 1.0, 0.5)


@st.composite
def ranges(draw: st.DrawFn, length: int) -> Ranges:
    """Ranges of a vector of this length, which is 1 or more: one at least, all of it at most."""
    ends = draw(st.lists(st.integers(0, length), min_size=2, max_size=12, unique=True))
    ends.sort()
    return tuple(zip(ends[: len(ends) // 2 * 2 : 2], ends[1::2], strict=True))


def covered(found: Ranges) -> list[int]:
    return [at for start, stop in found for at in range(start, stop)]


# Which coordinates


@given(st.data(), st.integers(1, 40))
def test_others_are_the_others(data: st.DataObject, length: int) -> None:
    found = data.draw(ranges(length))
    rest = others(found, length)
    assert sorted([*covered(found), *covered(rest)]) == list(range(length))
    assert all(a < b for a, b in pairwise(at for pair in rest for at in pair))
    with pytest.raises(ParameterError, match="a range to"):
        others(found, found[-1][1] - 1)


@given(st.data(), two_models())
def test_a_difference_has_any_part_of_it_alone(
    data: st.DataObject, models: tuple[Arrays, Arrays]
) -> None:
    old, new = models
    layout = Layout.of(old)
    whole = layout.difference(new, old).whole()
    if not whole.size:
        return
    found = data.draw(ranges(whole.size))
    part, size = layout.difference(new, old).only(found), data.draw(st.integers(1, 5))
    pieces = [piece.copy() for piece in part.chunks(size)]
    assert [piece.size for piece in pieces[:-1]] == [size] * (len(pieces) - 1)
    assert np.array_equal(np.concatenate(pieces), whole[covered(found)])
    assert part.shape == (len(covered(found)),)
    assert np.array_equal(part.whole(), whole[covered(found)])


@given(st.data(), st.integers(1, 40), st.booleans())
def test_what_is_split_is_joined_again(data: st.DataObject, length: int, lazy: bool) -> None:
    found = data.draw(ranges(length))
    clear, update = Clear(found, 1024.0, 1.0), np.arange(length) + 1.0
    model = {"a": update[: length // 3], "b": update[length // 3 :]}
    old = {name: np.zeros(array.size) for name, array in model.items()}
    given: np.ndarray | Difference = Layout.of(old).difference(model, old) if lazy else update
    hidden, shown = clear.split(given)
    if isinstance(hidden, Difference):
        hidden = hidden.whole()
    assert hidden.size + shown.size == length
    assert clear.step == 1.0
    codec = Codec(hidden.size, 2, 0, bound=64.0, max_weight=1.0)
    mean = codec.decode(codec.encode(hidden, np.zeros(0), 1.0, bytes(32)), 1)
    whole = clear.joined(mean, shown.astype(np.int64), codec)
    assert whole.decoded.shape == (length,)
    assert np.array_equal(whole.update, update)
    a, b = sorted(data.draw(st.tuples(st.integers(0, length), st.integers(0, length))))
    assert np.array_equal(whole.decoded[a:b], update[a:b])


def test_the_mean_is_over_the_weight() -> None:
    """Of a quarter of the largest weight: the sum is a quarter of what the mean is."""
    clear, codec = Clear(((1, 2),), 1024.0, 1.0), Codec(1, 2, 0, max_weight=8.0)
    mean = codec.decode(codec.encode(np.array([2.0]), np.zeros(0), 2.0, bytes(32)), 1)
    assert clear.joined(mean, np.array([3]), codec).update.tolist() == [2.0, 12.0]


def test_a_mean_is_read_forwards() -> None:
    codec = Codec(1, 2, 0, max_weight=1.0)
    mean = codec.decode(codec.encode(np.array([2.0]), np.zeros(0), 1.0, bytes(32)), 1)
    joined = Clear(((1, 2),), 1.0, 1.0).joined(mean, np.array([3]), codec).decoded
    for which in (slice(None, None, 2), slice(2, 0, None), slice(None, None, -1)):
        with pytest.raises(ParameterError, match="from a start to an end"):
            joined[which]


def test_an_update_that_ends_before_the_ranges_is_refused() -> None:
    with pytest.raises(ParameterError, match="a range to 7 in a vector of 6"):
        CLEAR.split(np.zeros(6))


LAYOUT = Layout(
    (
        Entry("fc0.weight", (2, 3), "<f4"),
        Entry("fc0.bias", (2,), "<f4"),
        Entry("empty", (0,), "<f4"),
        Entry("fc1.weight", (1, 2), "<f4"),
        Entry("fc1.bias", (), "<f4"),
    )
)


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (("fc0.bias",), ((6, 8),)),
        (("fc0.*",), ((0, 8),)),
        (("*.bias",), ((6, 8), (10, 11))),
        (("fc0.bias", "fc1.*"), ((6, 11),)),  # what is empty is no gap
        (("fc1.bias", "fc0.bias"), ((6, 8), (10, 11))),
        (("fc0.bias", "*0.bias", "empty"), ((6, 8),)),
        (("fc[01].weight",), ((0, 6), (8, 10))),
    ],
)
def test_arrays_are_named_by_patterns(patterns: tuple[str, ...], found: Ranges) -> None:
    clear = Clear.of(LAYOUT, patterns, 2.0, 3.0)
    assert clear == Clear(found, 2.0, 3.0)
    inside = LAYOUT.within(clear.ranges)
    assert inside.size == clear.size
    assert "empty" not in [entry.name for entry in inside.entries]


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        (("fc0.bais",), "no array is called 'fc0.bais': the model has fc0.weight, fc0.bias"),
        (("FC0.bias",), "no array is called"),
        (("fc0.bias", "fc2.*"), "no array is called 'fc2.*'"),
        (("*",), "nothing is left to hide"),
        (("fc*",), "nothing is left to hide"),
        (("empty",), "no coordinates"),
    ],
)
def test_names_that_cannot_be_meant_are_refused(patterns: tuple[str, ...], says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        Clear.of(LAYOUT, patterns, 1.0, 1.0)


def test_arrays_that_lie_inside_in_part_are_not_within() -> None:
    assert LAYOUT.within(((0, 7),)).entries == LAYOUT.entries[:1]
    assert LAYOUT.within(((1, 8),)).entries == LAYOUT.entries[1:2]


# Values and bytes


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"ranges": ()}, "no coordinates"),
        ({"ranges": ((-1, 2),)}, "ranges from 0"),
        ({"ranges": ((2, 2),)}, "neither empty nor touching"),
        ({"ranges": ((2, 1),)}, "neither empty nor touching"),
        ({"ranges": ((0, 2), (2, 3))}, "neither empty nor touching"),
        ({"ranges": ((0, 2), (1, 3))}, "neither empty nor touching"),
        ({"ranges": ((4, 5), (0, 2))}, "neither empty nor touching"),
        ({"ranges": ((0, LARGEST + 1),)}, "at most 2147483648"),
        ({"ranges": tuple((3 * k, 3 * k + 1) for k in range((1 << 16) + 1))}, "65537 ranges"),
        ({"norm": 0.0}, "norm"),
        ({"norm": -1.0}, "norm"),
        ({"norm": float("nan")}, "norm"),
        ({"norm": float("inf")}, "norm"),
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": 2.0**-11}, "sigma"),
        ({"sigma": 2.0**11}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
    ],
)
def test_what_cannot_be_a_clear_part_is_not_built(bad: dict[str, Any], says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        replace(CLEAR, **bad)


@given(st.data(), st.floats(2.0**-64, 2.0**64), st.floats(2.0**-10, 2.0**10))
def test_it_reads_as_it_was_written(data: st.DataObject, norm: float, sigma: float) -> None:
    clear = Clear(data.draw(ranges(1000)), norm, sigma)
    writer = Writer()
    clear.write(writer)
    reader = Reader(writer.data(), sender=0, stage="report")
    assert Clear.read(reader) == clear
    reader.end()


def test_bytes_that_are_none_are_refused() -> None:
    writer = Writer()
    CLEAR.write(writer)
    good = writer.data()
    for bad in (good[:-1], good[:3], good[:4] + bytes(8) + good[12:20] + bytes(40), good[:36]):
        with pytest.raises(MalformedMessage):
            Clear.read(Reader(bad, sender=0, stage="report"))
    twice = good[:12] + (4).to_bytes(8, "little") + good[20:]
    with pytest.raises(MalformedMessage, match="touching"):
        Clear.read(Reader(twice, sender=0, stage="report"))
    assert Clear.read(Reader(bytes(4), sender=0, stage="report")) is None


@given(st.data(), st.integers(1, 70), st.sampled_from([2.0**-10, 0.3, 4.0, 2.0**10]))
def test_values_are_packed_to_the_ends_of_their_range(
    data: st.DataObject, size: int, sigma: float
) -> None:
    clear = Clear(((5, 5 + size),), 1.0, sigma)
    half = 1 << (clear.bits - 1)
    number = st.integers(-half, half - 1) | st.sampled_from([-half, half - 1])
    values = np.array(data.draw(st.lists(number, min_size=size, max_size=size)))
    packed = clear.pack(values)
    assert len(packed) == clear.packed_size
    assert np.array_equal(clear.unpack(packed), values)
    for beyond in (-half - 1, half):
        with pytest.raises(ParameterError, match=f"does not fit {clear.bits} bits"):
            clear.pack(np.append(values[1:], beyond))
    with pytest.raises(ParameterError, match="clear coordinates where"):
        clear.pack(values[1:])


def test_the_largest_there_is_fits_a_word() -> None:
    assert Clear(((0, LARGEST),), 1.0, 2.0**10).bits <= 32
    assert Clear(((0, 1),), 1.0, 2.0**-10).bits >= 8


# Sums of it


def steps(clear: Clear, device: int) -> Integers:
    return (-1) ** np.arange(clear.size) * (100 * device + np.arange(clear.size))


def session(crew: Federation, **changed: Any) -> Session:
    return crew.session(Codec(6, crew.size, 2, bound=16.0, bits=20), clear=CLEAR, **changed)


def report(
    crew: Federation, asked: Session, device: int, metrics: tuple[str, ...] = METRICS
) -> tuple[client.Reported, Report]:
    return client.report(
        crew.enrolled[device],
        crew.identities[device],
        asked,
        crew.agreed(asked, device),
        crew.encoded(asked, device),
        metrics,
        bytes(32),
        crew.rand(client.REPORT_RAND_BYTES),
        clear=steps(CLEAR, device),
    )


@pytest.mark.parametrize("lattice", ["", "2048-32-1"])
@pytest.mark.parametrize("silent", [(), (2,), (1, 5)])
def test_a_sum_is_exact_over_the_same_devices_as_the_hidden_one(
    lattice: str, silent: tuple[int, ...]
) -> None:
    crew = Federation(5)
    asked = session(crew, lattice=lattice, **({"degree": 0} if lattice else {}))
    there = [device for device in crew.devices if device not in silent]
    both = {device: report(crew, asked, device) for device in there}
    states = {device: state for device, (state, _) in both.items()}
    opened = crew.run(asked, {device: sent for device, (_, sent) in both.items()}, states)
    summed = sum(steps(CLEAR, device) for device in there) * CLEAR.step / len(there)
    hidden, shown = CLEAR.split(opened.mean.update)
    np.testing.assert_array_equal(hidden, np.full(6, np.mean(there)))
    np.testing.assert_allclose(shown, summed, rtol=1e-15)


def test_devices_of_other_metrics_add_up_apart() -> None:
    crew = Federation(5)
    asked = session(crew)
    collecting = Collecting(asked, crew.roster)
    for device in crew.devices:
        names = ("other",) if device == 4 else METRICS
        _, sent = report(crew, asked, device, names)
        collecting.add(sent.encode(asked), sender=device)
    closed = collecting.close().closed
    assert closed.survivors == (1, 2, 3, 5)
    assert closed.clear is not None
    assert closed.clear.tolist() == sum(steps(CLEAR, d) for d in closed.survivors).tolist()


class Loses(RingTotal):
    """Settles three contributions late and loses the one of device 2: as a process that loads
    ciphertexts may do, when it has broken and takes up the sum again."""

    def __init__(self, asked: Session) -> None:
        super().__init__(asked)
        self._in: list[int] = []
        self._waiting: list[int] = []

    def add(self, data: Contribution, *, sender: int) -> None:
        self._waiting.append(sender)
        if len(self._waiting) == 3:
            self.total()

    def total(self):
        self._in += [sender for sender in self._waiting if sender != 2]
        self._waiting.clear()
        return super().total()

    @property
    def senders(self) -> tuple[int, ...]:
        return tuple(sorted(self._in))

    @property
    def settled(self) -> list[int]:
        return self._in


@pytest.mark.parametrize("devices", [2, 3, 4, 5, 6])
def test_what_the_hidden_sum_lost_is_not_in_the_clear_one(devices: int) -> None:
    crew = Federation(devices + 1)
    asked = session(crew, min_survivors=2)
    collecting = Collecting(asked, crew.roster, lambda: Loses(asked))
    for device in [1, *range(3, devices + 2), 2]:
        collecting.add(report(crew, asked, device)[1].encode(asked), sender=device)
    closed = collecting.close().closed
    assert closed.survivors == tuple(d for d in crew.devices if d != 2)
    assert closed.clear is not None
    assert closed.clear.tolist() == sum(steps(CLEAR, d) for d in closed.survivors).tolist()


def test_no_more_is_kept_than_waits() -> None:
    total, packed = ClearTotal(CLEAR), CLEAR.pack(steps(CLEAR, 1))
    for device in range(1, 7):
        total.add(packed, sender=device, settled=range(device - 2))
        assert len(total._kept) <= 3
    total.add(packed, sender=7, settled=range(8))
    assert not total._kept


# Reports that do not hold


def test_every_byte_of_a_clear_part_is_signed() -> None:
    crew = Federation(3)
    asked = session(crew)
    _, sent = report(crew, asked, 1)
    data, start = sent.encode(asked), asked.vector_bytes
    assert data[start : start + asked.clear_bytes] == sent.clear
    collecting = Collecting(asked, crew.roster)
    for at in range(start, start + asked.clear_bytes):
        broken = bytearray(data)
        broken[at] ^= 1 << at % 8
        with pytest.raises(ProtocolError, match="not signed by its device"):
            collecting.add(bytes(broken), sender=1)
    collecting.add(data, sender=1)


@pytest.mark.parametrize("lattice", ["", "2048-32-1"])
def test_clear_parts_of_another_length_are_malformed(lattice: str) -> None:
    """Also with a signature that fits them."""
    crew = Federation(3)
    asked = session(crew, lattice=lattice, **({"degree": 0} if lattice else {}))
    _, sent = report(crew, asked, 1)
    collecting = Collecting(asked, crew.roster)
    for clear in (bytes(sent.clear) + bytes(4), bytes(sent.clear)[4:], b"", 2 * bytes(sent.clear)):
        broken = crew.resigned(asked, sent, clear=clear)
        with pytest.raises(ProtocolError):
            collecting.add(broken.encode(asked), sender=1)
    padded = bytes(sent.clear)[:-1] + bytes([sent.clear[-1] | 0x80])
    with pytest.raises(MalformedMessage, match="padding is not zero"):
        collecting.add(crew.resigned(asked, sent, clear=padded).encode(asked), sender=1)
    collecting.add(sent.encode(asked), sender=1)


def test_a_report_has_a_clear_part_where_its_session_does() -> None:
    crew = Federation(3)
    for asked, clear in ((crew.session(), steps(CLEAR, 1)), (session(crew), None)):
        with pytest.raises(ParameterError, match="a clear part without a session for it"):
            client.report(
                crew.enrolled[1],
                crew.identities[1],
                asked,
                crew.agreed(asked, 1),
                crew.encoded(asked, 1),
                METRICS,
                bytes(32),
                bytes(64),
                clear=clear,
            )


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"purpose": Purpose.EVALUATE}, "a clear part is for training"),
        ({"codec": Codec(0, 3, 2, bits=20)}, "leaves something to hide"),
        ({"clear": Clear(((3, 14),), 1.0, 1.0), "codec": Codec(2, 3, 2, bits=20)}, "a range to 14"),
    ],
)
def test_a_session_for_it_has_to_make_sense(changed: dict[str, Any], says: str) -> None:
    crew = Federation(3)
    with pytest.raises(ParameterError, match=says):
        replace(session(crew), **changed)
