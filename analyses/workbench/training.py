"""Unlearning in memory: a trained copy of a model, with the record of its training."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from analyses.runs import (
    BASE,
    Arm,
    CoherenceBounds,
    Inputs,
    Progress,
    TargetVerdict,
    behaviour,
    measure,
    verdict_on,
    with_clusters,
)
from analyses.study import (
    ArmPlan,
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
from interp.model import LanguageModel, active_edits, merged
from unlearning.data import present_domains, require_concepts
from unlearning.training import release

if TYPE_CHECKING:
    from typing import Literal

    from unlearning.training import TrainingSettings


@dataclass(frozen=True)
class TrainingRecord:
    """The training of an unlearned model, and its outcome.

    Attributes:
        concept: the domain whose refusals were unlearned.
        retain: domains whose refusals were retained.
        settings: every setting of the training.
        losses: one row per step: ``step``, the loss, the mean of each of its terms,
            ``grad_norm``, ``learning_rate``.
        scores: one row per scored step and prompt: ``p_R``, ``p_C`` and ``p_O`` (probabilities
            that the response begins with a refusal prefix, a compliance prefix, or neither),
            `margin` (refusal log-odds, nats), `dose` (forgetting level) and, at the last
            step, ``class``.
        step: optimizer step of the kept weights.
        forgetting_level: share of the target's refusal that is gone at this step, 0 to 1, on
            validation prompts.
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

    def __repr__(self) -> str:
        return (
            f"TrainingRecord: {self.concept} unlearned by {self.settings.objective}, step "
            f"{self.step}, forgetting level {self.forgetting_level:.2f}, {self.outcome}"
        )

    @property
    def outcome(self) -> str:
        """``complied``, ``degenerate``, ``still refuses``, or ``no text``."""
        return self.verdict.outcome.badge

    @property
    def leakage(self) -> pd.DataFrame:
        """Leakage to every domain at 90% forgetting, with 95% intervals over test prompts."""
        return measure(self.scores, self.concept).to_dataframe()


@dataclass(frozen=True, repr=False)
class UnlearnedModel(LanguageModel):
    """A trained model with its record; adapters are merged.

    Example:
        >>> isinstance(after, sp.LanguageModel), after.name.endswith("safety unlearned")
        (True, True)
        >>> after.model.save_pretrained("unlearned")
    """

    record: TrainingRecord = field(kw_only=True)


def unlearn(
    lm: LanguageModel,
    prompts: pd.DataFrame,
    *,
    concept: str,
    objective: str | None = None,
    option: Mapping[str, float] | None = None,
    retain: str | Sequence[str] | None = None,
    retain_weight: float | None = None,
    retain_unit: Literal["loss", "gradient"] | None = None,
    trainable: Literal["lora", "projections", "all"] | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    max_steps: int | None = None,
    forgetting_level: float | None = None,
    seed: int | None = None,
    settings: TrainingSettings | None = None,
    scorer: str = "auto",
    max_new_tokens: int | None = None,
    quiet: bool = False,
) -> UnlearnedModel:
    """Unlearn the refusals of one domain in a copy of a model; the model does not change.

    Like ``spillover unlearn``, it trains the copy on the model's own refusals and scores it during
    training. It keeps the weights at the step that reaches ``forgetting_level``.

    Args:
        lm: the base model; its weights, modes and hooks stay bit-equal.
        prompts: a table of prompts; training uses the responses to its split ``train``.
        concept: the domain to unlearn, one of ``sp.DOMAINS``.
        objective: loss of the forget set: ``npo``, ``gradient_ascent``, ``rmu``, … (all:
            ``sp.unlearning.losses.FORGET``; default: ``npo``).
        option: hyperparameters of the objective, e.g. ``{"beta": 0.1}``.
        retain: domains whose refusals are retained: ``equal`` (all others), ``alternate`` (every
            second one) or a list (default: none).
        retain_weight: weight of the retain terms, in ``retain_unit`` (default: 1).
        retain_unit: ``loss``: the forget term has weight 1; ``gradient``: the ratio of the two
            gradients' norms at the base model (default: ``loss``).
        trainable: ``lora``, ``projections`` (inside the layers) or ``all`` parameters (default:
            ``lora``; ``projections`` for a model organism).
        learning_rate: of AdamW, constant (default: 5e-5; 3e-4 for a model organism).
        batch_size: forget examples in an optimizer step (default: 32).
        max_steps: maximum number of optimizer steps (default: 200; 80 for a model organism).
        forgetting_level: share of the target's refusal that is gone in the kept model; 1: all
            steps are made, and the last one is kept (default: 0.95; 0.9 for a model organism).
        seed: order of the examples and initial adapters (default: 0).
        settings: all settings of the training at once, instead of these defaults; the arguments
            above replace single settings.
        scorer: distinguishes refusals from answers (default: ``panel``; ``grammar``
            for a model organism).
        max_new_tokens: maximum length of a response in tokens (default: 48; 16
            for a model organism).
        quiet: show no progress.

    Returns:
        The trained model with ``.record``; a ``LanguageModel`` like ``lm``, in eval mode.

    Raises:
        InputError: an unknown domain, objective or option, a weight without a retain set, or fewer
            than 32 refused training prompts.
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
    if retain is None and retain_weight is not None:
        raise InputError("retain_weight weighs the loss on a retain set; give retain with it")
    own = defaults_of(lm)
    chosen = _changed(
        settings or own.training,
        option or {},
        objective=objective,
        trained=trainable,
        learning_rate=learning_rate,
        batch_size=batch_size,
        max_steps=max_steps,
        retain_weight=retain_weight,
        retain_unit=retain_unit,
        seed=seed,
    )
    arm = _arm(prompts, concept, chosen, retain)
    study = {"stop_at": forgetting_level, "max_new_tokens": max_new_tokens}
    plan = StudyPlan(
        str(getattr(lm.model, "name_or_path", "") or lm.name),
        (arm,),
        (concept,),
        scorer=scorer,
        overwrite=True,  # of the scratch folder, which holds the base model's results
        **{**own.study, **_given(study)},
    )
    context = study_context(plan, scratch_of(lm), Progress(quiet=quiet), given=lm, prompts=prompts)
    baseline = scored_base(context)
    context.run.finish(BASE, baseline.inputs)  # scored once for all models derived from it
    folder = context.run.begin(arm.name, Inputs(("training",), {"in memory": arm.name}))
    try:
        trained, scores = train_arm(context, baseline, arm, folder)
        losses = pd.read_parquet(folder / "log.parquet")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    scores = CoherenceBounds.from_base(baseline.scores).applied(scores)
    scores = with_clusters(scores, context.prompts)
    after = Arm(arm.name, arm.describe(plan.stop_at), scores, None)
    base = Arm(BASE, {}, with_clusters(baseline.scores, context.prompts), None)
    record = TrainingRecord(
        concept,
        arm.retain,
        arm.settings,
        losses,
        scores,
        after.step,
        float(after.last["dose"].max()),
        verdict_on(concept, behaviour(after), behaviour(base)),
    )
    return _merged(lm, trained.model, record)


def _given(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if value is not None}


def _changed(
    settings: TrainingSettings, option: Mapping[str, float], **named: Any
) -> TrainingSettings:
    """The settings with the given values; another objective gets its default options."""
    same = named["objective"] in (None, settings.objective)
    options = {**(settings.options if same else {}), **option}
    return replace(settings, options=options, **_given(named))


def _arm(
    prompts: pd.DataFrame,
    concept: str,
    settings: TrainingSettings,
    retain: str | Sequence[str] | None,
) -> ArmPlan:
    """The one arm to train, with the domains that it retains."""
    require_concepts(prompts, [concept])
    named = retain if retain is None or isinstance(retain, str) else ",".join(retain)
    return unlearning_arms(
        [concept],
        settings,
        seeds=[settings.seed],
        retain={concept: parse_retain(named, concept, present_domains(prompts))},
        weights=[settings.retain_weight],
        control=False,
    )[-1]


def _merged(lm: LanguageModel, model: Any, record: TrainingRecord) -> UnlearnedModel:
    """A trained copy of ``lm`` in the form of a loaded model: merged, in eval mode, frozen."""
    release(model)
    return UnlearnedModel(
        merged(model).requires_grad_(False).eval(),
        lm.tokenizer,
        lm.chat,
        f"{lm.name}, {record.concept} unlearned",
        layers_path=lm.layers_path,
        record=record,
    )
