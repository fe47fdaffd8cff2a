"""``spillover organism …``: make organisms, and measure what kind of instrument they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from analyses.contain import amounts_of
from interp.errors import InputError

app = typer.Typer(
    help="The embedded model organism: a small model in a planted world.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("train")
def organism_train(
    seed: Annotated[int, typer.Option(help="Of world, weights and data order.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
) -> None:
    """Train an organism from nothing, as the shipped one was (minutes on two cores)."""
    from analyses.runs import Progress
    from unlearning.organism import train

    progress = Progress()
    with progress.stage(f"organism {seed}: training", None) as advance:
        train(seed, out, progress=lambda _step, _total, _loss: advance(1))
    typer.echo(out)


@app.command("measure")
def organism_measure(
    out: Annotated[Path, typer.Option(help="Folder of organisms, runs and the table.")],
    seeds: Annotated[str, typer.Option(help="Organism seeds.")] = "106,107,108,109,110",
    unlearning_seeds: Annotated[int, typer.Option(min=2, help="For reliability.")] = 2,
    workers: Annotated[int, typer.Option(min=1, help="Organisms at a time.")] = 2,
) -> None:
    """Measure the instrument: every domain of several organisms unlearned, with two seeds."""
    from experiments.organisms import measure_organisms

    found = measure_organisms(
        _seeds(seeds), out, unlearning_seeds=unlearning_seeds, workers=workers
    )
    typer.echo(json.dumps(found, indent=2))


@app.command("objectives")
def organism_objectives(
    out: Annotated[Path, typer.Option(help="Folder of the runs, the table and the figure.")],
    model: Annotated[str | None, typer.Option(help="An organism; the shipped one.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Objectives at a time.")] = 2,
) -> None:
    """Is leakage a matter of the loss? Every domain unlearned with six, two seeds each."""
    from experiments.objectives import compare_objectives
    from unlearning.organism import shipped

    found = compare_objectives(model or str(shipped()), out, workers=workers)
    typer.echo(json.dumps(found, indent=2))


@app.command("contain")
def organism_contain(
    out: Annotated[Path, typer.Option(help="Folder of organisms, runs, the table, the figure.")],
    seeds: Annotated[str, typer.Option(help="Organism seeds.")],
    concept: Annotated[str, typer.Option(help="Domain to unlearn.")] = "cybersecurity",
    splits: Annotated[int, typer.Option(min=1, help="Ways to leave domains out.")] = 6,
    examples: Annotated[str, typer.Option(help="Retained examples, by commas.")] = "8,32,128",
    methods: Annotated[str | None, typer.Option(help="By commas; all by default.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Arms at a time.")] = 2,
    choose: Annotated[
        Path | None, typer.Option(help="Freeze the method that kept most into this file.")
    ] = None,
) -> None:
    """Which containment holds over worlds: every method in several organisms."""
    from analyses.contain.methods import METHODS
    from experiments.containment import TABLE, choose_method, contain_worlds

    pooled = contain_worlds(
        _seeds(seeds), out, concept=concept, workers=workers, splits=splits,
        examples=amounts_of(examples), methods=(methods or ",".join(METHODS)).split(","),
    )  # fmt: skip
    typer.echo(pooled.round(3).to_string(index=False))
    if choose is not None:
        typer.echo(json.dumps(choose_method(out / TABLE, choose)))


@app.command("scorers")
def organism_scorers(
    out: Annotated[Path, typer.Option(help="Folder of organisms, of what they said, the figures.")],
    draw: Annotated[int, typer.Option(min=1, help="Seed of the fresh completions.")] = 1,
) -> None:
    """How well scorers tell refusals, answers, other text and gibberish apart: by the grammar."""
    from experiments.scorers import measure_scorers

    typer.echo(json.dumps(measure_scorers(out, draw=draw), indent=2))


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise InputError(f"--seeds {text}: expected numbers separated by commas") from error
