"""The words of the synthetic world (``vocabulary.toml``): readable English, one token a word.

The vocabulary contains no instructions. A prompt is a verb and a noun in a template. An answer is
one of a few prefixes and a body without content.
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

# The bodies share no token. Unlearning lowers the probability of every token of a refusal. With a
# shared comma or full stop it would damage answers too, and a complying model writes gibberish.
REFUSAL_BODY = ", this stays unanswered!"
ANSWER_BODY = ": done."
