r"""Covariance of few prompts in many dimensions, shrunk after Ledoit and Wolf.

:math:`\hat\Sigma = (1 - s)S + s\,m I` with the mean eigenvalue :math:`m = \mathrm{tr}\,S / d` and
the intensity s of *A well-conditioned estimator for large-dimensional covariance matrices*
(J. Multivariate Analysis 88, 2004). S has as many eigenvectors as there are prompts at most, and
they are weighted sums of the prompts; so nothing of size d_model × d_model is ever built.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

# Eigenvalues below this share of the largest are rounding.
RANK_TOLERANCE = 1e-10


@dataclass(frozen=True)
class ShrunkCovariance:
    """A shrunk covariance per layer, in the eigenvectors of the sample's own."""

    weights: Float[np.ndarray, "layer row vector"]
    """Weights of the rows in each orthonormal eigenvector; zero columns beyond the rank."""
    eigenvalues: Float[np.ndarray, "layer vector"]
    """Of the shrunk covariance along these."""
    rest: Float[np.ndarray, " layer"]
    """Its eigenvalue in every other dimension."""
    shrinkage: Float[np.ndarray, " layer"]

    def powered(self, exponent: float) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues and rest to a power; zero stays zero, as in a pseudo-inverse."""
        along, beyond = (
            np.where(values > 0, np.where(values > 0, values, 1.0) ** exponent, 0.0)
            for values in (self.eigenvalues, self.rest)
        )
        return along, beyond


def shrunk_covariance(
    gram: Float[np.ndarray, "layer row row"],
    counts: Float[np.ndarray, " row"],
    d_model: int,
    *,
    shrink: bool = True,
) -> ShrunkCovariance:
    """Covariance of rows given by their inner products.

    Args:
        gram: inner products of the *centred* rows, each times the root of its count.
        counts: how often each row counts, none of them zero.
        d_model: dimensions of the rows.
        shrink: by Ledoit and Wolf's intensity; else the sample's covariance as it is.
    """
    n = counts.sum()
    mean = np.trace(gram, axis1=1, axis2=2) / n / d_model
    intensity = _intensity(gram, counts, mean, d_model) if shrink else np.zeros(len(gram))
    values, vectors = np.linalg.eigh(gram)
    present = values > RANK_TOLERANCE * values[:, -1:]
    root = np.sqrt(np.where(present, values, 1.0))
    rest = intensity * mean
    return ShrunkCovariance(
        weights=vectors * (present / root)[:, None, :],
        eigenvalues=(1 - intensity)[:, None] * np.where(present, values, 0.0) / n + rest[:, None],
        rest=rest,
        shrinkage=intensity,
    )


def centring_matrix(
    classes: Int[np.ndarray, " row"], counts: Float[np.ndarray, " row"]
) -> Float[np.ndarray, "row row"]:
    """The matrix that takes its class's counted mean from every row."""
    same = classes[:, None] == classes[None, :]
    return np.eye(len(classes)) - same * counts / (same @ counts)[:, None]


def _intensity(
    gram: Float[np.ndarray, "layer row row"],
    counts: Float[np.ndarray, " row"],
    mean: Float[np.ndarray, " layer"],
    d_model: int,
) -> Float[np.ndarray, " layer"]:
    n = counts.sum()
    squared = np.einsum("lij,lij->l", gram, gram) / n**2  # ‖S‖²
    fourth = (np.einsum("lii->li", gram) ** 2 / counts).sum(axis=1) / n
    distance = squared - d_model * mean**2  # ‖S - m I‖²
    error = np.minimum((fourth - squared) / n, distance)  # of S, no more than all there is
    return np.where(distance > 0, np.maximum(error, 0.0) / np.where(distance > 0, distance, 1), 1.0)
