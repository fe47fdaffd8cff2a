"""The calls that modules make in one small forward, and which tensors pass between them.

A tensor that leaves one module and enters the next is the same memory, so the way of the states
through a decoder layer is found without names.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from interp.model import doubled, hidden_of


@dataclass(eq=False)
class Call:
    """One call of a module, with the inner calls that it made.

    Attributes:
        module: the module.
        into: the states that entered it.
        arguments, keywords: everything that entered it.
        made, out: the states that it returned, before and after an intervention's edit of them.
        inner: calls of its submodules, in order.
    """

    module: nn.Module
    into: Tensor
    arguments: tuple[Any, ...] = field(repr=False)
    keywords: Mapping[str, Any] = field(repr=False)
    made: Tensor = field(init=False)
    out: Tensor = field(init=False)
    inner: list[Call] = field(default_factory=list)

    @property
    def has_matrix(self) -> bool:
        """Whether the module holds a matrix of any kind: Linear, Conv1D, experts, packed."""
        return any(parameter.ndim >= 2 for parameter in self.module.parameters())


def watch_calls(layer: nn.Module, top: list[Call], stack: ExitStack) -> None:
    """Write the tree of calls under ``layer`` into ``top`` as they happen."""
    under_way: list[Call] = []

    def enter(module: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> None:
        tensors = (v for v in (*arguments, *keywords.values()) if isinstance(v, Tensor))
        into = keywords.get("hidden_states", next(tensors, torch.empty(0)))
        call = Call(module, into, arguments, keywords)
        (under_way[-1].inner if under_way else top).append(call)
        under_way.append(call)

    def finish(_module: nn.Module, _inputs: Any, output: Any) -> None:
        under_way[-1].made = hidden_of(output)

    def leave(_module: nn.Module, _inputs: Any, output: Any) -> None:
        under_way.pop().out = hidden_of(output)

    for module in layer.modules():
        stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(module.register_forward_hook(finish, prepend=True).remove)
        stack.callback(module.register_forward_hook(leave).remove)


def flat(states: Tensor) -> Tensor:
    """One row per token; some layers fold batch and token into one axis on their way."""
    return states.reshape(-1, states.shape[-1])


def same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether both are the same memory, whatever their shapes; meta tensors have some as well."""
    return _place(one) == _place(other)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.numel()


def adds_up(total: Tensor, *terms: Tensor) -> bool:
    """Whether ``total`` is the sum of ``terms`` at every token, up to the rounding of that sum.

    For meta tensors only the shapes can be compared.
    """
    parts = [flat(part) for part in (total, *terms)]
    if len({part.shape for part in parts}) > 1 or total.is_meta:
        return len({part.shape for part in parts}) == 1
    whole, *rest = (doubled(part) for part in parts)
    error = (whole - sum(rest)).norm(dim=-1)
    # A rounded number is off by half an eps at most, and no partial sum is longer than all terms.
    # Each token has its own bound: next to a massive one, all others would be rounding errors.
    lengths = torch.stack([part.norm(dim=-1) for part in (whole, *rest)]).sum(dim=0)
    return bool((error <= torch.finfo(total.dtype).eps / 2 * lengths).all())
