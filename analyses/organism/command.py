"""`spillover organism train`: train a model organism with a given seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyses.commands import Command, flattened
from analyses.options import Overwrite

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@app.callback()
def organisms() -> None:
    """Train a model organism: a small model whose refusals have known ground truth."""


@app.command("train", cls=Command)
@flattened
def organism_train(
    seed: Annotated[
        int,
        typer.Option(help="Seed of the synthetic language, the weights and the order of the data."),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder of the checkpoint; SEED stands for the seed.")
    ] = Path("runs/organism-SEED"),
    overwrite: Overwrite = False,
) -> None:
    """Train a model organism from scratch, like the packaged one (minutes on two cores)."""
    from analyses.runs import Progress
    from unlearning.organism import train

    progress = Progress()
    with progress.stage(f"model organism {seed}: training", None) as advance:
        train(seed, out, overwrite=overwrite, progress=lambda _step, _total, _loss: advance(1))
    typer.echo(out)
