"""What a study will take, said before it starts: steps, tokens, memory, time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from analyses.plan import ArmPlan, StudyPlan

if TYPE_CHECKING:
    import pandas as pd

CHARACTERS_A_TOKEN = 4
TEMPLATE_TOKENS = 20
# Share of a matrix product's speed that a transformer's forward reaches: a rule of thumb.
EFFICIENCY = 0.3


def describe(plan: StudyPlan, prompts: pd.DataFrame) -> list[str]:
    """The plan in lines. Upper bounds: training stops earlier once the target is forgotten."""
    harmful = prompts[prompts["label"] == "harmful"]
    counts = harmful.groupby("split").size().to_dict()
    trained = [arm for arm in plan.arms if arm.training]
    lines = [
        f"model: {plan.model}",
        f"prompts: {len(prompts)} ({len(harmful)} harmful: "
        + ", ".join(f"{counts.get(s, 0)} {s}" for s in ("train", "validation", "test"))
        + ")",
        f"arms: {len(plan.arms)} at most ({', '.join(arm.name for arm in plan.arms)})",
    ]
    length = prompts["prompt"].str.len().mean() / CHARACTERS_A_TOKEN + TEMPLATE_TOKENS
    evaluated = prompts[prompts["split"] != "train"]
    asked = evaluated[evaluated["label"] == "harmful"]
    answer = plan.max_new_tokens
    forward = len(prompts) * (length + answer) + len(plan.arms) * len(evaluated) * (length + answer)
    backward = 0.0
    for arm in trained:
        assert arm.training is not None
        rows = arm.training.batch_size * (1 + (arm.training.retain_ratio if arm.retain else 0))
        steps = arm.training.max_steps
        backward += steps * rows * (length + answer)
        forward += (steps if plan.every_step else 60) * len(asked) * length
    steps = sum(arm.training.max_steps for arm in trained if arm.training)
    lines.append(
        f"work: {steps} optimizer steps at most, {backward / 1e6:.1f} M tokens trained on, "
        f"{forward / 1e6:.1f} M tokens read or generated"
    )
    size = checkpoint_size(plan.model)
    if size is None:
        lines.append("memory and time: known once the model has been downloaded")
        return lines
    parameters, held = size
    full = any(arm.training and arm.training.trained != "lora" for arm in plan.arms)
    # Full training: float32 weights, gradients and two AdamW moments. LoRA: the weights, and for
    # rank 128 about a tenth of them again with its gradients and moments in float32.
    memory = parameters * 16 if full else held * 1.1 + parameters * 0.08 * 16
    memory = memory if trained else held * 2
    if full and any(_reads_reference(arm) for arm in trained):
        memory += parameters * 4
        lines.append(
            "reference: a frozen copy of the model is held, as an objective reads its logits or "
            "states (under LoRA the adapters are switched off instead)"
        )
    span = time_of(parameters * (2 * forward + 6 * backward))
    lines.append(
        f"memory: about {memory / 2**30:.1f} GiB and activations; time: {span} at most "
        "on this device, roughly"
    )
    return lines


def _reads_reference(arm: ArmPlan) -> bool:
    """Whether a term needs more of the reference than log-probs, which are cached."""
    from unlearning.registry import RETAIN, find, for_forgetting

    assert arm.training is not None
    terms = [for_forgetting(arm.training.objective)]
    terms += [find(RETAIN, arm.training.retain_objective)] if arm.retain else []
    return any(need in ("reference_logits", "reference_states") for t in terms for need in t.needs)


def checkpoint_size(model: str) -> tuple[int, int] | None:
    """Parameters and bytes of a local checkpoint, from the headers of its weight files."""
    parameters = held = 0
    for path in Path(model).glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                count = 1
                for size in tensor["shape"]:
                    count *= size
                parameters += count
                held += tensor["data_offsets"][1] - tensor["data_offsets"][0]
    return (parameters, held) if parameters else None


def time_of(operations: float) -> str:
    """How long so many floating-point operations take here, in words; measures the device."""
    return _span(operations / (EFFICIENCY * device_speed()))


def device_speed() -> float:
    """Floating-point operations a second of a matrix product on the device in use."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 4096 if device == "cuda" else 512
    matrix = torch.randn(
        size, size, device=device, dtype=torch.bfloat16 if device == "cuda" else None
    )
    for _ in range(2):
        started = time.perf_counter()
        for _ in range(4):
            matrix @ matrix
        if device == "cuda":
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - started
    return 4 * 2 * size**3 / elapsed


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
