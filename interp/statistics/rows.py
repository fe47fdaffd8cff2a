"""Prompts as rows, in no more coordinates than it takes to tell them apart.

Every estimator works in orthonormal axes of the span of its prompts, min(prompts, d_model) of them,
and goes back to d_model at the end; inner products are the same there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from interp.errors import InputError
from interp.statistics.contrast import Contrast

Rows = Float[np.ndarray, "row layer d_model"]
Coordinates = Float[np.ndarray, "layer row axis"]
Axes = Float[np.ndarray, "layer axis d_model"]

# Variances below this share of the largest are rounding.
RANK_TOLERANCE = 1e-10


def coordinates_of(rows: Rows, *, centre: bool = True) -> tuple[Coordinates, Axes]:
    """The rows in orthonormal axes of their own span, and these axes.

    About their mean by default, where no digits are lost to an offset that all rows share.
    """
    about = rows - rows.mean(axis=0) if centre else rows
    left, sizes, axes = np.linalg.svd(about.transpose(1, 0, 2), full_matrices=False)
    return left * sizes[:, None, :], axes


def principal_axes(
    rows: Coordinates,
) -> tuple[Float[np.ndarray, "layer vector"], Float[np.ndarray, "layer axis vector"]]:
    """Squared singular values of the rows, ascending, and orthonormal right singular vectors.

    Solved on the smaller side. Beyond the rank, values and vectors are zero.
    """
    turned = rows.transpose(0, 2, 1)
    if rows.shape[1] >= rows.shape[2]:
        values, vectors = np.linalg.eigh(turned @ rows)
    else:
        values, vectors = np.linalg.eigh(rows @ turned)
        vectors = turned @ (vectors / np.sqrt(np.where(values > 0, values, 1.0))[:, None, :])
    present = values > RANK_TOLERANCE * values[:, -1:]
    return np.where(present, values, 0.0), vectors * present[:, None, :]


def in_d_model(
    vectors: Float[np.ndarray, "layer axis"], axes: Axes
) -> Float[np.ndarray, "layer d_model"]:
    """Vectors given in coordinates, one per layer, as d_model sees them."""
    return np.einsum("lv,lvd->ld", vectors, axes)


def unit(vectors: Float[np.ndarray, "..."], axis: int = -1) -> Float[np.ndarray, "..."]:
    """The vectors with length one; zero stays zero."""
    norm = np.linalg.norm(vectors, axis=axis, keepdims=True)
    return vectors / np.where(norm > 0, norm, 1.0)


def kinds_of_units(contrast: Contrast) -> Int[np.ndarray, " unit"]:
    """0 for units with negative prompts alone, 1 for linked prompts, 2 for positive ones alone."""
    sides = [np.bincount(contrast.units, weights=contrast.classes == side) > 0 for side in (0, 1)]
    return 1 + sides[0].astype(int) - sides[1]


def layer_names(layers: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """Names of the layers: 0, 1, … where none are given.

    Raises:
        InputError: another number of names than layers.
    """
    names = tuple(range(depth)) if layers is None else tuple(int(layer) for layer in layers)
    if len(names) != depth:
        raise InputError(f"{len(names)} layer names for {depth} layers; give one for each")
    return names


def unit_numbers(groups: Sequence[object] | None, rows: int) -> Int[np.ndarray, " row"]:
    """A number per row; rows of the same group share it, ``None`` and NaN stand alone."""
    if groups is None:
        return np.arange(rows)
    numbers: dict[object, int] = {}
    alone = (group is None or group != group for group in groups)
    return np.array(
        [
            numbers.setdefault(("row", row) if single else ("group", group), len(numbers))
            for row, (group, single) in enumerate(zip(groups, alone, strict=True))
        ]
    )
