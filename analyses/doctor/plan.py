"""The plan of the direction gate of ``spillover doctor``, in lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analyses.costs import CostedModel, Work, answering_estimate, once, reading_of, with_readers
from analyses.study import defaults_for, gate_prompts, gate_work
from unlearning.scoring import find_scorer, readers_of

BATCH = 32


def gate_plan(model: str, options: Mapping[str, Any]) -> list[str]:
    """The prompts that the gate of ``model`` reads, and its cost, as measured now."""
    own = defaults_for(model)
    table = gate_prompts(own.prompts(None))
    training = int((table["split"] == "train").sum())
    reading = reading_of(
        list(table["prompt"]), own.answer_tokens, model, options, usual=own.usual_answer
    )
    work = reading.answers(training) + gate_work(table, reading) + once(Work(arms=1))
    estimate = answering_estimate([CostedModel(model, options)], reading, work, BATCH)
    readers = readers_of([find_scorer(own.scorers[0], options.get("device"))])
    estimate = with_readers(estimate, readers, work, reading)
    return [
        f"direction gate: {len(table)} prompts of {own.prompts_name}, of which {training} are "
        "answered; the same command resumes there",
        *estimate.lines(),
    ]
