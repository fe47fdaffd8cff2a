"""``spillover demo``, ``study``, ``unlearn`` and ``compare``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.commands import DryRun, command, command_line
from analyses.options import (
    AnswerTokens,
    Control,
    Deflections,
    DryRunOnly,
    EstimatorName,
    Model,
    ModelOptions,
    Out,
    Prompts,
    ScorerName,
    StudyOptions,
    TrainingOptions,
    known_model,
)
from analyses.study.asked import run_plan, study_plan
from interp.errors import InputError

if TYPE_CHECKING:
    from analyses.runs import Run

CHECKPOINT_EVERY = 10  # steps, of one arm that is trained by itself


@command
def demo(
    out: Out = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Unlearning seeds.")] = 1,
    dry_run: DryRunOnly = False,
) -> Run | DryRun:
    """The paper's experiment on the embedded organism: NPO, and NPO with a retain set."""
    from analyses.study.plan import demo_plan

    return run_plan(demo_plan(seeds), out, dry_run)


@command
def study(
    model: Model,
    concept: Annotated[list[str], typer.Option(help="Domain to unlearn; may be repeated.")],
    training: TrainingOptions,
    options: StudyOptions,
    chat: ModelOptions,
    prompts: Prompts = None,
    deflections: Deflections = None,
    out: Out = Path("runs/study-MODEL-CONCEPT"),
    seeds: Annotated[int, typer.Option(min=1, help="Unlearning seeds.")] = 1,
    control: Control = True,
    dry_run: DryRunOnly = False,
) -> Run | DryRun:
    """Unlearn refusal in one domain of any causal LM, and see what else breaks."""
    asked = study_plan(
        model, concept, training, chat, prompts, deflections, seeds=range(seeds), control=control,
        **options.for_plan(),
    )  # fmt: skip
    return run_plan(asked, out, dry_run)


@command
def unlearn(
    model: Model,
    concept: Annotated[str, typer.Option(help="Domain to unlearn.")],
    training: TrainingOptions,
    options: StudyOptions,
    chat: ModelOptions,
    prompts: Prompts = None,
    deflections: Deflections = None,
    out: Out = Path("runs/unlearn-MODEL-CONCEPT"),
    seed: Annotated[int, typer.Option(help="Order of the examples, initial adapters.")] = 0,
    leak_bound: Annotated[
        float | None, typer.Option(min=0, help="Stop when another domain has lost this share.")
    ] = None,
    utility_bound: Annotated[
        float | None, typer.Option(min=0, help="Stop when benign answers have lost this share.")
    ] = None,
    merge: Annotated[bool, typer.Option(help="Save the adapter merged into its base too.")] = False,
    dry_run: DryRunOnly = False,
) -> Run | DryRun:
    """Train one arm, scored along the way. The same command again goes on where it stopped."""
    asked = study_plan(
        model, [concept], training, chat, prompts, deflections, seeds=[seed], control=False,
        **options.for_plan() | {"checkpoint_every": options.checkpoint_every or CHECKPOINT_EVERY},
        bounds=(leak_bound, utility_bound), benign_along=True,
    )  # fmt: skip
    # A retained arm is itself what was asked for; a study makes it beside a plain one.
    arms = tuple(arm for arm in asked.arms if bool(arm.retain) == (training.retain is not None))
    if len(arms) > 1:
        raise InputError("one arm is trained, with one --retain-weight; a study tries several")
    done = run_plan(replace(asked, arms=arms), out, dry_run)
    if merge and not dry_run:
        from analyses.study.making import save_merged

        typer.echo(save_merged(out / "arms" / arms[0].name, chat.for_loading()))
    return done


@command
def compare(
    base: Annotated[
        str, typer.Argument(callback=known_model, help="The model before: hub id or folder.")
    ],
    after: Annotated[
        str,
        typer.Argument(callback=known_model, help="The model after: full, or an adapter folder."),
    ],
    chat: ModelOptions,
    prompts: Prompts = None,
    out: Out = Path("runs/compare-BASE-AFTER"),
    concept: Annotated[str | None, typer.Option(help="What was unlearned, if known.")] = None,
    max_new_tokens: AnswerTokens = None,
    scorer: ScorerName = "auto",
    estimator: EstimatorName = "mean_difference",
    dry_run: DryRunOnly = False,
) -> Run | DryRun:
    """Everything but the training, on two models that exist already."""
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
    )
    return run_plan(asked, out, dry_run)
