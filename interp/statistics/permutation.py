"""Label permutations for inner products between contrasts.

Twins swap their labels with one another, prompts without a twin trade labels among themselves. The
statistic is the inner product over its standard error *in that permutation*: such a test is exact
where the labels mean nothing at all, and comes nearer to its level than an unscaled one where both
directions are real but perpendicular (Janssen 1997; Chung and Romano, Annals of Statistics 2013).
For that the standard error must be right in both worlds. The jackknife's counts noise times noise
twice, which is all there is under permuted labels; the surplus, the same in every permutation, is
taken off.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Shaped

from interp.statistics.contrast import Contrast


def permuted_weights(
    contrast: Contrast, draws: int, rng: np.random.Generator
) -> Float[np.ndarray, "draw row"]:
    """Weights of the rows in the difference of means, labels permuted; the first draw is observed.

    Args:
        contrast: its pairs are what may be exchanged: labels move within linked rows, and among
            all rows that stand alone.
        draws: permutations, the observed labelling included.
        rng: the source of chance.
    """
    labels, units = contrast.classes, contrast.units
    alone = np.bincount(units)[units] == 1
    block = np.where(alone, -1, units)
    place = np.argsort(block, kind="stable")
    # Keys in [0, 1) sort rows at random inside their block and never across blocks.
    order = np.argsort(block + rng.random((draws, len(block))), axis=1)
    order[0] = place
    permuted = np.empty_like(order)
    permuted[:, place] = labels[order]
    return np.where(permuted == 0, 1.0 / len(contrast.positive), -1.0 / len(contrast.negative))


def studentised_products(
    a: Contrast,
    b: Contrast,
    weights_a: Float[np.ndarray, "draw row_a"],
    weights_b: Float[np.ndarray, "draw row_b"],
) -> tuple[Float[np.ndarray, "draw layer"], Float[np.ndarray, " layer"]]:
    """⟨r_a, r_b⟩ over its standard error in every draw, and the standard error of the first.

    The contrasts are taken to be of different prompts.
    """
    states_a, states_b = (c.states - c.states.mean(axis=0) for c in (a, b))
    starts_a, starts_b = (_unit_starts(c.units) for c in (a, b))
    statistics, errors = [], []
    for layer in range(states_a.shape[1]):
        gram = states_a[:, layer] @ states_b[:, layer].T
        noise = _noise_variance(gram, (a, weights_a[0]), (b, weights_b[0]))
        product_a = weights_a * (weights_b @ gram.T)
        product_b = weights_b * (weights_a @ gram)
        variance = _variance(product_a, weights_a, *starts_a)
        variance += _variance(product_b, weights_b, *starts_b)
        # An unbiased estimate may come close to zero; the floor is as free of the labels.
        variance = np.maximum(variance - noise, noise / 2)
        statistics.append(product_a.sum(axis=1) / np.sqrt(variance))
        errors.append(np.sqrt(variance[0]))
    return np.stack(statistics, axis=1), np.array(errors)


def permutation_p_values(
    statistics: Float[np.ndarray, "draw layer pair"],
) -> tuple[Float[np.ndarray, "layer pair"], Float[np.ndarray, "layer pair"]]:
    """P-values of the first draw per cell, and family-wise over all cells.

    Single-step max-T (Westfall and Young 1993): each cell against the largest of all cells in every
    draw. The statistics must be on one scale, large ones speaking against the null. Cells that are
    NaN in any draw take no part and have no p-value.
    """
    there = np.isfinite(statistics).all(axis=0)
    drawn = np.where(there, statistics, -np.inf)
    p = (drawn >= drawn[0]).mean(axis=0)
    p_corrected = (drawn.max(axis=(1, 2))[:, None, None] >= drawn[0]).mean(axis=0)
    return np.where(there, p, np.nan), np.where(there, p_corrected, np.nan)


def standardised(
    statistics: Float[np.ndarray, "draw layer pair"],
) -> Float[np.ndarray, "draw layer pair"]:
    """Each cell about its mean over the draws, in their standard deviations: one scale for all."""
    spread = statistics.std(axis=0)
    return (statistics - statistics.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def shuffled_within(
    strata: Shaped[np.ndarray, " row"], draws: int, rng: np.random.Generator
) -> Int[np.ndarray, "draw row"]:
    """Row numbers shuffled among rows of the same stratum; the first draw is in order."""
    _, block = np.unique(strata, return_inverse=True)
    place = np.argsort(block, kind="stable")
    order = np.argsort(block + rng.random((draws, len(block))), axis=1)
    order[0] = place
    shuffled = np.empty_like(order)
    shuffled[:, place] = order
    return shuffled


def _variance(
    products: Float[np.ndarray, "draw row"],
    weights: Float[np.ndarray, "draw row"],
    order: Int[np.ndarray, " row"],
    starts: Int[np.ndarray, " unit"],
) -> Float[np.ndarray, " draw"]:
    """Sum of squared influences of the units: the linear part of the jackknife."""
    positive = weights > 0
    mean_positive = (products * positive).sum(axis=1, keepdims=True)
    mean_negative = -(products * ~positive).sum(axis=1, keepdims=True)
    influence = products - weights * np.where(positive, mean_positive, mean_negative)
    if len(starts) < len(order):
        influence = np.add.reduceat(influence[:, order], starts, axis=1)
    return np.einsum("du,du->d", influence, influence)


def _noise_variance(
    gram: Float[np.ndarray, "row_a row_b"], *sides: tuple[Contrast, Float[np.ndarray, " row"]]
) -> float:
    """Variance of noise times noise, from products of single units; labels do not change it."""
    for contrast, weights in sides:
        order, starts = _unit_starts(contrast.units)
        alone = np.bincount(contrast.units)[contrast.units] == 1
        # Swapping twins changes a unit's sign only; rows that stand alone get their mean weight.
        typical = np.sqrt(np.mean(weights[alone] ** 2)) if alone.any() else 0.0
        fixed = np.where(alone, typical, weights)
        gram = np.add.reduceat((gram * fixed[:, None])[order], starts, axis=0).T
    return float(np.sum(gram**2))


def _unit_starts(
    units: Int[np.ndarray, " row"],
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " unit"]]:
    order = np.argsort(units, kind="stable")
    _, starts = np.unique(units[order], return_index=True)
    return order, starts
