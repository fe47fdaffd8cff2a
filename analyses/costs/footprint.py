"""Memory of a training step, measured on a few layers whose tensors have shapes and no values."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, finalize

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
        reading: bytes per token at the peak of a forward without gradients.
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
    reading: float = 0.0
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
            reading = _reading_peak(cut_config(config, min(depth, 2)), dtype)
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
        depth, round(parameters), round(trained), max(kept, 0.0) / depth, reading=reading,
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

    halved = torch.autocast("cpu", torch.bfloat16) if settings.autocast else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one), halved:
        _forward(model)
    bytes_kept = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return parameters, float(trained + model.left_out), bytes_kept / (ROWS * TOKENS)


def _forward(model: Any) -> None:
    ids = torch.zeros(ROWS, TOKENS, dtype=torch.long)
    model(
        input_ids=ids, attention_mask=torch.ones_like(ids),
        position_ids=torch.arange(TOKENS).expand(ROWS, -1), use_cache=False, logits_to_keep=1,
    )  # fmt: skip


def _reading_peak(config: Any, dtype: torch.dtype) -> float:
    """Bytes per token at the peak of a forward without gradients; the depth does not matter."""
    model = with_weights(built(config, None, dtype), "cpu")
    with torch.no_grad(), _Live() as live:
        _forward(model)
    return live.most / (ROWS * TOKENS)


class _Live(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make, while something holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.most = 0
        self._seen = WeakSet[torch.UntypedStorage]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        given = tree_leaves((args, kwargs))
        self._seen.update(one.untyped_storage() for one in given if isinstance(one, torch.Tensor))
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if (
                isinstance(one, torch.Tensor)
                and (storage := one.untyped_storage()) not in self._seen
            ):
                self._seen.add(storage)
                self._count(storage.nbytes())
                finalize(storage, self._count, -storage.nbytes())
        return made

    def _count(self, change: int) -> None:
        self.held += change
        self.most = max(self.most, self.held)


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
    widths = _widths(config, dtype)
    widths["reading"] = 12 * widths["state"]  # as in dense models with a gated feed-forward part
    return Footprint(depth, parameters, trained, kept, **widths, is_rough=True)
