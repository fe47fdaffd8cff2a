"""Tokens per second, model FLOPs utilisation and peak memory of a training step at 7B on a GPU.

    python -m tests.benchmarks.gpu_step qwen2.5-7b mistral-7b
    python -m tests.benchmarks.gpu_step qwen2.5-7b --four-bit     # the 24 GB configuration

Random weights from the models' published shapes; NPO with a retain term, LoRA of rank 128, bf16,
activation checkpointing, through ``unlearn``. Prints one JSON object per model.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback

from interp.model import Chat, LanguageModel, Tokens
from tests.benchmarks.paired import median
from tests.checkpoints import build_tokenizer
from unlearning.training import (
    Example,
    Mixture,
    TrainingSettings,
    prepare_in_place,
    unlearn_in_place,
    with_references,
)

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

# Dense bf16 with float32 accumulation, from the makers' data sheets; the first name found counts.
PEAK_TERAFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
}


@dataclass(frozen=True)
class GpuWorkload:
    """One optimizer step: as many retain rows as forget rows, all of one length.

    Attributes:
        rows: forget rows in one optimizer step.
        micro_rows: forget rows in one forward.
        tokens, response: length of a row, and how much of its end is the response.
        rank: of the adapters.
        four_bit: the frozen weights in NF4.
    """

    rows: int = 32
    micro_rows: int = 8
    tokens: int = 512
    response: int = 128
    rank: int = 128
    four_bit: bool = False


def measure(
    name: str, workload: GpuWorkload, *, steps: int = 10, peak_teraflops: float | None = None
) -> dict[str, Any]:
    """What one model's step costs; ``skipped`` says why where it cannot be measured."""
    on_gpu = torch.cuda.is_available()
    if workload.four_bit and find_spec("bitsandbytes") is None:
        return {
            "model": name,
            "skipped": "bitsandbytes is not installed: pip install -e '.[quantized]'",
        }
    settings = TrainingSettings(
        lora_rank=workload.rank,
        lora_alpha=workload.rank,
        batch_size=workload.rows,
        micro_batch_size=workload.micro_rows,
        separate_backward=True,
        activation_checkpointing=True,
        autocast=True,
        max_steps=steps + 2,
    )
    lm = prepare_in_place(_model(name, workload), settings)
    mixture = with_references(lm, _mixture(lm, workload), {"reference"}, batch_size=8)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        unlearn_in_place(lm, mixture, settings, folder=folder, callbacks=[clock])
    device = torch.cuda.get_device_name() if on_gpu else "cpu"
    known = [value for part, value in PEAK_TERAFLOPS.items() if part in device]
    teraflops = peak_teraflops or (known[0] if known else None)
    rate = median([2 * workload.rows * workload.tokens / s for s in clock.seconds[1:]])
    per_token = flops(lm.model, workload) / workload.tokens
    found = {
        "model": name,
        "device": device,
        "torch": torch.__version__,
        "workload": asdict(workload),
        "tokens_per_second": rate,
        "utilisation": rate["value"] * per_token / (teraflops * 1e12) if teraflops else None,
        "peak_teraflops": teraflops,
        "peak_gigabytes": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None,
        "peak_gigabytes_reserved": torch.cuda.max_memory_reserved() / 1e9 if on_gpu else None,
    }
    if teraflops is None:
        found["utilisation_skipped"] = f"the peak of {device} is not known: --peak-teraflops"
    return found


def flops(model: nn.Module, workload: GpuWorkload) -> float:
    """Model FLOPs of one row, forward and backward; recomputed activations are not counted.

    4 per token and frozen weight (its own gradient is not computed), 6 per token and adapter
    weight, causal attention 6·layers·heads·head_dim·tokens² (half of the square), and the head
    only at response positions, where it runs. The embedding is a look-up.
    """
    config: Any = model.config
    trunk = adapters = 0
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            adapters += parameter.numel()
        elif ".layers." in name:
            # A packed 4-bit tensor remembers the shape of its weights.
            shape = getattr(parameter, "quant_state", parameter).shape
            trunk += int(np.prod(shape)) if len(shape) == 2 else 0
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head_dim
    return (
        workload.tokens * (4 * trunk + 6 * adapters)
        + 6 * config.num_hidden_layers * width * workload.tokens**2
        + 4 * workload.response * config.hidden_size * config.vocab_size
    )


class Clock(TrainerCallback):
    """Seconds from the end of one optimizer step to the end of the next; the first only warms up.

    The peak of GPU memory is counted from there on, optimizer states included.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.last: float | None = None

    def on_step_end(self, *_arguments: Any, **_keywords: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = perf_counter()
        if self.last is not None:
            self.seconds.append(now - self.last)
        elif torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.last = now


def _model(name: str, workload: GpuWorkload) -> LanguageModel:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = dict(SHAPES[name])
    config = AutoConfig.for_model(shape.pop("model_type"), **shape)
    torch.manual_seed(0)
    # In 4 bits the 16-bit weights would not fit beside: they are made on the CPU.
    with torch.device("cpu" if workload.four_bit else device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if workload.four_bit:
        _to_four_bit(model)
    tokenizer = build_tokenizer("qwen2")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)  # known to the smallest model
    return LanguageModel(model.to(device), tokenizer, Chat(tokenizer), name)


def _to_four_bit(model: Any) -> None:
    """NF4 in place of every linear module of the layers, as a 4-bit load would have it."""
    layers = import_module("bitsandbytes").nn
    for parent in [module for layer in model.model.layers for module in layer.modules()]:
        for name, module in parent.named_children():
            if isinstance(module, nn.Linear):
                quantised = layers.Linear4bit(
                    module.in_features,
                    module.out_features,
                    bias=module.bias is not None,
                    compute_dtype=torch.bfloat16,
                    quant_type="nf4",
                    device="meta",
                )
                quantised.weight = layers.Params4bit(
                    module.weight.data, requires_grad=False, quant_type="nf4"
                )
                quantised.bias = module.bias
                setattr(parent, name, quantised)
    # What peft asks for before it gives such modules adapters of their kind.
    model.is_loaded_in_4bit = True


def _mixture(lm: LanguageModel, workload: GpuWorkload) -> Mixture:
    rng = np.random.default_rng(0)
    spans = {"response": slice(workload.tokens - workload.response, workload.tokens)}

    def examples(group: str) -> list[Example]:
        ids = rng.integers(0, lm.model.config.vocab_size, (workload.rows, workload.tokens))
        return [
            Example(f"{group} {i}", Tokens(tuple(map(int, r)), spans)) for i, r in enumerate(ids)
        ]

    return Mixture(examples("forget"), {"retain": examples("retain")})


def main() -> None:
    """Measure the models that are named, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", choices=list(SHAPES))
    parser.add_argument("--four-bit", action="store_true", help="NF4 base, one row at a time")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--peak-teraflops", type=float, help="dense bf16, of an unknown device")
    options = parser.parse_args()
    workload = GpuWorkload()
    if options.four_bit:
        workload = replace(workload, micro_rows=1, four_bit=True)
    for name in options.models:
        found = measure(name, workload, steps=options.steps, peak_teraflops=options.peak_teraflops)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
