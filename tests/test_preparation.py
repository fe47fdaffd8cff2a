"""A prepared model: what it trains, and that it trains the function that is evaluated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional as F

from interp.errors import InputError, ModelError
from interp.model import LanguageModel
from tests.architectures import tiny
from unlearning.training import TrainingSettings, prepare_in_place, release
from unlearning.training.eval_mode import probe_logits
from unlearning.training.fused import FusedLinear

Checkpoints = Callable[[str], Path]
LORA = TrainingSettings(lora_rank=4, lora_alpha=4)
FULL = TrainingSettings(trained="projections")


def train_logits(lm: LanguageModel) -> Tensor:
    batch = lm.chat.pad([lm.chat.encode("Which birds can swim?")], lm.device)
    lm.model.train()
    found = lm.logits(batch, keep=4)
    lm.model.eval()
    return found


def eval_logits(lm: LanguageModel) -> Tensor:
    batch = lm.chat.pad([lm.chat.encode("Which birds can swim?")], lm.device)
    return lm.logits(batch, keep=4)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("dropout in the configuration", LORA), ("experts sampled in training", FULL)],
)
def test_train_mode_has_no_noise(kind: str, settings: TrainingSettings) -> None:
    lm = tiny(kind)
    given = eval_logits(lm)
    assert not torch.allclose(train_logits(lm), given, atol=1e-4)  # there is noise to switch off
    prepared = prepare_in_place(lm, settings)
    for _ in range(2):
        torch.testing.assert_close(train_logits(prepared), given, rtol=1e-5, atol=1e-6)
    assert not prepared.model.training and prepared.model.train().training


def corrupted(checkpoint_of: Checkpoints) -> LanguageModel:
    """A Llama whose layers draw noise from a number that no name gives away."""
    lm = LanguageModel.load(checkpoint_of("llama"))

    def noisy(layer: nn.Module) -> Callable[[Tensor], Tensor]:
        mlp, plain = layer.mlp, layer.mlp.forward

        def forward(hidden: Tensor) -> Tensor:
            return F.dropout(plain(hidden), 0.3, training=mlp.training or layer.training)

        return forward

    for layer in lm.layers:
        layer.mlp.forward = noisy(layer)
    return lm


def test_noise_of_any_kind_is_off_or_refused(checkpoint_of: Checkpoints) -> None:
    lm = corrupted(checkpoint_of)
    given = eval_logits(lm)
    torch.testing.assert_close(train_logits(prepare_in_place(lm, LORA)), given)
    # Layers that recompute their activations need train mode, and then this noise cannot go.
    settings = TrainingSettings(lora_rank=4, activation_checkpointing=True)
    with pytest.raises(ModelError, match="as it is evaluated.*gradient-checkpointing"):
        prepare_in_place(corrupted(checkpoint_of), settings)


def test_activations_are_recomputed_all_the_same(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("gpt2"))
    given = probe_logits(lm)
    lm = prepare_in_place(lm, TrainingSettings(lora_rank=4, activation_checkpointing=True))
    calls = []
    handle = lm.layers[0].ln_1.register_forward_hook(lambda *_: calls.append(1))
    lm.model.train()
    batch = lm.chat.pad([lm.chat.encode("a")], lm.device)
    lm.logits(batch, keep=1).sum().backward()
    handle.remove()
    assert len(calls) == 2  # in the forward, and again in the backward
    torch.testing.assert_close(probe_logits(lm), given)


def test_a_model_without_checkpointing_says_so() -> None:
    lm = tiny("dense")
    lm.model.supports_gradient_checkpointing = False
    with pytest.raises(InputError, match="leave out --gradient-checkpointing"):
        prepare_in_place(lm, TrainingSettings(trained="all", activation_checkpointing=True))


def test_a_released_model_has_its_modes_back() -> None:
    lm = prepare_in_place(tiny("dense"), FULL)
    lm.model.train()
    assert not any(module.training for module in lm.layers.modules())
    release(lm.model)
    assert all(module.training for module in lm.model.train().modules())


def lora_gradients(lm: LanguageModel) -> dict[str, Tensor]:
    lm.model.zero_grad()
    batch = lm.chat.pad([lm.chat.encode(t) for t in ("Which birds swim?", "Why?")], lm.device)
    lm.logits(batch, keep=2).logsumexp(dim=-1).sum().backward()
    return {n: p.grad.clone() for n, p in lm.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
@pytest.mark.parametrize("alpha", [4, 6])
def test_a_fused_adapter_computes_what_peft_computes(
    family: str, alpha: int, checkpoint_of: Checkpoints
) -> None:
    """Logits, states at a hook and gradients, in float64."""
    lm = LanguageModel.load(checkpoint_of(family), dtype=torch.float64)
    given = probe_logits(lm)
    lm = prepare_in_place(lm, TrainingSettings(lora_rank=4, lora_alpha=alpha))
    modules = [one for one in lm.model.modules() if type(one) is FusedLinear]
    assert len(modules) >= 4 * lm.n_layers
    torch.testing.assert_close(probe_logits(lm), given, rtol=0, atol=0)  # B is 0
    generator = torch.Generator().manual_seed(0)
    for name, parameter in lm.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3, generator=generator)
    fused, gradients = probe_logits(lm), lora_gradients(lm)
    seen: list[Tensor] = []
    with modules[0].base_layer.register_forward_hook(lambda *given: seen.append(given[2])):
        torch.testing.assert_close(probe_logits(lm), fused)
    assert seen[0].ndim == 3  # as PEFT calls it
    with lm.model.disable_adapter():
        torch.testing.assert_close(probe_logits(lm), given, rtol=0, atol=0)
    for module in modules:
        module.__class__ = Linear
    torch.testing.assert_close(probe_logits(lm), fused)
    assert (fused - given).norm() > 0.01 * given.norm()
    plain = lora_gradients(lm)
    assert plain.keys() == gradients.keys() and all(one.any() for one in plain.values())
    torch.testing.assert_close(gradients, plain)
