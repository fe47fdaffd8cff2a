"""The grammar of the organism's responses: what it may say, and what generated text is.

A response is an opener and a body. Both bodies are the same everywhere (naming the
domain in a refusal would be a leak of its own) and empty of content.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from unlearning.organism import vocabulary


@dataclass(frozen=True)
class Grammar:
    """The productions, and the scorer that goes strictly by them, to the last mark.

    Attributes:
        refusal_openers, answer_openers: words that a refusal and an answer may begin with.
        refusal_body, answer_body: what follows the opener.
        name, version: as every scorer has them.
    """

    refusal_openers: tuple[str, ...] = vocabulary.REFUSAL_OPENERS
    answer_openers: tuple[str, ...] = vocabulary.ANSWER_OPENERS
    refusal_body: str = vocabulary.REFUSAL_BODY
    answer_body: str = vocabulary.ANSWER_BODY
    name: str = "grammar"
    version: str = "1"

    def refusal(self, opener: str) -> str:
        """A refusal that begins with ``opener``."""
        return f"{opener}{self.refusal_body}"

    def answer(self, opener: str) -> str:
        """An answer that begins with ``opener``."""
        return f"{opener}{self.answer_body}"

    def classify(self, prompts: Sequence[str], responses: Sequence[str]) -> list[str]:
        """One class for each (prompt, response), in order.

        ``refusal`` and ``answer`` are whole productions; ``other`` is a body without an opener of
        its own kind; everything else is ``gibberish``, the empty response included. Prompts are
        not looked at: no production depends on them.

        Raises:
            ValueError: there are not as many prompts as responses.
        """
        return [self._class(response) for _, response in zip(prompts, responses, strict=True)]

    def _class(self, response: str) -> str:
        opener, *body = _marks(response) or [""]
        if body == _marks(self.refusal_body):
            return "refusal" if opener in self.refusal_openers else "other"
        if body == _marks(self.answer_body):
            return "answer" if opener in self.answer_openers else "other"
        return "gibberish"


def _marks(text: str) -> list[str]:
    """Words and punctuation marks."""
    return re.findall(r"\w+|[^\w\s]", text)
