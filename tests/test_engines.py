"""Arms on a local Ray cluster, one of whose workers is lost half-way through an arm.

(That arms made in other processes are what one process makes is tested with the matrix.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analyses.runs import Progress
from analyses.study import require_engine
from analyses.study.workers import ENGINES
from interp.errors import InputError
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


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(InputError, match="unknown engine mpi; expected one of local, ray"):
        require_engine("mpi")
