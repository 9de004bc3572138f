"""The model's card: what is served, and what an input of it has to be."""

from dataclasses import asdict, dataclass
from math import isfinite, prod
from typing import Any

from tacit.crypto.errors import ParameterError

FLOAT_BYTES = 4
TEXT_BYTES = 32  # of one number in JSON, with room for blanks


@dataclass(frozen=True, slots=True)
class Card:
    """A model that takes inputs of one `shape`, all numbers `low` to `high`, and tells `classes`
    apart. `digest` is SHA-256 of its file, in hexadecimal digits; `most` inputs to a request."""

    name: str
    digest: str
    shape: tuple[int, ...]
    classes: int
    low: float = 0.0
    high: float = 1.0
    most: int = 64

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1 or self.classes < 2:
            raise ParameterError(f"no model has inputs {self.shape} and {self.classes} classes")
        if not (isfinite(self.low) and isfinite(self.high) and self.low < self.high):
            raise ParameterError(f"inputs from {self.low} to {self.high}: that is no range")
        if self.most < 1:
            raise ParameterError(f"most={self.most}: a request has at least one input")

    @property
    def numbers(self) -> int:
        """In one input."""
        return prod(self.shape)

    @property
    def body_bytes(self) -> int:
        """The most that a request may have: JSON, with brackets and indents to spare."""
        return 4096 + self.most * (self.numbers * TEXT_BYTES + 64)

    def fields(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
