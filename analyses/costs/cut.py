"""A model's own architecture, cut to few layers, with constants for weights.

What one layer costs can be measured on it in a moment, before the model's weights are loaded or
downloaded. Under ``FakeTensorMode`` it holds no numbers at all.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from analyses.costs.checkpoints import lineage
from interp.model import find_layers, is_gguf

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from unlearning.training import TrainingSettings

CONSTANT = 0.01
# What the cost of a training step depends on.
MATTER = (
    *("trained", "lora_rank", "lora_targets", "lora_exclude", "autocast"),
    *("activation_checkpointing", "separate_backward"),
)


@dataclass(frozen=True)
class Trained:
    """A configuration and the settings of its training, None without; equal where costs are.

    So it can be the argument of a cached function.
    """

    config: PretrainedConfig = field(compare=False)
    settings: TrainingSettings | None = field(compare=False)
    key: tuple[object, ...] = field(init=False)

    def __post_init__(self) -> None:
        given = self.settings
        matters = () if given is None else tuple(getattr(given, name) for name in MATTER)
        key = (self.config.to_json_string(use_diff=False), *matters)
        object.__setattr__(self, "key", key)


def config_of(source: str, options: Mapping[str, Any] | None = None) -> PretrainedConfig | None:
    """The configuration of a model's text decoder (of an adapter's base); None if not found."""
    from pathlib import Path

    from transformers import AutoConfig

    options = options or {}
    base = [*lineage(source)][-1]
    given: dict[str, Any] = {"trust_remote_code": bool(options.get("trust_remote_code"))}
    if base == source and options.get("revision"):
        given["revision"] = options["revision"]
    if is_gguf(base):
        given["gguf_file"], base = Path(base).name, str(Path(base).parent)
    try:
        config: Any = AutoConfig.from_pretrained(base, **given)
        return config.get_text_config(decoder=True)
    except Exception:  # loading says what is wrong with it
        return None


def cut_config(config: PretrainedConfig, layers: int, vocabulary: int | None = None) -> Any:
    """``config`` with its first ``layers`` layers, and perhaps a smaller vocabulary."""
    found: Any = copy.deepcopy(config)
    whole = found.num_hidden_layers
    for name, value in list(vars(found).items()):
        if isinstance(value, list | tuple) and len(value) == whole:  # one entry for each layer
            setattr(found, name, value[:layers])
    found.num_hidden_layers = layers
    if hasattr(found, "quantization_config"):
        del found.quantization_config
    if vocabulary is not None and vocabulary < found.vocab_size:
        found.vocab_size = vocabulary
        found.pad_token_id = found.bos_token_id = found.eos_token_id = None
    return found


def built(config: PretrainedConfig, settings: TrainingSettings | None, dtype: torch.dtype) -> Any:
    """A model on the meta device, with the trained parameters of ``settings``.

    Attributes:
        left_out: number of trained parameters that it lacks.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=trained_dtype(settings, dtype))
        model.left_out = 0 if settings is None else _make_trainable(model, settings)
    return model.eval()


def with_weights(model: nn.Module, device: str) -> Any:
    """``model`` from the meta device to ``device``; every weight is the same number."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for name, tensor in module.named_parameters(recurse=False):
            if id(tensor) not in made:  # tied weights stay tied
                made[id(tensor)] = nn.Parameter(_constant(tensor, device), tensor.requires_grad)
            setattr(module, name, made[id(tensor)])
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = _constant(buffer, device)
    return model


def _constant(tensor: torch.Tensor, device: str) -> torch.Tensor:
    value = CONSTANT if tensor.is_floating_point() else 0
    return torch.full(tensor.shape, value, dtype=tensor.dtype, device=device)


def trained_dtype(settings: TrainingSettings | None, dtype: torch.dtype) -> torch.dtype:
    """The dtype of a model's weights while it is trained."""
    return dtype if settings is None or settings.trained == "lora" else torch.float32


def _make_trainable(model: Any, settings: TrainingSettings) -> int:
    """Give a model its trained parameters; the number of those that are left out.

    Weights that no linear module holds, such as fused experts, are adapted as parameters; here
    their adapters are only counted.
    """
    layers = find_layers(model)
    model.requires_grad_(False)
    if settings.trained != "lora":
        if settings.trained == "all":
            model.requires_grad_(True)
        for module in layers.modules():
            is_linear = isinstance(module, nn.Linear | Conv1D)
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(parameter.requires_grad or is_linear or parameter.ndim > 1)
        return 0
    root = next(name for name, module in model.named_modules() if module is layers)
    names = [
        f"{root}.{name}"
        for name, module in layers.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and _is_chosen(name, settings)
    ]
    left_out = sum(
        settings.lora_rank * int(value.numel() * (1 / value.shape[-1] + 1 / value.shape[-2]))
        for name, value in layers.named_parameters()
        if value.ndim > 2 and _is_chosen(name.rpartition(".")[0], settings) and "conv" not in name
    )
    if names:
        from peft import LoraConfig, inject_adapter_in_model

        from unlearning.training import compute_as_inputs

        kind = LoraConfig(
            r=settings.lora_rank, lora_alpha=int(settings.lora_alpha), target_modules=names
        )
        inject_adapter_in_model(kind, model)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
        compute_as_inputs(model)
    return left_out


def _is_chosen(name: str, settings: TrainingSettings) -> bool:
    from unlearning.training import fits

    if any(fits(pattern, name) for pattern in settings.lora_exclude):
        return False
    return not settings.lora_targets or any(fits(p, name) for p in settings.lora_targets)
