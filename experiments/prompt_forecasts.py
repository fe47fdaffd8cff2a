"""Does the forecast by prompt say which refused prompts flip? Model organisms, each unlearned.

Development, and the error of the predicted log-odds (:data:`analyses.predict.by_prompt.ERROR`),
used the model organism 106 of the recipe ``ungated``, never REPORTED ones; a result has the error
of largest likelihood as well. ``manifest.json`` names every arm before the first is made; an arm
without a result is listed as missing. ``prompts.parquet`` holds a row per prompt, and
:func:`write_prompt_forecasts` makes every table and the figure from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import typer
from scipy import optimize, special

from analyses.figures import Drawing, write_results
from analyses.predict import forecast_skill, read_choices
from analyses.predict.by_prompt import ERROR, FORECAST, LEVELS, PREDICTORS
from analyses.predict.forecasts import report_forecast
from analyses.predict.prompt_calibration import (
    BASE_RATE,
    BINS,
    KINDS,
    PRIOR,
    calibration,
    reliability_table,
)
from analyses.predict.prompt_figures import prompt_skill_figure
from analyses.predict.prompt_skill import skill_table
from analyses.runs import Progress, over_worlds
from analyses.study import organism_plan, run_study, study_context
from interp.errors import InputError
from interp.store import read_json, without_nan, write_json, write_table
from unlearning.organism import GATED, UNGATED, recipe_of, train

REPORTED = {GATED: (311, 312, 313), UNGATED: (301, 302, 303)}
CONCEPTS = ("safety", "privacy")


def measure_prompt_forecasts(
    seeds: Sequence[int],
    out: str | Path,
    *,
    recipe: str = GATED,
    concepts: Sequence[str] = CONCEPTS,
) -> dict[str, Any]:
    """Unlearn the concepts in each model organism, forecast each, and write tables and a figure.

    Finished parts in ``out`` are not computed again.
    """
    folder = Path(out)
    if not (folder / "manifest.json").is_file():
        write_json(folder / "manifest.json", planned(seeds, recipe, concepts))
    parts = [_world(seed, folder, recipe, concepts) for seed in seeds]
    rows = pd.concat(parts, ignore_index=True)
    write_table(folder / "prompts.parquet", rows)
    return write_prompt_forecasts(rows, read_json(folder / "manifest.json"), folder)


def planned(
    seeds: Sequence[int], recipe: str = GATED, concepts: Sequence[str] = CONCEPTS
) -> dict[str, Any]:
    """Every arm that a measurement will make, and the hash of what is frozen."""
    frozen = json.dumps([ERROR, LEVELS, list(PREDICTORS), list(KINDS), BINS, PRIOR]).encode()
    return {
        "seeds": list(seeds), "recipe": recipe, "trained": recipe_of(recipe).digest,
        "concepts": list(concepts), "levels": list(LEVELS), "error": ERROR,
        "frozen": hashlib.sha256(frozen).hexdigest(),
    }  # fmt: skip


def write_prompt_forecasts(
    rows: pd.DataFrame, manifest: Mapping[str, Any], out: str | Path
) -> dict[str, Any]:
    """Write every table and the figure from the rows per prompt.

    Args:
        rows: ``prompts.parquet`` of a measurement.
        manifest: what was :func:`planned`; an arm without a row is ``missing``.
        out: a folder.
    """
    table = pooled(rows)
    prompts = rows.groupby(["world", "unit"]).ngroup()  # worlds share no prompt
    curve, reliability = calibration(rows.assign(unit=prompts)), pooled_reliability(rows)
    missing = [
        f"{seed}: {concept} at {level:.0%}"
        for seed in manifest["seeds"] for concept in manifest["concepts"]
        for level in manifest["levels"]
        if rows[(rows["world"] == seed) & (rows["concept"] == concept)
                & (rows["level"] == level)].empty
    ]  # fmt: skip
    found: dict[str, Any] = {
        **manifest,
        "missing": missing,
        "table": table.to_dict("records"),
        "reliability": reliability.to_dict("records"),
        "fitted_error_of_these": fitted_error(rows),
    }
    drawn = [Drawing("prompt_forecasts", "", "", prompt_skill_figure(table, curve), table)]
    write_results(
        Path(out),
        tables={"calibration": curve, "reliability": reliability},
        facts={"prompt_forecasts": without_nan(found)},
        drawings=drawn,
        figures="",
    )
    return dict(without_nan(found))


def _world(seed: int, folder: Path, recipe: str, concepts: Sequence[str]) -> pd.DataFrame:
    """The refused prompts of one model organism's arms, with every predictor."""
    model = folder / f"organism-{seed}"
    if not (model / "organism.json").is_file():
        train(seed, model, recipe_of(recipe))
    run = folder / f"run-{seed}"
    command = (
        f"python -m experiments prompt-forecasts --seeds {seed} --recipe {recipe} --out {folder}"
    )
    plan = organism_plan(str(model), concepts, seeds=[0], control=False, command=command)
    run_study(plan, run, Progress(quiet=True))
    parts = []
    for concept in concepts:
        told = folder / f"forecast-{seed}-{concept}"
        if not (told / "forecast.json").is_file():
            untrained = replace(plan, arms=(), concepts=(concept,))
            context = study_context(untrained, told, Progress(quiet=True))
            report_forecast(context, concept, plan.arms[0].settings, read_choices(), seed=0)
        try:
            found = forecast_skill(run, told).prompts
        except InputError as error:  # no forecast, or no arm that reaches a level: it is missing
            typer.echo(f"{seed}, {concept}: {error}", err=True)
            continue
        parts.append(found.assign(world=seed, concept=concept))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """AUROC of every predictor over worlds (mean over a world's arms first).

    Columns: ``level, predictor``; ``value`` with Student's interval over worlds; the mean
    ``within`` cells; ``ahead``: how far the forecast by prompt is ahead, paired over worlds, with
    ``ahead_low`` and ``ahead_high``; ``worlds`` and ``n`` prompts.
    """
    return _over_worlds(rows, partial(skill_table, seed=0), "predictor", "within", FORECAST)


def pooled_reliability(rows: pd.DataFrame) -> pd.DataFrame:
    """Brier score (``value``) and ``ece`` of every kind of probability, as in :func:`pooled`.

    ``ahead`` is the Brier score of the base rate minus that of the kind: above 0 is better.
    """
    return _over_worlds(rows, reliability_table, "kind", "ece", BASE_RATE)


def _over_worlds(
    rows: pd.DataFrame,
    measured: Callable[[pd.DataFrame], pd.DataFrame],
    name: str,
    other: str,
    reference: str,
) -> pd.DataFrame:
    """Means over worlds of ``value`` and ``other`` by level and ``name``; see :func:`pooled`."""
    parts = [measured(part).assign(world=world) for world, part in rows.groupby("world")]
    by_world = (
        pd.concat(parts).groupby(["level", name, "world"], sort=False)[["value", other]].mean()
    )
    table = []
    for level in rows["level"].unique():
        at_level = by_world.xs(level, level="level")
        values, others = (at_level[column].unstack("world") for column in ("value", other))
        first = values.loc[reference].to_numpy()
        for row in values.index:
            of_worlds = values.loc[row].to_numpy()
            found, ahead = over_worlds(of_worlds), over_worlds(first - of_worlds)
            table.append(
                {
                    "level": level, name: row, "value": found.value,
                    "low": found.low, "high": found.high, other: float(others.loc[row].mean()),
                    "ahead": ahead.value, "ahead_low": ahead.low, "ahead_high": ahead.high,
                    "worlds": len(of_worlds), "n": int((rows["level"] == level).sum()),
                }
            )  # fmt: skip
    return pd.DataFrame(table)


def fitted_error(rows: pd.DataFrame) -> dict[str, float]:
    """The two parts of the error with the largest likelihood of these flips."""
    known = rows.dropna(subset=[FORECAST])
    ahead, nats = known[FORECAST].to_numpy(), known["nats"].to_numpy()
    flipped = known["flipped"].to_numpy(dtype=bool)

    def loss(logs: np.ndarray) -> float:
        told = ahead / np.hypot(np.exp(logs[0]), np.exp(logs[1]) * nats)
        return -float(special.log_ndtr(np.where(flipped, told, -told)).sum())

    found = optimize.minimize(loss, np.log([0.5, 0.2]), method="Nelder-Mead").x
    return {"nats": float(np.exp(found[0])), "share": float(np.exp(found[1]))}
