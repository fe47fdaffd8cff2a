"""``spillover plans``: what plans announced, next to what the runs took."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.commands import command

if TYPE_CHECKING:
    import pandas as pd


@command
def plans(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of runs; their manifest.json holds the plan.")
    ],
) -> pd.DataFrame:
    """Compare the time and memory that plans announced with what the runs took."""
    from analyses.costs.comparison import compared_plans, comparison_text

    table = compared_plans(folders)
    typer.echo(comparison_text(table))
    return table
