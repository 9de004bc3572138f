"""What a device loads that has nothing but the base installation, one core and 512 MB of addresses.

A script of its own, so that nothing is loaded before it begins to count.
"""

import os
import resource
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

ADDRESS_SPACE = 512 << 20
EXTRAS = (
    *("datasets", "dp_accounting", "flwr_datasets", "imageio", "limits", "pandas", "pyarrow"),
    *("prometheus_client", "pyotp", "ray", "river", "safetensors", "scipy", "skimage", "sklearn"),
    *("tenseal", "torch"),
)


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    sys.modules.update(dict.fromkeys(EXTRAS))  # type: ignore[arg-type]  # as if not installed
    began = time.perf_counter()
    import tacit.app.cli.noding

    loaded = time.perf_counter()
    tacit.app.cli.noding._app()
    ready = time.perf_counter()
    import json

    import numpy as np

    from tacit.app.config import Settings
    from tacit.client.trainer import Examples
    from tacit.simulations.models import trainer

    settings, rng = Settings(), np.random.default_rng(0)
    x = rng.random((500, 1, 8, 8), np.float32)
    device = trainer("mlp", (1, 8, 8), 10, backend="numpy")
    examples = Examples(x, rng.integers(0, 10, 500))
    train = time.perf_counter()
    device.fit(device.initial(0), examples, settings.train.plan(seed=0, proximal_mu=0.0))
    found = {
        "load": loaded - began,
        "app": ready - loaded,
        "train": time.perf_counter() - train,
        "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
