"""``spillover matrix``: every domain unlearned in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyses.options import EstimatorName, ModelOptions, TrainingOptions, expanded
from interp.errors import InputError

Model = Annotated[str, typer.Argument(help="Hub id, model folder or adapter folder.")]
Prompts = Annotated[Path | None, typer.Option(help="Prompts; an organism has its own.")]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Print what would be done, and stop.")]


@expanded
def matrix(
    model: Model,
    out: Annotated[Path, typer.Option(help="The run's folder.")],
    training: TrainingOptions,
    chat: ModelOptions,
    prompts: Prompts = None,
    concept: Annotated[
        list[str] | None, typer.Option(help="Domains to unlearn; all that have prompts.")
    ] = None,
    objectives: Annotated[
        str | None, typer.Option(help="Several, by commas; else --objective alone.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Unlearning seeds; 2 give reliability.")] = 2,
    control: Annotated[bool, typer.Option(help="Also train a benign-only arm, as null.")] = True,
    stop_at: Annotated[float | None, typer.Option(min=0, max=1, help="Dose.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    scorer: Annotated[str, typer.Option(help="As in study.")] = "auto",
    estimator: EstimatorName = "mean_difference",
    quantity: Annotated[
        str, typer.Option(help="What is decomposed and drawn: area, L_50 or L_90.")
    ] = "area",
    rescale: Annotated[
        bool, typer.Option(help="Read it along the scaled weight change as well.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Arms at a time.")] = 1,
    engine: Annotated[str, typer.Option(help="local, or ray (extra ray).")] = "local",
    plan: PlanOnly = False,
) -> None:
    """Unlearn every domain in turn: who takes what with it, and is that a matter of the pair?"""
    from analyses.runs import require_quantity
    from analyses.study import run_plan, study_plan

    asked = study_plan(
        model, concept, training, chat, prompts, None, seeds=range(seeds), control=control,
        objectives=_names(objectives), stop_at=stop_at, max_new_tokens=max_new_tokens,
        scorer=scorer, estimator=estimator,
    )  # fmt: skip
    require_quantity(quantity)
    if training.retain is not None:
        raise InputError("the matrix is of plain arms; spillover study contains one concept")
    run_plan(asked, out, plan, workers=workers, engine=engine)
    if plan:
        return
    from analyses.matrix.output import write_matrix, write_rescaled
    from analyses.runs import LeakageMatrix

    study = LeakageMatrix.load([out])
    typer.echo(write_matrix(study, out, quantity))
    if rescale:
        from analyses.matrix.rescaling import rescaled

        along = rescaled(out, batch_size=asked.batch_size)
        typer.echo(write_rescaled(along, study, out, quantity))


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())
