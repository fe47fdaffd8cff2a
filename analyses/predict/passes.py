"""Passes of rows through the upper part of a model, for the gradients of a block of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analyses.predict.gradients import Scalar
from analyses.predict.traces import Side, Traces
from interp.model import (
    LanguageModel,
    LinearWeight,
    Point,
    Tokens,
    hidden_into,
    in_fitting_batches,
    writing,
)

# Largest relative difference between a gradient from traces and autograd's, by the dtype.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}
HALF = 0.05

#: Inputs and output gradients of a module's tokens, for each time that it ran.
Calls = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Block:
    """Some layers whose gradients are computed together.

    Attributes:
        first: the lowest of them; no graph is built below it.
        traced: weights whose gradients follow from traces of their modules.
        stored: weights, and biases, whose gradients autograd gives.
    """

    first: nn.Module
    traced: Sequence[LinearWeight]
    stored: Sequence[nn.Parameter]


def gather(
    lm: LanguageModel, side: Side, block: Block, groups: int, batch_size: int
) -> tuple[list[Traces | None], list[Float[Tensor, " unit *shape"]]]:
    """Over the rows of a side: traces of the traced weights, gradients of the stored ones.

    A module that never ran, or whose output has no gradient, has no traces.
    """
    pieces: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in block.traced]
    units = len(side.rows) * groups
    stored = [torch.zeros(units, *p.shape, device=p.device) for p in block.stored]
    for number, domain in enumerate(side.rows):
        for group, chosen in enumerate(side.in_groups(domain, groups)):
            unit = number * groups + group

            def one(batch: list[int], chosen: Sequence[Tokens] = chosen) -> Any:
                return one_pass(lm, [chosen[i] for i in batch], side.scalar, block)

            together = lm.together(chosen)
            for _rows, (each, gradients) in in_fitting_batches(chosen, batch_size, one, together):
                for kept, calls in zip(pieces, each, strict=True):
                    for inputs, slopes in calls:
                        units_of = torch.full((len(inputs),), unit, device=inputs.device)
                        kept.append((inputs, slopes / len(chosen), units_of))
                for total, gradient in zip(stored, gradients, strict=True):
                    if gradient is not None:
                        total[unit] += gradient.float() / len(chosen)
    traces: list[Traces | None] = []
    while pieces:  # free a module's pieces once they are joined
        parts = pieces.pop(0)
        joined = [torch.cat(part) for part in zip(*parts, strict=True)]
        traces.append(Traces(*joined) if joined else None)
    return traces, stored


def one_pass(
    lm: LanguageModel, rows: Sequence[Tokens], scalar: Scalar, block: Block
) -> tuple[list[Calls], list[Tensor | None]]:
    """For each traced module its calls, with the tokens that matter; the stored gradients."""
    seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in block.traced]

    def keep(number: int) -> Callable[..., Tensor | None]:
        def act(_module: nn.Module, inputs: tuple, keywords: dict, output: Tensor) -> Tensor | None:
            if not torch.is_grad_enabled():
                return None
            # Not every input comes from the states in which the graph begins.
            new = output if output.requires_grad else output.detach().requires_grad_()
            seen[number].append((hidden_into(inputs, keywords).detach(), new))
            return new

        return act

    def begin(hidden: Tensor) -> Tensor:
        """Begin the graph here: the layers below build none. A layer may run more than once."""
        return hidden if hidden.requires_grad else hidden.detach().requires_grad_()

    handles = [
        weight.module.register_forward_hook(keep(i), with_kwargs=True)
        for i, weight in enumerate(block.traced)
    ]
    for parameter in block.stored:
        parameter.requires_grad_(True)
    try:
        with writing(Point(block.first, before=True), begin):
            values = scalar(lm, rows)
        outputs = [output for calls in seen for _, output in calls]
        gradients = list(_gradients(values.sum(), [*outputs, *block.stored]))
    finally:
        for parameter in block.stored:
            parameter.requires_grad_(False)
        for handle in handles:
            handle.remove()
    slopes = iter(gradients)
    return [_relevant(calls, slopes) for calls in seen], gradients[len(outputs) :]


def disagreeing(
    lm: LanguageModel, side: Side, block: Block, tensors: Sequence[Sequence[LinearWeight]]
) -> list[Sequence[LinearWeight]]:
    """Tensors whose gradient is not the sum over their modules' traces, on the shortest row.

    Args:
        lm: the base model.
        side: gives the row.
        block: its traced weights are those of ``tensors``.
        tensors: for each tensor, the weights (one, or several modules that share it).
    """
    row = min((row for rows in side.rows.values() for row in rows), key=len)
    shared = [weights[0].value for weights in tensors]
    checked = Block(block.first, block.traced, [p for p in shared if p.is_floating_point()])
    calls, stored = one_pass(lm, [row], side.scalar, checked)
    of_module = dict(zip(block.traced, calls, strict=True))
    truths = iter(stored)
    found = []
    for weights, tensor in zip(tensors, shared, strict=True):
        if not tensor.is_floating_point():  # a quantized weight has no gradient to compare with
            continue
        truth = next(truths)
        traced = [_weight_gradient(of_module[weight], weight) for weight in weights]
        total = sum((one for one in traced if one is not None), torch.zeros_like(tensor).float())
        wanted = torch.zeros_like(total) if truth is None else truth.float()
        limit = TOLERANCE.get(tensor.dtype, HALF) * wanted.norm()
        if not (total - wanted).norm() <= limit:
            found.append(weights)
    return found


def _weight_gradient(calls: Calls, weight: LinearWeight) -> Tensor | None:
    if not calls:
        return None
    inputs, slopes = (torch.cat(part).float() for part in zip(*calls, strict=True))
    gradient = slopes.T @ inputs
    return gradient if weight.reads_last else gradient.T


def _relevant(calls: Sequence[tuple[Tensor, Tensor]], slopes: Iterable[Tensor | None]) -> Calls:
    """Inputs and output gradients of the tokens that matter: not padding, reached by attention."""
    kept = []
    for (inputs, _output), gradient in zip(calls, slopes, strict=False):
        if gradient is not None:
            flat = gradient.flatten(0, -2)
            matters = (flat != 0).any(dim=-1)
            kept.append((inputs.flatten(0, -2)[matters], flat[matters].to(inputs.dtype)))
    return kept


def _gradients(total: Tensor, tensors: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not tensors or not total.requires_grad:
        return [None] * len(tensors)
    return torch.autograd.grad(total, tensors, allow_unused=True)
