"""Models of every family load, are looked into and read in the same way, padding or not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from interp.errors import ModelError
from interp.model import LanguageModel, check_source
from interp.model.language_model import find_layers
from tests.checkpoints import LAYERS, save_checkpoint

Checkpoints = Callable[[str], Path]

PROMPTS = (
    "Why?",
    "Tell me how to bake bread without yeast, step by step, for four people. " * 4,
    "Which tools does a carpenter need to repair a broken chair?",
)


@torch.no_grad()
def last_logits(lm: LanguageModel, prompt: str = PROMPTS[0]) -> torch.Tensor:
    return lm.logits(lm.chat.pad([lm.chat.encode(prompt)], lm.device), keep=1)[0, -1]


def save_adapter(base: Path, folder: Path, *, seed: int) -> LanguageModel:
    """Writes an adapter that does something on top of ``base``; returns the model with it on."""
    lm = LanguageModel.load(base)
    adapted = get_peft_model(lm.model, LoraConfig(r=4, target_modules="all-linear"))
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    adapted.save_pretrained(folder)
    return LanguageModel(adapted.eval(), lm.tokenizer, lm.chat)


# Layers


def test_the_decoder_layers_are_found(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    assert lm.n_layers == len(lm.layers) == LAYERS
    assert lm.d_model == 64
    seen: list[int] = []
    handles = [
        layer.register_forward_hook(lambda *_, i=i: seen.append(i))
        for i, layer in enumerate(lm.layers)
    ]
    last_logits(lm)
    assert seen == list(range(LAYERS))
    for handle in handles:
        handle.remove()


def test_they_are_found_under_an_adapter_too(checkpoint_of: Checkpoints, tmp_path: Path) -> None:
    adapted = save_adapter(checkpoint_of("llama"), tmp_path, seed=0)
    assert isinstance(adapted.model, PeftModel)
    assert adapted.n_layers == LAYERS and adapted.d_model == 64


class Towers(nn.Module):
    """Two lists of the same length, one of them with a list inside every layer."""

    def __init__(self, count: int) -> None:
        super().__init__()
        experts = [nn.ModuleList(nn.Linear(2, 2) for _ in range(count)) for _ in range(count)]
        self.text = nn.ModuleList(nn.ModuleDict({"experts": inner}) for inner in experts)
        self.other = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        text = SimpleNamespace(num_hidden_layers=count)
        self.config = SimpleNamespace(get_text_config=lambda decoder: text)


def test_only_the_outermost_list_counts() -> None:
    model = Towers(4)
    assert find_layers(model) is model.text


def test_more_than_one_list_is_the_user_s_to_decide() -> None:
    model = Towers(3)
    with pytest.raises(ModelError, match=r"found 2 \(text, other\); name it with layers_path"):
        find_layers(model)
    assert find_layers(model, "other") is model.other
    with pytest.raises(ModelError, match="is a Linear, expected a ModuleList"):
        find_layers(model, "other.0")
    with pytest.raises(ModelError, match="there is no module nothing.here"):
        find_layers(model, "nothing.here")


def test_no_list_is_said_to_be_none() -> None:
    model = Towers(2)
    model.text = nn.ModuleList()
    with pytest.raises(ModelError, match=r"found 0 \(none\)"):
        find_layers(model)


# Sources


def test_sources_that_plainly_hold_no_model_are_refused(
    tmp_path: Path, checkpoint_of: Checkpoints
) -> None:
    file = tmp_path / "model.txt"
    file.write_text("not a model", encoding="utf-8")
    with pytest.raises(ModelError, match="is a file; expected a hub id, a folder"):
        check_source(file)
    with pytest.raises(ModelError, match="neither config.json nor adapter_config.json"):
        check_source(tmp_path)
    for missing in (tmp_path / "nowhere", "./nowhere", "~/nowhere", "a/b/c"):
        with pytest.raises(ModelError, match="there is no folder"):
            check_source(missing)
    check_source(checkpoint_of("qwen2"))
    check_source("organisation/name")
    check_source("name")


def test_a_folder_that_cannot_be_loaded_is_one_line(
    tmp_path: Path, checkpoint_of: Checkpoints
) -> None:
    shutil.copytree(checkpoint_of("qwen2"), tmp_path / "torn")
    for weights in (tmp_path / "torn").glob("*.safetensors"):
        weights.write_bytes(b"torn")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "none of ours"}', "utf-8")
    for name in ("torn", "other"):
        with pytest.raises(ModelError, match="could not be loaded as a causal LM") as found:
            LanguageModel.load(tmp_path / name)
        assert "\n" not in str(found.value)


# Adapters


def test_an_adapter_folder_is_merged_into_its_base(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    wanted = last_logits(save_adapter(checkpoint_of("mistral"), tmp_path, seed=0))
    lm = LanguageModel.load(tmp_path)
    assert not isinstance(lm.model, PeftModel)
    torch.testing.assert_close(last_logits(lm), wanted, atol=1e-5, rtol=0)
    base = last_logits(LanguageModel.load(checkpoint_of("mistral")))
    assert (wanted - base).abs().max() > 1e-2


def test_an_adapter_on_an_adapter_keeps_both(checkpoint_of: Checkpoints, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    save_adapter(checkpoint_of("qwen2"), first, seed=0)
    wanted = last_logits(save_adapter(first, second, seed=1))
    torch.testing.assert_close(last_logits(LanguageModel.load(second)), wanted, atol=1e-5, rtol=0)
    assert (last_logits(LanguageModel.load(first)) - wanted).abs().max() > 1e-2


def test_an_adapter_without_its_base_says_which(checkpoint_of: Checkpoints, tmp_path: Path) -> None:
    base = shutil.copytree(checkpoint_of("llama"), tmp_path / "base")
    save_adapter(base, tmp_path / "adapter", seed=0)
    shutil.rmtree(base)
    with pytest.raises(ModelError, match="there is no folder .*base"):
        LanguageModel.load(tmp_path / "adapter")


# Logits


@torch.no_grad()
def test_padding_does_not_move_logits(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    rows = [lm.chat.encode(prompt) for prompt in PROMPTS]
    together = lm.logits(lm.chat.pad(rows), keep=1)[:, -1]
    for row, found in zip(rows, together, strict=True):
        alone = lm.model(input_ids=torch.tensor([row.ids])).logits[0, -1]
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_kept_logits_are_the_last_of_all_logits(checkpoint: Path) -> None:
    """On Gemma 2 that includes the soft cap."""
    lm = LanguageModel.load(checkpoint)
    batch = lm.chat.pad([lm.chat.encode(prompt) for prompt in PROMPTS])
    full = lm.model(**lm.inputs(batch)).logits
    for keep in (1, 3):
        torch.testing.assert_close(lm.logits(batch, keep=keep), full[:, -keep:])
    cap = getattr(lm.model.config, "final_logit_softcapping", None)
    assert cap is None or full.abs().max() < cap


def test_models_that_keep_no_logits_give_the_same(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    wanted = last_logits(lm)
    # A cached property: as it would be for a forward without logits_to_keep.
    lm.__dict__["forward_options"] = lm.forward_options - {"logits_to_keep"}
    torch.testing.assert_close(last_logits(lm), wanted)


# Fingerprints


def test_fingerprint_changes_with_any_weight(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("gemma2"))
    seen = {lm.fingerprint()}
    assert LanguageModel.load(checkpoint_of("gemma2")).fingerprint() in seen
    for weight in (lm.layers[2].mlp.up_proj.weight, lm.model.get_input_embeddings().weight):
        with torch.no_grad():
            weight.view(-1)[7] += 1e-3
        seen.add(lm.fingerprint())
    lm.model.bfloat16()
    seen.add(lm.fingerprint())
    assert len(seen) == 4


def test_the_checkpoint_s_dtype_is_kept_unless_another_is_asked_for(tmp_path: Path) -> None:
    folder = save_checkpoint("llama", tmp_path / "half", dtype=torch.bfloat16)
    assert LanguageModel.load(folder).model.dtype == torch.bfloat16
    assert LanguageModel.load(folder, dtype=torch.float32).model.dtype == torch.float32
    lm = LanguageModel.load(folder)
    assert not lm.model.training and lm.name == "half"
    assert len(lm.fingerprint()) == 64
