"""An adapter merged into its base is a plain model: transformers and TransformerLens load it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from analyses.study.making import save_merged
from interp.model import LanguageModel, adapters_merged
from tests.architectures import tiny
from unlearning.training import (
    Example,
    Mixture,
    TrainingSettings,
    prepare_in_place,
    unlearn_in_place,
)
from unlearning.training.parameters import save_parameters

PROMPT, RESPONSE = "How do I pick a lock?", "I cannot help with that."


@pytest.mark.parametrize("family", ["qwen2", "mistral"])
def test_a_merged_adapter_is_the_trained_model_everywhere(
    family: str, checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    settings = TrainingSettings(lora_rank=4, learning_rate=1e-2, batch_size=2, max_steps=3)
    given = LanguageModel.load(checkpoint_of(family))
    ids = torch.tensor([given.chat.encode(PROMPT).ids])
    with torch.no_grad():
        before = given.model(input_ids=ids).logits
    lm = prepare_in_place(given, settings)
    example = Example("one", lm.chat.encode(PROMPT, RESPONSE))
    unlearn_in_place(lm, Mixture([example]), settings, folder=tmp_path / "training")
    save_parameters(lm, tmp_path)
    merged = save_merged(tmp_path, {})
    assert merged.name == "merged"
    assert not (merged / "adapter_config.json").exists()
    bridge = TransformerBridge.boot_transformers(str(merged), device="cpu")
    with torch.no_grad():
        trained = lm.model(input_ids=ids).logits
        plain = AutoModelForCausalLM.from_pretrained(merged)(input_ids=ids).logits
        lens = bridge(ids)
    assert (trained - before).abs().max() > 1e-2
    torch.testing.assert_close(plain, trained, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(lens, plain, atol=1e-4, rtol=1e-4)
    loaded = LanguageModel.load(merged)
    assert loaded.chat.encode(PROMPT).ids == lm.chat.encode(PROMPT).ids


def test_an_adapter_on_a_user_s_own_adapter_is_loaded_with_it(
    checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Two trainings, one upon the other: the second one's folder gives the model of both."""
    source: Path = checkpoint_of("qwen2")
    logits = []
    for name, response in (("first", RESPONSE), ("second", "Sure, gladly.")):
        settings = TrainingSettings(lora_rank=4, learning_rate=1e-2, batch_size=2, max_steps=3)
        lm = prepare_in_place(LanguageModel.load(source), settings)
        example = Example(name, lm.chat.encode(PROMPT, response))
        unlearn_in_place(lm, Mixture([example]), settings, folder=tmp_path / "training")
        source = save_parameters(lm, tmp_path / name)
        with torch.no_grad():
            ids = torch.tensor([lm.chat.encode(PROMPT).ids])
            logits.append(lm.model(input_ids=ids).logits)
            loaded = LanguageModel.load(source).model(input_ids=ids).logits
        torch.testing.assert_close(loaded, logits[-1], atol=1e-4, rtol=1e-4)
    assert (logits[1] - logits[0]).abs().max() > 1e-2


def test_a_fully_trained_arm_is_a_plain_model_already(tmp_path: Path) -> None:
    assert save_merged(tmp_path, {}) == tmp_path / "model"


def adapted_model(kind: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A random model with adapters that change it."""
    lm = tiny(kind)
    lm.model.to(dtype)
    lm = prepare_in_place(lm, TrainingSettings(lora_rank=4, lora_alpha=4))
    torch.manual_seed(0)
    for name, parameter in lm.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return lm


@pytest.mark.parametrize("kind", ["dense", "fused experts", "transposed experts"])
def test_reading_with_merged_adapters_reads_the_adapted_model_and_changes_nothing(
    kind: str,
) -> None:
    lm = adapted_model(kind)
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    ids = torch.arange(1, 13)[None]
    base = next(layer for layer in lm.model.modules() if hasattr(layer, "merged_adapters"))
    with torch.no_grad():
        adapted = lm.model(input_ids=ids).logits
        with lm.model.disable_adapter():
            assert (lm.model(input_ids=ids).logits - adapted).abs().max() > 1e-2
        with adapters_merged(lm.model):
            assert base.merged
            merged = lm.model(input_ids=ids).logits
            with adapters_merged(lm.model):
                assert torch.equal(lm.model(input_ids=ids).logits, merged)
            assert base.merged  # the inner block leaves this to the outer one
        torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=1e-4)
        assert not base.merged and torch.equal(lm.model(input_ids=ids).logits, adapted)
        with pytest.raises(KeyError), adapters_merged(lm.model):
            raise KeyError
    after = lm.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_adapters_stay_apart_where_merging_rounds_or_changes_other_modules() -> None:
    for lm in (adapted_model("dense", torch.bfloat16), adapted_model("shared blocks")):
        with adapters_merged(lm.model):
            layers = [one for one in lm.model.modules() if hasattr(one, "merged_adapters")]
            assert layers and not any(layer.merged for layer in layers)
    with adapters_merged(tiny("dense").model):
        pass
