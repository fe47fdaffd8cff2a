"""Forwards over rows of different lengths, whatever the model's self-check found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from interp.model.self_check import SelfCheck


def logits_of_last(
    model: nn.Module, inputs: Mapping[str, Tensor], keep: int, check: SelfCheck
) -> Float[Tensor, "batch keep vocab"]:
    """Logits of the last ``keep`` columns, with their graph; zero in padding.

    It is one forward, or several where rows of these lengths must not share one.

    Args:
        model: the model, as it is or wrapped for training.
        inputs: keyword arguments of its forward, each (batch, token) and left-padded.
        keep: number of columns.
        check: the model's self-check.
    """
    options = check.keeping(keep)
    parts = {
        rows: model(**part, **options, use_cache=False).logits[:, -keep:]
        for rows, part in in_parts(inputs, check)
    }
    return joined(parts, keep)


def in_parts(
    inputs: Mapping[str, Tensor], check: SelfCheck
) -> Iterator[tuple[tuple[int, ...], dict[str, Tensor]]]:
    """Row numbers and inputs of the rows that may share a forward, without common padding."""
    mask = inputs["attention_mask"]
    if check.rows == "padded" or len(mask) == 1:
        yield tuple(range(len(mask))), dict(inputs)
        return
    kinds = check.together(mask.sum(dim=1).tolist())
    for kind in dict.fromkeys(kinds):
        rows = tuple(i for i, other in enumerate(kinds) if other == kind)
        first = int(mask[list(rows)].any(dim=0).int().argmax())
        yield rows, {name: value[list(rows), first:] for name, value in inputs.items()}


def joined(
    parts: Mapping[tuple[int, ...], Shaped[Tensor, "part kept *width"]], columns: int
) -> Shaped[Tensor, "batch columns *width"]:
    """The parts as one tensor, in the order of the rows; 0 where a part has fewer columns."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    tensors = []
    for part in parts.values():
        missing = part.new_zeros(len(part), columns - part.shape[1], *part.shape[2:])
        tensors.append(torch.cat([missing, part], dim=1))
    order = torch.tensor([row for rows in parts for row in rows]).argsort()
    return torch.cat(tensors)[order.to(tensors[0].device)]
