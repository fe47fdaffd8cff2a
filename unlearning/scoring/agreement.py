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

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 2000
LEVEL = 0.95
MEASURES = ("accuracy", "precision", "recall", "kappa")


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
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
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
    cells = np.eye(4)[2 * truth.astype(int) + said.astype(int)]
    if clusters is not None:
        _, place = np.unique(np.asarray(clusters), return_inverse=True)
        summed = np.zeros((place.max() + 1, 4))
        np.add.at(summed, place.ravel(), cells)
        cells = summed
    # Clusters with the same counts are exchangeable. It is enough to draw how often each kind of
    # cluster occurs, and the matrix has four columns for any number of answers.
    kinds, often = np.unique(cells, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(often.sum(), often / often.sum(), size=resamples) @ kinds
    values = _measures(cells.sum(axis=0)[None])[0]
    draws = _measures(drawn)
    return {
        name: _interval(value, of_measure, level)
        for name, value, of_measure in zip(MEASURES, values, draws.T, strict=True)
    }


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


def _measures(cells: Float[np.ndarray, "table 4"]) -> Float[np.ndarray, "table 4"]:
    """``MEASURES`` of tables (true negatives, false positives, false negatives, true positives)."""
    negative, wrongly, missed, positive = cells.T
    total = cells.sum(axis=1)
    observed = (negative + positive) / total
    expected = (
        (positive + missed) * (positive + wrongly) + (negative + missed) * (negative + wrongly)
    ) / total**2
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = positive / (positive + wrongly)
        recall = positive / (positive + missed)
        kappa = (observed - expected) / (1 - expected)
    return np.stack([observed, precision, recall, kappa], axis=1)


def _interval(value: float, draws: Float[np.ndarray, " resample"], level: float) -> Interval:
    finite = draws[np.isfinite(draws)]
    if not np.isfinite(value) or not finite.size:
        return Interval(float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))
