"""Engines that make independent arms: in processes of this machine, or on a Ray cluster.

Every arm writes only its own folder, and finished arms are skipped. A lost worker therefore costs
one arm at most: the study runs afterwards and makes the missing arms.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from analyses.runs import Progress
from analyses.study.plan import StudyPlan
from interp import plugins
from interp.errors import InputError, expected

RETRIES = 3

#: Makes one arm in a separate process, from a plan, a run's folder, the arm's name and threads.
MakeOne = Callable[[StudyPlan, Path, str, int], str]
#: Makes the named arms in a run's folder, with a limit on how many run at a time.
Engine = Callable[[StudyPlan, Path, Sequence[str], int, Progress, MakeOne], None]


def make_arms_in_workers(
    plan: StudyPlan,
    out: Path,
    progress: Progress,
    *,
    workers: int,
    engine: str = "local",
    names: Sequence[str] | None = None,
    make_one: MakeOne | None = None,
) -> None:
    """Make arms of the plan in parallel; the base must be scored already.

    Without ``names`` it makes the plain and contained arms. The study makes the control arms later,
    because they run for as many steps as the others took.

    A worker imports the module of ``make_one`` and runs it (default: :func:`make_planned`).

    Raises:
        InputError: the engine's package is not installed.
    """
    if names is None:
        names = [arm.name for arm in plan.arms if not arm.control and not arm.sweep]
    if names:
        ENGINES[engine](plan, out, names, workers, progress, make_one or make_planned)


def require_engine(name: str) -> None:
    """Check an engine's name.

    Raises:
        InputError: the engine does not exist.
    """
    if name not in ENGINES:
        raise InputError(f"unknown engine {name}{expected(name, ENGINES)}")


def make_planned(plan: StudyPlan, out: Path, name: str, threads: int) -> str:
    """Make one arm in a separate process."""
    import torch

    from analyses.study.baseline import establish
    from analyses.study.context import study_context
    from analyses.study.making import make_arm

    torch.set_num_threads(threads)
    plugins.use_all(plan.plugins)
    plugins.load_all()
    context = study_context(plan, out, Progress(quiet=True))
    [arm] = [arm for arm in plan.arms if arm.name == name]
    make_arm(context, establish(context), arm)
    return name


def _local(
    plan: StudyPlan,
    out: Path,
    names: Sequence[str],
    workers: int,
    progress: Progress,
    make_one: MakeOne,
) -> None:
    threads = max(1, multiprocessing.cpu_count() // workers)
    # spawn, because torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with (
        progress.stage(f"{len(names)} arms, {workers} at a time", len(names)) as advance,
        ProcessPoolExecutor(workers, context) as pool,
    ):
        jobs = [pool.submit(make_one, plan, out, name, threads) for name in names]
        try:
            for job in as_completed(jobs):
                job.result()
                advance(1)
        except BrokenProcessPool:
            progress.say("a worker was lost; its arm is made again")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _ray(
    plan: StudyPlan,
    out: Path,
    names: Sequence[str],
    workers: int,
    progress: Progress,
    make_one: MakeOne,
) -> None:
    """Run one task for each arm. Every node must be able to write the run's folder."""
    try:
        import ray
    except ImportError as error:
        raise InputError("--engine ray needs Ray; pip install 'spillover[ray]'") from error
    import torch

    if not ray.is_initialized():
        ray.init(address=None, num_cpus=None, include_dashboard=False, log_to_driver=False)
    gpus = 1 if torch.cuda.is_available() else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(make_one)
    waiting = list(names)
    running: dict[Any, str] = {}
    folder = out.resolve()
    with progress.stage(f"{len(names)} arms on Ray, {workers} at a time", len(names)) as advance:
        while waiting or running:
            while waiting and len(running) < workers:
                name = waiting.pop(0)
                running[task.remote(plan, folder, name, 1)] = name
            done, _ = ray.wait(list(running))
            for reference in done:
                name = running.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                except ray.exceptions.RayError:
                    progress.say(f"{name}: lost {RETRIES + 1} workers; it is made here instead")
                advance(1)


ENGINES: Mapping[str, Engine] = {"local": _local, "ray": _ray}
