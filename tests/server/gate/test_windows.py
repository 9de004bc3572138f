"""Windows of minutes: both count, a refusal counts in neither, and nothing bad is served."""

import pytest
from limits.errors import StorageError

from tacit.crypto.errors import ParameterError
from tacit.server.gate.base import Denial
from tacit.server.gate.windows import Windows


def denied(windows: Windows, *asked) -> Denial:
    with pytest.raises(Denial) as refused:
        windows.pass_through(*asked)
    assert refused.value.stage == "budget"
    return refused.value


def test_a_key_has_its_window() -> None:
    windows = Windows("5/hour", "100/hour")
    windows.pass_through("a", "clinic", 5)
    refused = denied(windows, "a", "clinic", 1)
    assert refused.status == 429
    assert refused.retry_after is not None
    assert 0 < refused.retry_after <= 3600
    windows.pass_through("b", "clinic", 5)


def test_an_organisation_has_its_window() -> None:
    windows = Windows("5/hour", "8/hour")
    windows.pass_through("a", "clinic", 5)
    denied(windows, "b", "clinic", 4)
    windows.pass_through("b", "clinic", 3)  # the refusal counted nowhere
    denied(windows, "c", "clinic", 1)
    windows.pass_through("c", "other", 5)


def test_a_key_that_is_named_like_an_organisation() -> None:
    windows = Windows("5/hour", "5/hour")
    windows.pass_through("x", "y", 5)
    windows.pass_through("y", "x", 5)


def test_waiting_does_not_help_who_wants_too_much_at_once() -> None:
    refused = denied(Windows("5/hour", "8/hour"), "a", "clinic", 6)
    assert refused.retry_after is None
    assert "at most 5" in refused.reason


@pytest.mark.parametrize("text", ["", "many", "5/fortnight", "0/minute", "-1/minute"])
def test_what_is_no_window(text: str) -> None:
    for named in ({"key": text}, {"organisation": text}):
        with pytest.raises(ParameterError, match="window"):
            Windows(**named)


def test_a_storage_that_is_none_is_refused_without_its_password() -> None:
    with pytest.raises(ParameterError) as refused:
        Windows(storage="nowhere://user:hunter2@host")
    assert "hunter2" not in str(refused.value)


def test_a_storage_that_fails_lets_nothing_through(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = Windows()

    def broken(*_: object) -> int:
        raise StorageError(ConnectionError("lost"))

    monkeypatch.setattr(type(windows._limiter.storage), "get", broken)
    assert denied(windows, "a", "clinic", 1).status == 503
