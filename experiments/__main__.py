"""``python -m experiments NAME …``: make a table of the docs again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from analyses.cli import main
from experiments.pages import with_table
from interp.errors import InputError
from interp.store import write_text

app = typer.Typer(
    name="experiments",
    help="Make the tables of the docs again.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    rich_markup_mode=None,
)


@app.command()
def organisms(
    out: Annotated[Path, typer.Option(help="Folder of model organisms, runs and the table.")],
    seeds: Annotated[
        str, typer.Option(help="Model organism seeds, separated by commas.")
    ] = "401,402,403,404,405",
    recipe: Annotated[str, typer.Option(help="Recipe of training: gated or ungated.")] = "gated",
    unlearning_seeds: Annotated[int, typer.Option(min=2, help="Seeds of each arm.")] = 2,
    workers: Annotated[int, typer.Option(min=1, help="Number of model organisms at a time.")] = 2,
    rows: Annotated[
        bool, typer.Option("--rows", help="Make the table from the rows in --out, without models.")
    ] = False,
) -> None:
    """Test several model organisms: unlearn every domain of each, with two seeds."""
    from experiments import organisms as measured

    if rows:
        found = measured.write_organisms(out)
    else:
        found = measured.measure_organisms(
            _numbers(seeds), out, recipe=recipe, unlearning_seeds=unlearning_seeds, workers=workers
        )
    typer.echo(json.dumps(found, indent=2))


@app.command("example-run")
def example_run(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path(
        "analyses/workbench/example"
    ),
) -> None:
    """Make the small finished run that the package ships for examples."""
    from experiments.example_run import make_example_run

    typer.echo(make_example_run(out))


@app.command()
def gallery(
    out: Annotated[Path, typer.Option(help="Folder of the rows.")] = Path("docs/gallery/rows"),
    work: Annotated[
        Path | None, typer.Option(help="Folder of the runs (default: a temporary one).")
    ] = None,
) -> None:
    """Make the rows of the gallery's figures of longer commands."""
    from experiments.gallery import make_gallery_rows

    typer.echo(make_gallery_rows(out, work))


@app.command("prompt-forecasts")
def prompt_forecasts(
    out: Annotated[Path, typer.Option(help="Folder of model organisms, runs, table and figure.")],
    seeds: Annotated[
        str | None,
        typer.Option(help="Model organism seeds, separated by commas (default: those reported)."),
    ] = None,
    recipe: Annotated[str, typer.Option(help="Recipe of training: gated or ungated.")] = "gated",
    rows: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="prompts.parquet of an earlier measurement: make the tables from it, without "
            "models (default: measure).",
        ),
    ] = None,
) -> None:
    """Compare the forecast by prompt with the prompts that flip, on several model organisms."""
    from experiments import prompt_forecasts as measured
    from interp.store import read_table
    from unlearning.organism import recipe_of

    recipe_of(recipe)  # refuses an unknown name
    chosen = _numbers(seeds) if seeds else measured.REPORTED[recipe]
    if rows is None:
        found = measured.measure_prompt_forecasts(chosen, out, recipe=recipe)
    else:
        planned = measured.planned(chosen, recipe)
        found = measured.write_prompt_forecasts(read_table(rows), planned, out)
    typer.echo(json.dumps(found, indent=2))


@app.command()
def objectives(
    out: Annotated[Path, typer.Option(help="Folder of the runs, the table and the figure.")],
    model: Annotated[
        str | None, typer.Option(help="Model organism (default: the packaged one).")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of objectives at a time.")] = 2,
) -> None:
    """Compare leakage between six losses: unlearn every domain with two seeds each."""
    from experiments.objectives import compare_objectives
    from unlearning.organism import shipped

    found = compare_objectives(model or str(shipped()), out, workers=workers)
    typer.echo(json.dumps(found, indent=2))


@app.command()
def containment(
    out: Annotated[Path, typer.Option(help="Folder of model organisms, runs, table and figure.")],
    seeds: Annotated[
        str, typer.Option(help="Model organism seeds, separated by commas.")
    ] = "211,212,213,214",
    concept: Annotated[str, typer.Option(help="Domain to unlearn.")] = "cybersecurity",
    recipe: Annotated[str, typer.Option(help="Recipe of training: gated or ungated.")] = "gated",
    splits: Annotated[int, typer.Option(min=1, help="Number of choices of held-out domains.")] = 6,
    examples: Annotated[
        str, typer.Option(help="Numbers of retain examples, separated by commas.")
    ] = "8,32,128",
    methods: Annotated[
        str | None, typer.Option(help="Methods, separated by commas (default: all).")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of arms at a time.")] = 2,
    choose: Annotated[
        Path | None, typer.Option(help="File to write the method that kept most refusal to.")
    ] = None,
    rows: Annotated[
        bool, typer.Option("--rows", help="Make the table from the rows in --out, without models.")
    ] = False,
) -> None:
    """Compare containment methods over several model organisms."""
    from analyses.contain import amounts_of
    from analyses.contain.methods import METHODS
    from experiments.containment import (
        TABLE,
        choose_method,
        contain_worlds,
        write_containment_worlds,
    )

    if rows:
        pooled = write_containment_worlds(out)
    else:
        pooled = contain_worlds(
            _numbers(seeds), out, concept=concept, recipe=recipe, workers=workers, splits=splits,
            examples=amounts_of(examples), methods=(methods or ",".join(METHODS)).split(","),
        )  # fmt: skip
    typer.echo(pooled.round(3).to_string(index=False))
    if choose is not None:
        typer.echo(json.dumps(choose_method(out / TABLE, choose)))


@app.command()
def scorers(
    out: Annotated[Path, typer.Option(help="Folder of model organisms, answers and figures.")],
    draw: Annotated[int, typer.Option(min=1, help="Seed of the fresh completions.")] = 1,
) -> None:
    """Measure how well scorers classify refusals, answers, other text and gibberish."""
    from experiments.scorers import measure_scorers

    typer.echo(json.dumps(measure_scorers(out, draw=draw), indent=2))


@app.command()
def texts(
    file: Annotated[
        Path, typer.Argument(help="JSON lines: prompt, response, kind, class (a list).")
    ],
    scorer: Annotated[list[str], typer.Option(help="Scorer; may be repeated.")],
) -> None:
    """Measure how scorers read texts with known classes; each text is read once."""
    from experiments.scorer_texts import read_texts

    rates, wrong = read_texts(file, scorer)
    typer.echo(f"{wrong.to_string(index=False)}\n\n{rates.to_string(index=False)}")


@app.command()
def speed(
    scorer: Annotated[list[str], typer.Option(help="Scorer; may be repeated.")],
    answers: Annotated[int, typer.Option(min=1, help="Number of answers of 120 words.")] = 10_000,
) -> None:
    """Measure the CPU time that scorers take to learn and to read."""
    from experiments.scorer_texts import time_reading

    typer.echo(time_reading(scorer, answers).to_string(index=False))


@app.command()
def people(
    files: Annotated[list[Path], typer.Argument(help="Files of labelled answers.")],
    out: Annotated[Path, typer.Option(help="Folder of the tables.")],
    scorer: Annotated[list[str], typer.Option(help="Scorer; may be repeated.")],
    label_column: Annotated[
        str | None, typer.Option(help="Field of labels (default: as `spillover agree`).")
    ] = None,
    model_column: Annotated[str, typer.Option(help="Field of each answer's model.")] = "model",
    device: Annotated[str | None, typer.Option(help="Device of the scorers' models.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the shuffle.")] = 0,
) -> None:
    """Compare scorers with people's labels and with controls that cannot read the response."""
    from experiments.scorer_controls import controls_text, measure_people

    found, controls = measure_people(
        files, scorer, out, label=label_column, model=model_column, device=device, seed=seed
    )
    typer.echo(found.text())
    typer.echo(f"\nControls, worst model first\n{controls_text(controls)}")


@app.command()
def panel() -> None:
    """Fit the probe that comes with the package; needs the default reader's wheel."""
    from experiments.panel import ship_fit

    typer.echo(ship_fit().round(3).to_string(index=False))


@app.command()
def registries(
    page: Annotated[Path, typer.Argument(help="Markdown page with the two marks of the table.")],
) -> None:
    """Rewrite a page's table of objectives and methods from the registries."""
    from experiments.registries import registry_table

    write_text(page, with_table(page, "registries", registry_table()))


@app.command()
def architectures(
    family: Annotated[
        list[str] | None, typer.Argument(help="Model types (default: all of transformers).")
    ] = None,
    out: Annotated[Path, typer.Option(help="CSV file of the results.")] = Path(
        "docs/reference/architectures.csv"
    ),
    page: Annotated[
        Path | None, typer.Option(help="Markdown page with the two marks of the tables.")
    ] = None,
    table: Annotated[
        bool, typer.Option(help="Write only the page, from the CSV file (default: no).")
    ] = False,
    resume: Annotated[
        bool, typer.Option(help="Keep the families that the CSV file has (default: no).")
    ] = False,
) -> None:
    """Compare every capability with plain computations, on a tiny model of each family."""
    from experiments.architectures.table import measure_into, page_of, read_table

    found = read_table(out) if table else measure_into(out, family or (), resume=resume)
    if page is not None:
        write_text(page, with_table(page, "architectures", page_of(found)))


@app.command()
def mutants(
    out: Annotated[
        Path, typer.Option(help="Results as JSON lines; a second run continues them.")
    ] = Path("build/mutants.jsonl"),
    part: Annotated[
        str, typer.Option(help="Only mutants whose file or description holds this text.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of the drawn mutants.")] = 16,
    seconds: Annotated[
        float, typer.Option(help="Begin no other mutant after so many seconds.")
    ] = 1e9,
    page: Annotated[
        Path | None, typer.Option(help="Markdown page with the two marks of the table.")
    ] = None,
) -> None:
    """Change one line at a time and see whether the tests notice."""
    from experiments.mutants import all_mutants, chosen, false_alarms, page_of, try_mutants

    found = try_mutants(chosen(all_mutants(seed), part), out, seconds=seconds)
    typer.echo(found["verdict"].value_counts().to_string())
    if alarms := false_alarms(found):
        raise InputError(f"these tests fail without a mutant: {', '.join(alarms)}; mend them first")
    if page is not None:
        write_text(page, with_table(page, "mutants", page_of(found)))


@app.command()
def calibration(
    part: Annotated[
        str | None, typer.Option(help="behaviour or representation (default: both).")
    ] = None,
    quantity: Annotated[
        list[str] | None, typer.Option(help="Only this quantity; repeatable (default: all).")
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="Only rewrite the page's table from the CSV files.")
    ] = False,
    docs: Annotated[Path, typer.Option(help="Folder of the CSV files and the page.")] = Path(
        "docs/reference"
    ),
) -> None:
    """Measure the coverage of every interval and the error rate of every test."""
    import pandas as pd

    from experiments.calibration.benchmark import PARTS, markdown, read_rows, run_part

    if part is not None and part not in PARTS:
        raise InputError(f'no part "{part}"; expected {" or ".join(PARTS)}')
    for name in [] if table else [part] if part else PARTS:
        run_part(name, docs, quantity or (), typer.echo)
    found = pd.concat([read_rows(docs / f"calibration-{name}.csv") for name in PARTS])
    page = docs / "calibration.md"
    write_text(page, with_table(page, "calibration", markdown(found)))


def _numbers(seeds: str) -> list[int]:
    try:
        return [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise InputError(f"--seeds {seeds}: expected numbers separated by commas") from error


if __name__ == "__main__":
    main(app)
