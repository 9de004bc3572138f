"""A matrix as a page: it stands alone, shows every trial, and its colours and words follow the
numbers."""

from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

from tacit.simulations.measure import Measure
from tacit.simulations.report import render_matrix
from tacit.simulations.trial import Cell, Trial

VOID = {"br", "img", "meta"}
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


class Page(HTMLParser):
    """Reads a page; AssertionError if its tags do not match."""

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
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())
