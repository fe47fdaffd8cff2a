"""``spillover report``: rebuild a run's tables, figures and page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.commands import command, opt
from analyses.options import ShowCompletions
from interp import plugins

if TYPE_CHECKING:
    from analyses.runs import Run


@command
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished or unfinished run.")],
    compare: Path | None = opt(
        None,
        "Folder of a second run of the same model on the same prompts; a second page shows both "
        "side by side (default: none).",
    ),
    show_completions: ShowCompletions = False,
) -> Run:
    """Rebuild a run's tables, figures and report from its arms."""
    from analyses.report.comparison import write_comparison
    from analyses.report.run_report import write_report
    from analyses.runs import Run
    from interp.store import read_json

    config = folder / "config.json"
    for note in plugins.reuse(read_json(config, ()).get("plugins", ()) if config.is_file() else ()):
        typer.echo(f"note: {note}", err=True)
    typer.echo(write_report(folder, show_completions=show_completions))
    if compare is not None:
        typer.echo(write_comparison(folder, compare, show_completions=show_completions))
    return Run(folder)
