"""Models in GGUF files, the format of llama.cpp: transformers dequantises them.

llama.cpp keeps scaled rotary frequencies (Llama 3.1 and later) as a tensor of factors, which
transformers leaves out. Without them the model is another one, without an error. So they are read
here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from interp.errors import ModelError

if TYPE_CHECKING:
    import torch

FACTORS = "rope_freqs.weight"  # what llama.cpp divides the frequencies by
SCALING = ".rope.scaling.type"  # the end of the key of the other ways to scale them


def is_gguf(source: str | Path) -> bool:
    """Whether ``source`` is a GGUF file: it begins with these four letters."""
    path = Path(source)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


@contextmanager
def parsed_once() -> Iterator[None]:
    """Within it the metadata of a GGUF file are parsed once, which takes seconds.

    Transformers asks for them four times: twice for the configuration, for the tokenizer and for
    the weights. It only reads what was parsed.
    """
    import gguf

    with mock.patch.object(gguf, "GGUFReader", lru_cache(maxsize=1)(gguf.GGUFReader)):
        yield


def dequantised(path: Path, dtype: torch.dtype | str, load: Callable[..., Any]) -> Any:
    """The model in a GGUF file, with plain numbers as weights.

    Args:
        path: the file.
        dtype: of the weights; ``auto`` is float32.
        load: loads the file's model from its folder, given a dtype.

    Raises:
        ModelError: the file scales rotary frequencies in a way that is not read.
    """
    import torch

    model = load(path.parent, torch.float32 if dtype == "auto" else dtype)
    # Its weights are plain numbers now, so it can be trained and saved like any other model.
    model.is_quantized = False
    for owner, name in ((model.config, "quantization_config"), (model, "hf_quantizer")):
        if hasattr(owner, name):
            delattr(owner, name)
    model.name_or_path = str(path)
    _scale_frequencies(model, path)
    return model


def _scale_frequencies(model: Any, path: Path) -> None:
    """Divide the rotary frequencies by the file's factors; its configuration says so too."""
    from gguf import GGUFReader

    config = model.config.get_text_config(decoder=True)
    rotary = getattr(config, "rope_parameters", None) or {}
    if rotary.get("rope_type", "default") != "default":
        return  # transformers has read it
    reader = GGUFReader(path)
    kinds = (field.contents() for key, field in reader.fields.items() if key.endswith(SCALING))
    if (kind := next(kinds, "none")) != "none":
        raise ModelError(
            f"{path} scales its rotary frequencies ({kind}), which transformers does not read from "
            "GGUF files; give the model's hub id or folder"
        )
    factors = next((one.data.tolist() for one in reader.tensors if one.name == FACTORS), None)
    if factors is None:
        return
    # The only kind with one factor for each frequency; its two lists are for short and long texts.
    config.rope_parameters = {
        **rotary,
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "attention_factor": 1.0,
        "original_max_position_embeddings": config.max_position_embeddings,
    }
    for name, module in list(model.named_modules()):
        if hasattr(module, "inv_freq"):
            model.set_submodule(name, type(module)(config=config))
