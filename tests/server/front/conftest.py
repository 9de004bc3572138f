from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.front.fronts import Recorder, Standing, front, link, prepared


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory, recorder: Recorder) -> Iterator[int]:
    with link(tmp_path_factory.mktemp("link"), recorder) as port:
        yield port


@pytest.fixture
def standing(tmp_path: Path, behind: int, recorder: Recorder) -> Iterator[Standing]:
    """A front with its usual limits before a recorder that has heard nothing yet."""
    recorder.got.clear()
    recorder.status, recorder.body = 200, b"fine"
    prepared(tmp_path)
    with front(tmp_path, behind) as found:
        yield found
