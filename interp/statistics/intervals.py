r"""Intervals for ratios of noisy numbers, including ratios with a bounded range.

The interval of a ratio N/D of two noisy numbers inverts the test of :math:`N - \rho D = 0`
(Fieller 1954). The variance of this difference is known at each :math:`\rho`, so the method never
divides by a noisy denominator.

A cosine cannot exceed 1 and a squared norm cannot fall below 0. At such a boundary the usual
interval can be empty. So the likelihood-ratio order of Feldman and Cousins (*Unified approach to
the classical statistical analysis of small signals*, Phys. Rev. D 57, 1998) determines which values
belong to the interval. It has nominal coverage at the boundary and elsewhere, and needs no choice
between one and two sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float

Layers = Float[np.ndarray, " layer"]
Accepted = Bool[np.ndarray, " layer"]

# Below this share of the standard deviation's scale, a difference is a rounding error.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Estimates:
    """One quantity at every layer: value, interval and null band; NaN where it is undefined."""

    value: Layers
    low: Layers
    high: Layers
    null_low: Layers
    null_high: Layers
    defined: Accepted

    def without_interval(self) -> Estimates:
        """The same estimates with NaN for interval and null band."""
        missing = np.full(self.value.shape, np.nan)
        return replace(self, low=missing, high=missing, null_low=missing, null_high=missing)

    @classmethod
    def where(cls, defined: Accepted, **bounds: Layers) -> Estimates:
        """Estimates with NaN wherever they are not defined."""
        kept = {name: np.where(defined, bound, np.nan) for name, bound in bounds.items()}
        return cls(**kept, defined=defined)


@dataclass(frozen=True)
class Confidence:
    """Critical values for an estimate from ``n`` separate prompts.

    For units of unequal size, ``n`` is their effective number.
    """

    level: float
    n: float

    @property
    def small_sample(self) -> float:
        """Width of Student's interval (n - 1 degrees of freedom) over that of the normal one."""
        from scipy.special import stdtrit

        tail = (1 + self.level) / 2
        return float(stdtrit(max(self.n - 1, 1.0), tail)) / normal_quantile(tail)

    @property
    def two_sided(self) -> float:
        """Critical value of a two-sided interval, in standard deviations."""
        return normal_quantile((1 + self.level) / 2) * self.small_sample

    @property
    def one_sided(self) -> float:
        """Critical value of a one-sided interval, in standard deviations."""
        return normal_quantile(self.level) * self.small_sample

    def below_boundary(self, excess: Layers, room: Layers, sd: Layers) -> Accepted:
        """Whether an observation is compatible with a value that cannot exceed a boundary.

        Args:
            excess: observed minus hypothesised value.
            room: boundary minus hypothesised value, not negative.
            sd: standard deviation of the observation under the hypothesis.
        """
        scale = np.maximum(sd * self.small_sample, ROUNDING)
        z, distance = excess / scale, np.maximum(room, 0.0) / scale
        grid, limits = _likelihood_ratio_limits(self.level)
        # For observations beyond the boundary, the most likely value is the boundary.
        ratio = np.where(z <= distance, z**2, 2.0 * distance * z - distance**2)
        return ratio <= np.interp(distance, grid, limits)


def normal_quantile(probability: float) -> float:
    """Quantile of the standard normal distribution."""
    from scipy.special import ndtri

    return float(ndtri(probability))


def fisher_z(correlation: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Fisher's z, on whose scale the spread of a correlation depends little on its size."""
    return np.arctanh(np.clip(correlation, -1 + 1e-12, 1 - 1e-12))


def fisher_interval(
    correlation: Float[np.ndarray, "..."], spread: Float[np.ndarray, "..."], level: float
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Interval bounds of correlations with standard errors ``spread`` on Fisher's z scale."""
    z, reach = fisher_z(correlation), normal_quantile((1 + level) / 2) * spread
    return np.tanh(z - reach), np.tanh(z + reach)


def last_accepted(accepts: Callable[[Layers], Accepted], inside: Layers, outside: Layers) -> Layers:
    """The last accepted value from ``inside`` (accepted) to ``outside``, by bisection.

    It is exact to 2**-40 of their distance.
    """
    good, bad = np.array(inside, np.float64), np.array(outside, np.float64)
    all_the_way = accepts(bad)
    for _ in range(40):
        middle = (good + bad) / 2
        accepted = accepts(middle)
        good, bad = np.where(accepted, middle, good), np.where(accepted, bad, middle)
    return np.where(all_the_way, outside, good)


@lru_cache(maxsize=8)
def _likelihood_ratio_limits(level: float) -> tuple[np.ndarray, np.ndarray]:
    """Limits on the likelihood ratio by distance from the boundary, in standard deviations."""
    from scipy.special import ndtr

    distance = np.linspace(0.0, 4.0, 401)

    def covers(limit: np.ndarray) -> np.ndarray:
        root = np.sqrt(limit)
        with np.errstate(divide="ignore"):
            beyond = (limit + distance**2) / (2 * distance)
        return ndtr(np.where(root <= distance, root, beyond)) - ndtr(-root) >= level

    one_sided, two_sided = (normal_quantile(p) ** 2 for p in (level, (1 + level) / 2))
    widest = np.full_like(distance, two_sided)
    return distance, last_accepted(covers, widest, np.full_like(distance, one_sided))
