r"""Find the attention heads of a layer, and check that they are heads.

The heads are the input of attention's last matrix: their outputs, one after the other. Three things
must hold, or the layer offers no heads:

- The matrix is linear: the heads, each alone through it, add up to what it gives for all of them.
- Its input comes from attention itself, not from another matrix (a projection of low rank).
- Head :math:`h` of the softmax writes the :math:`h`-th part of the input and no other part. This is
  tested by a second call of the module, in which every head of the softmax is multiplied by
  another factor. The number of heads is the softmax's; a configuration may name one number for
  layers that differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from interp.activations.calls import Call, flat, same_memory
from interp.model import Point, hidden_into, is_out_of_memory

FUSED = "scaled_dot_product"
SOFTMAXES = {"_softmax", "_safe_softmax"}


@dataclass(frozen=True)
class Heads:
    """The heads of one layer.

    Attributes:
        point: where their outputs are, one after the other.
        count: number of heads.
    """

    point: Point
    count: int


def find_heads(attention: Call, configured: int) -> Heads | None:
    """The heads of an attention module; None where it has none that can be read or edited.

    Args:
        attention: the module's call, in a forward over one prompt.
        configured: the number of heads in the model's configuration, used where no softmax is
            seen.
    """
    projection = _last_matrix(attention)
    if projection is None or _is_made_by_matrix(projection, attention):
        return None
    point, states = Point(projection.module, before=True), projection.into
    if states.is_meta:
        return Heads(point, configured)
    scaled, after = _again(attention, projection)
    if after is None or len(scaled.counts) > 1:
        return None
    count = scaled.counts.pop() if scaled.counts else configured
    if not isinstance(count, int) or count < 1 or states.shape[-1] % count:
        return None
    if scaled.factors is not None and not _scales_parts(states, after, scaled.factors):
        return None
    return Heads(point, count) if _adds_up(projection, count) else None


def _last_matrix(attention: Call) -> Call | None:
    """The last module with weights on the way to attention's output, inside wrapping modules."""
    tensor = attention.made
    for call in reversed(attention.inner):
        if same_memory(call.out, tensor):
            if call.has_matrix:
                # An adapter's module returns another tensor than those inside it, so it is kept.
                return _last_matrix(call) or call
            tensor = call.into
    return None


def _is_made_by_matrix(projection: Call, outer: Call) -> bool:
    return any(
        _is_made_by_matrix(projection, call)
        or (not call.inner and call.has_matrix and same_memory(call.out, projection.into))
        for call in outer.inner
        if call is not projection
    )


def _again(attention: Call, projection: Call) -> tuple[_Scaled, Tensor | None]:
    """Call attention again with scaled heads; the projection's input, None if it has not one."""
    seen: list[Tensor] = []

    def note(_module: Any, arguments: tuple, keywords: dict[str, Any]) -> None:
        seen.append(hidden_into(arguments, keywords))

    scaled = _Scaled()
    with projection.module.register_forward_pre_hook(note, with_kwargs=True), scaled:
        try:
            attention.module(*attention.arguments, **attention.keywords)
        except Exception as error:  # whatever a model's code raises
            if is_out_of_memory(error):
                raise
    return scaled, seen[0] if len(seen) == 1 else None


def _scales_parts(before: Tensor, after: Tensor, factors: Tensor) -> bool:
    """Whether each part is multiplied by its head's factor; a norm over all divides them alike."""
    wanted = flat(before).unflatten(-1, (len(factors), -1)) * factors.to(before)[:, None]
    wanted, found = wanted.flatten(-2), flat(after)
    if found.shape != wanted.shape:
        return False
    common = (wanted * found).sum(-1, keepdim=True) / wanted.square().sum(-1, keepdim=True)
    return _is_close(common * wanted, found)


def _adds_up(projection: Call, count: int) -> bool:
    """Whether the heads, each alone through the projection, add up to its output."""
    heads = flat(projection.into).unflatten(-1, (count, -1))
    alone = heads[:, None] * torch.eye(count).to(heads)[:, :, None]
    apart = flat(projection.module(alone.flatten(-2)).flatten(0, 1))
    nothing = flat(projection.module(torch.zeros_like(flat(projection.into))))
    total = apart.unflatten(0, (-1, count)).sum(1) - (count - 1) * nothing
    return _is_close(total, flat(projection.made))


def _is_close(found: Tensor, wanted: Tensor) -> bool:
    """Equality of sums over many terms, up to rounding."""
    # Models in float64 compute softmax in float32.
    share = math.sqrt(max(torch.finfo(wanted.dtype).eps, torch.finfo(torch.float32).eps))
    return found.shape == wanted.shape and bool((found - wanted).norm() <= share * wanted.norm())


@dataclass
class _Scaled(TorchDispatchMode):
    """Multiplies what every head of a softmax attention gives by another factor.

    Attributes:
        counts: the numbers of heads that were seen.
        factors: of the heads.
    """

    counts: set[int] = field(default_factory=set)
    factors: Tensor | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, function: Any, _types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        result = function(*arguments, **(keywords or {}))
        name = function.overloadpacket.__name__
        if FUSED in name:
            first, *others = result if isinstance(result, tuple) else (result,)
            return (self._scale(first), *others) if others else self._scale(first)
        # One prompt of several tokens: (1, head, token, token), (head, token, token) and the like.
        if name in SOFTMAXES and result.ndim > 2 and result.shape[-2] > 1:
            return self._scale(result)
        return result

    def _scale(self, states: Tensor) -> Tensor:
        count = math.prod(states.shape[:-2])
        self.counts.add(count)
        self.factors = 1 + torch.arange(count, device=states.device) / count
        return states * self.factors.to(states).reshape(*states.shape[:-2], 1, 1)
