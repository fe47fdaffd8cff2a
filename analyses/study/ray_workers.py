"""Arms on a Ray cluster. Every node must be able to write the run's folder."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from analyses.options import WorkerOptions
from analyses.study.jobs import Lost, MakeOne
from analyses.study.plan import StudyPlan
from interp.errors import InputError


class RayWorkers:
    """One task for each arm; a node's own devices are used, not those of this machine.

    Raises:
        InputError: Ray is not installed, a device is named by its number, or a worker cannot write
            the run's folder.
    """

    def __init__(
        self, plan: StudyPlan, out: Path, workers: WorkerOptions, make_one: MakeOne
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError("--engine ray needs Ray; pip install 'spillover[ray]'") from error
        self.ray = ray
        self.out = out
        if not ray.is_initialized():
            ray.init(address=None, num_cpus=None, include_dashboard=False, log_to_driver=False)
        gpus = _gpus(plan, workers, has_gpus=ray.cluster_resources().get("GPU", 0) > 0)
        self.make_one = make_one
        self.task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_make_marked)
        self.marks: dict[Any, Path] = {}  # a file of each job, from its begin on
        # The check needs no GPU, so that it does not wait for one.
        _require_shared_folder(ray, out)

    def prepare(self) -> None:
        """Ray starts its processes with their first tasks."""

    def start(self, plan: StudyPlan, name: str) -> Any:
        """Begin an arm of the plan."""
        mark = _mark_in(self.out)
        job = self.task.remote(mark, self.make_one, plan, self.out, name)
        self.marks[job] = mark
        return job

    def has_begun(self, job: Any) -> bool:
        """Whether the job has left Ray's queue."""
        return self.marks[job].is_file()

    def wait(self, jobs: Sequence[Any], seconds: float | None) -> Sequence[Any]:
        """The ended jobs."""
        done, _ = self.ray.wait(list(jobs), timeout=seconds)
        return list(done)

    def result(self, job: Any) -> None:
        """Raise what the arm raised."""
        self.marks.pop(job).unlink(missing_ok=True)
        try:
            self.ray.get(job)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self.ray.exceptions.RayError as error:
            raise Lost from error

    def stop(self, job: Any) -> None:
        """End the job's process."""
        self.ray.cancel(job, force=True)
        self.marks.pop(job).unlink(missing_ok=True)

    def close(self) -> None:
        """Leave the cluster as it is."""


def _gpus(plan: Any, workers: WorkerOptions, *, has_gpus: bool) -> float:
    """Ray's GPUs for an arm. Ray lets a task see its own devices only, numbered from 0."""
    device = str(getattr(plan, "model_options", {}).get("device") or "")
    if ":" in device and not device.endswith(":0"):
        raise InputError(
            f"--engine ray with --device {device}: each worker sees its own devices only; leave "
            "--device out"
        )
    if device == "cpu":
        return 0
    if workers.gpus_per_arm is None:
        return int(has_gpus)
    if workers.gpus_per_arm and not has_gpus:
        raise InputError(
            f"--gpus-per-arm {workers.gpus_per_arm:g}: the Ray cluster has no GPU; leave it out"
        )
    return workers.gpus_per_arm


def _require_shared_folder(ray: Any, out: Path) -> None:
    mark = _mark_in(out)
    token = mark.name
    try:
        said = ray.get(ray.remote(num_cpus=1, max_retries=3)(_write_mark).remote(mark, token))
        found = mark.read_text(encoding="utf-8") if mark.is_file() else ""
    finally:
        with suppress(OSError):
            mark.unlink()
    if said or found != token:
        raise InputError(
            f"a Ray worker cannot write {out} ({said or 'its file does not arrive here'}); give an "
            "--out on a file system that every node mounts at the same place"
        )


def _mark_in(out: Path) -> Path:
    return out / f".worker-{secrets.token_hex(8)}"


def _make_marked(mark: Path, make_one: MakeOne, plan: StudyPlan, out: Path, name: str) -> str:
    """Make one arm; a file says that it has begun."""
    mark.touch()
    return make_one(plan, out, name, 1)


def _write_mark(mark: Path, token: str) -> str:
    """Write a file as a worker; an error in words, or nothing."""
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(token, encoding="utf-8")
    except OSError as error:
        return str(error)
    return ""
