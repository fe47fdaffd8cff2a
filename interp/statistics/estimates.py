"""Numbers with intervals: bootstrap over prompts for means and curves, Wilson's for rates.

Every interval covers the sampling of PROMPTS: the variation over other prompts of the same kind. It
does not cover training seeds, which require models trained with other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from zlib import crc32

import numpy as np
from jaxtyping import Float

RESAMPLES = 1000
LEVEL = 0.95
# Some statistics, for instance a crossing, are undefined in some resamples. Quantiles over the
# other resamples hide this. If the undefined share exceeds this limit, the interval is omitted.
MOST_UNDEFINED = 0.1


@dataclass(frozen=True)
class Estimate:
    """A number, its interval and its number of prompts; NaN with a reason if undefined."""

    value: float
    low: float
    high: float
    n: int
    reason: str | None = None

    @classmethod
    def undefined(cls, reason: str, n: int = 0) -> Estimate:
        return cls(math.nan, math.nan, math.nan, n, reason)

    @property
    def defined(self) -> bool:
        return math.isfinite(self.value)

    def to_json(self) -> dict[str, float | int | str | None]:
        """`{"value", "low", "high", "n"}`; undefined values are null, with a `reason`."""
        number = {
            name: float(value) if math.isfinite(value) else None
            for name, value in (("value", self.value), ("low", self.low), ("high", self.high))
        }
        return {**number, "n": int(self.n), **({"reason": self.reason} if self.reason else {})}


@dataclass(frozen=True)
class Draws:
    """A statistic on the observed prompts (`value`) and on each resample of them (`draws`)."""

    value: float
    draws: Float[np.ndarray, " resample"]
    n: int
    reason: str | None = None

    @classmethod
    def undefined(cls, reason: str, n: int = 0) -> Draws:
        return cls(math.nan, np.full(1, np.nan), n, reason)

    def __sub__(self, other: Draws) -> Draws:
        """The paired difference of two statistics on the same resamples."""
        n = min(self.n, other.n)
        if not (math.isfinite(self.value) and math.isfinite(other.value)):
            return Draws.undefined(self.reason or other.reason or "undefined", n)
        return Draws(self.value - other.value, self.draws - other.draws, n)

    @property
    def standard_error(self) -> float:
        """Standard deviation over the resamples in which the statistic exists."""
        finite = self.draws[np.isfinite(self.draws)]
        return float(finite.std(ddof=1)) if finite.size > 1 else math.nan

    def estimate(self, level: float = LEVEL) -> Estimate:
        """The percentile interval; omitted if it is undefined in too many resamples."""
        if not math.isfinite(self.value):
            return Estimate.undefined(self.reason or "undefined", self.n)
        finite = self.draws[np.isfinite(self.draws)]
        missing = 1 - finite.size / self.draws.size
        if missing > MOST_UNDEFINED:
            reason = f"no interval: undefined in {missing:.0%} of the resamples"
            return Estimate(self.value, math.nan, math.nan, self.n, reason)
        low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
        return Estimate(self.value, float(low), float(high), self.n)


def resampling_weights(
    clusters: int | Sequence[object] | np.ndarray, resamples: int, seed: int, stratum: str = ""
) -> Float[np.ndarray, "resample prompt"]:
    """The number of times that each resample draws each prompt.

    Args:
        clusters: a label per prompt (prompts of one label are drawn together), or the number of
            prompts, each drawn separately.
        resamples: number of resamples; each draws all clusters with replacement.
        seed: seed of the draws.
        stratum: label (split and domain) that selects the random stream. Two models scored on the
            same prompts get the same resamples, so their difference is paired.
    """
    labels = np.arange(clusters) if isinstance(clusters, int) else np.asarray(clusters)
    _, index = np.unique(labels, return_inverse=True)
    return _drawn(int(index.max()) + 1, resamples, seed, stratum)[:, index]


@lru_cache(maxsize=32)  # all quantities of a group of prompts use the same resamples
def _drawn(
    count: int, resamples: int, seed: int, stratum: str
) -> Float[np.ndarray, "resample cluster"]:
    rng = np.random.default_rng([seed, crc32(stratum.encode())])
    picks = rng.integers(count, size=(resamples, count)) + count * np.arange(resamples)[:, None]
    drawn = np.bincount(picks.ravel(), minlength=resamples * count).reshape(resamples, count)
    return drawn.astype(np.float64)


def weighted_means(
    values: Float[np.ndarray, " prompt *step"], weights: Float[np.ndarray, "resample prompt"]
) -> Float[np.ndarray, " resample *step"]:
    """Mean over prompts in every resample."""
    total = weights.sum(axis=1)
    return (weights @ values) / total.reshape(-1, *(1,) * (values.ndim - 1))


def percentile_interval(
    resampled: Float[np.ndarray, "resample *value"], level: float = LEVEL
) -> tuple[Float[np.ndarray, "*value"], Float[np.ndarray, "*value"]]:
    """The central interval of a resampled quantity (Efron and Tibshirani 1993, chapter 13)."""
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return low, high


def interval_columns(
    name: str, value: Float[np.ndarray, "*value"], resampled: np.ndarray, level: float
) -> dict[str, Float[np.ndarray, "*value"]]:
    """A table's columns ``name``, ``name_low`` and ``name_high``.

    Args:
        name: name of the quantity.
        value: its value on the observed prompts.
        resampled: its value in every resample, (resample, *value).
        level: coverage of the interval.
    """
    low, high = percentile_interval(resampled, level)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def mean_of(
    values: Float[np.ndarray, " prompt"],
    clusters: Sequence[object] | np.ndarray | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
    stratum: str = "",
) -> Estimate:
    """Mean with a percentile interval over resampled prompts."""
    if values.size == 0:
        return Estimate.undefined("no prompts")
    values = np.asarray(values, dtype=np.float64)
    weights = resampling_weights(
        values.size if clusters is None else clusters, resamples, seed, stratum
    )
    draws = Draws(float(values.mean()), weighted_means(values, weights), values.size)
    return draws.estimate(level)


def rate_of(successes: int, n: int, level: float = LEVEL) -> Estimate:
    """A share with Wilson's score interval (Wilson 1927), which is also valid at 0 and at n."""
    if n == 0:
        return Estimate.undefined("no prompts")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), n)
