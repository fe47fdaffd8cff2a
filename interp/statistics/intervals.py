r"""Intervals for ratios of noisy numbers, including ratios with a bounded range.

A ratio N/D of two noisy numbers is inverted from the test of :math:`N - \rho D = 0` (Fieller 1954),
whose variance is known at each :math:`\rho`; nothing is divided by a noisy denominator. A cosine
cannot exceed 1 and a squared norm cannot fall below 0: at such a boundary the usual interval can
be empty, so the order of Feldman and Cousins (*Unified approach to the classical statistical
analysis of small signals*, Phys. Rev. D 57, 1998) decides which values belong to it. It covers at
the nominal rate at the boundary as elsewhere, without choosing between one and two sides.
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
    """One quantity at every layer: value, interval, null band; NaN where it is not defined."""

    value: Layers
    low: Layers
    high: Layers
    null_low: Layers
    null_high: Layers
    defined: Accepted

    def without_interval(self) -> Estimates:
        """The values alone."""
        missing = np.full(self.value.shape, np.nan)
        return replace(self, low=missing, high=missing, null_low=missing, null_high=missing)

    @classmethod
    def where(cls, defined: Accepted, **bounds: Layers) -> Estimates:
        """Estimates with NaN wherever they are not defined."""
        kept = {name: np.where(defined, bound, np.nan) for name, bound in bounds.items()}
        return cls(**kept, defined=defined)


@dataclass(frozen=True)
class Confidence:
    """Critical values for an estimate from ``n`` prompts."""

    level: float
    n: int

    @property
    def small_sample(self) -> float:
        """Ratio of the widths of Student's and the normal interval, n - 1 degrees of freedom."""
        from scipy.special import stdtrit

        tail = (1 + self.level) / 2
        return float(stdtrit(self.n - 1, tail)) / normal_quantile(tail)

    @property
    def two_sided(self) -> float:
        """Standard deviations on either side."""
        return normal_quantile((1 + self.level) / 2) * self.small_sample

    @property
    def one_sided(self) -> float:
        """Standard deviations on the only possible side."""
        return normal_quantile(self.level) * self.small_sample

    def below_boundary(self, excess: Layers, room: Layers, sd: Layers) -> Accepted:
        """Whether an observation fits a value that cannot exceed a boundary.

        Args:
            excess: observed minus hypothesised value.
            room: boundary minus hypothesised value, not negative.
            sd: standard deviation of the observation under the hypothesis.
        """
        scale = np.maximum(sd * self.small_sample, ROUNDING)
        z, distance = excess / scale, np.maximum(room, 0.0) / scale
        grid, limits = _likelihood_ratio_limits(self.level)
        # Beyond the boundary the best possible value is the boundary itself.
        ratio = np.where(z <= distance, z**2, 2.0 * distance * z - distance**2)
        return ratio <= np.interp(distance, grid, limits)


def normal_quantile(probability: float) -> float:
    """Quantile of the standard normal distribution."""
    from scipy.special import ndtri

    return float(ndtri(probability))


def fisher_z(correlation: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Fisher's scale; on it, the spread of a correlation depends little on its size."""
    return np.arctanh(np.clip(correlation, -1 + 1e-12, 1 - 1e-12))


def fisher_interval(
    correlation: Float[np.ndarray, "..."], spread: Float[np.ndarray, "..."], level: float
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Low and high of correlations whose standard errors on Fisher's scale are ``spread``."""
    z, reach = fisher_z(correlation), normal_quantile((1 + level) / 2) * spread
    return np.tanh(z - reach), np.tanh(z + reach)


def last_accepted(
    accepts: Callable[[Layers], Accepted], inside: Layers, outside: Layers, steps: int = 60
) -> Layers:
    """The last accepted value on the way from ``inside`` (accepted) to ``outside``."""
    good, bad = np.array(inside, np.float64), np.array(outside, np.float64)
    all_the_way = accepts(bad)
    for _ in range(steps):
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
