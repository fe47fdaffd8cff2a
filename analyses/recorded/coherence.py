"""Whether recorded answers are language at all: by rules, next to what a scorer says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unlearning.scoring import is_gibberish, language_note, repetition, spoken

#: The columns that :func:`coherence_fields` adds.
COHERENCE = ("coherent", "repetition")
# A larger difference between a scorer's and the rules' share of gibberish is said.
MUCH = 0.5


def coherence_fields(response: str) -> dict[str, Any]:
    """``coherent`` (0 if a rule finds gibberish or nothing is said) and ``repetition``.

    ``repetition`` is the share of runs of four words that occur earlier, null in a short text.
    """
    said = spoken(response)
    share = repetition(said)
    return {
        "coherent": int(bool(said) and not is_gibberish(said)),
        "repetition": None if share != share else round(share, 4),
    }


@dataclass(frozen=True)
class TextCounts:
    """How many of ``n`` answers are ``empty`` or ``gibberish`` by the rules.

    Attributes:
        note: how many are not in English, if any.
    """

    n: int
    empty: int
    gibberish: int
    note: str | None = None

    @classmethod
    def of(cls, responses: Sequence[str], coherent: Sequence[int], *, note: bool) -> TextCounts:
        """Count answers.

        Args:
            responses: the answers.
            coherent: 1 or 0 for each, from :func:`coherence_fields`.
            note: whether the languages of the others are of interest.
        """
        said = [text for text in map(spoken, responses) if text]
        clear = [text for text, one in zip(responses, coherent, strict=True) if one]
        empty, gibberish = len(responses) - len(said), len(said) - len(clear)
        languages = language_note([spoken(text) for text in clear]) if note else None
        return cls(len(responses), empty, gibberish, languages)

    def text(self, scorer: str, counts: Mapping[str, int]) -> str:
        """A line about the texts, and another if the scorer sees much more gibberish.

        Args:
            scorer: its name.
            counts: the number of answers in each class by the scorer.
        """
        line = f"by the rules {self.empty} are empty and {self.gibberish} gibberish"
        if counts.get("other_language"):
            line += f"\nwarning: {self.note}"
        judged = sum(counts.values())
        said = counts.get("gibberish", 0) / judged if judged else 0.0
        if self.n and said > self.gibberish / self.n + MUCH:
            line += (
                f"\nwarning: {scorer} calls {said:.0%} of the answers gibberish and the rules "
                f"{self.gibberish / self.n:.0%}; it may not be made for such text (grammar reads "
                "the answers of a model organism only), or they are words in random order"
            )
        return line
