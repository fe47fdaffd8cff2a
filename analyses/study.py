"""The engine: a plan in, a run's folder out.

prompts → the base model (answers, openers, scores, states) → each arm: train or load it, score
it, compare its states → tables, figures, report. A stage whose inputs have not changed is
skipped, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd

from analyses import report
from analyses.arms import Arm, read_run
from analyses.baseline import Baseline, establish
from analyses.behaviour import behaviour, verdict_on
from analyses.context import Context, prompts_of, scorer_of
from analyses.leakage import measure
from analyses.making import make
from analyses.plan import LEAST_ANSWERS, LEAST_RECOVERY, ArmPlan, StudyPlan
from analyses.progress import Progress
from analyses.recovery import recover
from analyses.run import Run, update_config, write_manifest
from interp.model import check_source
from interp.rotation import Rotation
from unlearning.deflections import read_deflections
from unlearning.prompts import require_concepts


def run_study(plan: StudyPlan, out: str | Path, progress: Progress | None = None) -> Path:
    """Carry out ``plan`` in the folder ``out`` and return the path of its report.

    What can be checked without loading the model is checked first.

    Raises:
        InputError: the plan cannot be carried out; what was finished before stays.
    """
    progress = progress or Progress()
    started = time.monotonic()
    check_source(plan.model)
    for arm in plan.arms:
        if arm.checkpoint:
            check_source(arm.checkpoint)
    prompts = prompts_of(plan)
    require_concepts(prompts, plan.concepts)
    pairs = read_deflections(plan.deflections) if plan.deflections else None
    run = Run(out)
    run.refuse_other_arms({"base", *(arm.name for arm in plan.arms)})
    context = Context(plan, prompts, pairs, run, progress, scorer_of(plan))
    make_arms(context, establish(context))
    write_manifest(
        run.folder,
        hashes={"model": context.reference.fingerprint()},
        device=str(context.reference.device),
        seeds=plan.seeds,
        seconds=time.monotonic() - started,
    )
    with progress.stage("tables, figures, report"):
        return report.write(run.folder)


def make_arms(context: Context, baseline: Baseline) -> None:
    """Every arm of the plan; a sweep over weights ends with the first that contains."""
    control_arms: list[dict[str, Rotation]] = []
    contained: set[tuple[str | None, int]] = set()
    # Control arms first: they are the null of the others.
    for arm in sorted(context.plan.arms, key=lambda arm: not arm.control):
        seed = arm.training.seed if arm.training else 0
        if arm.sweep and (arm.concept, seed) in contained:
            context.progress.say(f"{arm.name}: not needed, a smaller weight contains the leakage")
            continue
        turned = make(context, baseline, arm, control_arms)
        if arm.control:
            control_arms.append(turned)
        if arm.retain and (not arm.sweep or contains(context, arm)):
            contained.add((arm.concept, seed))
            update_config(context.run.arm(arm.name) / "config.json", selected=True)


def contains(context: Context, plan: ArmPlan) -> bool:
    """Whether the weight is enough: recovery ≥ .7 in the retained domains and a target that answers
    (≥ .8), both on VALIDATION prompts, so that the test prompts report a choice they did not make.
    """
    record = read_run(context.run.folder)
    arm = next(arm for arm in record.arms if arm.name == plan.name)
    plain = record.plain_of(arm)
    if plain is None or arm.concept is None:
        return False
    base = behaviour(_on_validation(record.base))
    answers = verdict_on(arm.concept, behaviour(_on_validation(arm)), base).answer_rate
    before, after = (measure(_on_validation(a).scores, a.concept) for a in (plain, arm))
    regained = recover(before, after, plan.retain).recovery
    context.progress.say(
        f"{plan.name}: on validation prompts, recovery in the retained domains "
        f"{regained.value:.2f}, target answers {answers.value:.2f}"
    )
    return bool(regained.value >= LEAST_RECOVERY and answers.value >= LEAST_ANSWERS)


def _on_validation(arm: Arm) -> Arm:
    """The arm as if its validation prompts were its test prompts too."""
    validation = arm.scores[arm.scores["split"] == "validation"]
    copied = pd.concat([validation, validation.assign(split="test")], ignore_index=True)
    return Arm(arm.name, arm.config, copied, None)
