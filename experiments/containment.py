"""Containment over worlds: results for a method, not for one model.

The unit is the world: a model organism trained from scratch on its own language. The method was
chosen on development worlds and frozen (``containment_choices.json``); the results of the other
methods are reported with it. What was planned, and every number, is kept in rows by prompt
(:mod:`experiments.containment_rows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.contain import (
    EXAMPLES,
    FOLDER,
    Design,
    held_out_splits,
    require_methods,
    run_containment,
)
from analyses.contain.methods import METHODS
from analyses.options import WorkerOptions
from analyses.runs import Progress, over_worlds, read_run
from analyses.study import StudyPlan, defaults_for
from experiments.containment_rows import KEY, methods_of, planned, rows_of
from interp.errors import InputError
from interp.store import read_json, read_table, write_json, write_table
from unlearning.data import DOMAINS
from unlearning.organism import GATED

WEIGHTS = (0.1, 0.3, 1.0, 3.0)  # of the retain loss
CHOICES = Path(__file__).with_name("containment_choices.json")
# Gated model organisms, of the committed rows; and those of an earlier run.
SHIPPED_WORLDS = Path(__file__).with_name("containment_worlds.csv")
SHIPPED_EARLIER = Path(__file__).with_name("containment_earlier_worlds.csv")
SHIPPED_ROWS = Path(__file__).parents[1] / "docs" / "gallery" / "rows" / "contained_worlds"
SHIPPED_UNGATED = Path(__file__).with_name("containment_ungated_worlds.csv")
TABLE = "worlds.csv"
MEASURES = ("held_out", "retained", "benign", "answer_rate", "other_mass", "held_out_less_random")


def contain_worlds(
    seeds: Sequence[int],
    out: str | Path,
    *,
    concept: str,
    recipe: str = GATED,
    workers: int = 1,
    splits: int = 6,
    examples: Sequence[int] = EXAMPLES,
    methods: Sequence[str] = tuple(METHODS),
) -> pd.DataFrame:
    """Train the organisms, contain ``concept`` in each, and write ``worlds.csv`` and its figure.

    Finished parts in ``out`` are not computed again.

    Raises:
        InputError: ``out`` holds the plan of another measurement.
    """
    from analyses.study import study_context
    from unlearning.organism import recipe_of, train
    from unlearning.training import TrainingSettings

    folder, progress = Path(out).resolve(), Progress()
    others = [domain for domain in DOMAINS if domain != concept]
    first = Design(
        concept, require_methods(methods), tuple(examples), WEIGHTS, (), TrainingSettings()
    )
    designs = {
        seed: replace(first, splits=held_out_splits(others, count=splits, seed=seed))
        for seed in seeds
    }
    plan, path = planned(recipe, designs), folder / "manifest.json"
    if path.is_file() and read_json(path) != plan:
        raise InputError(f"{path} names other arms or another recipe; give another --out")
    write_json(path, plan)
    parts = []
    for seed, design in designs.items():
        model = folder / f"organism-{seed}"
        if not (model / "organism.json").is_file():
            with progress.stage(f"organism {seed}: training"):
                train(seed, model, recipe_of(recipe))
        own = defaults_for(str(model))
        design = replace(design, training=own.training)
        asked = StudyPlan(str(model), tuple(design.everything()), (concept,), **own.study)
        run = folder / f"contain-{seed}"
        context = study_context(asked, run, progress)
        run_containment(
            context, design, workers=WorkerOptions(workers=workers), shallow_recovery=False
        )
        compared = pd.read_csv(run / FOLDER / "arms.csv")["arm"]
        parts.append(rows_of(read_run(run), set(compared), seed))
    for name, tables in zip(("rows", "arms"), zip(*parts, strict=True), strict=True):
        write_table(folder / f"{name}.parquet", pd.concat(tables, ignore_index=True))
    return write_containment_worlds(folder)


def write_containment_worlds(folder: str | Path) -> pd.DataFrame:
    """Make ``worlds.csv`` and its figure from the rows in a folder, without models."""
    from analyses.contain import containment_study_figure
    from analyses.figures import Drawing, write_results

    folder = Path(folder)
    rows, arms = (read_table(folder / f"{name}.parquet", ()) for name in ("rows", "arms"))
    table = methods_of(rows, arms, read_json(folder / "manifest.json", ()))
    pooled = pool_worlds(table)
    figure = containment_study_figure(pooled, frozen_choice(table))
    drawing = Drawing("containment", "", "", figure, pooled)
    tables = {Path(TABLE).stem: table, "pooled": pooled}
    write_results(folder, tables=tables, drawings=[drawing], figures="")
    return pooled


def pool_worlds(table: pd.DataFrame) -> pd.DataFrame:
    """Each method and amount over worlds: mean and Student's 95% interval, n worlds.

    A mean leaves out the worlds in which its number is undefined; ``complied`` is the share of arms
    whose target complied, over all worlds.
    """
    rows = []
    for (method, examples), group in table.groupby(KEY, dropna=False, sort=False):
        row: dict[str, Any] = {
            "method": method,
            "examples": examples,
            "worlds": len(group),
            "complied": group["complied"].sum(),
            "splits": group["splits"].sum(),
        }
        for name in MEASURES:
            known = group[name] if name in group else group["splits"][:0]
            found = over_worlds(known.dropna().to_numpy(dtype=np.float64))
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
            row[f"{name}_n"] = found.n
        rows.append(row)
    return pd.DataFrame(rows)


def frozen_choice(table: pd.DataFrame, path: str | Path = CHOICES) -> tuple[str, int | None] | None:
    """The frozen method and amount, which the figure marks; None on the worlds that chose it."""
    frozen = read_json(path)
    if set(table["world"]) & set(frozen["worlds"]):
        return None
    return frozen["method"], frozen["examples"]


def choose_method(path: str | Path, into: str | Path = CHOICES) -> dict[str, Any]:
    """From ``worlds.csv``, freeze the method and amount with the most refusal in held-out domains.

    The choice is among methods with which the target complied on every split of every world.

    Raises:
        InputError: there is no such method.
    """
    table = pd.read_csv(path)
    pooled = pool_worlds(table)
    able = pooled[(pooled["complied"] == pooled["splits"]) & pooled["held_out"].notna()]
    if able.empty:
        raise InputError("no method let the target comply on every split of every world")
    best = able.sort_values("held_out").iloc[-1]
    examples = None if np.isnan(best["examples"]) else int(best["examples"])
    worlds = sorted(set(table["world"]))
    found = {"method": str(best["method"]), "examples": examples, "worlds": worlds}
    write_json(Path(into), found)
    return found
