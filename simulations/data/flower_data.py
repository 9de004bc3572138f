"""The one place that imports flwr-datasets: late, quietly, and only the part that is needed.

Measured on two cores: `import flwr_datasets` takes 2.0 s, half of it plotting libraries; its
partitioners alone, with the `datasets` package they need, 0.9 s. Neither part may report what is
loaded here to anybody, so its telemetry is off.
"""

import importlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from tacit.crypto.errors import ParameterError

PACKAGE = "flwr_datasets"
TELEMETRY = "FLWR_TELEMETRY_ENABLED"
_IMPORTING = threading.Lock()


def partitioners() -> Any:
    """The module `flwr_datasets.partitioner`. Raises ParameterError if it is not installed."""
    with _IMPORTING, _without_telemetry(), _bare_package():
        return importlib.import_module(f"{PACKAGE}.partitioner")


def federated_dataset() -> Any:
    """The class `flwr_datasets.FederatedDataset`. Raises ParameterError if not installed."""
    _require_installed()
    with _IMPORTING, _without_telemetry():
        return importlib.import_module(PACKAGE).FederatedDataset


def _require_installed() -> list[str]:
    spec = None if PACKAGE in sys.modules else find_spec(PACKAGE)
    if spec is None and PACKAGE not in sys.modules:
        raise ParameterError("this needs flwr-datasets: pip install '.[sim]' in Tacit's checkout")
    return list(spec.submodule_search_locations or []) if spec else []


@contextmanager
def _bare_package() -> Iterator[None]:
    """Let sub-modules be imported without the package's own `__init__`, which imports the rest.

    The stand-in is gone afterwards: who imports flwr_datasets later gets all of it, and the same
    sub-modules.
    """
    places = _require_installed()
    if PACKAGE in sys.modules:
        yield
        return
    bare = ModuleType(PACKAGE)
    bare.__path__ = places
    sys.modules[PACKAGE] = bare
    try:
        yield
    finally:
        del sys.modules[PACKAGE]


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """flwr-datasets reads this variable once, while it is imported."""
    before = os.environ.get(TELEMETRY)
    os.environ[TELEMETRY] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[TELEMETRY]
        else:
            os.environ[TELEMETRY] = before
