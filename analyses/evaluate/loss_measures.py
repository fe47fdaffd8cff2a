"""Tables of what else was lost: divergence by position, perplexity of texts, scores on tasks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float

from analyses.evaluate.estimates import mean_of_known, paired_difference
from analyses.evaluate.findings import ALL, BASE, MODEL, NUMBER
from interp.statistics import RESAMPLES, Draws, Estimate, rate_of, resampling_weights


def divergence_table(table: pd.DataFrame | None) -> pd.DataFrame:
    columns = ["group", "position", *NUMBER]
    if table is None:
        return pd.DataFrame(columns=columns)
    rows = []
    groups = {ALL: table} | {str(kind): part for kind, part in table.groupby("kind", sort=True)}
    for group, part in groups.items():
        wide = part.pivot(index="prompt_id", columns="position", values="nats")
        # An answer that has ended has no further positions, and its mean is over those it had.
        means = wide.mean(axis=1).to_numpy()
        rows.append((group, 0, *vars(mean_of_known(means, f"divergence/{group}")).values()))
        for position in wide:
            estimate = mean_of_known(wide[position].to_numpy(), f"divergence/{group}")
            rows.append((group, int(str(position)), *vars(estimate).values()))
    return pd.DataFrame(rows, columns=columns)


def texts_table(table: pd.DataFrame | None) -> pd.DataFrame:
    rows = []
    draws: dict[str, Draws] = {}
    for role, part in () if table is None else table.groupby("role", sort=False):
        draws[str(role)] = one = _nats_per_token(part)
        rows.append((role, "nats_per_token", *vars(_wide(one)).values()))
        perplexity = Draws(float(np.exp(one.value)), np.exp(one.draws), one.n)
        rows.append((role, "perplexity", *vars(_wide(perplexity)).values()))
    if len(draws) == 2:
        # The same texts are drawn for both: the difference is a paired one.
        after, before = draws[MODEL], draws[BASE]
        change = Draws(after.value - before.value, after.draws - before.draws, after.n)
        rows.append(("difference", "nats_per_token", *vars(_wide(change)).values()))
    return pd.DataFrame(rows, columns=["role", "quantity", *NUMBER])


def _nats_per_token(part: pd.DataFrame) -> Draws:
    nats, tokens = (part[name].to_numpy(dtype=np.float64) for name in ("nats", "tokens"))
    if not tokens.sum():
        return Draws.undefined("no text has two tokens", len(part))
    weights = resampling_weights(np.arange(len(part)), RESAMPLES, 0, "texts")
    with np.errstate(invalid="ignore"):
        drawn = (weights @ nats) / (weights @ tokens)
    return Draws(float(nats.sum() / tokens.sum()), drawn, len(part))


def _wide(draws: Draws) -> Estimate:
    """The estimate; of one text alone there is no interval."""
    if draws.n > 1:
        return draws.estimate()
    return Estimate(draws.value, np.nan, np.nan, draws.n, "no interval: one text")


def tasks_table(table: pd.DataFrame | None) -> pd.DataFrame:
    columns = ["role", "task", "metric", *NUMBER]
    rows = []
    for (task, metric), part in _by_task(table):
        wide = part.pivot(index=["task", "item"], columns="role", values="value")
        for role in wide:
            rows.append((role, task, metric, *vars(_score(wide[role].to_numpy())).values()))
        if len(wide.columns) == 2:
            after, before = (wide[role].to_numpy() for role in (MODEL, BASE))
            change = paired_difference(after, before, f"task/{task}")
            rows.append(("difference", task, metric, *vars(change).values()))
    return pd.DataFrame(rows, columns=columns)


def _by_task(table: pd.DataFrame | None) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Every task and metric; and all tasks together, item by item, where there are several."""
    if table is None:
        return
    for (task, metric), part in table.groupby(["task", "metric"], sort=False):
        yield (str(task), str(metric)), part
    if table["task"].nunique() > 1:
        for metric, part in table.groupby("metric", sort=False):
            yield (ALL, str(metric)), part


def _score(values: Float[np.ndarray, " item"]) -> Estimate:
    if set(np.unique(values)) <= {0.0, 1.0}:
        return rate_of(int(values.sum()), values.size)
    return mean_of_known(values, "task")
