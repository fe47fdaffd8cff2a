"""Choose the trained parameters: LoRA adapters, the layers' projections, or all.

The model is prepared in place. Full training needs float32 weights: in bfloat16
0.05 − 1e-5 = 0.05.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from interp.model import LanguageModel
from interp.store import atomic_folder


def lora_in_place(lm: LanguageModel, *, rank: int, alpha: float, seed: int) -> LanguageModel:
    """Adapters of ``rank`` on every linear module of the layers; the rest is frozen."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=int(alpha),
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = get_peft_model(lm.model, config)
    return replace(lm, model=adapted)  # type: ignore[arg-type]


def adapter_inputs(lm: LanguageModel) -> dict[str, Float[Tensor, "rank width"]]:
    """(α/r)·A of every adapted module, by its name in the base model.

    While B is 0, only B has a gradient in LoRA's space, and the input of B is this matrix times the
    module's input.
    """
    from peft.tuners.lora import LoraLayer

    found = {}
    for name, module in lm.model.named_modules():
        if isinstance(module, LoraLayer):
            [adapter] = module.lora_A
            first: nn.Module = module.lora_A[adapter]
            weight = first.get_parameter("weight").detach()
            found[name.removeprefix("base_model.model.")] = module.scaling[adapter] * weight
    return found


def projections_in_place(lm: LanguageModel) -> LanguageModel:
    """The attention and MLP projections of the layers; embeddings, norms and head are frozen.

    All domains share the rows of the head and of the embedding, so training them would leak through
    tokens.
    """
    lm.model.float().requires_grad_(False)
    for module in lm.layers.modules():
        if isinstance(module, (nn.Linear, Conv1D)):
            module.requires_grad_(True)
    return lm


def everything_in_place(lm: LanguageModel) -> LanguageModel:
    """Every parameter, in float32."""
    lm.model.float().requires_grad_(True)
    return lm


PARAMETERS: Mapping[str, Callable[[LanguageModel], LanguageModel]] = {
    "projections": projections_in_place,
    "all": everything_in_place,
}


def save_parameters(lm: LanguageModel, folder: Path) -> Path:
    """Write the trained weights: ``adapter/`` with LoRA, else the whole model as ``model/``."""
    from peft import PeftModel

    is_adapter = isinstance(lm.model, PeftModel)
    target = folder / ("adapter" if is_adapter else "model")
    with atomic_folder(target) as made:
        lm.model.save_pretrained(made)
        if not is_adapter:
            lm.tokenizer.save_pretrained(made)
    return target


def restore_parameters(lm: LanguageModel, folder: Path) -> None:
    """Load the weights that :func:`save_parameters` wrote into the trained model, unmerged.

    Merging would round: in bfloat16 a merged model differs slightly from the trained one.
    """
    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    if isinstance(lm.model, PeftModel):
        weights = load_peft_weights(str(folder / "adapter"), device=str(lm.device))
        set_peft_model_state_dict(lm.model, weights)
    else:
        saved = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=lm.model.dtype)
        lm.model.load_state_dict(saved.state_dict())
