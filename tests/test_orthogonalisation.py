"""Projected weights are the hook, where they can be, and are refused where they cannot."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from interp.activations import collect
from interp.errors import ModelError
from interp.interventions import ablate, orthogonalise
from interp.model import LanguageModel, copied
from tests.architectures import tiny
from tests.patched_models import PROMPTS, hooks_of, last_logits, random_direction
from tests.test_model import save_adapter

Checkpoints = Callable[[str], Path]
PRE_NORM = ("qwen2", "mistral", "llama", "gpt2")


def with_biases(lm: LanguageModel) -> LanguageModel:
    """Biases that are zero when a model is new would hide that they have to be projected."""
    with torch.no_grad():
        for name, parameter in lm.model.named_parameters():
            if parameter.ndim == 1 and "norm" not in name and "ln_" not in name:
                parameter.add_(0.5 * torch.randn(parameter.shape))
    return lm


@pytest.mark.parametrize("family", PRE_NORM)
def test_weights_are_the_hook(family: str, checkpoint_of: Checkpoints, tmp_path: Path) -> None:
    torch.manual_seed(0)
    lm = with_biases(LanguageModel.load(checkpoint_of(family)))
    before, plain = lm.fingerprint(), last_logits(lm)
    changed = orthogonalise(lm, random_direction())
    with ablate(lm, random_direction()):
        wanted = last_logits(lm)
    torch.testing.assert_close(last_logits(changed), wanted, atol=1e-5, rtol=1e-5)
    assert (wanted - plain).abs().max() > 1e-3
    assert lm.fingerprint() == before and hooks_of([lm, changed]) == 0
    unit = (random_direction() / random_direction().norm()).numpy()
    assert np.abs(collect(changed, PROMPTS).states @ unit).max() < 1e-5
    # Once more changes nothing.
    twice = orthogonalise(changed, random_direction())
    torch.testing.assert_close(last_logits(twice), wanted, atol=1e-5, rtol=1e-5)
    changed.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    again = LanguageModel.load(tmp_path)
    torch.testing.assert_close(last_logits(again), wanted, atol=1e-5, rtol=1e-5)


def test_an_untied_head_keeps_its_weights(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    changed = orthogonalise(lm, random_direction())
    head, embedding = changed.model.get_output_embeddings(), changed.model.get_input_embeddings()
    assert torch.equal(head.weight, lm.model.get_output_embeddings().weight)
    assert not torch.equal(head.weight, embedding.weight)


def test_a_norm_behind_the_block_is_refused(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("gemma2"))
    before, plain = lm.fingerprint(), last_logits(lm)
    with pytest.raises(
        ModelError, match=r"no weights of Gemma2\w+ equal .* a norm .* use the hook"
    ):
        orthogonalise(lm, random_direction())
    assert lm.fingerprint() == before and torch.equal(last_logits(lm), plain)


def test_what_writes_in_some_other_way_is_noticed(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    embed = lm.model.get_input_embeddings()
    before = lm.fingerprint()

    class Shifted(nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) + 1

    shifted = Shifted(embed.num_embeddings, embed.embedding_dim, _weight=embed.weight.data)
    lm.model.set_input_embeddings(shifted)
    with pytest.raises(ModelError, match="something else writes"):
        orthogonalise(lm, torch.ones(64))
    assert lm.fingerprint() == before


@pytest.mark.parametrize("kind", ["fused and shared experts", "transposed experts"])
def test_experts_write_too(kind: str) -> None:
    """Fused experts, shared experts and their biases are projected; nothing else changes."""
    lm = with_biases(tiny(kind))
    direction = random_direction(0, 32)
    changed = orthogonalise(lm, direction)
    with ablate(lm, direction):
        torch.testing.assert_close(last_logits(changed), last_logits(lm), atol=1e-5, rtol=1e-5)
    before = dict(lm.model.named_parameters())
    moved = {
        re.sub(r"^model\.(layers\.\d+\.)?", "", name)
        for name, parameter in changed.model.named_parameters()
        if not torch.equal(parameter, before[name])
    }
    kinds = {name.removesuffix(".weight") for name in moved if "bias" not in name}
    shared = {"mlp.shared_expert.down_proj"} if "shared" in kind else set()
    assert kinds == {"embed_tokens", "self_attn.o_proj", "mlp.experts.down_proj"} | shared


def test_a_model_that_keeps_states_of_its_last_forward_is_copied() -> None:
    """torch refuses to copy a tensor with a graph; the copy keeps the values."""
    model = nn.Linear(2, 2)
    model.state = model(torch.ones(2))
    again = copied(model)
    assert torch.equal(again.state, model.state) and again.state.is_leaf
    assert again.weight is not model.weight and model.state.grad_fn is not None


def test_adapters_are_to_be_merged_first(checkpoint_of: Checkpoints, tmp_path: Path) -> None:
    adapted = save_adapter(checkpoint_of("llama"), tmp_path, seed=0)
    with pytest.raises(ModelError, match="merge it"):
        orthogonalise(adapted, random_direction())
    with ablate(adapted, random_direction()):
        wanted = last_logits(adapted)
    merged = LanguageModel.load(tmp_path)
    torch.testing.assert_close(
        last_logits(orthogonalise(merged, random_direction())), wanted, atol=1e-5, rtol=1e-5
    )


def test_half_precision_is_right_up_to_its_rounding(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"), dtype=torch.bfloat16)
    changed = orthogonalise(lm, random_direction())
    assert {p.dtype for p in changed.model.parameters()} == {torch.bfloat16}
