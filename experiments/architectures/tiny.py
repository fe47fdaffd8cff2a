"""Tiny random models of the families in transformers, without downloads.

A family's default configuration is shrunk by the names of its numbers: width 48, four layers, four
experts. Some families need a few numbers more to be consistent. The tokenizer is that of the
packaged model organism, and weights are spread so that every module matters.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

LAYERS = 4
SIZES: Mapping[str, int] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "lru_width", "word_embed_proj_dim"), 48),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"), 64),
    **dict.fromkeys(("dense_intermediate_size", "mlp_hidden_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("head_dim", "attention_head_dim", "v_head_dim", "kv_channels"), 12),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "index_head_dim"), 12),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 512),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_num_experts", "max_window_layers", "linear_num_value_heads"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("top_k_experts", "experts_per_token", "num_key_value_heads"), 2),
    **dict.fromkeys(("linear_num_key_heads", "index_n_heads", "o_groups", "hc_mult"), 2),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size"), 32),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "expert_intermediate_size"), 32),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("n_group", "topk_group", "n_groups", "first_k_dense_replace"), 1),
    **dict.fromkeys(("mamba_n_groups", "num_kv_shared_layers"), 1),
    **dict.fromkeys(("num_mtp_layers", "num_nextn_predict_layers"), 0),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "state_size", "mamba_d_state"), 8),
    **dict.fromkeys(("hidden_size_per_layer_input", "index_topk", "mamba_n_heads"), 8),
    **dict.fromkeys(("sliding_window", "mamba_chunk_size", "chunk_size", "kv_lora_rank"), 16),
    **dict.fromkeys(("attention_window_size", "qk_head_dim"), 16),
    **{"q_lora_rank": 24, "mamba_expand": 2, "mamba_d_head": 12, "conv_kernel": 4},
    **{"rotary_dim": 4, "time_step_rank": 4, "o_lora_rank": 12},
}
KINDS_OF_LAYERS = ("layer_types", "layers_block_type", "mlp_layer_types", "block_types")
TWO_KINDS = ["mamba", "attention"] * (LAYERS // 2)
#: What a family needs besides.
MORE: Mapping[str, Mapping[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "deepseek_v2": {"topk_method": "greedy", "num_experts_per_tok": 2, "n_routed_experts": 4},
    "dots1": {"num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1},
    "falcon_h1": {"mamba_d_ssm": 96},
    "gemma3n_text": {"laurel_rank": 8, "num_kv_shared_layers": 2},
    "granitemoehybrid": {"layer_types": TWO_KINDS},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "expand": 2},
    "stablelm": {"num_key_value_heads": 4, "partial_rotary_factor": 0.5},
    "xlstm": {"qk_dim_factor": 0.5},
    "zaya": {"num_experts_per_tok": 1},
}


def families() -> Iterator[str]:
    """The model types that transformers has causal language models for."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return iter(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def save_tiny_model(family: str, folder: Path) -> None:
    """Write a checkpoint of ``family`` into ``folder``.

    Raises:
        Exception: whatever transformers raises where the configuration cannot be shrunk.
        ValueError: the model is not small, or its logits depend on later tokens.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from unlearning.organism import shipped

    tokenizer = AutoTokenizer.from_pretrained(shipped())
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    # Some configurations must have a first token.
    special["bos_token_id"] = special["bos_token_id"] or special["eos_token_id"]
    vocabulary = -(-len(tokenizer) // 64) * 64
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = _shrunk(AutoConfig.for_model(family), vocabulary, special)
        with torch.device("meta"):
            large = AutoModelForCausalLM.from_config(config)
        if sum(parameter.numel() for parameter in large.parameters()) > 1e7:
            raise ValueError("the configuration does not shrink")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.0)
        ids = torch.arange(3, 17)[None]
        whole, part = model(ids).logits[:, :10], model(ids[:, :10]).logits
    if not torch.allclose(whole, part, rtol=1e-3, atol=1e-3 * float(part.abs().max())):
        raise ValueError("tokens read later tokens")
    for name, value in special.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    if type(model.config) not in AutoModelForCausalLM._model_mapping:
        config.save_pretrained(folder)  # as published: with the parts that are not text
    tokenizer.save_pretrained(folder)


def _shrunk(config: Any, vocabulary: int, special: Mapping[str, Any]) -> Any:
    text = config.get_text_config(decoder=True)
    given = _sizes(text, vocabulary, special)
    small = None
    for left_out in ((), KINDS_OF_LAYERS, ("head_dim",), (*KINDS_OF_LAYERS, "head_dim")):
        try:
            small = type(text)(**{k: v for k, v in given.items() if k not in left_out})
            break
        except Exception as error:  # each family raises its own where numbers do not fit
            failed = error
    if small is None:
        raise failed
    if text is config:
        return small
    name = next((key for key, value in vars(config).items() if value is text), None)
    if name is None:
        raise ValueError("the text configuration has no name")
    return type(config)(**{name: small, **_small_tower(config)})


def _sizes(text: Any, vocabulary: int, special: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a small configuration of this kind."""
    values = text.to_dict()
    found: dict[str, Any] = {}
    for name, size in SIZES.items():
        value = values.get(name)
        optional = name in ("head_dim", "num_key_value_heads") and name in values and value is None
        if optional or (isinstance(value, int | float) and not isinstance(value, bool)):
            found[name] = size
    for name in KINDS_OF_LAYERS:
        if kinds := list(dict.fromkeys(values.get(name) or ())):
            found[name] = (kinds * LAYERS)[:LAYERS]
    if "attention_types" in values:
        found["attention_types"] = [[["global", "local"], LAYERS // 2]]
    if "attention_layers" in values:
        found["attention_layers"] = ["global", "local"] * (LAYERS // 2)
    if "kv_lora_rank" in values:
        found |= {"num_key_value_heads": 4, **({"head_dim": 8} if "head_dim" in found else {})}
    for name in ("vocab_size", "vocab_size_per_layer_input"):
        if name in values:
            found[name] = vocabulary
    return {**found, **special, **MORE.get(text.model_type, {})}


def _small_tower(config: Any) -> dict[str, Any]:
    tower = getattr(config, "vision_config", None)
    if tower is None:
        return {}
    sizes = {"hidden_size": 32, "embed_dim": 32, "intermediate_size": 32, "out_hidden_size": 48}
    sizes |= {"num_hidden_layers": 1, "depth": 1, "num_attention_heads": 2, "num_heads": 2}
    try:
        known = tower.to_dict()
        return {"vision_config": type(tower)(**{k: v for k, v in sizes.items() if k in known})}
    except Exception:  # a tower of the default size, which no text reaches
        return {}
