"""The work of a study: what its base model and its arms read, generate and train."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyses.costs import USUAL_ANSWER, Extent, Reading, StepRows, Work
from analyses.study.plan import ArmPlan, StudyPlan

if TYPE_CHECKING:
    import pandas as pd

    from unlearning.training import TrainingSettings

# Where an arm usually ends: of 40 arms of model organisms and of SmolLM2, most plain ones reached
# the level in 10 to 24 steps; with a retain set they took 1.8 times as many.
USUAL_STEPS, USUAL_SHARE, RETAINED = 20, 0.25, 1.8
# Readings of answers along an arm, and their prompts.
READINGS, READ_PROMPTS = 4, 32
SEARCHED = 7  # further readings where the kept model does not comply


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


def forecast_work(prompts: pd.DataFrame, reading: Reading) -> Extent:
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
) -> StepRows:
    """The rows of one forward in training, with answers of the usual length."""
    if retained is None:
        retained = any(arm.retain for arm in plan.arms if arm.training)
    rows = settings.micro_batch_size or settings.batch_size
    response = USUAL_ANSWER * reading.answer
    extra = rows * settings.retain_ratio if retained else 0
    return StepRows(rows, extra, reading.prompt + response, response)
