"""What a supervised process is told by its environment: what it needs, and no more.

A shell that somebody starts `tacit up` from may hold passwords and keys of other services. Nothing
of that is passed on.
"""

import os
import site
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import tacit

PASSED_ON = (
    "CUDA_VISIBLE_DEVICES",
    "HOME",
    "LANG",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "TACIT_DATA",
    "TMPDIR",
    "TZ",
    "VIRTUAL_ENV",
)
ENDINGS = ("_NUM_THREADS",)
BEGINNINGS = ("LC_",)


def environment(flwr_home: Path, given: Mapping[str, str], **more: str) -> dict[str, str]:
    """The environment of a process; `given` is ours."""
    passed = {
        name: value
        for name, value in given.items()
        if name in PASSED_ON or name.startswith(BEGINNINGS) or name.endswith(ENDINGS)
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), given.get("PATH", os.defpath)])
    return {
        **passed,
        **_found(given),
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # nothing is imported from the folder that it is started in
        "FLWR_HOME": str(flwr_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "NO_PROXY": "*",  # a proxy of somebody's shell has no place between our own processes
        **more,
    }


def _found(given: Mapping[str, str]) -> dict[str, str]:
    """Where this very Tacit is, if it is a checkout: a child has to be the same."""
    here = str(Path(tacit.__file__).resolve().parents[1])
    installed = {sysconfig.get_paths()["purelib"], *site.getsitepackages()}
    if here in installed:
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, [here, given.get("PYTHONPATH", "")]))}
