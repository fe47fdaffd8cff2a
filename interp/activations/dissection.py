"""Locate attention, MLP and heads inside a decoder layer by tracing one small forward.

Model families use different names and put different modules between a part and the residual stream
(a norm after attention in Gemma 2, a dropout in GPT-NeoX). The tensors follow the same rules in
all families: attention is the module that takes an attention mask, the MLP is the other module with
weight matrices, and a tensor that leaves one module and enters the next is the same tensor. A check
follows: the parts must sum to the layer's output.

The result is cached with the model, because every intervention needs it. It is computed again if
the modules of a layer change (for example when an adapter is added or removed).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.activations.calls import Call, adds_up, flat, same_memory, watch_calls
from interp.activations.heads import Heads, find_heads
from interp.model import LanguageModel, Point, doubled, probing, stopping_after, undisturbed

# In layers of other types (linear attention), the number of heads differs from the config.
SOFTMAX_ATTENTION = ("attention", "full_attention", "sliding_attention", "chunked_attention")


@dataclass(frozen=True)
class Parts:
    """The places in one decoder layer; ``None`` where the layer lacks a place.

    Attributes:
        residual_mid: the stream between attention and MLP; absent in layers where both read the
            layer's input (GPT-NeoX, Phi).
        attention_out, mlp_out: the output that each adds to the stream, after its norm if any.
        attention_write, mlp_write: the same, also where the layer multiplies the output by a
            constant before it adds it (Granite); both or none.
        heads: the outputs of the heads before attention's output projection, and their number.
    """

    residual_mid: Point | None = None
    attention_out: Point | None = None
    mlp_out: Point | None = None
    attention_write: Point | None = None
    mlp_write: Point | None = None
    heads: Heads | None = None

    @property
    def heads_point(self) -> Point | None:
        """Where the heads' outputs are."""
        return None if self.heads is None else self.heads.point


@dataclass(frozen=True)
class _Known:
    """A layer's parts, and the modules in which they were found."""

    modules: tuple[object, ...]
    parts: Parts


def dissect(lm: LanguageModel, layers: Sequence[int]) -> Mapping[int, Parts]:
    """The parts of each of ``layers``, from a forward over a few tokens up to the last layer.

    The forward belongs to no prompt: interventions at positions select none of its tokens.
    """
    known: dict[int, _Known] = lm.found_out.setdefault("parts", {})
    built = {i: _modules(lm.layers[i]) for i in layers}
    changed = [i for i in layers if i not in known or known[i].modules != built[i]]
    if changed:
        for i, parts in _dissect(lm, changed).items():
            known[i] = _Known(built[i], parts)
    return {i: known[i].parts for i in layers}


def _modules(layer: nn.Module) -> tuple[object, ...]:
    """The cache key of a layer's parts; modules are compared by identity."""
    return *layer.modules(), any(p.is_meta for p in layer.parameters())


def _dissect(lm: LanguageModel, layers: Sequence[int]) -> dict[int, Parts]:
    # Without weights (a model that runs elsewhere), shapes and storages give the same result.
    offloaded = any(hasattr(module, "_hf_hook") for module in lm.model.modules())
    meta = all(p.is_meta for p in lm.model.parameters()) and not offloaded
    ids = torch.tensor([lm.chat.encode("a").ids[:4]], device="meta" if meta else lm.device)
    calls: dict[int, list[Call]] = {i: [] for i in layers}
    with ExitStack() as stack:
        stack.enter_context(undisturbed(lm.model))
        stack.enter_context(probing())
        for i in layers:
            stack.callback(_bring_inputs(lm.layers[i]).remove)
            watch_calls(lm.layers[i], calls[i], stack)
        stack.enter_context(stopping_after(lm.layers[max(layers)]))
        lm.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    config = lm.model.config.get_text_config(decoder=True)
    types = getattr(config, "layer_types", None)
    configured = getattr(config, "num_attention_heads", 0)
    heads = {i: configured for i in layers if not types or types[i] in SOFTMAX_ATTENTION}
    with undisturbed(lm.model), probing():
        return {i: _parts(calls[i][0], heads.get(i)) for i in layers}


def _bring_inputs(layer: nn.Module) -> RemovableHandle:
    """Move a layer's inputs to its device before they are traced.

    Layers may lie on several devices. accelerate then moves the inputs inside the forward, and a
    copy cannot be traced.
    """
    from accelerate.utils import send_to_device

    device = getattr(getattr(layer, "_hf_hook", None), "execution_device", None)
    if device is None:
        device = next((p.device for p in layer.parameters()), None)

    def bring(_module: nn.Module, arguments: tuple, keywords: dict) -> tuple[tuple, dict] | None:
        if device is None or torch.device(device).type == "meta":
            return None
        moved: tuple[tuple, dict] = send_to_device((arguments, keywords), device)
        return moved

    return layer.register_forward_pre_hook(bring, with_kwargs=True)


def _parts(layer: Call, heads: int | None) -> Parts:
    attentions = [call for call in layer.inner if _takes_mask(call.module)]
    matrices = [call for call in layer.inner if call.has_matrix and call not in attentions]
    if len(attentions) != 1 or not matrices:
        return Parts()
    attention, mlp = attentions[0], matrices[0]
    others = [call for call in layer.inner if call is not attention]
    mid, middle = _upstream(mlp, others)
    attended, attention_out = _downstream(attention, [c for c in others if c is not mlp])
    fed, mlp_out = _downstream(mlp, others)
    parallel = same_memory(middle, layer.into)
    attention_adds = parallel or adds_up(middle, layer.into, attended)
    before = (layer.into, attended) if parallel else (middle,)
    mlp_adds = adds_up(layer.made, *before, fed)
    # In parallel layers there is only one sum to check.
    attention_adds = attention_adds and (mlp_adds or not parallel)
    writes = (attention_adds and mlp_adds) or (
        not parallel
        and _adds_multiple(layer.into, attended, middle)
        and _adds_multiple(middle, fed, layer.made)
    )
    return Parts(
        residual_mid=None if parallel else mid,
        attention_out=attention_out if attention_adds else None,
        mlp_out=mlp_out if mlp_adds else None,
        attention_write=attention_out if writes else None,
        mlp_write=mlp_out if writes else None,
        heads=None if heads is None else find_heads(attention, heads),
    )


def _takes_mask(module: nn.Module) -> bool:
    return "attention_mask" in inspect.signature(type(module).forward).parameters


def _upstream(call: Call, siblings: Sequence[Call]) -> tuple[Point, Tensor]:
    """Trace back from a module's input, through the norm that made it, to the stream."""
    point, tensor = Point(call.module, before=True), call.into
    for earlier in reversed(siblings[: siblings.index(call)]):
        if same_memory(earlier.out, tensor):
            point, tensor = Point(earlier.module, before=True), earlier.into
    return point, tensor


def _downstream(call: Call, siblings: Sequence[Call]) -> tuple[Tensor, Point]:
    """Trace on from a module's output, through the norm that follows it, to the stream."""
    point, tensor = Point(call.module), call.out
    for later in siblings:
        # A dropout has no effect here, and attention and MLP may share one dropout module (Phi).
        passes_on = same_memory(later.into, later.out)
        if later is not call and not passes_on and same_memory(later.into, tensor):
            point, tensor = Point(later.module), later.out
    return tensor, point


def _adds_multiple(before: Tensor, part: Tensor, after: Tensor) -> bool:
    """Whether ``after`` is ``before`` and a multiple of ``part``."""
    old, added, new = (doubled(flat(states)) for states in (before, part, after))
    if not old.shape == added.shape == new.shape:
        return False
    # Without the weights a massive token's rounding errors would decide.
    weights = new.square().sum(dim=-1, keepdim=True).reciprocal()
    factor = (weights * (new - old) * added).sum() / (weights * added.square()).sum()
    return adds_up(after, before, factor * added)
