"""The work of a study: what its base model and its arms read, generate and train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, TypeAlias

from analyses.costs import ARM_OF_A_PAGE, MOST_NODES, Extent, Reading, StepRows, Work, once
from analyses.study.plan import ArmPlan, StudyPlan
from analyses.study.resolve import defaults_for

if TYPE_CHECKING:
    import pandas as pd

    from unlearning.training import TrainingSettings

Counted: TypeAlias = "Callable[[StudyPlan, pd.DataFrame, Reading], Extent]"

# Where an arm usually ends, however many steps it may take: of 40 arms of model organisms and of
# SmolLM2, most plain ones reached the level in 10 to 24; with a retain set, in 1.8 times as many.
USUAL_STEPS, RETAINED = 20, 1.8
# Readings of answers along an arm, and their prompts.
READINGS, READ_PROMPTS = 4, 32
PREFILLED = 0.1  # share of the evaluated prompts that are asked again with a forced beginning
SEARCHED = 7  # further readings where the kept model does not comply
# A forward, and a backward that goes through half of the layers on average and forms the gradients
# of one layer's weights: in forwards.
STREAMED = 1.5
# The direction gate: prompts of a domain, label and split; of each kind, to choose a candidate and
# for each of 2 x 19 null directions; candidates at one token, and at several ones of a small model.
GATE_PROMPTS, GATE_CHOOSING, GATE_NULLS = 16, 24, 38
GATE_PLACES, MOST_GATE_PLACES = 8, 64
MOST_GATE_SHARE = 0.1  # of a study's work
FORECAST_GROUPS = 4  # disjoint groups of a domain's prompts, each with its own mean gradient


def work_of(plan: StudyPlan, prompts: pd.DataFrame, reading: Reading) -> Extent:
    """All that a study reads, generates and trains, with the gate where it is measured."""
    total = _without_gate(plan, prompts, reading)
    return total if why_no_gate(plan, prompts, reading) else total + gate_work(prompts, reading)


def why_no_gate(plan: StudyPlan, prompts: pd.DataFrame, reading: Reading) -> str:
    """Why a study does not measure the direction gate; empty where it does.

    The share of the work counts tokens that are read once, generated and trained on three times.
    """
    if plan.gate is False:
        return "--no-gate was given"
    if plan.gate or defaults_for(plan.model).organism:
        return ""  # on a model organism it takes seconds
    gate, all_else = (
        work.expected.read + 3 * (work.expected.generated + work.expected.trained)
        for work in (gate_work(prompts, reading), _without_gate(plan, prompts, reading))
    )
    share = gate / (gate + all_else)
    if share <= MOST_GATE_SHARE:
        return ""
    return f"it would take {share:.0%} of the work of this run"


def gate_work(prompts: pd.DataFrame, reading: Reading) -> Extent:
    """Log-odds and states of the gate's prompts, and both under every edit."""
    by_split, domains = _gate_rows(prompts)
    rows, test = int(by_split.sum()), int(by_split.get("test", 0))

    def found(places: int) -> Extent:
        tried = 2 * GATE_CHOOSING * (places + domains + 2)  # and as many for KL
        # The gate's own test prompts under its edits, and half of them under the zero form.
        scored = rows + tried + 2 * GATE_CHOOSING * GATE_NULLS + 1.5 * test
        return reading.masses(scored) + reading.states(
            1.5 * int(by_split.get("train", 0)) + tried + 2 * test
        )

    return Extent(found(GATE_PLACES).expected, found(MOST_GATE_PLACES).at_most)


def gate_trials(prompts: pd.DataFrame, layers: int) -> int | None:
    """Prompts that the gate reads under edits, if all of them are fit; unknown in a small model."""
    if layers <= GATE_PLACES:
        return None
    by_split, domains = _gate_rows(prompts)
    tried = 3 * GATE_CHOOSING * (GATE_PLACES + domains + 2)
    return round(tried + 2 * GATE_CHOOSING * GATE_NULLS + 2.5 * int(by_split.get("test", 0)))


def _gate_rows(prompts: pd.DataFrame) -> tuple[pd.Series[int], int]:
    """The gate's prompts of each split, and the number of domains."""
    counts = prompts.groupby(["split", "label", "domain"]).size().clip(upper=GATE_PROMPTS)
    domains = int(prompts.loc[prompts["label"] == "harmful", "domain"].nunique())
    return counts.groupby("split").sum(), domains


def _without_gate(plan: StudyPlan, prompts: pd.DataFrame, reading: Reading) -> Extent:
    evaluated = prompts[prompts["split"] != "train"]
    harmful = evaluated[evaluated["label"] == "harmful"]
    rows, along = len(evaluated), len(evaluated if plan.benign_along else harmful)
    domains = int(harmful["domain"].nunique())
    total = _base(len(prompts), rows, domains, reading) + _sampled(plan, prompts, reading)
    plain = max([_steps(arm)[0] for arm in plan.arms if arm.training], default=0)
    for arm in plan.arms:
        scored = _read_out(rows, domains, reading)
        if arm.training is None:
            total += scored
            continue
        usual, most = _steps(arm)
        usual = min(usual, plain) if arm.control else usual
        share = 0.6 if arm.sweep else 1.0  # a sweep usually ends at the third of five weights
        one = scored + _trained(arm, plan, usual, most, prompts, reading)
        one += _along(plan, usual, most, along, reading) + _readings(arm, harmful, reading)
        total += Extent(one.expected * share, one.at_most)
    return total


def forecast_work(prompts: pd.DataFrame, reading: Reading) -> Extent:
    """A forward and backward of one domain's refusals and of all harmful prompts; benign ones read.

    At most: the refusals of all domains, which a forecast without log-odds needs, and a pass of the
    prompts for each path of a prefix tree.
    """
    train = prompts[prompts["split"] == "train"]
    harmful = train[train["label"] == "harmful"]
    asked, benign = len(harmful), len(train) - len(harmful)
    usual, most = (reading.prompt + share * reading.answer for share in (reading.usual, 1))
    target = asked / max(1, harmful["domain"].nunique())
    differentiated = asked * reading.prompt + target * usual
    at_most = asked * (MOST_NODES * reading.prompt + most)
    return reading.states(benign) + Extent(
        Work(trained=differentiated, arms=1), Work(trained=at_most, arms=2)
    )


def work_with_prompts(plan: StudyPlan, prompts: pd.DataFrame, reading: Reading) -> Extent:
    """:func:`work_of`, and a forecast of every prompt: two forwards, next to the gradients.

    The log-odds of the training prompts are read as well. At most: a forward for each path of a
    prefix tree, and the refusals of a domain once more where no gradient was kept.
    """
    train = prompts["split"] == "train"
    read = 2 * len(prompts) * reading.prompt
    again = train & (prompts["label"] == "harmful")
    most = int(prompts.loc[again, "domain"].value_counts().max()) * (
        reading.prompt + reading.answer
    )
    by_prompt = Extent(Work(read=read), Work(read=MOST_NODES * read, trained=most))
    return work_of(plan, prompts, reading) + reading.masses(int(train.sum())) + by_prompt


def streamed_work(prompts: pd.DataFrame, reading: Reading, layers: int) -> Extent:
    """A forecast that stores no gradients: rows pass through the model once for each layer.

    The rows are the refusals of all domains, and the prompts for their log-odds. At most: as in
    :func:`forecast_work`. The other predictors read states, and gradients with respect to them.
    """
    train = prompts[prompts["split"] == "train"]
    asked = int((train["label"] == "harmful").sum())
    usual, most = (reading.prompt + share * reading.answer for share in (reading.usual, 1))
    passes = STREAMED * layers
    return reading.states(len(train) - asked) + Extent(
        Work(read=passes * asked * (reading.prompt + usual), trained=asked * reading.prompt),
        Work(
            read=passes * asked * (MOST_NODES * reading.prompt + most),
            trained=asked * MOST_NODES * reading.prompt,
        ),
    )


def forecast_rows(batch: StepRows, prompts: pd.DataFrame) -> StepRows:
    """The rows of one forward of a forecast: at most a group of one domain's prompts."""
    asked = prompts[(prompts["split"] == "train") & (prompts["label"] == "harmful")]
    most = int(asked["domain"].value_counts().max())
    return replace(batch, rows=min(batch.rows, ceil(most / FORECAST_GROUPS)))


def _base(prompts: int, rows: int, domains: int, reading: Reading) -> Extent:
    """Answers to all prompts, scores and states of the evaluated ones, and the report."""
    return (
        reading.answers(prompts) + reading.answers(PREFILLED * rows) + reading.masses(rows)
        + reading.states(rows) + once(Work(arms=1, pages=1, maps=domains * (domains - 1) / 2))
    )  # fmt: skip


def _sampled(plan: StudyPlan, prompts: pd.DataFrame, reading: Reading) -> Extent:
    """Sampled answers to the training prompts of domains with too few refusals: usually none."""
    if not plan.unlearns:
        return once(Work())
    asked = (prompts["label"] == "harmful") & (prompts["split"] == "train")
    asked &= prompts["domain"].isin(plan.deflected(ready_made=plan.deflections is not None))
    return Extent(Work(), reading.answers(plan.sampling.samples * int(asked.sum())).at_most)


def _read_out(rows: int, domains: int, reading: Reading) -> Extent:
    """The last scores of an arm, with text, and its states."""
    return (
        reading.answers(rows) + reading.answers(PREFILLED * rows) + reading.masses(rows)
        + reading.forced(rows) + reading.states(rows)
        + once(Work(arms=1, pages=ARM_OF_A_PAGE, maps=domains))
    )  # fmt: skip


def _steps(arm: ArmPlan) -> tuple[int, int]:
    """Optimizer steps that an arm usually takes, and at most."""
    most = arm.settings.max_steps
    usual = USUAL_STEPS * (RETAINED if arm.retain else 1)
    return min(most, round(usual)), most


def _trained(
    arm: ArmPlan, plan: StudyPlan, usual: int, most: int, prompts: pd.DataFrame, reading: Reading
) -> Extent:
    """The steps, the reference's log-probs of all examples, and the saved weights, loaded again."""
    settings = arm.settings
    batch = batch_of(settings, plan, reading, retained=bool(arm.retain))
    rows = settings.batch_size * (1 + batch.extra / batch.rows)
    longest = reading.prompt + reading.answer
    asked = prompts[prompts["split"] == "train"]
    kind = "harmful" if arm.concept else "benign"  # which a control arm trains on
    asked = asked[asked["label"] == kind]
    if arm.concept:
        asked = asked[asked["domain"].isin((arm.concept, *arm.retain))]
    return Extent(
        Work(
            read=len(asked) * batch.tokens, trained=usual * rows * batch.tokens, steps=usual, arms=1
        ),
        Work(read=2 * len(asked) * longest, trained=most * rows * longest, steps=most, arms=1),
    )


def _along(plan: StudyPlan, usual: int, most: int, rows: int, reading: Reading) -> Extent:
    """The scores along training."""
    from unlearning.training import is_scored

    times = [
        sum(plan.every_step or is_scored(step) for step in range(1, steps + 1))
        for steps in (usual, most)
    ]
    one = reading.masses(rows)
    # Without valid log-odds, refusal is read from answers.
    worst = one.at_most + reading.answers(rows).at_most
    return Extent(one.expected * times[0], worst * times[1])


def _readings(arm: ArmPlan, harmful: pd.DataFrame, reading: Reading) -> Extent:
    """The answers along training, and those to test prompts at its end."""

    def answered(rows: int) -> Extent:
        return reading.answers(rows) + reading.masses(rows) + reading.forced(rows)

    if arm.concept is None:
        return once(Work())
    validation = harmful[harmful["split"] == "validation"]
    read = answered(min(READ_PROMPTS, int((validation["domain"] == arm.concept).sum())))
    along = Extent(read.expected * READINGS, read.at_most * (READINGS + 2 + SEARCHED))
    return along + answered(int((harmful["split"] == "test").sum()))


def batch_of(
    settings: TrainingSettings, plan: StudyPlan, reading: Reading, *, retained: bool | None = None
) -> StepRows:
    """The rows of one forward in training, with answers of the usual length."""
    if retained is None:
        retained = any(arm.retain for arm in plan.arms if arm.training)
    rows = settings.micro_batch_size or settings.batch_size
    response = reading.usual * reading.answer
    extra = rows * settings.retain_ratio if retained else 0
    return StepRows(rows, extra, reading.prompt + response, response)
