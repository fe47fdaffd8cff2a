"""The memory of a study, and the rows of a forward with which its training fits the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from analyses.costs import (
    CostedModel,
    Device,
    Footprint,
    Memory,
    Reading,
    StepRows,
    Weights,
    device_of,
    peak,
    reading_memory,
    reading_of,
    step_memory,
    trained_model,
)
from analyses.study.launcher import processes
from analyses.study.plan import ArmPlan, StudyPlan
from analyses.study.resolve import defaults_for
from analyses.study.work import FORECAST_GROUPS, batch_of
from interp.store import read_json

if TYPE_CHECKING:
    import pandas as pd

    from analyses.runs import RunFolder
    from unlearning.training import TrainingSettings

# Share of the free memory that a plan may fill, and the fewest rows of a forward on a GPU that is
# not mostly idle: before fewer rows, activations are computed again.
FULL, FEWEST_ROWS = 0.9, 4


def fitted(
    plan: StudyPlan, prompts: pd.DataFrame, run: RunFolder, *, more_models: int = 0
) -> tuple[StudyPlan, list[str]]:
    """The plan with as many rows in a forward as fit the device, and what was chosen, in lines.

    The gradient is that of the whole batch. The user's own micro-batch stays, and so does what an
    earlier session of the run chose.
    """
    settings = largest(plan)
    shared = processes() > 1  # a launcher's processes share the rows
    if settings is None or settings.micro_batch_size is not None or shared:
        return plan, []
    if (earlier := _earlier(plan, run)) is not None:
        return _with(plan, *earlier), [_line(*earlier, settings)] if any(earlier) else []
    reading = reading_for(plan, prompts)
    found = CostedModel(plan.model, plan.model_options).footprint(settings)
    device = device_of(plan.model_options)
    if found is None or device.free is None:
        return plan, []
    for micro, checkpointing in _ways(settings, found[1]):
        smaller = _with(plan, micro, checkpointing)
        if _fits(smaller, reading, found, device, more_models):
            return smaller, [_line(micro, checkpointing, settings)] if smaller != plan else []
    return plan, [
        "batch: not even one forget example in one forward fits the device; give a smaller model, "
        "a quantised one, a lower --lora-rank, or another --device"
    ]


def _ways(settings: TrainingSettings, footprint: Footprint) -> Iterator[tuple[int | None, bool]]:
    """Micro-batches and gradient checkpointing, the fastest first."""
    size, given = settings.batch_size, settings.activation_checkpointing
    rows = [None, *(n for n in range(size - 1, 0, -1) if size % n == 0)]
    large = [n for n in rows if n is None or n >= FEWEST_ROWS]
    yield from ((n, given) for n in large)
    if not given and footprint.recomputes:
        yield from ((n, True) for n in rows)
    yield from ((n, given) for n in rows if n not in large)


def _fits(
    plan: StudyPlan,
    reading: Reading,
    found: tuple[Weights, Footprint],
    device: Device,
    more_models: int,
) -> bool:
    settings = largest(plan)
    batch = batch_of(settings, plan, reading) if settings else None
    # Generating takes fewer prompts at a time where they do not fit; a training step does not.
    memory = memory_of(
        replace(plan, batch_size=1), reading, batch, *found, settings, more_models=more_models
    )
    return (memory.device or memory.main) <= FULL * (device.free or 0)


def _with(plan: StudyPlan, micro: int | None, checkpointing: bool) -> StudyPlan:
    def smaller(training: TrainingSettings) -> TrainingSettings:
        rows = None
        if micro is not None:
            size = training.batch_size
            rows = max(n for n in range(1, min(micro, size) + 1) if size % n == 0)
        return replace(training, micro_batch_size=rows, activation_checkpointing=checkpointing)

    arms = (
        replace(arm, training=smaller(arm.training)) if arm.training else arm for arm in plan.arms
    )
    return replace(plan, arms=tuple(arms))


def _earlier(plan: StudyPlan, run: RunFolder) -> tuple[int | None, bool] | None:
    """What an earlier session of the same run chose."""
    for arm in plan.arms:
        path = run.arm(arm.name) / "config.json"
        held: Any = read_json(path, ()).get("training") if arm.training and path.is_file() else None
        if held:
            given = arm.settings.activation_checkpointing  # what the user gives now holds
            return held.get("micro_batch_size"), given or bool(held.get("activation_checkpointing"))
    return None


def _line(micro: int | None, checkpointing: bool, settings: TrainingSettings) -> str:
    rows = micro or settings.batch_size
    again = " and gradient checkpointing" if checkpointing else ""
    return (
        f"batch: {rows} of {settings.batch_size} forget examples in one forward{again}, so that a "
        "step fits the device; the gradient is that of the whole batch"
    )


def study_memory(plan: StudyPlan, prompts: pd.DataFrame) -> Memory | None:
    """The peak of a study on its device and in main memory; None while it is unknown."""
    reading = reading_for(plan, prompts)
    settings = largest(plan)
    batch = batch_of(settings, plan, reading) if settings else None
    found = CostedModel(plan.model, plan.model_options).footprint(settings)
    return None if found is None else memory_of(plan, reading, batch, *found, settings)


def reading_for(plan: StudyPlan, prompts: pd.DataFrame) -> Reading:
    texts = list(prompts["prompt"])
    usual = defaults_for(plan.model).usual_answer
    return reading_of(texts, plan.max_new_tokens, plan.model, plan.model_options, usual=usual)


def largest(plan: StudyPlan) -> TrainingSettings | None:
    """The settings of the arm with the most trained parameters."""
    trained = [arm.training for arm in plan.arms if arm.training]
    order = ("lora", "projections", "all")
    return max(trained, key=lambda s: (order.index(s.trained), s.lora_rank), default=None)


def memory_of(
    plan: StudyPlan,
    reading: Reading,
    batch: StepRows | None,
    weights: Weights,
    footprint: Footprint,
    settings: TrainingSettings | None,
    *,
    more_models: int = 0,
) -> Memory:
    """The peak of a study: the base model next to an arm that trains, or that answers."""
    more = more_models * weights.held
    length = reading.prompt + reading.answer
    answering = reading_memory(footprint, plan.batch_size, length)
    device = device_of(plan.model_options)
    if settings is None or batch is None:
        copies = 2 if plan.arms else 1
        return peak(device, copies * weights.held + answering, copies * weights.held)
    batch = replace(batch, tokens=length, response=reading.answer)
    arm = trained_model(weights, footprint, settings)
    training = step_memory(weights, footprint, settings, batch)
    if holds_reference(plan):
        training += 4 * weights.parameters
    if settings.trained == "lora" and weights.dtype in ("float32", "float64"):
        answering += weights.held  # kept aside while the adapters are merged for reading
    on_device = weights.held + more + max(training, arm + answering)
    # At an arm's end the trained model moves to main memory and is compared with its files.
    return peak(device, on_device, weights.held * (1 + device.is_cpu) + arm + more)


def with_forecast(
    memory: Memory,
    settings: TrainingSettings,
    prompts: pd.DataFrame,
    reading: Reading,
    footprint: Footprint,
    *,
    streamed: bool,
) -> Memory:
    """The peak with what a forecast holds in addition to its batches.

    In main memory three gradients of every group, and two diagonals. A streamed forecast holds one
    layer's inputs and output gradients of all rows, where the model runs.
    """
    if not streamed:
        moving = footprint.trained / (2 if settings.trained == "lora" else 1)  # LoRA's A has none
        return replace(memory, main=memory.main + 4 * (3 * FORECAST_GROUPS + 2) * moving)
    train = prompts[prompts["split"] == "train"]
    asked = int((train["label"] == "harmful").sum())
    traces = asked * (2 * reading.prompt + reading.usual * reading.answer) * footprint.layer
    if memory.device:
        return replace(memory, device=memory.device + traces)
    return replace(memory, main=memory.main + traces)


def holds_reference(plan: StudyPlan) -> bool:
    trained = [arm for arm in plan.arms if arm.training]
    full = any(arm.training and arm.training.trained != "lora" for arm in trained)
    return full and any(_reads_reference(arm) for arm in trained)


def _reads_reference(arm: ArmPlan) -> bool:
    """Whether a term needs more of the reference than its cached log-probs."""
    from unlearning.losses import RETAIN, for_forgetting

    terms = [for_forgetting(arm.settings.objective)]
    terms += [RETAIN.find(arm.settings.retain_objective)] if arm.retain else []
    return any(need in ("reference_logits", "reference_states") for t in terms for need in t.needs)
