"""Duels that are nothing but their lines, found in worker processes by their names."""

import os
import time
from dataclasses import dataclass
from math import nan

from tacit.crypto.errors import ParameterError
from tacit.simulations.duels.base import Duel, Figure, Fought, Line, Role, Scale, Tell


@dataclass(frozen=True)
class Fake:
    name: str
    attack: str = "asking"
    defence: str = "saying nothing"

    def fight(self, scale: Scale, tell: Tell) -> Fought:
        tell(0.5)
        match self.name:
            case "wanting":
                raise ParameterError("no file anywhere: set TACIT_DATA")
            case "broken":
                raise ZeroDivisionError("by nothing")
            case "unread":
                raise FileNotFoundError("no such picture")
            case "dying":
                os._exit(3)
            case "slow":
                time.sleep(60)
        leak = 0.9 if self.name == "losing" else 0.05
        lines = (
            Line("open", "told", Figure(1.0, 0.8, 1.0, 10), Role.ATTACK, 0.9),
            Line("closed", "told", Figure(leak, 0.0, leak, 10), Role.DEFENCE, 0.1, at_most=True),
            Line("closed", "answers lost", Figure(1.0), Role.PRICE),
            Line("closed", "never measured", Figure(nan)),
        )
        return Fought(self.name, self.attack, self.defence, scale.data, lines, 0.0, ("much",))


def find(name: str) -> Duel:
    return Fake(name)
