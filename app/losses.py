"""Rounds of a run that came to nothing: how many, and why, by its events."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tacit.server.entries import one_line


@dataclass(frozen=True, slots=True)
class Losses:
    """Of `rounds` that are over, `lost` left the model as it was. `why` is of the last of them, and
    may have a device's own words; empty where there is none."""

    rounds: int
    lost: int
    why: str

    @property
    def is_all(self) -> bool:
        """Whether the run did not learn anything in all its rounds so far."""
        return 0 < self.rounds == self.lost


def losses(events: Iterable[Mapping[str, Any]]) -> Losses:
    """By a run's events, as its folder has them. A round with groups has one sum for each: it is
    lost if none was opened. A round that was gone on with counts once."""
    ended, opened, failed, refused = set[int](), set[int](), dict[int, str](), Counter[str]()
    for event in events:
        number, is_train = event.get("round", 0), event.get("purpose") == "train"
        match event["event"]:
            case "RoundStarted":
                refused.clear()
            case "RoundFinished":
                ended.add(number)
            case "SumOpened" if is_train:
                opened.add(number)
            case "SumFailed" if is_train:
                failed[number] = _why(str(event.get("reason", "")), refused)
            case "LeftOut":
                refused[str(event.get("reason", ""))] += 1
    lost = ended & failed.keys() - opened
    return Losses(len(ended), len(lost), failed[max(lost)] if lost else "")


def _why(reason: str, refused: Counter[str]) -> str:
    """A sum had too few, and what most of the others said."""
    most = [f"{times} times: {said}" for said, times in refused.most_common(1) if said]
    return "; ".join(map(one_line, [reason, *most]))
