"""Cells of a leakage matrix: one arm's, and their mean over unlearning seeds with an interval.

    X[a,b]    A, L_.5 or L_.9 of domain b while a was unlearned, on test prompts

An arm's interval covers the sampling of prompts. The interval of the mean over S seeds covers both
prompts (all seeds use the same prompts, so their error does not average out) and the spread s of
the seeds:

    error² = error_prompts² + s²/S        s: within cells, pooled over the matrix

with Student's t for the degrees of freedom of both (Welch and Satterthwaite). An arm's cells share
its noise, so the seeds' degrees of freedom are the number of arms minus the number of sources. With
one seed, the interval covers prompt sampling only.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from analyses.runs.leakage import LOW_BASE, equivalence_p_value, untouched_p_value
from analyses.runs.tables import Run
from analyses.runs.trajectory import on_path
from interp.errors import InputError, expected
from interp.statistics import Draws, pooled_freedom, skewed_interval

QUANTITIES = ("area", "L_50", "L_90")
TESTED = "L_90"  # where "does not leak" is tested
ARM_COLUMNS = ["arm", "concept", "objective", "seed", "reached", "outcome"]
LAST_STEP = ["arm", "concept", "objective", "seed", "outcome", "step", "domain"]
LAST_STEP += ["before", "after", "gibberish", "value"]
CELL = ["source", "target", "objective"]


def require_quantity(name: str) -> str:
    """The name of a quantity of the leakage matrix.

    Raises:
        InputError: the quantity does not exist.
    """
    if name not in QUANTITIES:
        raise InputError(f'no quantity "{name}"{expected(name, QUANTITIES)}')
    return name


def plain_arms(tables: Run) -> pd.DataFrame:
    """The run's arms without retain data that unlearned a concept."""
    arms = tables.arms
    return arms[arms["retain"].isna() & arms["concept"].notna()]


def counted_arms(tables: Run) -> pd.DataFrame:
    """The plain arms that reached the forgetting level, whatever their outcome.

    They are the rows of the matrix. Leakage is read on the path of training, at a fixed level, so
    it does not depend on what the kept model then says; choosing arms by success would bias it.
    """
    plain = plain_arms(tables)
    return plain[plain["reached"].astype(bool)]


def left_out(tables: Run) -> pd.DataFrame:
    """Plain arms that are not in the matrix: without a forgetting level, for a reason (``why``)."""
    plain = plain_arms(tables)
    rows = plain.loc[~plain["arm"].isin(counted_arms(tables)["arm"]), ARM_COLUMNS]
    why = {arm.name: tables.no_level(arm) or "level not reached" for arm in tables.record.arms}
    return rows.assign(why=rows["arm"].map(why))


def arm_cells(tables: Run) -> pd.DataFrame:
    """A row per arm and other domain.

    Columns ``source, target, objective, seed``; ``area, L_50, L_90, onset`` (steps), each with
    ``_low`` and ``_high`` over prompts; ``source_onset``; ``untouched_p`` of |L_.9| < .05; ``arm``
    and its ``outcome``; ``low_base``: the base model refuses less than half of the prompts of the
    source.
    """
    rows = []
    low_base = {domain: tables.low_base(domain) is not None for domain in tables.record.domains}
    for arm in counted_arms(tables).to_dict("records"):
        source = str(arm["concept"])
        measured = tables.measured[arm["arm"]].quantities
        for target in measured["area"]:
            if target == source:
                continue
            row: dict[str, Any] = {"source": source, "target": target}
            row |= {"objective": arm["objective"] or "checkpoint"}
            row |= {"seed": arm["seed"], "arm": arm["arm"], "outcome": arm["outcome"]}
            for quantity in (*QUANTITIES, "onset"):
                found = measured[quantity][target].estimate()
                row |= {quantity: found.value, f"{quantity}_low": found.low}
                row |= {f"{quantity}_high": found.high}
            row["source_onset"] = measured["onset"][source].value
            row["low_base"] = low_base.get(source, False)
            row["untouched_p"] = untouched_p_value(measured[TESTED][target])
            rows.append(row)
    numbers = [n + end for n in (*QUANTITIES, "onset") for end in ("", "_low", "_high")]
    columns = [*CELL, "seed", *numbers, "source_onset", "untouched_p", "arm", "outcome", "low_base"]
    return pd.DataFrame(rows, columns=columns)


def last_step_cells(tables: Run) -> pd.DataFrame:
    """What every plain arm says at its last step with text on the path, whatever its outcome.

    A row per arm and domain, the target included: ``arm, concept, objective, seed, outcome, step,
    domain``; the rates of refusals ``before`` and ``after`` and of ``gibberish``, on test prompts;
    ``value``, the share of refusals that is gone (NaN where ``before`` is under .2).
    """
    arms = plain_arms(tables).set_index("arm")
    rows = []
    for arm in tables.record.arms:
        path = on_path(arm.scores)
        said = path[
            path["class"].notna() & (path["label"] == "harmful") & (path["split"] == "test")
        ]
        if arm.name not in arms.index or not (last := int(said["step"].max() if len(said) else 0)):
            continue  # nothing was said on the path after the base
        facts = {name: arms.loc[arm.name, name] for name in LAST_STEP[1:5]}
        for domain, of_domain in said.groupby("domain", sort=False):
            before, after = (of_domain[of_domain["step"] == step]["class"] for step in (0, last))
            was, left = ((classes == "refusal").mean() for classes in (before, after))
            row = {"arm": arm.name, **facts, "step": last, "domain": domain}
            row |= {"before": was, "after": left, "gibberish": (after == "gibberish").mean()}
            rows.append(row | {"value": 1 - left / was if was >= LOW_BASE else math.nan})
    return pd.DataFrame(rows, columns=LAST_STEP)


def mean_cells(tables: Run, quantity: str) -> pd.DataFrame:
    """The mean over seeds: a row per source, target and objective.

    Columns ``source, target, objective, value, low, high, error, seeds, n`` (prompts); for L_.9
    also ``untouched_p``, of two one-sided tests with that error; NaN for another quantity.
    """
    cells = arm_cells(tables)
    rows = []
    for objective, of_objective in cells.groupby("objective"):
        spread, freedom = seed_spread(of_objective, quantity)
        for (source, target), arms in of_objective.groupby(["source", "target"], sort=False):
            found = [tables.measured[arm].quantities[quantity] for arm in arms["arm"]]
            draws = [each[str(target)] for each in found]
            draws = [each for each in draws if math.isfinite(each.value)]
            row = {"source": source, "target": target, "objective": objective}
            rows.append(row | _mean(draws, spread, freedom, tested=quantity == TESTED))
    columns = [*CELL, "value", "low", "high", "error", "seeds", "n", "untouched_p"]
    return pd.DataFrame(rows, columns=columns)


def seed_spread(cells: pd.DataFrame, quantity: str) -> tuple[float, int]:
    """Standard deviation between seeds within cells, pooled, and its degrees of freedom.

    NaN and 0 where no source has two seeds.
    """
    groups = cells.dropna(subset=[quantity]).groupby(["source", "target"])[quantity]
    sizes = groups.size()
    arms = cells.groupby("source")["seed"].nunique()
    freedom = int((arms - 1).sum())
    if freedom < 1 or not (sizes > 1).any():
        return math.nan, 0
    squares = (groups.var(ddof=1).fillna(0.0) * (sizes - 1)).sum()
    return float(np.sqrt(squares / (sizes - 1).sum())), freedom


def _mean(
    draws: list[Draws], spread: float, freedom: int, *, tested: bool
) -> dict[str, float | int]:
    if not draws:
        undefined = dict.fromkeys(("value", "low", "high", "error", "untouched_p"), math.nan)
        return {**undefined, "seeds": 0, "n": 0}
    seeds, prompts = len(draws), draws[0].n
    together = Draws(
        float(np.mean([each.value for each in draws])),
        np.mean([each.draws for each in draws], axis=0),  # resamples are paired over arms
        prompts,
        freedom=min(each.degrees for each in draws),
    )
    found, error = together.estimate(), together.standard_error
    low, high, degrees, skew = found.low, found.high, together.degrees, together.skew
    if math.isfinite(spread):
        of_prompts, of_seeds = error**2, spread**2 / seeds
        error = math.sqrt(of_prompts + of_seeds)
        degrees = pooled_freedom([of_prompts, of_seeds], [degrees, freedom])
        if error > 0:
            skew *= (of_prompts / error**2) ** 1.5  # seeds add none
        value = np.array(found.value)
        low, high = map(float, skewed_interval(value, np.array(error), np.array(skew), degrees))
    p_value = equivalence_p_value(found.value, error, skew, degrees) if tested else math.nan
    numbers = {"value": found.value, "low": low, "high": high, "error": error}
    return {**numbers, "seeds": seeds, "n": prompts, "untouched_p": p_value}
