"""Collecting works on adapters and offloaded models, and leaves a training run undisturbed."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from interp.activations import collect
from interp.activations.positions import mean_over
from interp.activations.sites import SITES
from interp.model import LanguageModel, undisturbed, writing

Checkpoints = Callable[[str], Path]

PROMPTS = (
    "Why?",
    "Tell me how to bake bread without yeast, step by step, for four people.",
    "Which tools does a carpenter need to repair a broken chair?",
)
ALL_SITES = list(SITES.values())


def assert_close(found: Any, wanted: Any) -> None:
    for name, states in wanted.sites.items():
        assert found[name] == pytest.approx(states, abs=2e-5), name


def adapted(lm: LanguageModel) -> LanguageModel:
    model = get_peft_model(lm.model, LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    return LanguageModel(model.eval(), lm.tokenizer, lm.chat)


# Adapters


def test_an_active_adapter_counts_at_every_site(checkpoint: Path) -> None:
    lm = adapted(LanguageModel.load(checkpoint))
    found = collect(lm, PROMPTS, sites=ALL_SITES)
    with lm.model.disable_adapter():
        without = collect(lm, PROMPTS, sites=ALL_SITES)
    assert_close(without, collect(LanguageModel.load(checkpoint), PROMPTS, sites=ALL_SITES))
    merged = copy.deepcopy(lm.model).merge_and_unload()
    wanted = collect(LanguageModel(merged, lm.tokenizer, lm.chat), PROMPTS, sites=ALL_SITES)
    assert_close(found, wanted)
    assert np.abs(found["residual_out"] - without["residual_out"]).max() > 1e-2


# Offloading


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_offloaded_weights_are_no_hindrance(
    checkpoint_of: Checkpoints, tmp_path: Path, family: str, place: str
) -> None:
    """With early exit in the middle, twice, and none of the weights left in memory."""
    from accelerate import cpu_offload, disk_offload

    here = LanguageModel.load(checkpoint_of(family))
    offloaded = LanguageModel.load(checkpoint_of(family))
    if place == "cpu":
        cpu_offload(offloaded.model, execution_device=torch.device("cpu"))
    else:
        disk_offload(offloaded.model, tmp_path, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in offloaded.model.parameters())
    for layers in ([0, 2], None):
        options: dict[str, Any] = {"layers": layers, "sites": ALL_SITES, "batch_size": 2}
        assert_close(collect(offloaded, PROMPTS, **options), collect(here, PROMPTS, **options))
        assert all(parameter.is_meta for parameter in offloaded.model.parameters())


def test_a_device_map_with_a_part_on_disk(checkpoint_of: Checkpoints, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    here = LanguageModel.load(checkpoint_of("qwen2"))
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    places |= {f"model.layers.{i}": "cpu" if i < 2 else "disk" for i in range(4)}
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint_of("qwen2"),
        device_map={**places, "lm_head": "cpu"},
        offload_folder=tmp_path,
        dtype=torch.float32,
    )
    offloaded = LanguageModel(model, here.tokenizer, here.chat)
    assert any(parameter.is_meta for parameter in model.parameters())
    for layers in ([3], [1], None):
        options: dict[str, Any] = {"layers": layers, "sites": ALL_SITES}
        assert_close(collect(offloaded, PROMPTS, **options), collect(here, PROMPTS, **options))


def test_packed_4_bit_weights_are_no_hindrance(checkpoint_of: Checkpoints) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    here = LanguageModel.load(checkpoint_of("llama"))
    packing = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint_of("llama"), quantization_config=packing, dtype=torch.float32
    )
    found = collect(LanguageModel(model, here.tokenizer, here.chat), PROMPTS, sites=ALL_SITES)
    for name, states in collect(here, PROMPTS, sites=ALL_SITES).sites.items():
        # The same up to what four bits lose.
        assert np.corrcoef(found[name].ravel(), states.ravel())[0, 1] > 0.9, name


# Training


def random_states() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())  # noqa: NPY002


def step(model: Any, inputs: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> float:
    loss = model(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_training_is_not_disturbed(checkpoint_of: Checkpoints, family: str) -> None:
    """Same losses and weights to the bit, dropout and activation checkpointing included."""
    runs = []
    for collecting in (False, True):
        torch.manual_seed(0)
        lm = adapted(LanguageModel.load(checkpoint_of(family)))
        lm.model.enable_input_require_grads()
        lm.model.gradient_checkpointing_enable()
        lm.model.train()
        trained = [p for p in lm.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        inputs = lm.inputs(lm.chat.pad([lm.chat.encode(prompt) for prompt in PROMPTS]))
        losses = []
        for _ in range(3):
            losses.append(step(lm.model, inputs, optimizer))
            if collecting:
                collect(lm, PROMPTS, sites=ALL_SITES, positions=mean_over("instruction"))
        runs.append((losses, [p.detach().clone() for p in trained]))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


def test_nothing_about_a_model_in_training_changes(checkpoint_of: Checkpoints) -> None:
    lm = adapted(LanguageModel.load(checkpoint_of("gpt2")))
    evaluated = collect(lm, PROMPTS).states
    lm.model.train()
    lm.layers[1].eval()  # on purpose, as training code does with norms
    inputs = lm.inputs(lm.chat.pad([lm.chat.encode(prompt) for prompt in PROMPTS]))
    lm.model(**inputs, labels=inputs["input_ids"]).loss.backward()

    def state() -> tuple[Any, ...]:
        modes = [module.training for module in lm.model.modules()]
        wants = [p.requires_grad for p in lm.model.parameters()]
        gradients = [None if p.grad is None else p.grad.tolist() for p in lm.model.parameters()]
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules()]
        return modes, wants, gradients, hooks, random_states(), torch.is_grad_enabled()

    before = state()
    # Without dropout, although the model is in training.
    assert collect(lm, PROMPTS).states == pytest.approx(evaluated, abs=1e-6)
    assert state() == before
    with pytest.raises(ZeroDivisionError), writing(lm.layers[0], lambda hidden: hidden * (1 / 0)):
        collect(lm, PROMPTS)
    assert state() == before


def test_modes_come_back_one_by_one_after_an_interrupt(checkpoint_of: Checkpoints) -> None:
    model = LanguageModel.load(checkpoint_of("llama")).model.train()
    model.get_output_embeddings().eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(KeyboardInterrupt), undisturbed(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        raise KeyboardInterrupt
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()
