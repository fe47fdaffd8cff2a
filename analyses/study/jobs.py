"""Jobs in other processes: each makes one arm; what is lost or late is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from analyses.options import WorkerOptions
from analyses.runs import Progress
from analyses.study.plan import ArmPlan, StudyPlan
from interp.errors import MachineError, TrainingError

LOOK_EVERY = 5.0  # seconds, at which jobs in a queue are looked at
#: Makes one arm in a separate process, from a plan, a run's folder, the arm's name and threads.
MakeOne = Callable[[StudyPlan, Path, str, int], str]
#: The arms that may begin once an arm is finished.
Then = Callable[[ArmPlan], Sequence[ArmPlan]]


class Lost(Exception):
    """The process that made an arm is gone."""


class Engine(Protocol):
    """Runs one arm in each of some processes; a job is what ``start`` gives."""

    def prepare(self) -> None:
        """Let the processes load what they need, while this one has other work."""

    def start(self, plan: StudyPlan, name: str) -> Any:
        """Begin an arm of the plan."""

    def has_begun(self, job: Any) -> bool:
        """Whether a job runs; before, it waits in a queue."""

    def wait(self, jobs: Sequence[Any], seconds: float | None) -> Sequence[Any]:
        """The jobs that ended, after the first has ended or the time is over."""

    def result(self, job: Any) -> None:
        """Raise what an ended job raised, or :class:`Lost`."""

    def stop(self, job: Any) -> None:
        """End a job that is under way."""

    def close(self) -> None:
        """Release the processes; jobs that are under way end."""


class _Clock:
    """Measures how long each job runs; its time in the engine's queue does not count."""

    def __init__(self, engine: Engine, limit: float | None) -> None:
        self.engine, self.limit = engine, limit
        self.began: dict[Any, float] = {}

    def wait(self, jobs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Wait for a while: the jobs that ended, and those that are over the limit in seconds."""
        if self.limit is None:
            return list(self.engine.wait(jobs, None)), []
        now = time.monotonic()
        self.began = {
            job: self.began.get(job, now)
            for job in jobs
            if job in self.began or self.engine.has_begun(job)
        }
        times = [began + self.limit for began in self.began.values()]
        times += [now + LOOK_EVERY] * (len(self.began) < len(jobs))
        ended = list(self.engine.wait(jobs, max(0.0, min(times) - now)))
        passed = time.monotonic() - self.limit
        overdue = [one for one, began in self.began.items() if one not in ended and began <= passed]
        return ended, overdue


def nothing(_arm: ArmPlan) -> Sequence[ArmPlan]:
    """No arm waits for this one."""
    return ()


def make_in_turn(
    engine: Engine,
    plan: StudyPlan,
    arms: Sequence[ArmPlan],
    workers: WorkerOptions,
    progress: Progress,
    then: Then = nothing,
) -> list[ArmPlan]:
    """Make arms of a plan on an engine, so many at a time; what is lost or late is tried again.

    An arm that cannot be trained is not tried again; what follows it begins all the same.

    No bar is shown: the lines of the workers would run into it.

    Args:
        engine: runs the arms.
        plan: of the arms.
        arms: to begin with.
        workers: number of arms at a time, retries, time limit.
        progress: says what was made.
        then: gives the arms that follow a finished one; they go before those that wait.

    Returns:
        The arms that are missing, because their workers were lost in every attempt.

    Raises:
        MachineError: an arm ran out of time in every attempt; the others are finished.
    """
    clock = _Clock(engine, None if workers.arm_minutes is None else 60 * workers.arm_minutes)
    waiting = [(arm, 1) for arm in arms]
    running: dict[Any, tuple[ArmPlan, int]] = {}
    late: list[str] = []
    missing: list[ArmPlan] = []
    made = 0
    progress.say(f"{len(arms)} arms, {workers.workers} at a time …")
    while waiting or running:
        while waiting and len(running) < workers.workers:
            arm, attempt = waiting.pop(0)
            running[engine.start(plan, arm.name)] = arm, attempt
        ended, overdue = clock.wait(list(running))
        for job in [*ended, *overdue]:
            arm, attempt = running.pop(job)
            try:
                if job in overdue:
                    engine.stop(job)
                    raise Lost
                engine.result(job)
            except Lost:
                why = "ran out of time" if job in overdue else "its worker was lost"
                if attempt <= workers.retries:
                    progress.say(f"{arm.name}: {why}; tried again")
                    waiting.insert(0, (arm, attempt + 1))
                    continue
                progress.say(f"{arm.name}: {why}, {attempt} times")
                missing.append(arm)
                late += [arm.name] * (job in overdue)
                continue
            except TrainingError as error:
                said, why = "failed", f": {error}"
            else:
                said, why = "done", ""
            made += 1
            begun = made + len(missing) + len(running) + len(waiting)
            progress.say(f"{arm.name}: {said} ({made} of {begun}){why}")
            waiting[:0] = [(follower, 1) for follower in then(arm)]
    if late:
        raise MachineError(
            f"{', '.join(late)}: not finished in {workers.arm_minutes:g} minutes, {workers.retries}"
            " retries included; the other arms are kept: give a larger --arm-minutes, or "
            "--checkpoint-every so that a retry goes on where the last one stopped"
        )
    return missing
