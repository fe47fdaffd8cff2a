"""Numbers with intervals: a value, its bounds and its number of prompts.

Every interval covers the sampling of PROMPTS: the variation over other prompts of the same kind. It
does not cover training seeds, which require models trained with other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.statistics.bootstrap import (
    FEWEST_UNITS,
    LEVEL,
    RESAMPLES,
    bootstrap_interval,
    moments,
    resampling_weights,
    unit_count,
    weighted_means,
)

# Some statistics, for instance a crossing, are undefined in some resamples. Quantiles over the
# other resamples hide this. If the undefined share exceeds this limit, the interval is omitted.
MOST_UNDEFINED = 0.1
UNLIMITED = (-math.inf, math.inf)


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
    """A statistic on the observed prompts (`value`) and on each resample of them (`draws`).

    Attributes:
        value, draws: of the statistic.
        n: number of prompts.
        reason: why it is undefined, or has no interval.
        freedom: degrees of freedom of the draws' spread: the number of resampled units minus 1
            (default: each prompt is a unit).
        bounds: an interval that replaces the one of the draws.
        limits: the values that the statistic can have; the interval ends there.
    """

    value: float
    draws: Float[np.ndarray, " resample"]
    n: int
    reason: str | None = None
    freedom: float | None = None
    bounds: tuple[float, float] | None = None
    limits: tuple[float, float] = UNLIMITED

    @classmethod
    def undefined(cls, reason: str, n: int = 0) -> Draws:
        return cls(math.nan, np.full(1, np.nan), n, reason)

    def __sub__(self, other: Draws) -> Draws:
        """The paired difference of two statistics on the same resamples."""
        n = min(self.n, other.n)
        if not (math.isfinite(self.value) and math.isfinite(other.value)):
            return Draws.undefined(self.reason or other.reason or "undefined", n)
        freedom = min(self.degrees, other.degrees)
        return Draws(self.value - other.value, self.draws - other.draws, n, self.reason, freedom)

    @property
    def degrees(self) -> float:
        """Degrees of freedom of the draws' spread."""
        return self.n - 1 if self.freedom is None else self.freedom

    @property
    def standard_error(self) -> float:
        """Standard deviation over the resamples in which the statistic exists."""
        return float(moments(self.draws)[0])

    @property
    def skew(self) -> float:
        """Skewness over the resamples in which the statistic exists."""
        return float(moments(self.draws)[1])

    def estimate(self, level: float = LEVEL) -> Estimate:
        """The value and its interval; no interval if too many resamples leave it undefined."""
        if not math.isfinite(self.value):
            return Estimate.undefined(self.reason or "undefined", self.n)
        if self.bounds is not None:
            return Estimate(self.value, *self.bounds, self.n)
        missing = 1 - np.isfinite(self.draws).mean()
        if missing > MOST_UNDEFINED or self.degrees < 1:
            reason = f"no interval: undefined in {missing:.0%} of the resamples"
            if missing == 1 or self.degrees < 1:
                reason = f"no interval: fewer than {FEWEST_UNITS} prompts or groups of prompts"
            return Estimate(self.value, math.nan, math.nan, self.n, reason)
        low, high = bootstrap_interval(np.array(self.value), self.draws, self.degrees, level)
        low, high = np.clip([low, high], *self.limits)
        return Estimate(self.value, float(low), float(high), self.n)


def mean_of(
    values: Float[np.ndarray, " prompt"],
    clusters: Sequence[object] | np.ndarray | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
    stratum: str = "",
    limits: tuple[float, float] = UNLIMITED,
) -> Estimate:
    """Mean with its interval over resampled prompts, or groups of prompts."""
    if values.size == 0:
        return Estimate.undefined("no prompts")
    values = np.asarray(values, dtype=np.float64)
    units = values.size if clusters is None else clusters
    weights = resampling_weights(units, resamples, seed, stratum)
    draws = weighted_means(values, weights)
    found = Draws(
        float(values.mean()), draws, values.size, freedom=unit_count(units) - 1, limits=limits
    )
    return found.estimate(level)
