"""The small checkpoints that other tests stand on really are what they claim to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jinja2
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tests.checkpoints import FAMILIES, build_tokenizer, save_checkpoint

TEXT = "Tell me how to bake bread, don't you? naïve 日本 42\n\n  – and wait…"
USER = [{"role": "user", "content": "Hello there"}]


def test_loads_and_generates_finite_logits(checkpoint: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert model.dtype == torch.float32
    assert model.get_input_embeddings().num_embeddings >= len(tokenizer)
    encoded = tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad():
        assert torch.isfinite(model(**encoded).logits).all()
        output = model.generate(**encoded, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert output.shape[1] > encoded["input_ids"].shape[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_tokenizer_survives_the_folder_and_any_text(
    family: str, checkpoint_of: Callable[[str], Path]
) -> None:
    made, loaded = build_tokenizer(family), AutoTokenizer.from_pretrained(checkpoint_of(family))
    assert loaded.is_fast
    assert loaded(TEXT)["input_ids"] == made(TEXT)["input_ids"]
    plain = loaded(TEXT, add_special_tokens=False)["input_ids"]
    assert loaded.decode(plain) == TEXT
    assert len(plain) < len(TEXT)
    for token in (*FAMILIES[family].first, *FAMILIES[family].last):
        assert len(loaded(token, add_special_tokens=False)["input_ids"]) == 1
    # The trap of rendered templates: these put BOS before whatever they are given.
    assert (len(loaded(TEXT)["input_ids"]) > len(plain)) == FAMILIES[family].prepends_bos


def test_structure_is_the_family_s(checkpoint_of: Callable[[str], Path]) -> None:
    config = {family: AutoConfig.from_pretrained(checkpoint_of(family)) for family in FAMILIES}
    assert {family: config[family].model_type for family in FAMILIES} == {f: f for f in FAMILIES}
    for family in ("qwen2", "mistral", "llama", "gemma2"):
        assert config[family].num_key_value_heads < config[family].num_attention_heads
    assert config["mistral"].sliding_window
    assert config["llama"].rope_parameters["rope_type"] == "llama3"
    assert config["gemma2"].final_logit_softcapping
    assert set(config["gemma2"].layer_types) == {"sliding_attention", "full_attention"}
    assert config["gpt2"].resid_pdrop == 0.1
    tied = {family for family in FAMILIES if config[family].tie_word_embeddings}
    assert tied == {"qwen2", "gemma2", "gpt2"}


def test_templates_have_the_published_shapes(checkpoint_of: Callable[[str], Path]) -> None:
    def rendered(family: str, messages: list[dict[str, str]]) -> str:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint_of(family))
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )

    assert rendered("qwen2", USER) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\n"
    )
    assert rendered("mistral", USER) == "<s>[INST] Hello there[/INST]"
    assert rendered("llama", USER) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello there<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert rendered("gemma2", USER) == (
        "<bos><start_of_turn>user\nHello there<end_of_turn>\n<start_of_turn>model\n"
    )

    system = [{"role": "system", "content": "Be brief."}, *USER]
    assert "system\nBe brief.<|im_end|>" in rendered("qwen2", system)
    assert "[INST] Be brief.\n\nHello there[/INST]" in rendered("mistral", system)
    with pytest.raises(jinja2.TemplateError, match="not supported"):
        rendered("gemma2", system)
    assert AutoTokenizer.from_pretrained(checkpoint_of("gpt2")).chat_template is None


def test_seed_and_dtype_are_kept(tmp_path: Path) -> None:
    first, again, other = (
        AutoModelForCausalLM.from_pretrained(
            save_checkpoint("qwen2", tmp_path / name, seed=seed, dtype=torch.bfloat16)
        )
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert first.dtype == torch.bfloat16
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
