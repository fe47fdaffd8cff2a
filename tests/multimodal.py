"""Small random multimodal models, saved as checkpoints with a text tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.checkpoints import build_tokenizer

TEXT: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 3,  # as many as the text model has
    "depth": 3,
    "num_attention_heads": 2,
    "num_heads": 2,
    "out_hidden_size": 48,
    "image_size": 28,
    "patch_size": 14,
}


def save_multimodal(kind: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a random model of the type ``kind`` (qwen2_5_vl, llava, mistral3, gemma3, …)."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    tokenizer = build_tokenizer("qwen2")
    whole = AutoConfig.for_model(kind)

    def small(part: Any, sizes: dict[str, Any]) -> Any:
        known = {**part.to_dict(), **vars(part)}
        return type(part)(**{name: size for name, size in sizes.items() if name in known})

    size = -(-len(tokenizer) // 64) * 64
    default = whole.get_text_config(decoder=True)
    sizes = {**TEXT, "vocab_size": size}
    if kind.startswith(("qwen2_vl", "qwen2_5_vl")):  # shares of a head for time, height and width
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
        sizes["rope_parameters"] = rope
    text = small(default, sizes)
    config = type(whole)(text_config=text, vision_config=small(whole.vision_config, VISION))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
