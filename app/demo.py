"""The federation that `make demo` shows."""

from tacit.app.config import Settings

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
