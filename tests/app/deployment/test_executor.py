"""What a ServerApp executes: Tacit as it is installed, and no code that a run brings."""

import io
import sys
import zipfile

import pytest
from flwr.superlink.runtime import run_serverapp

from tacit.app.deployment import bundle, executor
from tacit.crypto.errors import PolicyRefusal


def with_code() -> bytes:
    """Tacit's bundle, and a module that would be found before the installed one."""
    data = io.BytesIO(bundle.build())
    with zipfile.ZipFile(data, "a") as fab:
        fab.writestr("tacit/app/server.py", "print('owned')")
    return data.getvalue()


def test_no_bundle_but_our_own_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[bytes] = []
    monkeypatch.setattr(
        executor, "install_from_fab", lambda content, skip_prompt: installed.append(content)
    )
    for other in (with_code(), bundle.build()[:-1], b""):
        with pytest.raises(PolicyRefusal, match="not Tacit's own"):
            executor.install(other, skip_prompt=True)
    assert installed == []
    executor.install(bundle.build(), skip_prompt=True)
    assert installed == [bundle.build()]


def test_every_serverapp_goes_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower looks its installer up in the module of `run_serverapp`, by this name."""
    module = sys.modules[run_serverapp.__module__]
    assert "install_from_fab" in run_serverapp.__code__.co_names
    monkeypatch.setattr(module, "install_from_fab", module.install_from_fab)  # put back after it
    used: list[object] = []

    def run(**_: object) -> None:
        used.append(module.install_from_fab)

    run.__module__ = run_serverapp.__module__
    monkeypatch.setattr(executor, "run_serverapp", run)
    monkeypatch.setattr(executor, "validate_and_resolve_root_certificates", lambda *_: None)
    monkeypatch.setattr(sys, "stdin", io.StringIO("token\n"))
    where = ["--runtime-api-address", "x", "--root-certificates", "x", "--parent-pid", "1"]
    monkeypatch.setattr(sys, "argv", ["executor", executor.SERVERAPP, *where])
    executor.serverapp()
    assert used == [executor.install]
