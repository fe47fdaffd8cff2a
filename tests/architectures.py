"""Tiny random models of any architecture in transformers, in memory, for what only some have.

``tiny("MixtralConfig", num_local_experts=4)`` has two layers of width 32 and the tokenizer of the
small Llama checkpoint. Weights are random with a spread that makes every module matter.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from interp.model import Chat, LanguageModel
from tests.checkpoints import build_tokenizer

WIDTH = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}

#: Configurations by the kind of fault that each of them stands for.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("LlamaConfig", WIDTH),
    "dropout in the configuration": (
        "FalconConfig",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "hidden_dropout": 0.3,
            "attention_dropout": 0.3,
        },
    ),
    "experts sampled in training": (
        "PhimoeConfig",
        {**WIDTH, "num_local_experts": 4, "router_jitter_noise": 0.5, "input_jitter_noise": 0.1},
    ),
    "fused experts": ("MixtralConfig", {**WIDTH, "num_local_experts": 4}),
    "fused and shared experts": (
        "Qwen2MoeConfig",
        {**WIDTH, **EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 40},
    ),
    "transposed experts": (
        "GptOssConfig",
        {
            **WIDTH,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 8,
            "layer_types": ["full_attention"] * 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "modules that PEFT refuses": (
        "MambaConfig",
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    ),
    "shared blocks": (
        "ZambaConfig",
        {
            **WIDTH,
            "num_hidden_layers": 4,
            "mamba_d_state": 4,
            "n_mamba_heads": 2,
            "layers_block_type": ["hybrid", "mamba"] * 2,
        },
    ),
}


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    tokenizer = build_tokenizer("llama")
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def tiny(kind: str, *, seed: int = 0, **settings: Any) -> LanguageModel:
    """A model of one of ``KINDS``; ``settings`` change its configuration."""
    import transformers
    from transformers import AutoModelForCausalLM

    tokenizer = _tokenizer()
    name, given = KINDS[kind]
    config = getattr(transformers, name)(
        **{**given, **settings},
        vocab_size=-(-len(tokenizer) // 64) * 64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1 and parameter.shape[0] != config.vocab_size:
                torch.nn.init.normal_(parameter, std=0.08)
    return LanguageModel(model, tokenizer, Chat(tokenizer), kind)
