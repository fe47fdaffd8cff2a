"""Matrices of several worlds or models as one result: the unit is the world.

Cells of one world share its model and its prompts, so 42 cells are not 42 observations; a world is
one. Intervals are Student's over worlds: of a handful of worlds a bootstrap is too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analyses.runs.decomposition import PARTS, Decomposition
from interp.statistics import LEVEL, Estimate


def over_worlds(values: Sequence[float] | np.ndarray) -> Estimate:
    """Mean and Student's 95% interval over the worlds that have a value; none of one world."""
    from scipy.special import stdtrit

    found = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found)]
    n = len(found)
    if n == 0:
        return Estimate.undefined("no world has a value")
    mean = float(found.mean())
    if n == 1:
        return Estimate(mean, math.nan, math.nan, 1, "one world has no spread")
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2) * found.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def combined_p_value(values: Sequence[float] | np.ndarray) -> float:
    """Fisher's combination (1932) of independent p-values; NaN where there is none."""
    from scipy.special import chdtrc

    found = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found)].clip(min=np.finfo(np.float64).tiny)
    return float(chdtrc(2 * len(found), -2 * np.log(found).sum())) if len(found) else math.nan


def pool_decompositions(
    parts: Mapping[str, Decomposition], matrices: Mapping[str, pd.DataFrame]
) -> dict[str, Any]:
    """What the worlds have in common.

    Args:
        parts: each world's decomposition, where it has one.
        matrices: each world's matrix, sources by targets; worlds may differ in their domains.

    Returns:
        ``mean``; ``shares`` by part and of ``noise``; ``potency`` and ``susceptibility`` by domain;
        ``cells`` by source and target; each ``{value, low, high, n}``, n worlds.
        ``p_entanglement``.
    """
    domains = list(dict.fromkeys(name for matrix in matrices.values() for name in matrix.index))

    def effects(which: str) -> dict[str, Any]:
        each = [getattr(found, which) for found in parts.values()]
        return {d: over_worlds([of.get(d, math.nan) for of in each]).to_json() for d in domains}

    stacked = np.array(
        [matrix.reindex(index=domains, columns=domains) for matrix in matrices.values()]
    )
    return {
        "mean": over_worlds([found.mean for found in parts.values()]).to_json(),
        "shares": {
            part: over_worlds([getattr(p, f"{part}_share") for p in parts.values()]).to_json()
            for part in (*PARTS, "noise")
        },
        "p_entanglement": combined_p_value([found.p_value for found in parts.values()]),
        "potency": effects("potency"),
        "susceptibility": effects("susceptibility"),
        "cells": {
            a: {b: over_worlds(stacked[:, i, j]).to_json() for j, b in enumerate(domains) if a != b}
            for i, a in enumerate(domains)
        },
    }
