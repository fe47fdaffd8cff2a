"""Check whether the layers' outputs are a residual stream, and all that the logits depend on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.errors import ModelError
from interp.model.probes import Ids, Seen, relative_difference, run

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel


def stream_fault(lm: LanguageModel, seen: Seen) -> str:
    """Why the layers' outputs are not a residual stream; empty if they are one."""
    try:
        count = lm.n_layers
    except ModelError as error:
        return str(error)
    called = [i for i, _ in seen.out]
    if called != list(range(count)):
        return f"its {count} layers are called in the order {called}, expected once each, in order"
    expected = (1, seen.lengths[0], lm.d_model)
    for (i, before), (_, after) in zip(seen.into, seen.out, strict=True):
        for name, states in (("output", after), ("input", before)):
            if not isinstance(states, Tensor):
                return f"the {name} of layer {i} is {_kind(states)}, expected a tensor"
            if tuple(states.shape) != expected:
                return (
                    f"the layers' {name} has shape {tuple(states.shape)}, expected (batch, token, "
                    f"d_model) = {expected}"
                )
    for (i, after), (_, before) in zip(seen.out, seen.into[1:], strict=False):
        if not torch.equal(after, before.to(after.device)):
            return f"the output of layer {i} is not the input of layer {i + 1}"
    return ""


def _kind(states: Any) -> str:
    return "missing" if states is None else f"a {type(states).__name__}"


def mixing_fault(
    lm: LanguageModel, one: Seen, two: Seen, ids: tuple[Ids, Ids], limit: float
) -> str:
    """Whether tokens read each other before the first of the layers or after the last one."""
    short, other = ids
    swapped = run(lm, [(other[0], *short[1:])])
    if relative_difference(swapped.into[0][1][:, 1:], one.into[0][1][:, 1:]) > limit:
        return (
            f"tokens read each other before layer 0, so the {lm.n_layers} layers found are not "
            "all; name the list of all layers with layers_path"
        )
    mine = torch.arange(len(short), device=lm.device)[:, None] == len(short) - 1
    last = lm.n_layers - 1

    def swap(states: Tensor) -> Tensor:
        return torch.where(mine.to(states.device), states, two.out[last][1])

    swapped = run(lm, [short], edit=(last, swap))
    wanted = torch.where(mine, one.logits, two.logits)
    if relative_difference(swapped.logits, wanted) > limit:
        return (
            f"the output of layer {last} does not determine the logits token by token, so the "
            f"{lm.n_layers} layers found are not all; name the list of all with layers_path"
        )
    return ""


def bypass_sizes(lm: LanguageModel, short: Ids, other: Seen) -> dict[int, float]:
    """How far the logits are from another prompt's when its states replace those after a layer.

    By layer, of a few.
    """
    count = lm.n_layers
    sizes = {}
    for layer in sorted({0, count // 2, max(count - 2, 0)}):
        put = run(lm, [short], edit=(layer, partial(_instead, other.out[layer][1])))
        sizes[layer] = relative_difference(put.logits, other.logits)
    return sizes


def _instead(new: Tensor, _old: Tensor) -> Tensor:
    return new
