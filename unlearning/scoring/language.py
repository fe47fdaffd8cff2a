"""Whether a text is English: by its script, and by function words of languages with Latin letters.

The word lists and the rules of the scorers ``phrases`` and ``classifier`` are English. What is in
another language is neither an answer nor gibberish for them: it gets a separate class.

A text counts as English unless its words show the opposite: code, numbers, names, and lists of
terms have no language. Quotations and code do not count, unless there is nothing else.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

ENGLISH = "en"
#: Texts whose features are kept: several scorers read the same answers.
KEPT = 20_000
#: Weight of a word with a letter that English does not have, and of words that names contain.
WEAK = 0.5
# One function word is enough in a text of up to three words; else a coincidence is possible.
SHORT_TEXT = 3
FEWEST_POINTS = 1.5
SMALLEST_SHARE = 0.12
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`|https?://\S+|<[^<>\n]+>", re.DOTALL)
_QUOTED = re.compile(r"[\"“„«「『][^\"“”„«»「」『』]{8,}[\"”“»」』]")
FEWEST_LETTERS_AROUND_A_QUOTATION = 8


def is_english(text: str) -> bool:
    """Whether the scorers for English can read ``text``; also for text without a language."""
    return language_of(text) == ENGLISH


@lru_cache(maxsize=KEPT)
def language_of(text: str) -> str:
    """The language of a text.

    Returns:
        ``en`` for English and for text that shows no language; the ISO 639-1 code of a language
        with Latin letters; else the name of the script in lower case (``cyrillic``, ``cjk``).
    """
    said = _said(text)
    # Latin acronyms occur in every language, so their letters do not count.
    shown = Counter(script_of(letter) for letter in said if letter.isalpha())
    shown["LATIN"] -= sum(map(len, re.findall(r"[A-Z]{2,}", said)))
    # A Chinese character stands for about two letters.
    shown["CJK"] *= 2
    others = [script for script, count in shown.items() if script != "LATIN" and count > 2]
    main = max(others, key=shown.__getitem__, default="LATIN")
    return main.casefold() if shown[main] > shown["LATIN"] else _by_words(said)


def language_note(responses: Sequence[str]) -> str | None:
    """A sentence for the reader if some responses are not English; else None.

    Args:
        responses: as the user sees them, without thoughts.
    """
    found = Counter(map(language_of, responses))
    count = found.total() - found.pop(ENGLISH, 0)
    if not count:
        return None
    languages = ", ".join(name for name, _ in found.most_common())
    return (
        f"{count} of {len(responses)} answers are not in English ({languages}): phrases and the "
        "classifier find plain refusals among them and class the others as other_language; use a "
        "judge, or the panel with a reader of these languages"
    )


@lru_cache(maxsize=4096)
def script_of(letter: str) -> str:
    """The script of a letter by its Unicode name; Japanese and Chinese are one, ``CJK``."""
    # Wide forms and the Japanese long vowel "ー" have compound names.
    name = unicodedata.name(letter, "UNKNOWN")
    script = re.split(r"[ -]", re.sub(r"^(?:FULLWIDTH|HALFWIDTH|MODIFIER) ", "", name))[0]
    return "CJK" if script in {"CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC"} else script


def without_quotations(text: str) -> str:
    """The text without quotations, in the quotation marks of several languages."""
    return _QUOTED.sub(" ", text)


def _said(text: str) -> str:
    """The text without code, and without quotations if something is left."""
    text = _CODE.sub(" ", text.translate(str.maketrans("’‘ʼ", "'''"))).strip() or text
    around = without_quotations(text)
    if sum(map(str.isalpha, around)) >= FEWEST_LETTERS_AROUND_A_QUOTATION:
        text = around
    return text


def _by_words(said: str) -> str:
    """The language whose function words a text has most of, counted once each."""
    said = said.casefold() if said.isupper() else said
    # Words in lower case, and the first of a sentence: others are names.
    words = set(re.findall(r"\b[^\W\d_]{2,}'?|\b[^\W\d_]'", said))
    first = set(re.findall(r"(?:^|[.!?:;¿¡\"“«(\n])\s*([^\W\d_]{2,}'?|[^\W\d_]')", said))
    words = {word for word in words if word == word.casefold()} | set(map(str.casefold, first))
    lists, in_names = _function_words()
    points = {
        language: sum(WEAK if word in in_names else 1.0 for word in words & own)
        for language, own in lists.items()
    }
    english = points.pop(ENGLISH)
    marked = sum(WEAK for word in words if re.search(r"[\u00df-\u024f\u1e00-\u1eff]", word))
    best = max(points, key=points.__getitem__)
    found = points[best] + marked
    enough = 1.0 if len(words) <= SHORT_TEXT else FEWEST_POINTS
    if found < max(enough, SMALLEST_SHARE * len(words)) or found <= english:
        return ENGLISH
    return best if points[best] else "latin"


@lru_cache(maxsize=1)
def _function_words() -> tuple[dict[str, frozenset[str]], frozenset[str]]:
    """Frequent short words of each language, and which of them names and loans contain.

    Words that are also English count for English.
    """
    text = (files("unlearning.scoring") / "function_words.txt").read_text(encoding="utf-8")
    lines = (line.split(": ") for line in text.splitlines() if not line.startswith("#"))
    lists = {language: frozenset(words.split()) for language, words in lines}
    in_names = lists.pop("in_names")
    shared = lists.pop("also_en") | lists[ENGLISH]
    own = {k: words if k == ENGLISH else words - shared for k, words in lists.items()}
    return own, in_names
