"""Directions as weighted sums of prompts, solved between rows whatever d_model is.

Time grows with the cube of the prompts, not of d_model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from interp.contrast import Contrast

Rows = Float[np.ndarray, "row layer d_model"]
Gram = Float[np.ndarray, "layer row row"]


def gram_of(rows: Rows, others: Rows | None = None) -> Float[np.ndarray, "layer row other"]:
    """Inner products between rows at every layer."""
    return np.einsum("ild,jld->lij", rows, rows if others is None else others, optimize=True)


def centred(rows: Rows) -> Rows:
    """The rows about their mean, where Gram matrices lose no digits to a common offset."""
    return rows - rows.mean(axis=0)


def combined(
    weights: Float[np.ndarray, "layer row"], rows: Rows
) -> Float[np.ndarray, "layer d_model"]:
    """Weighted sums of the rows, one per layer."""
    return np.einsum("lr,rld->ld", weights, rows, optimize=True)


def unit(vectors: Float[np.ndarray, "*any d_model"]) -> Float[np.ndarray, "*any d_model"]:
    """The vectors with length one; zero stays zero."""
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norm > 0, norm, 1.0)


def kinds_of_units(contrast: Contrast) -> Int[np.ndarray, " unit"]:
    """0 for units with negative prompts alone, 1 for linked prompts, 2 for positive ones alone."""
    sides = [np.bincount(contrast.units, weights=contrast.classes == side) > 0 for side in (0, 1)]
    return 1 + sides[0].astype(int) - sides[1]


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
