r"""Shrunk discriminants :math:`\hat\Sigma^{-1}\delta` of many labellings of the same rows at once.

:math:`\delta` is the mean difference. :math:`\hat\Sigma` is shrunk as in
:func:`interp.statistics.shrunk_covariance`. Both lie in the span of the rows. With the covariance
within labels, the result is Fisher's discriminant. With the covariance of all rows, it is the
direction that LEACE reads.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from interp.statistics import Coordinates, labelled_weights, shrinkage_intensity

# Maximum number of entries in the covariances of one batch of samples: 64 MB.
BATCH = 8_000_000
# A variance within labels below this share of the whole variance is a rounding error.
ROUNDING = 1e-13
# Eigenvalues below this share of the mean eigenvalue are rounding errors.
RANK_TOLERANCE = 1e-10

Covariances = Float[np.ndarray, "sample axis axis"]


def discriminants(
    coordinates: Coordinates,
    positive: Bool[np.ndarray, "sample row"],
    counts: Float[np.ndarray, "sample row"],
    d_model: int,
    *,
    within: bool,
    shrink: bool = True,
) -> tuple[Float[np.ndarray, "sample layer axis"], Float[np.ndarray, "sample layer"]]:
    """The discriminants in the rows' coordinates, and the shrinkage; NaN if a label is missing.

    They are zero where the rows do not vary within labels: there the discriminant has no limit.

    Args:
        coordinates: of the rows, in orthonormal axes of their span, about their common mean.
        positive: the labels in every sample.
        counts: how often each row counts in it.
        d_model: number of dimensions of the original rows.
        within: use the covariance within labels; otherwise about the mean of all rows.
        shrink: shrink by Ledoit and Wolf's intensity; otherwise use a pseudo-inverse.
    """
    axes = coordinates.shape[-1]
    vectors = np.full((len(counts), len(coordinates), axes), np.nan)
    shrinkage = np.full(vectors.shape[:2], np.nan)
    both = (counts * positive).any(axis=1) & (counts * ~positive).any(axis=1)
    samples = np.flatnonzero(both)
    for some in np.array_split(samples, 1 + len(samples) * axes**2 // BATCH):
        up, down = counts[some] * positive[some], counts[some] * ~positive[some]
        groups = [up, down] if within else [counts[some]]
        weights = labelled_weights(positive[some], counts[some])
        for layer, rows in enumerate(coordinates):
            covariance, fourth = _covariances(rows, counts[some], groups)
            n = counts[some].sum(axis=1)
            whole = counts[some] @ (rows**2).sum(axis=1) / n
            varies = np.trace(covariance, axis1=1, axis2=2) > ROUNDING * whole
            covariance *= varies[:, None, None]
            mean = np.trace(covariance, axis1=1, axis2=2) / d_model
            intensity = np.zeros(len(some))
            if shrink:
                squared = np.einsum("sab,sab->s", covariance, covariance)
                intensity = shrinkage_intensity(squared, fourth, n, mean, d_model)
            vectors[some, layer] = _solved(covariance, intensity, mean, weights @ rows)
            shrinkage[some, layer] = intensity
    return vectors, shrinkage


def _covariances(
    rows: Float[np.ndarray, "row axis"],
    counts: Float[np.ndarray, "sample row"],
    groups: list[Float[np.ndarray, "sample row"]],
) -> tuple[Covariances, Float[np.ndarray, " sample"]]:
    """Covariances about the groups' means, and the mean fourth power of the rows' lengths there."""
    alike = (counts == counts[:1]).all()
    each = counts[:1] if alike else counts
    moment = (rows.T * each[:, None, :]) @ rows
    covariance = np.repeat(moment, len(counts), axis=0) if alike else moment
    fourth = np.zeros(len(counts))
    squared = (rows**2).sum(axis=1)
    for members in groups:
        size = members.sum(axis=1, keepdims=True)
        mean = members @ rows / size
        covariance -= size[:, :, None] * mean[:, :, None] * mean[:, None, :]
        lengths = squared - 2 * mean @ rows.T + (mean**2).sum(axis=1, keepdims=True)
        fourth += (members * lengths**2).sum(axis=1)
    n = counts.sum(axis=1)
    return covariance / n[:, None, None], fourth / n


def _solved(
    covariance: Covariances,
    intensity: Float[np.ndarray, " sample"],
    mean: Float[np.ndarray, " sample"],
    difference: Float[np.ndarray, "sample axis"],
) -> Float[np.ndarray, "sample axis"]:
    rest = intensity * mean
    shrunk = (1 - intensity)[:, None, None] * covariance
    diagonal = np.arange(shrunk.shape[1])
    shrunk[:, diagonal, diagonal] += rest[:, None]
    if (rest > RANK_TOLERANCE * mean).all():
        return np.linalg.solve(shrunk, difference[:, :, None])[:, :, 0]
    inverse = np.linalg.pinv(shrunk, rcond=RANK_TOLERANCE, hermitian=True)
    return np.einsum("sab,sb->sa", inverse, difference)
