r"""Kernels over all weights of the projections, without storing weight gradients.

A linear module's gradient is a sum over tokens of (gradient at its output) × (its input), so that

    ⟨∇_W f_a, ∇_W m_b⟩ = Σ_ij ⟨h_i, h_j⟩⟨g_i, g_j⟩        i a token of a's rows, j one of b's

exactly; a bias adds ⟨g_i, g_j⟩. Memory holds the inputs h and output gradients g of a few decoder
layers at a time. The rows pass through the model once per such block of layers, and the layers
below it build no graph. Memory is (bytes of a number) × tokens × Σ (d_in + d_out)
over the layers' modules:
a 7B model takes 160 kB per token and layer in bfloat16, so 16 GB for 100,000 tokens. Stored
gradients of all weights would take 26 GB for every domain and group. Where there are more tokens
than weights, separate sums over i and over j are cheaper: each module's gradients are formed and
then dropped.

LoRA's gradient at its start, where B = 0, is that of B alone: (α/r) g (A h)ᵀ. ``sketch`` gives A
for each module, and K is then the kernel in LoRA's space. As A's entries are independent with
variance 1/(3 d_in), its mean over draws of A is Σ_W (α²/3 r d_in) K_W: the kernel over all weights,
a module weighted by the inverse of its input's width.

P is the identity, because Adam's diagonal needs the gradient of each weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from analyses.predict.gradients import GROUPS, Kernel, Scalar
from interp.errors import InputError
from interp.model import (
    LanguageModel,
    Point,
    Tokens,
    hidden_into,
    hidden_of,
    in_fitting_batches,
    writing,
)
from interp.progress import Advance, silent

#: A's columns for a module: (name, its input's width) → (rank, width).
Sketch = Callable[[str, int], Float[Tensor, "rank width"]]


@dataclass(frozen=True)
class Side:
    """Rows of every domain, and the scalar whose mean over them is differentiated."""

    rows: Mapping[str, Sequence[Tokens]]
    scalar: Scalar


@dataclass(frozen=True)
class Traces:
    """Inputs and output gradients of one module for one side; one row per relevant token.

    ``unit`` numbers the domain and group that a token belongs to.
    """

    inputs: Float[Tensor, "token width"]
    gradients: Float[Tensor, "token out"]
    unit: Int[Tensor, " token"]

    def with_bias(self) -> Traces:
        """The same with a constant input of 1, whose weight is the bias."""
        one = self.inputs.new_ones(len(self.inputs), 1)
        return replace(self, inputs=torch.cat([self.inputs, one], dim=1))

    def sketched(self, matrix: Float[Tensor, "rank width"]) -> Traces:
        """The same with inputs multiplied by LoRA's A."""
        return replace(self, inputs=self.inputs.float() @ matrix.to(self.inputs.device).float().T)


def streamed_kernel(
    lm: LanguageModel,
    sources: Side,
    targets: Side,
    *,
    groups: int = GROUPS,
    batch_size: int = 32,
    layers_at_once: int = 1,
    sketch: Sketch | None = None,
    progress: Advance = silent,
) -> Kernel:
    """⟨∇f_a, ∇g_b⟩ over the projections of all layers, from rows of different groups.

    Args:
        lm: the base model; its parameters' ``requires_grad`` is restored at the end.
        sources, targets: the same domains. Rows are assigned to groups in turn.
        groups: number of groups of each domain's rows; products use different groups.
        batch_size: rows in one forward, halved when memory runs out.
        layers_at_once: decoder layers whose inputs and gradients are held together.
        sketch: LoRA's A, scaled by α/r, for each module, without biases. None takes all weights.
        progress: called with the number of finished layers.

    Raises:
        InputError: a domain has fewer rows than groups, or there are fewer than three groups.
    """
    for side in (sources, targets):
        for domain, rows in side.rows.items():
            if len(rows) < groups:
                raise InputError(
                    f"{len(rows)} prompts of {domain} cannot make {groups} groups; give more"
                )
    units = len(sources.rows) * groups, len(targets.rows) * groups
    found = np.zeros(units)
    training = lm.model.training
    lm.model.eval()
    names = {module: name for name, module in lm.model.named_modules()}
    with _frozen(lm.model):
        for start in range(0, lm.n_layers, layers_at_once):
            layers = list(lm.layers)[start : start + layers_at_once]
            modules = [m for layer in layers for m in layer.modules() if _is_projection(m)]
            left, right = (
                _traces(lm, side, layers[0], modules, groups, batch_size)
                for side in (sources, targets)
            )
            for module, *seen in zip(modules, left, right, strict=True):
                if sketch is None:
                    a, b = (traces.with_bias() if module.bias is not None else traces
                            for traces in seen)  # fmt: skip
                else:
                    matrix = sketch(names[module], seen[0].inputs.shape[1])
                    a, b = (traces.sketched(matrix) for traces in seen)
                found += products(a, b, units)
            progress(len(layers))
    lm.model.train(training)
    split = found.reshape(len(sources.rows), groups, len(targets.rows), groups)
    return Kernel.from_products(split.transpose(1, 3, 0, 2))


def _is_projection(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D))


def _traces(
    lm: LanguageModel,
    side: Side,
    first_layer: nn.Module,
    modules: Sequence[nn.Module],
    groups: int,
    batch_size: int,
) -> list[Traces]:
    """Every module's inputs and output gradients over the rows of a side."""
    found: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in modules]
    for number, rows in enumerate(side.rows.values()):
        for group in range(groups):
            chosen = rows[group::groups]

            def one(batch: list[int], chosen: Sequence[Tokens] = chosen) -> list[list]:
                return _batch(lm, [chosen[i] for i in batch], side.scalar, first_layer, modules)

            for _batch_rows, each in in_fitting_batches(
                chosen, batch_size, one, lm.together(chosen)
            ):
                for kept, calls in zip(found, each, strict=True):
                    for inputs, gradients in calls:
                        unit = torch.full(
                            (len(inputs),), number * groups + group, device=inputs.device
                        )
                        kept.append((inputs, gradients / len(chosen), unit))
    traces = []
    while found:  # free a module's pieces once they are joined
        traces.append(Traces(*(torch.cat(part) for part in zip(*found.pop(0), strict=True))))
    return traces


def _batch(
    lm: LanguageModel,
    rows: Sequence[Tokens],
    scalar: Scalar,
    first_layer: nn.Module,
    modules: Sequence[nn.Module],
) -> list[list[tuple[Tensor, Tensor]]]:
    """For each module and each time it ran: inputs and gradients of the tokens that matter."""
    seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in modules]

    def keep(number: int) -> Callable[..., None]:
        def act(_module: nn.Module, inputs: tuple, keywords: dict, output: object) -> None:
            seen[number].append((hidden_into(inputs, keywords).detach(), hidden_of(output)))

        return act

    handles = [m.register_forward_hook(keep(i), with_kwargs=True) for i, m in enumerate(modules)]
    try:
        # The graph begins here: the layers below build none.
        with writing(Point(first_layer, before=True), lambda h: h.detach().requires_grad_()):
            values = scalar(lm, rows)
    finally:
        for handle in handles:
            handle.remove()
    outputs = [output for calls in seen for _, output in calls]
    gradients = iter(torch.autograd.grad(values.sum(), outputs, allow_unused=True))
    found = []
    for calls in seen:
        kept = []
        for inputs, _output in calls:
            gradient = next(gradients)
            if gradient is None:
                continue
            flat = gradient.flatten(0, -2)
            matters = (flat != 0).any(dim=-1)  # not padding, reached by attention
            kept.append((inputs.flatten(0, -2)[matters], flat[matters].to(inputs.dtype)))
        found.append(kept)
    return found


def products(a: Traces, b: Traces, units: tuple[int, int]) -> Float[np.ndarray, "unit_a unit_b"]:
    """Σ ⟨h_i, h_j⟩⟨g_i, g_j⟩ by the units of i and j, computed the cheaper way."""
    weights = a.inputs.shape[1] * a.gradients.shape[1]
    by_pairs = len(a.inputs) * len(b.inputs) * (a.inputs.shape[1] + a.gradients.shape[1])
    by_weights = (len(a.inputs) + len(b.inputs) + units[0] * units[1]) * weights
    return (pairwise if by_pairs < by_weights else through_weights)(a, b, units)


def pairwise(a: Traces, b: Traces, units: tuple[int, int]) -> Float[np.ndarray, "unit_a unit_b"]:
    """:func:`products` from pairs of tokens, without a tensor of a weight's shape."""
    found = torch.zeros(units, dtype=torch.float64, device=a.inputs.device)
    inputs, gradients = b.inputs.float(), b.gradients.float()
    for unit in range(units[0]):
        mine = a.unit == unit
        near = (a.inputs[mine].float() @ inputs.T) * (a.gradients[mine].float() @ gradients.T)
        found[unit].index_add_(0, b.unit, near.sum(dim=0).double())
    return found.cpu().numpy()


def through_weights(
    a: Traces, b: Traces, units: tuple[int, int]
) -> Float[np.ndarray, "unit_a unit_b"]:
    """:func:`products` from one module's gradients: all of b's at once, a's one by one."""
    shape = b.gradients.shape[1], b.inputs.shape[1]
    right = torch.empty(units[1], *shape, device=b.inputs.device)
    for unit in range(units[1]):
        right[unit] = _weight_gradient(b, unit)
    found = [
        torch.einsum("uoi,oi->u", right, _weight_gradient(a, unit)) for unit in range(units[0])
    ]
    return torch.stack(found).double().cpu().numpy()


def _weight_gradient(traces: Traces, unit: int) -> Float[Tensor, "out width"]:
    mine = traces.unit == unit
    return traces.gradients[mine].float().T @ traces.inputs[mine].float()


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
