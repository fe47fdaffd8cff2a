"""Split-half reliability of a direction or subspace fitted to weighted prompts.

The value is the mean cosine between the directions of two halves, over random halvings; linked
prompts stay together. For subspaces it is the root mean squared cosine of their principal angles,
which in one dimension is the absolute cosine. The value is 1 without noise and about 0 for pure
noise (for a subspace √(dimensions / d_model) or somewhat more).

For the interval, half of the prompts are drawn and then halved again. The spread of such
half-samples is that of whole samples (McCarthy, *Pseudo-replication: half samples*, 1969), while
samples with replacement also vary in their number of copies, which changes the noise. The interval
uses only this spread, on Fisher's z scale, without the part from the choice of halves. It does not
use the mean of the half-samples, which is too low because fewer prompts have more noise.

For the same reason the package has no bootstrap cone around a direction. In many dimensions all
resampled directions lie far from the fitted one, on the side away from the true direction, so the
cone does not contain it. Instead, :func:`error_degrees` converts a reliability and its bounds into
the angle to the true direction.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from interp.statistics.intervals import Confidence, fisher_interval, fisher_z

Counts = Float[np.ndarray, "sample row"]
Vectors = Float[np.ndarray, "sample layer coordinate"]
Bases = Float[np.ndarray, "sample layer coordinate dimension"]
Similarities = Float[np.ndarray, "sample layer"]

# Halvings averaged within one bootstrap sample; more halvings cost time and add little precision.
HALVINGS_PER_RESAMPLE = 2


class Resampling(Protocol):
    """Settings of a reliability estimate; every estimator of directions has these attributes."""

    splits: int
    resamples: int
    level: float
    seed: int


def split_half_reliability(
    similarity: Callable[[Counts, Counts], Similarities],
    units: Int[np.ndarray, " row"],
    kinds: Int[np.ndarray, " unit"],
    resampling: Resampling,
) -> tuple[Float[np.ndarray, " layer"], ...]:
    """Reliability, low and high per layer.

    Args:
        similarity: similarity of the fits to two halves, given the count of each row in each half.
        units: unit number of each row; a halving never separates rows of a unit.
        kinds: kind of each unit; each kind is spread evenly over the halves. Kinds that share a
            class of rows have neighbouring numbers.
        resampling: number of halvings, number of bootstrap samples (0 gives NaN for low and high),
            coverage, and the seed of both.
    """
    rng = np.random.default_rng(resampling.seed)

    def halved(counts: Float[np.ndarray, "sample unit"]) -> Similarities:
        keys = (rng.random(counts.shape), counts == 0, np.broadcast_to(kinds, counts.shape))
        order = np.lexsort(keys)
        first = np.empty_like(counts)
        np.put_along_axis(first, order, (np.arange(len(kinds)) % 2).astype(float)[None], axis=1)
        return similarity((first * counts)[:, units], ((1 - first) * counts)[:, units])

    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        # Without a direction in any half, the reliability is NaN.
        warnings.simplefilter("ignore", RuntimeWarning)
        value = np.nanmean(halved(np.ones((resampling.splits, len(kinds)))), axis=0)
        if not resampling.resamples:
            missing = np.full_like(value, np.nan)
            return value, missing, missing
        kept = _half_of_each(kinds, resampling.resamples, rng)
        levels = fisher_z(np.stack([halved(kept) for _ in range(HALVINGS_PER_RESAMPLE)]))
        # The value averages more halvings than a sample does, so it has less of their variance.
        of_halving = np.nanmean(np.nanvar(levels, axis=0, ddof=1), axis=0)
        between = np.nanvar(np.nanmean(levels, axis=0), axis=0)
        variance = np.maximum(between - of_halving / HALVINGS_PER_RESAMPLE, 0.0)
        size = kept.sum(axis=1).mean()
        variance *= size / (len(kinds) - size)
        spread = np.sqrt(variance + of_halving / resampling.splits)
    # A spread from half as many units is known as well as theirs.
    halves = min(np.unique(kinds, return_counts=True)[1]) / 2
    spread *= Confidence(resampling.level, halves).small_sample
    return value, *fisher_interval(value, spread, resampling.level)


def _half_of_each(
    kinds: Int[np.ndarray, " unit"], samples: int, rng: np.random.Generator
) -> Float[np.ndarray, "sample unit"]:
    """1 for the units of random halves of each kind, 0 for the others."""
    kept = np.zeros((samples, len(kinds)))
    for kind in np.unique(kinds):
        members = np.flatnonzero(kinds == kind)
        ranks = rng.random((samples, len(members))).argsort(axis=1).argsort(axis=1)
        kept[:, members] = ranks < (len(members) + 1) // 2
    return kept


def cosines_of_halves(
    direction: Callable[[Counts], Vectors],
) -> Callable[[Counts, Counts], Similarities]:
    """Cosine between the directions of two halves.

    Args:
        direction: function from row counts to the direction, in any orthonormal coordinates.
    """

    def similarity(first: Counts, second: Counts) -> Similarities:
        a, b = direction(first), direction(second)
        return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))

    return similarity


def overlaps_of_halves(
    basis: Callable[[Counts], Bases],
) -> Callable[[Counts, Counts], Similarities]:
    """Root mean squared cosine of the principal angles between the subspaces of two halves.

    Args:
        basis: function from row counts to orthonormal vectors.
    """

    def similarity(first: Counts, second: Counts) -> Similarities:
        a, b = basis(first), basis(second)
        cosines = np.einsum("slvk,slvm->slkm", a, b)
        exists = a.any(axis=(2, 3)) & b.any(axis=(2, 3))
        return np.where(exists, np.sqrt((cosines**2).sum(axis=(2, 3)) / a.shape[-1]), np.nan)

    return similarity


def error_degrees(reliability: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Angle in degrees between the direction of all prompts and that of infinitely many.

    If halves have reliability ρ, all prompts have 2ρ/(1 + ρ) (Spearman and Brown 1910). This is the
    squared cosine with the true direction. It holds for mean differences, and it is more precise if
    the noise has more dimensions. Regularised estimators (discriminant, probe) also have a bias
    that both halves share. For these the angle is a lower bound (19° for a true angle of 26°, in a
    simulation with 64 prompts per side). Bounds of a reliability give bounds of the angle. If
    ρ ≤ 0, the angle is 90°.
    """
    rho = np.clip(reliability, 0.0, 1.0)
    return np.degrees(np.arccos(np.sqrt(2 * rho / (1 + rho))))
