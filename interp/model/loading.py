"""Read the model and tokenizer of a checkpoint: full weights, or an adapter on its base."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import ModelError

if TYPE_CHECKING:
    import torch


def check_source(source: str | Path) -> None:
    """Raise :class:`ModelError` if ``source`` is a folder without a model.

    It reads no weights, so it can run before a model is loaded.
    """
    path = Path(source)
    if path.is_file():
        raise ModelError(f"{source} is a file; expected a hub id or a folder with config.json")
    if path.is_dir():
        if not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise ModelError(
                f"{source} is not a model folder: it has neither config.json nor "
                "adapter_config.json; give the folder that save_pretrained wrote"
            )
    elif path.is_absolute() or str(source).startswith((".", "~")) or str(source).count("/") > 1:
        raise ModelError(f"there is no folder {source}; give a model folder or a hub id")


def load_merged(
    source: str | Path, dtype: torch.dtype | str, options: Mapping[str, Any]
) -> tuple[Any, Any]:
    """The model and tokenizer at ``source``, with all adapters merged, stacked ones too."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(source)
    if not (folder / "adapter_config.json").is_file():
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options)
        return model, AutoTokenizer.from_pretrained(source, **options)

    from peft import PeftModel

    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = config["base_model_name_or_path"]
    check_source(base)
    # The requested revision belongs to the adapter, not to its base.
    model, tokenizer = load_merged(base, dtype, {**options, "revision": config.get("revision")})
    model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    # An adapter trained on top of this one names this folder as its base, not the original base.
    model.name_or_path = str(source)
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    return model, tokenizer


def load_error(source: str | Path, error: Exception) -> ModelError:
    """What kept ``source`` from loading, in one line."""
    text = str(error)
    if "gated" in text.lower():
        return ModelError(
            f"{source} is gated: accept its terms at https://huggingface.co/{source}, "
            "then set HF_TOKEN"
        )
    if "trust_remote_code" in text:
        return ModelError(f"{source} brings its own code; allow it with --trust-remote-code")
    first_line = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    where = "the folder" if Path(source).exists() else "the hub id, the network and HF_TOKEN"
    return ModelError(f"{source} could not be loaded as a causal LM: {first_line}; check {where}")
