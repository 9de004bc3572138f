"""breaching's Inverting Gradients on victims that were written to disk: for `inversion.py`.

Runs in an environment of breaching's own, and imports nothing of Tacit. The attack is breaching's,
unchanged, with its preset "invertinggradients"; only the number of iterations and of restarts is
set. breaching imports torchvision for the data sets and models of its own, none of which is used
here. There is a build of torchvision for every GPU but none for CPUs: where its compiled half does
not load, the operators that its other half refers to by name are declared, without code behind
them, so that the import succeeds. Whoever called one would get an error.
"""

import json
import logging
import sys
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.shared.inversion_case import (
    CLASSES,
    MEAN,
    SHAPE,
    SPREAD,
    TIMED,
    WARM,
    Job,
    Victim,
    median,
    read,
    seconds,
)

MISSING = ("nms", "qnms")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What breaching wants to know of the data."""

    shape: tuple[int, ...] = SHAPE
    mean: tuple[float, ...] = (MEAN,) * SHAPE[0]
    std: tuple[float, ...] = (SPREAD,) * SHAPE[0]
    classes: int = CLASSES
    modality: str = "vision"


def run(job: Job) -> dict[str, Any]:
    """Seconds of an iteration of all restarts, or nothing; its version with either."""
    if find_spec("breaching") is None:
        return {}
    import numpy as np
    import torch

    victims = read(job.file)
    answer: dict[str, Any] = {"version": f"breaching {version('breaching')}"}
    if job.repeats:
        victim = victims[0]

        def iteration() -> float:
            """Of all restarts, by what a longer attack takes more than a short one."""
            short = seconds(lambda: attack(victim, WARM, job.restarts))
            return (seconds(lambda: attack(victim, WARM + TIMED, job.restarts)) - short) / TIMED

        return answer | {"step": median(iteration, job.repeats)}
    found = []
    for seed, victim in enumerate(victims):
        torch.manual_seed(seed)
        found.append(attack(victim, job.steps, job.restarts))
    np.save(job.found, np.stack(found))
    return answer


def attack(victim: Victim, steps: int, restarts: int) -> Any:
    """What breaching finds, in units of the network's inputs, shape (inputs, *SHAPE)."""
    import torch

    breaching = _breaching()
    settings = breaching.get_attack_config(
        "invertinggradients",
        overrides=[f"optim.max_iterations={steps}", f"restarts.num_trials={restarts}"],
    )
    setup = {"dtype": torch.float, "device": torch.device("cpu")}
    loss = torch.nn.CrossEntropyLoss()
    attacker = breaching.attacks.prepare_attack(victim.network, loss, settings, setup)
    parameters = [weight.detach() for weight in victim.network.parameters()]
    sent = {"parameters": parameters, "buffers": [], "metadata": Metadata()}
    known = {
        "num_data_points": len(victim.labels),
        "labels": victim.labels,
        "local_hyperparams": None,
    }
    shared = {"gradients": victim.gradients, "buffers": None, "metadata": known}
    found, _ = attacker.reconstruct([sent], [shared], {})
    return found["data"].numpy()


def _breaching() -> Any:
    """The package, which prints what it loads: to standard error, with the rest of its log."""
    import torch

    if "torchvision" not in sys.modules:
        try:
            import torchvision  # noqa: F401
        except RuntimeError:
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            library: Any = torch.library
            declared = library.Library("torchvision", "FRAGMENT")
            for name in MISSING:
                declared.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
            _KEPT.append(declared)
    import breaching

    return breaching


_KEPT: list[Any] = []  # a declaration lasts as long as the object


def main() -> None:
    standard_output, sys.stdout = sys.stdout, sys.stderr
    logging.disable(logging.INFO)
    answer = run(Job(**json.loads(sys.argv[sys.argv.index("--child") + 1])))
    print(json.dumps(answer), file=standard_output)


if __name__ == "__main__":
    main()
