"""Thoughts of reasoning models: which marks enclose them, and the text without them.

A model that reasons writes a thought before its answer. Only the answer is what the user is told.
One table holds the published marks. Names of tags stand for a kind: ``<think>``, ``<seed:think>``,
``<reasoning>``, ``[THINK]``, ``◁think▷``, ``<|START_THINKING|>``, ``<|begin_of_thought|>``. Other
rows are channels (gpt-oss, Gemma 4), reserved tokens (Gemma 3) and sentences (Granite).

A thought that does not end lasts to the end of the text: the model has not answered yet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_NAME = (
    r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|rationale|scratchpad|inner_monologue)"
)
# Uppercase only: ordinary text has "[thought]" as a stage direction.
_CAPITALS = r"(?-i:THINK(?:ING)?|THOUGHTS?|REASON(?:ING)?)"
_SPACE = r"[_▁ ]"
_END_TAG = rf"</(?:[\w-]+[:_])?{_NAME}>"
_END_BRACKET = rf"\[/{_CAPITALS}\]"
_END_TRIANGLE = rf"◁/{_NAME}▷"
_END_PIPES = rf"<[|｜](?:(?:end{_SPACE}(?:of{_SPACE})?|/){_NAME}|{_NAME}{_SPACE}end)[|｜]>"


@dataclass(frozen=True)
class Mark:
    """One kind of mark around thoughts.

    Attributes:
        opening, closing: regular expressions.
        alone: regular expression of the closing marks that also end a thought which the prompt has
            opened. ``<|end|>`` is not one, because it ends other turns too.
        close: gives possible closing texts for an opening text, likeliest first.
    """

    opening: str
    closing: str
    alone: str | None = None
    close: Callable[[str], tuple[str, ...]] = lambda opening: ()


def _tag(opening: str) -> tuple[str, ...]:
    """``<think time="2">`` → ``</think>``; ``[THINK]`` → ``[/THINK]``."""
    return (f"{opening[0]}/{opening[1:-1].split()[0]}{opening[-1]}",)


def _pipes(opening: str) -> tuple[str, ...]:
    """``<|START_THINKING|>`` → ``<|END_THINKING|>``; ``<|think|>`` → ``<|/think|>``."""
    said = {"start": "end", "begin": "end", "START": "END", "BEGIN": "END"}
    ended = re.sub("start|begin|START|BEGIN", lambda found: said[found[0]], opening)
    return (ended,) if ended != opening else (f"{opening[:2]}/{opening[2:]}", "<|end|>")


def _closed_by(closing: str, opening: str) -> Mark:
    """A kind with one closing text, which also ends a thought that the prompt has opened."""
    pattern = re.escape(closing)
    return Mark(opening, pattern, alone=pattern, close=lambda opening: (closing,))


HARMONY_ANSWER = "<|end|><|start|>assistant<|channel|>final<|message|>"

MARKS = (
    Mark(rf"<(?!end)(?:[\w-]+[:_])?{_NAME}(?:\s[^<>]*)?>", _END_TAG, alone=_END_TAG, close=_tag),
    Mark(rf"\[{_CAPITALS}\]", _END_BRACKET, alone=_END_BRACKET, close=_tag),
    Mark(rf"◁{_NAME}▷", _END_TRIANGLE, alone=_END_TRIANGLE, close=_tag),
    Mark(
        rf"<[|｜](?:(?:begin|start){_SPACE}(?:of{_SPACE})?)?{_NAME}(?:{_SPACE}(?:start|begin))?[|｜]>",
        rf"{_END_PIPES}|<\|end\|>",
        alone=_END_PIPES,
        close=_pipes,
    ),
    # gpt-oss: every channel but the final one.
    Mark(
        r"(?:<\|start\|>assistant)?<\|channel\|>(?!final)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>",
        r"<\|end\|>|<\|call\|>|(?=<\|start\|>)",
        close=lambda opening: (HARMONY_ANSWER,),
    ),
    # ... and as text whose special tokens were left out.
    Mark(r"\A\s*(?-i:analysis)(?=(?-i:[A-Z]))", "assistantfinal"),
    _closed_by("<channel|>", r"<\|channel>(?:thought|analysis)\b"),
    _closed_by("<unused95>", r"<unused94>(?:thought\b)?"),
    _closed_by("<|inner_suffix|>", r"<\|inner_prefix\|>"),
    Mark(
        r"<\|im_start\|>think\b",
        r"<\|im_start\|>answer\b",
        close=lambda opening: ("<|im_start|>answer",),
    ),
    Mark(r"\A\s*Here(?: is|['’]s) my thought process:", r"Here(?: is|['’]s) my response:"),
)

_FLAGS = re.DOTALL | re.IGNORECASE
_THOUGHTS = [re.compile(rf"(?:{mark.opening})(.*?)({mark.closing}|\Z)", _FLAGS) for mark in MARKS]
_ANY = re.compile(
    "|".join(rf"(?:{mark.opening}).*?(?:{mark.closing}|\Z)" for mark in MARKS), _FLAGS
)
_END = re.compile("|".join(mark.alone for mark in MARKS if mark.alone), _FLAGS)
# What encloses the answer after a thought.
_FRAMES = re.compile(
    r"(?:<\|start\|>assistant)?<\|channel\|>final[^<]*<\|message\|>|<\|return\|>"
    rf"|<[|｜](?:start|begin|end){_SPACE}(?:of{_SPACE})?(?:response|solution|answer|text)[|｜]>",
    _FLAGS,
)
_ANSWER_TAG = re.compile(r"\s*<(answer|response|output|solution)>(.*?)(?:</\1>)?\s*", _FLAGS)


def without_thoughts(text: str) -> str:
    """The text without thoughts, their marks, and white space around the rest.

    Example:
        >>> without_thoughts("<think>Is it safe?</think> Yes, it is.")
        'Yes, it is.'
        >>> without_thoughts("[THINK]Is it")
        ''
    """
    rest = _ANY.sub("", text)
    # Where the prompt opened the thought, only its end is in the text.
    rest = _END.split(rest)[-1]
    rest = _FRAMES.sub("", rest)
    if rest != text and (framed := _ANSWER_TAG.fullmatch(rest)):
        rest = framed[2]
    return rest.strip()


def without_closed_thoughts(text: str) -> str:
    """The text without thoughts that end in it, and without white space at its end."""
    return (text if opened_thought(text) else _ANY.sub("", text)).rstrip()


def in_think_tags(text: str, also: tuple[str, str] | None = None) -> str:
    """The text with ``<think>`` and ``</think>`` in place of the marks in it.

    Args:
        also: another opening and closing mark, as text.
    """

    def tagged(found: re.Match[str]) -> str:
        is_closed = found[2] or found.end() < len(found.string)
        return f"<think>{found[1]}" + ("</think>" if is_closed else "")

    thoughts = list(_THOUGHTS)
    if also:
        opening, closing = map(re.escape, also)
        thoughts.append(re.compile(rf"{opening}(.*?)({closing}|\Z)", _FLAGS))
    for pattern in thoughts:
        text = pattern.sub(tagged, text)
    return _FRAMES.sub("", text)


def opened_thought(text: str) -> str | None:
    """The mark of the thought that ``text`` opens and does not end; None if there is none."""
    for found in _ANY.finditer(text):
        for mark, pattern in zip(MARKS, _THOUGHTS, strict=True):
            whole = pattern.match(text, found.start())
            if whole and whole.end() == len(text) and not whole[2]:
                opening = re.compile(mark.opening, _FLAGS).match(text, found.start())
                assert opening is not None
                if not re.search(mark.closing, text[opening.end() :], _FLAGS):
                    return opening[0]
    return None


def has_marks(text: str) -> bool:
    """Whether a mark of a thought is in the text."""
    return bool(_ANY.search(text) or _END.search(text) or _FRAMES.search(text))


def closings_of(opening: str) -> tuple[str, ...]:
    """Possible texts that end the thought that ``opening`` begins, likeliest first."""
    for mark in MARKS:
        if re.fullmatch(mark.opening, opening, _FLAGS) and (found := mark.close(opening)):
            return found
    return _tag(opening) if re.fullmatch(r"<[\w:-]+>|\[[\w:-]+\]", opening) else ()


def begun_thought(pieces: Iterable[str]) -> str | None:
    """The mark with which a text begins a thought at once; None if it begins with anything else.

    Args:
        pieces: the text, longer and longer.
    """
    for text in pieces:
        said = text.strip()
        mark = opened_thought(said)
        if mark is not None:
            return mark if said.startswith(mark) else None
    return None


def marks_in(words: Iterable[str]) -> tuple[str, ...]:
    """Those of ``words`` (special tokens, say) that are marks of thoughts or parts of them."""
    parts = re.compile(
        "|".join(f"(?:{part})" for mark in MARKS for part in (mark.opening, mark.closing) if part)
        + r"|<\|channel\|?>|<channel\|>",
        _FLAGS,
    )
    return tuple(word for word in words if word and parts.fullmatch(word))
