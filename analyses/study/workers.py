"""Make independent arms in other processes: on this machine, or on a Ray cluster.

Every arm writes only its own folder, and finished arms are skipped. A lost worker therefore costs
one arm at most: it is tried again, and the study makes what is still missing by itself.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from analyses.options import WorkerOptions
from analyses.runs import BASE, Progress
from analyses.study.jobs import Engine, MakeOne, Then, make_in_turn, nothing
from analyses.study.local_workers import LocalWorkers, require_room
from analyses.study.plan import ArmPlan, StudyPlan
from analyses.study.ray_workers import RayWorkers
from interp import plugins
from interp.errors import InputError, expected

if TYPE_CHECKING:
    from analyses.study.baseline import Baseline
    from analyses.study.context import Context

ENGINES: Mapping[str, Callable[[StudyPlan, Path, WorkerOptions, MakeOne], Engine]] = {
    "local": LocalWorkers,
    "ray": RayWorkers,
}


class MakeTogether(Protocol):
    """Makes arms of a plan at the same time, and those that follow them.

    Returns:
        The arms that are still missing; what follows them was not begun.
    """

    def __call__(
        self, plan: StudyPlan, arms: Sequence[ArmPlan], then: Then = nothing
    ) -> Sequence[ArmPlan]: ...


@contextmanager
def arms_in_workers(
    plan: StudyPlan,
    out: Path,
    progress: Progress,
    *,
    workers: WorkerOptions,
    make_one: MakeOne | None = None,
) -> Iterator[MakeTogether]:
    """Inside, a function that makes arms in parallel, once the base is scored.

    The processes stay from one call to the next. They start at once if the base is not scored yet.
    Where one process makes all arms, the function makes none. A worker imports the module of
    ``make_one`` and runs it (default: :func:`make_planned`).

    Raises:
        InputError: (the function) the engine's package is not installed, or a worker cannot write
            the run's folder.
        MachineError: (the function) an arm ran out of time in every attempt.
    """
    engines: list[Engine] = []

    def engine() -> Engine:
        if not engines:
            start = ENGINES[workers.engine]
            engines.append(start(plan, out.resolve(), workers, make_one or make_planned))
        return engines[0]

    def make(plan: StudyPlan, arms: Sequence[ArmPlan], then: Then = nothing) -> Sequence[ArmPlan]:
        if not (arms and workers.are_used):
            return arms
        return make_in_turn(engine(), plan, arms, workers, progress, then)

    try:
        if workers.are_used and not (out / "arms" / BASE / "DONE").is_file():
            engine().prepare()
        yield make
    finally:
        for started in engines:
            started.close()


def require_workers(plan: StudyPlan, workers: WorkerOptions) -> None:
    """Check that the engine exists, and that the arms of one device fit it together.

    Raises:
        InputError: one of them does not hold.
    """
    if workers.engine not in ENGINES:
        raise InputError(f"unknown engine {workers.engine}{expected(workers.engine, ENGINES)}")
    if workers.engine == "local":
        require_room(plan, workers)


def make_planned(plan: StudyPlan, out: Path, name: str, threads: int) -> str:
    """Make one arm in a separate process."""
    import torch

    from analyses.study.making import make_arm

    torch.set_num_threads(threads)
    gc.collect()  # what an arm that could not be trained has left
    if not (_at_hand and _at_hand[0][:2] == (plan, out)):
        _at_hand[:] = [(plan, out, *_established(plan, out))]
    [(_, _, context, baseline)] = _at_hand
    if parent_process() is None:  # a process of Ray may serve other studies of this plan
        _at_hand.clear()
    [arm] = [arm for arm in plan.arms if arm.name == name]
    make_arm(context, baseline, arm)
    return name


#: The study that this process makes arms of, with its loaded base model: read once, not by arm.
_at_hand: list[tuple[StudyPlan, Path, Context, Baseline]] = []


def _established(plan: StudyPlan, out: Path) -> tuple[Context, Baseline]:
    from analyses.study.baseline import establish
    from analyses.study.context import study_context

    plugins.use_all(plan.plugins)
    plugins.load_all()
    progress = Progress(stages=False)
    progress.console.quiet = True  # the study has said what there is to say about its base
    context = study_context(plan, out, progress)
    baseline = establish(context)
    progress.console.quiet = False
    return context, baseline
