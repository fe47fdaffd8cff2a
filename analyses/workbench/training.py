"""Unlearning in memory: a trained copy of a model, with the record of its training."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from analyses.runs import BASE, Arm, Progress, TargetVerdict, behaviour, measure, verdict_on
from analyses.study import (
    StudyPlan,
    parse_retain,
    scored_base,
    study_context,
    train_arm,
    unlearning_arms,
)
from analyses.workbench.loading import require_loaded
from analyses.workbench.responses import defaults_of, scratch_of
from interp.errors import InputError
from interp.model import LanguageModel, active_edits
from unlearning.data import present_domains, require_concepts

if TYPE_CHECKING:
    from typing import Literal

    from unlearning.training import TrainingSettings


@dataclass(frozen=True)
class TrainingRecord:
    """How a model was unlearned, and what came of it.

    Attributes:
        concept: the domain whose refusals were unlearned.
        retain: domains whose refusals were retained.
        settings: every setting of the training.
        losses: one row per step: ``step``, the loss, the mean of each of its terms,
            ``grad_norm``, ``learning_rate``.
        scores: one row per scored step and prompt: ``p_R``, ``p_C`` and ``p_O`` (probabilities
            that the response begins with a refusal prefix, a compliance prefix, or neither),
            ``margin`` (refusal log-odds, nats), ``dose`` (forgetting level) and, at the last
            step, ``class``.
        step: optimizer steps of the weights that were kept.
        forgetting_level: share of the target's refusal that is gone there, 0 to 1, on validation
            prompts.
        verdict: rates of the target on test prompts, and whether it complies.

    Example:
        >>> record = after.record
        >>> record.concept, 0 < record.forgetting_level <= 1
        ('safety', True)
        >>> sorted(record.leakage["domain"].unique())[:2]
        ['bias', 'cybersecurity']
    """

    concept: str
    retain: tuple[str, ...]
    settings: TrainingSettings
    losses: pd.DataFrame
    scores: pd.DataFrame
    step: int
    forgetting_level: float
    verdict: TargetVerdict

    @property
    def outcome(self) -> str:
        """``complied``, ``degenerate``, ``still refuses``, or ``no text``."""
        return self.verdict.outcome.badge

    @property
    def leakage(self) -> pd.DataFrame:
        """What every domain lost at 90% forgetting, with 95% intervals over test prompts."""
        return measure(self.scores, self.concept).to_dataframe()


@dataclass(frozen=True)
class UnlearnedModel(LanguageModel):
    """A trained model with its record; adapters are merged.

    Example:
        >>> isinstance(after, sp.LanguageModel), after.name
        (True, 'organism, safety unlearned')
        >>> after.model.save_pretrained("unlearned")
    """

    record: TrainingRecord = field(kw_only=True)


def unlearn(
    lm: LanguageModel,
    prompts: pd.DataFrame,
    *,
    concept: str,
    objective: str = "npo",
    retain: str | Sequence[str] | None = None,
    retain_weight: float = 1.0,
    options: Mapping[str, float] | None = None,
    trainable: Literal["lora", "projections", "all"] | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    max_steps: int | None = None,
    forgetting_level: float | None = None,
    seed: int = 0,
    settings: TrainingSettings | None = None,
    scorer: str = "auto",
    max_new_tokens: int | None = None,
    quiet: bool = False,
) -> UnlearnedModel:
    """A copy of a model whose refusals in one domain are unlearned; the model stays as it is.

    The copy is trained on the model's own refusals, as ``spillover unlearn`` trains it, and scored
    along the way. The weights are kept at the step that reaches ``forgetting_level``.

    Args:
        lm: the base model; its weights, modes and hooks stay bit-equal.
        prompts: a table of prompts; the responses to its split ``train`` are trained on.
        concept: the domain to unlearn, one of ``sp.DOMAINS``.
        objective: loss of the forget set: ``npo``, ``gradient_ascent``, ``rmu``, … (all:
            ``sp.unlearning.losses.FORGET``).
        retain: domains whose refusals are retained: ``equal`` (all others), ``alternate`` (every
            second one) or a list.
        retain_weight: weight of the retain terms; the forget term has weight 1.
        options: hyperparameters of the objective, e.g. ``{"beta": 0.1}``.
        trainable: ``lora``, ``projections`` (inside the layers) or ``all`` parameters.
        learning_rate: of AdamW, constant.
        batch_size: forget examples in an optimizer step.
        max_steps: optimizer steps at most.
        forgetting_level: level at which the weights are kept, 0 to 1 (default: 0.95; a model
            organism's own 0.9).
        seed: order of the examples and initial adapters.
        settings: all settings of the training at once; what is named above replaces them. By
            default the package's, or those that an organism was tuned with.
        scorer: tells refusals from answers (default: ``phrases``; ``grammar`` for an organism).
        max_new_tokens: length of a response at most, in tokens (default: 48; 16 for an organism).
        quiet: show no progress.

    Returns:
        The trained model with ``.record``; a ``LanguageModel`` like ``lm``, in eval mode.

    Raises:
        InputError: an unknown domain, objective or option, or fewer than 32 refused training
            prompts.
        TrainingError: the loss is not finite.

    Source:
        NPO: Zhang et al. 2024, arXiv 2404.05868.

    Example:
        >>> after = sp.unlearn(lm, prompts, concept="safety", max_steps=2, quiet=True)
        >>> after.record.outcome in ("complied", "still refuses", "degenerate")
        True
        >>> after.record.losses[["step", "loss"]].shape
        (2, 2)
    """
    require_loaded(lm)
    if active_edits(lm.model):
        raise InputError(
            "an intervention on the model is active; leave its `with` block before unlearning"
        )
    own = defaults_of(lm)
    chosen = settings or own.training
    given: dict[str, Any] = {
        "trained": trainable,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "max_steps": max_steps,
    }
    kept = chosen.options if objective == chosen.objective else {}
    chosen = replace(
        chosen,
        objective=objective,
        options={**kept, **(options or {})},
        seed=seed,
        **{name: value for name, value in given.items() if value is not None},
    )
    require_concepts(prompts, [concept])
    named = retain if retain is None or isinstance(retain, str) else ",".join(retain)
    retained = parse_retain(named, concept, present_domains(prompts))
    arm = unlearning_arms(
        [concept],
        chosen,
        seeds=[seed],
        retain={concept: retained},
        weights=[retain_weight],
        control=False,
    )[-1]
    study = {"stop_at": forgetting_level, "max_new_tokens": max_new_tokens}
    plan = StudyPlan(
        str(getattr(lm.model, "name_or_path", "") or lm.name),
        (arm,),
        (concept,),
        scorer=scorer,
        **{**own.study, **{name: value for name, value in study.items() if value is not None}},
    )
    context = study_context(plan, scratch_of(lm), Progress(quiet=quiet), given=lm, prompts=prompts)
    baseline = scored_base(context)
    context.run.finish(BASE, baseline.key)  # scored once for every model that is made from it
    folder = context.run.begin(arm.name, "in memory")
    try:
        trained, scores = train_arm(context, baseline, arm, folder)
        losses = pd.read_parquet(folder / "log.parquet")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    after = Arm(arm.name, arm.describe(plan.stop_at), scores, None)
    base = Arm(BASE, {}, baseline.scores, None)
    record = TrainingRecord(
        concept,
        retained,
        arm.settings,
        losses,
        scores,
        after.step,
        float(after.last["dose"].max()),
        verdict_on(concept, behaviour(after), behaviour(base)),
    )
    model: Any = trained.model
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    name = f"{lm.name}, {concept} unlearned"
    return UnlearnedModel(
        model.requires_grad_(False).eval(),
        lm.tokenizer,
        lm.chat,
        name,
        layers_path=lm.layers_path,
        record=record,
    )
