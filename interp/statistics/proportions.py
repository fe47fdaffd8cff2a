r"""Intervals of shares, of their change, of an AUC and of kappa, also where every reading is alike.

A share that is 0 or 1 on every prompt has no spread to resample, but other prompts could differ.
So these intervals come from Wilson's score interval (Wilson 1927), which has a width at 0 and at 1.

**Groups.** If readings of one group are alike, n readings carry less than n independent ones. The
interval uses :math:`n_{\text{eff}} = n / \text{deff}`: the design effect compares the variance of
the share between groups with that of independent readings, and is at least 1. Where all readings
are alike it cannot be estimated, so it takes its largest value: each group counts once. Student's t
with the groups' degrees of freedom replaces the normal quantile (Dean and Pagano, *Evaluating
confidence interval methods for binomial proportions in clustered surveys*, JSSAM 3, 2015).

**Changes.** The interval of a difference or ratio of two shares combines the two intervals (MOVER:
Donner and Zou, *Closed-form confidence intervals for functions of the normal mean and standard
deviation*, SMMR 21, 2012; Newcombe, Statistics in Medicine 17, 1998), with the correlation of
paired readings after Newcombe's continuity correction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from interp.statistics.bootstrap import LEVEL, cluster_numbers
from interp.statistics.estimates import Estimate

AWAY = 1e-9

Readings = Float[np.ndarray, " prompt"]
Groups = Sequence[object] | np.ndarray | None


@dataclass(frozen=True)
class Share:
    """A share of readings and its number of independent readings.

    Attributes:
        value: the share.
        n: number of readings.
        effective: number of independent readings with the same information.
    """

    value: float
    n: int
    effective: float

    def bounds(self, level: float = LEVEL) -> tuple[float, float]:
        """Wilson's interval."""
        return wilson_interval(self.value, self.effective, level)


def wilson_interval(share: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a share of ``n`` readings; ``n`` need not be whole."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def rate_of(successes: int, n: int, level: float = LEVEL) -> Estimate:
    """A share of independent readings with Wilson's interval."""
    if n == 0:
        return Estimate.undefined("no prompts")
    return Estimate(successes / n, *wilson_interval(successes / n, n, level), n)


def share_of(readings: Readings, groups: Groups = None, level: float = LEVEL) -> Estimate:
    """The share of readings that are 1, with an interval for grouped readings.

    Args:
        readings: 0 or 1.
        groups: group of each reading; by default, each reading is its own group.
        level: coverage.
    """
    if not len(readings):
        return Estimate.undefined("no prompts")
    share = effective_share(readings, groups, level)
    return Estimate(share.value, *share.bounds(level), share.n)


def effective_share(readings: Readings, groups: Groups = None, level: float = LEVEL) -> Share:
    """The share and its effective number of readings; see the module's text."""
    from scipy.special import stdtrit

    readings = np.asarray(readings, dtype=np.float64)
    n, share = len(readings), float(readings.mean())
    place = cluster_numbers(n if groups is None else groups)
    sizes = np.bincount(place)
    count = len(sizes)
    if count == n:
        return Share(share, n, n)
    largest = float((sizes**2).sum() / n)
    effect = largest
    if 0 < share < 1 and count > 1:
        deviations = np.bincount(place, weights=readings - share)
        between = count / (count - 1) * float((deviations**2).sum()) / n**2
        effect = min(max(between / (share * (1 - share) / (n - 1)), 1.0), largest)
    tail = (1 + level) / 2
    wider = 1.0 if count < 2 else float(stdtrit(count - 1, tail) / stdtrit(n - 1, tail)) ** 2
    return Share(share, n, n / effect / wider)


def share_difference(
    after: Readings, before: Readings, groups: Groups = None, level: float = LEVEL
) -> Estimate:
    """The share after minus the share before, of paired readings."""
    if not len(after):
        return Estimate.undefined("no prompts")
    one, other = (effective_share(side, groups, level) for side in (after, before))
    low, high = difference_bounds(
        (one.value, *one.bounds(level)),
        (other.value, *other.bounds(level)),
        paired_correlation(after, before, min(one.effective, other.effective)),
    )
    return Estimate(one.value - other.value, low, high, len(after))


def difference_bounds(
    one: tuple[float, float, float], other: tuple[float, float, float], correlation: float
) -> tuple[float, float]:
    """Interval of ``one`` minus ``other`` (MOVER), each a value with its bounds."""
    (p1, l1, u1), (p2, l2, u2) = one, other
    below, above = (
        math.sqrt(max(a**2 - 2 * correlation * a * b + b**2, 0.0))
        for a, b in ((p1 - l1, u2 - p2), (u1 - p1, p2 - l2))
    )
    return p1 - p2 - below, p1 - p2 + above


def share_ratio_bounds(
    after: Readings, before: Readings, groups: Groups = None, level: float = LEVEL
) -> tuple[float, float]:
    """Interval of the share after, divided by the share before; of paired readings."""
    one, other = (effective_share(side, groups, level) for side in (after, before))
    (l1, u1), (l2, u2) = one.bounds(level), other.bounds(level)
    together = paired_correlation(after, before, min(one.effective, other.effective))
    p1, p2 = one.value, other.value

    def bound(end: float, opposite: float, sign: float) -> float:
        # Root of (p1 - ρ p2)² = the variances recovered from the two intervals.
        product = p1 * p2 - together * (end - p1) * (p2 - opposite)
        squared = end * (2 * p1 - end) * opposite * (2 * p2 - opposite)
        root = math.sqrt(max(product**2 - squared, 0.0))
        return (product + sign * root) / (opposite * (2 * p2 - opposite))

    return max(bound(l1, u2, -1.0), 0.0), bound(u1, l2, 1.0)


def auc_interval(
    auc: float, positive: float, negative: float, level: float = LEVEL
) -> tuple[float, float]:
    """Interval of an area under the ROC curve from the numbers of the two classes.

    Method 5 of Newcombe, *Confidence intervals for an effect size measure based on the Mann-Whitney
    statistic*, Statistics in Medicine 25 (2006): Hanley and McNeil's variance at each candidate
    value, so the interval has a width at 1.
    """
    from scipy.optimize import brentq

    z = NormalDist().inv_cdf((1 + level) / 2)
    mean = (positive + negative) / 2 - 1

    def excess(candidate: float) -> float:
        shape = (1 - candidate) / (2 - candidate) + candidate / (1 + candidate)
        variance = candidate * (1 - candidate) * (1 + mean * shape) / (positive * negative)
        return (auc - candidate) ** 2 - z**2 * variance

    # At 0 and 1 the excess is 0 without being a bound.
    low = 0.0 if auc == 0 else float(brentq(excess, 0.0, min(auc, 1 - AWAY)))
    high = 1.0 if auc == 1 else float(brentq(excess, max(auc, AWAY), 1.0))
    return low, high


def auc_of(
    values: Readings, positive: np.ndarray, groups: Groups = None, level: float = LEVEL
) -> Estimate:
    """The area under the ROC curve: P(a positive row's value is above a negative row's).

    Ties count half. In the interval, rows of one group count once on each side.

    Args:
        values: of the rows.
        positive: whether each row is positive.
        groups: group of each row; by default, each row is its own group.
        level: coverage.
    """
    from scipy.stats import rankdata

    values, positive = np.asarray(values, dtype=np.float64), np.asarray(positive, dtype=bool)
    counts = int(positive.sum()), int((~positive).sum())
    if not all(counts):
        return Estimate.undefined("all rows belong to one class", len(values))
    above = rankdata(values)[positive].sum() - counts[0] * (counts[0] + 1) / 2
    found = float(above / (counts[0] * counts[1]))
    labels = cluster_numbers(len(values) if groups is None else groups)
    above_units, below_units = (len(np.unique(labels[side])) for side in (positive, ~positive))
    return Estimate(found, *auc_interval(found, above_units, below_units, level), len(values))


def paired_correlation(after: Readings, before: Readings, n: float) -> float:
    """Correlation of paired readings, towards 0 by Newcombe's continuity correction if positive.

    Args:
        after, before: 0 or 1.
        n: number of independent readings.
    """
    spread = float(np.std(after) * np.std(before))
    if spread == 0:
        return 0.0
    covariance = float(np.mean(after * before) - np.mean(after) * np.mean(before))
    return (max(covariance - 1 / (2 * n), 0.0) if covariance > 0 else covariance) / spread
