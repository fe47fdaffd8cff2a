r"""Kernels over all linear weights of the layers, without storing most weight gradients.

Products of gradients come from traces of the modules' inputs and output gradients
(:mod:`analyses.predict.traces`). Memory holds the inputs h and output gradients g of a few decoder
layers at a time. The rows pass through the model once per such block of layers, and the layers
below it build no graph. Memory is (bytes of a number) × tokens × Σ (d_in + d_out)
over the layers' modules:
a 7B model takes 160 kB per token and layer in bfloat16, so 16 GB for 100,000 tokens. Stored
gradients of all weights would take 26 GB for every domain and group. Where there are more tokens
than weights, separate sums over i and over j are cheaper: each module's gradients are formed and
then dropped.

Weights whose product no module shows (fused experts, for instance) have no traces. Their gradients
come from autograd and are stored, of a few layers at a time: (domains × groups × weights) numbers.
Every trace is compared with autograd on one row first; where they differ, the gradient is stored.

LoRA's gradient at its start, where B = 0, is that of B alone: (α/r) g (A h)ᵀ. ``sketch`` gives A
for each module, and K is then the kernel in LoRA's space. As A's entries are independent with
variance 1/(3 d_in), its mean over draws of A is Σ_W (α²/3 r d_in) K_W: the kernel over all weights,
a module weighted by the inverse of its input's width.

P is the identity, because Adam's diagonal needs the gradient of each weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from analyses.predict.gradients import GROUPS
from analyses.predict.passes import Block, disagreeing, gather
from analyses.predict.products import Kernel
from analyses.predict.traces import Side, Traces, products
from interp.errors import ModelError
from interp.model import LanguageModel, LinearWeight, linear_weights

#: LoRA's A for a weight: (its place, its input's width) → (rank, width), or one for each expert.
Sketch = Callable[[str, int], Float[Tensor, "*expert rank width"]]


def streamed_kernel(
    lm: LanguageModel,
    sources: Side,
    targets: Side,
    *,
    groups: int = GROUPS,
    batch_size: int = 32,
    layers_at_once: int = 1,
    sketch: Sketch | None = None,
) -> Kernel:
    """⟨∇f_a, ∇g_b⟩ over the linear weights of all layers, from rows of different groups.

    Args:
        lm: the base model; its parameters' ``requires_grad`` is restored at the end.
        sources, targets: the same domains. Prompts are assigned to groups in turn.
        groups: number of groups of each domain's rows; products use different groups.
        batch_size: rows in one forward, halved when memory runs out.
        layers_at_once: decoder layers whose inputs and gradients are held together.
        sketch: LoRA's A, scaled by α/r, for each weight, without biases. None takes all weights.

    Raises:
        InputError: a domain has fewer prompts than groups, or there are fewer than three groups.
        ModelError: modules share a weight, each with its own adapter, and traces are not exact.
    """
    for side in (sources, targets):
        for domain in side.rows:
            side.in_groups(domain, groups)  # raises before anything runs
    units = len(sources.rows) * groups, len(targets.rows) * groups
    found = np.zeros(units)
    training = lm.model.training
    lm.model.eval()
    by_layer = _tensors_by_layer(lm)
    with _frozen(lm.model):
        for start in range(0, lm.n_layers, layers_at_once):
            tensors = [one for layer in by_layer[start : start + layers_at_once] for one in layer]
            block, stored = _block(
                lm, targets, lm.layers[start], tensors, sketched=sketch is not None
            )
            left, right = (
                gather(lm, side, block, groups, batch_size) for side in (sources, targets)
            )
            found += _of_traces(block, left[0], right[0], units, sketch)
            found += _of_stored(stored, left[1], right[1], sketch)
    lm.model.train(training)
    split = found.reshape(len(sources.rows), groups, len(targets.rows), groups)
    return Kernel.from_products(split.transpose(1, 3, 0, 2))


def _tensors_by_layer(lm: LanguageModel) -> list[list[tuple[LinearWeight, ...]]]:
    """For each layer the tensors that it is the first to hold, each with all its weights."""
    first: dict[nn.Module, int] = {}
    for number, layer in enumerate(lm.layers):
        for module in layer.modules():
            first.setdefault(module, number)
    tensors: dict[int, list[LinearWeight]] = {}
    for weight in linear_weights(lm):
        tensors.setdefault(id(weight.value), []).append(weight)
    found: list[list[tuple[LinearWeight, ...]]] = [[] for _ in lm.layers]
    for weights in tensors.values():
        found[min(first[weight.module] for weight in weights)].append(tuple(weights))
    return found


def _block(
    lm: LanguageModel,
    side: Side,
    first: nn.Module,
    tensors: Sequence[tuple[LinearWeight, ...]],
    *,
    sketched: bool,
) -> tuple[Block, list[LinearWeight]]:
    """The traced modules, the stored parameters, and the weight of each stored parameter."""
    traceable = [
        weights
        for weights in tensors
        if all(one.is_plain or not one.value.is_floating_point() for one in weights)
    ]
    block = Block(first, [weight for weights in traceable for weight in weights], [])
    wrong = disagreeing(lm, side, block, traceable) if traceable else []
    exact = [weights for weights in traceable if weights not in wrong]
    stored = [weights for weights in tensors if weights not in exact]
    if sketched and any(len(weights) > 1 for weights in stored):
        names = ", ".join(weights[0].place for weights in stored if len(weights) > 1)
        raise ModelError(
            f"several modules of {lm.name} share a weight ({names}), and the gradients of their "
            "adapters cannot be separated; give --kernel trainable"
        )
    owners = [weights[0] for weights in stored]
    biased = [] if sketched else [weight for weight in owners if weight.bias is not None]
    parameters = [weight.value for weight in owners]
    parameters += [weight.bias for weight in biased if weight.bias is not None]
    traced = [weight for weights in exact for weight in weights]
    return Block(first, traced, parameters), [*owners, *biased]


def _of_traces(
    block: Block,
    left: Sequence[Traces | None],
    right: Sequence[Traces | None],
    units: tuple[int, int],
    sketch: Sketch | None,
) -> Float[np.ndarray, "unit_a unit_b"]:
    """The traced weights' part of the products; modules that share a tensor add up first."""
    found = np.zeros(units)
    sides: dict[object, list[list[Traces]]] = {}
    for weight, *seen in zip(block.traced, left, right, strict=True):
        ran = [traces for traces in seen if traces is not None]
        matrix = sketch(weight.place, ran[0].inputs.shape[1]) if sketch and ran else None
        # Each module has its own adapter, also where several share the weight.
        parts = sides.setdefault(id(weight.value) if sketch is None else weight, [[], []])
        for part, traces in zip(parts, seen, strict=True):
            if traces is None:
                continue
            if matrix is not None:
                traces = traces.sketched(matrix)
            elif weight.bias is not None:
                traces = traces.with_bias()
            part.append(traces)
    for a, b in sides.values():
        if a and b:
            found += products(Traces.joined(a), Traces.joined(b), units)
    return found


def _of_stored(
    weights: Sequence[LinearWeight],
    left: Sequence[Tensor],
    right: Sequence[Tensor],
    sketch: Sketch | None,
) -> Float[np.ndarray, "unit_a unit_b"] | float:
    """The stored gradients' part of the products."""
    found: np.ndarray | float = 0.0
    for weight, *seen in zip(weights, left, right, strict=True):
        if sketch is None:
            a, b = (gradient.flatten(1) for gradient in seen)
        else:
            width = weight.value.shape[-1 if weight.reads_last else -2]
            matrix = sketch(weight.place, width).to(seen[0])
            a, b = (
                (gradient @ matrix.mT if weight.reads_last else matrix @ gradient).flatten(1)
                for gradient in seen
            )
        found = found + torch.stack([b @ one for one in a]).cpu().double().numpy()
    return found


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Exclude all parameters from the graph, so no weight gradient is computed."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
