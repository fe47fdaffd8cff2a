"""Merge an adapter into its base model, and check that the merged model is the adapted one.

Three things can go wrong without an error. An adapter on a weight that several modules share (a
tied head, a shared block) changes all of them when it is merged. A part of the adapter's file may
not be loaded. The merged model may differ because its code reads weights past the adapter. Here
shared weights are separated, every tensor is loaded, and the logits are compared.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import ModelError
from interp.model.gguf import is_gguf

# Largest change of a logit by merging, as a share of the largest logit; 16-bit weights are rounded.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3}
ROUNDED = 0.1
PROBE_TOKENS = 16
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def adapter_base(folder: Path) -> str:
    """The base model that an adapter names: a hub id, a folder or a GGUF file.

    A relative path is looked for in the working folder, then in the adapter's folder and in those
    above it.

    Raises:
        ModelError: it names none.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base = str(config["base_model_name_or_path"] or "")
    except (OSError, ValueError, TypeError, KeyError):
        base = ""
    if not base:
        raise ModelError(
            f"{folder / 'adapter_config.json'} names no base model; give the adapter's folder as "
            "it was saved, or write the base model's name there as base_model_name_or_path"
        )
    if Path(base).is_absolute() or Path(base).is_dir() or is_gguf(base):
        return base
    above = folder.resolve()
    for place in (above, *above.parents):
        if is_gguf(place / base) or (place / base / "config.json").is_file():
            return str(place / base)
        if (place / base / "adapter_config.json").is_file() and place / base != above:
            return str(place / base)
    return base


def merge_adapter(model: Any, folder: Path) -> Any:
    """``model`` with the adapter in ``folder`` merged into its weights.

    Raises:
        ModelError: the model has no place for some of the adapter, or the merged model is not the
            adapted one.
    """
    from peft import PeftModel, load_peft_weights

    if not any((folder / name).is_file() for name in WEIGHTS):
        raise ModelError(
            f"{folder} is an adapter without weights; expected a file {' or '.join(WEIGHTS)} there"
        )
    _extend_vocabulary(model, load_peft_weights(str(folder), device="cpu"))
    adapted = PeftModel.from_pretrained(model, str(folder)).eval()
    load_adapter_weights(adapted, folder)
    return merged(adapted, f"the adapter {folder}")


def _extend_vocabulary(model: Any, saved: Mapping[str, Tensor]) -> None:
    """Give ``model`` as many tokens as the adapter's own embeddings or head have, if it has any."""
    mine = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    places = [name for name, module in model.named_modules() if id(module) in mine]
    ends = tuple(f"{place}{part}.weight" for place in places for part in ("", ".base_layer"))
    rows = {len(tensor) for name, tensor in saved.items() if name.endswith(ends)}
    if rows and max(rows) > model.get_input_embeddings().weight.shape[0]:
        # The new rows are read from the adapter.
        model.resize_token_embeddings(max(rows), mean_resizing=False)


@torch.no_grad()
def merged(adapted: Any, what: str = "the adapter") -> Any:
    """The base model of ``adapted``, in eval mode, with its adapters merged into the weights.

    Args:
        adapted: a PEFT model; its modules become those of the result. Another model is returned
            unchanged.
        what: names the adapter in the error.

    Raises:
        ModelError: the merged model is not the adapted one.
    """
    if not hasattr(adapted, "merge_and_unload"):
        return adapted
    wanted = _logits(adapted.eval())
    _separate_shared(adapted)
    found = adapted.merge_and_unload()
    change = _largest_change(wanted, _logits(found))
    if not change <= TOLERANCE.get(wanted.dtype, ROUNDED):
        raise ModelError(
            f"{what} cannot be merged: a logit of the merged model is off by "
            f"{change:.1%} of the largest logit; merge it with the program that trained it, and "
            "give the merged model"
        )
    return found


def _logits(model: Any) -> Float[Tensor, "1 token vocab"]:
    count = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, PROBE_TOKENS + 1, device=model.device)[None] * 7 % count
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


def _largest_change(before: Tensor, after: Tensor) -> float:
    scale = before.abs().max().clamp(min=1e-12)
    return float((before - after).abs().max() / scale)


def load_adapter_weights(adapted: Any, folder: Path) -> None:
    """Load the tensors of the adapter in ``folder`` into a model that has such an adapter.

    PEFT renames tensors for some architectures and then loads none of them. Those are copied by
    their own names.

    Raises:
        ModelError: the model has no place for some of the tensors.
    """
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    saved = load_peft_weights(str(folder), device="cpu")
    loaded: Any = set_peft_model_state_dict(adapted, saved)
    unplaced = set(loaded.unexpected_keys)
    found = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    # Other tensors are layers of the base, which were trained too or had new tokens.
    # Some are there twice: as trained layers and as embeddings.
    copies = {
        name for name in unplaced if name.replace(".modules_to_save", "") in saved.keys() - {name}
    }
    adapting = {
        name: tensor
        for name, tensor in saved.items()
        if "lora_" in name or name in unplaced - copies
    }
    lost = [
        name
        for name, tensor in adapting.items()
        if name not in found or found[name].shape != tensor.shape
    ]
    if lost:
        raise ModelError(
            f"the adapter {folder} does not fit its base: {len(lost)} of {len(adapting)} tensors "
            f"have no place there ({lost[0]}, …); give the base model that it was trained on"
        )
    with torch.no_grad():
        for name, tensor in adapting.items():
            found[name].copy_(tensor)


def _separate_shared(adapted: Any) -> None:
    """Give every adapted layer separate weights where modules without this adapter share them."""
    places: dict[int, set[str]] = {}
    for name, parameter in adapted.named_parameters(remove_duplicate=False):
        places.setdefault(id(parameter), set()).add(name)
    for names, layer in _adapted_layers(adapted):
        holder, base = layer, layer.base_layer
        while hasattr(base, "base_layer"):
            holder, base = base, base.base_layer
        own = tuple(f"{name}." for name in names)
        shared = [
            name
            for name, parameter in base.named_parameters(recurse=False)
            if not all(place.startswith(own) for place in places[id(parameter)])
        ]
        if not shared:
            continue
        separate = copy.copy(base)
        separate._parameters = dict(base._parameters)
        for name in shared:
            weight = base._parameters[name]
            separate._parameters[name] = nn.Parameter(weight.clone(), weight.requires_grad)
        holder.base_layer = separate
    inside = adapted.get_base_model()
    head, embedding = inside.get_output_embeddings(), inside.get_input_embeddings()
    if _weight(head) is not _weight(embedding):
        for config in (inside.config, inside.config.get_text_config(decoder=True)):
            config.tie_word_embeddings = False


def _weight(module: Any) -> Any:
    while hasattr(module, "base_layer"):
        module = module.base_layer
    return getattr(module, "weight", None)


def _adapted_layers(adapted: Any) -> Iterator[tuple[list[str], Any]]:
    """The outermost adapted layers, each with all its names."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: dict[int, tuple[list[str], Any]] = {}
    for name, module in adapted.named_modules(remove_duplicate=False):
        if isinstance(module, BaseTunerLayer):
            found.setdefault(id(module), ([], module))[0].append(name)
    for names, layer in found.values():
        if not all(name.rpartition(".")[2] == "base_layer" for name in names):
            yield names, layer
