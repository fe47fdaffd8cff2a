"""Load a model by hub id, folder or name, or wrap one in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.options import ORGANISM, known_model
from analyses.study import require_model
from interp.errors import InputError
from interp.model import Chat, LanguageModel

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load(
    model: str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase],
    *,
    revision: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    system: str | None = None,
    template: str | None = None,
    template_arguments: Mapping[str, Any] | None = None,
    response_prefix: str = "",
    layers_path: str | None = None,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """A chat model with its tokenizer and chat format; a loaded model is in eval mode.

    Args:
        model: one of

            * a hub id (``"Qwen/Qwen2.5-1.5B-Instruct"``), or a folder of ``save_pretrained``;
            * the folder of an adapter, which is merged into its base;
            * ``"organism"``, the model organism of the package: 5 layers of width
              128, whose leakage between domains is known by construction
              (``"organism:ungated"`` is an older one, in which no direction induces refusal);
            * a pair ``(model, tokenizer)`` in memory, which is wrapped and not changed.
        revision: branch, tag or commit on the hub.
        dtype: a torch dtype or its name (default: the checkpoint's own).
        device: where the model goes (default: CUDA if available, else the CPU).
        system: system message before every prompt.
        template: a Jinja chat template in place of the tokenizer's own.
        template_arguments: passed to the template, e.g. ``{"enable_thinking": False}``.
        response_prefix: text that every response begins with.
        layers_path: module path of the decoder layers, if they cannot be found automatically.
        trust_remote_code: run the model code of the checkpoint.

    Raises:
        ModelError: the model does not exist, or is not a causal language model with a fast
        tokenizer. InputError: the device does not exist, or an option does not apply to a model in
        memory.

    Example:
        >>> lm = sp.load("organism")
        >>> lm.n_layers, lm.d_model
        (5, 128)
        >>> sp.load((lm.model, lm.tokenizer), system="Be brief.").chat.system
        'Be brief.'
    """
    loading: dict[str, Any] = {
        "revision": revision,
        "dtype": dtype,
        "device": device,
        "trust_remote_code": trust_remote_code,
    }
    loading = {name: value for name, value in loading.items() if value}
    chat: dict[str, Any] = {
        "system": system,
        "template": template,
        "template_arguments": template_arguments,
        "response_prefix": response_prefix,
    }
    if isinstance(model, str | Path):
        source = known_model(str(model)) or str(model)
        require_model(source)
        lm = LanguageModel.load(source, layers_path=layers_path, **loading, **chat)
        return lm if source == str(model) else replace(lm, name=str(model))
    if not (isinstance(model, tuple) and len(model) == 2):
        raise InputError(
            f"cannot load a model from a {type(model).__name__}; expected a hub id, a folder, "
            f'"{ORGANISM}", or a pair (model, tokenizer)'
        )
    if loading:
        raise InputError(
            f"{', '.join(loading)} cannot be set for a model in memory; "
            "leave it out, or give the hub id or folder of the model"
        )
    inner, tokenizer = model
    name = Path(str(getattr(inner, "name_or_path", "") or "model")).name
    return LanguageModel(inner, tokenizer, Chat(tokenizer, **chat), name, layers_path=layers_path)


def require_loaded(*models: object) -> None:
    """Check that the given objects are loaded models.

    Raises:
        InputError: an object is not a loaded model; the error says how to load it.
    """
    for model in models:
        if not isinstance(model, LanguageModel):
            shown = repr(model) if isinstance(model, str) else f"a {type(model).__name__}"
            raise InputError(f"{shown} is not a loaded model; give sp.load(...) of it")
