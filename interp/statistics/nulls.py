r"""How alike random subspaces are: in all dimensions, and in the covariance of the prompts.

The overlap of two subspaces with orthonormal bases U and V is
:math:`\lVert U^\top V\rVert_F^2 / \min(k_U, k_V)`; for lines it is the squared cosine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from interp.statistics.contrast import Contrast
from interp.statistics.rows import unit


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

    The two sides of a pair are drawn from their own prompts, so that a chance likeness of a sample
    with itself does not add to the overlap.

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
            spanned = (weights @ residual).transpose(0, 2, 1)
            # A line needs no more than its length, and QR of many lines is slow.
            lines = dimensions == 1
            bases.append(unit(spanned, axis=1) if lines else np.linalg.qr(spanned)[0])
        for index, (i, j) in enumerate(pairs):
            cosines = np.einsum("sdk,sdm->skm", bases[i], bases[j])
            overlaps[:, layer, index] = (cosines**2).sum(axis=(1, 2)) / cosines.shape[1]
    return overlaps
