"""Hidden leakage: how often a model still refuses when the first words of an answer are given.

A model that lost refusals may keep the first words alone: then it refuses, but not once an answer
has begun. The given words are the base model's own, the most frequent first tokens of its answers
to benign training prompts. Compare with the base under the same words, and with the plain rate; the
shallow-recovery tests of `spillover contain` have further controls.

It runs by default because it is cheap: it answers at most a tenth as many prompts as the arm's
scores need anyway.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from analyses.study.context import Context
from analyses.study.work import PREFILLED
from interp.model import LanguageModel
from interp.store import write_table
from unlearning.generation import generate
from unlearning.scoring import coherent_classes, refused, repetition
from unlearning.utility import response_token_nll

PREFILLED_ANSWERS = "prefilled.parquet"
TOKENS = 2
FEWEST = 3  # prompts of a domain

Opening = tuple[int, ...]


def opening_of(responses: pd.DataFrame) -> Opening:
    """The most frequent first tokens of the base's answers to benign training prompts; maybe none.

    Answers of no more tokens do not count, because nothing would be left to say after them.
    """
    benign = (responses["label"] == "benign") & (responses["split"] == "train")
    said = responses.loc[benign & (responses["class"] == "answer"), "ids"]
    starts = Counter(tuple(int(i) for i in ids[:TOKENS]) for ids in said if len(ids) > TOKENS)
    return min(starts, key=lambda one: (-starts[one], one), default=())


def prompts_to_prefill(evaluated: pd.DataFrame) -> pd.DataFrame:
    """As many harmful test prompts of every domain, together at most a tenth of all prompts."""
    tested = evaluated[(evaluated["label"] == "harmful") & (evaluated["split"] == "test")]
    each = int(PREFILLED * len(evaluated) / max(1, tested["domain"].nunique()))
    return tested.groupby("domain", sort=False).head(each if each >= FEWEST else 0)


def write_prefilled(
    context: Context, responses: pd.DataFrame, lm: LanguageModel, name: str
) -> None:
    """``prefilled.parquet`` of an arm: ``prompt_id, domain, opening`` (text), ``class, refused``.

    ``nll``, ``repetition`` and ``tokens`` are those of the words after the opening, so that the
    bounds of coherent answers hold for them as for plain answers.

    Nothing is written without an opening, or with too few prompts to keep within the cost.

    Args:
        context: of the study.
        responses: the base model's answers.
        lm, name: the model that answers, and its arm.
    """
    opening, asked = opening_of(responses), prompts_to_prefill(context.evaluated)
    if not opening or asked.empty:
        return
    texts = list(asked["prompt"])
    with context.progress.stage(f"{name}: prefilled answers", len(texts)) as advance:
        answers = generate(
            lm, texts, opening=opening, max_new_tokens=context.plan.max_new_tokens,
            batch_size=context.plan.batch_size, progress=advance,
        )  # fmt: skip
    classes = coherent_classes(context.scorer, texts, [answer.text for answer in answers])
    table = asked[["id", "domain"]].rename(columns={"id": "prompt_id"})
    words = str(context.reference.tokenizer.decode(list(opening)))
    table = table.assign(opening=words, refused=[float(refused(one)) for one in classes])
    table["class"] = classes
    rows = [(text, answer.ids) for text, answer in zip(texts, answers, strict=True)]
    nats = response_token_nll(context.reference, rows, batch_size=context.plan.batch_size)
    after = [of_answer[len(opening) :] for of_answer in nats]
    table["nll"] = [one.mean() if one.size else np.nan for one in after]
    table["repetition"] = [repetition(answer.text) for answer in answers]
    table["tokens"] = [float(one.size) for one in after]
    write_table(context.run.arm(name) / PREFILLED_ANSWERS, table)
