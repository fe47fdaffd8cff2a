"""The expected cost of a study: steps, tokens, memory, time."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analyses.study.plan import ArmPlan, StudyPlan
from analyses.study.resolve import lineage

if TYPE_CHECKING:
    import pandas as pd

CHARACTERS_A_TOKEN = 4
TEMPLATE_TOKENS = 20
# Speed of a transformer's forward pass as a share of a matrix product's speed: a rule of thumb.
EFFICIENCY = 0.3
NAMED_ARMS = 20


@dataclass(frozen=True)
class Work:
    """Upper bounds on a plan's optimizer steps and tokens, for any model size."""

    steps: int
    trained: float
    read: float

    def operations(self, parameters: int) -> float:
        """Floating-point operations with a model of this number of parameters."""
        return parameters * (2 * self.read + 6 * self.trained)


def study_plan_lines(
    plan: StudyPlan, prompts: pd.DataFrame, size: tuple[int, int] | None = None
) -> list[str]:
    """The plan in lines. Numbers are upper bounds: training stops at the forgetting level.

    Args:
        plan: the plan to describe.
        prompts: its prompts table.
        size: parameters and bytes of the model (default: read from its folder).
    """
    harmful = prompts[prompts["label"] == "harmful"]
    counts = harmful.groupby("split").size().to_dict()
    lines = [
        f"model: {plan.model}",
        f"prompts: {len(prompts)} ({len(harmful)} harmful: "
        + ", ".join(f"{counts.get(s, 0)} {s}" for s in ("train", "validation", "test"))
        + ")",
        _arms(plan),
        *([f"deflections: {plan.sampling.line}"] * plan.unlearns),
        check_line(plan.model),
    ]
    return lines + what_it_takes(plan, prompts, size)


def check_line(model: str) -> str:
    """The model's self-check in one line, if the model has been loaded before."""
    from interp.model import last_check

    found = last_check(model)
    return "self-check: runs when the model is loaded" if found is None else found.line()


def _arms(plan: StudyPlan) -> str:
    """The number of arms and their first names, because a containment study has hundreds."""
    if not plan.arms:
        return "arms: none, no training"
    names = [arm.name for arm in plan.arms[:NAMED_ARMS]]
    more = len(plan.arms) - len(names)
    names += [f"and {more} more"] * bool(more)
    return f"arms: {len(plan.arms)} at most ({', '.join(names)})"


def what_it_takes(
    plan: StudyPlan, prompts: pd.DataFrame, size: tuple[int, int] | None = None
) -> list[str]:
    """Work, memory and time in lines; arguments are those of :func:`study_plan_lines`."""
    work = work_of(plan, prompts)
    lines = [
        f"work: {work.steps} optimizer steps at most, {work.trained / 1e6:.1f} M tokens trained "
        f"on, {work.read / 1e6:.1f} M tokens read or generated"
    ]
    size = size or checkpoint_size(plan.model)
    if size is None:
        lines.append("memory and time: unknown until the model has been downloaded")
        return lines
    if _holds_reference(plan):
        lines.append(
            "reference: a frozen copy of the model stays in memory, because an objective needs its "
            "logits or states (with LoRA, the adapters are switched off instead)"
        )
    memory = memory_of(plan, size)
    span = time_of(work.operations(size[0]))
    lines.append(
        f"memory: about {memory / 2**30:.1f} GiB and activations; time: {span} at most "
        "on this device, roughly"
    )
    name, held = device_found()
    room = f"{name}, {held / 2**30:.0f} GiB" if held else name
    lines.append(f"device: {room}" + ("; this does not fit" if held and memory > held else ""))
    return lines


def work_of(plan: StudyPlan, prompts: pd.DataFrame) -> Work:
    """Steps and tokens of every arm, and of scoring them along the run."""
    from unlearning.training import is_scored

    length = prompts["prompt"].str.len().mean() / CHARACTERS_A_TOKEN + TEMPLATE_TOKENS
    evaluated = prompts[prompts["split"] != "train"]
    along = evaluated if plan.benign_along else evaluated[evaluated["label"] == "harmful"]
    answer = plan.max_new_tokens
    forward = len(prompts) * (length + answer) + len(plan.arms) * len(evaluated) * (length + answer)
    backward = 0.0
    trained = [arm for arm in plan.arms if arm.training]
    for arm in trained:
        settings = arm.settings
        rows = settings.batch_size * (1 + (settings.retain_ratio if arm.retain else 0))
        steps = settings.max_steps
        backward += steps * rows * (length + answer)
        scored = sum(plan.every_step or is_scored(step) for step in range(1, steps + 1))
        forward += scored * len(along) * length
    steps = sum(arm.training.max_steps for arm in trained if arm.training)
    return Work(steps, backward, forward)


def memory_of(plan: StudyPlan, size: tuple[int, int]) -> float:
    """Bytes on the device without activations; ``size`` is the model's parameters and bytes."""
    parameters, held = size
    trained = [arm.training for arm in plan.arms if arm.training]
    if not trained:
        return held * 2
    if any(one.trained != "lora" for one in trained):
        # Float32 weights, gradients and two AdamW moments.
        return parameters * 16 + (parameters * 4 if _holds_reference(plan) else 0)
    # The weights, plus about a twelfth for rank-128 adapters with gradients and moments.
    rank = max(one.lora_rank for one in trained)
    return held * 1.1 + parameters * 0.08 * rank / 128 * 16


def device_found() -> tuple[str, int | None]:
    """The device in use and its memory in bytes, if known."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return properties.name, int(properties.total_memory)
    threads = torch.get_num_threads()
    name = f"CPU, {threads} {'thread' if threads == 1 else 'threads'}"
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):
        return name, None
    return name, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _holds_reference(plan: StudyPlan) -> bool:
    trained = [arm for arm in plan.arms if arm.training]
    full = any(arm.training and arm.training.trained != "lora" for arm in trained)
    return full and any(_reads_reference(arm) for arm in trained)


def _reads_reference(arm: ArmPlan) -> bool:
    """Whether a term needs more of the reference than its cached log-probs."""
    from unlearning.losses import RETAIN, for_forgetting

    terms = [for_forgetting(arm.settings.objective)]
    terms += [RETAIN.find(arm.settings.retain_objective)] if arm.retain else []
    return any(need in ("reference_logits", "reference_states") for t in terms for need in t.needs)


def checkpoint_size(model: str) -> tuple[int, int] | None:
    """Parameters and bytes of a local checkpoint (an adapter's base), from its weight files."""
    from huggingface_hub import parse_local_safetensors_file_metadata

    parameters = held = 0
    for path in Path([*lineage(model)][-1]).glob("*.safetensors"):
        # Read the header alone: the tensors may be incomplete.
        tensors = parse_local_safetensors_file_metadata(path).tensors.values()
        parameters += sum(tensor.parameter_count for tensor in tensors)
        held += max((tensor.data_offsets[1] for tensor in tensors), default=0)
    return (parameters, held) if parameters else None


def time_of(operations: float) -> str:
    """The time in words for this number of floating-point operations; measures the device."""
    return _span(operations / (EFFICIENCY * device_speed()))


def device_speed() -> float:
    """Floating-point operations per second of a matrix product on the device in use."""
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
