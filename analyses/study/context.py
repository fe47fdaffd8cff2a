"""The shared inputs of a study's stages: the plan, prompts, run folder and progress display."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.runs import Progress, RunFolder, contrast_rows, contrasts, linked_units
from analyses.runs.rotation_tables import FEWEST_PROMPTS
from analyses.study.plan import ArmPlan, StudyPlan
from analyses.study.resolve import depth_of, prompts_of, require_model, scorer_of
from interp.activations import Activations, collect, instruction_and_last
from interp.directions import ESTIMATORS
from interp.directions.fitting import Directed
from interp.errors import InputError
from interp.model import LanguageModel, copied, merged
from interp.statistics import Contrast
from unlearning.data import normalised, present_domains, require_concepts
from unlearning.deflections import read_deflections, short_of_prompts
from unlearning.losses import for_forgetting
from unlearning.refusal import ResponsePrefixes
from unlearning.scoring import Evaluation, Scorer

INSTRUCTION, LAST = 0, 1  # positions of the states


@dataclass(frozen=True)
class Context:
    """One study's checked inputs; the base model is loaded on first use.

    Attributes:
        given: the base model if it is already in memory; every arm then trains a copy of it.
        left_out: domains that the plan no longer unlearns or retains, each with the reason.
        expected: the time and memory that the plan announced, for the manifest.
    """

    plan: StudyPlan
    prompts: pd.DataFrame
    pairs: pd.DataFrame | None
    run: RunFolder
    progress: Progress
    scorer: Scorer
    given: LanguageModel | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    expected: Mapping[str, Any] | None = None

    def without(self, short: Mapping[str, str]) -> Context:
        """The same study, with the same loaded model, without training data of some domains.

        Args:
            short: these domains, each with the reason in words.
        """
        plan = self.plan.without(short, ready_made=self.pairs is not None)
        return self.changed(plan=plan, left_out={**self.left_out, **short})

    def changed(self, **fields: Any) -> Context:
        """The same study with other fields; it keeps the loaded model, unlike ``replace``."""
        found = copy.copy(self)
        for name, value in fields.items():
            object.__setattr__(found, name, value)
        return found

    @property
    def left_out_lines(self) -> list[str]:
        """A line for each domain that is left out."""
        return [
            f"left out: {why}; it is neither unlearned nor retained"
            for why in self.left_out.values()
        ]

    @property
    def contaminated_lines(self) -> list[str]:
        """A line where ready-made deflections hold prompts that the study is evaluated on."""
        if self.pairs is None:
            return []
        trained = set(map(normalised, self.pairs["prompt"]))
        both = sum(normalised(prompt) in trained for prompt in self.evaluated["prompt"])
        return [
            f"warning: {self.plan.deflections} holds {both} of the {len(self.evaluated)} "
            "validation and test prompts, so arms train on what they are evaluated on; leave them "
            "out"
        ] * bool(both)

    @property
    def direction_lines(self) -> list[str]:
        """A line where no domain has enough prompts for a direction."""
        if contrast_rows(self.prompts, self.evaluated):
            return []
        return [
            f"no directions and rotations: no domain has {FEWEST_PROMPTS} harmful and "
            f"{FEWEST_PROMPTS} benign validation and test prompts"
        ]

    @cached_property
    def evaluated(self) -> pd.DataFrame:
        """Validation and test prompts; rows of every scores table are in this order."""
        return self.prompts[self.prompts["split"] != "train"].reset_index(drop=True)

    @property
    def harmful(self) -> pd.DataFrame:
        """The evaluated prompts that are scored along a run."""
        return self.evaluated[self.evaluated["label"] == "harmful"]

    @cached_property
    def reference(self) -> LanguageModel:
        """The base model, never trained."""
        if self.given is not None:
            return self.given
        with self.progress.stage(f"loading {self.plan.model}"):
            lm = self.load()
        for line in lm.checked.lines():
            self.progress.say(f"note: {line}")
        if lm.chat.is_fallback:
            self.progress.say(
                f"note: {lm.name} has no chat template; prompts are written as "
                '"User: …", "Assistant:"; give --chat-template FILE for another form'
            )
        return lm

    @cached_property
    def fingerprint(self) -> str:
        """The base model's, which reads every weight."""
        return self.reference.fingerprint()

    def load(
        self, source: str | Path | None = None, *, like: LanguageModel | None = None
    ) -> LanguageModel:
        """A new copy of the base model, or another model with the same chat format.

        Args:
            source: the other model.
            like: a model that differs from it in its weights only.
        """
        from transformers.utils import logging

        logging.disable_progress_bar()  # its bar for every arm would hide ours
        if self.given is not None and source is None:
            model: Any = copied(self.given.model)
            # As in loading, the given model is the user's, with what its adapters have learned.
            return self.given.with_model(merged(model))
        with warnings.catch_warnings():
            # We print our own lines about it once, for the base model.
            warnings.filterwarnings("ignore", message="self-check of")
            warnings.filterwarnings("ignore", message="the tokenizer has no chat template")
            return LanguageModel.load(
                source or self.plan.model, like=like, **self.plan.model_options
            )

    def evaluation(
        self, prefixes: ResponsePrefixes | None, *, rows: pd.DataFrame | None = None
    ) -> Evaluation:
        """The prompts to score: all of ``evaluated``, or some of its rows."""
        rows = self.evaluated if rows is None else rows
        return Evaluation(
            self.reference,
            rows,
            prefixes,
            self.scorer,
            max_new_tokens=self.plan.max_new_tokens,
            batch_size=self.plan.batch_size,
        )

    @cached_property
    def base_contrasts(self) -> dict[str, Contrast]:
        """The base model's contrasts at the last token of the prompt."""
        return self.contrasts(self.base_states)

    @cached_property
    def base_states(self) -> Activations:
        """The base model's states, collected on first use: a resumed run may not need them."""
        return self.states(self.reference, "base model")

    def states(self, lm: LanguageModel, name: str) -> Activations:
        """The evaluated prompts at the last token of the instruction, and of the prompt."""
        with self.progress.stage(f"{name}: states", len(self.evaluated)) as advance:
            return collect(
                lm,
                list(self.evaluated["prompt"]),
                positions=instruction_and_last,
                batch_size=self.plan.batch_size,
                progress=advance,
            )

    def contrasts(self, states: Activations, position: int = LAST) -> dict[str, Contrast]:
        """Every domain's harmful prompts and controls, all layers, at one position."""
        return contrasts(self.prompts, self.evaluated, states.at(position))


def study_context(
    plan: StudyPlan,
    out: str | Path,
    progress: Progress,
    *,
    given: LanguageModel | None = None,
    prompts: pd.DataFrame | None = None,
) -> Context:
    """The plan's inputs, after every check that needs no model; writes nothing.

    Args:
        given: the base model, if it is in memory.
        prompts: the table of prompts, if it is in memory.

    Raises:
        InputError: the plan cannot be carried out in the folder ``out``.
    """
    checkpoints = [arm.checkpoint for arm in plan.arms if arm.checkpoint]
    for model in checkpoints if given else (plan.model, *checkpoints):
        require_model(model)
    prompts = prompts_of(plan) if prompts is None else prompts
    require_concepts(prompts, plan.concepts)
    depth = depth_of(plan.model) if given is None else given.n_layers
    if depth is not None:
        require_layers(plan, depth)
    pairs = read_deflections(plan.deflections, plan.concepts) if plan.deflections else None
    require_bounded(plan, prompts)
    run = RunFolder(out, overwrite=plan.overwrite)
    if not (plan.overwrite and plan.arms):
        run.refuse_other_arms({"base", *(arm.name for arm in plan.arms)})
    context = Context(plan, prompts, pairs, run, progress, scorer_of(plan, given), given)
    require_estimable(plan, prompts, context.evaluated)
    context = _with_enough_prompts(context)
    for arm in context.plan.arms:
        require_inputs(arm, prompts, pairs)
    return context


def _with_enough_prompts(context: Context) -> Context:
    """The study without domains whose training prompts are too few for their deflections.

    Raises:
        InputError: no domain is left to unlearn.
    """
    plan, ready_made = context.plan, context.pairs is not None
    answers = 1 + plan.sampling.samples
    short = short_of_prompts(
        context.prompts, plan.deflected(ready_made=ready_made), answers=answers
    )
    if not short:
        return context
    left = context.without(short)
    if not left.plan.unlearns:
        enough = sorted(
            domain
            for domain in present_domains(context.prompts)
            if not short_of_prompts(context.prompts, [domain], answers=answers)
        )
        raise InputError(
            f"{'; '.join(short.values())}; domains with enough: {', '.join(enough) or 'none'}; "
            "give more prompts, or the target's ready-made pairs with --deflections FILE"
        )
    return left


def require_layers(plan: StudyPlan, n_layers: int) -> None:
    """Check that the layers which objectives read exist.

    Raises:
        InputError: a layer is beyond the model's depth.
    """
    for arm in plan.arms:
        layer = arm.training.layer if arm.training else None
        if layer is not None and not 0 <= layer < n_layers:
            raise InputError(f"layer is {layer}; {plan.model} has layers 0 to {n_layers - 1}")


def require_inputs(arm: ArmPlan, prompts: pd.DataFrame, pairs: pd.DataFrame | None = None) -> None:
    """Check that an arm has the data that its objective needs.

    Which prompts need a compliance is known only when the base model has answered them.

    Args:
        arm: the arm.
        prompts: the table of prompts.
        pairs: ready-made deflections, if they are given.

    Raises:
        InputError: a retain set or a column of compliances is missing.
    """
    if arm.training is None:
        return
    objective = for_forgetting(arm.training.objective)
    objective.require_retain(present=bool(arm.retain))
    if not objective.on_pairs or objective.name == "idk_dpo" or arm.concept is None:
        return
    rows = prompts[(prompts["domain"] == arm.concept) & (prompts["label"] == "harmful")]
    rows = rows[rows["split"] == "train"] if pairs is None else pairs
    if "compliance" not in rows or rows["compliance"].isna().all():
        raise InputError(
            f"{objective.name} trains on answers that replace refusals, and {arm.concept} has "
            "none; give them in a column named compliance"
        )


def require_estimable(plan: StudyPlan, prompts: pd.DataFrame, evaluated: pd.DataFrame) -> None:
    """Check that the plan's estimator, if it is a built-in one, has the prompts that it needs.

    Raises:
        InputError: a domain has too few, such as pairs.
    """
    estimator = ESTIMATORS.find(plan.estimator).quick()
    if not isinstance(estimator, Directed):
        return
    units = linked_units(evaluated)
    for domain, (rows, positive) in contrast_rows(prompts, evaluated).items():
        noise = np.random.default_rng(0).normal(size=(len(rows), 1, 1))
        try:
            estimator.prepared(Contrast.from_labels(noise, positive, units[rows].tolist()))
        except InputError as error:
            raise InputError(f"--estimator {plan.estimator} for {domain}: {error}") from error


def require_bounded(plan: StudyPlan, prompts: pd.DataFrame) -> None:
    """Check that there are prompts on which the plan's bounds are measured.

    Raises:
        InputError: without them, every model would be within the bounds.
    """
    leak, utility = plan.bounds
    rows = prompts[prompts["split"] == "validation"]
    if utility is not None and not (rows["label"] == "benign").any():
        raise InputError(
            f"--utility-bound {utility:g} is measured on benign validation prompts, and there are "
            "none; give some, or leave it out"
        )
    harmful = rows.loc[rows["label"] == "harmful", "domain"]
    alone = [concept for concept in plan.concepts if (harmful == concept).all()]
    if leak is not None and alone:
        raise InputError(
            f"--leak-bound {leak:g} is measured on the harmful validation prompts of domains other "
            f"than {alone[0]}, and there are none; give some, or leave it out"
        )
