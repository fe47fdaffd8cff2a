"""Arms in processes of this machine; with several GPUs each process takes one."""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from analyses.options import WorkerOptions
from analyses.study.jobs import Lost, MakeOne
from analyses.study.plan import StudyPlan
from interp.errors import InputError


@dataclass
class LocalWorkers:
    """Processes that each make one arm at a time; a lost one is replaced."""

    plan: StudyPlan
    out: Path
    workers: WorkerOptions
    make_one: MakeOne
    pools: dict[int, ProcessPoolExecutor] = field(default_factory=dict)
    jobs: dict[Future[str], int] = field(default_factory=dict)
    loading: dict[int, Future[None]] = field(default_factory=dict)

    def prepare(self) -> None:
        """Start the processes, which import what every arm needs."""
        for number in range(self.workers.workers):
            self.loading[number] = self._pool(number).submit(import_all)

    def start(self, plan: StudyPlan, name: str) -> Future[str]:
        """Begin an arm of the plan in a free process."""
        number = next(i for i in range(self.workers.workers) if i not in self.jobs.values())
        threads = max(1, multiprocessing.cpu_count() // self.workers.workers)
        work = partial(self.make_one, plan, self.out, name, threads)
        try:
            job = self._pool(number).submit(work)
        except BrokenProcessPool:  # it was lost while it loaded, or waited for an arm
            self._end(number)
            job = self._pool(number).submit(work)
        self.jobs[job] = number
        return job

    def _pool(self, number: int) -> ProcessPoolExecutor:
        if number not in self.pools:
            devices = devices_of(self.plan)
            # spawn, because torch's threads do not survive a fork.
            self.pools[number] = ProcessPoolExecutor(
                1,
                multiprocessing.get_context("spawn"),
                initializer=partial(use_device, devices[number % len(devices)])
                if devices
                else None,
            )
        return self.pools[number]

    def has_begun(self, _job: Any) -> bool:
        """A free process begins its job at once."""
        return True

    def wait(self, jobs: Sequence[Any], seconds: float | None) -> Sequence[Any]:
        """The ended jobs."""
        return list(wait(jobs, seconds, FIRST_COMPLETED).done)

    def result(self, job: Any) -> None:
        """Raise what the arm raised."""
        number = self.jobs.pop(job)
        try:
            job.result()
        except BrokenProcessPool as error:
            self.pools.pop(number).shutdown(wait=False)
            raise Lost from error

    def stop(self, job: Any) -> None:
        """End the job's process."""
        self._end(self.jobs.pop(job))

    def close(self) -> None:
        """End all processes."""
        for number in list(self.pools):
            is_loading = number in self.loading and not self.loading[number].done()
            if is_loading or number in self.jobs.values():
                self._end(number)
            else:
                self.pools.pop(number).shutdown()

    def _end(self, number: int) -> None:
        pool = self.pools.pop(number)
        for process in list(pool._processes.values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)


def import_all() -> None:
    """Import what an arm needs; no collection of garbage looks at it, nor that at the end."""
    from transformers import Trainer  # noqa: F401

    import analyses.study.making  # noqa: F401

    gc.freeze()


def use_device(number: int) -> None:
    """Make this process use one of the machine's GPUs, as the only one that it sees."""
    visible = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[number] if visible else str(number)
    import torch

    torch.cuda.set_device(number % torch.cuda.device_count())


def devices_of(plan: StudyPlan) -> list[int]:
    """The GPUs that workers may take in turn; none if the plan names a device or has no GPU."""
    import torch

    if plan.model_options.get("device", "cuda") != "cuda" or not torch.cuda.is_available():
        return []
    return list(range(torch.cuda.device_count()))


def require_room(plan: StudyPlan, workers: WorkerOptions) -> None:
    """Check that the arms that train at the same time on one device fit it.

    Raises:
        InputError: several workers would share a device without ``--share-device``, or the plan's
            memory for them is larger than the device.
    """
    from analyses.study.fitting import study_memory
    from analyses.study.resolve import prompts_of
    from interp.model.language_model import usable_device

    if workers.workers < 2:
        return
    device = usable_device(plan.model_options.get("device"))
    if device.type == "cpu":
        return
    devices = devices_of(plan) or [device.index]
    together = math.ceil(workers.workers / len(devices))
    if together == 1:
        return
    count = f"{len(devices)} GPU{'s' * (len(devices) > 1)}"
    if not workers.share_device:
        raise InputError(
            f"--workers {workers.workers} with {count}: arms would share a device; give --workers "
            f"{len(devices)}, or --share-device if the arms fit it together"
        )
    import torch

    memory = study_memory(plan, prompts_of(plan))
    need = None if memory is None else together * memory.device
    room = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    if need is None or room is None:
        raise InputError(
            f"--share-device: the memory of {together} arms on one {device.type} device is not "
            f"known before the model is downloaded; give --workers {len(devices)}"
        )
    if need > room:
        raise InputError(
            f"--share-device: {together} arms of about {need / together / 2**30:.1f} GiB do not "
            f"fit one device of {room / 2**30:.0f} GiB; give fewer --workers"
        )
