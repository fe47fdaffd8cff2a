"""Random changes that keep their size where numbers are rounded."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# A distance within this share is right; so many scales are tried.
CLOSE, MOST_TRIED = 0.01, 12


def moved_by(
    own: Float[Tensor, "*size"], change: Float[Tensor, "*size"], *, dim: int | None = None
) -> Float[Tensor, "*size"]:
    """``own`` plus a multiple of ``change``, as far from ``own`` as ``change`` is long.

    The sum has the dtype of ``own``. 16-bit numbers swallow what is small next to them: a bfloat16
    weight plus noise of 0.1% of the weights moves by 77% of the noise, whereas the change of a
    trained weight, a difference of two rounded ones, is whole. So the multiple is the one whose
    rounded sum lies at the distance.

    Args:
        own: weights or states.
        change: what to add.
        dim: the axis whose rows have a distance each; one of the whole by default.
    """
    wide = own.to(torch.promote_types(own.dtype, torch.float32))
    change = change.to(wide)
    length = torch.linalg.vector_norm(change, dim=dim, keepdim=True)
    scale, best, error = torch.ones_like(length), own, torch.full_like(length, torch.inf)
    for _ in range(MOST_TRIED):
        moved = (wide + scale * change).to(own.dtype)
        found = torch.linalg.vector_norm(moved.to(wide.dtype) - wide, dim=dim, keepdim=True)
        off = (found - length).abs()
        best, error = torch.where(off < error, moved, best), torch.minimum(off, error)
        if not (error > CLOSE * length).any():
            break
        # The distance grows with a power of the scale between 1 and 2.
        scale = scale * torch.where(found > 0, (length / found).sqrt(), 2.0)
    return best
