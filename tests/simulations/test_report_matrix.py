"""A matrix as a page: it stands alone, shows every trial, and its colours and words follow the
numbers."""

import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest

from tacit.crypto.errors import ParameterError
from tacit.simulations.measure import Measure
from tacit.simulations.pooling import by_cell
from tacit.simulations.report import render_matrix
from tacit.simulations.report.curves import EPSILON, leak_figure
from tacit.simulations.report.data import LeakCurve, LeakPoint
from tacit.simulations.report.grid import grid_of
from tacit.simulations.report.heatmap import STEPS
from tacit.simulations.report.matrix import headline
from tacit.simulations.report.pictures import Pair
from tacit.simulations.report.words import figure, listed
from tacit.simulations.score import Interval
from tacit.simulations.trial import Cell, Trial
from tests.simulations.test_report import Page

SEEDS = range(3)
SIDE = 12
GALLERY = 200
HONEST, MALICIOUS = "honest but curious", "malicious"
REFUSED = "device 2: the model holds a layer that the owner did not allow"
# What a fake attack gets: of one device, and how fast that falls with the devices in a sum.
ATTACKS = {
    "inverting gradients": (0.82, 1.3, HONEST, "labels, batch size"),
    "linear read-out": (0.98, 0.25, HONEST, ""),
    "label counts": (0.96, 0.35, HONEST, "batch size"),
    "imprint": (1.0, 0.02, MALICIOUS, "public data"),
}
MAIN = {name: "labels right" if name == "label counts" else "SSIM" for name in ATTACKS}
SIZES = (1, 2, 4, 16, 64)
BUDGETS = (0.5, 2.0, 8.0, 32.0)


def pictures(rng: np.random.Generator, count: int) -> np.ndarray:
    """Soft blobs: few low frequencies, so that the eye can tell them apart."""
    waves = rng.normal(size=(count, 3, 4, 4))
    across = np.cos(np.pi * np.outer(np.arange(4), (np.arange(SIDE) + 0.5) / SIDE))
    soft = np.einsum("ncij,ih,jw->nchw", waves, across, across)
    return 1 / (1 + np.exp(-soft))


def trial_of(cell: Cell, seed: int, kept: float, *, epsilon: float | None = None) -> Trial:
    """A trial that gets the share `kept` of the way from the floor to all there is."""
    rng = np.random.default_rng([seed, cell.devices, len(cell.attack), len(cell.defence)])
    _, _, conduct, granted = ATTACKS[cell.attack]
    inputs = cell.devices * cell.examples
    if cell.attack == "label counts":
        right = Measure("labels right", (0.4 + 0.6 * kept,), (0.4,))
        return Trial(cell, seed, conduct, granted, (right,), 0.01, "pairwise")
    floor = rng.uniform(0.08, 0.16, inputs)
    got = (floor + (1 - floor) * kept + rng.normal(0, 0.04, inputs)).clip(-1, 1)
    hits = int(rng.binomial(inputs, min(1.0, kept + 1 / GALLERY)))
    truth = pictures(rng, min(inputs, 6))
    noise = rng.random(truth.shape)
    return Trial(
        cell,
        seed,
        conduct,
        granted,
        (
            Measure("SSIM", tuple(got), tuple(floor)),
            Measure("PSNR", tuple(10 + 40 * (got - floor)), tuple(np.full(inputs, 10.0))),
            Measure("recovered", (float(np.mean(got > 0.9)),), (0.0,)),
            Measure("identified", (hits / inputs,), (1 / GALLERY,)),
        ),
        0.4 * inputs,
        "plain" if cell.devices == 1 else "pairwise",
        epsilon=epsilon,
        bound=None if epsilon is None else epsilon / (epsilon + 5),
        hits=hits,
        of=inputs,
        pictures=(truth, kept * truth + (1 - kept) * (0.7 * truth.mean(axis=0) + 0.3 * noise)),
    )


def fake_trials() -> Iterator[Trial]:
    for attack, (most, fall, _, _) in ATTACKS.items():
        for seed in SEEDS:
            for devices in SIZES:
                cell = Cell(attack, "none" if devices == 1 else "secure sum", "mlp", "blobs")
                kept = most * devices**-fall
                kept = 0.0 if kept < 0.05 else kept
                yield trial_of(replace(cell, devices=devices), seed, kept)
                if devices in (4, 16) and attack != "label counts":
                    checked = replace(cell, defence="model check", devices=devices)
                    one = trial_of(checked, seed, kept)
                    stopped = REFUSED if attack == "imprint" else ""
                    yield replace(one, stopped=stopped, pictures=None if stopped else one.pictures)
            for epsilon in BUDGETS if attack in ("imprint", "inverting gradients") else ():
                cell = Cell(attack, f"central dp {epsilon:g}", "mlp", "blobs", devices=16)
                noised = most * epsilon / (epsilon + 40)
                yield trial_of(cell, seed, noised, epsilon=epsilon)


TRIALS = tuple(fake_trials())
TEXT = render_matrix("Blobs", TRIALS)


PAGE = Page(TEXT)
SHEET = "tacit.simulations.report"


def heat(text: str) -> list[list[str]]:
    """The rows of the heat map that are an attack's: its name, then its cells as they stand."""
    body = text.split('<table class="heat">')[1].split("</table>")[0]
    rows = [row for row in re.split(r"<tr\b", body) if 'scope="row"' in row]
    return [re.findall(r"<t[hd][^>]*>.*?</t[hd]>", row) for row in rows]


def plain(html: str) -> str:
    return Page(f"<p>{html}</p>").text


def simple(name: str = "a", defence: str = "d", seed: int = 0, **change: object) -> Trial:
    """A trial of one input that gets half of what there is."""
    cell = Cell(name, defence, "m", "x", **{k: change.pop(k) for k in ("devices",) if k in change})
    got = (Measure("SSIM", (0.6, 0.55), (0.2, 0.1)),)
    base = Trial(cell, seed, HONEST, "labels", got, 1.0, "pairwise")
    return replace(base, **change)


class TestPage:
    def test_stands_alone(self) -> None:
        assert TEXT.startswith("<!doctype html>")
        for outside in ("http", "url(", "@import", "<script", "<link", "nan%", " nan"):
            assert outside not in TEXT
        assert all((i["src"] or "").startswith("data:image/png;base64,") for i in PAGE.all("img"))
        assert all((a["href"] or "").startswith("#") for a in PAGE.all("a"))
        ids = {attrs["id"] for _, attrs in PAGE.tags if "id" in attrs}
        assert {(a["href"] or "")[1:] for a in PAGE.all("a")} <= ids

    def test_the_same_trials_in_any_order_give_the_same_bytes(self) -> None:
        order = np.random.default_rng(1).permutation(len(TRIALS))
        assert render_matrix("Blobs", [TRIALS[at] for at in order]) == TEXT

    def test_no_trials_is_no_page(self) -> None:
        with pytest.raises(ParameterError, match="no trials"):
            render_matrix("Blobs", [])

    def test_pictures_and_drawings_have_words(self) -> None:
        assert all(image["alt"] for image in PAGE.all("img"))
        assert all(s.get("aria-label") or s.get("aria-hidden") for s in PAGE.all("svg"))

    def test_wide_tables_scroll_in_regions_of_their_own(self) -> None:
        regions = [tag for tag in PAGE.all("div") if tag.get("class") == "scroll"]
        assert [tag["aria-label"] for tag in regions] == ["Heat map", "Table of cells"]
        assert all(tag["tabindex"] == "0" and tag["role"] == "region" for tag in regions)

    def test_every_trial_is_in_the_table(self) -> None:
        bodies = TEXT.split('<table class="cells">')[1].split("<tbody>")[1:]
        cells = by_cell(TRIALS)
        assert len(bodies) == len(cells)
        told = [plain(body.split("</table>")[0].replace("</tbody>", "")) for body in bodies]
        for tried in cells:
            cell = tried.cell
            (row,) = [
                each
                for each in told
                if each.startswith(cell.attack) and f"{cell.defence} {cell.threat} " in each
            ]
            for words in (
                f"{cell.model}, {cell.data}",
                "seeds 0, 1, 2",
                tried.first.conduct,
                f"granted: {tried.first.granted or 'nothing'}",
            ):
                assert words in row
            if tried.stopped:
                assert f"Stopped: {REFUSED}" in row
            for each in () if tried.stopped else tried.measures:
                assert f"{each.name}" in row
                assert figure(each.name, each.floor) in row
                assert figure(each.name, each.score.mean) in row

    def test_says_how_to_read_it_and_what_it_does_not_show(self) -> None:
        for words in ("How to read this", "At the floor", "Bound", "What this does not show"):
            assert words in PAGE.text

    def test_everything_from_outside_is_escaped(self) -> None:
        evil = "<script>alert('x\"')</script>&"
        cell = Cell(evil, evil, evil, evil)
        of_evil = [Measure(evil, (0.9, 0.8), (0.1, 0.1)), Measure("SSIM", (0.9,), (0.1,))]
        bad = [
            replace(
                trial,
                cell=replace(cell, devices=devices),
                conduct=evil,
                granted=evil,
                protocol=evil,
                measures=tuple(of_evil),
                stopped=stopped,
                epsilon=float(devices),
                bound=0.01,
                hits=100,
                of=100,
            )
            for trial in TRIALS[:1]
            for devices, stopped in ((1, ""), (2, ""), (3, evil))
        ]
        plain_one = replace(TRIALS[0], cell=replace(cell, data="y", model="z"))
        text = render_matrix(evil, [*bad, plain_one])
        page = Page(text)
        assert not page.all("script")
        assert "<script" not in text
        assert page.text.count("alert(") >= 20


class TestHeatMap:
    def test_rows_columns_and_what_was_not_tried(self) -> None:
        rows = heat(TEXT)
        names = [plain(row[0]) for row in rows]
        # Honest servers first, by name, with the measure under it.
        assert names == [
            "inverting gradients SSIM",
            "label counts labels right",
            "linear read-out SSIM",
            "imprint SSIM",
        ]
        columns = len(grid_of(by_cell(TRIALS)).columns)
        assert all(len(row) == 1 + columns for row in rows)
        assert [plain(cell) for cell in rows[1]].count("\N{EN DASH}") == 2 + len(BUDGETS)
        groups = re.findall(r'scope="colgroup"[^>]*><span>([^<]*)<', TEXT)
        assert groups == ["none", "model check", "secure sum"] + [
            f"central dp {epsilon:g}" for epsilon in BUDGETS
        ]

    def test_a_number_is_how_far_from_the_floor_to_all_there_is(self) -> None:
        (row,) = heat(render_matrix("t", [simple()]))
        # (0.575 - 0.15) / (1 - 0.15)
        assert row[1] == '<td class="h3"><b>50%</b></td>'

    def test_the_floor_and_below_it(self) -> None:
        low = simple(measures=(Measure("SSIM", (0.1, 0.12), (0.2, 0.2)),))
        (row,) = heat(render_matrix("t", [low]))
        assert row[1] == '<td class="h0"><b>&lt;&nbsp;0%</b><small>at the floor</small></td>'

    def test_a_poor_picture_that_says_whose_it_is_is_not_called_the_floor(self) -> None:
        poor = Measure("SSIM", (0.1, 0.1), (0.2, 0.2))
        known = simple(measures=(poor, Measure("identified", (1.0,), (0.01,))), hits=2, of=2)
        (row,) = heat(render_matrix("t", [known]))
        assert row[1] == '<td class="h1"><b>&lt;&nbsp;0%</b><small>identified 100%</small></td>'

    def test_what_was_stopped_names_its_reason_and_has_no_number(self) -> None:
        some = [simple(stopped="because"), simple("b"), simple("b", seed=1, stopped="because")]
        text = render_matrix("t", some)
        (first, second) = heat(text)
        link = '<a href="#stopped-1">1</a>'
        assert first[1] == f'<td class="stopped">stopped<sup>{link}</sup></td>'
        half = f"<b>50%</b><small>1 of 2 stopped<sup>{link}</sup></small>"
        assert second[1] == f'<td class="h3">{half}</td>'
        assert '<li id="stopped-1">because</li>' in text

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_on_every_colour_can_be_read(self, scheme: str) -> None:
        """At least 4.5 : 1, WCAG 2.1, section 1.4.3."""
        sheet = files(SHEET).joinpath("style.css").read_text("utf-8")
        colours = dict(re.findall(r"--([\w-]+): (#\w{6});", sheet.split("@media")[0]))
        if scheme == "dark":
            colours |= dict(re.findall(r"--([\w-]+): (#\w{6});", sheet.split("@media")[1]))
        pairs = [("ink", f"heat{step}") for step in range(1, STEPS)]
        pairs += [("on-heat5", "heat5"), ("calm", "calm-tint"), ("ink", "warm-tint")]
        for over, under in (*pairs, ("soft", "paper"), ("warm", "paper")):
            light, dark = sorted((luminance(colours[over]), luminance(colours[under])))[::-1]
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (over, under)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


class TestHeadline:
    def test_of_the_whole_matrix(self) -> None:
        words = headline(grid_of(by_cell(TRIALS)))
        sums = [tried for tried in by_cell(TRIALS) if tried.summed and not tried.stopped]
        best = max(sums, key=lambda tried: tried.main.relative)
        assert best.cell.attack == "imprint"
        assert words.startswith(
            f"Imprint got most out of a secure sum: SSIM {best.main.score.mean:.2f} from 2 devices"
        )
        assert "Of 4 attacks on a sum of 64 devices, 1 got nothing." in words
        assert words.endswith("Model check stopped imprint.")

    def test_nothing_came_out(self) -> None:
        blind = simple(devices=4, measures=(Measure("SSIM", (0.1, 0.2), (0.2, 0.2)),))
        assert headline(grid_of(by_cell([blind]))) == (
            "No attack got more out of a secure sum than guessing blindly does. "
            "Of 1 attack on a sum of 4 devices, 1 got nothing."
        )

    def test_all_was_stopped(self) -> None:
        words = headline(grid_of(by_cell([simple(devices=4, stopped="no")])))
        assert words == "Every attack on a secure sum was stopped. D stopped a."

    def test_without_sums(self) -> None:
        words = headline(grid_of(by_cell([simple()])))
        assert words == (
            "A got most out of what the server saw: SSIM 0.57 from 1 device, where guessing "
            "blindly gives 0.15."
        )

    def test_a_broken_bound_is_loud(self) -> None:
        dp: dict[str, object] = {"epsilon": 1.0, "bound": 0.1, "hits": 9, "of": 10}
        private = [simple(defence="dp", seed=seed, **dp) for seed in range(9)]
        assert (
            "A under dp identified more than the bound allows."
            in Page(render_matrix("t", private)).text
        )
        assert 'class="alarm"' not in render_matrix("t", [replace(t, hits=1) for t in private])
        assert 'class="alarm"' not in TEXT


class TestCurves:
    def test_points_intervals_and_floors_are_those_of_the_cells(self) -> None:
        cells = by_cell(TRIALS)
        for tried in cells:
            if tried.epsilon is None and not tried.stopped:
                main = tried.main
                shown = f"{figure(main.name, main.score.mean)} at {tried.cell.devices}"
                beside = f"(floor {figure(main.name, main.floor)})"
                assert any(
                    f"{shown} {beside}" in (svg.get("aria-label") or "") for svg in PAGE.all("svg")
                )

    def test_one_figure_an_attack_and_one_for_each_budget_curve(self) -> None:
        captions = re.findall(r"<figcaption>([^<]+)</figcaption><svg", TEXT)
        by_size = [f"{a.capitalize()}: {m} by size of the sum" for a, m in MAIN.items()]
        by_budget = [
            f"{a} under central dp, 16 devices" for a in ("Imprint", "Inverting gradients")
        ]
        assert sorted(captions) == sorted(by_size + by_budget)

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("distributed privacy.epsilon={}", "distributed"),
            ("central privacy.epsilon={} privacy.clip=0.1", "central privacy.clip=0.1"),
            ("central privacy.clip={}", None),
            ("dp-{}", "dp"),
            ("dp_eps{}.5", "dp"),
            ("top 10, dp (epsilon {})", "top 10, dp"),
            ("{}", None),
            ("dp {} strong", None),
        ],
    )
    def test_one_defence_at_several_strengths_is_one_curve(
        self, name: str, kind: str | None
    ) -> None:
        cells = [
            simple(defence=name.format(e), epsilon=float(e), bound=0.5, hits=1, of=10)
            for e in (2, 8)
        ]
        text = Page(render_matrix("t", cells)).text
        assert (f"A under {kind}, 1 device" in text) is (kind is not None)

    def test_the_bound_is_drawn_against_epsilon(self) -> None:
        drawn = [s.get("aria-label") or "" for s in PAGE.all("svg")]
        (one,) = [words for words in drawn if "by epsilon" in words and "2.1% at 0.5" in words]
        assert all(f"bound {e / (e + 5):.0%}" in one for e in BUDGETS[1:])
        assert TEXT.count('class="line bound"') == 2 * 2  # in the drawing and in the legend

    def test_a_defence_looks_the_same_in_every_figure(self) -> None:
        keys = re.findall(r'class="line (\w+)" d="M0 4H24"/></svg>([^<]+)<', TEXT)
        styles = {name: {style for style, other in keys if other == name} for _, name in keys}
        assert all(len(each) == 1 for each in styles.values())
        assert len(set.union(*(styles[n] for n in ("none", "secure sum", "model check")))) == 3

    def test_labels_that_would_run_into_each_other_are_left_out(self) -> None:
        points = tuple(
            LeakPoint(at, Interval(0.1, 0.2, 0.3), 0.01, 0.4) for at in (1.0, 7.9, 8.0, 8.1, 6400.0)
        )
        figure_ = leak_figure((LeakCurve("identified", points, "identified"),), "c", EPSILON)
        assert ">7.9<" in figure_
        assert "at 8.1 " in figure_
        assert ">8<" not in figure_
        assert all(f">{at:g}<" in figure_ for at in (1, 6400))

    def test_one_size_alone_is_no_curve(self) -> None:
        assert "<h2>Curves" not in render_matrix("t", [simple(devices=4)])


def test_pictures_are_the_first_of_the_first_seed_and_scored() -> None:
    cell = Cell("imprint", "secure sum", "mlp", "blobs", devices=16)
    (tried,) = [tried for tried in by_cell(TRIALS) if tried.cell == cell]
    assert tried.first.pictures is not None
    ssim = tried.first.measures[0].values
    for number, pair in enumerate(zip(*tried.first.pictures, ssim, strict=False), start=1):
        words = f"reconstruction {number} by imprint under secure sum, {cell.threat}, "
        shown = [i for i in PAGE.all("img") if (i["alt"] or "").startswith(words)]
        assert len(shown) == (number <= 4)
        assert all((i["alt"] or "").endswith(Pair(*pair).words) for i in shown)


def test_what_is_no_picture_is_left_out() -> None:
    rows = np.zeros((2, 30))
    assert not Page(render_matrix("t", [simple(pictures=(rows, rows))])).all("img")


def test_trainings_are_told_where_they_differ() -> None:
    one = simple(devices=2)
    five = replace(one, cell=replace(one.cell, steps=5, rate=0.2))
    slow = replace(one, cell=replace(one.cell, rate=0.01))
    heads = [row[0] for row in heat(render_matrix("t", [one, five, slow]))]
    told = [" ".join(re.sub("<[^>]+>", " ", head).split()) for head in heads]
    assert told == ["a 1 step, rate 0.01 SSIM", "a 1 step, rate 0.1 SSIM", "a 5 steps at 0.2 SSIM"]


def test_rows_stand_with_those_that_were_tried_alike() -> None:
    """Two tables: one for what was tried on both sizes, or one of them, and one for the other."""
    both = [simple("a", devices=n) for n in (2, 4)]
    trials = [*both, simple("b", devices=4), simple("c", defence="other", devices=8)]
    sheets = grid_of(by_cell(trials)).sheets()
    shown = [([r.attack for r in rows], [c.devices for c in columns]) for rows, columns in sheets]
    assert shown == [(["a", "b"], [2, 4]), (["c"], [8])]


def test_names_with_numbers_are_in_the_order_of_the_numbers() -> None:
    trials = [simple(defence=name) for name in ("top-10", "top-9", "None", "dp 10", "dp 2")]
    private = [replace(t, epsilon=1.0) if "dp" in t.cell.defence else t for t in trials]
    names = [column.defence for column in grid_of(by_cell(private)).columns]
    assert names == ["None", "top-9", "top-10", "dp 2", "dp 10"]


def test_lists_in_words() -> None:
    words = [listed(list("abcde")[:n]) for n in range(1, 6)]
    assert words == ["a", "a and b", "a, b and c", "a, b and 2 others", "a, b and 3 others"]
