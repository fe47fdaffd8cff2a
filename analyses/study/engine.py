"""The engine of a study: it turns a plan into a run's folder.

prompts → the base model (answers, prefixes, scores, states, direction gate) → each arm: train or
load it, score it, compare its states → tables, figures, report. The engine skips stages with
unchanged inputs, so the same plan resumes an interrupted run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from analyses.options import ALONE, WorkerOptions
from analyses.report import run_report
from analyses.runs import (
    Progress,
    behaviour,
    matched_step,
    measure,
    read_run,
    recover,
    seconds_of,
    update_config,
    verdict_on,
    write_manifest,
)
from analyses.study.baseline import Baseline, establish
from analyses.study.context import Context, study_context
from analyses.study.deflected import require_arms, say_low_base, with_enough_deflections
from analyses.study.gate import write_gate
from analyses.study.making import make_arm, require_replaceable
from analyses.study.plan import LEAST_ANSWERS, LEAST_RECOVERY, ArmPlan, StudyPlan
from analyses.study.workers import MakeTogether, arms_in_workers
from interp.store import read_table


def run_study(plan: StudyPlan, out: str | Path, progress: Progress | None = None) -> Path:
    """Run ``plan`` in the folder ``out`` and return the path of its report.

    All checks that need no model come first.

    Raises:
        InputError: the plan cannot run; finished results stay.
    """
    return run_checked_study(study_context(plan, out, progress or Progress()))


def run_checked_study(
    context: Context, *, workers: WorkerOptions = ALONE, show_completions: bool = False
) -> Path:
    """:func:`run_study` with checked inputs; several workers make arms in parallel.

    Raises:
        InputError: also if another process works in the folder; and if no domain has enough
            deflections, after the report of the base model.
    """
    folder = context.run.folder
    with (
        recorded(context),
        arms_in_workers(context.plan, folder, context.progress, workers=workers) as together,
    ):
        baseline = establish(context)
        say_low_base(context, baseline)
        write_gate(context, baseline)
        context = with_enough_deflections(context, baseline)
        require_replaceable(context, baseline, context.plan.arms)
        make_arms(context, baseline, together)
    with context.progress.stage("tables, figures, report"):
        shown = {"show_completions": True} if show_completions else {}
        report = run_report.write_report(folder, **shown)
    require_arms(context)
    return report


@contextmanager
def recorded(context: Context) -> Iterator[None]:
    """Hold the run's folder for this process while its arms are made, and write its manifest.

    Raises:
        InputError: another process works in the folder, or no states of the model can be read.
    """
    started, folder = time.monotonic(), context.run.folder
    with context.run.locked():
        context.reference.checked.require_stream(context.reference.name)
        yield
        write_manifest(
            folder,
            hashes={"model": context.fingerprint},
            self_check=context.reference.checked.to_json(),
            device=str(context.reference.device),
            seeds=context.plan.seeds,
            # Earlier sessions count, unless this one replaces their results.
            seconds=time.monotonic()
            - started
            + (0.0 if context.plan.overwrite else seconds_of(folder)),
        )


def make_arms(context: Context, baseline: Baseline, together: MakeTogether) -> None:
    """Plain arms, then control arms for as many steps, then contained arms by rising weight.

    Several workers make arms that do not wait for one another at the same time; what they leave
    out, this process makes.
    """
    arms = context.plan.arms

    def make(chosen: Sequence[ArmPlan]) -> None:
        for arm in together(context.plan, chosen):
            make_arm(context, baseline, arm)

    plain = [arm for arm in arms if not arm.control and not arm.retain]
    make(plain)
    steps = max((steps_of(context, arm) for arm in plain), default=1)
    for arm in arms:
        if arm.control and arm.training:
            training = replace(arm.training, max_steps=steps)
            make_arm(context, baseline, replace(arm, training=training))
    contained_arms(context, [arm for arm in arms if arm.retain and arm.training], make)


def contained_arms(
    context: Context, arms: Sequence[ArmPlan], make: Callable[[Sequence[ArmPlan]], None]
) -> None:
    """Make contained arms: at a time the next weight of each sweep, and all arms that have none.

    A sweep over weights ends with the first weight that contains the leakage, or with which the
    target no longer complies: with a larger weight the target would comply even less. Every arm's
    configuration says whether it was chosen, also of arms that an earlier session made.
    """

    def sweep_of(arm: ArmPlan) -> tuple[str | None, str, int]:
        return arm.concept, arm.settings.objective, arm.settings.seed

    selected: set[str] = set()
    best: dict[tuple[str | None, str, int], tuple[float, str]] = {}
    waiting = list(arms)
    while waiting:
        turn = [
            arm
            for place, arm in enumerate(waiting)
            if not arm.sweep or sweep_of(arm) not in map(sweep_of, waiting[:place])
        ]
        waiting = [arm for arm in waiting if arm not in turn]
        make(turn)
        for arm in turn:
            recovery, answers = containment(context, arm)
            chosen = recovery >= LEAST_RECOVERY and answers >= LEAST_ANSWERS
            if chosen or not arm.sweep:
                selected.add(arm.name)
                update_config(context.run.arm(arm.name) / "config.json", selected=True)
            if answers >= LEAST_ANSWERS and recovery > best.get(sweep_of(arm), (-math.inf, ""))[0]:
                best[sweep_of(arm)] = recovery, arm.name
            if arm.sweep and (chosen or answers < LEAST_ANSWERS):
                for left in [one for one in waiting if sweep_of(one) == sweep_of(arm)]:
                    waiting.remove(left)
                    context.progress.say(
                        f"{left.name}: skipped, because a smaller weight ended the sweep"
                    )
    stand_ins = {name for _recovery, name in best.values()}  # shown where no weight was chosen
    for arm in arms:
        if (path := context.run.arm(arm.name) / "config.json").is_file():
            is_in = {"selected": arm.name in selected, "stands_in": arm.name in stand_ins}
            update_config(path, **is_in)


def steps_of(context: Context, arm: ArmPlan) -> int:
    """The number of steps to the saved weights."""
    path = context.run.arm(arm.name) / "scores.parquet"
    return matched_step(read_table(path, ("step", "class")))


def containment(context: Context, plan: ArmPlan) -> tuple[float, float]:
    """Recovery in the retained domains and the target's answer rate, on VALIDATION prompts.

    These numbers choose the weight, so that the choice does not depend on test prompts. Recovery is
    NaN if it is undefined, for example if the arm did not reach the forgetting level.
    """
    record = read_run(context.run.folder)
    arm = next(arm for arm in record.arms if arm.name == plan.name)
    plain = record.plain_of(arm)
    if plain is None or arm.concept is None:
        return float("nan"), float("nan")
    base = behaviour(record.base.on_validation())
    answers = verdict_on(arm.concept, behaviour(arm.on_validation()), base).answer_rate.value
    before, after = (measure(a.on_validation().scores, a.concept) for a in (plain, arm))
    recovery = recover(before, after, plan.retain).recovery.value
    shown = "undefined (level not reached)" if math.isnan(recovery) else f"{recovery:.2f}"
    context.progress.say(
        f"{plan.name}: on validation prompts, recovery in the retained domains {shown}, "
        f"target answers {answers:.2f}"
    )
    return recovery, answers
