"""The page stands alone, is well formed, says what the numbers say, and trusts no text."""

import re
import struct
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from zlib import crc32, decompress

import numpy as np
import pytest

from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.base import Knows
from tacit.simulations.evaluate import Outcome
from tacit.simulations.report import (
    Curve,
    Dropped,
    LeakCurve,
    LeakPoint,
    ReportData,
    RoundRow,
    Summary,
    headline,
    render,
)
from tacit.simulations.report.png import data_uri
from tacit.simulations.report.svg import ticks
from tacit.simulations.score import Interval, floor_of, score

VOID = {"br", "img", "meta"}


class Page(HTMLParser):
    """Reads a page and keeps what the tests ask for; raises AssertionError if tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert tag not in VOID
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


RNG = np.random.default_rng(0)
PUBLIC = RNG.random((60, 1, 9, 9))


def outcome(
    clients: int, noise: float, *, protocol: str | None = None, attack: str = "inverting gradients"
) -> Outcome:
    """An attack whose guess is the truth with this share of the public mean: 1 is blind."""
    truth = PUBLIC[:clients]
    guess = (1 - noise) * truth + noise * PUBLIC[30:].mean(axis=0)
    found, matched = score(guess, truth, PUBLIC)
    return Outcome(
        attack=attack,
        protocol=protocol or ("plain" if clients == 1 else "pairwise"),
        clients=clients,
        round=1,
        knows=Knows.LABELS,
        guess=matched,
        truth=truth,
        score=found,
        floor=floor_of(truth, PUBLIC, PUBLIC[30:]),
        seconds=1.5,
    )


FULL = ReportData(
    title="Ten devices",
    summary=Summary(
        devices=10,
        rounds=20,
        protocol="pairwise",
        sums=20,
        sums_checked=20,
        sums_exact=20,
        dropped=(Dropped(3, 5, "report"), Dropped(4, 6, "report"), Dropped(7, 5, "reveal")),
        seconds=41.26,
        facts=(("Model", "softmax"),),
    ),
    accuracy=(
        Curve("secure", ((1, 0.4), (2, 0.8), (3, 0.934))),
        Curve("plain", ((1, 0.4), (2, 0.81), (3, 0.936))),
    ),
    rounds=(
        RoundRow(1, 10, 10, accuracy=0.4, loss=1.5, seconds=0.25),
        RoundRow(2, 10, 8, ("device 3: silent at report", "device 7: silent"), 0.8, 0.7, 0.25),
        RoundRow(3, 10, 10),
    ),
    outcomes=(outcome(1, 0.02), outcome(10, 1.0)),
    leakage=(
        LeakCurve(
            "inverting gradients",
            (
                LeakPoint(1, Interval(0.9, 0.93, 0.95), 0.4),
                LeakPoint(10, Interval(0.38, 0.41, 0.44), 0.4),
            ),
        ),
    ),
    config={"run": {"seed": 1, "rounds": 20}, "name": "demo"},
)
EMPTY = ReportData("Nothing yet", Summary(0, 0, "none", 0), limits=())


@pytest.mark.parametrize(
    "run",
    [
        FULL,
        EMPTY,
        replace(FULL, outcomes=()),
        replace(FULL, accuracy=(), rounds=(), leakage=()),
        replace(FULL, accuracy=(Curve("secure", ((1, 0.5),)), Curve("empty", ()))),
        replace(FULL, leakage=(LeakCurve("a", (LeakPoint(4, Interval(1, 1, 1), 1),)),)),
        replace(FULL, leakage=(LeakCurve("a", ()),)),
    ],
)
def test_every_page_is_well_formed_and_stands_alone(run: ReportData) -> None:
    text = render(run)
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert not page.all("script")
    assert not page.all("link")
    assert all((img["src"] or "").startswith("data:image/png;base64,") for img in page.all("img"))
    assert "nan" not in text.lower().replace("running", "")
    assert [a for a in page.all("svg") if not (a.get("aria-label") or a.get("aria-hidden"))] == []


def test_the_same_data_gives_the_same_page() -> None:
    assert render(FULL) == render(FULL)


def test_says_what_the_numbers_say() -> None:
    text = Page(render(FULL)).text
    for words in (
        "yes, equal on the codec's grid in 20 of 20",
        "3: 2 at report, 1 at reveal",
        "41.3 s",
        "secure ends at 93.4%; plain ends at 93.6%",
        "8 of 10",
        "Left out: device 3: silent at report; device 7: silent",
        "Granted beyond what the server saw: labels",
        "run.seed 1",
        "Identified among 60",
        "What this does not promise",
    ):
        assert words in text


def test_an_inexact_sum_is_not_called_exact() -> None:
    run = replace(FULL, summary=replace(FULL.summary, sums_exact=19))
    assert "no, equal on the codec's grid in 19 of 20" in Page(render(run)).text
    with pytest.raises(ParameterError):
        replace(FULL.summary, sums_exact=21)


def test_empty_parts_are_left_out() -> None:
    text = Page(render(EMPTY)).text
    for title in ("Training", "Privacy", "Configuration", "promise", "Sum exact", "Time"):
        assert title not in text


def test_both_pictures_are_there_and_named() -> None:
    images = Page(render(FULL)).all("img")
    assert len(images) == 2 * (1 + 10)
    for one in FULL.outcomes:
        for picture in (*one.truth, *one.guess):
            assert any(image["src"] == data_uri(picture) for image in images)
    alts = [image["alt"] or "" for image in images]
    assert all(alts)
    assert any(re.search(r"reconstruction 10 by .* the secure sum of 10 devices", a) for a in alts)


def test_everything_from_outside_is_escaped() -> None:
    evil = "<script>alert('x\"')</script>&"
    bad = replace(
        FULL,
        title=evil,
        summary=replace(
            FULL.summary, protocol=evil, facts=((evil, evil),), dropped=(Dropped(1, 1, evil),)
        ),
        accuracy=(Curve(evil, ((1, 0.5), (2, 0.6))),),
        rounds=(RoundRow(1, 2, 1, (evil,)),),
        outcomes=(outcome(1, 0.1, attack=evil), outcome(3, 1, protocol=evil, attack=evil)),
        leakage=(LeakCurve(evil, FULL.leakage[0].points, evil),),
        limits=(evil,),
        config={evil: evil, "nested": {evil: [evil]}},
    )
    text = render(bad)
    page = Page(text)
    assert "<script" not in text
    assert not page.all("script")
    assert page.text.count("alert(") >= 10  # shown, as text


class TestHeadline:
    def test_at_the_floor(self) -> None:
        words = headline(FULL)
        assert words.startswith("The server opened 20 sums and no single update; the same attack ")
        alone, summed = FULL.outcomes
        assert f"SSIM {alone.score.mean_ssim:.2f} against one device in the clear" in words
        assert f"no better than guessing blindly ({summed.floor.mean_ssim:.2f})" in words

    def test_a_leak_is_not_called_the_floor(self) -> None:
        words = headline(replace(FULL, outcomes=(outcome(1, 0.02), outcome(10, 0.1))))
        assert "no better" not in words
        assert "where guessing blindly gives" in words

    def test_the_attack_that_gets_most_from_the_sum_is_the_one_told(self) -> None:
        strong = (outcome(1, 0.0, attack="strong"), outcome(10, 0.1, attack="strong"))
        words = headline(replace(FULL, outcomes=(*FULL.outcomes, *strong)))
        assert f"{strong[1].score.mean_ssim:.2f} against the secure sum" in words

    @pytest.mark.parametrize(
        ("sums", "singles", "words"),
        [
            (1, 0, "The server opened 1 sum and no single update."),
            (0, 40, "The server read 40 single updates."),
            (2, 1, "The server opened 2 sums and read 1 single update in the clear."),
        ],
    )
    def test_without_attacks(self, sums: int, singles: int, words: str) -> None:
        summary = Summary(10, 20, "any", sums, single_updates=singles)
        assert headline(ReportData("t", summary)) == words


def test_unlike_grants_are_not_pooled() -> None:
    other = replace(outcome(1, 0.02), knows=Knows.NOTHING)
    text = Page(render(replace(FULL, outcomes=(outcome(1, 0.02), outcome(1, 0.02), other)))).text
    assert text.count("One device in the clear") == 2
    assert "2 inputs, 3.0 s" in text
    assert "Granted beyond what the server saw: nothing" in text


def test_tables_without_pictures_have_scores_only() -> None:
    rows = RNG.random((6, 30))
    found, matched = score(rows[:2], rows[:2], rows)
    floor = floor_of(rows[:2], rows, rows)
    one = replace(outcome(1, 0), truth=rows[:2], guess=matched, score=found, floor=floor)
    page = Page(render(replace(FULL, outcomes=(one,))))
    assert not page.all("img")
    assert "PSNR in dB" in page.text
    assert "SSIM of" not in page.text


class TestPng:
    @pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (3, 5, 7)])
    def test_holds_the_pixels(self, shape: tuple[int, ...]) -> None:
        image = np.random.default_rng(1).random(shape)
        raw = b64decode(data_uri(image).removeprefix("data:image/png;base64,"))
        assert raw.startswith(b"\x89PNG\r\n\x1a\n")
        chunks = _chunks(raw[8:])
        width, height, depth, kind = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
        channels = {0: 1, 2: 3}[kind]
        assert (width, height, depth, channels) == (7, 5, 8, 3 if shape[0] == 3 else 1)
        lines = np.frombuffer(decompress(chunks[b"IDAT"]), np.uint8).reshape(5, -1)
        assert not lines[:, 0].any()
        pixels = lines[:, 1:].reshape(5, 7, channels).transpose(2, 0, 1)
        assert np.abs(pixels / 255 - image.reshape(-1, 5, 7)).max() <= 0.5 / 255 + 1e-12

    @pytest.mark.parametrize("shape", [(4,), (2, 5, 5), (1, 1, 5, 5)])
    def test_refuses_what_is_no_image(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ParameterError):
            data_uri(np.zeros(shape))


def _chunks(raw: bytes) -> Mapping[bytes, bytes]:
    found = {}
    while raw:
        (size,) = struct.unpack(">I", raw[:4])
        name, content, check = raw[4:8], raw[8 : 8 + size], raw[8 + size : 12 + size]
        assert struct.unpack(">I", check) == (crc32(name + content),)
        found[name], raw = content, raw[12 + size :]
    return found


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.4, 0.934), (1, 20), (1, 1), (0.93, 0.931), (-3, 1e4), (1, 2)]
)
def test_ticks_enclose_the_data_and_read_differently(low: float, high: float) -> None:
    for percent in (False, True):
        found = ticks(low, high, percent=percent)
        assert found[0][0] <= low + 1e-9
        assert found[-1][0] >= high - 1e-9
        assert 2 <= len(found) <= 12
        labels = [label for _, label in found]
        assert len(set(labels)) == len(labels)
        for at, label in found:
            shown = float(label.rstrip("%")) / (100 if percent else 1)
            assert shown == pytest.approx(at, abs=1e-9)
    assert all("." not in label for _, label in ticks(1, 2, least=1))
