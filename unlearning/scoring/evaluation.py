"""A model's refusal over prompts: masses at the first answer position, and classes of its text.

Every class comes with a measure of the text's coherence, because a degenerate model does not
refuse either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from interp.model import LanguageModel, Tokens
from interp.progress import Advance, silent
from unlearning.generation import generate
from unlearning.generation.responses import Answer
from unlearning.refusal import ResponsePrefixes, prefix_masses
from unlearning.scoring.classes import Scorer, refused
from unlearning.scoring.coherence import repetition
from unlearning.utility import response_nll

if TYPE_CHECKING:
    import pandas as pd

# Columns about a generated text, in addition to its class.
COHERENCE = ("nll", "repetition")


def coherence_of(
    base: LanguageModel,
    prompts: Sequence[str],
    ids: Sequence[Sequence[int]],
    texts: Sequence[str],
    *,
    batch_size: int = 32,
) -> dict[str, Float[np.ndarray, " answer"]]:
    """Coherence of the answers of any model; NaN where the text is too short.

    Args:
        base: the model before unlearning, which is left as it is.
        prompts: what was asked.
        ids, texts: the answers, as tokens and as text.
        batch_size: answers in one forward at most.

    Returns:
        ``nll``: mean nats per token under ``base``
        (:func:`unlearning.utility.response_nll`); ``repetition``: share of runs of four
        words that were said before (:func:`unlearning.scoring.coherence.repetition`).
    """
    rows = list(zip(prompts, ids, strict=True))
    return {
        "nll": response_nll(base, rows, batch_size=batch_size),
        "repetition": np.array([repetition(text) for text in texts], dtype=np.float64),
    }


class Evaluation:
    """The prompts that a model is scored on along a run, rendered once.

    Args:
        lm: the base model: gives the chat format, and says how surprising an answer is; what is
            scored may be any model of the same tokenizer.
        prompts: a prompts table.
        prefixes: the base model's, frozen.
        scorer: puts generated text into classes.
        max_new_tokens: of a generated answer.
        batch_size: prompts in one forward.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompts: pd.DataFrame,
        prefixes: ResponsePrefixes,
        scorer: Scorer,
        *,
        max_new_tokens: int,
        batch_size: int = 256,
    ) -> None:
        self.base = lm
        self.prompts = prompts.reset_index(drop=True)
        self.rows: list[Tokens] = [lm.chat.encode(prompt) for prompt in self.prompts["prompt"]]
        self.prefixes = prefixes
        self.scorer = scorer
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size

    def masses(self, lm: LanguageModel) -> pd.DataFrame:
        """A row for each prompt with p_R, p_C, p_O, `margin`; what is said of text is empty."""
        found = prefix_masses(lm, self.rows, self.prefixes, batch_size=self.batch_size)
        described = self.prompts[["id", "split", "domain", "label", "kind"]]
        table = described.rename(columns={"id": "prompt_id"}).assign(
            scorer=self.scorer.name, **found.columns()
        )
        table["class"] = np.full(len(table), None)
        for name in ("refused", *COHERENCE):
            table[name] = np.nan
        return table

    def with_text(
        self, lm: LanguageModel, *, progress: Advance = silent
    ) -> tuple[pd.DataFrame, list[Answer]]:
        """:meth:`masses`, with the greedily generated answer's class and :func:`coherence`."""
        table = self.masses(lm)
        texts = list(self.prompts["prompt"])
        answers = generate(
            lm,
            texts,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            progress=progress,
        )
        classes = self.scorer.classify(texts, [answer.text for answer in answers])
        table["class"] = classes
        table["refused"] = [float(refused(name)) for name in classes]
        found = coherence_of(
            self.base,
            texts,
            [answer.ids for answer in answers],
            [answer.text for answer in answers],
            batch_size=self.batch_size,
        )
        return table.assign(**found), answers
