"""Sites are found without names, and what is found adds up to the layer's output."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interp.activations import (
    ATTENTION_OUT,
    HEADS,
    MLP_OUT,
    RESIDUAL_IN,
    RESIDUAL_OUT,
    Site,
    collect,
    head_count,
    points,
)
from interp.activations.dissection import dissect
from interp.activations.sites import RESIDUAL_MID, SITES
from interp.errors import InputError
from interp.interventions import ablate
from interp.model import LanguageModel, Point, writing
from interp.patching import between_models, patch
from tests.checkpoints import LAYERS
from tests.more_families import GROUPED, MORE_FAMILIES, WIDTH, random_model
from tests.patched_models import some_log_odds

Checkpoints = Callable[[str], Path]

PROMPTS = ("Why?", "Which tools does a carpenter need to repair a broken chair?")
PARALLEL = {"phi", "gpt_neox"}


def in_16_bits(lm: LanguageModel) -> LanguageModel:
    return lm.with_model(copy.deepcopy(lm.model).bfloat16())


def assert_adds_up(lm: LanguageModel, *, parallel: bool) -> None:
    sites = [site for site in SITES.values() if not (parallel and site is RESIDUAL_MID)]
    found = collect(lm, PROMPTS, sites=sites)
    into, out = found[RESIDUAL_IN], found[RESIDUAL_OUT]
    added = found[ATTENTION_OUT], found[MLP_OUT]
    assert into + sum(added) == pytest.approx(out, rel=1e-5, abs=1e-5)
    assert into[:, 1:] == pytest.approx(out[:, :-1])
    assert min(np.abs(part).max() for part in added) > 1e-3
    if parallel:
        with pytest.raises(InputError, match=r"layer 0 .* has no residual_mid .*it has residual"):
            collect(lm, PROMPTS, sites=[RESIDUAL_MID])
    else:
        assert into + added[0] == pytest.approx(found[RESIDUAL_MID], rel=1e-5, abs=1e-5)


def test_what_can_only_be_read_is_neither_edited_nor_patched(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    said = "residual_mid can only be read.*edit attention_out or residual_out"
    with pytest.raises(InputError, match=said), ablate(lm, np.ones(64), sites=[RESIDUAL_MID]):
        pass
    with pytest.raises(InputError, match=said):
        patch(between_models(lm, lm, PROMPTS), some_log_odds(lm), sites=[RESIDUAL_MID])


def test_parts_add_up(checkpoint: Path) -> None:
    assert_adds_up(LanguageModel.load(checkpoint), parallel=False)


@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_parts_add_up_in_other_families(family: str) -> None:
    assert_adds_up(random_model(*MORE_FAMILIES[family]), parallel=family in PARALLEL)


def test_parts_add_up_where_layers_fold_batch_and_token() -> None:
    settings = {"ffn_dim": 160, "word_embed_proj_dim": 64, "num_attention_heads": 4}
    settings |= {key: value for key, value in WIDTH.items() if key != "intermediate_size"}
    assert_adds_up(random_model("OPTConfig", settings), parallel=False)


def test_heads_are_what_the_output_projection_mixes(checkpoint: Path) -> None:
    """Each head alone through its columns of the projection: together, attention's output."""
    lm = LanguageModel.load(checkpoint)
    heads = collect(lm, PROMPTS, sites=[HEADS])[HEADS]
    count = lm.model.config.num_attention_heads
    assert heads.shape[:4] == (len(PROMPTS), LAYERS, 1, count)
    ((first, *_),) = points(lm, range(LAYERS), [HEADS])
    attention = next(m for n, m in lm.layers[0].named_children() if "attn" in n)
    seen: list[Tensor] = []
    handle = attention.register_forward_hook(lambda _m, _i, out: seen.append(out[0]))
    collect(lm, PROMPTS[:1], layers=[0])
    handle.remove()
    alone = torch.zeros(count, heads[0, 0, 0].size)
    for i, row in enumerate(alone.view(count, count, -1)):
        row[i] = torch.from_numpy(heads[0, 0, 0, i])
    with torch.no_grad():
        projected = first.module(alone[:, None])
        nothing = first.module(torch.zeros_like(alone[:1, None]))
        whole = (projected - nothing).sum(0) + nothing[0]
    assert whole[0].numpy() == pytest.approx(seen[0][0, -1].numpy(), abs=1e-5)


def test_a_block_that_does_more_than_add_is_refused() -> None:
    """Granite scales what it adds: the modules' outputs are not what reaches the stream."""
    lm = random_model("GraniteConfig", {**GROUPED, "residual_multiplier": 0.5})
    assert collect(lm, PROMPTS, sites=[RESIDUAL_MID, HEADS]).layers == (0, 1, 2, 3)
    for site in (ATTENTION_OUT, MLP_OUT):
        with pytest.raises(InputError, match=f"no {site.name} that a trace"):
            collect(lm, PROMPTS, sites=[site])


@pytest.mark.parametrize("first", [1.0, 1e4])
def test_16_bits_and_a_massive_token_hide_no_factor(first: float) -> None:
    lm = in_16_bits(random_model("GraniteConfig", {**GROUPED, "residual_multiplier": 0.22}))
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[lm.chat.encode("a").ids[0]] *= first
    assert dissect(lm, [0])[0].mlp_write is not None
    for site in (ATTENTION_OUT, MLP_OUT):
        with pytest.raises(InputError, match=f"no {site.name} that a trace"):
            points(lm, range(LAYERS), [site])


def test_outputs_that_are_changed_in_place_are_refused() -> None:
    """Falcon adds the attention output to the MLP output in place, after hooks have read it."""
    lm = random_model("FalconConfig", {**WIDTH, "num_attention_heads": 4})
    for one in (lm, in_16_bits(lm)):
        for site in (ATTENTION_OUT, MLP_OUT):
            with pytest.raises(InputError, match=f"no {site.name} that a trace"):
                points(one, range(LAYERS), [site])


def test_parts_are_found_in_16_bits(checkpoint: Path) -> None:
    points(in_16_bits(LanguageModel.load(checkpoint)), range(LAYERS), [ATTENTION_OUT, MLP_OUT])


@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_parts_are_found_in_16_bits_in_other_families(family: str) -> None:
    lm = in_16_bits(random_model(*MORE_FAMILIES[family]))
    points(lm, range(LAYERS), [ATTENTION_OUT, MLP_OUT])


def test_other_attention_has_no_heads_of_ours(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    lm.model.config.layer_types = ["full_attention", "linear_attention"] * 2
    assert collect(lm, PROMPTS, sites=[HEADS], layers=[0, 2]).layers == (0, 2)
    with pytest.raises(InputError, match="layer 1 .* has no heads"):
        collect(lm, PROMPTS, sites=[HEADS])


def test_the_heads_lie_before_the_projection_inside_wrapping_modules() -> None:
    """GPT-Neo's layers call a module whose only part is attention itself."""
    settings = {"hidden_size": 64, "num_layers": 2, "num_heads": 4}
    lm = random_model("GPTNeoConfig", {**settings, "attention_types": [[["global", "local"], 1]]})
    ((first, second),) = points(lm, [0, 1], [HEADS])
    layers: Any = lm.layers
    assert first.module is layers[0].attn.attention.out_proj
    assert second.module is layers[1].attn.attention.out_proj


class Squared(nn.Linear):
    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states).square()


class Factorised(nn.Module):
    """Two matrices, of which the last one reads no heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, width // 2), nn.Linear(width // 2, width)

    def forward(self, states: Tensor) -> Tensor:
        up: Tensor = self.up(self.down(states))
        return up


def shuffled(attention: Any) -> None:
    """Attention that gives every head's features in turn to its projection."""

    def shuffle(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].unflatten(-1, (4, -1)).transpose(-1, -2).flatten(-2),)

    before = nn.Identity()
    before.register_forward_pre_hook(shuffle)
    attention.o_proj = nn.Sequential(before, attention.o_proj)


@pytest.mark.parametrize("kind", [Squared, Factorised, shuffled])
def test_what_are_not_heads_is_not_offered(kind: Any) -> None:
    """The other sites of the layer, and the other layer's heads, are offered."""
    lm = random_model("LlamaConfig", {**GROUPED, "num_hidden_layers": 2})
    attention = lm.layers[1].self_attn
    if kind is shuffled:
        shuffled(attention)
    else:
        attention.o_proj = kind(64, 64) if kind is Squared else Factorised(64)  # type: ignore[operator]
    points(lm, [0], [HEADS])
    points(lm, [1], [RESIDUAL_MID, ATTENTION_OUT, MLP_OUT])
    with pytest.raises(InputError, match="layer 1 .* has no heads"):
        points(lm, [1], [HEADS])


def test_layers_may_differ_in_their_heads() -> None:
    """The heads are counted in the layer itself, not in the configuration."""
    lm = random_model("LlamaConfig", {**GROUPED, "num_hidden_layers": 3})
    other = copy.deepcopy(lm.model.config)
    other.num_attention_heads = 8
    attention = type(lm.layers[1].self_attn)(other, 1)  # type: ignore[call-arg, arg-type]
    lm.layers[1].self_attn = attention.eval()
    assert [head_count(lm, layer) for layer in range(3)] == [4, 8, 4]
    assert collect(lm, PROMPTS, sites=[HEADS], layers=[1])[HEADS].shape[-2:] == (8, 16)
    with pytest.raises(InputError, match=r"shape \(4, 16\) in layers \[0, 2\]"):
        collect(lm, PROMPTS, sites=[HEADS])


@pytest.mark.parametrize("site", [RESIDUAL_IN, RESIDUAL_OUT, ATTENTION_OUT, MLP_OUT])
def test_sites_are_found_inside_an_intervention(checkpoint: Path, site: Site) -> None:
    lm = LanguageModel.load(checkpoint)
    plain = points(lm, [0, 1], list(SITES.values()))
    ((place,),) = points(lm, [1], [site])
    with writing(place, lambda hidden: hidden * 3 + 1):
        # Another LanguageModel of the same model, which has nothing found out yet.
        assert points(replace(lm), [0, 1], list(SITES.values())) == plain
        edited = collect(lm, PROMPTS, sites=[site])[site]
    assert edited[:, 1] == pytest.approx(3 * collect(lm, PROMPTS, sites=[site])[site][:, 1] + 1)


def test_a_site_of_one_s_own(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    norm = Site("norm", lambda block: Point(block.layer.input_layernorm))
    (found,) = collect(lm, PROMPTS, sites=[norm]).sites.values()
    into = torch.from_numpy(collect(lm, PROMPTS, sites=[RESIDUAL_IN]).states)
    with torch.no_grad():
        wanted = [layer.input_layernorm(into[:, i]) for i, layer in enumerate(lm.layers)]
    assert found[:, :, 0] == pytest.approx(torch.stack(wanted, 1).numpy(), abs=1e-5)


def test_looking_for_sites_leaves_nothing_behind(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("gemma2"))
    points(lm, [0, 3], list(SITES.values()))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())
    assert isinstance(lm.layers, nn.ModuleList)


def forwards(lm: LanguageModel, find: Callable[[], object]) -> int:
    """How often the model runs while something is looked for."""
    counted: list[int] = []
    handle = lm.model.get_input_embeddings().register_forward_pre_hook(lambda *_: counted.append(1))
    find()
    handle.remove()
    return len(counted)


def test_what_was_found_is_looked_for_once(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    sites = list(SITES.values())
    assert forwards(lm, lambda: points(lm, [0, 2], sites)) == 1
    assert forwards(lm, lambda: points(lm, [2], sites)) == 0
    assert forwards(lm, lambda: points(lm, range(LAYERS), sites)) == 1
    assert points(lm, range(LAYERS), sites) == points(replace(lm), range(LAYERS), sites)


def test_adapters_put_in_and_taken_out_are_found_anew(checkpoint_of: Checkpoints) -> None:
    from peft import LoraConfig, get_peft_model

    lm = LanguageModel.load(checkpoint_of("llama"))
    plain = points(lm, [1, 2], [HEADS, MLP_OUT])
    config = LoraConfig(r=2, target_modules=["o_proj"], layers_to_transform=[2])
    adapted = get_peft_model(lm.model, config)  # which changes lm.model itself
    found = points(lm, [1, 2], [HEADS, MLP_OUT])
    assert found == points(replace(lm), [1, 2], [HEADS, MLP_OUT])
    # The adapter reads what the projection reads, so a hook on the bare projection would miss it.
    assert found[0][0] == plain[0][0] and found[0][1] != plain[0][1]
    adapted.unload()
    assert points(lm, [1, 2], [HEADS, MLP_OUT]) == plain
