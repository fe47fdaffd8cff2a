r"""Split-half reliability of a direction or subspace fitted to weighted prompts.

The value is the mean cosine between the directions of two halves, over random halvings; linked
prompts stay together. For subspaces it is the root mean squared cosine of their principal angles,
which in one dimension is the absolute cosine. The value is 1 without noise and about 0 for pure
noise (for a subspace √(dimensions / d_model) or somewhat more).

The interval is about *this* fit: :func:`error_degrees` makes it one of the angle between the fitted
and the true direction. Half the difference of two halves is the sum of the prompts' deviations with
random signs, and the error of the fit is their sum in this sample. So the length of the one varies
over halvings as the length of the other varies over samples, and the spread s of the halvings, on
Fisher's z scale, is that of the reliability around the one that fits the true angle.
Averages over k halvings and n units of g kinds add their own error:

.. math:: z(\rho) \pm t_{n-g}\, s\, \sqrt{1 + 1/k + 1/(n - g)}

The mean reliability of samples of this size varies less, so for it the interval is too wide.

The package has no bootstrap cone around a direction. In many dimensions all resampled directions
lie far from the fitted one, on the side away from the true direction, so the cone does not contain
it. Instead, :func:`error_degrees` converts a reliability and its bounds into the angle to the true
direction.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from interp.statistics.intervals import Confidence, fisher_z

Counts = Float[np.ndarray, "sample row"]
Vectors = Float[np.ndarray, "sample layer coordinate"]
Bases = Float[np.ndarray, "sample layer coordinate dimension"]
Similarities = Float[np.ndarray, "sample layer"]


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
        resampling: number of halvings for the value, number of halvings for the interval (0 gives
            NaN for low and high, and so do units of which no two are of one kind), coverage, and
            the seed of both.
    """
    rng = np.random.default_rng(resampling.seed)

    def halved(halvings: int) -> Similarities:
        first = even_halves(kinds, halvings, rng)[:, units]
        return similarity(first, 1 - first)

    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        # Without a direction in any half, the reliability is NaN.
        warnings.simplefilter("ignore", RuntimeWarning)
        value = np.nanmean(halved(resampling.splits), axis=0)
        freedom = len(kinds) - len(np.unique(kinds))
        if not (resampling.resamples and freedom):
            missing = np.full_like(value, np.nan)
            return value, missing, missing
        spread = np.nanstd(fisher_z(halved(resampling.resamples)), axis=0, ddof=1)
    reach = Confidence(resampling.level, freedom + 1).two_sided * spread
    reach = reach * np.sqrt(1 + 1 / resampling.splits + 1 / freedom)
    z = fisher_z(value)
    return value, np.tanh(z - reach), np.tanh(z + reach)


def even_halves(
    kinds: Int[np.ndarray, " unit"], splits: int, rng: np.random.Generator
) -> Float[np.ndarray, "split unit"]:
    """1 for units of the first half; units of one kind are spread evenly over both."""
    shape = (splits, len(kinds))
    order = np.lexsort((rng.random(shape), np.broadcast_to(kinds, shape)))
    first = np.empty(shape)
    np.put_along_axis(first, order, (np.arange(len(kinds)) % 2).astype(float)[None], axis=1)
    return first


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
    return np.degrees(np.arccos(np.sqrt(reliability_of_whole(reliability))))


def reliability_of_whole(halves: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Reliability with all prompts: 2ρ/(1 + ρ) if halves have ρ (Spearman and Brown 1910)."""
    rho = np.clip(halves, 0.0, 1.0)
    return 2 * rho / (1 + rho)
