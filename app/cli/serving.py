"""`tacit serve`: a released model behind the gate."""

import os
from pathlib import Path

from tacit.app import released
from tacit.app.cli.screen import Screen
from tacit.app.gatehouse import GateFolder
from tacit.app.journal import LOG
from tacit.app.listening import Place, check_free, serve
from tacit.app.released import Release
from tacit.app.serving import EVENTS, baseline_of, check_sensitive, gate
from tacit.crypto.errors import ParameterError
from tacit.server.gate.allowance import DEFAULT_BUDGET
from tacit.server.gate.reveal import Detail, Reveal
from tacit.server.gate.windows import MEMORY, Windows

COUNTED_AT = "TACIT_GATE_WINDOWS"  # in the environment: an address of Redis may hold a password
SENSITIVITIES = ("normal", "high")


def run(
    screen: Screen, model: Path, folder: Path, key: Path | None, place: Place, detail: str,
    digits: int, most: int, sensitivity: str, window: str, organisation_window: str,
) -> None:  # fmt: skip
    """Serve until told to stop."""
    reveal = Reveal(_detail(detail), digits)
    if sensitivity not in SENSITIVITIES:
        raise ParameterError(f"--sensitivity is one of {', '.join(SENSITIVITIES)}")
    is_strict = sensitivity == "high"
    if is_strict and reveal.detail is not Detail.LABEL:
        raise ParameterError("a model of sensitive data tells labels alone: leave out --reveal")
    check_free(place)
    windows = Windows(window, organisation_window, os.environ.get(COUNTED_AT, MEMORY))
    release = released.opened(model, key, most)
    with GateFolder.open(folder) as there:
        if is_strict:
            check_sensitive(release, there)
        baseline = baseline_of(release, there)
        with gate(
            release.card, release.model, there, baseline, windows, reveal, is_strict=is_strict
        ) as app:
            _welcome(screen, release, there, place, reveal)
            serve(app, place)


def _welcome(
    screen: Screen, release: Release, there: GateFolder, place: Place, reveal: Reveal
) -> None:
    card = release.card
    named = "as the run's log has it" if release.is_logged else "which no log names"
    screen.say(f"{card.name}, SHA-256 {card.digest[:16]}..., {named}")
    screen.say(f"asked at  {place.url}/v1/answers, inputs {card.shape}; /openapi.json says how")
    screen.say(f"page      {place.url}/operator, for operators and whoever else has such a key")
    screen.say(f"tells     {reveal.detail}, and more to keys that were granted more")
    screen.say(
        f"budget    {DEFAULT_BUDGET} answers in the life of a key and of its organisation, until "
        "two people raise it: tacit gate budget raise"
    )
    screen.say(f"log       {there.path / LOG}, decisions in {there.path / EVENTS}")
    screen.say(f"keys      tacit gate key issue --gate {there.path} --organisation NAME")
    screen.say("Ctrl-C    answers what was asked, and stops")
    screen.fact(
        event="Serving", url=place.url, model=card.digest, detail=reveal.detail,
        logged=release.is_logged,
    )  # fmt: skip


def _detail(text: str) -> Detail:
    try:
        return Detail(text)
    except ValueError:
        raise ParameterError(f"--reveal is one of {', '.join(Detail)}") from None
