"""Make a model ready for training: the parameters to train, and eval mode throughout."""

from __future__ import annotations

from typing import Any

from interp.errors import InputError
from interp.model import LanguageModel, fitting
from unlearning.training import parameters
from unlearning.training.adapters import lora_in_place
from unlearning.training.eval_mode import check_train_mode, hold_in_eval_mode, probe_logits
from unlearning.training.settings import TrainingSettings


def prepare_in_place(lm: LanguageModel, settings: TrainingSettings) -> LanguageModel:
    """The model with the chosen parameters trainable, in eval mode during training too.

    It is changed in place.

    Raises:
        ModelError: the model would be trained with noise, whatever its modes.
        InputError: it cannot recompute activations.
        MachineError: it does not fit into memory.
    """
    smaller = (
        f"--lora-rank {max(1, settings.lora_rank // 2)}"
        if settings.trained == "lora"
        else "--trainable lora"
    )
    advice = f"give {smaller}, a smaller model, or choose another --device"
    with fitting(f"{lm.name} with its parameters to train", lm.device, advice):
        given = probe_logits(lm)
        lm = _with_parameters(lm, settings)
        hold_in_eval_mode(lm.model)
        if settings.activation_checkpointing:
            _recompute_activations(lm)
        check_train_mode(lm, given)
    return lm


def _with_parameters(lm: LanguageModel, settings: TrainingSettings) -> LanguageModel:
    if settings.trained != "lora":
        return parameters.PARAMETERS[settings.trained](lm)
    return lora_in_place(
        lm,
        rank=settings.lora_rank,
        alpha=settings.lora_alpha,
        seed=settings.seed,
        targets=settings.lora_targets,
        exclude=settings.lora_exclude,
    )


def _recompute_activations(lm: LanguageModel) -> None:
    model: Any = lm.model
    # Older versions of transformers have the second name alone, newer ones deprecate it.
    enable = getattr(model, "activation_checkpointing_enable", None)
    try:
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    except ValueError as error:
        raise InputError(
            f"{lm.name} cannot recompute activations ({error}); leave out --gradient-checkpointing"
        ) from error
