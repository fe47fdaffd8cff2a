r"""Random edits of weights, as large as the change that a restoration takes back.

The change :math:`\Delta` of a weight matrix is scrambled by signed permutations of its rows and of
its columns, :math:`P \Delta Q` with orthogonal :math:`P` and :math:`Q`. So the edit has the same
norm and the same singular values (a change of rank 8 stays one of rank 8), in other places and
directions. What it restores is what any edit as large and as concentrated would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn


def scrambled(change: Float[Tensor, "*size"], generator: torch.Generator) -> Float[Tensor, "*size"]:
    """``change`` with every axis permuted and its entries' signs drawn, axis by axis."""
    for axis, size in enumerate(change.shape):
        order = torch.randperm(size, generator=generator).to(change.device)
        signs = 2.0 * torch.randint(2, (size,), generator=generator) - 1
        shape = [1] * change.ndim
        shape[axis] = size
        change = change.index_select(axis, order) * signs.to(change).reshape(shape)
    return change


@contextmanager
def weights_scrambled(
    donor: nn.Module, receiver: nn.Module, names: Sequence[str], seed: int
) -> Iterator[None]:
    """Inside the block the receiver's named parameters are moved as far as the donor's lie away.

    However the block ends, they have their own values again. Do not train inside it.
    """
    generator = torch.Generator().manual_seed(seed)
    own = {name: receiver.get_parameter(name).data for name in names}
    try:
        for name, tensor in own.items():
            change = donor.get_parameter(name).data.to(tensor).float() - tensor.float()
            moved = tensor.float() + scrambled(change, generator)
            receiver.get_parameter(name).data = moved.to(tensor.dtype)
        yield
    finally:
        for name, tensor in own.items():
            receiver.get_parameter(name).data = tensor
