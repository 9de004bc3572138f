"""The Python of the README and of the first steps runs as it is printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = {
    f"{page} {number}": code
    for page in ("README.md", "docs/getting-started.md")
    for number, code in enumerate(
        re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL), 1
    )
}


def test_there_are_examples():
    assert len(BLOCKS) == 5


@pytest.mark.parametrize("example", BLOCKS)
def test_example_runs(example, tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", BLOCKS[example]],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
