"""``spillover report``: a run's tables, figures and page again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interp import plugins


def report(
    folder: Annotated[Path, typer.Argument(help="A run's folder, finished or not.")],
    show_completions: Annotated[bool, typer.Option(help="Put generated text in it.")] = False,
) -> None:
    """Rebuild a run's tables, figures and report from its arms."""
    from analyses.report.report import write_report
    from interp.store import read_json

    config = folder / "config.json"
    for note in plugins.reuse(read_json(config).get("plugins", ()) if config.is_file() else ()):
        typer.echo(f"note: {note}", err=True)
    typer.echo(write_report(folder, show_completions=show_completions))
