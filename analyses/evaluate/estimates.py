"""Estimates for an evaluation: paired differences, and how well the refusal log-odds separate."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from analyses.evaluate.findings import refused_by
from interp.statistics import Estimate, auc_of, mean_of, share_difference, share_of

CLUSTER = "cluster"
Units = np.ndarray | None


def units_of(table: pd.DataFrame) -> Units:
    """The cluster of near-duplicates of each row; None if the table has none."""
    return table[CLUSTER].to_numpy() if CLUSTER in table else None


def share_of_known(values: Float[np.ndarray, " prompt"], units: Units = None) -> Estimate:
    """Share of the defined readings that are 1, with Wilson's interval for clusters."""
    known = ~np.isnan(values)
    return share_of(values[known], None if units is None else units[known])


def mean_of_known(
    values: Float[np.ndarray, " prompt"], stratum: str, units: Units = None
) -> Estimate:
    """Mean of the defined values, with its bootstrap interval."""
    known = ~np.isnan(values)
    return mean_of(values[known], None if units is None else units[known], stratum=stratum)


def paired_difference(
    after: Float[np.ndarray, " prompt"],
    before: Float[np.ndarray, " prompt"],
    stratum: str = "",
    units: Units = None,
) -> Estimate:
    """Mean of ``after - before`` over prompts that have both.

    Readings (0 or 1) have the interval of a difference of paired shares, which has a width also
    where every reading changed alike; other values have the bootstrap's.
    """
    known = ~np.isnan(after - before)
    after, before = after[known], before[known]
    units = None if units is None else units[known]
    if known.any() and set(np.unique(np.concatenate([after, before]))) <= {0.0, 1.0}:
        return share_difference(after, before, units)
    return mean_of(after - before, units, stratum=stratum)


def separation(table: pd.DataFrame, scorer: str) -> Estimate:
    """AUC of the refusal log-odds against a scorer's readings, held out.

    Held out: validation and test prompts, from which no prefix was learned. In the interval,
    near-duplicates count once.
    """
    if "margin" not in table:
        return Estimate.undefined("no refusal log-odds")
    rows = table[(table["split"] != "train") & table[refused_by(scorer)].notna()]
    refused = rows[refused_by(scorer)].to_numpy(dtype=np.float64) == 1
    log_odds = rows["margin"].to_numpy(dtype=np.float64)
    if len(set(refused)) < 2:
        return Estimate.undefined("only one class among the held-out prompts", len(rows))
    return auc_of(log_odds, refused, units_of(rows))
