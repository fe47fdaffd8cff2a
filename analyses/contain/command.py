"""``spillover contain``: compare methods that keep other domains' refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from analyses import options as shared
from analyses.commands import COMMAS, DryRun, command, opt
from analyses.training_options import TrainingOptions
from interp.errors import InputError

if TYPE_CHECKING:
    from analyses.contain.advice import Advice


@command
def contain(
    model: shared.Model,
    concept: shared.Concept,
    training: TrainingOptions,
    options: shared.StudyOptions,
    made: shared.WorkerOptions,
    chat: shared.ModelOptions,
    prompts: shared.Prompts = None,
    deflections: shared.Deflections = None,
    out: shared.Out = Path("runs/contain-MODEL-CONCEPT"),
    methods: str | None = opt(
        None,
        "Methods to compare (default: all): {analyses.contain.methods:method}.",
        metavar=COMMAS,
    ),
    examples: str = opt(
        "8,32,128",
        "Numbers of retained examples for methods that choose examples; equal is also trained on "
        "all of them.",
        metavar=COMMAS,
    ),
    splits: int = opt(6, "Number of random splits into retained and held-out domains.", min=1),
    left_out: int = opt(3, "Number of held-out domains in each split.", min=1),
    seed: shared.Seed = 0,
    shallow_recovery: bool = opt(
        True, "Test the recommended arm for shallow recovery: prefill, trigger and relearning."
    ),
    timing: shared.Timing = True,
    dry_run: shared.DryRunOnly = False,
) -> Advice | DryRun:
    """Compare methods that unlearn one domain and keep the refusals of the others."""
    from analyses.contain.arms import Design, held_out_splits, require_methods
    from analyses.contain.methods import METHODS
    from analyses.contain.work import HELD, ContainmentWork
    from analyses.study import (
        check,
        prompts_of,
        refuse_launcher,
        require_trained,
        require_workers,
        study_plan,
        weights_to_try,
    )
    from unlearning.data import present_domains

    if training.retain is not None or training.adaptive:
        raise InputError("contain varies the retain set and its loss by itself; see --methods")
    asked = study_plan(
        model, [concept], replace(training, retain_weight=None), chat, prompts, deflections,
        seeds=[seed], control=False, **options.for_plan(),
    )  # fmt: skip
    refuse_launcher()
    require_workers(asked, made)
    weights, settings = weights_to_try(
        training.retain_weight, training.retain_unit, asked.arms[0].settings
    )
    others = [domain for domain in present_domains(prompts_of(asked)) if domain != concept]
    design = Design(
        concept,
        require_methods(shared.listed(methods) if methods else tuple(METHODS)),
        amounts_of(examples),
        weights,
        held_out_splits(others, count=splits, left_out=left_out, seed=seed),
        settings,
    )
    plan = replace(asked, arms=tuple(design.everything()))
    counted = ContainmentWork(design, shallow_recovery)
    context = check(
        plan, out, dry_run, design.plan_lines(), timing=timing, counted=counted,
        most=len(design.made()), more_models=HELD * shallow_recovery,
    )  # fmt: skip
    if isinstance(context, DryRun):
        return context
    chosen = context.plan.arms[0].settings  # with as many rows in a forward as fit the device
    fitting = replace(
        settings,
        micro_batch_size=chosen.micro_batch_size,
        activation_checkpointing=chosen.activation_checkpointing,
    )
    design = replace(design, training=fitting)
    from analyses.contain import study
    from analyses.costs import watched
    from analyses.runs import read_run

    with watched(out, context.expected, anew=plan.overwrite):
        advice = study.run_containment(
            context, design, shallow_recovery=shallow_recovery, seed=seed, workers=made
        )
    typer.echo("\n".join([*advice.sentences, str(out / study.FOLDER)]))
    require_trained(read_run(out))
    return advice


def amounts_of(text: str) -> tuple[int, ...]:
    """Parse numbers of examples such as ``8,32,all``; all examples are always tried."""
    try:
        found = tuple(sorted({int(part) for part in text.split(",") if part.strip() != "all"}))
    except ValueError as error:
        raise InputError(f"--examples {text}: expected numbers separated by commas") from error
    if any(count < 1 for count in found):
        raise InputError(f"--examples {text}: expected numbers above 0")
    return found
