"""Forwards over rows of different lengths, whatever the model's self-check found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float, Int
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
    options = {"logits_to_keep": keep} if check.last_logits else {}
    found = []
    order = []
    for rows, part in in_parts(inputs, check):
        logits = model(**part, **options, use_cache=False).logits[:, -keep:]
        # A row of fewer columns than ``keep`` has padding before it.
        found.append(nn.functional.pad(logits, (0, 0, keep - logits.shape[1], 0)))
        order.append(rows)
    if len(found) == 1:
        return found[0]
    return torch.cat(found)[torch.cat(order).argsort().to(found[0].device)]


def in_parts(
    inputs: Mapping[str, Tensor], check: SelfCheck
) -> Iterator[tuple[Int[Tensor, " row"], dict[str, Tensor]]]:
    """Row numbers and inputs of the rows that may share a forward, without common padding."""
    mask = inputs["attention_mask"]
    if check.rows == "padded" or len(mask) == 1:
        yield torch.arange(len(mask)), dict(inputs)
        return
    kinds = torch.tensor(check.together(mask.sum(dim=1).tolist()))
    for kind in kinds.unique():
        rows = (kinds == kind).nonzero().flatten()
        there = rows.to(mask.device)
        first = int(mask[there].any(dim=0).int().argmax())
        yield rows, {name: value[there][:, first:] for name, value in inputs.items()}
