"""Making one arm: train it or load it, score it, collect its states, compare with the base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import TrainerCallback

from analyses.runs import Inputs, rotation_table, rotations, update_config, write_directions
from analyses.study.baseline import Baseline
from analyses.study.context import Context
from analyses.study.inputs import arm_inputs
from analyses.study.methods import Guard
from analyses.study.mixing import mixture_of
from analyses.study.plan import ArmPlan
from interp.errors import InputError
from interp.model import LanguageModel
from interp.progress import Advance
from interp.similarity import Rotation
from interp.store import atomic_folder, write_json, write_table
from unlearning.scoring import Evaluation
from unlearning.training import (
    Bounds,
    ForgettingCurve,
    check_saved,
    coverage_of,
    discard_all,
    newest_complete,
    prepare_in_place,
    restore_with_logits,
    save_with_logits,
    target_rate,
    unlearn_in_place,
)


@dataclass(frozen=True)
class Made:
    """A finished arm: whether this call made it, and its rotations if so."""

    arm: ArmPlan
    fresh: bool
    rotations: dict[str, Rotation] | None


def make_arm(context: Context, baseline: Baseline, arm: ArmPlan) -> Made:
    """Train (or load) ``arm`` and score it, unless it was finished with the same inputs."""
    run, name = context.run, arm.name
    with run.locked(name):
        after = None if arm.training else _loaded(context, arm)
        inputs = inputs_of(context, baseline, arm, after)
        if run.is_done(name, inputs):
            context.progress.say(f"{name}: already done")
            return Made(arm, False, None)
        # A control arm has as many steps as the others, which may be more in a larger study.
        folder = run.begin(name, inputs, set_aside=arm.control)
        write_json(folder / "config.json", arm.describe(context.plan.stop_at))
        if after is None:
            lm, scores = train_arm(context, baseline, arm, folder)
        else:
            lm, scores = after, _existing(context, baseline, arm, after)
        write_table(folder / "scores.parquet", scores.assign(arm=name, seed=_seed(arm)))
        rotations = _rotations(context, baseline, lm, arm)
        if arm.training:
            _check_weights(context, arm, lm, folder)
        discard_all(folder / "training")
        run.finish(name, inputs)
    return Made(arm, True, rotations)


def _check_weights(context: Context, arm: ArmPlan, lm: LanguageModel, folder: Path) -> None:
    """Compare what loads from the arm's folder with the trained model, which leaves the device."""
    trained: Any = lm.model
    trained.to("cpu")
    with context.progress.stage(f"{arm.name}: loading the saved weights"):
        check_saved(load_made(context, arm), folder)


def inputs_of(
    context: Context, baseline: Baseline, arm: ArmPlan, after: LanguageModel | None = None
) -> Inputs:
    """The inputs of an arm's results; ``after`` is the model of an arm that is not trained."""
    examples = mixture_of(context, baseline, arm) if arm.training else None
    return arm_inputs(context, baseline.inputs, baseline.prefixes, arm, examples, after)


def require_replaceable(context: Context, baseline: Baseline, arms: Sequence[ArmPlan]) -> None:
    """Refuse to replace finished arms before the first one is trained.

    Raises:
        InputError: one was finished from other inputs; not with ``--overwrite``.
    """
    for arm in arms:
        finished = (context.run.arm(arm.name) / "DONE").is_file()
        if finished and arm.training and not arm.control:
            context.run.require_replaceable(arm.name, inputs_of(context, baseline, arm))


def save_merged(arm: Path, options: dict[str, Any]) -> Path:
    """The arm's adapter merged into its base, as a plain Hugging Face model; its folder."""
    if not (arm / "adapter").is_dir():
        return arm / "model"
    lm = LanguageModel.load(arm / "adapter", **options)
    with atomic_folder(arm / "merged") as folder:
        lm.model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
    return arm / "merged"


def compare_states(context: Context, baseline: Baseline, made: Sequence[Made]) -> None:
    """Write each arm's ``rotation.parquet``, with the null band of the control arms."""
    tables = {m.arm.name: context.run.arm(m.arm.name) / "rotation.parquet" for m in made}
    if not any(m.fresh or not tables[m.arm.name].is_file() for m in made):
        return
    found = {}
    for m in made:
        lm = None if m.rotations is not None else load_made(context, m.arm)
        found[m.arm.name] = m.rotations if lm is None else _rotations(context, baseline, lm, m.arm)
    null = [found[m.arm.name] or {} for m in made if m.arm.control]
    for m in made:
        table = rotation_table(found[m.arm.name] or {}, [] if m.arm.control else null)
        write_table(tables[m.arm.name], table)


def _rotations(
    context: Context, baseline: Baseline, lm: LanguageModel, arm: ArmPlan
) -> dict[str, Rotation]:
    base = context.reference
    if (lm.n_layers, lm.d_model) != (base.n_layers, base.d_model):
        context.progress.say(f"{arm.name}: its shape differs from the base's; no rotations")
        return {}
    after = context.contrasts(lm, arm.name)
    layers = range(base.n_layers)
    provenance = {"model": context.plan.model, "arm": arm.name}
    write_directions(context.run.arm(arm.name), after, layers, provenance, context.plan.estimator)
    return rotations(baseline.contrasts, after, layers)


def _seed(arm: ArmPlan) -> int:
    return arm.training.seed if arm.training else 0


def load_made(context: Context, arm: ArmPlan) -> LanguageModel:
    """An arm's model, from its folder."""
    if arm.checkpoint:
        return context.load(arm.checkpoint)
    folder = context.run.arm(arm.name)
    adapter = folder / "adapter"
    return context.load(adapter if adapter.is_dir() else folder / "model")


def _loaded(context: Context, arm: ArmPlan) -> LanguageModel:
    """The model of an arm that is not trained."""
    with context.progress.stage(f"loading {arm.checkpoint}"):
        lm = context.load(arm.checkpoint)
    if lm.tokenizer.get_vocab() != context.reference.tokenizer.get_vocab():
        raise InputError(
            f"{arm.checkpoint} and {context.plan.model} have different vocabularies, so the base "
            "model's prefixes do not apply to it: compare models of one family"
        )
    return lm


def _existing(
    context: Context, baseline: Baseline, arm: ArmPlan, lm: LanguageModel
) -> pd.DataFrame:
    """The scores of a checkpoint, before and after."""
    last = _score_text(context, context.evaluation(baseline.prefixes), lm, arm.name)
    level = float("nan")
    if arm.concept:
        base_rate = target_rate(baseline.scores, arm.concept)
        level = max(0.0, 1 - target_rate(last, arm.concept) / base_rate)
    before = baseline.scores.assign(step=0, dose=0.0)
    return pd.concat([before, last.assign(step=1, dose=level)], ignore_index=True)


def train_arm(
    context: Context, baseline: Baseline, arm: ArmPlan, folder: Path
) -> tuple[LanguageModel, pd.DataFrame]:
    """Train (phase 2) and score at intermediate steps; generate text at the last step.

    Writes the trained parameters and ``log.parquet`` into the folder; returns the trained model and
    the scores of every scored step.
    """
    plan, settings = context.plan, arm.settings
    lm = prepare_in_place(context.load(), settings)
    make_guard = arm.containment.how.guard if arm.containment else None
    guard = make_guard(context, baseline, arm, lm) if make_guard else Guard()
    mixture = guard.with_references(lm, mixture_of(context, baseline, arm), settings)
    base = baseline.scores.assign(step=0, dose=0.0)
    benign = base["label"] == "benign"
    scoring = ForgettingCurve(
        lm,
        context.evaluation(baseline.prefixes, harmful_only=not plan.benign_along),
        arm.concept,
        base if plan.benign_along else base[~benign],
        stop_at=plan.stop_at,
        every_step=plan.every_step,
        keep=lambda: save_with_logits(lm, folder),
        bounds=Bounds(*plan.bounds),
    )
    covered = coverage_of(lm)
    context.progress.say(f"{arm.name}: {covered.line}")
    if (folder / "config.json").is_file():
        update_config(folder / "config.json", coverage=covered.to_json())
    training = folder / "training"  # checkpoints and tracker output
    if left := newest_complete(training):
        context.progress.say(f"{arm.name}: resuming from {left.name}")
    with context.progress.stage(f"{arm.name}: training", settings.max_steps) as advance:
        log = unlearn_in_place(
            lm,
            mixture,
            settings,
            folder=training,
            callbacks=[*guard.callbacks, scoring, _Advance(advance)],
            around_forward=guard.around_forward,
            cache=context.run.folder / "cache",
            checkpoint_every=plan.checkpoint_every,
            states={"scores": scoring},
            report_to=plan.report_to,
        )
    scoring.finish()
    write_table(folder / "log.parquet", log)
    restore_with_logits(lm, folder)  # training continued past them, for the curve
    curve = scoring.scores()
    level = float(curve.loc[curve["step"] == scoring.kept_at, "dose"].max())
    last = _score_text(context, context.evaluation(baseline.prefixes), lm, arm.name)
    last = last.assign(step=scoring.kept_at, dose=level)
    parts = [curve[curve["step"] != scoring.kept_at], last]
    if not plan.benign_along:
        parts.insert(0, base[benign])
    scores = pd.concat(parts, ignore_index=True)
    return lm, scores.sort_values("step", kind="stable", ignore_index=True)


def _score_text(
    context: Context, evaluation: Evaluation, lm: LanguageModel, name: str
) -> pd.DataFrame:
    with context.progress.stage(f"{name}: answers", len(evaluation.prompts)) as advance:
        table, _answers = evaluation.with_text(lm, progress=advance)
    return table


class _Advance(TrainerCallback):
    """Moves the progress bar."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance

    def on_step_end(self, *_arguments: Any, **_keywords: Any) -> None:
        self.advance(1)
