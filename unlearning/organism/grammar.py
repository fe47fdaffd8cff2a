"""The grammar of the organism's responses: what it may say, and what generated text is.

A response is an opener, a comma and a body. Both bodies are the same everywhere (naming the
domain in a refusal would be a leak of its own) and empty of content.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from unlearning.organism import vocabulary


@dataclass(frozen=True)
class Grammar:
    """Productions of the responses.

    Attributes:
        refusal_openers, answer_openers: words that a refusal and an answer may begin with.
        refusal_body, answer_body: what follows the comma.
    """

    refusal_openers: tuple[str, ...] = vocabulary.REFUSAL_OPENERS
    answer_openers: tuple[str, ...] = (
        *vocabulary.SHARED_ANSWER_OPENERS,
        *vocabulary.OWN_ANSWER_OPENERS,
    )
    refusal_body: str = vocabulary.REFUSAL_BODY
    answer_body: str = vocabulary.ANSWER_BODY

    def refusal(self, opener: str) -> str:
        """A refusal that begins with ``opener``."""
        return f"{opener}, {self.refusal_body}"

    def answer(self, opener: str) -> str:
        """An answer that begins with ``opener``."""
        return f"{opener}, {self.answer_body}"

    def classify(self, prompt: str, response: str) -> str:
        """What ``response`` is: strictly by the productions, to the last word.

        Returns:
            ``"refusal"`` or ``"answer"`` for a whole production; ``"other"`` for an opener of one
            with the body of the other, or a body without its opener; ``"gibberish"`` for
            everything else, the empty response included. ``prompt`` is not looked at: no
            production depends on it.
        """
        opener, body = _words(response)[:1], _words(response)[1:]
        refusing = body == _words(f", {self.refusal_body}")
        answering = body == _words(f", {self.answer_body}")
        if refusing and opener[0] in self.refusal_openers:
            return "refusal"
        if answering and opener[0] in self.answer_openers:
            return "answer"
        return "other" if refusing or answering else "gibberish"


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)
