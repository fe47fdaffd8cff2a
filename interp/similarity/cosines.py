r"""Cosines between the directions of several labels, each with its interval, null and p-value.

A plain cosine between two mean differences shrinks with the noise in both, so a small value may
come from a large cosine with much noise. Two directions that share one set of negative prompts have
cosine .5 even when the labels have no effect. This module therefore

* cross-fits the inner products (:mod:`interp.statistics.crossfit`);
* leaves a cosine undefined where a direction does not exist;
* takes p-values from permuted labels, with pairs kept together and the max-T correction over layers
  and pairs (Westfall and Young 1993), because the cells of a heatmap are far from independent.

Any other estimator is refitted (:mod:`interp.directions.refits`). The value estimates the cosine
between the two *expected* directions: the averages of what the estimator finds with this many
prompts. For different prompts, :math:`\langle\hat w_a,\hat w_b\rangle` is unbiased. The jackknife
estimate of the noise is subtracted from each squared length, as cross-fitting does for a mean
difference. The estimator itself is fitted to every permuted labelling.

Limits: a cosine is symmetric, but leakage is not. The model need not read a direction that
separates two labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from jaxtyping import Float

from interp.directions import (
    DirectionSet,
    FittedDirections,
    MeanDifference,
    Refits,
    estimator_title,
)
from interp.errors import InputError
from interp.similarity.angles import joint_means
from interp.similarity.maps import Cells, SimilarityMap, from_pairs
from interp.similarity.pairs import (
    PRODUCTS,
    cell_of,
    permuted_products,
    refitted_null,
    refitted_products,
    stacked,
    studentised_null,
)
from interp.statistics import (
    Contrast,
    Estimates,
    InnerProducts,
    covariance_matched_overlaps,
    inner_products,
    isotropic_cosine,
    layer_names,
    permuted_weights,
    reliability_of_whole,
)


def cosine_between(a: Contrast, b: Contrast, *, level: float = 0.95) -> Estimates:
    """Cross-fitted cosine between two contrasts of different prompts, per layer.

    The null band is that of parallel directions (1 down to the one-sided bound), as for a rotation:
    a value inside it is consistent with one common direction.

    Raises:
        InputError: contrasts of different layers or widths.
    """
    return cell_of(*_mean_differences(a, b), level).cosine


def cosine_map(
    directions: FittedDirections | Mapping[str, Contrast] | DirectionSet,
    *,
    layers: Sequence[int] | None = None,
    permutations: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    measure: str | None = None,
) -> SimilarityMap:
    """Cosines between the directions of all labels, free of sampling noise.

    ``reliability`` is the share of a direction's squared length that is signal: the expected cosine
    with the same direction from equally many other prompts. It is about 0 where no direction
    exists. The null band is the wider of two: the band under permuted labels and Student's band for
    perpendicular directions. Corrected p-values are single-step max-T. Where both directions exist
    (for a refitted estimator: where either exists) they are at least the Šidák-corrected p-value of
    Student's test.

    Args:
        directions: fitted directions, whose estimator is refitted; or contrasts by label, compared
            by their mean differences. Labels must have different prompts
            (:func:`interp.directions.disjoint_controls`). For whitened or causal cosines,
            :mod:`interp.similarity.metric` maps contrasts to other coordinates. Vectors from disk
            cannot be refitted: they give plain cosines without intervals or a null.
        layers: names of the layers; those of ``directions``, or 0, 1, … by default.
        permutations: number of labellings, including the observed one; p is at least 1 over it.
        seed: of the permutations.
        level: coverage of the intervals.
        measure: the name of the values, where the contrasts are in other coordinates.

    Raises:
        InputError: fewer than two labels, contrasts of different layers or widths.

    Source:
        max-T: Westfall and Young 1993; the module docstring derives the cross-fitted products.

    Example:
        >>> cosines = sp.cosine_map(dirs, permutations=100)
        >>> cosines.value.shape
        (5, 7, 7)
        >>> figure = cosines.plot(layer=2)
    """
    if isinstance(directions, DirectionSet):
        return _values_alone(directions, layers, measure)
    if isinstance(directions, FittedDirections):
        estimator, contrasts = directions.estimator, directions.contrasts
        layers = directions.layers if layers is None else layers
    else:
        estimator, contrasts = MeanDifference(), directions
    labels, sides = tuple(contrasts), tuple(contrasts.values())
    _check_labels(labels)
    _warn_of_shared_rows(contrasts)
    depth, width = sides[0].positive.shape[1:]
    names = layer_names(layers, depth)
    pairs = list(combinations(range(len(sides)), 2))
    for i, j in pairs:
        _check_alike(sides[i], sides[j])

    rng = np.random.default_rng(seed)
    weights = [permuted_weights(contrast, permutations, rng) for contrast in sides]
    linear = type(estimator) is MeanDifference
    refits = [] if linear else [Refits.of(estimator, contrast) for contrast in sides]
    replicates = [refit.replicates(seed) for refit in refits]
    effective = [part.effective_n for part in (refits or sides)]
    smallest = np.array([min(effective[i], effective[j]) for i, j in pairs])
    cells = [
        cell_of(
            *(
                _mean_differences(sides[i], sides[j])
                if linear
                else refitted_products(replicates[i], replicates[j])
            ),
            level,
            refitted=not linear,
        )
        for i, j in pairs
    ]
    there, reliability = np.empty((2, depth, len(sides)))
    for pair, cell in zip(pairs, cells, strict=True):
        there[:, list(pair)], reliability[:, list(pair)] = cell.there, cell.reliability
    lasting = np.clip(reliability, 0.0, 1.0)
    if not linear:
        reliability = np.stack([part.reliability for part in replicates], axis=-1)
        lasting = reliability_of_whole(reliability)
    defined = stacked(cell.cosine.defined for cell in cells)

    no_null, no_interval = (getattr(estimator, f"no_{name}", "") for name in ("null", "interval"))
    if no_interval:
        cells = [replace(cell, cosine=cell.cosine.without_interval()) for cell in cells]
    if no_null:
        null = dict.fromkeys(("band", "p", "p_corrected"), np.full(defined.shape, np.nan))
    elif linear:
        null = studentised_null(sides, weights, pairs, cells, smallest, level)
    else:
        drawn = permuted_products(refits, weights, pairs)
        null = refitted_null(drawn, cells, smallest, level)
    matched = covariance_matched_overlaps(sides, pairs, rng=rng)
    return SimilarityMap(
        measure=measure or ("cosine" if linear else f"cosine, {estimator_title(estimator)}"),
        labels=labels,
        layers=names,
        **from_pairs(
            pairs,
            np.where(there, 1.0, np.nan),
            value=stacked(cell.cosine.value for cell in cells),
            low=stacked(cell.cosine.low for cell in cells),
            high=stacked(cell.cosine.high for cell in cells),
        ),
        **from_pairs(pairs, there.astype(bool), defined=defined),
        **from_pairs(
            pairs,
            null_low=-null["band"],
            null_high=null["band"],
            p=null["p"],
            p_corrected=null["p_corrected"],
            isotropic=np.full(defined.shape, isotropic_cosine(width, level)),
            covariance_matched=np.sqrt(np.quantile(matched, level, axis=0)),
        ),
        reliability=reliability,
        n=tuple(part.n for part in (refits or sides)),
        ceiling=_ceiling(lasting),
        draws=0 if no_null else permutations,
        no_null=no_null + (f"; and no interval: {no_interval}" if no_interval else ""),
    )


def plain_cosines(
    vectors: Float[np.ndarray, "label layer d_model"],
) -> Float[np.ndarray, "layer label label"]:
    """Cosines of the vectors, including noise; see the module docstring for their bias."""
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.einsum("ald,bld->lab", unit, unit)


def _mean_differences(a: Contrast, b: Contrast) -> tuple[InnerProducts, float]:
    _check_alike(a, b)
    means = joint_means(a, b, np.array([[1, -1, 0, 0], [0, 0, 1, -1]]))
    return inner_products(means, PRODUCTS), means.effective_n


def _values_alone(
    directions: DirectionSet, layers: Sequence[int] | None, measure: str | None
) -> SimilarityMap:
    """Plain cosines of vectors of which only the reliabilities are known."""
    _check_labels(directions.labels)
    vectors = directions.vectors.astype(np.float64)
    value = plain_cosines(vectors)
    missing = np.full(value.shape, np.nan)
    reliability = directions.reliability.T.astype(np.float64)
    return SimilarityMap(
        measure=measure or f"plain cosine, {directions.estimator}",
        labels=directions.labels,
        layers=layer_names(directions.layers if layers is None else layers, len(value)),
        value=value,
        defined=np.isfinite(value),
        reliability=reliability,
        n=tuple(directions.n.tolist()),
        ceiling=_ceiling(reliability_of_whole(reliability)),
        no_null="vectors without their prompts cannot be fitted again",
        low=missing,
        high=missing,
        null_low=missing,
        null_high=missing,
        p=missing,
        p_corrected=missing,
        isotropic=missing,
        covariance_matched=missing,
    )


def _ceiling(reliability: Float[np.ndarray, "layer label"]) -> Cells:
    lasting = np.sqrt(reliability)
    return lasting[:, :, None] * lasting[:, None, :]


def _check_labels(labels: Sequence[str]) -> None:
    if len(labels) < 2:
        raise InputError(f"{len(labels)} label; a map of cosines needs at least two")


def _check_alike(a: Contrast, b: Contrast) -> None:
    if a.positive.shape[1:] != b.positive.shape[1:]:
        raise InputError(
            f"contrasts have (layer, d_model) = {a.positive.shape[1:]} and {b.positive.shape[1:]}; "
            "collect both from the same model and layers"
        )


def _warn_of_shared_rows(contrasts: Mapping[str, Contrast]) -> None:
    rows = {
        label: {row.tobytes() for row in contrast.states[:, -1]}
        for label, contrast in contrasts.items()
    }
    for a, b in combinations(rows, 2):
        if shared := len(rows[a] & rows[b]):
            warnings.warn(
                f"{a!r} and {b!r} share {shared} rows, so they share noise, which biases their "
                "cosine; split the common prompts with disjoint_controls",
                stacklevel=3,
            )
