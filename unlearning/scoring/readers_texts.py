"""Labelled answers in a language model's own style: long, plain, cut off.

People write short examples; models write on until they are cut off. A probe that has seen only the
former calls the latter refusals. So the reader itself writes more examples, whose class follows
from how they were begun: it answers harmless requests, it continues an agreement to a harmful
request, and it continues refusals of either. What the phrase list then calls something else is left
out. Nothing of this comes with the package but the fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from interp.progress import Advance, silent
from unlearning.data import matched_pairs
from unlearning.generation import continuations
from unlearning.scoring.phrases import Phrases
from unlearning.scoring.texts import RefusalText, refusal_texts

if TYPE_CHECKING:
    from interp.model import LanguageModel

#: Kinds of what a reader writes: from an opening, or in answer to a harmless request.
CONTINUED, ANSWERED_FREELY = "continued", "answered freely"
# Numbers of texts: answers to harmless and to harmful requests, refusals likewise.
ANSWERED, AGREED, REFUSED, OVER_REFUSED = 300, 150, 200, 100
AGREEMENTS = ("Sure, here", "Here are some", "To do this,", "Certainly!", "The first step is")
LONGEST_OPENING = 200  # characters of a refusal that is continued
# Tokens that are added to every third answer, and to the others.
LONG, SHORT = 120, 40
SHORTEST = 6  # words of an answer
#: What is written; raise the first number with every other change.
WRITTEN = (1, ANSWERED, AGREED, REFUSED, OVER_REFUSED, AGREEMENTS, LONG, SHORT, SHORTEST)


@dataclass(frozen=True)
class Begun:
    """An answer that a reader wrote on from an opening.

    Attributes:
        prompt: the request.
        opening: how the answer begins; empty for the reader's own answer.
        response: the whole answer.
        text_class: the class of the opening.
    """

    prompt: str
    opening: str
    response: str
    text_class: str


def begun_texts(rng: np.random.Generator | None = None) -> list[tuple[str, str, str]]:
    """What a reader writes on from, the same every time: prompt, opening, the opening's class."""
    rng = rng or np.random.default_rng(0)
    pairs = matched_pairs()
    benign, harmful = (
        list(rng.permutation(pairs.loc[pairs["label"] == label, "prompt"].to_numpy()))
        for label in ("benign", "harmful")
    )
    refusals = [
        text
        for text in refusal_texts()
        if text.text_class == "full_refusal"
        and text.language == "en"
        and len(text.response) < LONGEST_OPENING
    ]
    plain = [text.response for text in refusals if text.kind == "common"]
    chosen = [refusals[i] for i in rng.permutation(len(refusals))[:REFUSED]]
    answers = [(prompt, "") for prompt in benign[:ANSWERED]] + [
        (prompt, str(rng.choice(AGREEMENTS))) for prompt in harmful[:AGREED]
    ]
    declined = [(text.prompt, text.response) for text in chosen] + [
        (prompt, str(rng.choice(plain))) for prompt in benign[ANSWERED:][:OVER_REFUSED]
    ]
    return [(*one, "answer") for one in answers] + [(*one, "full_refusal") for one in declined]


def write_on(lm: LanguageModel, *, progress: Advance = silent) -> list[Begun]:
    """Answers and refusals that a reader writes itself, in English; the same ones every time."""
    rng = np.random.default_rng(0)
    begun = begun_texts(rng)
    written = _continued(lm, [(prompt, opening) for prompt, opening, _ in begun], progress)
    return [
        Begun(prompt, opening, _cut(text, rng), text_class)
        for (prompt, opening, text_class), text in zip(begun, written, strict=True)
    ]


def in_readers_style(begun: Sequence[Begun]) -> list[RefusalText]:
    """Labelled texts: those that the phrase list still calls what they were begun as."""
    prompts = [one.prompt for one in begun]
    last = Phrases().classify(prompts, [one.response for one in begun])
    first = Phrases().classify(prompts, [one.opening for one in begun])
    return [
        RefusalText(
            one.prompt, one.response, one.text_class, CONTINUED if one.opening else ANSWERED_FREELY
        )
        for one, now, before in zip(begun, last, first, strict=True)
        if now == ("answer" if one.text_class == "answer" else before)
    ]


def _continued(lm: LanguageModel, begun: Sequence[tuple[str, str]], progress: Advance) -> list[str]:
    rows = [
        lm.chat.encode(prompt, opening or None, closed=False) if opening else lm.chat.encode(prompt)
        for prompt, opening in begun
    ]
    added = [""] * len(rows)
    for length, start in ((LONG, 0), (SHORT, 1), (SHORT, 2)):
        places = range(start, len(rows), 3)
        texts = continuations(
            lm,
            [rows[place] for place in places],
            max_new_tokens=length,
            batch_size=32,
            progress=progress,
        )
        for place, text in zip(places, texts, strict=True):
            added[place] = text
    return [
        f"{opening}{text}" if text[:1].isspace() or not opening else f"{opening} {text}"
        for (_, opening), text in zip(begun, added, strict=True)
    ]


def _cut(text: str, rng: np.random.Generator) -> str:
    """The text, in half of the cases only its first words, as answers are cut off."""
    words = text.split(" ")
    if len(words) <= SHORTEST or rng.random() < 0.5:
        return text
    return " ".join(words[: int(rng.integers(SHORTEST, len(words)))])
