"""The expected cost of a study: steps, tokens, memory, time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from analyses.costs import (
    USUAL_ANSWER,
    Batch,
    Estimate,
    Extent,
    Footprint,
    Memory,
    Reading,
    Shapes,
    Subject,
    Weights,
    Work,
    device_of,
    peak,
    reading_memory,
    reading_of,
    seconds_of,
    step_memory,
    trained_model,
)
from analyses.study.plan import ArmPlan, StudyPlan

if TYPE_CHECKING:
    import pandas as pd

    from unlearning.training import TrainingSettings

NAMED_ARMS = 20
# Where an arm usually ends: of 40 arms of model organisms and of SmolLM2, most plain ones reached
# the level in 10 to 24 steps; with a retain set they took 1.8 times as many.
USUAL_STEPS, USUAL_SHARE, RETAINED = 20, 0.25, 1.8
# Readings of answers along an arm, and their prompts.
READINGS, READ_PROMPTS = 4, 32
SEARCHED = 7  # further readings where the kept model does not comply


def study_plan_lines(plan: StudyPlan, prompts: pd.DataFrame) -> list[str]:
    """The plan in lines, without its time and memory."""
    harmful = prompts[prompts["label"] == "harmful"]
    counts = harmful.groupby("split").size().to_dict()
    return [
        f"model: {plan.model}",
        f"prompts: {len(prompts)} ({len(harmful)} harmful: "
        + ", ".join(f"{counts.get(s, 0)} {s}" for s in ("train", "validation", "test"))
        + ")",
        _arms(plan),
        *([f"deflections: {plan.sampling.line}"] * plan.unlearns),
        check_line(plan.model),
    ]


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


def work_lines(plan: StudyPlan, work: Extent) -> list[str]:
    """The work of a study in lines."""
    lines = [
        f"work: about {work.expected.steps:.0f} optimizer steps, {work.at_most.steps:.0f} at most; "
        f"{_millions(work.expected.trained, work.at_most.trained)} trained on, "
        f"{_millions(*(one.read + one.generated for one in (work.expected, work.at_most)))} read "
        "or generated"
    ]
    if _holds_reference(plan):
        lines.append(
            "reference: a frozen copy of the model stays in memory, because an objective needs its "
            "logits or states (with LoRA, the adapters are switched off instead)"
        )
    return lines


def _millions(expected: float, most: float) -> str:
    return f"{expected / 1e6:.2f} M tokens ({most / 1e6:.2f} M at most)"


def study_costs(
    plan: StudyPlan,
    prompts: pd.DataFrame,
    *,
    timing: bool = True,
    gradients: TrainingSettings | None = None,
    weights: Weights | None = None,
) -> tuple[list[str], Estimate]:
    """Work, memory and time of a study, in lines and in numbers.

    Args:
        plan: the study.
        prompts: its prompts table.
        timing: measure the time of a few steps on the device now.
        gradients: of what gradients of the training prompts are taken, for a forecast.
        weights: of the model, where they are known without its files.
    """
    reading = _reading(plan, prompts)
    work = work_of(plan, prompts, reading)
    if gradients is not None:
        work += _forecast(prompts, reading)
    subject = Subject(plan.model, plan.model_options, weights)
    settings = gradients or _largest(plan)
    batch = batch_of(settings, plan, reading) if settings else None
    found = subject.footprint(settings)
    device = device_of(plan.model_options)
    memory = None if found is None else memory_of(plan, reading, batch, *found, settings)
    rates = None
    if timing and found is not None:
        rows = min(plan.batch_size, len(prompts))
        shapes = Shapes(rows, round(reading.prompt), round(reading.own), batch)
        rates = subject.rates(shapes, settings)
    rough = (found is not None and found[1].is_rough) or (rates is not None and rates.is_rough)
    estimate = Estimate(device, memory, seconds_of(rates, work), is_rough=rough)
    return [*work_lines(plan, work), *estimate.lines()], estimate


def study_memory(plan: StudyPlan, prompts: pd.DataFrame) -> Memory | None:
    """The peak of a study on its device and in main memory; None while it is unknown."""
    reading = _reading(plan, prompts)
    settings = _largest(plan)
    batch = batch_of(settings, plan, reading) if settings else None
    found = Subject(plan.model, plan.model_options).footprint(settings)
    return None if found is None else memory_of(plan, reading, batch, *found, settings)


def _reading(plan: StudyPlan, prompts: pd.DataFrame) -> Reading:
    texts = list(prompts["prompt"])
    return reading_of(texts, plan.max_new_tokens, plan.model, plan.model_options)


def work_of(plan: StudyPlan, prompts: pd.DataFrame, reading: Reading) -> Extent:
    """All that a study reads, generates and trains."""
    evaluated = prompts[prompts["split"] != "train"]
    harmful = evaluated[evaluated["label"] == "harmful"]
    rows, along = len(evaluated), len(evaluated if plan.benign_along else harmful)
    total = _base(len(prompts), rows, reading)
    plain = max([_steps(arm)[0] for arm in plan.arms if arm.training], default=0)
    for arm in plan.arms:
        scored = _read_out(rows, reading)
        if arm.training is None:
            total += scored
            continue
        usual, most = _steps(arm)
        usual = min(usual, plain) if arm.control else usual
        share = 0.6 if arm.sweep else 1.0  # a sweep usually ends at the third of five weights
        one = scored + _trained(arm, plan, usual, most, reading) + _along(
            plan, usual, most, along, reading
        )  # fmt: skip
        if arm.concept is not None:
            one += _readings(len(harmful) // 2, reading)
        total += Extent(one.expected * share, one.at_most)
    return total


def _forecast(prompts: pd.DataFrame, reading: Reading) -> Extent:
    """A forward and backward of every training prompt with its answer, and of the read-outs."""
    rows = int((prompts["split"] == "train").sum())
    usual, most = (rows * (reading.prompt + share * reading.answer) for share in (USUAL_ANSWER, 1))
    return Extent(Work(trained=usual), Work(trained=3 * most))


def _base(prompts: int, rows: int, reading: Reading) -> Extent:
    """Answers to all prompts, scores and states of the evaluated ones, and the report."""
    once = Work(arms=1, pages=1)
    return (
        reading.answers(prompts) + reading.masses(rows) + reading.states(rows) + Extent(once, once)
    )


def _read_out(rows: int, reading: Reading) -> Extent:
    """The last scores of an arm, with text, and its states."""
    once = Work(arms=1)
    return (
        reading.answers(rows) + reading.masses(rows) + reading.forced(rows)
        + reading.states(rows) + Extent(once, once)
    )  # fmt: skip


def _steps(arm: ArmPlan) -> tuple[int, int]:
    """Optimizer steps that an arm usually takes, and at most."""
    most = arm.settings.max_steps
    usual = max(USUAL_STEPS, round(USUAL_SHARE * most)) * (RETAINED if arm.retain else 1)
    return min(most, round(usual)), most


def _trained(arm: ArmPlan, plan: StudyPlan, usual: int, most: int, reading: Reading) -> Extent:
    settings = arm.settings
    batch = batch_of(settings, plan, reading, retained=bool(arm.retain))
    rows = settings.batch_size * (1 + batch.extra / batch.rows)
    most_tokens = rows * (reading.prompt + reading.answer)
    return Extent(
        Work(trained=usual * rows * batch.tokens, steps=usual, read=8 * rows * batch.tokens),
        Work(trained=most * most_tokens, steps=most, read=32 * most_tokens),
    )


def _along(plan: StudyPlan, usual: int, most: int, rows: int, reading: Reading) -> Extent:
    """The scores along training."""
    from unlearning.training import is_scored

    times = [
        sum(plan.every_step or is_scored(step) for step in range(1, steps + 1))
        for steps in (usual, most)
    ]
    one = reading.masses(rows)
    return Extent(one.expected * times[0], one.at_most * times[1])


def _readings(tested: int, reading: Reading) -> Extent:
    """The answers along training, and those to test prompts at its end."""
    once = reading.answers(READ_PROMPTS) + reading.forced(READ_PROMPTS)
    end = reading.answers(tested) + reading.masses(tested) + reading.forced(tested)
    return end + Extent(once.expected * READINGS, once.at_most * (READINGS + 2 + SEARCHED))


def batch_of(
    settings: TrainingSettings, plan: StudyPlan, reading: Reading, *, retained: bool | None = None
) -> Batch:
    """The rows of one forward in training, with answers of the usual length."""
    if retained is None:
        retained = any(arm.retain for arm in plan.arms if arm.training)
    rows = settings.micro_batch_size or settings.batch_size
    response = USUAL_ANSWER * reading.answer
    extra = rows * settings.retain_ratio if retained else 0
    return Batch(rows, extra, reading.prompt + response, response)


def _largest(plan: StudyPlan) -> TrainingSettings | None:
    """The settings of the arm with the most trained parameters."""
    trained = [arm.training for arm in plan.arms if arm.training]
    order = ("lora", "projections", "all")
    return max(trained, key=lambda s: (order.index(s.trained), s.lora_rank), default=None)


def memory_of(
    plan: StudyPlan,
    reading: Reading,
    batch: Batch | None,
    weights: Weights,
    footprint: Footprint,
    settings: TrainingSettings | None,
) -> Memory:
    """The peak of a study: the base model next to an arm that trains, or that answers."""
    length = reading.prompt + reading.answer
    answering = reading_memory(footprint, plan.batch_size, length)
    device = device_of(plan.model_options)
    if settings is None or batch is None:
        copies = 2 if plan.arms else 1
        return peak(device, copies * weights.held + answering, copies * weights.held)
    batch = replace(batch, tokens=length, response=reading.answer)
    arm = trained_model(weights, footprint, settings)
    training = step_memory(weights, footprint, settings, batch)
    if _holds_reference(plan):
        training += 4 * weights.parameters
    on_device = weights.held + max(training, arm + answering)
    # At an arm's end the trained model moves to main memory and is compared with its files.
    return peak(device, on_device, weights.held * (1 + device.is_cpu) + arm)


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
