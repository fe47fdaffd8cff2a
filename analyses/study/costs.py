"""The expected cost of a study: steps, tokens, memory, time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyses.costs import (
    CostedModel,
    CostEstimate,
    Extent,
    Reading,
    Shapes,
    Weights,
    device_of,
    time_range,
    with_readers,
)
from analyses.study.fitting import holds_reference, largest, memory_of, reading_for, with_forecast
from analyses.study.plan import StudyPlan
from analyses.study.readout import other_reader
from analyses.study.resolve import scorer_of
from analyses.study.work import (
    Counted,
    batch_of,
    forecast_rows,
    forecast_work,
    streamed_work,
    why_no_gate,
    work_of,
)
from unlearning.scoring import readers_of

if TYPE_CHECKING:
    import pandas as pd

    from unlearning.training import TrainingSettings

NAMED_ARMS = 20


def study_plan_lines(
    plan: StudyPlan, prompts: pd.DataFrame, *, most: int | None = None
) -> list[str]:
    """The plan in lines, without its time and memory; ``most`` arms of the plan's are made."""
    harmful = prompts[prompts["label"] == "harmful"]
    counts = harmful.groupby("split").size().to_dict()
    return [
        f"model: {plan.model}",
        f"prompts: {len(prompts)} ({len(harmful)} harmful: "
        + ", ".join(f"{counts.get(s, 0)} {s}" for s in ("train", "validation", "test"))
        + ")",
        _arms(plan) if most is None else f"arms: {most} at most",
        *_unlearned(plan),
        *_deflections(plan),
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


def _unlearned(plan: StudyPlan) -> list[str]:
    """What the arms unlearn and how, and what they retain."""
    trained = [arm for arm in plan.arms if arm.training and arm.concept]
    if not trained:
        return []
    concepts, objectives, weights, retained = (
        ", ".join(dict.fromkeys(found))
        for found in (
            [arm.concept or "" for arm in trained],
            [arm.settings.objective for arm in trained],
            [arm.settings.trained for arm in trained],
            [domain for arm in trained for domain in arm.retain],
        )
    )
    lines = [f"unlearned: {concepts} (objective: {objectives}; trained: {weights})"]
    return lines + [f"retained in some arms: {retained}"] * bool(retained)


def _deflections(plan: StudyPlan) -> list[str]:
    """Where the refusals come from that the arms train on."""
    if plan.deflections is None:
        return [f"deflections: {plan.sampling.line}"] * plan.unlearns
    retained = f"; of retained domains: {plan.sampling.line}" * bool(
        plan.deflected(ready_made=True)
    )
    return [f"deflections: those in {plan.deflections}{retained}"]


def work_lines(plan: StudyPlan, work: Extent) -> list[str]:
    """The work of a study in lines."""
    lines = [
        f"work: about {work.expected.steps:.0f} optimizer steps, {work.at_most.steps:.0f} at most; "
        f"{_millions(work.expected.trained, work.at_most.trained)} trained on, "
        f"{_millions(*(one.read + one.generated for one in (work.expected, work.at_most)))} read "
        "or generated"
    ]
    if holds_reference(plan):
        lines.append(
            "reference: a frozen copy of the model stays in memory, because an objective needs its "
            "logits or states (with LoRA, the adapters are switched off instead)"
        )
    return lines


def _gate_line(plan: StudyPlan, prompts: pd.DataFrame, reading: Reading) -> list[str]:
    """Whether the direction gate is measured; nothing where it was not asked for."""
    if plan.gate is False:
        return []
    why = why_no_gate(plan, prompts, reading)
    return ["direction gate: " + (f"not measured, because {why}" if why else "measured")]


def _millions(expected: float, most: float) -> str:
    return f"{expected / 1e6:.3g} M tokens ({most / 1e6:.3g} M at most)"


def study_costs(
    plan: StudyPlan,
    prompts: pd.DataFrame,
    *,
    timing: bool = True,
    gradients: TrainingSettings | None = None,
    streamed: bool = False,
    weights: Weights | None = None,
    counted: Counted = work_of,
    more_models: int = 0,
) -> tuple[list[str], CostEstimate]:
    """Work, memory and time of a study, in lines and in numbers.

    Args:
        plan: the study.
        prompts: its prompts table.
        timing: measure the time of a few steps on the device now.
        gradients: of what gradients of the training prompts are taken, for a forecast.
        streamed: whether the forecast stores no gradients.
        weights: of the model, where they are known without its files.
        counted: counts the work.
        more_models: that are on the device with the base and the trained one.
    """
    reading = reading_for(plan, prompts)
    work = counted(plan, prompts, reading)
    subject = CostedModel(plan.model, plan.model_options, weights)
    settings = gradients or largest(plan)
    batch = batch_of(settings, plan, reading) if settings else None
    found = subject.footprint(settings)
    device = device_of(plan.model_options)
    if gradients is not None and batch is not None:
        batch = forecast_rows(batch, prompts)
        if streamed and found is not None:
            work += streamed_work(prompts, reading, found[1].layers)
        else:
            work += forecast_work(prompts, reading)
    memory = None
    if found is not None:
        memory = memory_of(plan, reading, batch, *found, settings, more_models=more_models)
        if gradients is not None:
            memory = with_forecast(memory, gradients, prompts, reading, found[1], streamed=streamed)
    rates = None
    if timing and found is not None:
        rows = min(plan.batch_size, len(prompts))
        shapes = Shapes(rows, round(reading.prompt), round(reading.own), batch)
        rates = subject.rates(shapes, settings)
    rough = (found is not None and found[1].is_rough) or (rates is not None and rates.is_rough)
    estimate = CostEstimate(
        device,
        memory,
        time_range(rates, work),
        is_rough=rough,
        is_crowded=rates is not None and rates.is_crowded,
        weights=found[0] if found else None,
    )
    scorer = scorer_of(plan)
    other = other_reader(scorer)
    readers = readers_of([scorer, other] if other else [scorer])
    estimate = with_readers(estimate, readers, work, reading, timing=timing)
    checked = f", checked by {other.name}" if other else ""
    read_by = f"answers: read by {scorer.name}{checked}"
    return [
        read_by,
        *work_lines(plan, work),
        *_gate_line(plan, prompts, reading),
        *estimate.lines(),
    ], estimate
