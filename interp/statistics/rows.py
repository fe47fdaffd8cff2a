r"""Prompts as rows in few coordinates, and their Ledoit-Wolf shrunk covariance.

Every estimator works in min(prompts, d_model) orthonormal axes of the span of its prompts and
converts back to d_model at the end. Inner products are the same in these axes.

The shrunk covariance is :math:`\hat\Sigma = (1 - s)S + s\,m I` with the mean eigenvalue
:math:`m = \mathrm{tr}\,S / d` and the intensity s of *A well-conditioned estimator for
large-dimensional covariance matrices* (J. Multivariate Analysis 88, 2004). S has at
most as many nonzero eigenvalues as there are prompts. Outside their eigenvectors, the shrunk
covariance is a multiple of the identity, so the module never builds a d_model × d_model matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Int

from interp.errors import InputError
from interp.numbers import whole_number
from interp.statistics.contrast import Contrast
from interp.statistics.crossfit import exact_mean

Rows = Float[np.ndarray, "row layer d_model"]
Coordinates = Float[np.ndarray, "layer row axis"]
Axes = Float[np.ndarray, "layer axis d_model"]

# Variances below this share of the largest are rounding errors.
RANK_TOLERANCE = 1e-10


def coordinates_of(rows: Rows, *, centre: bool = True) -> tuple[Coordinates, Axes]:
    """The rows in orthonormal axes of their span, and these axes.

    By default the function centres the rows, so a common offset costs no precision, and rows that
    are all equal are exactly zero.
    """
    about = rows - exact_mean(rows) if centre else rows
    left, sizes, axes = np.linalg.svd(
        rearrange(about, "row layer d_model -> layer row d_model"), full_matrices=False
    )
    return left * sizes[:, None, :], axes


def principal_axes(
    rows: Coordinates,
) -> tuple[Float[np.ndarray, "layer vector"], Float[np.ndarray, "layer axis vector"]]:
    """Squared singular values of the rows, ascending, and orthonormal right singular vectors.

    The function solves the smaller of the two Gram matrices. Beyond the rank, values and vectors
    are zero.
    """
    transposed = rearrange(rows, "layer row coordinate -> layer coordinate row")
    if rows.shape[1] >= rows.shape[2]:
        values, vectors = np.linalg.eigh(transposed @ rows)
    else:
        values, vectors = np.linalg.eigh(rows @ transposed)
        vectors = transposed @ (vectors / np.sqrt(np.where(values > 0, values, 1.0))[:, None, :])
    present = values > RANK_TOLERANCE * values[:, -1:]
    return np.where(present, values, 0.0), vectors * present[:, None, :]


def in_d_model(
    vectors: Float[np.ndarray, "layer axis"], axes: Axes
) -> Float[np.ndarray, "layer d_model"]:
    """Convert vectors, one per layer, from coordinates to d_model."""
    return np.einsum("lv,lvd->ld", vectors, axes)


def unit(vectors: Float[np.ndarray, "..."], axis: int = -1) -> Float[np.ndarray, "..."]:
    """The vectors scaled to length one; zero vectors stay zero."""
    norm = np.linalg.norm(vectors, axis=axis, keepdims=True)
    return vectors / np.where(norm > 0, norm, 1.0)


def labelled_weights(
    positive: Bool[np.ndarray, "*sample row"], counts: Float[np.ndarray, "*sample row"]
) -> Float[np.ndarray, "*sample row"]:
    """Weights of the rows in the mean difference, given labels and counts; they sum to 0."""
    up, down = counts * positive, counts * ~positive
    return up / up.sum(-1, keepdims=True) - down / down.sum(-1, keepdims=True)


def kinds_of_units(contrast: Contrast) -> Int[np.ndarray, " unit"]:
    """0 for units of negative prompts only, 1 for units of both, 2 for positive prompts only."""
    sides = [np.bincount(contrast.units, weights=contrast.classes == side) > 0 for side in (0, 1)]
    return 1 + sides[0].astype(int) - sides[1]


def layer_names(layers: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """Names of the layers; by default 0, 1, ….

    Raises:
        InputError: the numbers of names and layers differ, or a name is not a whole number.
    """
    try:
        names = tuple(range(depth)) if layers is None else tuple(map(whole_number, layers))
    except TypeError:
        raise InputError(f"layers {layers!r}; expected whole numbers, as in [0, 1]") from None
    if len(names) != depth:
        raise InputError(f"{len(names)} layer names for {depth} layers; give one for each")
    return names


@dataclass(frozen=True)
class ShrunkCovariance:
    """A shrunk covariance per layer, in the basis of the sample covariance's eigenvectors."""

    vectors: Float[np.ndarray, "layer axis vector"]
    """Orthonormal eigenvectors; zero beyond the rank."""
    eigenvalues: Float[np.ndarray, "layer vector"]
    """Eigenvalues of the shrunk covariance along these eigenvectors."""
    rest: Float[np.ndarray, " layer"]
    """Eigenvalue of the shrunk covariance in every other dimension."""
    shrinkage: Float[np.ndarray, " layer"]

    def power(self, exponent: float) -> tuple[np.ndarray, np.ndarray]:
        """``eigenvalues`` and ``rest`` to a power; zero stays zero, as in a pseudo-inverse."""
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
        rows: centred rows, each times the root of its count; in any orthonormal coordinates.
        counts: count of each row, above zero.
        d_model: number of dimensions of the original rows.
        shrink: shrink by Ledoit and Wolf's intensity; otherwise use the sample covariance.
    """
    n = counts.sum()
    values, vectors = principal_axes(rows)
    values = values / n
    mean = values.sum(axis=1) / d_model
    intensity = np.zeros(len(rows))
    if shrink:
        squared = (values**2).sum(axis=1)  # ‖S‖²
        fourth = ((rows**2).sum(axis=2) ** 2 / counts).sum(axis=1) / n
        intensity = shrinkage_intensity(squared, fourth, n, mean, d_model)
    rest = intensity * mean
    return ShrunkCovariance(
        vectors=vectors,
        eigenvalues=(1 - intensity)[:, None] * values + rest[:, None],
        rest=rest,
        shrinkage=intensity,
    )


def shrinkage_intensity(
    squared: Float[np.ndarray, " case"],
    fourth: Float[np.ndarray, " case"],
    n: np.ndarray | float,
    mean: Float[np.ndarray, " case"],
    d_model: int,
) -> Float[np.ndarray, " case"]:
    """Ledoit and Wolf's intensity for S with squared norm ``squared`` and mean eigenvalue ``mean``.

    ``fourth`` is the mean fourth power of the lengths of the ``n`` rows.
    """
    distance = squared - d_model * mean**2  # ‖S - m I‖²
    # Squared error of S, at most the distance.
    error = np.clip((fourth - squared) / n, 0.0, np.maximum(distance, 0.0))
    return np.where(distance > 0, error / np.where(distance > 0, distance, 1.0), 1.0)


def centring_matrix(
    classes: Int[np.ndarray, " row"], counts: Float[np.ndarray, " row"]
) -> Float[np.ndarray, "row row"]:
    """The matrix that subtracts the weighted class mean from every row."""
    same = classes[:, None] == classes[None, :]
    return np.eye(len(classes)) - same * counts / (same @ counts)[:, None]
