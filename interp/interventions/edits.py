r"""The edits of states: pure functions of tensors that never edit in place.

Each function takes a direction (or several vectors) and returns an edit: a function from states to
states of the same shape. With :math:`\hat r` the unit direction and
:math:`s = \langle h, \hat r\rangle`:

======================  =============================================
``ablating``            :math:`h - s \hat r`
``adding``              :math:`h + c\, v`
``setting``             :math:`h + (c - s)\, \hat r`
``projecting_out``      :math:`h - B^\top B h` for an orthonormal basis B
======================  =============================================

``adding`` uses the length of its vector; all other edits use only the orientation of a direction.
The arithmetic uses float32 at least, and the output has the dtype of the input.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError

Edit = Callable[[Float[Tensor, "*batch d_model"]], Float[Tensor, "*batch d_model"]]
Vector = Float[Tensor, " d_model"] | Float[np.ndarray, " d_model"]
Vectors = Float[Tensor, "vector d_model"] | Float[np.ndarray, "vector d_model"]

# Relative to the largest singular value; smaller singular values count as zero.
RANK_TOLERANCE = 1e-6


def ablating(direction: Vector) -> Edit:
    """Removes the component along ``direction`` (directional ablation, Arditi et al. 2024)."""
    return setting(direction, 0.0)


def adding(vector: Vector, coefficient: float = 1.0) -> Edit:
    """Adds ``coefficient`` times the raw ``vector`` (activation addition)."""
    return _edit(coefficient * _finite(vector), torch.add)


def setting(direction: Vector, value: float) -> Edit:
    """Sets the component along ``direction`` to ``value``, in the states' unit.

    If the value is the mean over harmless prompts, this is affine concept editing (Marshall et al.
    2024). If it is 0, this is ablation.
    """
    return _edit(_unit(direction), lambda h, axis: h + (value - h @ axis).unsqueeze(-1) * axis)


def projecting_out(vectors: Vectors) -> Edit:
    """Removes the projection onto the span of ``vectors``, which need not be orthogonal."""
    return _edit(orthonormal_basis(vectors), lambda h, basis: h - (h @ basis.T) @ basis)


def orthonormal_basis(vectors: Vectors) -> Float[Tensor, "rank d_model"]:
    """An orthonormal basis of the span of ``vectors``, in float64; its size is the numerical rank.

    Raises:
        InputError: there are no vectors, or all are zero.
    """
    rows = _finite(vectors)
    rows = rows[None] if rows.ndim == 1 else rows
    _, lengths, basis = torch.linalg.svd(rows, full_matrices=False)
    rank = int((lengths > RANK_TOLERANCE * lengths.max()).sum()) if lengths.numel() else 0
    if rank == 0:
        raise InputError("a subspace without nonzero vectors; give at least one nonzero vector")
    return basis[:rank]


def _edit(vectors: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Edit:
    """An edit that applies ``change`` to states and vectors, in float32 at least.

    The edit moves the vectors to the states' device once and keeps them there.
    """
    placed = vectors

    def edit(states: Tensor) -> Tensor:
        nonlocal placed
        wide = states.to(torch.promote_types(states.dtype, torch.float32))
        if (placed.device, placed.dtype) != (wide.device, wide.dtype):
            placed = vectors.to(wide)
        if placed.shape[-1] != wide.shape[-1]:
            raise InputError(
                f"a direction of {placed.shape[-1]} entries for states of {wide.shape[-1]}; give "
                "one that was fitted on this model"
            )
        return change(wide, placed).to(states.dtype)

    return edit


def _unit(direction: Vector) -> Float[Tensor, " d_model"]:
    vector = _finite(direction)
    length = vector.norm()
    if length == 0:
        raise InputError("a direction of length zero; give a nonzero direction")
    return vector / length


def _finite(vector: Vector | Vectors) -> Tensor:
    # MPS has no float64.
    values = torch.as_tensor(vector).detach().cpu().double()
    if not torch.isfinite(values).all():
        raise InputError("a direction with NaN or infinite entries; fit it again")
    return values
