"""Detect gibberish by repetition and character statistics, without a model.

The rules recognise the most frequent output of degenerate models: loops, strings of symbols,
broken bytes, random letters, and random mixtures of scripts. They do not recognise real words in
random order; :mod:`unlearning.scoring.fluency` uses the base model for that. Neither recognises
fluent nonsense.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter

# Statistics of shorter texts are uninformative: "No, no, no!" is an answer.
FEWEST_WORDS = 12
FEWEST_CHARACTERS = 12
FEWEST_LETTERS = 30
LOOPED_TIMES = 6
FEWEST_BYTES = 200

# Prose compresses to 0.4-0.7 of its size, program code to about 0.3, a loop to less than 0.15;
# noise hardly compresses.
COMPRESSED_SHARE = (0.18, 0.85)


def is_gibberish(text: str) -> bool:
    """Whether ``text`` (not empty) is gibberish; the module's docstring gives the limits."""
    characters = [c for c in text if not c.isspace()]
    words = re.findall(r"\w+", text.casefold())
    if not words:
        return True
    return (
        _share(characters, "\ufffd") > 0.05
        or _is_symbols(characters)
        or _is_a_loop(words)
        or _is_a_loop_within_words(text)
        or _compresses_like_no_language(text)
        or _mixes_scripts(characters)
        or _is_random_letters(words)
    )


def repetition(text: str, n: int = 4) -> float:
    """Share of a text's runs of ``n`` words that occur earlier in it; NaN below ``n`` + 1 words.

    It is 0 without repetition and near 1 in a loop. Case and punctuation are ignored.
    """
    words = re.findall(r"\w+", text.casefold())
    runs = list(zip(*(words[i:] for i in range(n)), strict=False))
    return 1 - len(set(runs)) / len(runs) if len(runs) > 1 else float("nan")


def _share(characters: list[str], wanted: str) -> float:
    return characters.count(wanted) / len(characters)


def _is_symbols(characters: list[str]) -> bool:
    if len(characters) < FEWEST_CHARACTERS:
        return False
    drawn = sum(c in "|-=_*#" for c in characters)  # tables, rules and headings
    # Category M: in many scripts the vowel signs are marks, not letters.
    readable = sum(c.isalnum() or unicodedata.category(c).startswith("M") for c in characters)
    return readable < 0.4 * (len(characters) - drawn)


def _is_a_loop(words: list[str]) -> bool:
    if len(words) < FEWEST_WORDS:
        return False
    if Counter(words).most_common(1)[0][1] / len(words) > 0.5:
        return True
    windows = Counter(zip(*(words[i:] for i in range(4)), strict=False))
    repeated = sum(count for count in windows.values() if count > 2)
    return repeated / sum(windows.values()) > 0.5


def _is_a_loop_within_words(text: str) -> bool:
    """Most of the text repeats one piece of a word: the model is stuck at a token."""
    length = sum(not c.isspace() for c in text)
    if length < FEWEST_LETTERS:
        return False
    loops = re.finditer(rf"([^\W\d_]{{1,12}}?)\1{{{LOOPED_TIMES - 1},}}", text, re.IGNORECASE)
    return sum(len(found.group()) for found in loops) > 0.5 * length


def _compresses_like_no_language(text: str) -> bool:
    data = text.encode("utf-8", "replace")
    if len(data) < FEWEST_BYTES:
        return False
    low, high = COMPRESSED_SHARE
    return not low <= len(zlib.compress(data, 9)) / len(data) <= high


def _mixes_scripts(characters: list[str]) -> bool:
    """Four or more scripts have at least 3% of the letters each; no language mixes so many."""
    letters = [c for c in characters if c.isalpha()]
    if len(letters) < FEWEST_LETTERS:
        return False
    # The first word of a letter's Unicode name is its script; Japanese alone uses three.
    scripts = Counter(unicodedata.name(c, "UNKNOWN").split(" ")[0] for c in letters)
    return sum(count >= 0.03 * len(letters) for count in scripts.values()) >= 4


def _is_random_letters(words: list[str]) -> bool:
    """Most longer Latin words are unpronounceable: five consonants in a row, or no vowel."""
    latin = [word for word in words if re.fullmatch(r"[a-z]{4,}", word)]
    if sum(map(len, latin)) < FEWEST_LETTERS:
        return False
    unspeakable = sum(
        bool(re.search(r"[bcdfghjklmnpqrstvwxz]{5}", word)) or not re.search(r"[aeiouy]", word)
        for word in latin
    )
    return unspeakable / len(latin) > 0.4
