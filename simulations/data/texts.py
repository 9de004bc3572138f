"""Texts as rows of tokens, one character each, and the character that comes next."""

import numpy as np

from tacit.client.trainer import Examples
from tacit.crypto.errors import ParameterError


def alphabet(text: str) -> str:
    """The characters of a text, each once, in order: a token is the place of one in here."""
    return "".join(sorted(set(text)))


def passages(text: str, characters: str, length: int) -> Examples:
    """A text cut into pieces that do not overlap: x (n, length) tokens as float32, y the next one.

    What is left over at the end is dropped; of a text of `length` characters or less, all of it.
    Raises ParameterError for a character that is not in the alphabet `characters`.
    """
    if length < 1:
        raise ParameterError(f"length={length}, expected at least 1")
    places = {character: place for place, character in enumerate(characters)}
    unknown = set(text) - places.keys()
    if unknown:
        raise ParameterError(f"{min(unknown)!r} is not in the alphabet {characters!r}")
    tokens = np.array([places[character] for character in text], dtype=np.int64)
    kept = len(tokens) // (length + 1) * (length + 1)
    rows = tokens[:kept].reshape(-1, length + 1)
    return Examples(rows[:, :-1].astype(np.float32), rows[:, -1])
