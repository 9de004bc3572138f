"""A step of DP-SGD on a device against a plain step of torch, and against Opacus.

    python benchmarks/dpsgd.py [--opacus PYTHON] [--quick] [--json FILE]

A plain step is forward, backward and `torch.optim.SGD`. A private one clips the gradient of each
example, adds noise and moves. Tacit's is a step of `private_fit`, all of it: a batch that secure
bytes draw, noise of whole numbers. Opacus clips gradients that its hooks write out, by default, or
by its ghost clipping, and adds floats of torch's own generator. The networks are those of the MNIST
examples of Opacus and of PyTorch, and one that is fully connected. Figures are medians of CPU time,
one thread; each process takes turns with plain steps, and ratios are to those.

Opacus is no dependency of Tacit. Give the interpreter of an environment that has it:

    python3 -m venv op && op/bin/pip install opacus
    python benchmarks/dpsgd.py --opacus op/bin/python
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

from benchmarks.shared import sgd_step  # noqa: E402
from benchmarks.shared.fresh import in_fresh_process  # noqa: E402
from benchmarks.shared.sgd_step import (  # noqa: E402
    CLIP,
    FULL,
    GHOST,
    HOOKS,
    LARGE,
    MULTIPLIER,
    PLAIN,
    RATE,
    SMALL,
    Times,
    Work,
)
from benchmarks.shared.table import Row, at_most, print_table, write_json  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

TACIT, NOISE = "Tacit", "Tacit: noise alone"
BATCHES = (64, 256)
GOAL = 2.3
STEPS = {SMALL: 6, LARGE: 2, FULL: 20}  # at a time
REPEATS, QUICK_REPEATS = 15, 3
PATIENCE_S = 1800
NO_OPACUS = "Opacus is not installed: see the head of this file for how to compare with it."


def measure(name: str, batch: int, repeats: int, steps: int) -> Times:
    """CPU seconds of one step of each kind, in turns of so many steps."""
    x, y = sgd_step.data(batch)
    kinds = {PLAIN: sgd_step.plain(name, x, y, steps), **ours(name, x, y, steps)}
    return sgd_step.medians(kinds, repeats, steps)


def ours(name: str, x: "Tensor", y: "Tensor", steps: int) -> dict[str, Work]:
    from tacit.client.private_trainer import PrivatePlan, private_fit
    from tacit.client.torch_trainer import TorchTrainer
    from tacit.client.trainer import Examples, LocalPlan

    trainer = TorchTrainer(lambda: sgd_step.network(name))
    model, examples = trainer.initial(0), Examples(x.numpy(), y.numpy())
    # All of the examples are drawn, so that batches are as large as those of the others.
    private = PrivatePlan(steps, 1.0, len(y), CLIP, MULTIPLIER)
    mechanism = private.mechanism(sum(array.size for array in model.values()))

    def work() -> None:
        private_fit(
            trainer,
            model,
            examples,
            LocalPlan(learning_rate=RATE),
            private,
            run=0,
            round_=0,
            rand=os.urandom(32),
        )

    def noise() -> None:
        for _ in range(steps):
            mechanism.noised([], os.urandom(32))

    return {TACIT: work, NOISE: noise}


def rows_of(measured: dict[str, tuple[Times, Times]]) -> list[Row]:
    """Of each case Tacit's process and Opacus': milliseconds of a step, then ratios to plain ones.
    Without Opacus its times are empty."""
    rows, ratios = [], []
    for case, (own, other) in measured.items():
        rows += [Row(f"{case}: {kind}", taken * 1e3, "ms") for kind, taken in own.items()]
        ratio = own[TACIT] / own[PLAIN]
        ratios.append(at_most(f"{case}: {TACIT} / {PLAIN}", ratio, "x", GOAL))
        for kind in (HOOKS, GHOST) if other else ():
            rows.append(Row(f"{case}: {kind}", other[kind] * 1e3, "ms"))
            ratios.append(Row(f"{case}: {kind} / {PLAIN}", other[kind] / other[PLAIN], "x"))
    return rows + ratios


def main() -> None:
    parser = argparse.ArgumentParser(description="A step of DP-SGD against a plain one.")
    parser.add_argument("--opacus", default=sys.executable, metavar="PYTHON", help="that has it")
    parser.add_argument("--quick", action="store_true", help="under 45 s on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(**json.loads(options.child))))
        return
    repeats, notes = QUICK_REPEATS if options.quick else REPEATS, []
    measured: dict[str, tuple[Times, Times]] = {}
    for name, steps in STEPS.items():
        for batch in BATCHES:
            task = {"name": name, "batch": batch, "repeats": repeats, "steps": steps}
            own = in_fresh_process(__file__, task, PATIENCE_S)
            other = in_fresh_process(sgd_step.__file__, task, PATIENCE_S, options.opacus)
            for answer in (own, other):
                if isinstance(answer, str):
                    notes.append(f"{name}, batch {batch}: {answer}.")
            if isinstance(own, dict):
                there = other if isinstance(other, dict) else {}
                measured[f"{name}, batch {batch}"] = own, there
    if not any(other for _, other in measured.values()):
        notes.append(NO_OPACUS)
    rows = rows_of(measured)
    print_table("A step of SGD: one thread, CPU time", rows, notes)
    if options.json:
        write_json(options.json, "dpsgd", rows)


if __name__ == "__main__":
    main()
