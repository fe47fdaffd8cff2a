r"""Nulls of similarities: permuted labels, and random directions and subspaces.

Matched prompts swap their labels; unmatched prompts exchange labels among themselves. The statistic
is the inner product over its standard error *in that permutation*. This test is exact for
meaningless labels. If both directions exist but are perpendicular, its level is closer to nominal
than that of an unscaled test (Janssen 1997; Chung and Romano, Annals of Statistics 2013). The
standard error must therefore be correct in both cases. The jackknife counts noise times noise
twice, and permuted labels leave only noise times noise. The surplus is equal in all permutations
and is subtracted.

The overlap of two subspaces with orthonormal bases U and V is
:math:`\lVert U^\top V\rVert_F^2 / \min(k_U, k_V)`; for lines it is the squared cosine. Random ones
are drawn in all dimensions, or from the covariance of the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int, Shaped

from interp.statistics.contrast import Contrast
from interp.statistics.crossfit import sums_by_unit
from interp.statistics.rows import unit


def permuted_weights(
    contrast: Contrast, draws: int, rng: np.random.Generator
) -> Float[np.ndarray, "draw row"]:
    """Weights of the rows in the difference of means, labels permuted; the first draw is observed.

    Args:
        contrast: its pairs define the permutations: labels move within linked rows, and among all
            unpaired rows.
        draws: number of permutations, including the observed labelling.
        rng: the source of chance.
    """
    labels, units = contrast.classes, contrast.units
    alone = np.bincount(units)[units] == 1
    permuted = labels[shuffled_within(np.where(alone, -1, units), draws, rng)]
    return np.where(permuted == 0, 1.0 / len(contrast.positive), -1.0 / len(contrast.negative))


def studentised_products(
    a: Contrast,
    b: Contrast,
    weights_a: Float[np.ndarray, "draw row_a"],
    weights_b: Float[np.ndarray, "draw row_b"],
) -> tuple[Float[np.ndarray, "draw layer"], Float[np.ndarray, " layer"]]:
    """⟨r_a, r_b⟩ over its standard error in every draw, and the standard error of the first.

    The contrasts must have different prompts.
    """
    states_a, states_b = (c.states - c.states.mean(axis=0) for c in (a, b))
    statistics, errors = [], []
    for layer in range(states_a.shape[1]):
        gram = states_a[:, layer] @ states_b[:, layer].T
        noise = _noise_variance(gram, (a, weights_a[0]), (b, weights_b[0]))
        product_a = weights_a * (weights_b @ gram.T)
        product_b = weights_b * (weights_a @ gram)
        variance = _variance(product_a, weights_a, a.units)
        variance += _variance(product_b, weights_b, b.units)
        # An unbiased estimate may come close to zero; the floor is as free of the labels.
        variance = np.maximum(variance - noise, noise / 2)
        statistics.append(product_a.sum(axis=1) / np.sqrt(variance))
        errors.append(np.sqrt(variance[0]))
    return np.stack(statistics, axis=1), np.array(errors)


def permutation_p_values(
    statistics: Float[np.ndarray, "draw layer pair"],
) -> tuple[Float[np.ndarray, "layer pair"], Float[np.ndarray, "layer pair"]]:
    """P-values of the first draw per cell, and family-wise over all cells.

    Single-step max-T (Westfall and Young 1993) compares each cell with the largest of all cells in
    every draw. The statistics must be on one scale, with large values as evidence against the null.
    Cells with NaN in any draw are excluded and have no p-value.
    """
    there = np.isfinite(statistics).all(axis=0)
    drawn = np.where(there, statistics, -np.inf)
    p = (drawn >= drawn[0]).mean(axis=0)
    p_corrected = (drawn.max(axis=(1, 2))[:, None, None] >= drawn[0]).mean(axis=0)
    return np.where(there, p, np.nan), np.where(there, p_corrected, np.nan)


def standardised(
    statistics: Float[np.ndarray, "draw layer pair"],
) -> Float[np.ndarray, "draw layer pair"]:
    """Each cell minus its mean over the draws, in standard deviations: one scale for all."""
    spread = statistics.std(axis=0)
    return (statistics - statistics.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def shuffled_within(
    strata: Shaped[np.ndarray, " row"], draws: int, rng: np.random.Generator
) -> Int[np.ndarray, "draw row"]:
    """Row numbers shuffled among rows of the same stratum; the first draw is in order."""
    _, block = np.unique(strata, return_inverse=True)
    place = np.argsort(block, kind="stable")
    # Keys in [0, 1) sort rows at random inside their block and never across blocks.
    order = np.argsort(block + rng.random((draws, len(block))), axis=1)
    order[0] = place
    shuffled = np.empty_like(order)
    shuffled[:, place] = order
    return shuffled


def _variance(
    products: Float[np.ndarray, "draw row"],
    weights: Float[np.ndarray, "draw row"],
    units: Int[np.ndarray, " row"],
) -> Float[np.ndarray, " draw"]:
    """Sum of squared influences of the units: the linear part of the jackknife."""
    positive = weights > 0
    mean_positive = (products * positive).sum(axis=1, keepdims=True)
    mean_negative = -(products * ~positive).sum(axis=1, keepdims=True)
    influence = products - weights * np.where(positive, mean_positive, mean_negative)
    influence = sums_by_unit(influence.T, units)
    return np.einsum("ud,ud->d", influence, influence)


def _noise_variance(
    gram: Float[np.ndarray, "row_a row_b"], *sides: tuple[Contrast, Float[np.ndarray, " row"]]
) -> float:
    """Variance of noise times noise, from products of single units; labels do not change it."""
    for contrast, weights in sides:
        alone = np.bincount(contrast.units)[contrast.units] == 1
        # Swapping a pair changes a unit's sign only; rows that stand alone get their mean weight.
        typical = np.sqrt(np.mean(weights[alone] ** 2)) if alone.any() else 0.0
        fixed = np.where(alone, typical, weights)
        gram = sums_by_unit(gram * fixed[:, None], contrast.units).T
    return float(np.sum(gram**2))


def isotropic_overlap(d_model: int, dimensions: tuple[int, int], level: float = 0.95) -> float:
    """Quantile of the overlap of two random subspaces.

    The mean is max(k) / d and the variance that of Haar's measure; the quantile is of the beta
    distribution with these moments, which is exact for lines.

    Args:
        d_model: dimensions of the space.
        dimensions: of the two subspaces.
        level: of the quantile.
    """
    from scipy.special import betaincinv

    a, b = dimensions
    if max(a, b) >= d_model:
        return 1.0
    mean = max(a, b) / d_model
    trace_variance = 2 * a * b * (d_model - a) * (d_model - b)
    variance = trace_variance / (d_model**2 * (d_model - 1) * (d_model + 2) * min(a, b) ** 2)
    strength = mean * (1 - mean) / variance - 1
    return float(betaincinv(mean * strength, (1 - mean) * strength, level))


def isotropic_cosine(d_model: int, level: float = 0.95) -> float:
    """Quantile of the size of the cosine of two random directions, about 1.96/√d.

    A lower bound on the null: activations fill few of their dimensions, and the cosine of two
    directions drawn from *their* covariance varies by the root of one over the effective number.
    """
    return float(np.sqrt(isotropic_overlap(d_model, (1, 1), level)))


def covariance_matched_overlaps(
    contrasts: Sequence[Contrast],
    pairs: Sequence[tuple[int, int]],
    *,
    dimensions: int = 1,
    draws: int = 400,
    rng: np.random.Generator,
) -> Float[np.ndarray, "draw layer pair"]:
    """Overlaps of subspaces spanned by draws from the covariance within labels.

    Each side of a pair is drawn from its label's prompts, so shared noise of one sample does not
    add to the overlap.

    Args:
        contrasts: of several labels, disjoint prompts.
        pairs: numbers of contrasts.
        dimensions: of each subspace.
        draws: random pairs of subspaces.
        rng: the source of chance.
    """
    depth = contrasts[0].positive.shape[1]
    overlaps = np.empty((draws, depth, len(pairs)))
    normal = [rng.normal(size=(draws, dimensions, len(c.states))) for c in contrasts]
    for layer in range(depth):
        bases = []
        for contrast, weights in zip(contrasts, normal, strict=True):
            sides = (contrast.positive[:, layer], contrast.negative[:, layer])
            residual = np.concatenate([side - side.mean(axis=0) for side in sides])
            spanned = rearrange(
                weights @ residual, "draw coordinate d_model -> draw d_model coordinate"
            )
            # A line needs no more than its length, and QR of many lines is slow.
            lines = dimensions == 1
            bases.append(unit(spanned, axis=1) if lines else np.linalg.qr(spanned)[0])
        for index, (i, j) in enumerate(pairs):
            cosines = np.einsum("sdk,sdm->skm", bases[i], bases[j])
            overlaps[:, layer, index] = (cosines**2).sum(axis=(1, 2)) / cosines.shape[1]
    return overlaps
