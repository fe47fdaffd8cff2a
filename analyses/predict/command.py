"""``spillover predict``, the forecast of one unlearning, and ``spillover tournament``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from analyses.options import (
    AnswerTokens,
    Model,
    ModelOptions,
    PlanOnly,
    Prompts,
    ScorerName,
    TrainingOptions,
)
from interp.errors import InputError


def predict(
    model: Model,
    concept: Annotated[str, typer.Option(help="Domain that would be unlearned.")],
    training: TrainingOptions,
    chat: ModelOptions,
    out: Annotated[Path, typer.Option(help="Folder of the forecast.")] = Path("runs/predict"),
    prompts: Prompts = None,
    max_new_tokens: AnswerTokens = None,
    scorer: ScorerName = "auto",
    seed: Annotated[int, typer.Option(help="Of resampled prompts.")] = 0,
    kernel: Annotated[
        str, typer.Option(help="Over what is trained; adapters, weights: no gradient is kept.")
    ] = "trained",
    plan: PlanOnly = False,
) -> None:
    """Before training: which domains will lose how much, and whether the target will comply."""
    from analyses.predict.forecasts import (
        ADAPTERS,
        report_forecast,
        require_forecastable,
        require_kernel,
    )
    from analyses.predict.tournament import read_choices
    from analyses.study import check, study_plan

    asked = study_plan(
        model, [concept], training, chat, prompts, None, seeds=[seed], control=False,
        max_new_tokens=max_new_tokens, scorer=scorer,
    )  # fmt: skip
    require_kernel(kernel)
    settings = asked.arms[0].settings
    require_forecastable(settings.objective, retained=training.retain is not None)
    if kernel == ADAPTERS and settings.trained != "lora":
        raise InputError(
            f"{settings.trained} would be trained, and no adapters; give --trained lora with it, "
            "or --kernel weights"
        )
    context = check(replace(asked, arms=()), out, plan)  # nothing is trained
    if context is not None:
        said = report_forecast(context, concept, settings, read_choices(), seed=seed, over=kernel)
        typer.echo(said)


def tournament(
    runs: Annotated[list[Path], typer.Argument(help="Runs of `matrix`, or a worlds.parquet.")],
    out: Annotated[Path, typer.Option(help="Folder of tournament.json and its figure.")],
    choices: Annotated[Path | None, typer.Option(help="Frozen choices; the shipped ones.")] = None,
    choose: Annotated[
        Path | None, typer.Option(help="Choose on these runs instead, and freeze into this file.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of permutations and resampled worlds.")] = 0,
) -> None:
    """Which predictor tells best what leaked, on runs that it was not chosen on."""
    from analyses.predict.tournament import CHOICES, choose_on, read_choices, report_tournament
    from analyses.predict.world import load_worlds, read_worlds, seen_organisms
    from analyses.runs import Progress

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
    typer.echo(report_tournament(worlds, frozen, out, seed=seed))
    if seen := seen_organisms(folders, frozen):
        typer.echo(
            f"{', '.join(seen)}: the choices were made on this organism; its numbers are no "
            "evidence for them",
            err=True,
        )
