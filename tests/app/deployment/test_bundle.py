"""The bundle: one on all machines, and one that Flower takes."""

import os
import subprocess
import sys
from pathlib import Path

import tomli_w
from flwr.cli.build import build_fab_from_files
from flwr.cli.config_utils import get_fab_metadata
from flwr.cli.install import install_from_fab
from flwr.common.config import get_fab_config, get_fused_config_from_fab
from flwr.supercore.run import Run

import tacit
from tacit.app.config import Settings
from tacit.app.deployment import bundle

ROOT = Path(tacit.__file__).resolve().parents[1]


def test_another_process_at_another_time_makes_the_same_bytes(tmp_path: Path) -> None:
    code = "from tacit.app.deployment.bundle import *; print(digest(build()))"
    there = {"PYTHONPATH": str(ROOT), "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "LC_ALL": "C"}
    made = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, **there},
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.strip() == bundle.digest(bundle.build())


def test_flower_reads_it() -> None:
    content = bundle.build()
    assert get_fab_metadata(content) == ("tacit/tacit", tacit.__version__)
    app = get_fab_config(content)["tool"]["flwr"]["app"]
    assert app["components"] == {"serverapp": bundle.SERVER_APP, "clientapp": bundle.CLIENT_APP}


def test_flower_installs_it_and_finds_no_code(tmp_path: Path) -> None:
    place = install_from_fab(bundle.build(), install_dir=tmp_path, skip_prompt=True)
    assert [path.name for path in place.rglob("*")] == ["pyproject.toml"]
    assert place.name.endswith(bundle.digest(bundle.build())[:8])


def test_what_flower_would_build_of_it_has_the_same_project() -> None:
    content = bundle.build()
    project = tomli_w.dumps(get_fab_config(content)).encode()
    theirs, metadata = build_fab_from_files({"pyproject.toml": project})
    assert get_fab_config(theirs) == get_fab_config(content)
    assert metadata.fab_format_version == 0


def test_a_run_can_change_every_setting_and_starts_from_the_defaults() -> None:
    run = Run.create_empty(1)
    defaults = get_fused_config_from_fab(bundle.build(), run)
    assert Settings.from_flat(defaults) == Settings()
    assert set(defaults) == set(Settings().flat())
    changed = Settings().changed(["run.rounds=3", "secure.protocol=plain", "run.name=first"])
    run.override_config = changed.flat()
    assert Settings.from_flat(get_fused_config_from_fab(bundle.build(), run)) == changed


def test_it_asks_for_nothing_to_be_installed() -> None:
    assert get_fab_config(bundle.build())["project"]["dependencies"] == []
