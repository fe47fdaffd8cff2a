r"""Null distributions of similarities: permuted labels, and random directions and subspaces.

Matched prompts swap their labels; unmatched prompts exchange labels among themselves; rows of one
unit and side keep one label. The statistic is the inner product over its standard error *in that
permutation*. This test is exact if labels are meaningless. If both directions exist but are
perpendicular, its level is closer to nominal than that of an unscaled test (Janssen 1997; Chung and
Romano, Annals of Statistics 2013). The standard error must therefore be correct in both cases. The
jackknife counts the variance of noise times noise twice, and under permuted labels only this
variance remains. The excess is equal in all permutations, and the module subtracts it.

The overlap of two subspaces with orthonormal bases U and V is
:math:`\lVert U^\top V\rVert_F^2 / \min(k_U, k_V)`; for lines it is the squared cosine. Random
subspaces are drawn isotropically, or from the covariance of the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int, Shaped

from interp.statistics.contrast import Contrast, unit_numbers
from interp.statistics.crossfit import sums_by_unit
from interp.statistics.rows import kinds_of_units, labelled_weights, unit


def permuted_weights(
    contrast: Contrast, draws: int, rng: np.random.Generator
) -> Float[np.ndarray, "draw row"]:
    """Weights of the rows in the difference of means under permuted labels.

    The first draw has the observed labels.

    Args:
        contrast: the contrast; the two sides of a unit exchange their labels, and units with one
            side exchange theirs among themselves. Rows of one side and unit keep one label.
        draws: number of permutations, including the observed labels.
        rng: random number generator.
    """
    permuted = permuted_labels(contrast.classes, contrast.units, draws, rng)
    return labelled_weights(permuted == 0, np.ones(permuted.shape))


def permuted_labels(
    labels: Int[np.ndarray, " row"],
    units: Int[np.ndarray, " row"],
    draws: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, "draw row"]:
    """Labels permuted over units; the first draw has the observed ones.

    Rows of one unit and label keep one label. The labels within a unit are exchanged, and units
    with one label exchange theirs among themselves.
    """
    side = unit_numbers((units * (labels.max() + 1) + labels).tolist(), len(units))
    _, first = np.unique(side, return_index=True)
    own = units[first]
    alone = np.bincount(own)[own] == 1
    return labels[first][shuffled_within(np.where(alone, -1, own), draws, rng)][:, side]


def studentised_products(
    a: Contrast,
    b: Contrast,
    weights_a: Float[np.ndarray, "draw row_a"],
    weights_b: Float[np.ndarray, "draw row_b"],
) -> tuple[Float[np.ndarray, "draw layer"], Float[np.ndarray, " layer"]]:
    """⟨r_a, r_b⟩ over its standard error in every draw, and the first draw's standard error.

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
        # The unbiased estimate may be close to zero; the floor does not depend on the labels.
        variance = np.maximum(variance - noise, noise / 2)
        statistics.append(product_a.sum(axis=1) / np.sqrt(variance))
        errors.append(np.sqrt(variance[0]))
    return np.stack(statistics, axis=1), np.array(errors)


def permutation_p_values(
    statistics: Float[np.ndarray, " draw *cells"],
) -> tuple[Float[np.ndarray, "*cells"], Float[np.ndarray, "*cells"]]:
    """P-values of the first draw per cell, and family-wise over all cells.

    Single-step max-T (Westfall and Young 1993) compares each cell with the largest of all cells in
    every draw. All statistics need the same scale, and large values are evidence against the null.
    Cells with a number that is not finite in any draw are excluded; their p-values are NaN.
    """
    there = np.isfinite(statistics).all(axis=0)
    drawn = np.where(there, statistics, -np.inf)
    p = (drawn >= drawn[0]).mean(axis=0)
    largest = drawn.max(axis=tuple(range(1, drawn.ndim)), keepdims=True)
    p_corrected = (largest >= drawn[0]).mean(axis=0)
    return np.where(there, p, np.nan), np.where(there, p_corrected, np.nan)


def standardised(
    statistics: Float[np.ndarray, "draw layer pair"],
) -> Float[np.ndarray, "draw layer pair"]:
    """Each cell minus its mean over the draws, in standard deviations, so all share a scale."""
    spread = statistics.std(axis=0)
    return (statistics - statistics.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def shuffled_within(
    strata: Shaped[np.ndarray, " row"], draws: int, rng: np.random.Generator
) -> Int[np.ndarray, "draw row"]:
    """Row numbers shuffled within each stratum; the first draw keeps the order."""
    _, block = np.unique(strata, return_inverse=True)
    place = np.argsort(block, kind="stable")
    # Random keys in [0, 1) shuffle rows within blocks and never across blocks.
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
    """Variance of noise times noise, from products of units; it does not depend on labels."""
    for contrast, weights in sides:
        alone = kinds_of_units(contrast)[contrast.units] != 1
        # Swapping a pair only flips a unit's sign; other rows get their root mean square weight.
        typical = np.sqrt(np.mean(weights[alone] ** 2)) if alone.any() else 0.0
        fixed = np.where(alone, typical, weights)
        gram = sums_by_unit(gram * fixed[:, None], contrast.units).T
    return float(np.sum(gram**2))


def isotropic_overlap(d_model: int, dimensions: tuple[int, int], level: float = 0.95) -> float:
    """Quantile of the overlap of two random subspaces.

    The overlap has mean max(k) / d and the variance under Haar's measure. The function returns the
    quantile of the beta distribution with these moments, which is exact for lines.

    Args:
        d_model: dimensions of the space.
        dimensions: dimensions of the two subspaces.
        level: probability of the quantile.
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
    """Quantile of the absolute cosine of two random directions: about 1.96/√d at level 0.95.

    This is a lower bound on the null, because activations vary in few of their dimensions. If two
    directions are drawn from *their* covariance, the standard deviation of the cosine is one over
    the root of the effective number of dimensions.
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
        contrasts: one contrast per label, with disjoint prompts.
        pairs: pairs of contrast numbers.
        dimensions: dimensions of each subspace.
        draws: number of random pairs of subspaces.
        rng: random number generator.
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
            # A line only needs unit length, and QR of many lines is slow.
            lines = dimensions == 1
            bases.append(unit(spanned, axis=1) if lines else np.linalg.qr(spanned)[0])
        for index, (i, j) in enumerate(pairs):
            cosines = np.einsum("sdk,sdm->skm", bases[i], bases[j])
            overlaps[:, layer, index] = (cosines**2).sum(axis=(1, 2)) / cosines.shape[1]
    return overlaps
