r"""Covariance of few prompts in many dimensions, shrunk after Ledoit and Wolf.

:math:`\hat\Sigma = (1 - s)S + s\,m I` with the mean eigenvalue :math:`m = \mathrm{tr}\,S / d` and
the intensity s of *A well-conditioned estimator for large-dimensional covariance matrices*
(J. Multivariate Analysis 88, 2004). S has no more eigenvectors than there are prompts, and outside
them the shrunk covariance is a multiple of the identity; so nothing of size d_model × d_model is
ever built.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from interp.statistics.rows import Coordinates, principal_axes


@dataclass(frozen=True)
class ShrunkCovariance:
    """A shrunk covariance per layer, in the eigenvectors of the sample's own."""

    vectors: Float[np.ndarray, "layer axis vector"]
    """Orthonormal eigenvectors; zero beyond the rank."""
    eigenvalues: Float[np.ndarray, "layer vector"]
    """Of the shrunk covariance along these."""
    rest: Float[np.ndarray, " layer"]
    """Its eigenvalue in every other dimension."""
    shrinkage: Float[np.ndarray, " layer"]

    def power(self, exponent: float) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues and rest to a power; zero stays zero, as in a pseudo-inverse."""
        along, beyond = (
            np.where(values > 0, np.where(values > 0, values, 1.0) ** exponent, 0.0)
            for values in (self.eigenvalues, self.rest)
        )
        return along, beyond


def shrunk_covariance(
    rows: Coordinates, counts: Float[np.ndarray, " row"], d_model: int, *, shrink: bool = True
) -> ShrunkCovariance:
    """Covariance of rows.

    Args:
        rows: centred, each times the root of its count; in any orthonormal coordinates.
        counts: how often each row counts, none of them zero.
        d_model: dimensions that the rows come from.
        shrink: by Ledoit and Wolf's intensity; else the sample's covariance as it is.
    """
    n = counts.sum()
    values, vectors = principal_axes(rows)
    values = values / n
    mean = values.sum(axis=1) / d_model
    intensity = np.zeros(len(rows))
    if shrink:
        squared = (values**2).sum(axis=1)  # ‖S‖²
        fourth = ((rows**2).sum(axis=2) ** 2 / counts).sum(axis=1) / n
        distance = squared - d_model * mean**2  # ‖S - m I‖²
        # The error of S; no more than all the distance that there is.
        error = np.clip((fourth - squared) / n, 0.0, np.maximum(distance, 0.0))
        intensity = np.where(distance > 0, error / np.where(distance > 0, distance, 1.0), 1.0)
    rest = intensity * mean
    return ShrunkCovariance(
        vectors=vectors,
        eigenvalues=(1 - intensity)[:, None] * values + rest[:, None],
        rest=rest,
        shrinkage=intensity,
    )


def centring_matrix(
    classes: Int[np.ndarray, " row"], counts: Float[np.ndarray, " row"]
) -> Float[np.ndarray, "row row"]:
    """The matrix that takes its class's counted mean from every row."""
    same = classes[:, None] == classes[None, :]
    return np.eye(len(classes)) - same * counts / (same @ counts)[:, None]
