"""``spillover matrix``: unlearn every domain in turn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from analyses import options as shared
from analyses.commands import DryRun, command, opt
from analyses.training_options import TrainingOptions
from interp.errors import InputError

if TYPE_CHECKING:
    from analyses.runs import LeakageMatrix


@command
def matrix(
    model: shared.Model,
    training: TrainingOptions,
    options: shared.StudyOptions,
    made: shared.WorkerOptions,
    chat: shared.ModelOptions,
    prompts: shared.Prompts = None,
    out: shared.Out = Path("runs/matrix-MODEL"),
    concept: list[str] | None = opt(
        None,
        "Domain whose refusals are unlearned; may be repeated (default: every domain with harmful "
        "prompts).",
    ),
    seeds: shared.Seeds = 2,
    control: shared.Control = True,
    quantity: str = opt(
        "area",
        "Quantity that is decomposed and drawn: area (leakage area), L_50 or L_90 (leakage at 50% "
        "or 90% forgetting).",
    ),
    rescale: bool = opt(
        False, "Also measure leakage along the scaled weight change, next to training."
    ),
    timing: shared.Timing = True,
    dry_run: shared.DryRunOnly = False,
) -> LeakageMatrix | DryRun:
    """Unlearn every domain in turn and measure the leakage from each domain into every other."""
    from analyses.runs import require_quantity
    from analyses.study import run_plan, study_plan, trained

    asked = study_plan(
        model, concept, training, chat, prompts, None, seeds=range(seeds), control=control,
        objectives=shared.listed(training.objective), **options.for_plan(),
    )  # fmt: skip
    require_quantity(quantity)
    if training.retain is not None:
        raise InputError("matrix trains plain arms only; for a retain set use spillover study")
    done = run_plan(asked, out, dry_run, timing=timing, workers=made)
    if isinstance(done, DryRun):
        return done
    from analyses.matrix.output import write_matrix, write_rescaled
    from analyses.runs import LeakageMatrix

    if all(arm.control for arm in done.record.arms):
        trained(done)
    found = LeakageMatrix.load([out])
    typer.echo(write_matrix(found, out, quantity))
    if rescale:
        from analyses.matrix.rescaling import rescaled

        along = rescaled(out, batch_size=asked.batch_size)
        typer.echo(write_rescaled(along, found, out, quantity))
    trained(done)
    return found
