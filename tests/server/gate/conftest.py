from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.gate.gates import World, world


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[World]:
    made = world(tmp_path)
    yield made
    made.store.close()
