"""Agreement of two readings of the same answers: accuracy, precision, recall, Cohen's kappa.

A reading is 1 (refused) or 0 for each answer. Labels by people are a reading, and so are the
verdicts of a scorer. Kappa (Cohen 1960) is ``(p_o - p_e) / (1 - p_e)``. ``p_o`` is the share of
answers on which both agree; ``p_e`` is the share that independent readings with the same rates
would reach. 1 is full agreement, 0 is chance.

Intervals are percentiles of a bootstrap over answers, or over clusters of answers (for example all
answers to one prompt). They cover the choice of answers, not the choice of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from interp.statistics import LEVEL, share_of

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("accuracy", "precision", "recall", "kappa")
# Added to each cell for kappa's interval, so that p_e stays below 1.
SMOOTHING = 0.25


@dataclass(frozen=True)
class Interval:
    """A number with its bounds; NaN if it is not defined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "undefined"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def scorer_agreement(
    truth: Int[np.ndarray, " answer"],
    said: Int[np.ndarray, " answer"],
    clusters: Shaped[np.ndarray, " answer"] | None = None,
    *,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Agreement of ``said`` with ``truth`` (both 0 or 1), by measure.

    Precision and recall are of refusals.

    Args:
        clusters: answers with the same value are resampled together (default: each alone).

    Raises:
        ValueError: the readings differ in length, are empty, or hold anything but 0 and 1.
    """
    truth, said = np.asarray(truth), np.asarray(said)
    if truth.shape != said.shape or truth.ndim != 1 or truth.size == 0:
        raise ValueError(f"expected two readings of one length, found {truth.shape}, {said.shape}")
    if not (np.isin(truth, (0, 1)).all() and np.isin(said, (0, 1)).all()):
        raise ValueError("a reading is 1 (refused) or 0 for each answer")
    groups = np.arange(truth.size) if clusters is None else np.asarray(clusters)
    agrees = (truth == said).astype(np.float64)

    def share(chosen: np.ndarray) -> Interval:
        found = share_of(agrees[chosen], groups[chosen], level)
        return Interval(found.value, found.low, found.high)

    accuracy = share(np.ones(truth.size, dtype=bool))
    cells = np.bincount(2 * truth.astype(int) + said.astype(int), minlength=4)
    return {
        "accuracy": accuracy,
        "precision": share(said == 1),
        "recall": share(truth == 1),
        "kappa": _kappa(accuracy, cells.astype(np.float64)),
    }


def _kappa(accuracy: Interval, cells: Float[np.ndarray, " 4"]) -> Interval:
    by_chance, smoothed = _by_chance(cells), _by_chance(cells + SMOOTHING)
    if by_chance == 1:  # one class in both readings
        return Interval(float("nan"), float("nan"), float("nan"))
    value = (accuracy.value - by_chance) / (1 - by_chance)
    low, high = ((end - smoothed) / (1 - smoothed) for end in (accuracy.low, accuracy.high))
    return Interval(value, max(-1.0, min(low, value)), max(high, value))


def _by_chance(cells: Float[np.ndarray, " 4"]) -> float:
    """The agreement of independent readings with these rates; cells by truth, then reading."""
    table = cells.reshape(2, 2) / cells.sum()
    return float(table.sum(axis=1) @ table.sum(axis=0))


def by_group(
    table: pd.DataFrame, truth: str, said: str, group: str | None, cluster: str | None = None
) -> pd.DataFrame:
    """Agreement in each value of the column ``group`` and, if there are several, in ``all``.

    Rows without one of the readings are left out, and so are groups without rows. Pooled
    agreement can hide a group that a scorer cannot read; check each group first.

    Returns:
        One row for each group: ``group`` (under its own name), ``n``, the measures and bounds.
    """
    import pandas as pd

    known = table[table[truth].notna() & table[said].notna()]
    parts = [] if group is None else list(known.groupby(group, sort=True))
    if len(parts) != 1 and len(known):
        parts.append(("all", known))
    rows = []
    for name, part in parts:
        readings = part[truth].to_numpy(int), part[said].to_numpy(int)
        found = scorer_agreement(*readings, None if cluster is None else part[cluster].to_numpy())
        row: dict[str, Any] = {group or "group": name, "n": len(part)}
        for measure, of in found.items():
            row |= {measure: of.value, f"{measure}_low": of.low, f"{measure}_high": of.high}
        rows.append(row)
    return pd.DataFrame(rows)


def between(
    table: pd.DataFrame, scorers: Sequence[str], group: str | None, cluster: str | None = None
) -> pd.DataFrame:
    """Agreement of each pair of scorers (columns of 0 and 1); columns as in :func:`by_group`.

    Accuracy and kappa do not depend on the order of a pair. Precision and recall take the first
    scorer as the truth.
    """
    import pandas as pd

    parts = []
    for first, second in combinations(scorers, 2):
        part = by_group(table, first, second, group, cluster)
        part.insert(0, "second", second)
        part.insert(0, "first", first)
        parts.append(part)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def disagreeing(table: pd.DataFrame, readings: Sequence[str]) -> pd.DataFrame:
    """The rows in which the columns ``readings`` differ; missing values are ignored."""
    return table[table[list(readings)].nunique(axis=1, dropna=True) > 1]
