"""The base model's answers, prefixes, scores and states, which stay fixed for all arms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from analyses.runs import BASE, Inputs, cosine_table, write_directions
from analyses.study.context import Context, require_layers
from analyses.study.inputs import base_inputs
from analyses.study.resolve import defaults_for, name_of
from interp.model import LanguageModel
from interp.statistics import Contrast
from interp.store import read_json, read_table, write_json, write_table
from unlearning.data import controls
from unlearning.deflections import respond
from unlearning.generation import AnswerLog, answers_key
from unlearning.refusal import VALID_AUC, ResponsePrefixes, find_prefixes, log_odds_auc
from unlearning.scoring import coherence_of


@dataclass(frozen=True)
class Baseline:
    """The base model's results, with which every arm is compared.

    Attributes:
        inputs: everything that they depend on.
        responses: the base model's answer to every prompt, as token ids and class.
        prefixes: R and C, frozen.
        scores: validation and test prompts, in the order of ``Context.evaluated``.
        contrasts: states of every domain's harmful prompts and controls.
    """

    inputs: Inputs
    responses: pd.DataFrame
    prefixes: ResponsePrefixes
    scores: pd.DataFrame
    contrasts: dict[str, Contrast]


def establish(context: Context) -> Baseline:
    """Score the base model, or read its stored scores if the inputs have not changed."""
    run, lm = context.run, context.reference
    scored = scored_base(context)
    found = replace(scored, contrasts=context.contrasts(lm, "base model"))
    run.delete_other_arms({BASE, *(arm.name for arm in context.plan.arms)})
    if not run.is_done(BASE, found.inputs):
        with context.progress.stage("base model: directions and cosines"):
            folder, layers = run.arm(BASE), range(lm.n_layers)
            provenance = {"model": context.plan.model, "arm": BASE}
            estimator = context.plan.estimator
            write_directions(folder, found.contrasts, layers, provenance, estimator)
            write_table(run.folder / "cosine.parquet", cosine_table(found.contrasts, layers))
        run.finish(BASE, found.inputs)
    # Written even if the base was not scored again, because the planned arms may have changed.
    write_json(run.folder / "config.json", describe_study(context))
    return found


def scored_base(context: Context) -> Baseline:
    """The results of :func:`establish` without contrasts; it does not mark the base as done."""
    run = context.run
    require_layers(context.plan, context.reference.n_layers)
    inputs = base_inputs(context)
    folder = run.arm(BASE)
    prompts = run.folder / "prompts.parquet"
    if run.is_done(BASE, inputs):
        context.progress.say("base model: already scored")
        if not prompts.is_file():
            write_table(prompts, context.prompts)
    else:
        run.begin(BASE, inputs)
        write_table(prompts, context.prompts)
        _score(context, folder, context.reference.fingerprint())
    return Baseline(
        inputs,
        read_table(folder / "responses.parquet"),
        read_prefixes(folder / "openers.json"),
        read_table(folder / "scores.parquet"),
        {},
    )


def answer_log(
    folder: Path,
    lm: LanguageModel,
    max_new_tokens: int,
    fingerprint: str | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> AnswerLog:
    """The model's responses that a run's folder holds already; new ones are added to it."""
    key = answers_key(lm, max_new_tokens=max_new_tokens, fingerprint=fingerprint)
    return AnswerLog(folder / "cache" / "answers.jsonl", key, say=say, note=lm.chat.note)


def _score(context: Context, folder: Path, fingerprint: str) -> None:
    plan, lm = context.plan, context.reference
    log = answer_log(context.run.folder, lm, plan.max_new_tokens, fingerprint, context.progress.say)
    with context.progress.stage("base model: answers", len(context.prompts)) as advance:
        responses = respond(
            lm,
            context.prompts,
            context.scorer,
            max_new_tokens=plan.max_new_tokens,
            batch_size=plan.batch_size,
            progress=advance,
            log=log,
        )
    write_table(folder / "responses.parquet", responses)
    prefixes = prefixes_of(responses)
    scores = context.evaluation(prefixes).masses(lm).assign(arm=BASE, seed=0, step=0, dose=0.0)
    said = responses.set_index("id").loc[scores["prompt_id"]]
    scores["class"] = list(said["class"])
    scores["refused"] = (scores["class"] == "refusal").astype(float)
    with context.progress.stage("base model: coherence"):
        answers = [list(said[name]) for name in ("prompt", "ids", "response")]
        scores = scores.assign(**coherence_of(lm, *answers, batch_size=plan.batch_size))
    validation = scores[scores["split"] == "validation"]
    auc = log_odds_auc(validation["margin"].to_numpy(), validation["refused"].to_numpy())
    if auc is None or auc < VALID_AUC:
        context.progress.say(
            "warning: the refusal log-odds do not separate this model's refusals from its answers "
            f"(AUC {'undefined' if auc is None else format(auc, '.2f')}, needed {VALID_AUC}): "
            "use the text classes, not p_R"
        )
    write_table(folder / "scores.parquet", scores)
    write_json(folder / "openers.json", describe_prefixes(context, prefixes))
    write_json(folder / "config.json", {"name": BASE, "checkpoint": plan.model, "margin_auc": auc})


def prefixes_of(responses: pd.DataFrame) -> ResponsePrefixes:
    """R from refusals over all domains, C from answers to benign prompts; training prompts."""
    train = responses[responses["split"] == "train"]
    refused = (train["label"] == "harmful") & (train["class"] == "refusal")
    answered = (train["label"] == "benign") & (train["class"] == "answer")
    return find_prefixes(list(train.loc[refused, "ids"]), list(train.loc[answered, "ids"]))


def describe_prefixes(context: Context, prefixes: ResponsePrefixes) -> dict[str, object]:
    """Token ids and their text."""
    decode = context.reference.tokenizer.decode
    return asdict(prefixes) | {
        "text": {
            name: [str(decode(list(prefix))) for prefix in ids]
            for name, ids in asdict(prefixes).items()
        }
    }


def read_prefixes(path: Path) -> ResponsePrefixes:
    """Prefixes as :func:`describe_prefixes` wrote them."""
    stored = read_json(path, ("refusal", "compliance"))
    refusal, compliance = (
        tuple(tuple(prefix) for prefix in stored[name]) for name in ("refusal", "compliance")
    )
    return ResponsePrefixes(refusal, compliance)


def describe_study(context: Context) -> dict[str, object]:
    """``config.json``: all settings needed to repeat the run and to interpret it."""
    plan = context.plan
    own = defaults_for(plan.model)
    harmful = context.prompts[context.prompts["label"] == "harmful"]
    return {
        "command": plan.command,
        "model": plan.model,
        "model_name": name_of(plan.model),
        "model_options": dict(plan.model_options),
        "chat": context.reference.chat.fingerprint,
        "prompts": plan.prompts or own.prompts_name,
        "concepts": plan.concepts,
        "seeds": plan.seeds,
        "scorer": f"margin + {context.scorer.name} {context.scorer.version}",
        "planted": own.ground_truth,
        "split_sizes": harmful["split"].value_counts().to_dict(),
        "controls_note": controls(context.prompts, "test").note,
        "stop_at": plan.stop_at,
        "arms": [arm.describe(plan.stop_at) for arm in plan.arms],
        "estimator": plan.estimator,
        "plugins": [plugin.described() for plugin in plan.plugins],
    }
