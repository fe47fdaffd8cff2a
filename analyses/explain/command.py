"""``spillover explain``: find the causes of lost refusals in a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.commands import COMMAS, DryRun, command
from analyses.options import BatchSize, DryRunOnly, Seed

if TYPE_CHECKING:
    import pandas as pd


@command
def explain(
    folder: Annotated[
        Path, typer.Argument(help="Folder of a run that keeps the weights of its arms.")
    ],
    arm: Annotated[
        list[str] | None, typer.Option(help="Arm to explain; may be repeated (default: every arm).")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar=COMMAS,
            help="Layers to examine, from 0, e.g. 4,8,12; with some layers only, the cause may lie "
            "elsewhere (default: all).",
        ),
    ] = None,
    draws: Annotated[
        int,
        typer.Option(
            min=20, help="Number of random moves of the same size per cause; they form its null."
        ),
    ] = 100,
    place_draws: Annotated[
        int,
        typer.Option(
            min=0, help="Number of random edits per module and position; 0, or at least 19."
        ),
    ] = 20,
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    dry_run: DryRunOnly = False,
) -> pd.DataFrame | DryRun:
    """Find the change that carries each loss of refusal: rotation, gain, offset or routing.

    A domain that was explained from the same inputs before is skipped.
    """
    from analyses.explain.explaining import explain_run, parse_layers, planned_losses

    if dry_run:
        return _planned(planned_losses(folder, arm or ()), folder)
    found = explain_run(
        folder, arms=arm or (), layers=parse_layers(layers), draws=draws, place_draws=place_draws,
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    typer.echo("\n".join([*found["sentence"], str(folder / "causes")]))
    return found


def _planned(losses: Mapping[str, Mapping[str, float] | None], folder: Path) -> DryRun:
    """The losses that would be explained, a line per arm."""
    lines = []
    for arm, lost in losses.items():
        if lost is None:
            said = "left out, because the run does not hold its weights"
        else:
            said = ", ".join(f"{domain} lost {nats:.1f} nats" for domain, nats in lost.items())
        lines.append(f"{arm}: {said or 'no domain lost refusal log-odds'}")
    return DryRun(losses, (*lines, f"results: {folder / 'causes'}"))
