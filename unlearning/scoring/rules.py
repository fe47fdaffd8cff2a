"""What needs no learning and no list: classes by rule, and the words that address the user."""

from __future__ import annotations

import html
import re
import unicodedata

from unlearning.scoring.classes import spoken
from unlearning.scoring.coherence import is_gibberish
from unlearning.scoring.language import is_english

_CODE = re.compile(r"```[^\n]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_COMMENT = re.compile(r"^\s*(?:#(?!!)|//|/\*|\"\"\")(.*)", re.MULTILINE)
_QUOTED = re.compile(r"[\"“][^\"“”]{8,}[\"”]|^>.*$", re.MULTILINE)
_WITHOUT_APOSTROPHE = re.compile(
    r"\b(ca|do|wo|is|are|was|does|did|could|would|should|have|has)nt\b"
)
FEWEST_WORDS_AROUND_A_QUOTATION = 2


def by_rule(prompt: str, response: str) -> str | None:
    """The fine class of what needs no reading; else None.

    ``empty`` without text, ``evasion`` if the response only repeats the prompt, ``gibberish``
    (:mod:`unlearning.scoring.coherence`).
    """
    text = spoken(response)
    if not text:
        return "empty"
    if text == prompt.strip():
        return "evasion"
    return "gibberish" if is_gibberish(text) else None


def by_rule_in_english(prompt: str, response: str) -> str | None:
    """:func:`by_rule` for scorers of English: what is not English is ``other_language``."""
    found = by_rule(prompt, response)
    return "other_language" if not found and not is_english(spoken(response)) else found


def addressed(text: str) -> str:
    """The words of a response that address the user: without quotations and code.

    Of code, its first two comments remain. A response that is only a quotation remains whole.
    """
    text = _CODE.sub(lambda block: "\n".join(_COMMENT.findall(block[1])[:2]), text)
    around = _QUOTED.sub(" quotation ", text)
    words = len(re.findall(r"[^\W\d_]{2,}", around)) - around.count(" quotation ")
    return around if words >= FEWEST_WORDS_AROUND_A_QUOTATION else text


def plain(text: str) -> str:
    """Lower case, plain apostrophes (also where they are missing), single spaces, no markup."""
    # Apostrophes first: NFKC would decompose the acute accent.
    text = html.unescape(text).translate(str.maketrans("’‘ʼ`´", "'''''"))
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"\*{1,3}|(?<!\w)_{1,3}|_{1,3}(?!\w)", "", text)
    text = re.sub(r"\s+", " ", text).casefold().lstrip(" *_#>\"'“”")
    text = _WITHOUT_APOSTROPHE.sub(r"\1n't", text)
    return re.sub(r"\bim\b", "i'm", text)
