"""A loaded model is the model that was saved: adapters on shared weights, multimodal models."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, LoraModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from analyses.costs.checkpoints import weights_of
from interp.errors import ModelError, first_line
from interp.model import AS_EXPECTED, LanguageModel
from interp.model.language_model import find_layers
from tests.checkpoints import build_tokenizer
from tests.multimodal import save_multimodal
from unlearning.training.adapters import lora_in_place

Checkpoints = Callable[[str], Path]
IDS = torch.arange(3, 20)[None]

# Random models of four layers: of one, blocks share weights; PEFT drops an adapter of the other.
SMALL = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "num_hidden_layers": 4,
    "vocab_size": 2048,
    "pad_token_id": 0,
}
SHARED_BLOCKS = (
    "zamba2",
    {"mamba_headdim": 12, "n_mamba_heads": 8, "mamba_d_state": 8, "chunk_size": 16,
     "mamba_ngroups": 1, "layers_block_type": ["hybrid", "mamba"] * 2, "num_mem_blocks": 1,
     "adapter_rank": 4, "attention_head_dim": 24, "num_key_value_heads": 4},
)  # fmt: skip
RENAMED_TENSORS = (
    "laguna",
    {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "sliding_window": 16,
     "shared_expert_intermediate_size": 32, "layer_types": ["full_attention"] * 4,
     "mlp_layer_types": ["dense", "sparse"] * 2, "num_attention_heads_per_layer": [4] * 4},
)  # fmt: skip


def save_random(kind: str, sizes: Mapping[str, Any], folder: Path) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    known = AutoConfig.for_model(kind).to_dict()
    given = {name: size for name, size in {**SMALL, **sizes}.items() if name in known}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **given)).save_pretrained(folder)
    build_tokenizer("qwen2").save_pretrained(folder)
    return folder


@torch.no_grad()
def save_adapter(base: Path, folder: Path, **settings: Any) -> torch.Tensor:
    """Writes a random adapter; returns the logits of the model with it."""
    lm = LanguageModel.load(base)
    adapted = get_peft_model(lm.model, LoraConfig(r=4, **settings))
    generator = torch.Generator().manual_seed(0)
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    adapted.eval().save_pretrained(folder)
    return adapted(input_ids=IDS).logits


@torch.no_grad()
def logits(lm: LanguageModel) -> torch.Tensor:
    return lm.model(input_ids=IDS).logits


@pytest.mark.parametrize(
    "targets", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens", "q_proj"]]
)
def test_an_adapter_on_a_tied_weight_changes_its_own_side_alone(
    targets: list[str], checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    wanted = save_adapter(checkpoint_of("qwen2"), tmp_path / "adapter", target_modules=targets)
    lm = LanguageModel.load(tmp_path / "adapter")
    torch.testing.assert_close(logits(lm), wanted, atol=1e-4, rtol=0)
    # Saved as a plain model, it is still the same.
    lm.model.save_pretrained(tmp_path / "merged")
    lm.tokenizer.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(
        logits(LanguageModel.load(tmp_path / "merged")), wanted, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("model", [SHARED_BLOCKS, RENAMED_TENSORS], ids=lambda one: one[0])
def test_an_adapter_is_loaded_whole(model: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    base = save_random(*model, tmp_path / "base")
    targets = "all-linear" if model is RENAMED_TENSORS else ["gate_up_proj", "q_proj", "down_proj"]
    wanted = save_adapter(base, tmp_path / "adapter", target_modules=targets)
    found = logits(LanguageModel.load(tmp_path / "adapter"))
    assert (logits(LanguageModel.load(base)) - wanted).abs().max() > 1e-2
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_an_adapter_without_a_place_in_its_base_is_refused(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    save_adapter(checkpoint_of("qwen2"), tmp_path, target_modules=["q_proj"])
    file = tmp_path / "adapter_model.safetensors"
    tensors = {name.replace("layers.2.", "layers.9."): one for name, one in load_file(file).items()}
    save_file(tensors, file)
    with pytest.raises(ModelError, match=r"2 of 8 tensors have no place there \(.*layers\.9\."):
        LanguageModel.load(tmp_path)


@pytest.mark.parametrize("family", ["qwen2", "llama"])  # with a tied head, and without
@pytest.mark.parametrize("also", [None, ["embed_tokens", "lm_head"]])
def test_an_adapter_with_new_tokens_brings_them_along(
    family: str, also: list[str] | None, checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    base = LanguageModel.load(checkpoint_of(family))
    rows = base.model.get_input_embeddings().weight.shape[0] + 64
    base.tokenizer.add_special_tokens({"extra_special_tokens": ["<|new|>"]})
    base.model.resize_token_embeddings(rows, mean_resizing=False)
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=also)
    adapted = get_peft_model(base.model, config).eval()
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape))
    adapted.save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    lm = LanguageModel.load(tmp_path)
    assert lm.model.config.vocab_size == rows and "<|new|>" in lm.tokenizer.get_vocab()
    with torch.no_grad():
        torch.testing.assert_close(logits(lm), adapted(input_ids=IDS).logits, atol=1e-4, rtol=0)


def test_an_adapter_of_the_hub_is_loaded_by_its_name(
    checkpoint_of: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's cache stands for the hub."""
    place = tmp_path / "models--user--adapter"
    snapshot = place / "snapshots" / "abc"
    wanted = save_adapter(checkpoint_of("qwen2"), snapshot, target_modules=["q_proj"])
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    lm = LanguageModel.load("user/adapter")
    torch.testing.assert_close(logits(lm), wanted, atol=1e-4, rtol=0)
    assert lm.model.name_or_path == "user/adapter" and lm.model.config._commit_hash == "abc"


def test_an_adapter_of_another_task_is_refused(checkpoint_of: Checkpoints, tmp_path: Path) -> None:
    scores = AutoModelForSequenceClassification.from_pretrained(checkpoint_of("qwen2"))
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="SEQ_CLS")
    get_peft_model(scores, config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"1 of 9 tensors have no place there \(.*score"):
        LanguageModel.load(tmp_path)


def test_an_adapter_s_folder_that_is_not_whole_is_named(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    save_adapter(checkpoint_of("qwen2"), tmp_path / "one", target_modules=["q_proj"])
    with pytest.raises(ModelError, match=r"not a model folder.* or one of its adapters \(one\)"):
        LanguageModel.load(tmp_path)
    (tmp_path / "one" / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"one is an adapter without weights; expected a file"):
        LanguageModel.load(tmp_path / "one")


def test_a_merged_model_that_is_not_the_adapted_one_is_refused(
    checkpoint_of: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_adapter(checkpoint_of("llama"), tmp_path, target_modules=["q_proj"])
    merge = LoraModel.merge_and_unload

    def merge_badly(self: Any) -> Any:
        merged = merge(self)
        merged.get_output_embeddings().weight.data.mul_(1.01)
        return merged

    monkeypatch.setattr(LoraModel, "merge_and_unload", merge_badly)
    with pytest.raises(ModelError, match=r"cannot be merged: a logit .* is off by 1\.0%"):
        LanguageModel.load(tmp_path)


def test_a_relative_base_is_found_from_other_folders(
    checkpoint_of: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work" / "elsewhere").mkdir(parents=True)
    shutil.copytree(checkpoint_of("qwen2"), tmp_path / "work" / "models" / "base")
    monkeypatch.chdir(tmp_path / "work")
    wanted = save_adapter(Path("models/base"), Path("runs/arm/adapter"), target_modules=["q_proj"])
    adapter = tmp_path / "work" / "runs" / "arm" / "adapter"
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == (
        os.path.join("models", "base")
    )
    monkeypatch.chdir(tmp_path / "work" / "elsewhere")
    torch.testing.assert_close(logits(LanguageModel.load(adapter)), wanted, atol=1e-4, rtol=0)
    shutil.move(adapter, tmp_path / "moved")
    with pytest.raises(
        ModelError, match=r"moved is an adapter on models.base, which does not load"
    ):
        LanguageModel.load(tmp_path / "moved")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"base_model_name_or_path": null}'], ids=str
)
def test_an_adapter_that_names_no_base_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=r"adapter_config.json names no base model"):
        LanguageModel.load(tmp_path)
    with pytest.raises(ModelError, match=r"adapter_config.json names no base model"):
        weights_of(str(tmp_path))  # before the model is loaded


def test_a_checkpoint_without_its_tokenizer_s_files_is_refused(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    """Transformers makes an empty tokenizer then, by which all prompts are the same."""
    shutil.copytree(checkpoint_of("qwen2"), tmp_path / "half")
    (tmp_path / "half" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer of .*half has no vocabulary"):
        LanguageModel.load(tmp_path / "half")
    for file in (tmp_path / "half").glob("*token*"):  # as model.save_pretrained alone leaves it
        file.unlink()
    with pytest.raises(ModelError, match=r"tokenizer of .*half has no vocabulary"):
        LanguageModel.load(tmp_path / "half")


def test_a_checkpoint_that_lacks_weights_is_refused(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint_of("llama"), tmp_path / "torn")
    file = tmp_path / "torn" / "model.safetensors"
    tensors = load_file(file)
    del tensors["lm_head.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights of a causal LM \(lm_head.weight"):
        LanguageModel.load(tmp_path / "torn")


def test_files_that_do_not_belong_together_are_named(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint_of("llama"), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    wide = "model.layers.1.mlp.up_proj.weight"
    tensors[wide] = tensors[wide][:99].contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"1 weights .*{wide}: \[99, 64\], expected \[160, 64\]"):
        LanguageModel.load(tmp_path / "model")
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ModelError, match=r"is a pointer of Git LFS; fetch it with git lfs pull"):
        LanguageModel.load(tmp_path / "model")


def test_a_model_of_another_kind_is_refused_by_name(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint_of("llama"), tmp_path / "model")
    AutoConfig.for_model("t5").save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="is a t5 model, of which transformers has no causal"):
        LanguageModel.load(tmp_path / "model")
    folder = tmp_path / "classifier"
    shutil.copytree(checkpoint_of("llama"), folder)
    config = AutoConfig.from_pretrained(folder, tie_word_embeddings=True)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    with pytest.raises(ModelError, match="is a LlamaForSequenceClassification; give the language"):
        LanguageModel.load(folder)


def test_weights_of_eight_bits_are_computed_in_bfloat16(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    short = {name: one.to(torch.float8_e4m3fn) for name, one in lm.model.state_dict().items()}
    lm.model.config.dtype = torch.float8_e4m3fn
    lm.model.config.save_pretrained(tmp_path)
    save_file(short, tmp_path / "model.safetensors", metadata={"format": "pt"})
    lm.tokenizer.save_pretrained(tmp_path)
    found = LanguageModel.load(tmp_path)
    assert found.model.dtype == torch.bfloat16
    for name, weight in found.model.state_dict().items():
        assert torch.equal(weight, short[name].bfloat16())


def test_an_error_that_others_begin_on_its_next_line_is_whole() -> None:
    torn = RuntimeError("Error(s) in loading state_dict for Model:\n\tsize mismatch\n\tmore")
    assert first_line(torn) == "Error(s) in loading state_dict for Model: size mismatch"
    assert first_line(KeyError("new")) == "KeyError: 'new'"
    assert first_line(ValueError("one\ntwo")) == "one" and first_line(OSError()) == "OSError"


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "mistral3", "llava", "gemma3"])
def test_a_multimodal_checkpoint_is_a_text_model(kind: str, tmp_path: Path) -> None:
    lm = LanguageModel.load(save_multimodal(kind, tmp_path))
    assert (lm.n_layers, lm.d_model) == (3, 48)
    assert lm.layers[0] in list(lm.model.get_decoder().modules())
    rows = [lm.chat.encode(prompt) for prompt in ("Why?", "How do I bake bread without yeast?")]
    with torch.no_grad():
        together = lm.logits(lm.chat.pad(rows), keep=1)[:, -1]
        for row, found in zip(rows, together, strict=True):
            alone = lm.model(input_ids=torch.tensor([row.ids])).logits[0, -1]
            torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)


def test_a_chat_template_of_the_processor_is_found(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint_of("gpt2"), tmp_path / "model")
    template = "{{ 'Q: ' + messages[0]['content'] + ' A:' }}"
    (tmp_path / "model" / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    lm = LanguageModel.load(tmp_path / "model")
    assert lm.tokenizer.decode(list(lm.chat.encode("Why?").ids)) == "Q: Why? A:"
    assert not lm.chat.is_fallback


def test_a_layers_path_holds_under_an_adapter(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"), layers_path="model.layers")
    adapted = get_peft_model(lm.model, LoraConfig(r=2, target_modules=["q_proj"]))
    assert find_layers(adapted, "model.layers") is lm.layers
    assert find_layers(adapted, "base_model.model.model.layers") is lm.layers


# GGUF files


def test_a_gguf_file_needs_a_package_and_other_files_are_no_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf, other = tmp_path / "model.bin", tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF\x03\x00\x00\x00")
    other.write_bytes(b"PK\x03\x04")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the package gguf; pip install"):
        LanguageModel.load(gguf)
    with pytest.raises(ModelError, match="is a file; expected a hub id, .* or a GGUF file"):
        LanguageModel.load(other)


def test_what_holds_for_other_weights_is_found_out_once(
    checkpoint_of: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The self-check and the shortcuts of a model hold for its copies, also with adapters."""
    first = LanguageModel.load(checkpoint_of("llama"))
    known = {"checked": replace(AS_EXPECTED, limit=0.5), "shortcuts": {"a cache": (True, 20)}}
    first.found_out.update(known)
    for name in ("check_loaded", "check_model"):
        monkeypatch.setattr(
            f"interp.model.language_model.{name}", lambda *_: pytest.fail("checked again")
        )
    again = LanguageModel.load(checkpoint_of("llama"), like=first)
    adapted = lora_in_place(again, rank=2, alpha=2, seed=0)
    assert adapted.checked.limit == 0.5 and adapted.behaviour == known
    # What is found later in one of them is not taken for the others.
    adapted.found_out["shortcuts"]["a cache"] = (False, 30)
    assert first.behaviour == again.behaviour == known
