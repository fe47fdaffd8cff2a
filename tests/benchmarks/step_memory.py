"""What plans choose for Qwen2.5-7B on GPUs of several sizes, and the memory that a step then takes.

    PYTHONPATH=SIMCUDA:. python -m tests.benchmarks.step_memory 80 40 24:4bit

``SIMCUDA`` is the folder of a built simulated CUDA in dry mode: it counts the memory of tensors and
computes nothing, so that no GPU is needed. Each card has its own process. A study with retain data
in its default settings: adapters of rank 128, 32 + 32 rows in a step, bfloat16, rows of 256 tokens
of which 128 are the response, the base model next to the arm. Prints a line of JSON for each card.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import nn

if TYPE_CHECKING:
    from analyses.costs import Memory
    from analyses.study import StudyPlan

GIB = 2**30
PROMPT, ANSWER = 128, 128
BLOCK = 64  # weights of a 4-bit base that share a float32 scale


class FourBit(nn.Linear):
    """A linear module with the memory of a 4-bit one: packed weights, and unpacked while used."""

    def __init__(self, inputs: int, outputs: int, bias: nn.Parameter | None = None) -> None:
        super().__init__(inputs, outputs, bias=False, device="meta")
        numbers = inputs * outputs
        packed = torch.empty(numbers // 2, 1, dtype=torch.uint8, device="cuda")
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.register_buffer("scales", torch.empty(numbers // BLOCK, device="cuda"))
        self.bias = bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = _Product.apply(inputs, (self.out_features, self.in_features))
        return output if self.bias is None else output + self.bias


class _Product(torch.autograd.Function):
    """``inputs`` times unpacked weights, which are unpacked again in the backward."""

    @staticmethod
    def forward(context: Any, inputs: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        context.shape = shape
        return inputs @ torch.empty(shape, dtype=inputs.dtype, device=inputs.device).T

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        [above] = gradients
        return above @ torch.empty(context.shape, dtype=above.dtype, device=above.device), None


def model_of(config: Any, *, four_bit: bool) -> Any:
    """A model on the device, with numbers that nobody has set."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta" if four_bit else "cuda"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if four_bit:
        for parent in [m for layer in model.model.layers for m in layer.modules()]:
            for name, module in list(parent.named_children()):
                if isinstance(module, nn.Linear):
                    setattr(
                        parent, name, FourBit(module.in_features, module.out_features, module.bias)
                    )
        model._apply(lambda one: torch.empty_like(one, device="cuda") if one.is_meta else one)
    return model.eval()


def save_headers(folder: Path, config: Any, *, four_bit: bool) -> None:
    """The configuration, and a weights file that is all header: its numbers are a hole."""
    from transformers import AutoModelForCausalLM

    config.save_pretrained(folder)
    with torch.device("meta"):
        state = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).state_dict()
    entries: dict[str, Any] = {}
    end = 0
    for name, tensor in state.items():
        packed = four_bit and ".layers." in name and tensor.ndim == 2
        shapes = {name: ("BF16", list(tensor.shape), 2 * tensor.numel())}
        if packed:
            numbers = tensor.numel()
            shapes = {
                name: ("U8", [numbers // 2, 1], numbers // 2),
                f"{name}.absmax": ("F32", [numbers // BLOCK], 4 * numbers // BLOCK),
            }
        for key, (dtype, shape, size) in shapes.items():
            entries[key] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
            end += size
    header = json.dumps(entries).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)


def planned(folder: Path) -> tuple[StudyPlan, list[str], Memory]:
    """The plan of a study of the model in ``folder`` with retain data, made to fit the device.

    Returns:
        the plan, the lines that say what was chosen, and its memory.
    """
    import pandas as pd

    from analyses.costs import Reading
    from analyses.runs import RunFolder
    from analyses.study import StudyPlan, unlearning_arms
    from analyses.study.fitting import fitted, study_memory
    from unlearning.training import TrainingSettings

    arms = unlearning_arms(
        ("safety",), TrainingSettings(), seeds=(0,), retain={"safety": ("privacy",)},
        weights=(1.0,), control=False,
    )  # fmt: skip
    plan = StudyPlan(
        str(folder), arms, ("safety",), max_new_tokens=ANSWER, model_options={"device": "cuda"}
    )
    prompts, lengths = pd.DataFrame({"prompt": [""]}), Reading(PROMPT, PROMPT, ANSWER)
    with patch("analyses.study.fitting.reading_for", return_value=lengths):
        plan, lines = fitted(plan, prompts, RunFolder(folder / "run"))
        memory = study_memory(plan, prompts)
    assert memory is not None
    return plan, lines, memory


def compared(card: int, *, four_bit: bool) -> dict[str, Any]:
    """The plan on this process's device, and the peak of two steps of its last arm."""
    import simcuda  # type: ignore[import-not-found]

    from tests.benchmarks.gpu.models import config_of_shape

    config = config_of_shape("qwen2.5-7b")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_headers(folder, config, four_bit=four_bit)
        plan, lines, memory = planned(folder)
        simcuda.lib.sim_dry(1)
        settings = plan.arms[-1].settings
        peak = _peak(config, settings, folder, four_bit=four_bit)
    return {
        "card": card,
        "four_bit": four_bit,
        "micro": settings.micro_batch_size or settings.batch_size,
        "checkpointing": settings.activation_checkpointing,
        "planned": memory.device / GIB,
        "measured": peak / GIB,
        "ratio": memory.device / peak,
        "says": lines,
    }


def _peak(config: Any, settings: Any, folder: Path, *, four_bit: bool) -> float:
    from dataclasses import replace

    from interp.model import Chat, LanguageModel, SelfCheck
    from tests.benchmarks.gpu.step import GpuWorkload
    from tests.checkpoints import build_tokenizer
    from unlearning.training import prepare_in_place

    micro = settings.micro_batch_size or settings.batch_size
    # More forwards in a step take time, not memory.
    settings = replace(settings, batch_size=micro, micro_batch_size=None, max_steps=2)
    workload = GpuWorkload(rows=micro, tokens=PROMPT + ANSWER, response=ANSWER)
    tokenizer = build_tokenizer("qwen2")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    base, arm = (
        LanguageModel(model_of(config, four_bit=four_bit), tokenizer, Chat(tokenizer), name)
        for name in ("base", "arm")
    )
    # Checks of numbers, of which there are none.
    training = "unlearning.training"
    with (
        patch("interp.model.language_model.check_model", lambda _lm: SelfCheck()),
        patch(f"{training}.trainer.probe_logits"),
        patch(f"{training}.trainer.check_train_mode"),
        patch(f"{training}.adapters.without_gradient", return_value=[]),
    ):
        arm = prepare_in_place(arm, settings)
        peak = _trained(arm, settings, workload, folder)
    assert base.model is not arm.model
    return peak


def _trained(arm: Any, settings: Any, workload: Any, folder: Path) -> float:
    from dataclasses import replace

    from tests.benchmarks.gpu.step import random_mixture
    from unlearning.training import Mixture, unlearn_in_place

    made = random_mixture(arm, workload)
    known = torch.zeros(ANSWER)
    mixture = Mixture([replace(one, reference=known) for one in made.forget], made.retain)
    torch.cuda.reset_peak_memory_stats()
    unlearn_in_place(arm, mixture, settings, folder=folder / "training")
    return float(torch.cuda.max_memory_allocated())


def main() -> None:
    """Compare the cards that are named, each in its own process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "cards", nargs="+", help="GiB of a card, as in 80; 24:4bit for a 4-bit base"
    )
    parser.add_argument("--here", action="store_true", help="in this process")
    given = parser.parse_args()
    for card in given.cards:
        size, _, kind = card.partition(":")
        if given.here:
            print(json.dumps(compared(int(size), four_bit=kind == "4bit")), flush=True)
            continue
        environment = {**os.environ, "SIMCUDA_TOTAL": str(int(size) * GIB)}
        command = [sys.executable, "-m", "tests.benchmarks.step_memory", "--here", card]
        subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
