"""``spillover report``: a run's tables, figures and page again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(help="A run's folder, finished or not.")],
    show_completions: Annotated[bool, typer.Option(help="Put generated text in it.")] = False,
) -> None:
    """Rebuild a run's tables, figures and report from its arms."""
    from analyses.report.report import write_report

    typer.echo(write_report(folder, show_completions=show_completions))
