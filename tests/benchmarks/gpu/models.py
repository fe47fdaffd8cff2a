"""Models of published shapes with random weights, made on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from interp.model import Chat, LanguageModel, Tokens
from tests.checkpoints import build_tokenizer

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "qwen2.5-7b": {
        "model_type": "qwen2",
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "mistral-7b": {
        "model_type": "mistral",
        "vocab_size": 32_768,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
    "tiny": {
        "model_type": "qwen2",
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    },
}


def device() -> str:
    """The GPU, or the CPU where there is none."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def config_of_shape(name: str) -> Any:
    """The configuration of a model of ``SHAPES``."""
    shape = dict(SHAPES[name])
    return AutoConfig.for_model(shape.pop("model_type"), **shape)


def random_model(name: str, *, on: str | None = None) -> LanguageModel:
    """A model of this shape in bfloat16; its tokenizer only pads."""
    torch.manual_seed(0)
    with torch.device(on or device()):
        model: Any = AutoModelForCausalLM.from_config(config_of_shape(name), dtype=torch.bfloat16)
    tokenizer = build_tokenizer("qwen2")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)  # known to the smallest model
    return LanguageModel(model.eval(), tokenizer, Chat(tokenizer), name)


def random_rows(
    lm: LanguageModel, lengths: Sequence[int], *, response: int = 0, seed: int = 0
) -> list[Tokens]:
    """Rows of random tokens; the last ``response`` of each are the response."""
    rng = np.random.default_rng(seed)
    vocabulary = lm.model.config.vocab_size
    return [
        Tokens(
            tuple(rng.integers(1, vocabulary, length).tolist()),
            {"response": slice(length - response, length)} if response else {},
        )
        for length in lengths
    ]


def wait() -> None:
    """Wait until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def held() -> int:
    """Bytes of tensors on the device."""
    return int(torch.cuda.memory_allocated()) if torch.cuda.is_available() else 0


def peak(*, reset: bool = False) -> int:
    """The largest number of bytes of tensors on the device since the last reset."""
    if not torch.cuda.is_available():
        return 0
    found = int(torch.cuda.max_memory_allocated())
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return found
