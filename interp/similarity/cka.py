r"""Debiased centred kernel alignment: compare whole representations of the same prompts.

With the matrices of inner products K and L of two representations, U-centred (Székely and Rizzo,
Annals of Statistics 42, 2014), :math:`\mathrm{CKA} = \langle\tilde K,\tilde L\rangle /
\lVert\tilde K\rVert\lVert\tilde L\rVert`. That is CKA (Kornblith et al. 2019) with the unbiased
estimator HSIC₁ (Song et al. 2012; Nguyen et al. 2021). For independent data of 32 prompts in many
dimensions, the usual biased estimator gives .97 and this one gives about 0.

By design, CKA ignores rotations and uniform changes of size. For these see
:mod:`interp.similarity.procrustes` and :mod:`interp.similarity.rotations`. Limits: the few
directions of largest variance dominate the value, and a change that matters to behaviour may be
small along them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int, Shaped

from interp.errors import InputError
from interp.similarity.maps import SimilarityMap, States, from_pairs, permuted_null, states_by_name
from interp.statistics import (
    exact_mean,
    finite,
    fisher_interval,
    fisher_z,
    layer_names,
    normal_quantile,
    shuffled_within,
    sums_by_unit,
    unit_numbers,
)

if TYPE_CHECKING:
    from interp.activations import Activations

FEWEST_PROMPTS = 8
Gram = Float[np.ndarray, "row row"]


def u_centred(gram: Gram) -> Gram:
    """The U-centred matrix: zero diagonal, rows that sum to zero, unbiased inner products."""
    n = len(gram)
    kept = gram - np.diag(np.diag(gram))
    rows = kept.sum(axis=1) / (n - 2)
    kept = kept - rows[:, None] - rows[None, :] + kept.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(kept, 0.0)
    return kept


def debiased_cka(
    a: Float[np.ndarray, "prompt width_a"], b: Float[np.ndarray, "prompt width_b"]
) -> float:
    """Debiased CKA of two representations of the same prompts, row by row; within ±1.

    NaN where the rows of one of them are all equal.

    Raises:
        InputError: different numbers of prompts, or fewer than eight.
    """
    a, b = (_centred(x)[:, 0] for x in (a, b))
    _check_prompts({"the first": a, "the second": b})
    return _cosine(u_centred(a @ a.T), u_centred(b @ b.T))


def cka_map(
    representations: Mapping[str, States | Activations],
    *,
    strata: Sequence[object] | None = None,
    groups: Sequence[object] | None = None,
    layers: Sequence[int] | None = None,
    permutations: int = 500,
    seed: int = 0,
    level: float = 0.95,
) -> SimilarityMap:
    """Debiased CKA between representations of the same prompts, at every layer.

    An example is the same prompts in the base model and in several trained models. The null
    shuffles the prompts of one of the two representations. Shuffling keeps both covariances, so
    this is also the covariance-matched null. ``null_low`` … ``null_high`` hold the central share of
    the null. P-values are one-sided, with max-T over layers and pairs. Intervals are jackknife
    intervals over prompts on Fisher's scale. Prompts are the only source of chance, so the ceiling
    is 1. Values are undefined where the states of a representation do not vary.

    Args:
        representations: states or activations by name, row i of each from the same prompt.
        strata: shuffle only among prompts of the same stratum. With domains or labels as strata,
            the null keeps the similarity that these cause, and the test asks for more than that.
        groups: prompts of one group count as one prompt with the mean of their states, because
            near-duplicates are alike in any representation. All must have one stratum.
        layers: names of the layers; those of the activations, or 0, 1, … by default.
        permutations: number of shuffles, including the observed order.
        seed: of the shuffles.
        level: of bands and intervals.

    Raises:
        InputError: fewer than two representations, different prompts or layers, too few prompts or
            groups, or a group with several strata.
    """
    labels, k = tuple(representations), len(representations)
    if k < 2:
        raise InputError(f"{k} representation; a map of alignments needs at least two")
    states, layers = states_by_name(representations, layers)
    _check_prompts(states)
    units = unit_numbers(groups, len(states[labels[0]]))
    rows = {label: _centred(_mean_of_units(x, units)) for label, x in states.items()}
    _check_prompts(rows)
    n, depth = rows[labels[0]].shape[:2]
    if any(states.shape[1] != depth for states in rows.values()):
        raise InputError("representations of different numbers of layers; collect the same ones")
    names = layer_names(layers, depth)
    blocks = _blocks(strata, units)
    shuffles = shuffled_within(blocks, permutations, np.random.default_rng(seed))

    pairs = list(combinations(range(k), 2))
    statistics = np.empty((permutations, depth, len(pairs)))
    spread = np.empty((depth, len(pairs)))
    for layer in range(depth):
        grams = [rows[label][:, layer] @ rows[label][:, layer].T for label in labels]
        kernels = [u_centred(gram) for gram in grams]
        for index, (i, j) in enumerate(pairs):
            scale = np.linalg.norm(kernels[i]) * np.linalg.norm(kernels[j]) or np.nan
            for draw, order in enumerate(shuffles):
                shuffled = kernels[j][np.ix_(order, order)]
                statistics[draw, layer, index] = np.vdot(kernels[i], shuffled) / scale
            spread[layer, index] = _jackknife_error(grams[i], grams[j])

    low, high = fisher_interval(statistics[0], spread, level)
    null = permuted_null(statistics, level)
    # U-centred products of isotropic states are uncorrelated, with n(n - 3)/2 degrees of freedom.
    isotropic = normal_quantile((1 + level) / 2) * np.sqrt(2 / (n * (n - 3)))
    varied = np.stack([x.any(axis=(0, 2)) for x in rows.values()], axis=-1)
    return SimilarityMap(
        measure="debiased CKA",
        labels=labels,
        layers=names,
        **from_pairs(pairs, np.where(varied, 1.0, np.nan), value=statistics[0], low=low, high=high),
        **from_pairs(pairs, **null, covariance_matched=null["null_high"]),
        **from_pairs(pairs, isotropic=np.full(low.shape, isotropic)),
        defined=varied[:, :, None] & varied[:, None, :],
        reliability=np.ones((depth, k)),
        n=(n,) * k,
        ceiling=np.ones((depth, k, k)),
        draws=permutations,
    )


def _mean_of_units(states: np.ndarray, units: Int[np.ndarray, " prompt"]) -> States:
    sums = sums_by_unit(finite(states), units)
    return sums / np.bincount(units)[:, None, None]


def _blocks(
    strata: Sequence[object] | None, units: Int[np.ndarray, " prompt"]
) -> Shaped[np.ndarray, " unit"]:
    """The stratum of each unit."""
    _, first = np.unique(units, return_index=True)
    if strata is None:
        return np.zeros(len(first))
    if len(strata) != len(units):
        raise InputError(f"{len(strata)} strata for {len(units)} prompts; give one for each")
    names = np.array([str(stratum) for stratum in strata])
    if (names != names[first][units]).any():
        raise InputError("a group has prompts of several strata; give each group one stratum")
    return names[first]


def _centred(states: np.ndarray) -> States:
    states = finite(states)
    return states - exact_mean(states)


def _cosine(a: Gram, b: Gram) -> float:
    return float(np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b) or np.nan))


def _jackknife_error(a: Gram, b: Gram) -> float:
    """Standard error of Fisher's z of the debiased CKA, leaving out one prompt at a time."""
    n = len(a)
    products = [_left_out(x, y) for x, y in ((a, b), (a, a), (b, b))]
    with np.errstate(invalid="ignore", divide="ignore"):
        z = fisher_z(products[0] / np.sqrt(products[1] * products[2]))
    return float(np.sqrt((n - 1) * np.var(z)))


def _left_out(a: Gram, b: Gram) -> Float[np.ndarray, " row"]:
    """HSIC₁ without each prompt in turn, up to a constant, from sums over rows."""
    n = len(a) - 1
    a, b = (gram - np.diag(np.diag(gram)) for gram in (a, b))
    rows_a, rows_b, product = a.sum(axis=1), b.sum(axis=1), a * b
    traces = product.sum() - 2 * product.sum(axis=1)
    totals = (a.sum() - 2 * rows_a) * (b.sum() - 2 * rows_b)
    # Σ_{j≠i} (a_j - A_ji)(b_j - B_ji), with rows without prompt i.
    rows = rows_a @ rows_b - rows_a * rows_b - a @ rows_b - b @ rows_a + product.sum(axis=1)
    return traces + totals / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)


def _check_prompts(representations: Mapping[str, Shaped[np.ndarray, "prompt ..."]]) -> None:
    sizes = {name: len(states) for name, states in representations.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"representations of {sizes} prompts; row i must be one prompt in all")
    if min(sizes.values()) < FEWEST_PROMPTS:
        raise InputError(f"{min(sizes.values())} prompts; alignment needs {FEWEST_PROMPTS} or more")
