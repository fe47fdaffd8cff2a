"""A ratio of two costs, measured side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES = 5000


def ratio(
    ours: Sequence[float],
    theirs: Sequence[float],
    goal: float | None = None,
    *,
    at_least: bool = False,
) -> dict[str, Any]:
    """Median of the pairs' ratios ours/theirs; see :func:`median`.

    Args:
        ours, theirs: one cost of each in every pair, which were measured next to each other: what
            slows the machine down for a while slows both down, and cancels.
        goal: what the ratio should not exceed, or should reach if ``at_least``.
    """
    return median(np.asarray(ours, float) / np.asarray(theirs, float), goal, at_least=at_least)


def median(
    values: Sequence[float] | np.ndarray, goal: float | None = None, *, at_least: bool = False
) -> dict[str, Any]:
    """An entry of ``benchmarks.json``: the median and its 95% percentile bootstrap interval.

    ``met`` compares the median with the goal; None where there is no goal.
    """
    values = np.asarray(values, float)
    draws = np.random.default_rng(0).choice(values, (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    value = float(np.median(values))
    return {
        "value": value,
        "low": float(low),
        "high": float(high),
        "n": len(values),
        "goal": goal,
        "at_least": at_least,
        "met": None if goal is None else (value >= goal if at_least else value <= goal),
    }
