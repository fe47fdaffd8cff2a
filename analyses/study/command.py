"""``spillover demo``, ``study``, ``unlearn`` and ``compare``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from analyses.options import (
    AnswerTokens,
    Control,
    Deflections,
    EstimatorName,
    Model,
    ModelOptions,
    Out,
    PlanOnly,
    Prompts,
    ScorerName,
    StudyOptions,
    TrainingOptions,
)
from analyses.study.asked import command_line, run_plan, study_plan
from interp.errors import InputError

CHECKPOINT_EVERY = 10  # steps, of one arm that is trained by itself


def demo(
    out: Out = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Unlearning seeds.")] = 1,
    plan: PlanOnly = False,
) -> None:
    """The paper's experiment on the embedded organism: NPO, and NPO with a retain set."""
    from analyses.study.plan import demo_plan

    run_plan(demo_plan(seeds), out, plan)


def study(
    model: Annotated[str, typer.Option(help="Hub id, model folder or adapter folder.")],
    concept: Annotated[list[str], typer.Option(help="Domain to unlearn; may be repeated.")],
    out: Out,
    training: TrainingOptions,
    options: StudyOptions,
    chat: ModelOptions,
    prompts: Prompts = None,
    deflections: Deflections = None,
    seeds: Annotated[int, typer.Option(min=1, help="Unlearning seeds.")] = 1,
    control: Control = True,
    plan: PlanOnly = False,
) -> None:
    """Unlearn refusal in one domain of any causal LM, and see what else breaks."""
    asked = study_plan(
        model, concept, training, chat, prompts, deflections, seeds=range(seeds), control=control,
        **vars(options),
    )  # fmt: skip
    run_plan(asked, out, plan)


def unlearn(
    model: Model,
    concept: Annotated[str, typer.Option(help="Domain to unlearn.")],
    out: Out,
    training: TrainingOptions,
    options: StudyOptions,
    chat: ModelOptions,
    prompts: Prompts = None,
    deflections: Deflections = None,
    seed: Annotated[int, typer.Option(help="Order of the examples, initial adapters.")] = 0,
    leak_bound: Annotated[
        float | None, typer.Option(min=0, help="Stop when another domain has lost this share.")
    ] = None,
    utility_bound: Annotated[
        float | None, typer.Option(min=0, help="Stop when benign answers have lost this share.")
    ] = None,
    merge: Annotated[bool, typer.Option(help="Save the adapter merged into its base too.")] = False,
    plan: PlanOnly = False,
) -> None:
    """Train one arm, scored along the way. The same command again goes on where it stopped."""
    asked = study_plan(
        model, [concept], training, chat, prompts, deflections, seeds=[seed], control=False,
        **vars(options) | {"checkpoint_every": options.checkpoint_every or CHECKPOINT_EVERY},
        bounds=(leak_bound, utility_bound), benign_along=True,
    )  # fmt: skip
    # A retained arm is itself what was asked for; a study makes it beside a plain one.
    arms = tuple(arm for arm in asked.arms if bool(arm.retain) == (training.retain is not None))
    if len(arms) > 1:
        raise InputError("one arm is trained, with one --retain-weight; a study tries several")
    run_plan(replace(asked, arms=arms), out, plan)
    if merge and not plan:
        from analyses.study.making import save_merged

        typer.echo(save_merged(out / "arms" / arms[0].name, chat.for_loading()))


def compare(
    base: Annotated[str, typer.Argument(help="The model before: hub id or folder.")],
    after: Annotated[str, typer.Argument(help="The model after: full, or an adapter folder.")],
    chat: ModelOptions,
    prompts: Prompts = None,
    out: Out = Path("runs/compare"),
    concept: Annotated[str | None, typer.Option(help="What was unlearned, if known.")] = None,
    max_new_tokens: AnswerTokens = None,
    scorer: ScorerName = "auto",
    estimator: EstimatorName = "mean_difference",
    plan: PlanOnly = False,
) -> None:
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
    run_plan(asked, out, plan)
