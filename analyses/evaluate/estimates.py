"""Estimates for an evaluation: paired differences, and how well the refusal log-odds separate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from analyses.evaluate.findings import refused_by
from interp.statistics import RESAMPLES, Draws, Estimate, mean_of, rate_of


def mean_of_known(values: Float[np.ndarray, " prompt"], stratum: str) -> Estimate:
    """Mean of the defined values, with a percentile interval."""
    known = values[~np.isnan(values)]
    return mean_of(known, stratum=stratum)


def paired_difference(
    after: Float[np.ndarray, " prompt"], before: Float[np.ndarray, " prompt"], stratum: str = ""
) -> Estimate:
    """Mean of ``after - before`` over prompts that have both, resampled prompt by prompt.

    If readings (0 or 1) changed alike for every prompt, or for none, the bootstrap has no width.
    Then the interval uses Wilson's bound: for 0 of n changed in both directions, for n of n changed
    towards no change.
    """
    change = after - before
    change = change[~np.isnan(change)]
    found = mean_of(change, stratum=stratum)
    readings = set(np.unique(np.concatenate([after, before]))) <= {0.0, 1.0}
    if not (change.size and readings and found.low == found.high):
        return found
    if not change.any():
        reach = rate_of(0, change.size).high
        return replace(found, low=-reach, high=reach)
    least = rate_of(change.size, change.size).low
    return replace(
        found, low=-1.0 if found.value < 0 else least, high=-least if found.value < 0 else 1.0
    )


def separation(table: pd.DataFrame, scorer: str) -> Estimate:
    """AUC of the refusal log-odds against a scorer's readings, held out, resampled by prompt.

    Held out: validation and test prompts, from which no prefix was learned.
    """
    if "margin" not in table:
        return Estimate.undefined("no refusal log-odds")
    rows = table[(table["split"] != "train") & table[refused_by(scorer)].notna()]
    refused = rows[refused_by(scorer)].to_numpy(dtype=np.float64)
    log_odds = rows["margin"].to_numpy(dtype=np.float64)
    above, below = log_odds[refused == 1], log_odds[refused == 0]
    if not above.size or not below.size:
        return Estimate.undefined("only one class among the held-out prompts", len(rows))
    wins = np.sign(above[:, None] - below[None, :]) / 2 + 0.5  # 1 where the refused one is higher
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=RESAMPLES)
    weight_above, weight_below = drawn[:, refused == 1], drawn[:, refused == 0]
    pairs = weight_above.sum(axis=1) * weight_below.sum(axis=1)
    with np.errstate(invalid="ignore"):
        draws = np.einsum("ri,ij,rj->r", weight_above, wins, weight_below, optimize=True) / pairs
    return Draws(float(wins.mean()), draws, len(rows)).estimate()
