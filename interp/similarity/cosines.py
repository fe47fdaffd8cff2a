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
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.errors import InputError
from interp.similarity.angle import angle_degrees, as_cosine, exists, joint_means
from interp.similarity.maps import SimilarityMap, from_pairs
from interp.statistics import (
    Confidence,
    Contrast,
    Estimates,
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

    sides, sizes = tuple(contrasts.values()), tuple(c.n for c in contrasts.values())
    rng = np.random.default_rng(seed)
    weights = [permuted_weights(contrast, permutations, rng) for contrast in sides]
    pairs = list(combinations(range(k), 2))
    smallest = np.array([min(sizes[i], sizes[j]) for i, j in pairs])
    cosines: dict[str, Any] = {}
    statistics, bands, reliability = [], [], np.empty((depth, k))
    there = np.empty((depth, k), dtype=bool)
    for (i, j), n in zip(pairs, smallest, strict=True):
        cosine, there[:, [i, j]], reliability[:, [i, j]], lengths = _cosine(
            sides[i], sides[j], level
        )
        drawn, error = studentised_products(sides[i], sides[j], weights[i], weights[j])
        beyond = np.quantile(np.abs(drawn), level, axis=0)
        bands.append(np.maximum(beyond, Confidence(level, n).two_sided) * error / lengths)
        statistics.append(drawn)
        for name in ("value", "low", "high", "defined"):
            cosines.setdefault(name, []).append(getattr(cosine, name))

    cosines = {name: np.stack(values, axis=-1) for name, values in cosines.items()}
    band, defined = np.stack(bands, axis=-1), cosines.pop("defined")
    p, p_corrected = _p_values(np.stack(statistics, axis=-1), defined, smallest)
    matched = covariance_matched_overlaps(sides, pairs, rng=rng)
    lasting = np.sqrt(np.clip(reliability, 0.0, 1.0))
    return SimilarityMap(
        measure=measure,
        labels=labels,
        layers=names,
        **from_pairs(pairs, np.where(there, 1.0, np.nan), **cosines),
        **from_pairs(pairs, there, defined=defined),
        **from_pairs(
            pairs,
            null_low=-band,
            null_high=band,
            p=p,
            p_corrected=p_corrected,
            isotropic=np.full(p.shape, isotropic_cosine(width, level)),
            covariance_matched=np.sqrt(np.quantile(matched, level, axis=0)),
        ),
        reliability=reliability,
        n=sizes,
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
) -> tuple[Estimates, np.ndarray, np.ndarray, np.ndarray]:
    """Cosine, which of the directions exist, their reliabilities, product of their lengths."""
    if a.positive.shape[1:] != b.positive.shape[1:]:
        raise InputError(
            f"contrasts have (layer, d_model) = {a.positive.shape[1:]} and {b.positive.shape[1:]}; "
            "collect both from the same model and layers"
        )
    means = joint_means(a, b, np.array([[1, -1, 0, 0], [0, 0, 1, -1]]))
    products = inner_products(means, [(0, 0), (1, 1), (0, 1)])
    confidence = Confidence(level, means.n)
    cosine = as_cosine(angle_degrees(products, confidence))
    there = np.stack([exists(products, index, confidence)[1] for index in (0, 1)], axis=1)
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
