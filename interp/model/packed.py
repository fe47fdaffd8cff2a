"""Weights that are not stored as plain numbers, such as those of 4-bit and 8-bit checkpoints.

Arithmetic on packed weights acts on bytes: nothing fails, and the result means nothing. So what
swaps, projects or scales weights asks here first.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from interp.errors import ModelError

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def packed_weights(model: nn.Module) -> list[str]:
    """Names of the parameters that hold packed numbers, and of the buffers that stand for one.

    A packed parameter has integers or 8-bit floats as values, or a class that knows how to unpack
    it. Some formats keep their weights in buffers, and the model says that it is quantised.
    """
    found = [name for name, value in model.named_parameters() if not _is_plain(value)]
    if not found and getattr(model, "is_quantized", False):
        found = [
            name
            for name, value in model.named_buffers()
            if value.ndim > 1 and value.dtype not in (*FLOATS, torch.bool)
        ]
    return found


def require_plain_weights(
    model: nn.Module, work: str, instead: str, names: Collection[str] | None = None
) -> None:
    """Refuse work on packed weights.

    Args:
        model: the model.
        work: what needs plain numbers, such as ``weight patching``.
        instead: what to do.
        names: the parameters that the work reads or changes; None means all.

    Raises:
        ModelError: some of them are packed.
    """
    packed = packed_weights(model)
    wanted = packed if names is None else [name for name in packed if name in names]
    if wanted:
        raise ModelError(
            f"{work} needs weights that are plain numbers, and {len(wanted)} of this "
            f"{type(model).__name__} are packed ({wanted[0]}, …): the model is quantised; {instead}"
        )


@torch.no_grad()
def head_weights(model: Any, width: int) -> Float[Tensor, "vocab d_model"]:
    """The weights of the output head as plain numbers, also where they are packed.

    A packed head is applied to each unit vector of ``width`` components, so it unpacks itself.
    """
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if weight is not None and _is_plain(weight):
        return weight.detach()
    units = torch.eye(width, dtype=model.dtype, device=next(model.parameters()).device)
    found: Tensor = head(units) - head(torch.zeros_like(units[:1]))  # without its bias
    return found.T


def _is_plain(value: Any) -> bool:
    # Packed bytes may be stored with any dtype; then a class, or a state, unpacks them.
    if value.dtype not in FLOATS or hasattr(value, "quant_state"):
        return False
    if not is_traceable_wrapper_subclass(value.data):
        return True
    from torch.distributed.tensor import DTensor

    return isinstance(value.data, DTensor)  # sharded, and nothing else
