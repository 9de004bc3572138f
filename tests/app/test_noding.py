"""`tacit device run` and `tacit device allow`, up to where a server is needed."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tacit.app.cli import main, noding
from tacit.app.deployment import bundle, local
from tacit.client.enrolment import NODE_KEY
from tacit.client.node.base import NODE_LOCK
from tacit.client.node.node import Node
from tacit.client.vault import locked

NOW = 1_800_000_000
OTHER = "b" * 64
Said = Callable[..., tuple[int, list[dict[str, Any]], str]]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("federation") / "made"
    local.make(folder, 3, NOW, lambda _: None)
    return folder


@pytest.fixture
def vault(federation: Path) -> Path:
    return federation / "devices" / "site-1"


@pytest.fixture
def tacit(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Said:
    def call(*arguments: str | Path) -> tuple[int, list[dict[str, Any]], str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["tacit", *map(str, arguments), "--json"])
        code: object = 0
        try:
            main.run()
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        assert isinstance(code, int)
        return code, [json.loads(line) for line in out.splitlines() if line[:1] == "{"], err

    return call


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """The nodes that would have run."""
    found: list[Node] = []
    monkeypatch.setattr(noding, "_serve", found.append)
    return found


def test_a_device_that_has_not_joined_is_told_what_to_do(tacit: Said, tmp_path: Path) -> None:
    assert tacit("device", "init", tmp_path / "new")[0] == 0
    code, _, err = tacit("device", "run", tmp_path / "new")
    assert code == 2
    assert "has not joined" in err
    assert "tacit device join" in err


def test_no_vault_and_a_damaged_key(tacit: Said, tmp_path: Path, vault: Path) -> None:
    assert tacit("device", "run", tmp_path / "nowhere")[0] == 2
    key = vault / NODE_KEY
    kept = key.read_bytes()
    try:
        key.chmod(0o644)
        code, _, err = tacit("device", "run", vault)
        assert (code, "chmod 600" in err) == (2, True)
        key.chmod(0o600)
        key.write_bytes(b"no key")
        code, _, err = tacit("device", "run", vault)
        assert (code, "join again" in err) == (2, True)
        assert "no key" not in err, "what stood in the file is nobody's business"
    finally:
        key.write_bytes(kept)
        key.chmod(0o600)


def test_a_second_node_of_a_vault_is_refused(tacit: Said, vault: Path, served: list[Node]) -> None:
    with locked(vault / NODE_LOCK, wait=False):
        code, _, err = tacit("device", "run", vault)
    assert code == 2
    assert "running already" in err
    assert served == []


def test_an_app_is_told_what_the_owner_says_and_where_the_vault_is(
    tacit: Said, vault: Path, served: list[Node]
) -> None:
    said = ["--config", "partition-id=3", "--config", "ward=north", "--config", "share=0.5"]
    assert tacit("device", "run", vault, *said, "--idle", "1.5", "--rate", "100")[0] == 0
    (node,) = served
    assert node.config == {
        "partition-id": 3,
        "ward": "north",
        "share": 0.5,
        "vault": str(vault.resolve()),
    }
    assert (node.pace.idle, node.allowance.rate) == (1.5, 100_000)
    own = bundle.digest(bundle.build())
    assert set(node.known) == {own}
    assert node.may_run(own)
    assert not node.may_run(OTHER)


def test_the_vault_is_not_the_configs_to_say(tacit: Said, vault: Path, served: list[Node]) -> None:
    tacit("device", "run", vault, "--config", 'vault="/elsewhere"')
    assert served[0].config["vault"] == str(vault.resolve())


@pytest.mark.parametrize("pair", ["partition-id", "=3", "a=[1]", "when=2026-01-01"])
def test_a_config_that_is_none(tacit: Said, vault: Path, served: list[Node], pair: str) -> None:
    code, _, err = tacit("device", "run", vault, "--config", pair)
    assert code == 2
    assert "KEY=VALUE" in err
    assert served == []


def test_allowing_holds_for_a_node_that_runs_already(
    tacit: Said, vault: Path, served: list[Node], tmp_path: Path
) -> None:
    own = bundle.digest(bundle.build())
    tacit("device", "run", vault)
    assert tacit("device", "allow", vault)[1][-1]["bundles"] == [own]
    assert tacit("device", "allow", vault, OTHER)[1][-1]["bundles"] == [own, OTHER]
    assert served[0].may_run(OTHER)

    file = tmp_path / "made.fab"
    file.write_bytes(b"some bundle")
    assert tacit("device", "allow", vault, file)[0] == 0
    assert served[0].may_run(bundle.digest(b"some bundle"))

    assert tacit("device", "allow", vault, own, OTHER, file, "--remove")[1][-1]["bundles"] == []
    assert not served[0].may_run(own)
    assert tacit("device", "allow", vault, own)[1][-1]["bundles"] == [own]


def test_allowing_what_is_no_bundle(tacit: Said, vault: Path) -> None:
    code, _, err = tacit("device", "allow", vault, "what")
    assert code == 2
    assert "no SHA-256" in err
    assert tacit("device", "allow", vault, OTHER, "--remove")[0] == 2


def test_a_list_that_is_damaged_stops_no_node_and_allows_nothing(
    tacit: Said, vault: Path, served: list[Node]
) -> None:
    tacit("device", "run", vault)
    tacit("device", "allow", vault, OTHER)
    place = vault / "bundles.sealed"
    kept = place.read_bytes()
    try:
        place.write_bytes(kept[:-1])
        assert not served[0].may_run(OTHER)
        assert not served[0].may_run(bundle.digest(bundle.build()))
    finally:
        place.write_bytes(kept)
        tacit("device", "allow", vault, OTHER, "--remove")
