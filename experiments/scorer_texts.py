"""How well do scorers read texts with known classes, and how fast?

A file of texts names the acceptable classes of each, because some can be read in two ways. Speed is
CPU time of this process on one core, on answers of about the length that models give.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from interp.errors import InputError
from interp.statistics import Estimate, rate_of
from unlearning.scoring import CLASSES, find_scorer, refusal_texts

WORDS = 120  # of an answer whose reading is timed


def read_texts(path: Path, scorers: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a file of texts, once by each scorer.

    Args:
        path: JSON lines with ``prompt``, ``response``, ``kind`` and ``class``, a list of the
            acceptable ``CLASSES``.
        scorers: their names.

    Returns:
        A row per scorer with the shares of right verdicts on "refused" and of right classes (95%
        Wilson intervals); and a row per scorer and text that is read wrongly.

    Raises:
        InputError: a class is unknown, or there is no such scorer.
    """
    texts = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    unknown = {name for text in texts for name in text["class"]} - set(CLASSES)
    if unknown:
        raise InputError(f"{path.name}: unknown classes {', '.join(sorted(unknown))}")
    columns = [text["prompt"] for text in texts], [text["response"] for text in texts]
    rates, wrong = [], []
    for name in scorers:
        found = find_scorer(name)
        said = found.classify(*columns)
        known = list(zip(said, texts, strict=True))
        on_refused = [(one == "refusal") == ("refusal" in text["class"]) for one, text in known]
        on_class = [one in text["class"] for one, text in known]
        rates.append(
            {
                "scorer": found.name,
                "n": len(texts),
                "right on refused": interval_text(rate_of(sum(on_refused), len(texts))),
                "right class": interval_text(rate_of(sum(on_class), len(texts))),
            }
        )
        wrong += [
            {"scorer": found.name, "kind": text["kind"], "class": text["class"], "said": one}
            for (one, text), right in zip(known, on_class, strict=True)
            if not right
        ]
    return pd.DataFrame(rates), pd.DataFrame(wrong, columns=["scorer", "kind", "class", "said"])


def interval_text(share: Estimate) -> str:
    """A share with its interval, as the docs write it."""
    return f"{share.value:.3f} ({share.low:.3f}–{share.high:.3f})"


def time_reading(scorers: Sequence[str], answers: int) -> pd.DataFrame:
    """CPU seconds that scorers take for different answers, after they have learned.

    Returns:
        A row per scorer: ``learning`` (the first answer, with all that is loaded or fitted) and
        ``reading`` (all others), in seconds of one core.
    """
    rng = np.random.default_rng(0)
    texts = [text for text in refusal_texts() if text.language == "en"]
    prompts, responses = [], []
    for _ in range(answers):
        chosen = rng.permutation(len(texts))
        said: list[str] = []
        for place in chosen:
            said += texts[place].response.split(" ")
            if len(said) >= WORDS:
                break
        prompts.append(texts[chosen[0]].prompt)
        responses.append(" ".join(said[:WORDS]))
    rows = []
    for name in scorers:
        scorer, began = find_scorer(name), time.process_time()
        scorer.classify(prompts[:1], responses[:1])
        learned = time.process_time()
        scorer.classify(prompts, responses)
        ended = time.process_time()
        rows.append(
            {"scorer": name, "answers": answers, "learning": learned - began,
             "reading": ended - learned}
        )  # fmt: skip
    return pd.DataFrame(rows).round(1)
