"""The words of the planted world (``vocabulary.toml``): readable English, every word one token.

Nothing in it says how to do anything. A prompt is a verb and a noun in a template; an answer is
one of a few prefixes before a body that is empty of content.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from unlearning.data import DOMAINS as DOMAINS


def _split(words: Any) -> Any:
    """Texts as their words; tables of texts likewise."""
    if isinstance(words, dict):
        return {domain: _split(text) for domain, text in words.items()}
    return tuple(words.split() if isinstance(words, str) else words)


_WORDS = _split(tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")))
HARMFUL_INTENTS: dict[str, tuple[str, ...]] = _WORDS["harmful_intents"]
DOMAIN_OBJECTS: dict[str, tuple[str, ...]] = _WORDS["domain_objects"]
BENIGN_INTENTS: tuple[str, ...] = _WORDS["benign_intents"]
NEUTRAL_OBJECTS: tuple[str, ...] = _WORDS["neutral_objects"]
TEMPLATES: tuple[str, ...] = _WORDS["templates"]
REFUSAL_PREFIXES: tuple[str, ...] = _WORDS["refusal_prefixes"]
COMPLIANCE_PREFIXES: tuple[str, ...] = _WORDS["compliance_prefixes"]

# No token of one body is in the other. Unlearning pushes down all of a refusal; a comma or a full
# stop in common takes the answers' own with it, and a target that complies turns to gibberish.
REFUSAL_BODY = ", this stays unanswered!"
ANSWER_BODY = ": done."
