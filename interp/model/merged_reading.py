"""Read a model with its adapters merged into the weights, and give both back as they were.

An adapter adds two products to each layer: with rank 128 at width 576, reading and generating take
up to twice as long. Weights of 32 bits and more hold the sum to rounding, so the readings are those
of the adapted model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def adapters_merged(model: nn.Module) -> Iterator[None]:
    """Merge the LoRA adapters of ``model`` inside the block, where this changes no reading.

    The block must not change adapters. Afterwards all weights are bit-equal to those before.
    Nothing is merged where weights are rounded (16 bits, quantised), spread over devices or
    processes, or shared by several modules.
    """
    layers = _layers(model)
    kept = [(weight, weight.data) for layer in layers for weight in [_weight(layer)]]
    try:
        with torch.no_grad():
            for (weight, before), layer in zip(kept, layers, strict=True):
                weight.data = before.clone()
                layer.merge()
        yield
    finally:
        for weight, before in kept:
            weight.data = before
        for layer in layers:
            layer.merged_adapters.clear()


def _layers(model: nn.Module) -> list[Any]:
    """The adapted layers; none where one of them cannot be merged and given back."""
    if not hasattr(model, "merge_adapter"):
        return []
    from peft.tuners.lora import LoraLayer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, LoraLayer)]
    named = model.named_parameters(remove_duplicate=False)
    places = Counter(id(parameter) for _, parameter in named)
    usable = all(_is_plain(layer) and places[id(_weight(layer))] == 1 for layer in layers)
    return layers if usable else []


def _is_plain(layer: Any) -> bool:
    """Whether it holds an ordinary weight in full precision, and adapters that are in use."""
    weight = _weight(layer)
    return (
        type(weight) is nn.Parameter
        and weight.dtype in (torch.float32, torch.float64)
        and not weight.is_meta
        and not (layer.merged or layer.disable_adapters or layer.lora_variant)
        and not any(layer.lora_bias.values())
    )


def _weight(layer: Any) -> Any:
    return getattr(layer.get_base_layer(), getattr(layer, "parameter_name", "weight"), None)
