"""The base model's answers, prefixes, scores and states, which stay fixed for all arms."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.runs import (
    BASE,
    EXTRACTIONS,
    Inputs,
    cosine_table,
    extraction_angles,
    extraction_table,
    write_directions,
)
from analyses.study.context import INSTRUCTION, LAST, Context, require_layers
from analyses.study.inputs import base_inputs
from analyses.study.prefilling import PREFILLED_ANSWERS, write_prefilled
from analyses.study.readout import (
    LearnedReadout,
    checked_readout,
    is_current,
    missing_sides,
    other_reader,
    prefixes_of,
    read_prefixes,
    thought_note,
    with_other_reading,
)
from analyses.study.resolve import defaults_for, name_of
from interp.errors import InputError
from interp.model import LanguageModel
from interp.store import read_table, write_json, write_table
from unlearning.data import controls
from unlearning.deflections import answers_in, respond
from unlearning.generation import AnswerLog, answers_key
from unlearning.refusal import ResponsePrefixes
from unlearning.scoring import coherence_of, panel_lines, unread_languages, view_of_panel

# Asked for samples where the greedy answers hold too few of a class.
SAMPLED_PROMPTS, SAMPLES = 64, 4
# Share of answers in languages that the scorer cannot read, from which a study would be wrong.
UNREAD = 0.2


@dataclass(frozen=True)
class Baseline:
    """The base model's results, with which every arm is compared.

    Attributes:
        inputs: everything that they depend on.
        responses: the base model's answer to every prompt, as token ids and class.
        prefixes: R and C, frozen; None where refusal is read from text.
        scores: validation and test prompts, in the order of ``Context.evaluated``.
    """

    inputs: Inputs
    responses: pd.DataFrame
    prefixes: ResponsePrefixes | None
    scores: pd.DataFrame


def establish(context: Context) -> Baseline:
    """Score the base model, or read its stored scores if the inputs have not changed."""
    run, lm = context.run, context.reference
    found = scored_base(context)
    run.delete_other_arms({BASE, *(arm.name for arm in context.plan.arms)})
    if not run.is_done(BASE, found.inputs):
        with context.progress.stage("base model: directions and cosines"):
            folder, layers = run.arm(BASE), range(lm.n_layers)
            provenance = {"model": context.plan.model, "arm": BASE}
            estimator = context.plan.estimator
            write_directions(folder, context.base_contrasts, layers, provenance, estimator)
            (run.folder / "cosine.parquet").unlink(missing_ok=True)  # of the base that is replaced
            if len(context.base_contrasts) > 1:  # a map compares two domains or more
                cosines = cosine_table(context.base_contrasts, layers)
                write_table(run.folder / "cosine.parquet", cosines)
        run.finish(BASE, found.inputs)
    if not (run.arm(BASE) / PREFILLED_ANSWERS).is_file():  # older versions wrote none
        write_prefilled(context, found.responses, lm, BASE)
    if not (path := run.arm(BASE) / EXTRACTIONS).is_file():
        with context.progress.stage("base model: two ways to extract a direction"):
            there, here = (context.base_states.at(one) for one in (INSTRUCTION, LAST))
            layers = range(lm.n_layers)
            apart = extraction_angles(context.prompts, context.evaluated, there, here, layers)
            write_table(path, extraction_table(apart))
    # Written even if the base was not scored again, because the planned arms may have changed.
    write_json(run.folder / "config.json", describe_study(context))
    return found


def scored_base(context: Context) -> Baseline:
    """The results of :func:`establish` without states; it does not mark the base as done."""
    run = context.run
    require_layers(context.plan, context.reference.n_layers)
    inputs = base_inputs(context)
    folder = run.arm(BASE)
    prompts = run.folder / "prompts.parquet"
    if run.is_done(BASE, inputs) and is_current(folder / "openers.json", context.plan.sampling):
        context.progress.say("base model: already scored")
        if not prompts.is_file():
            write_table(prompts, context.prompts)
    else:
        run.begin(BASE, inputs)
        write_table(prompts, context.prompts)
        _score(context, folder, context.fingerprint)
    return Baseline(
        inputs,
        read_table(folder / "responses.parquet"),
        read_prefixes(folder / "openers.json"),
        read_table(folder / "scores.parquet"),
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


def sampled_log(context: Context, fingerprint: str) -> AnswerLog:
    """The sampled answers in the run's folder, refusals or not."""
    lm, sampling = context.reference, context.plan.sampling
    key = answers_key(
        lm,
        max_new_tokens=context.plan.max_new_tokens,
        temperature=sampling.temperature,
        seed=sampling.seed,
        fingerprint=fingerprint,
    )
    path = context.run.folder / "cache" / "sampled.jsonl"
    return AnswerLog(path, key, say=context.progress.say, note=lm.chat.note)


def _require_read(context: Context, responses: pd.DataFrame) -> None:
    """Say which answers the scorer cannot read.

    Raises:
        InputError: they are so many that complying and degenerate models would look alike.
    """
    texts = (list(responses[name]) for name in ("prompt", "response", "class"))
    count, note = unread_languages(context.scorer, *texts)
    if note and count > UNREAD * len(responses):
        raise InputError(
            f"{context.scorer.name} cannot read {count} of the base model's {len(responses)} "
            f"answers, which would count as neither refused nor answered. {note}; the answers are "
            "kept"
        )
    if note:
        context.progress.say(f"warning: {note}")


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
    _require_read(context, responses)
    readout, scores = _readout(context, responses, fingerprint)
    if readout.why_not:
        context.progress.say(
            f"refusal is read from the text of answers, without log-odds: {readout.why_not}"
        )
    said = responses.set_index("id").loc[scores["prompt_id"]]
    scores["class"] = list(said["class"])
    scores["refused"] = (scores["class"] == "refusal").astype(float)
    with context.progress.stage("base model: coherence"):
        found = coherence_of(
            lm, list(said["prompt"]), answers_in(said), own=True, batch_size=plan.batch_size
        )
        scores = scores.assign(**found)
    write_table(folder / "scores.parquet", scores)
    view = view_of_panel(
        context.scorer,
        list(responses["id"]),
        list(responses["label"]),
        (list(responses["prompt"]), list(responses["response"])),
    )
    for line in panel_lines("the base model", view):
        context.progress.say(line)
    told = readout.to_json(lm.tokenizer.decode)
    write_json(folder / "openers.json", {**told, "panel": view})
    auc = next(iter(readout.aucs.values()), None)
    write_json(folder / "config.json", {"name": BASE, "checkpoint": plan.model, "margin_auc": auc})


def _readout(
    context: Context, responses: pd.DataFrame, fingerprint: str
) -> tuple[LearnedReadout, pd.DataFrame]:
    """The readout that the base model's answers give, and the base model's scores with it."""
    other = other_reader(context.scorer)
    told = with_other_reading(responses, other)
    trained = set(responses.loc[responses["split"] == "train", "label"])
    missing = [label for label in missing_sides(told) if label in trained]
    sampling = asdict(context.plan.sampling) if missing else None  # also where it samples none
    if missing and context.plan.sampling.samples:
        told = pd.concat([told, with_other_reading(_sampled(context, missing, fingerprint), other)])
    try:
        prefixes = prefixes_of(told)
    except InputError as error:
        readout = LearnedReadout(None, str(error), sampling=sampling)
    else:
        scores = _masses(context, responses, prefixes)
        readout = replace(checked_readout(prefixes, told, scores, other), sampling=sampling)
        if readout.prefixes:
            return readout, scores
    why = readout.why_not + thought_note(context.reference.chat, responses["ids"])
    return replace(readout, why_not=why), _masses(context, responses, None)


def _masses(
    context: Context, responses: pd.DataFrame, prefixes: ResponsePrefixes | None
) -> pd.DataFrame:
    evaluation = context.evaluation(prefixes)
    if prefixes is None:
        said = responses.set_index("id").loc[evaluation.prompts["id"], "class"]
        scores = evaluation.by_class(list(said))
    else:
        scores = evaluation.masses(context.reference)
    return scores.assign(arm=BASE, seed=0, step=0, dose=0.0)


def _sampled(context: Context, labels: Collection[str], fingerprint: str) -> pd.DataFrame:
    """Sampled answers to training prompts of these labels, for classes with few greedy ones."""
    asked = context.prompts[context.prompts["split"] == "train"]
    chosen = [
        rows.iloc[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLED_PROMPTS), dtype=int)]
        for label, rows in asked.groupby("label")
        if label in labels
    ]
    sampling = context.plan.sampling
    prompts = pd.concat([*chosen] * min(SAMPLES, sampling.samples))
    with context.progress.stage("base model: sampled answers", len(prompts)) as advance:
        return respond(
            context.reference,
            prompts,
            context.scorer,
            max_new_tokens=context.plan.max_new_tokens,
            batch_size=context.plan.batch_size,
            temperature=sampling.temperature,
            seed=sampling.seed,
            progress=advance,
            log=sampled_log(context, fingerprint),
        )


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
