"""TransformerLens and nnsight read the same numbers as plain hooks, and leave the model alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from interp.activations import ATTENTION_OUT, RESIDUAL_OUT, Site, collect, post_instruction
from interp.activations.adapters.nnsight import elsewhere, nnsight
from interp.activations.adapters.transformer_lens import transformer_lens
from interp.activations.backends import Backend
from interp.activations.positions import mean_over
from interp.activations.sites import RESIDUAL_MID, SITES, blocks
from interp.errors import InputError
from interp.model import LanguageModel, Point, Tokens, writing
from tests.more_families import MORE_FAMILIES, save_family
from tests.test_hooks import hooks_of

Checkpoints = Callable[[str], Path]

BACKENDS = {"transformer_lens": transformer_lens, "nnsight": nnsight}
PROMPTS = (
    "Why?",
    "Tell me how to bake bread without yeast, step by step, for four people. " * 4,
    "Which tools does a carpenter need to repair a broken chair?",
)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]


def tokens_and_mean(row: Tokens) -> list[slice]:
    """Single tokens, and a mean over several."""
    return [*post_instruction(row), *mean_over("instruction")(row)]


def assert_same(lm: LanguageModel, backend: Backend) -> None:
    """At every site that the model has, last tokens and means, two batches."""
    (block,) = blocks(lm, [0])
    sites = [site for site in SITES.values() if site.find(block) is not None]
    given = {"sites": sites, "positions": tokens_and_mean, "batch_size": 2, "layers": [0, 2]}
    ours, theirs = collect(lm, PROMPTS, **given), collect(lm, PROMPTS, **given, backend=backend)
    for site in sites:
        found, wanted = theirs[site], ours[site]
        assert found.shape == wanted.shape
        scale = max(1.0, float(np.nanmax(np.abs(wanted))))
        assert found == pytest.approx(wanted, abs=1e-5 * scale, nan_ok=True), site.name


def test_the_same_numbers(checkpoint: Path, backend: Backend, tmp_path: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    before = lm.fingerprint()
    padding = lm.tokenizer.pad_token, lm.tokenizer.padding_side
    assert_same(lm, backend)
    assert lm.fingerprint() == before and hooks_of(lm) == 0
    assert (lm.tokenizer.pad_token, lm.tokenizer.padding_side) == padding
    lm.model.save_pretrained(tmp_path)
    # And the model still computes what it did.
    again = collect(lm, PROMPTS).states
    assert again == pytest.approx(collect(LanguageModel.load(checkpoint), PROMPTS).states)


@pytest.mark.slow
@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_the_same_numbers_in_other_families(family: str, backend: Backend, tmp_path: Path) -> None:
    assert_same(LanguageModel.load(save_family(family, tmp_path)), backend)


def test_half_precision_is_not_made_single(checkpoint_of: Checkpoints, backend: Backend) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"), dtype=torch.bfloat16)
    found = collect(lm, PROMPTS, backend=backend).states
    wanted = collect(lm, PROMPTS).states
    assert np.linalg.norm(found - wanted) < 0.02 * np.linalg.norm(wanted)
    # What bfloat16 holds has nothing in the last 16 bits of a float32.
    assert not (found.view(np.uint32) & 0xFFFF).any()


def adapted(folder: Path) -> LanguageModel:
    lm = LanguageModel.load(folder)
    model = get_peft_model(lm.model, LoraConfig(r=4, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return LanguageModel(model.eval(), lm.tokenizer, lm.chat)


def test_adapters_count_and_are_switched_off_as_in_the_model(
    checkpoint_of: Checkpoints, backend: Backend
) -> None:
    folder = checkpoint_of("mistral")
    lm = adapted(folder)
    with_adapter = collect(lm, PROMPTS, backend=backend).states
    assert with_adapter == pytest.approx(collect(lm, PROMPTS).states, abs=1e-5)
    base = collect(LanguageModel.load(folder), PROMPTS).states
    assert np.abs(with_adapter - base).max() > 1e-2
    with lm.model.disable_adapter():
        assert collect(lm, PROMPTS, backend=backend).states == pytest.approx(base, abs=1e-5)
    assert collect(lm, PROMPTS).states == pytest.approx(with_adapter, abs=1e-5)


def test_inside_an_intervention_of_ours_they_refuse(
    checkpoint_of: Checkpoints, backend: Backend
) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    with (
        writing(lm.layers[1], lambda hidden: hidden * 2),
        pytest.raises(InputError, match="an intervention is active"),
    ):
        collect(lm, PROMPTS, backend=backend)
    collect(lm, PROMPTS, backend=backend)


def test_what_they_cannot_read_is_refused(checkpoint_of: Checkpoints, backend: Backend) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    gate = Site("gate", lambda block: Point(block.layer.mlp.gate_proj))
    assert collect(lm, PROMPTS, sites=[gate])["gate"].shape[-1] == 160
    with pytest.raises(InputError, match="gate.*collect with the default backend"):
        collect(lm, PROMPTS, sites=[gate], backend=backend)


def test_layers_before_the_last_wanted_one_suffice(
    checkpoint_of: Checkpoints, backend: Backend
) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    seen: list[int] = []
    for i, layer in enumerate(lm.layers):
        layer.mlp.register_forward_hook(lambda *_, i=i: seen.append(i))
    collect(lm, PROMPTS, layers=[1], backend=backend)
    assert set(seen) == {0, 1}


def test_a_model_on_ndif_needs_no_weights_here(checkpoint_of: Checkpoints) -> None:
    """Its sites are found without computing anything; the call itself is untested."""
    lm = elsewhere(str(checkpoint_of("gemma2")))
    assert all(parameter.is_meta for parameter in lm.model.parameters())
    assert lm.device.type == "cpu"
    here = LanguageModel.load(checkpoint_of("gemma2"))
    names = [{m: n for n, m in model.model.named_modules()} for model in (lm, here)]
    for site in (RESIDUAL_OUT, RESIDUAL_MID, ATTENTION_OUT):
        found, wanted = (site.find(block) for model in (lm, here) for block in blocks(model, [1]))
        assert found is not None and wanted is not None
        assert names[0][found.module] == names[1][wanted.module]


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_whose_package_is_missing_is_one_line_and_the_default_reads(
    name: str, checkpoint_of: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    monkeypatch.setitem(sys.modules, name, None)
    assert collect(lm, PROMPTS[:1], layers=[1]).states.shape == (1, 1, lm.d_model)
    with pytest.raises(InputError, match=f"pip install {name.replace('_', '-')}"):
        collect(lm, PROMPTS[:1], layers=[1], backend=BACKENDS[name])
