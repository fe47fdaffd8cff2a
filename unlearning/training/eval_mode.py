"""Train the model in eval mode, so that its forward in training is the one that is evaluated.

Noise in the forward would count as forgetting: with GPT-2's dropout the log-ratio at step 0 is 1.3
nats instead of 0. Not all noise has a probability that could be set to 0: some routers sample their
experts in train mode, others multiply their input by noise. So ``train()`` of a prepared model
leaves its modules in eval mode. The exceptions are modules that recompute activations
in the backward pass, because they do so in train mode only; their dropout is set to 0.

A comparison of logits in both modes, on a short prompt, shows whether any noise is left.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from interp.errors import ModelError
from interp.model import LanguageModel, doubled, probe_tokens, undisturbed

# Largest relative difference between logits of one model, by the dtype of its weights.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5}
HALF = 0.05


def hold_in_eval_mode(model: nn.Module) -> None:
    """Make ``model.train()`` set only the modules that recompute activations to train mode."""
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    model.train = _Train(weakref.ref(model))  # type: ignore[method-assign]
    model.eval()


def release(model: nn.Module) -> None:
    """Give ``model.train()`` its usual effect again."""
    vars(model).pop("train", None)


@dataclass(frozen=True)
class _Train:
    """The ``train`` of a model in eval mode.

    It holds the model weakly: a model that holds itself stays on the device until Python looks for
    cycles.
    """

    model: weakref.ref[nn.Module]

    def __call__(self, mode: bool = True) -> nn.Module:
        model = self.model()
        assert model is not None
        for module in model.modules():
            module.training = mode and getattr(module, "gradient_checkpointing", False)
        model.training = mode
        return model

    def __deepcopy__(self, copies: dict[int, nn.Module]) -> _Train:
        """A copied model's ``train`` is that of the copy."""
        return _Train(weakref.ref(copies[id(self.model())]))


def probe_logits(lm: LanguageModel) -> Float[Tensor, "token vocab"]:
    """Eval-mode logits at every token of a short prompt."""
    with undisturbed(lm.model):
        return _logits(lm)


def check_train_mode(lm: LanguageModel, given: Float[Tensor, "token vocab"]) -> None:
    """Compare the prepared model in train mode with the model as it was given.

    Args:
        lm: the prepared model.
        given: :func:`probe_logits` before it was prepared.

    Raises:
        ModelError: they differ by more than rounding.
    """
    if given.dtype != lm.model.dtype:  # full training in float32 has its own rounding
        given = probe_logits(lm)
    training = lm.model.training
    lm.model.train()
    try:
        found = _logits(lm).detach()
    finally:
        lm.model.train(training)
    error, tolerance = relative_error(found, given), TOLERANCE.get(lm.model.dtype, HALF)
    if not error <= tolerance:
        raise ModelError(
            f"{lm.name} as it would be trained differs from {lm.name} as it is evaluated: logits "
            f"differ by {error:.1e} (at most {tolerance:.0e}), so training would begin with noise; "
            "leave out --gradient-checkpointing, give another --trainable, or another model"
        )


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """‖found − wanted‖ / ‖wanted‖; not a number where either is not."""
    wanted = doubled(wanted)
    return float((doubled(found) - wanted).norm() / wanted.norm())


def _logits(lm: LanguageModel) -> Float[Tensor, "token vocab"]:
    tokens = probe_tokens(lm)
    return lm.logits(lm.chat.pad([tokens], lm.device), keep=len(tokens.ids))[0]
