r"""The one bootstrap over units: its resamples, its intervals and its p-values.

A unit is a prompt, or a group of prompts that the caller named. Each resample draws n − 1 of n
units with replacement (Rao and Wu, *Resampling inference with complex survey data*, JASA 83, 1988):
the spread over the resamples is then unbiased for a mean. With n draws, it is too small by
:math:`\sqrt{(n-1)/n}`.

Percentiles of few resampled units are too narrow, and skewed values make them narrower still (for
12 lognormal values, they cover 81% instead of 95%). The intervals and p-values here use the moments
of the draws instead: with the standard error :math:`s` and the skewness :math:`\kappa` of the
draws, :math:`T = (\hat\theta - \theta)/s` is compared with Student's t after Hall's transformation
(*On the removal of skewness by transformation*, JRSS B 54, 1992):

.. math:: g(T) = T + \kappa T^2/3 + \kappa^2 T^3/27 + \kappa/6

It is increasing in T, so its inverse gives the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 1000
LEVEL = 0.95
# The bootstrap of fewer units has no interval.
FEWEST_UNITS = 5
# Skewness below which the transformation is the identity, and the largest that it corrects.
LEAST_SKEW, MOST_SKEW = 1e-6, 1.0

Value = Float[np.ndarray, "*value"]
Clusters = int | Sequence[object] | np.ndarray


def unit_count(clusters: Clusters) -> int:
    """The number of units: of distinct labels, or of prompts that are each one unit."""
    return int(cluster_numbers(clusters).max(initial=-1)) + 1


def cluster_numbers(clusters: Clusters) -> Int[np.ndarray, " prompt"]:
    """The number of each prompt's cluster, in the sorted order of the labels.

    Args:
        clusters: a label per prompt, where each ``None`` or NaN is a separate cluster; or the
            number of prompts, each a separate cluster.
    """
    if isinstance(clusters, int | np.integer):
        return np.arange(clusters)
    import pandas as pd

    labels = pd.Series(list(clusters), dtype=object)
    missing = labels.isna().to_numpy()
    numbers = np.empty(len(labels), dtype=np.int64)
    names, numbers[~missing] = np.unique(labels[~missing].to_numpy(), return_inverse=True)
    numbers[missing] = len(names) + np.arange(missing.sum())
    return numbers


def resampling_weights(
    clusters: Clusters, resamples: int, seed: int, stratum: str = "", *, fewest: int = FEWEST_UNITS
) -> Float[np.ndarray, "resample prompt"]:
    """The number of times that each resample draws each prompt.

    Args:
        clusters: a label per prompt (prompts of one label are drawn together, and one without a
            label alone), or the number of prompts, each drawn separately.
        resamples: number of resamples; each draws all clusters but one, with replacement.
        seed: seed of the draws.
        stratum: label (split and domain) that selects the random stream. Two models scored on the
            same prompts get the same resamples, so their difference is paired.
        fewest: with fewer clusters, the weights are NaN, and so is each interval made with them.
    """
    index = cluster_numbers(clusters)
    count = int(index.max(initial=-1)) + 1
    if count < max(fewest, 2):
        return np.full((resamples, len(index)), np.nan)
    return _drawn(count, resamples, seed, stratum)[:, index]


@lru_cache(maxsize=32)  # all quantities of a group of prompts use the same resamples
def _drawn(
    count: int, resamples: int, seed: int, stratum: str
) -> Float[np.ndarray, "resample cluster"]:
    rng = np.random.default_rng([seed, crc32(stratum.encode())])
    picks = rng.integers(count, size=(resamples, count))[:, 1:]
    places = picks + count * np.arange(resamples)[:, None]
    drawn = np.bincount(places.ravel(), minlength=resamples * count).reshape(resamples, count)
    return drawn.astype(np.float64)


def weighted_means(
    values: Float[np.ndarray, " prompt *step"], weights: Float[np.ndarray, "resample prompt"]
) -> Float[np.ndarray, " resample *step"]:
    """Mean over prompts in every resample."""
    total = weights.sum(axis=1)
    return (weights @ values) / total.reshape(-1, *(1,) * (values.ndim - 1))


def moments(draws: Float[np.ndarray, " resample *value"]) -> tuple[Value, Value]:
    """Standard error and skewness of the draws that exist; NaN where fewer than two do."""
    import warnings

    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # no draw exists
        error = np.nanstd(draws, axis=0, ddof=1)
        third = np.nanmean((draws - np.nanmean(draws, axis=0)) ** 3, axis=0)
        skew = np.clip(np.where(error > 0, third / error**3, 0.0), -MOST_SKEW, MOST_SKEW)
    return error, skew


def skewed_interval(
    value: Value, error: Value, skew: Value, freedom: Value | float, level: float = LEVEL
) -> tuple[Value, Value]:
    """Bounds from the standard error and the skewness of an estimator.

    Args:
        value: the estimates.
        error: their standard errors; 0 gives an interval without width.
        skew: the skewness of their sampling distributions.
        freedom: degrees of freedom of the standard errors; under 1, the bounds are NaN.
        level: coverage.
    """
    from scipy.special import stdtrit

    freedom = np.asarray(freedom, dtype=np.float64)
    reach = np.where(freedom >= 1, stdtrit(np.maximum(freedom, 1.0), (1 + level) / 2), np.nan)
    return value - error * _untransformed(reach, skew), value - error * _untransformed(-reach, skew)


def pooled_freedom(variances: Sequence[float], freedoms: Sequence[float]) -> float:
    """Degrees of freedom of a sum of independent variances (Satterthwaite 1946)."""
    parts, degrees = np.asarray(variances, np.float64), np.asarray(freedoms, np.float64)
    if not parts.sum() > 0:  # without noise, or without resamples
        return float(degrees.min())
    return float(parts.sum() ** 2 / (parts**2 / degrees).sum())


def bootstrap_interval(
    value: Value,
    draws: Float[np.ndarray, " resample *value"],
    freedom: Value | float,
    level: float = LEVEL,
) -> tuple[Value, Value]:
    """The interval of a resampled quantity; `freedom` is the number of units minus 1."""
    return skewed_interval(value, *moments(draws), freedom, level)


def p_above(value: float, error: float, skew: float, freedom: float, bound: float) -> float:
    """One-sided p-value of the null hypothesis that the true value is at most ``bound``.

    NaN without a standard error, also where it is 0: few prompts that are all alike do not show
    that others would be.
    """
    from scipy.special import stdtr

    if not (np.isfinite(value) and np.isfinite(error) and error > 0 and freedom >= 1):
        return float("nan")
    return float(stdtr(freedom, -_transformed((value - bound) / error, skew)))


def interval_columns(
    name: str,
    value: Float[np.ndarray, "*value"],
    resampled: np.ndarray,
    freedom: float,
    level: float,
) -> dict[str, Float[np.ndarray, "*value"]]:
    """A table's columns ``name``, ``name_low`` and ``name_high``.

    Args:
        name: name of the quantity.
        value: its value on the observed prompts.
        resampled: its value in every resample, ``(resample, *value)``.
        freedom: number of resampled units minus 1.
        level: coverage of the interval.
    """
    low, high = bootstrap_interval(value, resampled, freedom, level)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def percentile_interval(
    resampled: Float[np.ndarray, " resample *value"], level: float = LEVEL
) -> tuple[Float[np.ndarray, "*value"], Float[np.ndarray, "*value"]]:
    """The central band of a null distribution, of which every draw is given."""
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return low, high


def _transformed(t: Value | float, skew: Value | float) -> Value:
    return np.asarray(t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6)


def _untransformed(x: Value | float, skew: Value | float) -> Value:
    curved = np.where(np.abs(skew) < LEAST_SKEW, 1.0, skew)
    found = 3 / curved * (np.cbrt(1 + curved * (x - curved / 6)) - 1)
    return np.where(np.abs(skew) < LEAST_SKEW, x, found)
