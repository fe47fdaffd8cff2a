"""The engine of a study: it turns a plan into a run's folder.

prompts → the base model (answers, prefixes, scores, states, direction gate) → each arm: train or
load it, score it, compare its states → tables, figures, report. The engine skips stages with
unchanged inputs, so the same plan resumes an interrupted run.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from analyses.options import ALONE, WorkerOptions
from analyses.report import run_report
from analyses.runs import (
    Progress,
    RunRecord,
    TargetOutcome,
    behaviour,
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
from analyses.study.jobs import Then, nothing
from analyses.study.launcher import processes
from analyses.study.making import make_arm, require_replaceable
from analyses.study.mixing import with_answered_benign
from analyses.study.plan import LEAST_ANSWERS, LEAST_RECOVERY, ArmPlan, StudyPlan
from analyses.study.workers import MakeTogether, arms_in_workers
from interp.errors import TrainingError


def run_study(plan: StudyPlan, out: str | Path, progress: Progress | None = None) -> Path:
    """Run ``plan`` in the folder ``out`` and return the path of its report.

    All checks that need no model come first.

    Raises:
        InputError: the plan cannot run; finished results stay.
        TrainingError: arms cannot be trained; after the report of the others.
    """
    report = run_checked_study(study_context(plan, out, progress or Progress()))
    require_trained(read_run(report.parent))
    return report


def run_checked_study(
    context: Context, *, workers: WorkerOptions = ALONE, show_completions: bool = False
) -> Path:
    """:func:`run_study` with checked inputs; several workers make arms in parallel.

    Arms that cannot be trained are left to :func:`require_trained`.

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
        context = with_enough_deflections(context, baseline)
        context = with_answered_benign(context, baseline)
        require_replaceable(context, baseline, context.plan.arms)
        write_gate(context, baseline)
        make_arms(context, baseline, together)
    with context.progress.stage("tables, figures, report"):
        report = run_report.write_report(
            folder, show_completions=show_completions, processes=workers.processes
        )
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
    """Plain arms, then control arms for as many steps and contained arms by rising weight.

    Several workers make arms that do not wait for one another at the same time; what they leave
    out, this process makes.
    """

    def make(chosen: Sequence[ArmPlan], then: Then = nothing) -> None:
        for arm in together(context.plan, chosen, then):
            attempt_arm(context, baseline, arm)
            make(then(arm), then)

    arms = context.plan.arms
    plain = [arm for arm in arms if not arm.control and not arm.retain]
    make(plain)
    rest = [arm for arm in arms if arm.training and arm not in plain]
    if plain and not any((context.run.arm(arm.name) / "DONE").is_file() for arm in plain):
        context.progress.say(
            "left out: control arms, which are as long as a plain arm: none was trained"
        )
        rest = [arm for arm in rest if not arm.control]
    contained_arms(context, rest, make)


def attempt_arm(context: Context, baseline: Baseline, arm: ArmPlan) -> None:
    """Make an arm; if it cannot be trained, say so, and the study goes on with the others."""
    try:
        make_arm(context, baseline, arm)
        return
    except TrainingError as error:
        if processes() > 1:  # those of a launcher are in the middle of its training
            raise
        context.progress.say(f"{arm.name}: failed: {error}")
    gc.collect()  # else what its training held stays in memory during the next one


def require_trained(record: RunRecord) -> None:
    """End a command whose arms are not all trained, after everything else is written.

    Raises:
        TrainingError: names these arms, each with its reason.
    """
    if record.failed:
        said = "; ".join(f"{name}: {why}" for name, why in record.failed.items())
        raise TrainingError(f"not trained: {said}; the results of all other arms are complete")


def contained_arms(
    context: Context, arms: Sequence[ArmPlan], make: Callable[[Sequence[ArmPlan], Then], None]
) -> None:
    """Make contained and control arms; in a sweep a weight begins when the one before is judged.

    A sweep over weights ends with the first weight that contains the leakage, or with which the
    target still refuses or does not reach the forgetting level: with a larger weight it would
    forget even less. After a degenerate target the next weight is tried, which may keep it
    coherent. Every arm's configuration says whether it was chosen, also of arms that an earlier
    session made.
    """

    def sweep_of(arm: ArmPlan) -> tuple[str | None, str, int]:
        return arm.concept, arm.settings.objective, arm.settings.seed

    selected: set[str] = set()
    best: dict[tuple[str | None, str, int], tuple[float, str]] = {}
    sweeps: dict[tuple[str | None, str, int], list[ArmPlan]] = {}
    for arm in arms:
        if arm.sweep:
            sweeps.setdefault(sweep_of(arm), []).append(arm)

    def judge(arm: ArmPlan) -> list[ArmPlan]:
        """What may begin after a finished arm: the next weight of its sweep."""
        if arm.control:
            return []
        recovery, answers, outcome = containment(context, arm)
        is_degenerate = outcome is TargetOutcome.DEGENERATE
        complies = answers >= LEAST_ANSWERS and not is_degenerate
        chosen = complies and recovery >= LEAST_RECOVERY
        if chosen or not arm.sweep:
            selected.add(arm.name)
            update_config(context.run.arm(arm.name) / "config.json", selected=True)
        if complies and recovery > best.get(sweep_of(arm), (-math.inf, ""))[0]:
            best[sweep_of(arm)] = recovery, arm.name
        larger = sweeps[sweep_of(arm)] if arm.sweep else []
        if is_degenerate or (complies and recovery < LEAST_RECOVERY):
            return [larger.pop(0)] if larger else []
        why = "contains the leakage" if chosen else "has no defined recovery"
        if outcome is TargetOutcome.STILL_REFUSES and not complies:
            why = "already keeps the target's refusals"
        for left in larger:
            context.progress.say(f"{left.name}: not needed, because a smaller weight {why}")
        return []

    firsts = [sweep.pop(0) for sweep in sweeps.values()]
    make([arm for arm in arms if not arm.sweep or arm in firsts], judge)
    stand_ins = {name for _recovery, name in best.values()}  # shown where no weight was chosen
    for arm in [arm for arm in arms if not arm.control]:
        if (path := context.run.arm(arm.name) / "config.json").is_file():
            is_in = {"selected": arm.name in selected, "stands_in": arm.name in stand_ins}
            update_config(path, **is_in)


def containment(context: Context, plan: ArmPlan) -> tuple[float, float, TargetOutcome]:
    """Recovery in the retained domains, and the target's answer rate and outcome.

    These numbers choose the weight. They are of VALIDATION prompts, so that the choice does not
    depend on test prompts. Recovery is NaN if it is undefined, for example if the arm did not reach
    the forgetting level. An arm that cannot be trained counts as degenerate.
    """
    plain = [arm.name for arm in context.plan.arms if not arm.retain and not arm.control]
    record = read_run(context.run.folder, only=[plan.name, *plain])
    if plan.name in record.failed:
        return float("nan"), float("nan"), TargetOutcome.DEGENERATE
    arm = next(arm for arm in record.arms if arm.name == plan.name)
    before = record.plain_of(arm)
    if before is None or arm.concept is None:
        return float("nan"), float("nan"), TargetOutcome.UNKNOWN
    base = behaviour(record.base.on_validation())
    verdict = verdict_on(arm.concept, behaviour(arm.on_validation()), base)
    answers = verdict.answer_rate.value
    leaks, contained = (measure(a.on_validation().scores, a.concept) for a in (before, arm))
    recovery = recover(leaks, contained, plan.retain).recovery
    undefined = f"undefined ({recovery.reason})"
    shown = undefined if math.isnan(recovery.value) else f"{recovery.value:.2f}"
    context.progress.say(
        f"{plan.name}: on validation prompts, recovery in the retained domains {shown}, "
        f"target answers {answers:.2f} ({verdict.outcome.badge})"
    )
    return recovery.value, answers, verdict.outcome
