r"""Agreement of two readings of the same answers: accuracy, precision, recall, Cohen's kappa.

A reading gives each answer 1 (refused), 0 (not refused) or ½ (a partial refusal). Labels by people
are a reading, and so are the verdicts of a scorer. Kappa (Cohen 1960) is
:math:`(p_o - p_e) / (1 - p_e)`. :math:`p_o` is the share of answers on which both agree;
:math:`p_e` is the share that independent readings with the same rates would reach. 1 is full
agreement, 0 is chance.

Partial refusals count in one of four ways (``COUNTED``): as refusals; as answers; as a class, where
kappa has linear weights (Cohen 1968), so an answer taken for a partial refusal is half an error; or
not at all if the first reading, the truth, calls the answer partial. In the last case the second
reading's partial refusals count as not refused, so that a scorer cannot avoid an error with them.

The bounds are those of :mod:`interp.statistics.proportions`, in which answers of one cluster (for
example all answers to one prompt) carry less information. They cover the choice of answers, not the
choice of models. ``docs/reference/calibration.md`` has their coverage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from interp.statistics import (
    LEVEL,
    RESAMPLES,
    bootstrap_interval,
    difference_bounds,
    effective_share,
    paired_correlation,
    resampling_weights,
    share_of,
    unit_count,
)

if TYPE_CHECKING:
    import pandas as pd

    Reading = Float[np.ndarray, " answer"] | Int[np.ndarray, " answer"]
    Clusters = Shaped[np.ndarray, " answer"] | None

MEASURES = ("accuracy", "precision", "recall", "kappa")
PARTIAL = 0.5
#: Ways to count partial refusals → what one is then.
COUNTED = {"left out": 0.0, "refusal": 1.0, "answer": 0.0, "class": PARTIAL}
# Added to each used cell for kappa's interval, so that p_e stays below 1.
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


UNDEFINED = Interval(float("nan"), float("nan"), float("nan"))


def scorer_agreement(
    truth: Reading, said: Reading, clusters: Clusters = None, *, level: float = LEVEL
) -> dict[str, Interval]:
    """Agreement of ``said`` with ``truth`` (both 0 or 1), by measure.

    Precision and recall are of refusals.

    Args:
        clusters: answers with the same value are resampled together (default: each alone).

    Raises:
        ValueError: the readings differ in length, are empty, or hold anything but 0 and 1.
    """
    return _measures(*_checked(truth, said, (0, 1)), clusters, level)


def class_agreement(
    truth: Reading, said: Reading, clusters: Clusters = None, *, level: float = LEVEL
) -> dict[str, Interval]:
    """Agreement on three classes: refusal (1), partial refusal (½) and answer (0).

    Accuracy is of all three, precision and recall are of refusals, and kappa has linear weights.

    Args:
        clusters: answers with the same value are resampled together (default: each alone).

    Raises:
        ValueError: the readings differ in length, are empty, or hold anything but 0, ½ and 1.
    """
    return _measures(*_checked(truth, said, (0, PARTIAL, 1)), clusters, level)


def _checked(
    truth: Reading, said: Reading, known: tuple[float, ...]
) -> tuple[Float[np.ndarray, " answer"], Float[np.ndarray, " answer"]]:
    truth, said = np.asarray(truth, dtype=np.float64), np.asarray(said, dtype=np.float64)
    if truth.shape != said.shape or truth.ndim != 1 or truth.size == 0:
        raise ValueError(f"expected two readings of one length, found {truth.shape}, {said.shape}")
    if not (np.isin(truth, known).all() and np.isin(said, known).all()):
        words = "1 (refused) or 0" if len(known) == 2 else "1 (refused), ½ (partial) or 0"
        raise ValueError(f"a reading is {words} for each answer")
    return truth, said


def _measures(
    truth: Float[np.ndarray, " answer"],
    said: Float[np.ndarray, " answer"],
    clusters: Clusters,
    level: float,
) -> dict[str, Interval]:
    groups = np.arange(truth.size) if clusters is None else np.asarray(clusters)

    def share(of: np.ndarray, chosen: np.ndarray) -> Interval:
        found = share_of(of[chosen].astype(np.float64), groups[chosen], level)
        return Interval(found.value, found.low, found.high)

    everywhere = np.ones(truth.size, dtype=bool)
    return {
        "accuracy": share(truth == said, everywhere),
        "precision": share(truth == 1, said == 1),
        "recall": share(said == 1, truth == 1),
        "kappa": _kappa(truth, said, share(1 - np.abs(truth - said), everywhere)),
    }


def _kappa(truth: np.ndarray, said: np.ndarray, agreement: Interval) -> Interval:
    """Kappa from the agreement, weighted by the distance of the two readings."""
    used, codes = np.unique(np.concatenate([truth, said]), return_inverse=True)
    if len(used) == 1:  # one class in both readings: 0 / 0
        return UNDEFINED
    cells = np.zeros((len(used), len(used)))
    np.add.at(cells, (codes[: truth.size], codes[truth.size :]), 1.0)
    weights = 1 - np.abs(np.subtract.outer(used, used))
    by_chance, smoothed = (_by_chance(table, weights) for table in (cells, cells + SMOOTHING))
    value = (agreement.value - by_chance) / (1 - by_chance)
    low, high = ((end - smoothed) / (1 - smoothed) for end in (agreement.low, agreement.high))
    return Interval(value, max(-1.0, min(low, value)), max(high, value))


def _by_chance(
    cells: Float[np.ndarray, "class class"], weights: Float[np.ndarray, "class class"]
) -> float:
    """The agreement of independent readings with these rates; cells by truth, then reading."""
    table = cells / cells.sum()
    return float(table.sum(axis=1) @ weights @ table.sum(axis=0))


def kappa_gain(
    truth: Reading, better: Reading, other: Reading, clusters: Clusters = None
) -> Interval:
    """Kappa of ``better`` with ``truth`` minus kappa of ``other``, on the same answers.

    The interval combines those of the two kappas with the correlation of being right (MOVER, as in
    :func:`interp.statistics.share_difference`).

    Raises:
        ValueError: the readings differ in length, are empty, or hold anything but 0 and 1.
    """
    one, two = (scorer_agreement(truth, said, clusters)["kappa"] for said in (better, other))
    first, second = (np.asarray(truth == said, dtype=np.float64) for said in (better, other))
    independent = min(effective_share(each, clusters).effective for each in (first, second))
    low, high = difference_bounds(
        (one.value, one.low, one.high),
        (two.value, two.low, two.high),
        paired_correlation(first, second, independent),
    )
    return Interval(one.value - two.value, low, high)


def fleiss_kappa(
    votes: Int[np.ndarray, " answer"], raters: int, clusters: Clusters = None
) -> Interval:
    """Agreement of several people with one another (Fleiss 1971), on two classes.

    Args:
        votes: the number of people who saw a refusal, for each answer.
        raters: the number of people who read each answer, at least 2.
        clusters: answers with the same value are resampled together (default: each alone).
    """
    votes = np.asarray(votes, dtype=np.float64)
    if votes.size == 0:
        return UNDEFINED
    groups = np.arange(votes.size) if clusters is None else np.asarray(clusters)
    agreed = (votes * (votes - 1) + (raters - votes) * (raters - votes - 1)) / raters / (raters - 1)

    def kappas(weights: np.ndarray) -> np.ndarray:
        total = weights.sum(axis=1)
        rate = weights @ votes / raters / total
        by_chance = rate**2 + (1 - rate) ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ agreed / total - by_chance) / (1 - by_chance)

    value = kappas(np.ones((1, votes.size)))[0]
    draws = kappas(resampling_weights(groups, RESAMPLES, 0))
    low, high = bootstrap_interval(value, draws, unit_count(groups) - 1)
    return Interval(float(value), float(low), float(high))


def by_group(
    table: pd.DataFrame,
    truth: str,
    said: str,
    group: str | None,
    cluster: str | None = None,
    *,
    partial: str = "left out",
) -> pd.DataFrame:
    """Agreement in each value of the column ``group``, worst first, then in ``all``.

    Rows without one of the readings are left out, and so are groups without rows. Pooled
    agreement can hide a group that a scorer cannot read; check the first group first.

    Args:
        partial: how partial refusals (½) count; one of ``COUNTED``.

    Returns:
        One row for each group, by kappa: ``group`` (under its own name), ``n``, the measures and
        bounds. ``all`` is there if there are several groups, or none.
    """
    import pandas as pd

    known = table[table[truth].notna() & table[said].notna()]
    if partial == "left out":
        known = known[known[truth].astype(float) != PARTIAL]
    parts = [] if group is None else list(known.groupby(group, sort=True))
    rows = [_row(name, part, truth, said, group, cluster, partial) for name, part in parts]
    rows.sort(key=lambda row: (np.isnan(row["kappa"]), row["kappa"]))
    if len(parts) != 1 and len(known):
        rows.append(_row("all", known, truth, said, group, cluster, partial))
    return pd.DataFrame(rows)


def _row(
    name: Any,
    part: pd.DataFrame,
    truth: str,
    said: str,
    group: str | None,
    cluster: str | None,
    partial: str,
) -> dict[str, Any]:
    one, other = (part[column].to_numpy(np.float64) for column in (truth, said))
    one, other = (np.where(each == PARTIAL, COUNTED[partial], each) for each in (one, other))
    agreement = class_agreement if partial == "class" else scorer_agreement
    found = agreement(one, other, None if cluster is None else part[cluster].to_numpy())
    row: dict[str, Any] = {group or "group": name, "n": len(part)}
    for measure, of in found.items():
        row |= {measure: of.value, f"{measure}_low": of.low, f"{measure}_high": of.high}
    return row


def each_way(
    table: pd.DataFrame, truth: str, said: str, group: str | None, cluster: str | None = None
) -> pd.DataFrame:
    """:func:`by_group` with partial refusals counted in each of the four ways.

    Returns:
        The rows of :func:`by_group` for each way, with the way in the column ``partial``.
    """
    import pandas as pd

    ways = {way: by_group(table, truth, said, group, cluster, partial=way) for way in COUNTED}
    return pd.concat([rows.assign(partial=way) for way, rows in ways.items()], ignore_index=True)


def between(
    table: pd.DataFrame,
    scorers: Sequence[str],
    group: str | None,
    cluster: str | None = None,
    *,
    partial: str = "answer",
) -> pd.DataFrame:
    """Agreement of each pair of scorers (columns of readings); columns as in :func:`by_group`.

    Accuracy and kappa do not depend on the order of a pair. Precision and recall take the first
    scorer as the truth. A scorer's partial refusal does not count as a refusal, unless ``partial``
    says so.
    """
    import pandas as pd

    parts = []
    for first, second in combinations(scorers, 2):
        part = by_group(table, first, second, group, cluster, partial=partial)
        part.insert(0, "second", second)
        part.insert(0, "first", first)
        parts.append(part)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def disagreeing(table: pd.DataFrame, readings: Sequence[str]) -> pd.DataFrame:
    """The rows in which the columns ``readings`` differ; missing values are ignored."""
    return table[table[list(readings)].nunique(axis=1, dropna=True) > 1]
