"""Every attack builds messages by hand, and most are tried under several kinds of sums."""

from collections.abc import Iterator

import pytest

from tacit.server.flower import identity
from tests.hostile.kinds import PAIRS, under
from tests.runtime.desk import RUN


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The closest mark `kinds` decides: that of a test before that of its module."""
    mark = metafunc.definition.get_closest_marker("kinds")
    if mark is not None and mark.args:
        metafunc.parametrize("_kind", mark.args, ids=str, indirect=True, scope="module")


@pytest.fixture(autouse=True, scope="module")
def _kind(request: pytest.FixtureRequest) -> Iterator[None]:
    with under(getattr(request, "param", PAIRS)):
        yield


@pytest.fixture(autouse=True)
def _task() -> Iterator[None]:
    with identity(RUN):
        yield
