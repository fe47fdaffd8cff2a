"""Making one arm: train it or load it, score it, collect its states, compare with the base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import TrainerCallback

from analyses.runs import (
    PANEL,
    Inputs,
    matched_step,
    rotation_table,
    rotations,
    update_config,
    write_directions,
)
from analyses.study.baseline import Baseline
from analyses.study.context import Context
from analyses.study.harm import write_harm
from analyses.study.inputs import arm_inputs
from analyses.study.keeping import TRAINING, Keeper
from analyses.study.methods import Guard
from analyses.study.mixing import mixture_of
from analyses.study.plan import ArmPlan
from analyses.study.prefilling import write_prefilled
from analyses.study.together import TrainingRun, share
from interp.activations import Activations
from interp.errors import InputError, SpilloverError, TrainingError
from interp.model import LanguageModel, adapters_merged
from interp.progress import Advance
from interp.similarity import Rotation
from interp.store import atomic_folder, read_table, write_json, write_table
from unlearning.losses import for_forgetting
from unlearning.scoring import Evaluation, panel_lines, view_of_panel
from unlearning.training import (
    Bounds,
    ForgettingCurve,
    check_saved,
    coverage_of,
    discard_all,
    keep_whole,
    lost_share,
    newest_complete,
    prepare_in_place,
    restore_with_logits,
    save_with_logits,
    target_rate,
    unlearn_in_place,
)

ROTATION = "rotation.parquet"
ANSWERS = "completions.parquet"
SCORES = "scores"  # in a checkpoint


def make_arm(context: Context, baseline: Baseline, arm: ArmPlan) -> None:
    """Train (or load) ``arm`` and score it, unless it was finished with the same inputs.

    Raises:
        TrainingError: it cannot be trained; its ``config.json`` keeps the reason.
    """
    arm = _as_long_as_plain(context, arm)
    run, name = context.run, arm.name
    with run.locked(name):
        after = None if arm.training else _loaded(context, arm)
        inputs = inputs_of(context, baseline, arm, after)
        if run.is_done(name, inputs):
            context.progress.say(f"{name}: already done")
            return
        # A control arm has as many steps as the others, which may be more in a larger study.
        folder = run.begin(name, inputs, set_aside=arm.control)
        write_json(folder / "config.json", arm.describe(context.plan.stop_at))
        try:
            _fill(context, baseline, arm, after, folder)
        except TrainingError as error:
            update_config(folder / "config.json", failed=str(error))
            raise
        discard_all(folder / TRAINING)
        run.finish(name, inputs)


def _fill(
    context: Context, baseline: Baseline, arm: ArmPlan, after: LanguageModel | None, folder: Path
) -> None:
    """Make everything that an arm's folder holds."""
    if after is None:
        lm, scores = train_arm(context, baseline, arm, folder)
    else:
        lm, scores = after, _existing(context, baseline, arm, after, folder)
    write_table(folder / "scores.parquet", scores.assign(arm=arm.name, seed=_seed(arm)))
    with adapters_merged(lm.model):
        write_prefilled(context, baseline.responses, lm, arm.name)
        states = _states(context, lm, arm)
        _write_rotations(context, states, arm)
        if states is not None:
            write_harm(context, baseline, states, scores, arm.name)
    if arm.training:
        check_weights(context, arm, lm, folder)


def _as_long_as_plain(context: Context, arm: ArmPlan) -> ArmPlan:
    """A control arm with as many steps as the plain arms took to their saved weights."""
    if not (arm.control and arm.training):
        return arm
    steps = [
        matched_step(read_table(path, ("step", "class")))
        for plain in context.plan.arms
        if not plain.control and not plain.retain
        and (path := context.run.arm(plain.name) / "scores.parquet").is_file()
        and path.with_name("DONE").is_file()
    ]  # fmt: skip
    return replace(arm, training=replace(arm.training, max_steps=max(steps, default=1)))


def check_weights(context: Context, arm: ArmPlan, lm: LanguageModel, folder: Path) -> None:
    """Compare what loads from the arm's folder with the trained model, which leaves the device.

    Raises:
        TrainingError: it is another model; names the folder of the whole one, if that is the same.
    """
    trained: Any = lm.model
    trained.to("cpu")
    with context.progress.stage(f"{arm.name}: loading the saved weights"):
        try:
            check_saved(load_made(context, arm), folder)
        except SpilloverError as error:
            kept = keep_whole(lm, folder)
            where = f"; the whole trained model is in {kept}" if kept else ""
            raise TrainingError(f"{error}{where}") from error


def inputs_of(
    context: Context, baseline: Baseline, arm: ArmPlan, after: LanguageModel | None = None
) -> Inputs:
    """The inputs of an arm's results; ``after`` is the model of an arm that is not trained."""
    examples = mixture_of(context, baseline, arm) if arm.training else None
    return arm_inputs(context, baseline.inputs, baseline.prefixes, arm, examples, after)


def require_replaceable(context: Context, baseline: Baseline, arms: Sequence[ArmPlan]) -> None:
    """Before the first arm is trained: refuse to replace finished ones, and pairs with gaps.

    Raises:
        InputError: an arm was finished from other inputs (not with ``--overwrite``), or a refusal
            that it trains on has no compliance.
    """
    for arm in arms:
        if arm.training is None:
            continue
        finished = (context.run.arm(arm.name) / "DONE").is_file()
        if finished and not arm.control:
            context.run.require_replaceable(arm.name, inputs_of(context, baseline, arm))
        elif arm.concept and for_forgetting(arm.settings.objective).on_pairs:
            mixture_of(context, baseline, arm)


def save_merged(arm: Path, options: dict[str, Any]) -> Path:
    """The arm's adapter merged into its base, as a plain Hugging Face model; its folder."""
    if not (arm / "adapter").is_dir():
        return arm / "model"
    lm = LanguageModel.load(arm / "adapter", **options)
    with atomic_folder(arm / "merged") as folder:
        lm.model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
    return arm / "merged"


def _states(context: Context, lm: LanguageModel, arm: ArmPlan) -> Activations | None:
    """The arm's states; None if its shape is not the base's."""
    base = context.reference
    if (lm.n_layers, lm.d_model) != (base.n_layers, base.d_model):
        context.progress.say(f"{arm.name}: its shape differs from the base's; no rotations")
        return None
    return context.states(lm, arm.name)


def _write_rotations(context: Context, states: Activations | None, arm: ArmPlan) -> None:
    """The arm's rotations, if any, with the null of sampling noise; a run's table adds controls."""
    if states is not None and (found := _rotations(context, states, arm)):
        write_table(context.run.arm(arm.name) / ROTATION, rotation_table(found))


def _rotations(context: Context, states: Activations, arm: ArmPlan) -> dict[str, Rotation]:
    after = context.contrasts(states)
    layers = range(context.reference.n_layers)
    provenance = {"model": context.plan.model, "arm": arm.name}
    write_directions(context.run.arm(arm.name), after, layers, provenance, context.plan.estimator)
    return rotations(context.base_contrasts, after, layers)


def _seed(arm: ArmPlan) -> int:
    return arm.training.seed if arm.training else 0


def load_made(context: Context, arm: ArmPlan) -> LanguageModel:
    """An arm's model, from its folder; what a study trained behaves as the base model does."""
    if arm.checkpoint:
        return context.load(arm.checkpoint)
    folder = context.run.arm(arm.name)
    adapter = folder / "adapter"
    source = adapter if adapter.is_dir() else folder / "model"
    return context.load(source, like=context.reference)


def _loaded(context: Context, arm: ArmPlan) -> LanguageModel:
    """The model of an arm that is not trained."""
    with context.progress.stage(f"loading {arm.checkpoint}"):
        lm = context.load(arm.checkpoint)
    if lm.tokenizer.get_vocab() != context.reference.tokenizer.get_vocab():
        raise InputError(
            f"{arm.checkpoint} and {context.plan.model} have different vocabularies, so the base "
            "model's prefixes do not apply to it: compare models of one family"
        )
    chat = context.reference.chat
    if lm.chat.fingerprint == chat.fingerprint:
        return lm
    context.progress.say(
        f"note: the chat template of {arm.checkpoint} is another one; both models read the prompts "
        f"in that of {context.plan.model}; give --chat-template FILE for another form"
    )
    found, lm = lm.found_out, replace(lm, chat=chat)
    lm.found_out.update(found)
    return lm


def _existing(
    context: Context, baseline: Baseline, arm: ArmPlan, lm: LanguageModel, folder: Path
) -> pd.DataFrame:
    """The scores of a checkpoint, before and after."""
    last = _score_text(context, context.evaluation(baseline.prefixes), lm, arm.name, folder)
    level = float("nan")
    if arm.concept:
        base_rate = target_rate(baseline.scores, arm.concept)
        level = max(0.0, lost_share(base_rate, target_rate(last, arm.concept)))
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
    lm = prepare_in_place(context.load(like=context.reference), settings)
    make_guard = arm.containment.how.guard if arm.containment else None
    guard = make_guard(context, baseline, arm, lm) if make_guard else Guard()
    mixture = guard.with_references(lm, mixture_of(context, baseline, arm), settings)
    base = baseline.scores.assign(step=0, dose=0.0)
    benign = base["label"] == "benign"
    keeper = Keeper(context, baseline, arm, lm, folder) if arm.concept else None
    scoring = ForgettingCurve(
        lm,
        context.evaluation(baseline.prefixes, rows=None if plan.benign_along else context.harmful),
        arm.concept,
        base if plan.benign_along else base[~benign],
        stop_at=plan.stop_at,
        every_step=plan.every_step,
        by_text=baseline.prefixes is None,
        keep=lambda: save_with_logits(lm, folder),
        bounds=Bounds(*plan.bounds),
        read_text=keeper,
    )
    covered = coverage_of(lm)
    context.progress.say_once(covered.line)
    if (folder / "config.json").is_file():
        update_config(folder / "config.json", coverage=covered.to_json())
    training = folder / TRAINING
    if left := newest_complete(training):
        context.progress.say(f"{arm.name}: resuming from {left.name}")
        if ended := ForgettingCurve.ended_at(left / SCORES):
            settings = replace(settings, max_steps=ended)  # its curve is drawn: train no further
    cache = context.run.folder / "cache"
    share(TrainingRun(mixture, settings, training, cache, plan.checkpoint_every))
    with context.progress.stage(f"{arm.name}: training", settings.max_steps) as advance:
        log = unlearn_in_place(
            lm,
            mixture,
            settings,
            folder=training,
            callbacks=[*guard.callbacks, scoring, _Advance(advance)],
            around_forward=guard.around_forward,
            cache=cache,
            checkpoint_every=plan.checkpoint_every,
            states={SCORES: scoring} | ({"answers": keeper} if keeper else {}) | {**guard.states},
            report_to=plan.report_to,
        )
    scoring.finish()
    end = int(scoring.tables[-1]["step"].iloc[-1])
    if scoring.has_levelled_off(end) and end < arm.settings.max_steps:
        said = f"the forgetting level stays at {scoring.level:.2f}, so training ended at step {end}"
        context.progress.say(f"{arm.name}: {said}")
    curve = _with_text_at_end(context, baseline, lm, scoring, keeper)
    restore_with_logits(lm, folder)  # training continued past them, for the curve
    assert scoring.kept_at is not None, "finish() keeps a model"
    step, scale, level = scoring.kept_at, 1.0, scoring.level_at(scoring.kept_at)
    if keeper is not None:
        kept = keeper.settle(step, level)
        step, scale, level = kept.step, kept.scale, kept.level
    write_table(folder / "log.parquet", _with_readings(log, curve, keeper))
    last = _score_text(context, context.evaluation(baseline.prefixes), lm, arm.name, folder)
    last = last.assign(step=step, dose=level, scale=scale, kept=True)
    replaced = (curve["step"] == step) & (scale == 1)
    parts = [curve[~replaced].assign(scale=1.0, kept=False), last]
    if not plan.benign_along:
        parts.insert(0, base[benign].assign(scale=1.0, kept=False))
    scores = pd.concat(parts, ignore_index=True)
    return lm, scores.sort_values("step", kind="stable", ignore_index=True)


def _with_text_at_end(
    context: Context,
    baseline: Baseline,
    lm: LanguageModel,
    scoring: ForgettingCurve,
    keeper: Keeper | None,
) -> pd.DataFrame:
    """The curve, with answers to harmful test prompts at its last step, if that is not kept."""
    curve = scoring.scores()
    end = int(curve["step"].max())
    if keeper is None:
        return curve
    if scoring.kept_at == end and not keeper.is_overdosed(keeper.at(end, scoring.level)):
        return curve  # the kept model's answers are read later
    rows = context.harmful[context.harmful["split"] == "test"]
    evaluation = context.evaluation(baseline.prefixes, rows=rows)
    name = f"{keeper.arm.name}: answers at step {end}"
    with context.progress.stage(name, len(rows)) as advance:
        said, _ = evaluation.with_text(lm, progress=advance)
    replaced = (curve["step"] == end) & curve["prompt_id"].isin(said["prompt_id"])
    said = said.assign(step=end, dose=curve.loc[replaced, "dose"].max())
    return pd.concat([curve[~replaced], said], ignore_index=True)


def _with_readings(log: pd.DataFrame, curve: pd.DataFrame, keeper: Keeper | None) -> pd.DataFrame:
    """The log with the forgetting level of scored steps, and the answers where they were read."""
    levels = curve.groupby("step")["dose"].first()
    log = log.assign(forgetting_level=log["step"].map(levels))
    if keeper is None:
        return log
    return log.merge(keeper.along(), on="step", how="left")


def _score_text(
    context: Context, evaluation: Evaluation, lm: LanguageModel, name: str, folder: Path
) -> pd.DataFrame:
    """The scores of a model's answers, which are written into the folder."""
    with context.progress.stage(f"{name}: answers", len(evaluation.prompts)) as advance:
        table, answers = evaluation.with_text(lm, progress=advance)
    kept = evaluation.prompts[["id", "prompt"]].rename(columns={"id": "prompt_id"})
    write_table(folder / ANSWERS, kept.assign(completion=[answer.text for answer in answers]))
    view = view_of_panel(
        context.scorer,
        list(kept["prompt_id"]),
        list(evaluation.prompts["label"]),
        (list(kept["prompt"]), [answer.text for answer in answers]),
    )
    if view:
        write_json(folder / PANEL, view)
    for line in panel_lines(name, view):
        context.progress.say(line)
    return table


class _Advance(TrainerCallback):
    """Moves the progress bar."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance

    def on_step_end(self, *_arguments: Any, **_keywords: Any) -> None:
        self.advance(1)
