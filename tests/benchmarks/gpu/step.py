"""Tokens per second, model FLOPs utilisation and peak memory of a training step.

NPO with a retain term, LoRA of rank 128 in bfloat16, through ``unlearn_in_place``. The rows of a
forward, and whether activations are computed again, are what the plan says fits the device, the
fastest way first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback

from analyses.costs import StepRows, Weights, step_memory
from analyses.costs.footprint import footprint_of
from interp.model import LanguageModel
from tests.benchmarks.gpu.models import (
    config_of_shape,
    device,
    held,
    peak,
    random_model,
    random_rows,
    wait,
)
from tests.benchmarks.paired import median
from unlearning.training import (
    Example,
    Mixture,
    TrainingSettings,
    prepare_in_place,
    unlearn_in_place,
    with_references,
)

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
UTILISATION, OF_PLAN = 0.45, 1.5  # goals
WORKSPACE = 2**27  # what libraries keep on the device from their first call on
FULL = 0.9  # share of the free memory that a step may fill


@dataclass(frozen=True)
class GpuWorkload:
    """One optimizer step: as many retain rows as forget rows, all of one length.

    Attributes:
        rows: forget rows in one optimizer step.
        tokens, response: length of a row, and how much of its end is the response.
        rank: of the adapters.
        four_bit: the frozen weights in NF4, one row at a time with gradient checkpointing.
        steps: timed steps.
        seconds: stop after so many, if that is earlier.
    """

    rows: int = 32
    tokens: int = 512
    response: int = 128
    rank: int = 128
    four_bit: bool = False
    steps: int = 8
    seconds: float = 30.0


SMALL = GpuWorkload(rows=2, tokens=8, response=3, rank=2, steps=2)


def training_step(
    name: str, workload: GpuWorkload = GpuWorkload(), peak_teraflops: float | None = None
) -> dict[str, Any]:
    """The cost of a model's step; ``skipped`` says why if it cannot be measured."""
    if workload.four_bit and find_spec("bitsandbytes") is None:
        return {"skipped": "bitsandbytes is not installed: pip install 'spillover[quantized]'"}
    settings, planned = fitting(name, workload)
    lm = _model(name, workload)
    lm = prepare_in_place(lm, settings)
    mixture = with_references(lm, random_mixture(lm, workload), {"reference"}, batch_size=8)
    clock = Clock(workload.seconds)
    with tempfile.TemporaryDirectory() as folder:
        unlearn_in_place(lm, mixture, settings, folder=folder, callbacks=[clock])
    name_of_device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    known = [value for part, value in PEAK_TERAFLOPS.items() if part in name_of_device]
    teraflops = peak_teraflops or (known[0] if known else None)
    rate = median([2 * workload.rows * workload.tokens / s for s in clock.seconds[1:]])
    per_token = flops(lm.model, workload) / workload.tokens
    used = rate["value"] * per_token / (teraflops * 1e12) if teraflops else None
    ratio = peak() / planned if torch.cuda.is_available() else None
    return {
        "workload": asdict(workload),
        "micro_rows": settings.micro_batch_size,
        "gradient_checkpointing": settings.activation_checkpointing,
        "tokens_per_second": rate,
        "peak_teraflops": teraflops or f"not known of {name_of_device}: --peak-teraflops",
        "utilisation": used,
        "peak_gigabytes": peak() / 1e9,
        "planned_gigabytes": planned / 1e9,
        "peak_over_planned": ratio,
        "met": {
            "utilisation": None if used is None else used >= UTILISATION,
            "peak_over_planned": None if ratio is None else 1 / OF_PLAN <= ratio <= OF_PLAN,
        },
    }


def fitting(name: str, workload: GpuWorkload) -> tuple[TrainingSettings, float]:
    """The fastest settings whose planned memory is free, and that memory in bytes."""
    free = float(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else float("inf")
    tried = [(settings, planned_bytes(name, settings, workload)) for settings in _ways(workload)]
    return next((one for one in tried if one[1] <= FULL * free), tried[-1])


def planned_bytes(name: str, settings: TrainingSettings, workload: GpuWorkload) -> float:
    """What the plan says of a step's memory."""
    footprint = footprint_of(config_of_shape(name), settings, torch.bfloat16)
    size = 0.55 if workload.four_bit else 2.0
    weights = Weights(footprint.parameters, round(size * footprint.parameters))
    micro = settings.micro_batch_size or workload.rows
    return step_memory(
        weights, footprint, settings, StepRows(micro, micro, workload.tokens, workload.response)
    )


def _ways(workload: GpuWorkload) -> Iterator[TrainingSettings]:
    settings = TrainingSettings(
        lora_rank=workload.rank,
        lora_alpha=workload.rank,
        batch_size=workload.rows,
        max_steps=workload.steps + 2,
    )
    sizes = [n for n in range(workload.rows, 0, -1) if workload.rows % n == 0]
    if not workload.four_bit:
        yield from (replace(settings, micro_batch_size=n) for n in sizes if n >= min(4, sizes[0]))
    again = replace(settings, activation_checkpointing=True)
    yield from (replace(again, micro_batch_size=n) for n in ([1] if workload.four_bit else sizes))


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

    The peak of GPU memory is counted from there on, optimizer states included. Training stops
    after ``most`` seconds, with at least two steps timed.
    """

    def __init__(self, most: float) -> None:
        self.most = most
        self.seconds: list[float] = []
        self.last: float | None = None
        self.began = perf_counter()

    def on_step_end(self, _arguments: Any, _state: Any, control: Any, **_keywords: Any) -> None:
        wait()
        now = perf_counter()
        if self.last is not None:
            self.seconds.append(now - self.last)
        else:
            self.began = now
            peak(reset=True)
        self.last = now
        control.should_training_stop |= now - self.began > self.most and len(self.seconds) > 2


def arms_in_a_row(
    name: str, workload: GpuWorkload = GpuWorkload(rows=4, tokens=256, steps=2), arms: int = 3
) -> dict[str, Any]:
    """Memory at the start of each of several arms, and its peak, next to the base model.

    Each arm is a copy of the base that is trained and dropped; nobody looks for cycles in between.
    """
    import copy

    base = random_model(name)
    settings = TrainingSettings(
        lora_rank=workload.rank,
        lora_alpha=workload.rank,
        batch_size=workload.rows,
        activation_checkpointing=True,
        max_steps=workload.steps,
    )
    found = []
    for _ in range(arms):
        peak(reset=True)
        start = held()
        lm = replace(base, model=copy.deepcopy(base.model))
        lm = prepare_in_place(lm, settings)
        with tempfile.TemporaryDirectory() as folder:
            unlearn_in_place(lm, random_mixture(lm, workload), settings, folder=folder)
        del lm
        found.append((start, peak()))
    starts, peaks = zip(*found, strict=True)
    return {
        "start_gigabytes": [one / 1e9 for one in starts],
        "peak_gigabytes": [one / 1e9 for one in peaks],
        "met": {
            "flat_start": max(starts) <= 1.01 * starts[0] + WORKSPACE,
            "flat_peak": max(peaks) <= 1.02 * peaks[0] + WORKSPACE,
        },
    }


def _model(name: str, workload: GpuWorkload) -> LanguageModel:
    # The 16-bit weights do not fit next to the 4-bit ones, so they are made on the CPU.
    lm = random_model(name, on="cpu" if workload.four_bit else None)
    if workload.four_bit:
        _to_four_bit(lm.model)
        lm.model.to(device())
    return lm


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


def random_mixture(lm: LanguageModel, workload: GpuWorkload) -> Mixture:
    """As many retain as forget examples, of random tokens."""

    def examples(group: str, seed: int) -> list[Example]:
        lengths = [workload.tokens] * workload.rows
        rows = random_rows(lm, lengths, response=workload.response, seed=seed)
        return [Example(f"{group} {i}", row) for i, row in enumerate(rows)]

    return Mixture(examples("forget", 0), {"retain": examples("retain", 1)})
