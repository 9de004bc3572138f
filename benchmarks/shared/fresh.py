"""One measurement, one process: nothing is warm, nothing is left over, one thread."""

import json
import os
import subprocess
import sys
from typing import Any

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


def in_fresh_process(
    script: str, task: dict[str, Any], patience: float, python: str = sys.executable
) -> dict[str, Any] | str:
    """What `script --child TASK` prints on its last line, both as JSON; why not, if it fails."""
    command = [python, script, "--child", json.dumps(task)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            env=os.environ | ONE_THREAD | QUIET,
            text=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not finished after {patience:.0f} s"
    except OSError as error:
        return f"not started: {error}"
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"ended with exit code {done.returncode}: {last}"
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
