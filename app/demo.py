"""What `make demo` shows: a federation of ten, and what two attacks get out of a round of another.

There ten devices hold one portrait each and take one step of training: the worst case for them.
"""

from dataclasses import dataclass

from tacit.app.config import Settings
from tacit.simulations.trial import Cell

DEMO = Settings().changed(
    [
        # Real digits, unevenly spread: some devices hardly know some of the digits.
        'data.name="digits"',
        'data.partition="dirichlet:0.5"',
        "data.devices=10",
        'model.name="cnn"',
        "train.epochs=8",
        "train.batch_size=16",
        "train.learning_rate=0.05",
        "train.momentum=0.9",
        "run.rounds=10",
        "strategy.fraction_evaluate=0.5",
        "secure.max_weight=1000.0",
        # Two devices fall silent in mid-round, at different stages.
        'faults=["drop report 3 @4", "drop reveal 7 @4", "drop report 3,7 @8 after"]',
    ]
)
QUICK_DEMO = DEMO.changed(["run.rounds=3", "train.epochs=2"])

# A coarse grid blurs what a read-out divides by: no defence, yet it would look like one.
_SECURE = "secure secure.precision=28"
_READOUT = "linear-readout"


@dataclass(frozen=True, slots=True)
class Exposure:
    """How hard the attacks try, and at whom.

    devices    how many devices are in the secure sum
    victims    how many devices are attacked one by one in the clear
    steps, restarts   of the optimisation attack
    curve      numbers of devices for the curve of leakage against the size of the sum
    """

    devices: int = 10
    victims: int = 3
    steps: int = 300
    restarts: int = 2
    curve: tuple[int, ...] = (4, 8, 16, 32)

    def trials(self) -> list[tuple[Cell, int]]:
        """Both attacks, as hard on the sum as on single devices: cells, with their seeds."""
        inverting = f"inverting-gradients steps={self.steps} restarts={self.restarts}"
        return [
            trial
            for attack, model in ((inverting, "smooth-cnn"), (_READOUT, "mlp"))
            for trial in (
                *((Cell(attack, "none", model, "portraits"), v) for v in range(self.victims)),
                (Cell(attack, _SECURE, model, "portraits", self.devices), 0),
            )
        ]

    def growing(self) -> list[tuple[Cell, int]]:
        """Sums of growing size under the attack that is exact on one device."""
        return [(Cell(_READOUT, _SECURE, "mlp", "portraits", n), 0) for n in self.curve]


EXPOSURE = Exposure()
QUICK_EXPOSURE = Exposure(victims=1, steps=200, restarts=1, curve=(4, 16))
