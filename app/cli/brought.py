"""Files that people bring from one machine to another, and whether they are as they were sent."""

import sys
from pathlib import Path

import typer

from tacit.app.cli.screen import Screen, Voice
from tacit.crypto.answers import MAX_ANSWER, Answer, decode_answer
from tacit.crypto.enrolment import MAX_REQUEST, Request, decode_request, is_fingerprint
from tacit.crypto.errors import Damaged, ParameterError


def compare(screen: Screen, what: str, ours: str, heard: list[str], yes: bool) -> None:
    """Raises ParameterError unless somebody compared the fingerprint, or says there is no need."""
    screen.say(f"fingerprint of {what}: {ours}")
    if heard:
        if not any(is_fingerprint(each, ours) for each in heard):
            raise ParameterError(
                f"nothing was done: the fingerprint of {what} is {ours}, and not what was heard. "
                "Either it was misheard, or somebody changed the file on its way"
            )
        return
    if yes:
        return
    if screen.voice is not Voice.NORMAL or not sys.stdin.isatty():
        raise ParameterError(
            f"nothing was done: compare the fingerprint of {what}, {ours}, and say what you heard "
            "with --fingerprint, or --yes"
        )
    if not typer.confirm("Is that what the other side reads out?"):
        raise ParameterError("nothing was done: the fingerprints differ")


def read_request(path: Path) -> Request:
    """Raises ParameterError if there is no file, Damaged as `decode_request`."""
    try:
        return decode_request(_read(path, MAX_REQUEST))
    except Damaged as bad:
        raise Damaged(f"{path}: {bad}") from None


def read_answer(path: Path) -> Answer:
    """Raises ParameterError if there is no file, Damaged as `decode_answer`."""
    try:
        return decode_answer(_read(path, MAX_ANSWER))
    except Damaged as bad:
        raise Damaged(f"{path}: {bad}") from None


def _read(path: Path, most: int) -> bytes:
    if not path.is_file():
        raise ParameterError(f"no file at {path}")
    with path.open("rb") as file:
        return file.read(most + 1)
