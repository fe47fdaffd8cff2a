"""``spillover matrix``: unlearn every domain in turn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.commands import DryRun, command
from analyses.options import (
    Control,
    DryRunOnly,
    Model,
    ModelOptions,
    Out,
    Prompts,
    Seeds,
    StudyOptions,
    Timing,
    TrainingOptions,
    WorkerOptions,
    listed,
)
from interp.errors import InputError

if TYPE_CHECKING:
    from analyses.runs import LeakageMatrix


@command
def matrix(
    model: Model,
    training: TrainingOptions,
    options: StudyOptions,
    made: WorkerOptions,
    chat: ModelOptions,
    prompts: Prompts = None,
    out: Out = Path("runs/matrix-MODEL"),
    concept: Annotated[
        list[str] | None,
        typer.Option(
            help="Domain whose refusals are unlearned; may be repeated (default: every domain "
            "with harmful prompts)."
        ),
    ] = None,
    seeds: Seeds = 2,
    control: Control = True,
    quantity: Annotated[
        str,
        typer.Option(
            help="Quantity that is decomposed and drawn: area (leakage area), L_50 or L_90 "
            "(leakage at 50% or 90% forgetting)."
        ),
    ] = "area",
    rescale: Annotated[
        bool,
        typer.Option(help="Also measure leakage along the scaled weight change, next to training."),
    ] = False,
    timing: Timing = True,
    dry_run: DryRunOnly = False,
) -> LeakageMatrix | DryRun:
    """Unlearn every domain in turn and measure the leakage from each domain into every other."""
    from analyses.runs import require_quantity
    from analyses.study import run_plan, study_plan

    asked = study_plan(
        model, concept, training, chat, prompts, None, seeds=range(seeds), control=control,
        objectives=listed(training.objective), **options.for_plan(),
    )  # fmt: skip
    require_quantity(quantity)
    if training.retain is not None:
        raise InputError("matrix trains plain arms only; for a retain set use spillover study")
    done = run_plan(asked, out, dry_run, timing=timing, workers=made)
    if isinstance(done, DryRun):
        return done
    from analyses.matrix.output import write_matrix, write_rescaled
    from analyses.runs import LeakageMatrix

    trained = LeakageMatrix.load([out])
    typer.echo(write_matrix(trained, out, quantity))
    if rescale:
        from analyses.matrix.rescaling import rescaled

        along = rescaled(out, batch_size=asked.batch_size)
        typer.echo(write_rescaled(along, trained, out, quantity))
    return trained
