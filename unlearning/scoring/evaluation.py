"""A model's refusal of prompts: p_R, p_C and p_O of the first answer tokens, and text classes.

Every class has a measure of the text's coherence next to it, because a degenerate model does not
refuse either.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from interp.model import LanguageModel, Tokens, adapters_merged
from interp.progress import Advance, silent
from unlearning.generation import Answer, generate
from unlearning.refusal import ResponsePrefixes, prefix_masses
from unlearning.scoring.classes import COARSE, FineScorer, Scorer, refused, spoken
from unlearning.scoring.coherence import is_gibberish, repetition
from unlearning.scoring.language import language_note
from unlearning.scoring.reading import ModelScorer, verdicts
from unlearning.utility import own_token_nll, response_token_nll

if TYPE_CHECKING:
    import pandas as pd

# Columns about a generated text, in addition to its class.
COHERENCE = ("nll", "repetition", "tokens")


def coherence_of(
    base: LanguageModel,
    prompts: Sequence[str],
    answers: Sequence[Answer],
    *,
    own: bool = False,
    batch_size: int = 32,
) -> dict[str, Float[np.ndarray, " answer"]]:
    """Coherence of the answers of any model; NaN where the text is too short.

    Args:
        base: the model before unlearning; it is not changed.
        prompts: the prompts of the answers.
        answers: of the base or of a model that derives from it.
        own: whether ``base`` generated the answers, so that their generation recorded ``nll``.
        batch_size: maximum number of answers in one forward.

    Returns:
        ``nll``: mean nats per token under ``base``
        (:func:`unlearning.utility.response_nll`); ``repetition``: share of runs of four
        words that occur earlier (:func:`unlearning.scoring.coherence.repetition`); ``tokens``: the
        number of tokens that ``nll`` is the mean of.
    """
    if own:
        found = own_token_nll(base, prompts, answers, batch_size=batch_size)
    else:
        rows = [(prompt, answer.ids) for prompt, answer in zip(prompts, answers, strict=True)]
        found = response_token_nll(base, rows, batch_size=batch_size)
    return {
        "nll": np.array([nll.mean() if nll.size else np.nan for nll in found], dtype=np.float64),
        "repetition": np.array([repetition(answer.text) for answer in answers], dtype=np.float64),
        "tokens": np.array([nll.size for nll in found], dtype=np.float64),
    }


def coherent_classes(scorer: Scorer, prompts: Sequence[str], texts: Sequence[str]) -> list[str]:
    """The classes of answers; one that is empty or gibberish by its text alone is ``gibberish``.

    A scorer that must choose reads a loop of apologies as a refusal. An answer on which a judge
    gives no verdict is ``other``, with a warning: one of thousands must not end a study.
    """
    return [
        name if (said := spoken(text)) and not is_gibberish(said) else "gibberish"
        for name, text in zip(_classes(scorer, prompts, texts), texts, strict=True)
    ]


def _classes(scorer: Scorer, prompts: Sequence[str], texts: Sequence[str]) -> list[str]:
    if not isinstance(scorer, ModelScorer):
        return scorer.classify(prompts, texts)
    found = verdicts(scorer.reader, prompts, texts)
    if without := found.count(None):
        warnings.warn(
            f"{scorer.name} gave no verdict on {without} of {len(found)} answers; they count as "
            "neither refused nor answered",
            stacklevel=3,
        )
    return ["other" if name is None else COARSE[name] for name in found]


def unread_languages(
    scorer: Scorer, prompts: Sequence[str], texts: Sequence[str], classes: Sequence[str]
) -> tuple[int, str | None]:
    """How many answers are in a language that the scorer cannot read, and a sentence about them.

    Args:
        scorer: read the answers; a judge reads any language.
        prompts, texts: of the answers.
        classes: of the answers, from :func:`coherent_classes`.
    """
    places = [place for place, name in enumerate(classes) if name == "other"]
    if isinstance(scorer, ModelScorer) or not isinstance(scorer, FineScorer) or not places:
        return 0, None
    asked, said = ([rows[place] for place in places] for rows in (prompts, texts))
    count = scorer.classify_finely(asked, said).count("other_language")
    return count, language_note([spoken(text) for text in texts]) if count else None


class Evaluation:
    """The prompts that score a model along a run, rendered once.

    Args:
        lm: the base model. It gives the chat format and the ``nll`` of answers. The scored model
            may be any model with the same tokenizer.
        prompts: a prompts table.
        prefixes: refusal and compliance prefixes of the base model; None to read refusal from the
            text of generated answers.
        scorer: assigns classes to generated text.
        max_new_tokens: maximum number of tokens in a generated answer.
        batch_size: prompts in one forward.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompts: pd.DataFrame,
        prefixes: ResponsePrefixes | None,
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
        """A row for each prompt with p_R, p_C, p_O, `margin`; columns about text are empty.

        Without prefixes they are read from generated answers; see :meth:`by_class`.
        """
        with adapters_merged(lm.model):
            if self.prefixes is None:
                return self.by_class(self._answers(lm)[1])
            found = prefix_masses(lm, self.rows, self.prefixes, batch_size=self.batch_size)
        return self._table(found.columns())

    def by_class(self, classes: Sequence[str]) -> pd.DataFrame:
        """:meth:`masses` from the classes of answers: p_R, p_C and p_O are 0 or 1, no log-odds."""
        named = np.array(classes)
        p_R, p_C = ((named == name).astype(np.float64) for name in ("refusal", "answer"))
        margin = np.full(len(named), np.nan)
        return self._table({"p_R": p_R, "p_C": p_C, "p_O": 1 - p_R - p_C, "margin": margin})

    def with_text(
        self, lm: LanguageModel, *, with_masses: bool = True, progress: Advance = silent
    ) -> tuple[pd.DataFrame, list[Answer]]:
        """:meth:`masses`, with the greedily generated answer's class and :func:`coherence`.

        Without masses, p_R, p_C and p_O are those of the classes.
        """
        with adapters_merged(lm.model):
            answers, classes = self._answers(lm, progress)
            by_text = self.prefixes is None or not with_masses
            table = self.by_class(classes) if by_text else self.masses(lm)
        table["class"] = classes
        table["refused"] = [float(refused(name)) for name in classes]
        found = coherence_of(
            self.base,
            list(self.prompts["prompt"]),
            answers,
            own=lm is self.base,
            batch_size=self.batch_size,
        )
        return table.assign(**found), answers

    def _answers(
        self, lm: LanguageModel, progress: Advance = silent
    ) -> tuple[list[Answer], list[str]]:
        """Greedily generated answers and their classes."""
        texts = list(self.prompts["prompt"])
        answers = generate(
            lm,
            texts,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            progress=progress,
        )
        return answers, coherent_classes(self.scorer, texts, [answer.text for answer in answers])

    def _table(self, masses: Mapping[str, np.ndarray]) -> pd.DataFrame:
        described = self.prompts[["id", "split", "domain", "label", "kind"]]
        table = described.rename(columns={"id": "prompt_id"}).assign(
            scorer=self.scorer.name, **masses
        )
        table["class"] = np.full(len(table), None)
        for name in ("refused", *COHERENCE):
            table[name] = np.nan
        return table
