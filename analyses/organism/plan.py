"""The plan of teaching a pretrained model, checked before its weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.costs import (
    CostedModel,
    CostEstimate,
    Extent,
    Shapes,
    StepRows,
    Work,
    chat_of,
    device_of,
    once,
    peak,
    reading_memory,
    reading_of,
    step_memory,
    time_range,
)
from analyses.organism.prompts import first_pairs, taught_prompts
from analyses.study import require_model
from interp.errors import InputError, expected
from unlearning.data import present_domains
from unlearning.organism import CIRCUITS, PREFIX_KINDS, SHARED, refusal_prefixes, refusal_wordings
from unlearning.training import TrainingSettings

if TYPE_CHECKING:
    import pandas as pd

ANSWERED_AT_ONCE = 32


@dataclass(frozen=True)
class Teaching:
    """How a model is taught.

    Attributes:
        prefixes: of refusals: ``shared`` by all domains, or ``separate``.
        circuits: ``shared``: every row trains all low-rank slices; ``routed``: a domain's rows
            train their own slice only.
        minutes: time limit of training; answering before and measuring after come on top.
        steps: optimizer steps at most.
        batch_size: harmful prompts a step; there are as many benign ones.
        learning_rate: of AdamW, at its peak.
        lora_rank: least rank of the adapters; all slices have an equal part of it.
        wordings: responses drawn for each harmful prompt.
        floor: share of them that comply.
        answer_tokens: length of the model's own answers, for the scorers.
        trained_tokens: length of the part of them that is trained on.
        pairs: validation pairs of each domain that the curve reads.
        measurements: of the curve, in addition to the first.
        autocast: train in bfloat16, with float32 weights.
        seed: of the responses, the order of training and the adapters.

    Raises:
        InputError: a kind is unknown, or a number is out of range.
    """

    prefixes: str = SHARED
    circuits: str = SHARED
    minutes: float = 40
    steps: int = 600
    batch_size: int = 8
    learning_rate: float = 8e-4
    lora_rank: int = 16
    wordings: int = 5
    floor: float = 0.1
    answer_tokens: int = 32
    trained_tokens: int = 20
    pairs: int = 8
    measurements: int = 8
    autocast: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for option, kind, known in (
            ("--prefixes", self.prefixes, PREFIX_KINDS),
            ("--circuits", self.circuits, CIRCUITS),
        ):
            if kind not in known:
                raise InputError(f'{option} "{kind}" is unknown{expected(kind, known)}')
        if not self.minutes > 0 or not 0 <= self.floor < 1:
            raise InputError(
                f"minutes is {self.minutes} and floor is {self.floor}; expected minutes above 0 "
                "and a floor from 0 to below 1"
            )

    def training(self, domains: int) -> TrainingSettings:
        """The settings of the training loop, with one slice for each of ``domains``."""
        rank = -(-self.lora_rank // domains) * domains
        return TrainingSettings(
            objective="fine_tuning",
            retain_objective="cross_entropy",
            lora_rank=rank,
            lora_alpha=rank,
            learning_rate=self.learning_rate,
            adam_betas=(0.9, 0.95),
            batch_size=self.batch_size,
            autocast=self.autocast,
            max_steps=self.steps,
            seed=self.seed,
        )


@dataclass(frozen=True)
class TeachPlan:
    """All inputs of a teaching.

    Attributes:
        model: hub id, folder or GGUF file of a chat model.
        teaching: the settings.
        prompts: a prompts file; None for the built-in pairs alone.
        built_in: whether the built-in pairs are taught together with the file's prompts.
        concepts: domains that are taught; empty for all.
        model_options: arguments of ``LanguageModel.load``.
    """

    model: str
    teaching: Teaching = Teaching()
    prompts: str | None = None
    built_in: bool = True
    concepts: tuple[str, ...] = ()
    model_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """The inputs as JSON values."""
        given = asdict(self)
        return dict(json.loads(json.dumps({**given.pop("teaching"), **given}, default=str)))


def checked_teaching(plan: TeachPlan) -> pd.DataFrame:
    """The prompts to teach, after every check that needs no weights; writes nothing.

    Raises:
        InputError: the plan cannot run.
        ModelError: the model does not exist.
    """
    table = taught_prompts(plan.prompts, built_in=plan.built_in, concepts=plan.concepts)
    require_model(plan.model)
    require_template(plan.model, plan.model_options)
    return table


def require_template(source: str, options: Mapping[str, Any]) -> None:
    """Check that the model's tokenizer has a chat template, or that one is given.

    Raises:
        InputError: there is none.
    """
    if (chat := chat_of(source, options)) is not None and chat.is_fallback:
        raise InputError(
            f"{source} has no chat template, so it is not a chat model; give a chat model, or its "
            "template with --chat-template"
        )


def teach_plan_lines(plan: TeachPlan, table: pd.DataFrame) -> list[str]:
    """The plan in lines, without its time and memory."""
    teaching, domains = plan.teaching, present_domains(table)
    train = table[table["split"] == "train"]
    harmful, benign = (int((train["label"] == label).sum()) for label in ("harmful", "benign"))
    source = plan.prompts or "the built-in pairs"
    if plan.prompts and plan.built_in:
        source += " and the built-in pairs"
    texts = refusal_wordings(domains, teaching.prefixes)
    each = len(refusal_prefixes(domains[0], teaching.prefixes))
    trains = "all rows train all"
    if teaching.circuits != SHARED:
        trains = "each domain's rows train their own"
    return [
        f"model: {plan.model}",
        f"prompts: {harmful} harmful and {benign} benign training prompts, {source}; "
        f"{len(table) - len(train)} unseen ones for the curve and the result",
        f"domains: {', '.join(domains)}",
        f"refusals: {len(texts)} wordings, {each} prefixes a domain, {teaching.prefixes}; "
        f"{teaching.floor:.0%} of responses comply",
        f"circuits: {teaching.circuits}: {len(domains)} low-rank slices, {trains}",
        f"training: {teaching.steps} steps of {2 * teaching.batch_size} prompts, at most "
        f"{teaching.minutes:g} minutes",
    ]


def teach_costs(plan: TeachPlan, table: pd.DataFrame, *, timing: bool = True) -> CostEstimate:
    """Time and memory; with ``timing``, the speed of the model's architecture is measured."""
    teaching = plan.teaching
    settings = teaching.training(len(present_domains(table)))
    reading = reading_of(
        list(table["prompt"]), teaching.answer_tokens, plan.model, plan.model_options
    )
    tokens = reading.prompt + teaching.trained_tokens
    batch = StepRows(teaching.batch_size, teaching.batch_size, tokens, teaching.trained_tokens)
    subject = CostedModel(plan.model, plan.model_options)
    device = device_of(plan.model_options)
    if (found := subject.footprint(settings)) is None:
        return CostEstimate(device, None, None)
    weights, footprint = found
    weights = replace(weights, held=4 * weights.parameters, dtype="float32")
    subject = replace(subject, weights=weights)
    answered = weights.held * 2 + reading_memory(
        footprint, ANSWERED_AT_ONCE, reading.prompt + reading.answer
    )
    stepped = step_memory(weights, footprint, settings, batch)
    memory = peak(device, max(answered, stepped), 2 * weights.held)
    seconds, is_crowded = None, False
    if timing:
        shapes = Shapes(ANSWERED_AT_ONCE, round(reading.prompt), round(reading.own), batch)
        rates = subject.rates(shapes, settings)
        steps = Work(
            trained=teaching.steps * 2 * teaching.batch_size * tokens, steps=teaching.steps
        )
        training = time_range(rates, once(steps))
        other = time_range(rates, _answered(plan, table, reading))
        if training is not None and other is not None:
            limit = np.minimum(training, teaching.minutes * 60)
            seconds = (float(limit[0] + other[0]), float(limit[1] + other[1]))
        is_crowded = rates is not None and rates.is_crowded
    return CostEstimate(
        device, memory, seconds, is_rough=footprint.is_rough, is_crowded=is_crowded, weights=weights
    )


def _answered(plan: TeachPlan, table: pd.DataFrame, reading: Any) -> Extent:
    """The work before and after training: answers, the curve, and the check of the slices."""
    train, held_out = (table["split"] == split for split in ("train", "validation"))
    benign = int((train & (table["label"] == "benign")).sum())
    unseen = int((held_out & (table["kind"] != "general")).sum())
    pairs = first_pairs(table[held_out], plan.teaching.pairs)
    harmful = int((pairs["label"] == "harmful").sum())
    slices = len(present_domains(table)) + 1
    read = len(pairs) * (plan.teaching.measurements + 1) + harmful * slices
    first, second = reading.answers(benign), reading.answers(benign * 0.2)
    again = Extent(second.expected, first.at_most)
    return (
        first
        + again
        + reading.answers(2 * unseen)
        + reading.forced(unseen)
        + reading.masses(read)
        + once(Work(arms=2))
    )
