"""``spillover explain``: why the domains of a finished run lost their refusals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.commands import COMMAS, command

if TYPE_CHECKING:
    import pandas as pd


@command
def explain(
    folder: Annotated[Path, typer.Argument(help="A run's folder that keeps its arms' weights.")],
    arm: Annotated[
        list[str] | None, typer.Option(help="Arm to explain; may be repeated. All by default.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar=COMMAS,
            help="0-based, by commas: 4,8,12; a cause found at some only may lie elsewhere.",
        ),
    ] = None,
    draws: Annotated[int, typer.Option(min=20, help="Random moves for each cause.")] = 100,
    place_draws: Annotated[
        int,
        typer.Option(min=0, help="Random edits for each module and position; 0, or 19 at least."),
    ] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts in one forward.")] = 64,
    seed: Annotated[int, typer.Option(help="Of halves, draws and resamples.")] = 0,
) -> pd.DataFrame:
    """Which change carries each loss: rotation, gain, offset, routing, or not decided.

    A domain that was explained before from the same inputs is not done again.
    """
    from analyses.explain.explaining import explain_run, parse_layers

    found = explain_run(
        folder, arms=arm or (), layers=parse_layers(layers), draws=draws, place_draws=place_draws,
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    typer.echo("\n".join([*found["sentence"], str(folder / "causes")]))
    return found
