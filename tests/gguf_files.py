"""GGUF files of Llama checkpoints, written as llama.cpp's converter writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.model import LanguageModel

CONTROL, NORMAL, UNUSED = 3, 1, 5  # types of tokens


def save_gguf(folder: Path, file: Path, kind: str = "F32", scaling: str | None = None) -> Path:
    """Write the Llama checkpoint in ``folder`` as the GGUF file ``file``.

    Args:
        folder: a checkpoint with a byte-level tokenizer.
        file: to write.
        kind: type of its matrices: ``F32``, ``F16``, ``Q8_0``, …
        scaling: a kind of scaled rotary frequencies that it claims to have.
    """
    gguf: Any = pytest.importorskip("gguf")
    lm = LanguageModel.load(folder)
    config: Any = lm.model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if scaling is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling))
    _add_tokenizer(writer, lm.tokenizer, config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    stored = gguf.GGMLQuantizationType[kind]
    for name, tensor in lm.model.state_dict().items():
        values = tensor.numpy()
        for part, heads in (("q", config.num_attention_heads), ("k", config.num_key_value_heads)):
            if f"{part}_proj" in name:
                values = _interleaved(values, heads)
        packed = gguf.quants.quantize(values, stored) if values.ndim == 2 else values
        place = names.get_name(name, try_suffixes=(".weight",))
        of = stored if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(place, packed, raw_dtype=of)
    if (factors := _rotary_factors(lm.model)) is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key matrix in llama.cpp's order of rotary dimensions."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _rotary_factors(model: Any) -> np.ndarray | None:
    """What scaled rotary frequencies are divided by; None where they are not scaled."""
    rotary = model.model.rotary_emb
    plain, _ = rotary.compute_default_rope_parameters(model.config)
    factors = (plain / rotary.inv_freq).numpy()
    return None if (factors == 1).all() else factors


def _add_tokenizer(writer: Any, tokenizer: Any, rows: int) -> None:
    import json

    made = json.loads(tokenizer.backend_tokenizer.to_str())
    control = {one["id"] for one in made["added_tokens"]}
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    types = [CONTROL if i in control else NORMAL for i in range(len(tokens))]
    unused = [f"[PAD{i}]" for i in range(len(tokens), rows)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*tokens, *unused])
    writer.add_token_types([*types, *[UNUSED] * len(unused)])
    writer.add_token_merges([" ".join(pair) for pair in made["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(True)
    writer.add_chat_template(tokenizer.chat_template)
