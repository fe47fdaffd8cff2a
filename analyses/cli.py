"""The command line: the list of commands; each is imported when it is used."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from analyses.commands import HELP, USAGE_ERROR, typed_command, usage_line
from interp.errors import InputError, SpilloverError, first_line
from interp.store import is_out_of_room

GROUPS = {
    "First use": {
        "demo": "analyses.study.command:demo",
        "evaluate": "analyses.evaluate.command:evaluate",
        "study": "analyses.study.command:study",
        "report": "analyses.report.command:report",
        "doctor": "analyses.doctor.command:doctor",
        "plans": "analyses.costs.command:plans",
    },
    "Measure": {
        "unlearn": "analyses.study.command:unlearn",
        "compare": "analyses.study.command:compare",
        "matrix": "analyses.matrix.command:matrix",
        "reproduce": "analyses.reproduce.command:reproduce",
    },
    "Explain and predict": {
        "explain": "analyses.explain.command:explain",
        "predict": "analyses.predict.command:predict",
        "tournament": "analyses.predict.command:tournament",
    },
    "Contain": {"contain": "analyses.contain.command:contain"},
    "Data and scoring": {
        "prompts": "analyses.prompts.command:app",
        "deflect": "analyses.deflect.command:deflect",
        "score": "analyses.recorded.command:score",
        "agree": "analyses.recorded.command:agree",
        "calibrate": "analyses.recorded.command:calibrate",
        "organism": "analyses.organism.command:app",
    },
}
COMMANDS = {name: place for group in GROUPS.values() for name, place in group.items()}
# Their Python functions; a command in a command has a name of two words.
FUNCTIONS = {
    **COMMANDS,
    "organism_train": "analyses.organism.command:organism_train",
    "organism_teach": "analyses.organism.command:organism_teach",
}


INTERRUPTED = 130  # what Typer makes of Ctrl-C


class _Imported(Mapping[str, Any]):
    """The commands by name, each imported when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = COMMANDS[name].partition(":")
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        return typed_command(found)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class Commands(TyperGroup):
    """All commands."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = _Imported()  # type: ignore[assignment]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The first sentence of each command's help, by group."""
        for title, names in GROUPS.items():
            rows = [(name, self.commands[name].get_short_help_str(limit=200)) for name in names]
            with formatter.section(title):
                formatter.write_dl(rows, col_max=12)


app = typer.Typer(
    cls=Commands,
    name="spillover",
    help="Measure what narrow unlearning does to everything else in a language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings=HELP,
    rich_markup_mode=None,  # rich tables cut the names of options at 80 columns
)


def _print_version(asked: bool) -> None:
    if asked:
        from interp.store import package_version

        typer.echo(package_version())
        raise typer.Exit


@app.callback()
def spillover(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Measure what narrow unlearning does to everything else in a language model."""


def main(command: typer.Typer = app) -> None:
    """Run ``command``; a user's mistake gives one line and exit code 2, never a traceback."""
    # Users cannot act on deprecations inside libraries.
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        code = command(standalone_mode=False)  # else Typer prints three lines for a wrong option
    except USAGE_ERROR as error:
        typer.echo(usage_line(error), err=True)
        sys.exit(2)
    except typer.Abort:
        typer.echo("error: stopped", err=True)
        sys.exit(1)
    except SpilloverError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except Exception as error:
        if not (advice := _on_machine(error)):
            raise
        typer.echo(f"error: {advice}", err=True)
        sys.exit(1)
    if isinstance(code, int) and code == INTERRUPTED:
        typer.echo(
            "error: stopped by Ctrl-C; finished results are kept, and the same command goes on",
            err=True,
        )
    sys.exit(code if isinstance(code, int) else 0)


def _on_machine(error: Exception) -> str:
    """What to do about a full disk or a full device; empty if ``error`` is neither."""
    if is_out_of_room(error):
        return (
            "the disk is full; every finished arm is kept: free some space, then give the same "
            "command again"
        )
    if "torch" in sys.modules:
        from interp.model import is_out_of_memory

        if is_out_of_memory(error):
            return (
                f"the memory is full ({first_line(error)}); every finished arm is kept: stop other "
                "programs on this device, or choose another with --device, a smaller --batch-size "
                "or a smaller model, then give the same command again"
            )
    return ""


if __name__ == "__main__":
    main()
