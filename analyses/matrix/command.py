"""``spillover matrix``: every domain unlearned in turn."""

from __future__ import annotations

from typing import Annotated

import typer

from analyses.options import (
    Control,
    Model,
    ModelOptions,
    Out,
    PlanOnly,
    Prompts,
    StudyOptions,
    TrainingOptions,
    WorkerOptions,
    listed,
)
from interp.errors import InputError


def matrix(
    model: Model,
    out: Out,
    training: TrainingOptions,
    options: StudyOptions,
    made: WorkerOptions,
    chat: ModelOptions,
    prompts: Prompts = None,
    concept: Annotated[
        list[str] | None, typer.Option(help="Domains to unlearn; all that have prompts.")
    ] = None,
    objectives: Annotated[
        str | None, typer.Option(help="Several, by commas; else --objective alone.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Unlearning seeds; 2 give reliability.")] = 2,
    control: Control = True,
    quantity: Annotated[
        str, typer.Option(help="What is decomposed and drawn: area, L_50 or L_90.")
    ] = "area",
    rescale: Annotated[
        bool, typer.Option(help="Read it along the scaled weight change as well.")
    ] = False,
    plan: PlanOnly = False,
) -> None:
    """Unlearn every domain in turn: who takes what with it, and is that a matter of the pair?"""
    from analyses.runs import require_quantity
    from analyses.study import run_plan, study_plan

    asked = study_plan(
        model, concept, training, chat, prompts, None, seeds=range(seeds), control=control,
        objectives=listed(objectives), **vars(options),
    )  # fmt: skip
    require_quantity(quantity)
    if training.retain is not None:
        raise InputError("the matrix is of plain arms; spillover study contains one concept")
    run_plan(asked, out, plan, **vars(made))
    if plan:
        return
    from analyses.matrix.output import write_matrix, write_rescaled
    from analyses.runs import LeakageMatrix

    trained = LeakageMatrix.load([out])
    typer.echo(write_matrix(trained, out, quantity))
    if rescale:
        from analyses.matrix.rescaling import rescaled

        along = rescaled(out, batch_size=asked.batch_size)
        typer.echo(write_rescaled(along, trained, out, quantity))
