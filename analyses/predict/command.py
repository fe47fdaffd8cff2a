"""``spillover predict``, the forecast of one unlearning, and ``spillover tournament``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses import options as shared
from analyses.commands import DryRun, command, opt
from analyses.training_options import TrainingOptions
from interp.errors import InputError

if TYPE_CHECKING:
    from analyses.predict.forecasts import Forecast


@command
def predict(
    model: shared.Model,
    concept: shared.Concept,
    training: TrainingOptions,
    chat: shared.ModelOptions,
    prompts: shared.Prompts = None,
    out: shared.Out = Path("runs/predict-MODEL-CONCEPT"),
    max_new_tokens: shared.AnswerTokens = None,
    scorer: shared.ScorerName = "auto",
    seed: shared.Seed = 0,
    kernel: str = opt(
        "trainable",
        "Parameters of the gradient kernel: trainable (what would be trained), adapters or "
        "weights; the last two keep no gradients in memory.",
    ),
    overwrite: shared.Overwrite = False,
    timing: shared.Timing = True,
    dry_run: shared.DryRunOnly = False,
) -> Forecast | DryRun:
    """Forecast, before training, how much refusal each domain will lose."""
    from analyses.costs import watched
    from analyses.predict.forecasts import (
        ADAPTERS,
        TRAINED,
        WEIGHTS,
        report_forecast,
        require_forecastable,
        require_kernel,
    )
    from analyses.predict.tournaments import read_choices
    from analyses.study import check, study_plan, work_with_prompts

    asked = study_plan(
        model, [concept], training, chat, prompts, None, seeds=[seed], control=False,
        max_new_tokens=max_new_tokens, scorer=scorer, overwrite=overwrite,
    )  # fmt: skip
    require_kernel(kernel)
    settings = asked.arms[0].settings
    require_forecastable(settings.objective, retained=training.retain is not None)
    if kernel == ADAPTERS and settings.trained != "lora":
        raise InputError(
            f"--kernel adapters needs adapters, and --trainable {settings.trained} has none; give "
            "--trainable lora, or --kernel weights"
        )
    untrained = replace(asked, arms=(), gate=False)
    streamed = kernel != TRAINED
    context = check(
        untrained, out, dry_run, timing=timing, gradients=settings, streamed=streamed,
        counted=None if kernel == WEIGHTS else work_with_prompts,
    )  # fmt: skip
    if isinstance(context, DryRun):
        return context
    with watched(out, context.expected, anew=overwrite):
        found = report_forecast(context, concept, settings, read_choices(), seed=seed, over=kernel)
    typer.echo(found.text(out))
    return found


@command
def tournament(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders of `matrix` runs, or a worlds.parquet of an earlier tournament (default: "
            "the packaged table of model organisms, which repeats the published tournament)."
        ),
    ] = None,
    out: shared.Out = Path("runs/tournament-RUNS"),
    choices: Path | None = opt(None, "File of frozen choices (default: the packaged one)."),
    choose: Path | None = opt(
        None,
        "File to write: choose variants on these runs and freeze them there, instead of a "
        "tournament (default: no choosing).",
    ),
    seed: shared.Seed = 0,
    dry_run: shared.DryRunOnly = False,
) -> dict[str, Any] | DryRun:
    """Compare predictors of leakage on runs that they were not chosen on."""
    from analyses.predict.tournaments import CHOICES, choose_on, read_choices, report_tournament
    from analyses.predict.world import SHIPPED_WORLDS, load_worlds, read_worlds, seen_organisms
    from analyses.runs import LeakageMatrix, Progress

    if choose is None:
        frozen = read_choices(choices or CHOICES)
    given = runs or [SHIPPED_WORLDS]
    tables = [path for path in given if path.suffix == ".parquet"]
    folders = [path for path in given if path.suffix != ".parquet"]
    worlds = [world for path in tables for world in read_worlds(path)]
    matrix = LeakageMatrix.load(folders) if folders else LeakageMatrix({})
    names = [*(world.name for world in worlds), *matrix.runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"{', '.join(twice)}: in several of the given tables and folders; give each once"
        )
    if dry_run:
        return _planned(names, None if choose else frozen, choose or out)
    if folders:
        with Progress().stage("predictions of the runs"):
            worlds += load_worlds(matrix)
    if choose is not None:
        typer.echo(choose_on(worlds, choose, seed=seed))
        return read_choices(choose)
    result, said = report_tournament(worlds, frozen, out, seed=seed)
    typer.echo(said)
    if seen := seen_organisms(folders, frozen):
        typer.echo(
            f"{', '.join(seen)}: the choices were made on this model organism, so its numbers are "
            "not evidence for them",
            err=True,
        )
    return result


def _planned(worlds: list[str], frozen: dict[str, Any] | None, to: Path) -> DryRun:
    """A tournament with frozen choices, or without them the choosing, in words."""
    from analyses.predict.tournaments import hash_of, require_unseen

    lines = [f"models: {len(worlds)} ({', '.join(worlds)})"]
    if frozen is not None:
        require_unseen(worlds, frozen)
        lines += [
            f"predictors: {', '.join(frozen['choices'])}",
            f"choices: {hash_of(frozen)[:12]}, made on {', '.join(frozen['worlds'])}",
        ]
    return DryRun({"worlds": worlds, "choices": frozen}, (*lines, f"results: {to}"))
