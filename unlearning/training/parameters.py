"""Choose the trained parameters: LoRA adapters, the layers' projections, or all.

The model is prepared in place. Full training needs float32 weights: in bfloat16
0.05 − 1e-5 = 0.05.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from interp.model import LanguageModel, linear_weights, load_adapter_weights, require_plain_weights
from interp.store import atomic_folder
from unlearning.training.adapters import FROZEN, UNREACHED, without_gradient


def projections_in_place(lm: LanguageModel) -> LanguageModel:
    """Every linear weight of the layers with its bias; embeddings, norms and head are frozen.

    All domains share the rows of the head and of the embedding, so training them would leak through
    tokens.

    Raises:
        ModelError: the weights are packed.
    """
    _require_plain(lm)
    lm.model.float().requires_grad_(False)
    for weight in linear_weights(lm):
        for parameter in (weight.value, weight.bias):
            if parameter is not None:
                parameter.requires_grad_(True)
    weights = linear_weights(lm)
    unreached = without_gradient(lm, weights, [weight.value for weight in weights])
    for weight in unreached:
        weight.module.requires_grad_(False)
    lm.found_out[FROZEN] = dict.fromkeys(unreached, UNREACHED)
    return lm


def everything_in_place(lm: LanguageModel) -> LanguageModel:
    """Every parameter, in float32.

    Raises:
        ModelError: the weights are packed.
    """
    _require_plain(lm)
    lm.model.float().requires_grad_(True)
    return lm


PARAMETERS: Mapping[str, Callable[[LanguageModel], LanguageModel]] = {
    "projections": projections_in_place,
    "all": everything_in_place,
}


def _require_plain(lm: LanguageModel) -> None:
    require_plain_weights(lm.model, "training of the weights themselves", "give --trainable lora")


def save_parameters(lm: LanguageModel, folder: Path) -> Path:
    """Write the trained weights: ``adapter/`` with LoRA, else the whole model as ``model/``."""
    from peft import PeftModel

    is_adapter = isinstance(lm.model, PeftModel)
    target = folder / ("adapter" if is_adapter else "model")
    if isinstance(lm.model, PeftModel):
        for config in lm.model.peft_config.values():
            base = config.base_model_name_or_path
            if base and Path(base).exists():  # it is found from any working folder
                config.base_model_name_or_path = str(Path(base).resolve())
    with atomic_folder(target) as made:
        lm.model.save_pretrained(made)
        if not is_adapter:
            lm.tokenizer.save_pretrained(made)
    return target


def restore_parameters(lm: LanguageModel, folder: Path) -> None:
    """Load the weights that :func:`save_parameters` wrote into the trained model, unmerged.

    Merging would round: in bfloat16 a merged model differs slightly from the trained one.
    """
    from peft import PeftModel

    is_adapter = isinstance(lm.model, PeftModel)
    restore_weights(lm.model, folder / ("adapter" if is_adapter else "model"))


def restore_weights(model: Any, folder: Path) -> None:
    """Load every weight in ``folder`` into ``model``, also where files name weights otherwise.

    Transformers splits fused experts in files, and renames the text part of some models.
    """
    from peft import PeftModel

    if isinstance(model, PeftModel):
        load_adapter_weights(model, folder)
    else:
        saved = type(model).from_pretrained(folder, dtype=model.dtype)
        model.load_state_dict(saved.state_dict())
