"""Commands on many arms: the leakage matrix, the forecast of one, the tournament of predictors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from analyses.study.options import ModelOptions, TrainingOptions, expanded
from interp.errors import InputError

Model = Annotated[str, typer.Argument(help="Hub id, model folder or adapter folder.")]
Prompts = Annotated[Path | None, typer.Option(help="Prompts; an organism has its own.")]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Print what would be done, and stop.")]


@expanded
def matrix(
    model: Model,
    out: Annotated[Path, typer.Option(help="The run's folder.")],
    training: TrainingOptions,
    chat: ModelOptions,
    prompts: Prompts = None,
    concept: Annotated[
        list[str] | None, typer.Option(help="Domains to unlearn; all that have prompts.")
    ] = None,
    objectives: Annotated[
        str | None, typer.Option(help="Several, by commas; else --objective alone.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Unlearning seeds; 2 give reliability.")] = 2,
    control: Annotated[bool, typer.Option(help="Also train a benign-only arm, as null.")] = True,
    stop_at: Annotated[float | None, typer.Option(min=0, max=1, help="Dose.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    scorer: Annotated[str, typer.Option(help="As in study.")] = "auto",
    quantity: Annotated[
        str, typer.Option(help="What is decomposed and drawn: area, L_50 or L_90.")
    ] = "area",
    rescale: Annotated[
        bool, typer.Option(help="Read it along the scaled weight change as well.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Arms at a time.")] = 1,
    engine: Annotated[str, typer.Option(help="local, or ray (extra ray).")] = "local",
    plan: PlanOnly = False,
) -> None:
    """Unlearn every domain in turn: who takes what with it, and is that a matter of the pair?"""
    from analyses.runs.cells import require_quantity
    from analyses.study.asked import carry_out, study_plan

    require_quantity(quantity)
    if training.retain is not None:
        raise InputError("the matrix is of plain arms; spillover study contains one concept")
    if training.objective_file is not None and workers > 1:
        raise InputError("an objective of your own is known to one process; give --workers 1")
    asked = study_plan(
        model, concept, training, chat, prompts, None, seeds=range(seeds), control=control,
        objectives=_names(objectives), stop_at=stop_at, max_new_tokens=max_new_tokens,
        scorer=scorer,
    )  # fmt: skip
    carry_out(asked, out, plan, workers=workers, engine=engine)
    if plan:
        return
    from analyses.matrix.output import write, write_rescaled
    from analyses.runs.leakage_matrix import Study

    study = Study.load([out])
    typer.echo(write(study, out, quantity))
    if rescale:
        from analyses.matrix.rescaling import rescaled

        along = rescaled(out, batch_size=asked.batch_size)
        typer.echo(write_rescaled(along, study, out, quantity))


@expanded
def predict(
    model: Model,
    concept: Annotated[str, typer.Option(help="Domain that would be unlearned.")],
    training: TrainingOptions,
    chat: ModelOptions,
    out: Annotated[Path, typer.Option(help="Folder of the forecast.")] = Path("runs/predict"),
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts; the built-in pairs, an organism's own.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    scorer: Annotated[str, typer.Option(help="As in study.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of resampled prompts.")] = 0,
    kernel: Annotated[
        str,
        typer.Option(help="Over what is trained; adapters, weights: no gradient is kept."),
    ] = "trained",
    plan: PlanOnly = False,
) -> None:
    """Before training: which domains will lose how much, and whether the target will comply."""
    from analyses.predict.forecast import ADAPTERS, require_forecastable, require_kernel
    from analyses.predict.forecasting import forecast_in
    from analyses.study.asked import check, study_plan
    from analyses.study.context import is_organism
    from unlearning.data import matched_pairs

    require_kernel(kernel)
    if prompts is None and not is_organism(model):
        prompts = matched_pairs.FILE
    asked = study_plan(
        model, [concept], training, chat, prompts, None, seeds=[seed], control=False,
        max_new_tokens=max_new_tokens, scorer=scorer,
    )  # fmt: skip
    settings = asked.arms[0].training
    assert settings is not None
    require_forecastable(settings.objective, retained=training.retain is not None)
    if kernel == ADAPTERS and settings.trained != "lora":
        raise InputError(
            f"{settings.trained} would be trained, and no adapters; give --trained lora with it, "
            "or --kernel weights"
        )
    context = check(replace(asked, arms=()), out, plan)  # nothing is trained
    if context is not None:
        typer.echo(forecast_in(context, concept, settings, seed=seed, over=kernel))


def tournament(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Runs of `matrix` or organism measure; or a worlds.parquet."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of tournament.json and its figure.")],
    choices: Annotated[Path | None, typer.Option(help="Frozen choices; the shipped ones.")] = None,
    choose: Annotated[
        Path | None, typer.Option(help="Choose on these runs instead, and freeze into this file.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of permutations and resampled worlds.")] = 0,
) -> None:
    """Which predictor tells best what leaked, on runs that it was not chosen on."""
    from analyses.predict.archive import read_worlds
    from analyses.predict.tournament import CHOICES, choose_on, read_choices, report
    from analyses.predict.world import load_worlds, seen_organisms
    from analyses.runs.progress import Progress

    if choose is None:
        frozen = read_choices(choices or CHOICES)
    tables = [path for path in runs if path.suffix == ".parquet"]
    folders = [path for path in runs if path.suffix != ".parquet"]
    worlds = [world for path in tables for world in read_worlds(path)]
    if folders:
        with Progress().stage(f"{len(folders)} runs: predictions"):
            worlds += load_worlds(folders)
    if choose is not None:
        typer.echo(choose_on(worlds, choose, seed=seed))
        return
    typer.echo(report(worlds, frozen, out, seed=seed))
    if seen := seen_organisms(folders, frozen):
        typer.echo(
            f"{', '.join(seen)}: the choices were made on this organism; its numbers are no "
            "evidence for them",
            err=True,
        )


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())
