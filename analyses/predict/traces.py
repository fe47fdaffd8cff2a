"""Inputs and output gradients of a linear module, token by token, and products of such traces.

A linear module's gradient is a sum over tokens of (gradient at its output) × (its input), so that

    ⟨∇_W f_a, ∇_W m_b⟩ = Σ_ij ⟨h_i, h_j⟩⟨g_i, g_j⟩        i a token of a's rows, j one of b's

exactly; a bias adds ⟨g_i, g_j⟩.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.predict.gradients import Scalar, in_groups
from interp.model import Tokens


@dataclass(frozen=True)
class Side:
    """Rows of every domain, and the scalar whose mean over them is differentiated.

    ``prompts`` numbers the prompt of each row; without it, each row of a domain is one prompt.
    """

    rows: Mapping[str, Sequence[Tokens]]
    scalar: Scalar
    prompts: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def in_groups(self, domain: str, groups: int) -> list[list[Tokens]]:
        """The rows of each group of a domain (:func:`analyses.predict.gradients.in_groups`).

        Raises:
            InputError: fewer prompts than groups.
        """
        return in_groups(self.rows[domain], groups, self.prompts.get(domain), domain)


@dataclass(frozen=True)
class Traces:
    """Inputs and output gradients of one module for one side; one row per relevant token.

    ``unit`` numbers the domain and group that a token belongs to.
    """

    inputs: Float[Tensor, "token width"]
    gradients: Float[Tensor, "token out"]
    unit: Int[Tensor, " token"]

    @classmethod
    def joined(cls, several: Sequence[Traces]) -> Traces:
        """The traces of modules that share one weight, whose gradient is the sum of theirs."""
        parts = zip(*((one.inputs, one.gradients, one.unit) for one in several), strict=True)
        return cls(*(torch.cat(part) for part in parts))

    def with_bias(self) -> Traces:
        """The same with a constant input of 1, whose weight is the bias."""
        one = self.inputs.new_ones(len(self.inputs), 1)
        return replace(self, inputs=torch.cat([self.inputs, one], dim=1))

    def sketched(self, matrix: Float[Tensor, "rank width"]) -> Traces:
        """The same with inputs multiplied by LoRA's A."""
        return replace(self, inputs=self.inputs.float() @ matrix.to(self.inputs.device).float().T)


def products(a: Traces, b: Traces, units: tuple[int, int]) -> Float[np.ndarray, "unit_a unit_b"]:
    """Σ ⟨h_i, h_j⟩⟨g_i, g_j⟩ by the units of i and j, computed the cheaper way."""
    weights = a.inputs.shape[1] * a.gradients.shape[1]
    by_pairs = len(a.inputs) * len(b.inputs) * (a.inputs.shape[1] + a.gradients.shape[1])
    by_weights = (len(a.inputs) + len(b.inputs) + units[0] * units[1]) * weights
    return (pairwise if by_pairs < by_weights else through_weights)(a, b, units)


def pairwise(a: Traces, b: Traces, units: tuple[int, int]) -> Float[np.ndarray, "unit_a unit_b"]:
    """:func:`products` from pairs of tokens, without a tensor of a weight's shape."""
    found = torch.zeros(units, dtype=torch.float64)
    inputs, gradients, owners = b.inputs.float(), b.gradients.float(), b.unit.cpu()
    for unit in range(units[0]):
        mine = a.unit == unit
        near = (a.inputs[mine].float() @ inputs.T) * (a.gradients[mine].float() @ gradients.T)
        found[unit].index_add_(0, owners, near.sum(dim=0).cpu().double())
    return found.numpy()


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
    return torch.stack(found).cpu().double().numpy()


def _weight_gradient(traces: Traces, unit: int) -> Float[Tensor, "out width"]:
    mine = traces.unit == unit
    return traces.gradients[mine].float().T @ traces.inputs[mine].float()
