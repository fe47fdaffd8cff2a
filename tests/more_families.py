"""Seven more families for the slow tests, with what the five of ``checkpoints`` do not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interp.model import Chat, LanguageModel
from tests.checkpoints import LAYERS, build_tokenizer

WIDTH = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": LAYERS}
GROUPED = {**WIDTH, "num_attention_heads": 4, "num_key_value_heads": 2}

MORE_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    # Norms of queries and keys; heads wider than their share of the model.
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 24}),
    # Attention and MLP side by side, behind one norm, with partial rotary embeddings.
    "phi": ("PhiConfig", {**WIDTH, "num_attention_heads": 4}),
    # Queries, keys and values in one matrix, gate and up in another.
    "phi3": ("Phi3Config", {**GROUPED, "pad_token_id": 0}),
    # Attention and MLP side by side, behind a norm each.
    "gpt_neox": ("GPTNeoXConfig", {**WIDTH, "num_attention_heads": 4}),
    # The same layers one after the other.
    "gpt_neox_sequential": (
        "GPTNeoXConfig",
        {**WIDTH, "num_attention_heads": 4, "use_parallel_residual": False},
    ),
    "gemma": ("GemmaConfig", {**GROUPED, "num_key_value_heads": 1, "head_dim": 24}),
    # Norms behind attention and MLP only, so that both read the stream itself.
    "olmo2": ("Olmo2Config", GROUPED),
}


def random_model(config_class: str, settings: dict[str, Any], *, seed: int = 0) -> LanguageModel:
    """A small model of random weights, with Llama's chat format."""
    import torch
    import transformers

    tokenizer = build_tokenizer("llama")
    config = getattr(transformers, config_class)(
        **settings,
        vocab_size=-(-len(tokenizer) // 64) * 64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return LanguageModel(model.eval(), tokenizer, Chat(tokenizer), config_class)


def save_family(family: str, folder: Path) -> Path:
    """Write one of ``MORE_FAMILIES`` as a checkpoint."""
    lm = random_model(*MORE_FAMILIES[family])
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder
