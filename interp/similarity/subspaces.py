r"""Subspaces compared: principal angles, overlap, and a map of overlaps between labels.

Overlap is :math:`\lVert U^\top V\rVert_F^2 / \min(k_U, k_V)`, the mean squared cosine of the
principal angles: 1 for the same subspace (or one inside the other), max(k) / d for random ones. It
is never negative, so noise subspaces overlap too. They overlap more if the states fill fewer
dimensions. Always compare a value with its null. Unlike the cosines of
:mod:`interp.similarity.cosines`, the overlap is not cross-fitted; the ceiling shows how much noise
reduces it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float
from scipy.linalg import subspace_angles
from scipy.special import expit, logit

from interp.directions import (
    ContrastSubspace,
    FittedDirections,
    contrast_bases,
    mean_difference_weights,
)
from interp.errors import InputError
from interp.similarity.maps import SimilarityMap, from_pairs, permuted_null
from interp.statistics import (
    Axes,
    Bases,
    Confidence,
    Contrast,
    centring_matrix,
    coordinates_of,
    covariance_matched_overlaps,
    isotropic_overlap,
    layer_names,
    permuted_weights,
    reliability_of_whole,
    resampling_weights,
    unit_count,
)

Basis = Float[np.ndarray, "dimension d_model"]


def principal_angles(a: Basis, b: Basis) -> Float[np.ndarray, " angle"]:
    """Principal angles between the spans of the rows of ``a`` and ``b``, in degrees, ascending.

    Sines replace cosines where cosines lose precision (Björck and Golub 1973), so the angle of a
    subspace with itself is 0° and not 1e-6.

    Raises:
        InputError: other widths, or rows that are linearly dependent.
    """
    _check_bases(a, b)
    return np.sort(np.degrees(subspace_angles(np.asarray(a).T, np.asarray(b).T)))


def subspace_overlap(a: Basis, b: Basis) -> float:
    """Mean squared cosine of the principal angles, over the smaller of the two dimensions.

    Raises:
        InputError: other widths, or rows that are linearly dependent.
    """
    return float(np.mean(np.cos(np.radians(principal_angles(a, b))) ** 2))


def overlap_map(
    contrasts: FittedDirections | Mapping[str, Contrast],
    *,
    dimensions: int = 2,
    layers: Sequence[int] | None = None,
    permutations: int = 200,
    resamples: int = 50,
    seed: int = 0,
    level: float = 0.95,
) -> SimilarityMap:
    """Overlaps between the labels' subspaces (:class:`interp.directions.ContrastSubspace`).

    ``null_low`` and ``null_high`` hold the central share of the overlaps under permuted labels.
    Pairs stay together, and each label's mean is removed first (Freedman and Lane 1983). The null
    subspaces are therefore noise with the prompts' covariance, without the labels' difference.
    Where a few dimensions of large variance dominate that covariance, the null is high; use
    whitened contrasts there (:mod:`interp.similarity.metric`). P-values are one-sided, with max-T
    over log-odds of overlaps in standard deviations of their permutations.

    A label's subspace exists where its excess is above that share of the excess of its
    permutations. Reliability is the root mean squared cosine between halves. Intervals are centred
    on the value, with a width from resampled prompts: they show its variation, and do not correct
    the bias from noise.

    Args:
        contrasts: contrasts by label, or fitted directions, whose contrasts are used; labels must
            have different prompts.
        dimensions: of every subspace.
        layers: names of the layers; those of the fitted directions, or 0, 1, … by default.
        permutations: number of labellings, including the observed one.
        resamples: bootstrap samples for intervals; halvings for those of reliabilities.
        seed: of permutations, resamples and splits.
        level: coverage of intervals and bands.

    Raises:
        InputError: fewer than two labels, contrasts of different layers or widths, or more
            dimensions than the prompts allow.
    """
    if isinstance(contrasts, FittedDirections):
        layers = contrasts.layers if layers is None else layers
        contrasts = contrasts.contrasts
    labels, k = tuple(contrasts), len(contrasts)
    if k < 2:
        raise InputError(f"{k} label; a map of overlaps needs at least two")
    shapes = {contrast.positive.shape[1:] for contrast in contrasts.values()}
    if len(shapes) > 1:
        raise InputError(f"contrasts have (layer, d_model) = {sorted(shapes)}; collect them alike")
    ((depth, width),) = shapes
    names = layer_names(layers, depth)
    rng = np.random.default_rng(seed)
    pairs = list(combinations(range(k), 2))

    estimator = ContrastSubspace(dimensions=dimensions, resamples=resamples, level=level, seed=seed)
    fits = [_fitted(contrast, estimator, permutations, rng) for contrast in contrasts.values()]
    statistics = _overlaps([(fit.labelled, fit.axes) for fit in fits], pairs)
    again = _overlaps([(fit.resampled, fit.axes) for fit in fits], pairs)
    units = [unit_count(contrast.units) for contrast in contrasts.values()]
    critical = np.array([Confidence(level, min(units[i], units[j])).two_sided for i, j in pairs])
    reach = critical * np.nanstd(_logit(again), axis=0)
    matched = covariance_matched_overlaps(
        tuple(contrasts.values()), pairs, dimensions=dimensions, rng=rng
    )
    exists = np.stack([fit.exists for fit in fits], axis=-1)
    defined = np.stack([exists[:, i] & exists[:, j] for i, j in pairs], axis=-1)
    reliability = np.stack([fit.reliability for fit in fits], axis=-1)
    lasting = reliability_of_whole(reliability)
    value, isotropic = statistics[0], isotropic_overlap(width, (dimensions, dimensions), level)
    log_odds = _logit(value)
    values = {"value": value, "low": expit(log_odds - reach), "high": expit(log_odds + reach)}
    values = {name: np.where(defined, of_pairs, np.nan) for name, of_pairs in values.items()}
    return SimilarityMap(
        measure=f"overlap of subspaces, {dimensions} dimensions",
        labels=labels,
        layers=names,
        **from_pairs(pairs, np.where(exists, 1.0, np.nan), **values),
        **from_pairs(pairs, exists, defined=defined),
        **from_pairs(
            pairs,
            **permuted_null(statistics, level, scale=_logit),
            isotropic=np.full(value.shape, isotropic),
            covariance_matched=np.quantile(matched, level, axis=0),
        ),
        reliability=reliability,
        n=tuple(contrast.n for contrast in contrasts.values()),
        ceiling=lasting[:, :, None] * lasting[:, None, :],
        limits=(0.0, 1.0),
        draws=permutations,
    )


@dataclass(frozen=True)
class _Fit:
    """One label's subspaces, in its axes: from observed, permuted and resampled prompts."""

    labelled: Bases  # the observed labelling first
    resampled: Bases
    axes: Axes
    exists: Bool[np.ndarray, " layer"]
    reliability: Float[np.ndarray, " layer"]


def _fitted(
    contrast: Contrast, estimator: ContrastSubspace, permutations: int, rng: np.random.Generator
) -> _Fit:
    dimensions = estimator.dimensions
    estimator.fit(contrast.states, contrast.classes == 0, contrast.units.tolist())
    coordinates, axes = coordinates_of(contrast.states)
    residual = centring_matrix(contrast.classes, np.ones(len(contrast.states))) @ coordinates
    labellings = permuted_weights(contrast, permutations, rng)
    observed = contrast_bases(coordinates, labellings[:1], dimensions)
    permuted = contrast_bases(residual, labellings[1:], dimensions)
    bases, excess = (np.concatenate(both) for both in zip(observed, permuted, strict=True))
    total = excess.sum(axis=-1)
    # Labels have separate prompts, so each draws its own units.
    seed = int(rng.integers(2**32))
    drawn = resampling_weights(contrast.units, estimator.resamples, seed, fewest=2)
    again = mean_difference_weights(contrast, drawn)
    return _Fit(
        labelled=bases,
        resampled=contrast_bases(coordinates, again, dimensions)[0],
        axes=axes,
        exists=total[0] > np.quantile(total, estimator.level, axis=0),
        reliability=estimator.reliability_,
    )


def _overlaps(
    subspaces: Sequence[tuple[Bases, Axes]], pairs: Sequence[tuple[int, int]]
) -> Float[np.ndarray, "draw layer pair"]:
    found = []
    for i, j in pairs:
        (a, axes_a), (b, axes_b) = subspaces[i], subspaces[j]
        between = axes_a @ rearrange(axes_b, "layer coordinate d_model -> layer d_model coordinate")
        cosines = np.einsum("slvk,lvw,slwm->slkm", a, between, b, optimize=True)
        found.append((cosines**2).sum(axis=(2, 3)) / a.shape[-1])
    return np.stack(found, axis=-1)


def _check_bases(a: Basis, b: Basis) -> None:
    for basis in (np.asarray(a), np.asarray(b)):
        if basis.ndim != 2 or np.linalg.matrix_rank(basis) < len(basis):
            raise InputError(
                f"a basis of shape {basis.shape}; expected (dimension, d_model) with independent "
                "rows"
            )
    if np.shape(a)[1] != np.shape(b)[1]:
        raise InputError(
            f"subspaces of {np.shape(a)[1]} and of {np.shape(b)[1]} dimensions; compare states of "
            "the same width"
        )


def _logit(overlap: np.ndarray) -> np.ndarray:
    """Log-odds of the overlaps; their null is less skewed."""
    return logit(np.clip(overlap, 1e-9, 1 - 1e-9))
