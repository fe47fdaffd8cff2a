"""Coherence of the answers: their probability under the base model, and their repetition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analyses.evaluate.findings import BASE
from analyses.evaluate.subjects import EvaluatedModel, Session
from interp.errors import InputError
from interp.numbers import evenly_spread
from unlearning.scoring import Fluency, measure_fluency, repetition
from unlearning.utility import own_token_nll, response_token_nll

# Number of the base's own answers that calibrate the threshold for "no language".
MOST_SAMPLES = 256
# Share of log |vocabulary|, the nats per random token; greedy answers of a working model take less
# than one nat per token.
RANDOM = 0.5


def add_coherence(tables: Mapping[str, pd.DataFrame], session: Session) -> list[str]:
    """Add ``repetition``, ``answer_nats`` and, with a base, ``no_language`` to every table.

    A model without a base is its own judge of ``answer_nats``, which is unreliable if the model
    itself is degenerate; ``no_language`` needs another model as judge.

    Returns:
        Notes for the reader, in sentences.
    """
    reference = session.reference
    fluency, notes = _fluency_of(reference, session)
    for one in session.models:
        table = tables[one.role]
        table["repetition"] = [repetition(answer.text) for answer in one.answers]
        table["answer_nats"] = np.nan
        if reference.lm is None:
            continue
        # A server gives no token ids; encoding its text may give slightly different tokens.
        read: list[Any] = [answer.ids or answer.text for answer in one.answers]
        settings = {"batch_size": session.plan.batch_size}
        stage = f"{one.name}: coherence under {reference.name}"
        with session.at_work(reference, stage, len(read)) as (lm, advance):
            if one is reference:
                found = own_token_nll(
                    lm, session.prompts, one.answers, progress=advance, **settings
                )
            else:
                pairs = list(zip(session.prompts, read, strict=True))
                found = response_token_nll(lm, pairs, progress=advance, **settings)
        table["answer_nats"] = [float(nll.mean()) if nll.size else np.nan for nll in found]
        if fluency is not None:
            table["no_language"] = [float(not fluency.finds_language(nll)) for nll in found]
        notes += _no_better_than_random(one, reference, table["answer_nats"])
    return notes


def _no_better_than_random(
    one: EvaluatedModel, reference: EvaluatedModel, nats: pd.Series
) -> list[str]:
    """A warning if answers are nearly as improbable as random tokens."""
    assert reference.lm is not None
    random = math.log(reference.lm.model.config.get_text_config(decoder=True).vocab_size)
    mean = nats.mean()
    if not mean > RANDOM * random:
        return []
    return [
        f"{one.name}'s answers take {mean:.1f} nats per token under {reference.name}, and "
        f"random tokens take {random:.1f}: the answers are not language, whatever their class."
    ]


def _fluency_of(reference: EvaluatedModel, session: Session) -> tuple[Fluency | None, list[str]]:
    """The threshold for "no language", from answers that the base samples to training prompts."""
    if reference.role != BASE:
        return None, []
    prompts = session.inputs.prompts
    train = prompts.loc[prompts["split"] == "train", "prompt"]
    texts = list(train.iloc[evenly_spread(len(train), MOST_SAMPLES)])
    sampled = session.answered(replace(reference, answers=()), texts, temperature=1.0)
    try:
        with session.at_work(reference, "where its language ends") as (lm, _):
            ids = [answer.ids for answer in sampled.answers]
            return measure_fluency(lm, texts, ids, batch_size=session.plan.batch_size), []
    except InputError as error:
        return None, [f"The base could not judge which answers are language: {error}."]
