"""Are the answers still language? By the base model, and by how much they repeat themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.evaluate.findings import BASE
from analyses.evaluate.plan import Inputs
from analyses.evaluate.subjects import EvaluatedModel, answered, at_work
from analyses.runs import Progress
from interp.errors import InputError
from unlearning.scoring import Fluency, measure_fluency, repetition
from unlearning.utility import response_token_nll

# Of its own answers, from which is learned where the base's language ends.
MOST_SAMPLES = 256
# Of log |vocabulary|, which tokens at random take; a working model's greedy answers take a
# fraction of one nat.
RANDOM = 0.5


def add_coherence(
    tables: Mapping[str, pd.DataFrame],
    subjects: Sequence[EvaluatedModel],
    inputs: Inputs,
    folder: Path,
    progress: Progress,
) -> list[str]:
    """Add ``repetition``, ``answer_nats`` and, with a base, ``no_language`` to every table.

    A model without a base is its own judge of ``answer_nats``, which a broken one is not fit for;
    ``no_language`` is only there where another model says so.

    Returns:
        What a reader must know, in sentences.
    """
    reference = subjects[-1]
    fluency, notes = _fluency_of(reference, inputs, folder, progress)
    prompts = list(inputs.prompts["prompt"])
    for subject in subjects:
        table = tables[subject.role]
        table["repetition"] = [repetition(answer.text) for answer in subject.answers]
        table["answer_nats"] = np.nan
        if reference.lm is None:
            continue
        # A server gives no token ids; text comes to the same but for how it is cut into tokens.
        answers = [answer.ids or answer.text for answer in subject.answers]
        stage = f"{subject.name}: coherence under {reference.name}"
        with at_work(reference, inputs.plan) as lm, progress.stage(stage, len(prompts)) as advance:
            found = response_token_nll(
                lm,
                list(zip(prompts, answers, strict=True)),
                batch_size=inputs.plan.batch_size,
                progress=advance,
            )
        table["answer_nats"] = [float(nll.mean()) if nll.size else np.nan for nll in found]
        if fluency is not None:
            table["no_language"] = [float(not fluency.finds_language(nll)) for nll in found]
        notes += _no_better_than_random(subject, reference, table["answer_nats"])
    return notes


def _no_better_than_random(
    subject: EvaluatedModel, reference: EvaluatedModel, nats: pd.Series
) -> list[str]:
    """A warning where answers are nearly as surprising as tokens drawn at random."""
    assert reference.lm is not None
    random = math.log(reference.lm.model.config.get_text_config(decoder=True).vocab_size)
    mean = nats.mean()
    if not mean > RANDOM * random:
        return []
    return [
        f"{subject.name}'s answers take {mean:.1f} nats per token under {reference.name}, and "
        f"tokens at random {random:.1f}: this is no language, whatever class it is put into."
    ]


def _fluency_of(
    reference: EvaluatedModel, inputs: Inputs, folder: Path, progress: Progress
) -> tuple[Fluency | None, list[str]]:
    """Where the base's language ends, from answers that it samples to training prompts."""
    if reference.role != BASE:
        return None, []
    texts = list(inputs.prompts.loc[inputs.prompts["split"] == "train", "prompt"])
    # Evenly over the file, so over all its domains.
    places = np.linspace(0, len(texts) - 1, min(len(texts), MOST_SAMPLES)).round().astype(int)
    texts = [texts[place] for place in places]
    sampled = answered(
        replace(reference, answers=()), texts, inputs.plan, folder, progress, temperature=1.0
    )
    try:
        with at_work(reference, inputs.plan) as lm, progress.stage("where its language ends"):
            return measure_fluency(
                lm,
                texts,
                [answer.ids for answer in sampled.answers],
                batch_size=inputs.plan.batch_size,
            ), []
    except InputError as error:
        return None, [f"The base was not asked which answers are language: {error}."]
