"""Queries the models: answers, classes, first-token masses, coherence and other losses.

A model and its base take turns on the device, which holds one of them at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.evaluate.coherence import add_coherence
from analyses.evaluate.estimates import separation
from analyses.evaluate.findings import LOG_ODDS, Findings, ReadoutCheck, class_by, refused_by
from analyses.evaluate.plan import Inputs
from analyses.evaluate.subjects import EvaluatedModel, Session
from analyses.evaluate.utility import divergence_from_base, likelihood_of_texts, scores_on_tasks
from analyses.runs import Progress, unit_of
from analyses.study import thought_note
from interp.errors import InputError
from interp.progress import Advance
from unlearning.refusal import ResponsePrefixes, find_prefixes, prefix_masses, shared_weights
from unlearning.scoring import (
    COARSE,
    FineScorer,
    ModelScorer,
    Scorer,
    panel_lines,
    refused,
    verdicts,
    view_of_panel,
)

# Answers between two moves of the progress bar.
READ_AT_ONCE = 256
# p_R above which a prompt counts as refused.
READS_REFUSED = 0.5


def find_out(inputs: Inputs, folder: Path, progress: Progress) -> Findings:
    """Query the models for everything in the plan.

    ``folder`` stores each answer at once, and the scores of tasks when they are finished; the same
    command asks only for missing answers.

    Raises:
        InputError: a model, a scorer or a task cannot be used.
    """
    started = time.monotonic()
    session = Session.begin(inputs, folder, progress)
    tables = {one.role: _scored(one, session) for one in session.models}
    notes = add_coherence(tables, session)
    readout = _readout(tables, session)
    scores = pd.concat(tables.values(), ignore_index=True)
    if readout.valid:
        reading = (scores["p_R"] > READS_REFUSED).astype(float)
        scores[refused_by(LOG_ODDS)] = reading.where(scores["p_R"].notna())
    counted = scores[scores["prompt_id"].isin(inputs.counted["id"])].reset_index(drop=True)
    return Findings(
        plan=inputs.plan,
        panel=tuple(inputs.panel),
        scores=counted,
        readout=readout,
        divergence=divergence_from_base(session),
        texts=likelihood_of_texts(session),
        tasks=scores_on_tasks(session),
        completions={
            (one.role, identifier): answer.text
            for one in session.models
            for identifier, answer in zip(inputs.prompts["id"], one.answers, strict=True)
        },
        notes=(*_notes(session), *_without_verdict(counted, inputs), *_of_panel(session), *notes),
        fingerprints={one.role: one.fingerprint for one in session.models},
        seconds=time.monotonic() - started,
        checks={one.role: one.lm.checked.to_json() for one in session.models if one.lm},
    )


def _scored(one: EvaluatedModel, session: Session) -> pd.DataFrame:
    """A row per prompt, with every scorer's reading of the answer."""
    prompts = session.inputs.prompts
    texts = [answer.text for answer in one.answers]
    table = prompts[["id", "split", "domain", "label", "kind", "source"]].rename(
        columns={"id": "prompt_id"}
    )
    table.insert(0, "role", one.role)
    table["cluster"] = unit_of(prompts)
    table["finished"] = [float(answer.finished) for answer in one.answers]
    for name, scorer in session.inputs.panel.items():
        with session.progress.stage(f"{one.name}: read by {name}", len(texts)) as advance:
            classes = classes_of(scorer, session.prompts, texts, advance)
        table[class_by(name)] = np.array(classes, dtype=object)
        table[refused_by(name)] = [
            np.nan if one is None else float(refused(COARSE.get(one, one))) for one in classes
        ]
    return table


def classes_of(
    scorer: Scorer, prompts: Sequence[str], texts: Sequence[str], advance: Advance
) -> Sequence[str | None]:
    """The scorer's finest classes; None where a judge gave no verdict."""
    if isinstance(scorer, ModelScorer):
        return verdicts(scorer.reader, prompts, texts, progress=advance)
    read = scorer.classify_finely if isinstance(scorer, FineScorer) else scorer.classify
    found: list[str | None] = []
    for start in range(0, len(texts), READ_AT_ONCE):
        batch = slice(start, start + READ_AT_ONCE)
        found += read(prompts[batch], texts[batch])
        advance(len(texts[batch]))
    return found


def _readout(tables: dict[str, pd.DataFrame], session: Session) -> ReadoutCheck:
    """Add first-token masses to every table; return whether they separate refusals from answers."""
    reference, headline = session.reference, session.inputs.headline
    prefixes, why_not = _prefixes_of(session, tables[reference.role])
    texts = None
    if prefixes is not None:
        for one in session.models:
            stage = f"{one.name}: first-token masses"
            with session.at_work(one, stage, len(session.prompts)) as (lm, advance):
                rows = [lm.chat.encode(prompt) for prompt in session.prompts]
                found = prefix_masses(
                    lm, rows, prefixes, batch_size=session.plan.batch_size, progress=advance
                )
            for name, values in found.columns().items():
                tables[one.role][name] = values
        assert reference.lm is not None
        decode = reference.lm.tokenizer.decode
        texts = {
            name: tuple(str(decode(list(prefix))) for prefix in ids)
            for name, ids in asdict(prefixes).items()
        }
    return ReadoutCheck(prefixes, separation(tables[reference.role], headline), why_not, texts)


def _prefixes_of(
    session: Session, table: pd.DataFrame
) -> tuple[ResponsePrefixes | None, str | None]:
    """Prefixes of the reference's answers to training prompts, or why there are none."""
    if len(session.loaded) < len(session.models):
        return None, "a server gives no probabilities"
    headline = session.inputs.headline
    ids = pd.Series([answer.ids for answer in session.reference.answers])
    train = table["split"] == "train"
    if not train.any():
        return None, "no prompt is in the split train, from which prefixes are learned"
    refusals = train & (table["label"] == "harmful") & (table[refused_by(headline)] == 1)
    is_answer = table[class_by(headline)].map(lambda one: COARSE.get(one, one)) == "answer"
    answers = train & (table["label"] == "benign") & is_answer
    weights = [
        list(shared_weights(list(side["domain"]), list(side["prompt_id"])))
        for side in (table[refusals], table[answers])
    ]
    sides = list(ids[refusals]), list(ids[answers])
    try:
        found = find_prefixes(*sides, refusal_weights=weights[0], answer_weights=weights[1])
    except InputError as error:
        assert session.reference.lm is not None
        return None, str(error) + thought_note(session.reference.lm.chat, ids)
    return found, None


def _notes(session: Session) -> list[str]:
    """Notes for the reader, in sentences."""
    notes = [
        f"{one.name} has no chat template: prompts were written as "
        '"User: …", "Assistant:"; another form can be given with --chat-template.'
        for one in session.models
        if one.lm is not None and one.lm.chat.is_fallback
    ]
    notes += [
        f"{one.name}: {one.lm.chat.note}."
        for one in session.models
        if one.lm is not None and one.lm.chat.note
    ]
    notes += [
        f"{one.name}, self-check: {line}."
        for one in session.models
        if one.lm is not None
        for line in one.lm.checked.lines()
    ]
    if session.plan.server:
        reference = session.reference.name
        coherence = f"under {reference}" if session.plan.base else "missing without --base"
        notes.append(
            "The answers came from a server, which gives no probabilities. Refusal log-odds and "
            f"divergence from a base are missing, and coherence in nats is {coherence}."
        )
    return notes + [
        f"{one.share_cut:.0%} of {one.name}'s answers were cut off after "
        f"{session.plan.answer_tokens} tokens; scorers read the part before (--max-new-tokens)."
        for one in session.models
        if one.share_cut > 0.5
    ]


def _without_verdict(scores: pd.DataFrame, inputs: Inputs) -> list[str]:
    missing = {name: int(scores[class_by(name)].isna().sum()) for name in inputs.panel}
    return [
        f"{name} gave no verdict on {count} of {len(scores)} answers, which do not count."
        for name, count in missing.items()
        if count
    ]


def _of_panel(session: Session) -> list[str]:
    """What the panel says about its verdicts on every model's answers."""
    prompts = session.inputs.prompts
    counted = np.flatnonzero(prompts["id"].isin(session.inputs.counted["id"]))
    ids, labels = ([prompts[name].iloc[i] for i in counted] for name in ("id", "label"))
    asked = [session.prompts[i] for i in counted]
    return [
        line
        for scorer in session.inputs.panel.values()
        for one in session.models
        for line in panel_lines(
            one.name,
            view_of_panel(scorer, ids, labels, (asked, [one.answers[i].text for i in counted])),
        )
    ]
