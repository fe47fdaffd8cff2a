"""``spillover demo``, ``study``, ``unlearn`` and ``compare``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses import options as shared
from analyses.commands import DryRun, command, command_line, opt
from analyses.study.asked import run_plan, study_plan, trained
from analyses.study.launcher import leads, processes
from analyses.training_options import TrainingOptions
from interp.errors import InputError

if TYPE_CHECKING:
    from analyses.runs import Run


@command
def demo(
    out: shared.Out = Path("runs/demo"),
    seeds: shared.Seeds = 1,
    overwrite: shared.Overwrite = False,
    timing: shared.Timing = True,
    dry_run: shared.DryRunOnly = False,
) -> Run | DryRun:
    """Unlearn two domains of the packaged model organism with NPO, without and with a retain set.

    This is the experiment of Mushtaq et al. 2025 (arXiv 2511.14017).
    """
    from analyses.study.plan import demo_plan
    from interp.model.language_model import usable_device

    asked = replace(demo_plan(seeds), overwrite=overwrite)
    # Two small models with a thread each train faster than one with two.
    alone = processes() > 1 or usable_device(None).type != "cpu" or (os.cpu_count() or 1) < 2
    made = shared.ALONE if alone else shared.WorkerOptions(workers=2)
    return trained(run_plan(asked, out, dry_run, timing=timing, workers=made))


@command
def study(
    model: shared.Model,
    concept: Annotated[
        list[str], typer.Option(help="Domain whose refusals are unlearned; may be repeated.")
    ],
    training: TrainingOptions,
    options: shared.StudyOptions,
    made: shared.WorkerOptions,
    chat: shared.ModelOptions,
    prompts: shared.Prompts = None,
    deflections: shared.Deflections = None,
    out: shared.Out = Path("runs/study-MODEL-CONCEPT"),
    seeds: shared.Seeds = 1,
    control: shared.Control = True,
    show_completions: shared.ShowCompletions = False,
    timing: shared.Timing = True,
    dry_run: shared.DryRunOnly = False,
) -> Run | DryRun:
    """Unlearn refusal in one or more domains and measure what happens to all domains."""
    asked = study_plan(
        model, concept, training, chat, prompts, deflections, seeds=range(seeds), control=control,
        search=True, **options.for_plan(),
    )  # fmt: skip
    return trained(
        run_plan(
            asked, out, dry_run, timing=timing, workers=made, show_completions=show_completions
        )
    )


@command
def unlearn(
    model: shared.Model,
    concept: shared.Concept,
    training: TrainingOptions,
    options: shared.StudyOptions,
    chat: shared.ModelOptions,
    prompts: shared.Prompts = None,
    deflections: shared.Deflections = None,
    out: shared.Out = Path("runs/unlearn-MODEL-CONCEPT"),
    seed: shared.Seed = 0,
    leak_bound: float | None = opt(
        None,
        "Share of its refusal that another domain may lose before training stops (default: no "
        "bound).",
        min=0,
        max=1,
    ),
    utility_bound: float | None = opt(
        None,
        "Share of the answers to benign prompts that may be lost before training stops (default: "
        "no bound).",
        min=0,
        max=1,
    ),
    merge: bool = opt(False, "Also save the adapter merged into its base, as a plain model."),
    timing: shared.Timing = True,
    dry_run: shared.DryRunOnly = False,
) -> Run | DryRun:
    """Train one arm and score it along the way. The same command resumes an interrupted run."""
    asked = study_plan(
        model, [concept], training, chat, prompts, deflections, seeds=[seed], control=False,
        **options.for_plan(),
        bounds=(leak_bound, utility_bound), benign_along=True,
    )  # fmt: skip
    # Here the retained arm is the only one; a study also makes a plain arm.
    arms = tuple(arm for arm in asked.arms if bool(arm.retain) == (training.retain is not None))
    if len(arms) > 1:
        raise InputError("unlearn trains one arm: give one --retain-weight; study tries several")
    done = trained(run_plan(replace(asked, arms=arms), out, dry_run, timing=timing))
    if merge and leads() and not dry_run:
        from analyses.study.making import save_merged

        typer.echo(save_merged(out / "arms" / arms[0].name, chat.for_loading()))
    return done


@command
def compare(
    base: Annotated[
        str,
        typer.Argument(
            callback=shared.known_model, help=f"The model before unlearning. {shared.MODEL}"
        ),
    ],
    after: Annotated[
        str,
        typer.Argument(
            callback=shared.known_model, help="The model after: a full model or an adapter."
        ),
    ],
    chat: shared.ModelOptions,
    prompts: shared.Prompts = None,
    out: shared.Out = Path("runs/compare-BASE-AFTER"),
    concept: str | None = opt(
        None, "Domain that was unlearned, if you know it (default: unknown)."
    ),
    max_new_tokens: shared.AnswerTokens = None,
    scorer: shared.ScorerName = "auto",
    estimator: shared.EstimatorName = "mean_difference",
    overwrite: shared.Overwrite = False,
    timing: shared.Timing = True,
    dry_run: shared.DryRunOnly = False,
) -> Run | DryRun:
    """Compare two existing models with a study's measures, without training."""
    from analyses.study.plan import compare_plan

    asked = compare_plan(
        base,
        after,
        concept=concept,
        prompts=str(prompts) if prompts else None,
        scorer=scorer,
        estimator=estimator,
        max_new_tokens=max_new_tokens,
        model_options=chat.for_loading(),
        command=command_line(),
        overwrite=overwrite,
    )
    return run_plan(asked, out, dry_run, timing=timing)
