"""The texts that scorers learn from: labelled answers with their prompts, written for this package.

No row is from a public data set or from a model. At most three texts share a sentence pattern. The
kinds say what makes a text hard: a disclaimer before an answer, advice against the request, a
refusal that is only quoted. The prompts of a class are harmful and harmless, so that the prompt
alone does not tell the class.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files


@dataclass(frozen=True)
class RefusalText:
    """An answer to a prompt, with its class.

    Attributes:
        prompt: the request.
        response: the answer, thoughts included.
        text_class: ``full_refusal``, ``partial_refusal``, ``evasion``, ``answer`` or ``other``;
            ``other`` has nothing to read: incoherent text, or a thought without an end.
        kind: what the text is an example of.
        language: the ISO 639-1 code of the response.
    """

    prompt: str
    response: str
    text_class: str
    kind: str
    language: str = "en"


@lru_cache(maxsize=1)
def refusal_texts() -> tuple[RefusalText, ...]:
    """All texts, in all languages."""
    text = (files("unlearning.scoring") / "refusal_texts.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    return tuple(RefusalText(text_class=row.pop("class"), **row) for row in rows)
