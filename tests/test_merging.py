"""An adapter merged into its base is a plain model: transformers and TransformerLens load it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from analyses.study.making import save_merged
from interp.model import LanguageModel
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
