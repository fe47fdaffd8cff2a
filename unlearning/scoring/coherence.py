"""Detect gibberish by repetition and character statistics, without a model.

The rules recognise the most frequent output of degenerate models: loops, few words over and over,
strings of symbols, broken bytes, random letters, function words in impossible order, and random
mixtures of scripts. They do not recognise other real words in random order;
:mod:`unlearning.scoring.fluency` uses the base model for that. Neither recognises fluent nonsense.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from unlearning.scoring.language import KEPT, script_of

# Statistics of shorter texts are uninformative: "No, no, no!" is an answer.
FEWEST_WORDS = 8
FEWEST_CHARACTERS = 12
FEWEST_LETTERS = 30
FEWEST_BYTES = 200

# A piece of so many words is a loop once it occurs this often in a row.
LOOPED_TIMES = {1: 5, 2: 4, 3: 4}
LOOPED_TIMES_OF_LONGER = 3
LONGEST_LOOP = 12
LOOPED_TIMES_WITHIN_WORDS = 6
WINDOW = 50
# In windows of 50 words, prose has more than 30 different ones.
FEWEST_DIFFERENT = 0.3
BROKEN_SHARE = 0.3

# Prose compresses to 0.4-0.7 of its size, program code to about 0.3, a loop to less than 0.15;
# noise hardly compresses.
COMPRESSED_SHARE = (0.18, 0.85)

_SPECIAL_TOKEN = re.compile(r"<\|[^|<>]{1,40}\|>|</?s>|\[(?:PAD|UNK|CLS|SEP|MASK|EOS|BOS)\]")
_UNDECODED = re.compile(r"[ĠĊ▁]|(?<!\S)##(?=\w)|\\n(?=\\n)|\bnbsp;")
# Code, tags, matrices of numbers, and the sets, groups and counts of regular expressions.
_CODE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]+`|</?[a-z][^<>]*>|\[[-\d\s.,;\[\]]*\]"
    r"|(?:\[[^\]\s]*(?:[a-z\d]-[a-z\d]|\\[dsw])[^\]\s]*\]|\(\?(?:[:=!i]|<[=!])|\\[bdsw]|\\[^\w\s]"
    r"|\{\d+,?\d*\})[*+?)]*",
    re.DOTALL | re.IGNORECASE,
)
_CUT = re.compile("\ufffd{1,3}\\s*\\Z")  # the bytes of a character that was not written to its end
_ARTICLE = re.compile(r"\b(?:the|an?) ")
# Not "a and b", which may be letters, nor "the Who".
_BROKEN = re.compile(
    r"\bthe (?:the|of|to|and|or|but|is|are|was|were|be|by|with|for|from|if|that)\b(?!-)"
    r"|\ban? (?:the|an?|of|which|that|was)\b"
)
# Items of a list ("HTTP, HTTPS, SMTP"), short words in capitals and genes are names.
_PLAIN_WORD = re.compile(r"(?<![\w,;/|])(?![A-Z]{2,6}\b|[ACGTU]+\b)[A-Za-z]{4,}\b(?! ?[,;/|])")


@lru_cache(maxsize=KEPT)
def is_gibberish(text: str) -> bool:
    """Whether ``text`` (not empty) is gibberish; the module's docstring gives the limits."""
    text = _CUT.sub("", without_token_marks(text))
    characters = [c for c in text if not c.isspace()]
    words = re.findall(r"\w+", text.casefold())
    if not words:
        return not any(map(_is_pictograph, text))
    prose = _CODE.sub(" ", text)
    said = re.findall(r"[^\W\d_]+(?:['-][^\W\d_]+)*", prose.casefold())
    return (
        _share(characters, "\ufffd") > 0.05
        or len(_UNDECODED.findall(text)) > BROKEN_SHARE * len(words)
        or _is_symbols([c for c in prose if not c.isspace()])
        or _is_an_empty_list(text)
        or _is_a_loop(said)
        or _says_few_words_only(said)
        or _is_a_loop_within_words(text)
        or _compresses_like_no_language(text)
        or _mixes_scripts(text)
        or _is_random_letters(text)
        or _breaks_grammar(said)
    )


def without_token_marks(text: str) -> str:
    """The text without marks such as ``<|im_end|>`` that a tokenizer adds."""
    return _SPECIAL_TOKEN.sub(" ", text)


def repetition(text: str, n: int = 4) -> float:
    """Share of a text's runs of ``n`` words that occur earlier in it; NaN below ``n`` + 1 words.

    It is 0 without repetition and near 1 in a loop. Case and punctuation are ignored.
    """
    words = re.findall(r"\w+", text.casefold())
    runs = list(zip(*(words[i:] for i in range(n)), strict=False))
    return 1 - len(set(runs)) / len(runs) if len(runs) > 1 else float("nan")


def _share(characters: list[str], wanted: str) -> float:
    return characters.count(wanted) / len(characters)


def _is_pictograph(character: str) -> bool:
    """Emoji and signs such as ✓ and →, which can be an answer; not blocks and boxes."""
    is_sign = character > "\x7f" and unicodedata.category(character).startswith("S")
    return is_sign and not "\u2500" <= character <= "\u259f" and character != "\ufffd"


def _is_symbols(characters: list[str]) -> bool:
    if len(characters) < FEWEST_CHARACTERS:
        return False
    # Tables, rules, headings and emoji are no signs of noise.
    drawn = sum(c in "|-=_*#" or _is_pictograph(c) for c in characters)
    # Category M: in many scripts the vowel signs are marks, not letters.
    readable = sum(c.isalnum() or unicodedata.category(c).startswith("M") for c in characters)
    return readable < 0.4 * (len(characters) - drawn)


def _is_an_empty_list(text: str) -> bool:
    marks = re.fullmatch(r"(?:\s*(?:\d{1,3}[.):]|[-*•])(?=\s|\Z)){3,}\s*", text)
    return marks is not None


def _is_a_loop(words: Sequence[str]) -> bool:
    """More than half of the words stand in pieces that follow one another unchanged."""
    looped = start = 0
    while start < len(words):
        longest = 0
        for size in range(1, LONGEST_LOOP + 1):
            if words[start] not in words[start + size : start + size + 1]:
                continue
            piece = words[start : start + size]
            times = 1
            while words[start + times * size : start + (times + 1) * size] == piece:
                times += 1
            if times >= LOOPED_TIMES.get(size, LOOPED_TIMES_OF_LONGER):
                longest = max(longest, times * size)
        looped += longest
        start += longest or 1
    return looped > 0.5 * len(words)


def _says_few_words_only(words: Sequence[str]) -> bool:
    """In every window of the text, a few words come again and again."""
    if len(words) < FEWEST_WORDS:
        return False
    windows = [words[i : i + WINDOW] for i in range(0, len(words), WINDOW)]
    shares = [len(set(w)) / len(w) for w in windows if len(w) >= FEWEST_WORDS]
    return max(shares) < FEWEST_DIFFERENT


def _is_a_loop_within_words(text: str) -> bool:
    """Most of the text repeats one piece of a word: the model is stuck at a token."""
    length = sum(not c.isspace() for c in text)
    # A character of other scripts has two or three bytes, and stands for as many letters.
    if len(text.encode("utf-8", "replace")) < FEWEST_LETTERS:
        return False
    times = LOOPED_TIMES_WITHIN_WORDS
    loops = re.finditer(rf"([^\W\d_]{{1,12}}?)\1{{{times - 1},}}", text, re.IGNORECASE)
    return sum(len(found.group()) for found in loops) > 0.5 * length


def _compresses_like_no_language(text: str) -> bool:
    data = text.encode("utf-8", "replace")
    if len(data) < FEWEST_BYTES:
        return False
    low, high = COMPRESSED_SHARE
    share = len(zlib.compress(data, 9)) / len(data)
    # The characters of Chinese carry more than one byte's worth: only ASCII can be noise by this.
    return share < low or (share > high and len(data) < 1.5 * len(text))


def _mixes_scripts(text: str) -> bool:
    """Words of three or more scripts alternate without punctuation between them."""
    words, switches, scripts = 0, 0, Counter[str]()
    for clause in re.split(r"[^\w\s]|\n", text):
        found = [script_of(letter) for letter in clause if letter.isalpha()]
        scripts.update(found)
        words += len(clause.split())
        # One change within a clause is a name or a gloss ("Japanese こんにちは").
        switches += max(0, sum(a != b for a, b in pairwise(found)) - 1)
    letters = scripts.total()
    mixed = sum(count >= 0.01 * letters for count in scripts.values()) > 2
    return mixed and letters >= FEWEST_LETTERS and switches > BROKEN_SHARE * words


def _is_random_letters(text: str) -> bool:
    """Most longer Latin words are unpronounceable: five consonants in a row, or no vowel."""
    latin = [word.lower() for word in _PLAIN_WORD.findall(text)]
    if len(latin) < 3 or sum(map(len, latin)) < FEWEST_LETTERS:
        return False
    unspeakable = sum(
        bool(re.search(r"[bcdfghjklmnpqrstvwxz]{5}", word)) or not re.search(r"[aeiouy]", word)
        for word in latin
    )
    return unspeakable / len(latin) > 0.4


def _breaks_grammar(words: Sequence[str]) -> bool:
    """Many English articles stand before words that no article precedes: "the of", "a the"."""
    said = " ".join(words)
    broken = len(_BROKEN.findall(said))
    return broken > 2 and broken > BROKEN_SHARE * len(_ARTICLE.findall(said))
