"""What a training step holds in memory, measured on a cut model without any numbers in it."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from analyses.costs.cut import Trained, built, cut_config, trained_dtype, with_weights

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from unlearning.training import TrainingSettings

ROWS, TOKENS = 16, 128
DEEPEST = 4  # layers that are looked at


@dataclass(frozen=True)
class Footprint:
    """The memory of a model's parts.

    Attributes:
        layers: number of decoder layers.
        parameters: of the model.
        trained: trained parameters.
        layer: bytes that one layer keeps for the backward, per token.
        state: bytes of one token's state.
        cache: bytes of one token's keys and values, in all layers.
        vocabulary: length of a token's logits.
        recomputes: whether it can compute activations again in the backward.
        is_rough: whether it follows from a rule of thumb, because the cut model does not run.
    """

    layers: int
    parameters: int
    trained: int
    layer: float
    state: float
    cache: float
    vocabulary: int
    recomputes: bool = True
    is_rough: bool = False


def footprint_of(
    config: PretrainedConfig, settings: TrainingSettings | None, dtype: torch.dtype
) -> Footprint:
    """The footprint of a training step with ``settings``; without, of reading alone."""
    return _footprint(Trained(config, settings), dtype)


@lru_cache(maxsize=64)
def _footprint(held: Trained, dtype: torch.dtype) -> Footprint:
    from torch._subclasses.fake_tensor import FakeTensorMode

    config: Any = held.config
    depth = int(config.num_hidden_layers)
    some = min(depth, DEEPEST)
    try:
        with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True):
            warnings.simplefilter("ignore")
            few = _measured(cut_config(config, max(1, some // 2)), held.settings, dtype)
            many = _measured(cut_config(config, some), held.settings, dtype)
    except Exception:  # an architecture that needs numbers, or more than text
        return _rule_of_thumb(config, held.settings, dtype)
    grown = some - max(1, some // 2)
    if grown:
        slope = [(b - a) / grown for a, b in zip(few, many, strict=True)]
    else:
        slope = [value / some for value in many]
    parameters, trained, kept = (
        value + per * (depth - some) for value, per in zip(many, slope, strict=True)
    )
    return Footprint(
        depth, round(parameters), round(trained), max(kept, 0.0) / depth,
        **_widths(config, trained_dtype(held.settings, dtype)),
    )  # fmt: skip


def _measured(
    config: Any, settings: TrainingSettings | None, dtype: torch.dtype
) -> tuple[float, float, float]:
    """Parameters, trained parameters, and bytes that a forward keeps per token."""
    model = built(config, settings, dtype)
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    adapters = sum(one.numel() for name, one in model.named_parameters() if "lora_" in name)
    parameters = float(sum(one.numel() for one in model.parameters()) - adapters)
    if settings is None:
        return parameters, 0.0, 0.0
    model = with_weights(model, "cpu")
    model.get_input_embeddings().register_forward_hook(
        lambda _module, _inputs, output: output.requires_grad_() if output.is_leaf else output
    )
    known = {one.untyped_storage()._cdata for one in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage()._cdata) not in known:
            kept[place] = tensor
        return tensor

    ids = torch.zeros(ROWS, TOKENS, dtype=torch.long)
    halved = torch.autocast("cpu", torch.bfloat16) if settings.autocast else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one), halved:
        model(
            input_ids=ids, attention_mask=torch.ones_like(ids),
            position_ids=torch.arange(TOKENS).expand(ROWS, -1), use_cache=False,
            logits_to_keep=1,
        )  # fmt: skip
    bytes_kept = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return parameters, float(trained + model.left_out), bytes_kept / (ROWS * TOKENS)


def _widths(config: Any, dtype: torch.dtype) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    held = (getattr(config, "num_key_value_heads", None) or heads) * width
    kind = AutoModelForCausalLM._model_mapping.get(type(config), None)
    return {
        "recomputes": bool(getattr(kind, "supports_gradient_checkpointing", True)),
        "state": config.hidden_size * dtype.itemsize,
        "cache": 2 * held * dtype.itemsize * config.num_hidden_layers,
        "vocabulary": int(config.vocab_size),
    }


def _rule_of_thumb(config: Any, settings: TrainingSettings | None, dtype: torch.dtype) -> Footprint:
    """A dense transformer of this width and depth: 12 d² weights a layer, 34 d bytes a token in
    half precision (Korthikanti et al. 2022, arXiv 2205.05198), thrice that with adapters.
    """
    depth, width = int(config.num_hidden_layers), int(config.hidden_size)
    layers = 12 * depth * width**2
    parameters = layers + 2 * width * int(config.vocab_size)
    lora = settings is not None and settings.trained == "lora"
    trained = 0 if settings is None else layers
    if settings is not None and lora:
        trained = 18 * depth * width * settings.lora_rank
    kept = 34 * width * (3 if lora else 1) * max(1, dtype.itemsize // 2)
    return Footprint(depth, parameters, trained, kept, **_widths(config, dtype), is_rough=True)
