"""Read the model and tokenizer of a checkpoint: full weights, a GGUF file, or an adapter."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import ModelError, first_line
from interp.model.gguf import dequantised, is_gguf, parsed_once

if TYPE_CHECKING:
    import torch


def check_source(source: str | Path) -> None:
    """Raise :class:`ModelError` if ``source`` is a folder or a file without a model.

    It reads no weights, so it can run before a model is loaded.
    """
    path = Path(source)
    if path.is_file():
        if not is_gguf(path):
            raise ModelError(
                f"{source} is a file; expected a hub id, a folder with config.json, or a GGUF file"
            )
        if importlib.util.find_spec("gguf") is None:
            raise ModelError(
                f"{source} is a GGUF file, which needs the package gguf; pip install "
                "'spillover[gguf]'"
            )
        return
    if path.is_dir():
        if not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
            inside = sorted(one.parent.name for one in path.glob("*/adapter_config.json"))
            raise ModelError(
                f"{source} is not a model folder: it has neither config.json nor "
                "adapter_config.json; give the folder that save_pretrained wrote"
                + f", or one of its adapters ({', '.join(inside)})"
                * bool(inside)
            )
    elif path.is_absolute() or str(source).startswith((".", "~")) or str(source).count("/") > 1:
        raise ModelError(f"there is no folder {source}; give a model folder or a hub id")


def load_merged(
    source: str | Path, dtype: torch.dtype | str, options: Mapping[str, Any]
) -> tuple[Any, Any]:
    """The model and tokenizer at ``source``, with all adapters merged, stacked ones too."""
    from interp.model.adapters import adapter_base, merge_adapter

    folder = Path(source)
    if is_gguf(folder):
        options = {**options, "gguf_file": folder.name}
        with parsed_once():
            model = dequantised(folder, dtype, partial(_load_whole, options=options))
            return model, load_tokenizer(folder.parent, options)
    if not folder.exists():
        folder = _adapter_of_hub(str(source), options) or folder
    if not (folder / "adapter_config.json").is_file():
        model = _load_whole(source, dtype, options)
        model.config._commit_hash = _commit_of(source, options)
        return model, load_tokenizer(source, options)
    base = adapter_base(folder)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    # The requested revision belongs to the adapter, not to its base.
    base_options = {**options, "revision": config.get("revision")}
    try:
        check_source(base)
        model, tokenizer = load_merged(base, dtype, base_options)
    except Exception as error:
        why = error if isinstance(error, ModelError) else load_error(base, error)
        raise ModelError(f"{source} is an adapter on {base}, which does not load: {why}") from error
    model = merge_adapter(model, folder)
    # An adapter trained on top of this one names this one as its base, not the original base.
    model.name_or_path = str(source)
    model.config._commit_hash = None if Path(source).exists() else folder.name
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = load_tokenizer(folder, options)
    return model, tokenizer


def _adapter_of_hub(name: str, options: Mapping[str, Any]) -> Path | None:
    """The downloaded folder of an adapter on the hub; None for anything else."""
    from huggingface_hub import snapshot_download

    revision = options.get("revision")
    if _hub_file(name, "adapter_config.json", revision) is None:
        return None
    return Path(snapshot_download(name, revision=revision, allow_patterns=list(ADAPTER_FILES)))


def _commit_of(source: str | Path, options: Mapping[str, Any]) -> str | None:
    """The commit of a model of the hub; transformers does not keep it."""
    if Path(source).exists():
        return None
    file = _hub_file(source, "config.json", options.get("revision"))
    return file and Path(file).parent.name


def _hub_file(source: str | Path, name: str, revision: str | None) -> str | None:
    """The path of one file of a model, here or on the hub; None if there is none."""
    from transformers.utils.hub import cached_file

    found: str | None = cached_file(
        source,
        name,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found


def _load_whole(source: str | Path, dtype: torch.dtype | str, options: Mapping[str, Any]) -> Any:
    """The model of full weights: a causal language model, or a multimodal one that is given text.

    Transformers fills weights that the checkpoint lacks with random numbers. Such a model is not
    used: the next class that fits the configuration is tried.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(source, **options)
    fitting = [name for name in MODEL_CLASSES if _fits(getattr(transformers, name, None), config)]
    if not fitting:
        raise ModelError(
            f"{source} is a {config.model_type} model, of which transformers has no causal "
            "language model; give a decoder-only language model"
        )
    built = getattr(config, "architectures", None) or []
    if built and all(one.endswith(("Classification", "QuestionAnswering")) for one in built):
        # With tied embeddings no weight would be missing.
        raise ModelError(f"{source} is a {built[0]}; give the language model that it was made from")
    stored = getattr(config, "dtype", None)
    if dtype == "auto" and stored is not None and getattr(stored, "itemsize", 2) == 1:
        dtype = "bfloat16"  # nothing computes in plain 8-bit floats
    missing: list[str] = []
    other: list[tuple] = []
    for name in fitting:
        kind = getattr(transformers, name)
        model, found = kind.from_pretrained(
            source,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **options,
        )
        if not found["missing_keys"] and not found["mismatched_keys"]:
            return model
        missing = missing or sorted(found["missing_keys"])
        other = other or sorted(found["mismatched_keys"])
    if other:
        weight, has, expected = other[0]
        raise ModelError(
            f"{len(other)} weights of {source} have another shape than its config.json says "
            f"({weight}: {list(has)}, expected {list(expected)}); give a folder whose files belong "
            "together"
        )
    raise ModelError(
        f"{source} lacks {len(missing)} weights of a causal LM ({missing[0]}, …), which would be "
        "random; give a checkpoint with all weights and its language-model head"
    )


POINTER = b"version https://git-lfs"  # how a file begins that Git LFS has not fetched
# Not the checkpoints and optimizer states that lie next to them.
ADAPTER_FILES = (
    "adapter_*", "tokenizer*", "added_tokens*", "special_tokens*", "vocab*", "merges.txt",
    "chat_template*",
)  # fmt: skip
MODEL_CLASSES = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")


def _fits(kind: Any, config: Any) -> bool:
    own_code = getattr(config, "auto_map", None) or {}
    return kind is not None and (type(config) in kind._model_mapping or kind.__name__ in own_code)


def load_tokenizer(source: str | Path, options: Mapping[str, Any]) -> Any:
    """The tokenizer, with the chat template that multimodal checkpoints keep with the processor."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    if not tokenizer.chat_template:
        file = _hub_file(source, "chat_template.json", options.get("revision"))
        if file is not None:
            text = json.loads(Path(file).read_text(encoding="utf-8"))
            tokenizer.chat_template = text.get("chat_template")
    return tokenizer


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
    for file in Path(source).glob("*.safetensors"):
        with file.open("rb") as opened:
            if opened.read(len(POINTER)) == POINTER:
                return ModelError(f"{file} is a pointer of Git LFS; fetch it with git lfs pull")
    where = "the folder" if Path(source).exists() else "the hub id, the network and HF_TOKEN"
    return ModelError(
        f"{source} could not be loaded as a causal LM: {first_line(error)}; check {where}"
    )
