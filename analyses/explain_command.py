"""``spillover explain``: why the domains of a finished run lost their refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def explain(
    folder: Annotated[Path, typer.Argument(help="A run's folder that keeps its arms' weights.")],
    arm: Annotated[
        list[str] | None, typer.Option(help="Arm to explain; may be repeated. All by default.")
    ] = None,
    draws: Annotated[int, typer.Option(min=20, help="Random moves for each cause.")] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts in one forward.")] = 64,
    seed: Annotated[int, typer.Option(help="Of halves, draws and resamples.")] = 0,
) -> None:
    """Which change carries each loss: rotation, gain, offset, routing, or not decided."""
    from analyses.explaining import explain_run

    said = explain_run(folder, arms=arm or (), draws=draws, batch_size=batch_size, seed=seed)
    typer.echo("\n".join([*said, str(folder / "causes")]))
