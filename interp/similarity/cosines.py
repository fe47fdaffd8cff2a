r"""Cosines between the directions of several labels, each with its interval, null and p-value.

A plain cosine between two mean differences shrinks with the noise in both, so a small one may be a
large one measured badly; and two directions that share one set of negative prompts have cosine .5
when there is nothing there at all. Here the inner products are cross-fitted
(:mod:`interp.statistics.crossfit`), a cosine is undefined where a direction is not there, and
p-values come from permuting labels, twins together, with the max-T correction over layers and pairs
(Westfall and Young 1993): cells of a heatmap are far from independent.

What it does not show: a cosine is symmetric, leakage is not; and a direction that separates two
labels need not be one that the model reads.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.errors import InputError
from interp.similarity.angle import angle_degrees, as_cosine, exists
from interp.similarity.maps import SimilarityMap, from_pairs
from interp.statistics import (
    Confidence,
    Contrast,
    Estimates,
    class_means,
    covariance_matched_overlaps,
    inner_products,
    isotropic_cosine,
    layer_names,
    permutation_p_values,
    permuted_weights,
    studentised_products,
)

__all__ = ["Contrast", "SimilarityMap", "cosine_between", "cosine_map", "plain_cosines"]


def cosine_between(a: Contrast, b: Contrast, *, level: float = 0.95) -> Estimates:
    """Cross-fitted cosine between two contrasts of different prompts, per layer.

    The null band is that of parallel directions (1 down to the one-sided bound), as for a rotation:
    a value inside it cannot be told from the same direction.

    Raises:
        InputError: contrasts of different layers or widths.
    """
    return _cosine(a, b, level)[0]


def cosine_map(
    contrasts: Mapping[str, Contrast],
    *,
    layers: Sequence[int] | None = None,
    permutations: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    measure: str = "cosine",
) -> SimilarityMap:
    """Cosines between the directions of all labels, cross-fitted.

    Its ``reliability`` is the share of a direction's squared length that is no noise: the cosine
    expected with the same direction from as many other prompts, about 0 where there is none. Its
    null band is the wider of those under permuted labels and of Student's for perpendicular
    directions; corrected p-values are single-step max-T, and where both directions exist no less
    than the Šidák-corrected p-value of Student's test.

    Args:
        contrasts: by label; of different prompts (:func:`interp.directions.disjoint_controls`).
            For whitened or causal cosines, :mod:`interp.similarity.metric` maps them to other
            coordinates.
        layers: names of the layers; 0, 1, … by default.
        permutations: labellings drawn, the observed one included; p is at least one over it.
        seed: of the permutations.
        level: coverage of the intervals.
        measure: the name of the values, where the contrasts are in other coordinates.

    Raises:
        InputError: fewer than two labels, contrasts of different layers or widths.
    """
    labels, k = tuple(contrasts), len(contrasts)
    if k < 2:
        raise InputError(f"{k} label; a map of cosines needs at least two")
    _warn_of_shared_rows(contrasts)
    depth, width = next(iter(contrasts.values())).positive.shape[1:]
    names = layer_names(layers, depth)

    sizes = [min(len(c.positive), len(c.negative)) for c in contrasts.values()]
    rng = np.random.default_rng(seed)
    weights = {label: permuted_weights(contrasts[label], permutations, rng) for label in labels}
    pairs = list(combinations(range(k), 2))
    statistics = np.empty((permutations, depth, len(pairs)))
    found = []
    exist = np.empty((depth, k), dtype=bool)
    reliability = np.empty((depth, k))
    for index, (i, j) in enumerate(pairs):
        a, b = contrasts[labels[i]], contrasts[labels[j]]
        cosine, there, reliable, lengths = _cosine(a, b, level)
        statistics[:, :, index], error = studentised_products(
            a, b, weights[labels[i]], weights[labels[j]]
        )
        drawn = np.quantile(np.abs(statistics[:, :, index]), level, axis=0)
        limit = Confidence(level, min(sizes[i], sizes[j])).two_sided
        band = np.maximum(drawn, limit) * error / lengths
        found.append((cosine.value, cosine.low, cosine.high, band, cosine.defined))
        reliability[:, [i, j]] = reliable
        exist[:, [i, j]] = np.stack(there, axis=-1)

    value, low, high, band, both = (np.stack(part, axis=-1) for part in zip(*found, strict=True))
    smallest = np.array([min(sizes[i], sizes[j]) for i, j in pairs])
    p, p_corrected = _p_values(statistics, both, smallest)
    with_itself = np.where(exist, 1.0, np.nan)
    matched = covariance_matched_overlaps(tuple(contrasts.values()), pairs, rng=rng)
    lasting = np.sqrt(np.clip(reliability, 0.0, 1.0))
    return SimilarityMap(
        measure=measure,
        labels=labels,
        layers=names,
        value=from_pairs(value, pairs, diagonal=with_itself),
        low=from_pairs(low, pairs, diagonal=with_itself),
        high=from_pairs(high, pairs, diagonal=with_itself),
        null_low=from_pairs(-band, pairs),
        null_high=from_pairs(band, pairs),
        p=from_pairs(p, pairs),
        p_corrected=from_pairs(p_corrected, pairs),
        defined=from_pairs(both, pairs, diagonal=exist).astype(bool),
        reliability=reliability,
        n=tuple(sizes),
        isotropic=from_pairs(np.full(p.shape, isotropic_cosine(width, level)), pairs),
        covariance_matched=from_pairs(np.sqrt(np.quantile(matched, level, axis=0)), pairs),
        ceiling=lasting[:, :, None] * lasting[:, None, :],
    )


def plain_cosines(
    vectors: Float[np.ndarray, "label layer d_model"],
) -> Float[np.ndarray, "layer label label"]:
    """Cosines of the vectors as they are, noise included; see the module for what they hide."""
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.einsum("ald,bld->lab", unit, unit)


def _cosine(
    a: Contrast, b: Contrast, level: float
) -> tuple[Estimates, tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Cosine, which of the directions exist, their reliabilities, product of their lengths."""
    if a.positive.shape[1:] != b.positive.shape[1:]:
        raise InputError(
            f"contrasts have (layer, d_model) = {a.positive.shape[1:]} and {b.positive.shape[1:]}; "
            "collect both from the same model and layers"
        )
    means = class_means(
        np.concatenate([a.states, b.states]),
        np.concatenate([a.classes, b.classes + 2]),
        np.concatenate([a.units, b.units + a.units.max() + 1]),
        np.array([[1, -1, 0, 0], [0, 0, 1, -1]]),
    )
    products = inner_products(means, [(0, 0), (1, 1), (0, 1)])
    confidence = Confidence(level, means.n)
    cosine = as_cosine(angle_degrees(products, confidence))
    there = (exists(products, 0, confidence)[1], exists(products, 1, confidence)[1])
    plain = np.maximum(products.plain[:, :2], np.finfo(float).tiny)
    lengths = np.sqrt(np.prod(np.maximum(products.value[:, :2], 0.0), axis=1))
    lengths = np.where(cosine.defined, lengths, np.nan)
    return cosine, there, products.value[:, :2] / plain, lengths


def _p_values(
    statistics: Float[np.ndarray, "draw layer pair"],
    defined: Bool[np.ndarray, "layer pair"],
    n: Int[np.ndarray, " pair"],
) -> tuple[Float[np.ndarray, "layer pair"], Float[np.ndarray, "layer pair"]]:
    """P-values per cell and family-wise over all cells.

    Permuted labels leave noise times noise, whose studentised tails are thinner than Student's.
    Where both directions exist a perpendicular pair has Student's tails, and permutations alone
    would reject it at .13 to .17 for .05 (n = 24 and 100): the larger p-value holds there.
    """
    from scipy.special import stdtr

    observed = np.abs(statistics[0])
    p, p_corrected = permutation_p_values(np.abs(statistics))
    student = 2.0 * stdtr(n - 1.0, -observed)
    sidak = -np.expm1(observed.size * np.log1p(-np.minimum(student, 1 - 1e-15)))
    return (
        np.where(defined, np.maximum(p, student), p),
        np.where(defined, np.maximum(p_corrected, sidak), p_corrected),
    )


def _warn_of_shared_rows(contrasts: Mapping[str, Contrast]) -> None:
    rows = {
        label: {row.tobytes() for row in contrast.states[:, -1]}
        for label, contrast in contrasts.items()
    }
    for a, b in combinations(rows, 2):
        if shared := len(rows[a] & rows[b]):
            warnings.warn(
                f"{a!r} and {b!r} share {shared} rows: their noise is shared, and so their cosine "
                "is not the directions' alone; split the common prompts with disjoint_controls",
                stacklevel=3,
            )
