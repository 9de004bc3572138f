"""Every attack builds messages by hand."""

from collections.abc import Iterator

import pytest

from tacit.server.flower import identity
from tests.runtime.desk import RUN


@pytest.fixture(autouse=True)
def _task() -> Iterator[None]:
    with identity(RUN):
        yield
