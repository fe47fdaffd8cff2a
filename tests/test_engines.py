"""Arms on a local Ray cluster, one of whose workers is lost half-way through an arm.

(That arms made in other processes are what one process makes is tested with the matrix.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analyses.runs import Progress
from analyses.study import StudyPlan, require_engine
from analyses.study.workers import ENGINES, make_planned
from interp.errors import InputError, SpilloverError
from interp.plugins import Plugin
from tests.lost_worker import make_or_be_lost

ARMS = ["finished", "interrupted", "later"]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_on_ray_a_lost_worker_s_arm_is_made_again_and_nothing_finished_is_lost(
    cluster: Any, tmp_path: Path
) -> None:
    plan: Any = "interrupted"  # all that the stand-in for make_one has to know
    ENGINES["ray"](plan, tmp_path, ARMS, 1, Progress(quiet=True), make_or_be_lost)
    attempts = (tmp_path / "attempts.txt").read_text(encoding="utf-8").split()
    assert attempts == ["finished", "interrupted", "interrupted", "later"]
    for arm in ARMS:
        assert (tmp_path / "arms" / arm / "DONE").is_file()
        assert (tmp_path / "arms" / arm / "scores.txt").read_text().startswith(f"{arm} by")

    def impossible(_plan: Any, _out: Path, _name: str, _threads: int) -> str:
        raise InputError("these inputs cannot be used")

    with pytest.raises(InputError, match="these inputs cannot be used"):
        ENGINES["ray"](plan, tmp_path, ARMS[:1], 2, Progress(quiet=True), impossible)


@pytest.mark.slow
def test_a_worker_on_ray_runs_the_plug_ins_of_the_plan(cluster: Any, tmp_path: Path) -> None:
    """The arm itself is refused, after the plug-in ran: its model does not exist."""
    ran, file = tmp_path / "ran.txt", tmp_path / "mine.py"
    source = f"import os\nopen({str(ran)!r}, 'w').write(str(os.getpid()))\n"
    plugin = Plugin(str(file), source)
    plan = StudyPlan(str(tmp_path / "no model"), (), plugins=(plugin,))
    with pytest.raises(SpilloverError, match="no model"):
        ENGINES["ray"](plan, tmp_path, ["arm"], 1, Progress(quiet=True), make_planned)
    assert int(ran.read_text(encoding="utf-8")) != os.getpid()


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(InputError, match="unknown engine mpi; expected one of local, ray"):
        require_engine("mpi")
