"""A package that registers entries by the entry-point group ``spillover.plugins``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OBJECTIVE = """

from unlearning.losses import objective

@objective
def installed_objective(log_probs, mask):
    return (log_probs * mask).sum(-1)
"""
USE = """
import sys
from interp.plugins import in_use, load_all
from unlearning.losses import FORGET
assert "installed_objective" in FORGET and "mine_installed" not in sys.modules, "read, not run"
assert FORGET.find("installed_objective").needs == ("log_probs", "mask")
[plugin] = load_all()
print(plugin.module, len(plugin.sha256))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "mine_installed.py").write_text(OBJECTIVE, encoding="utf-8")
    about = tmp_path / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[spillover.plugins]\nmine = mine_installed\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_an_installed_plug_in_is_listed_unread_and_found(environment: dict[str, str]) -> None:
    found = run(environment, "-c", USE)
    assert found.stdout.split() == ["mine_installed", "64"], found.stderr
    helped = run(environment, "-m", "analyses.cli", "study", "--help")
    assert "installed_objective" in helped.stdout


def test_one_whose_module_is_missing_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine_installed.py").unlink()
    found = run(environment, "-m", "analyses.cli", "study", "--help")
    [line] = [line for line in found.stderr.splitlines() if line]
    assert found.returncode == 2 and "plug-in mine" in line and "mine_installed" in line
