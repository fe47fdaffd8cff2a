"""Pairs of prompts of unequal length, aligned by the roles of their words.

The two prompts of a pair differ in some words. If one word has more tokens than the other, patching
token by token misaligns the words. So a position is a span with one role in both texts:

- a phrase that the caller names (an intent, an object),
- the text between such phrases,
- the template around them,
- each token after the instruction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from interp.errors import InputError
from interp.model import Chat, LanguageModel, Tokens
from interp.patching.runs import PatchRuns, with_each_token

Phrase = str | tuple[int, int]
"""Words that occur once in a prompt, or their (start, stop) character offsets, counted from the
first character of the prompt as it is given."""
Roles = Mapping[str, Phrase]


@dataclass(frozen=True)
class PromptPairs:
    """Prompts that show a behaviour and their counterparts that do not.

    Attributes:
        clean, corrupted: texts, one of each per pair.
        clean_roles, corrupted_roles: the phrase of each role in each text; empty for no roles.

    Raises:
        InputError: the two sides have different numbers of prompts or role sets, there is no
            prompt, or the two sides of a pair name different roles.
    """

    clean: tuple[str, ...]
    corrupted: tuple[str, ...]
    clean_roles: tuple[Roles, ...] = ()
    corrupted_roles: tuple[Roles, ...] = ()

    def __post_init__(self) -> None:
        for name in ("clean", "corrupted", "clean_roles", "corrupted_roles"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("clean_roles", "corrupted_roles"):
            if not getattr(self, name):
                object.__setattr__(self, name, ({},) * len(self.clean))
        counts = {len(self.clean), len(self.corrupted)}
        counts |= {len(self.clean_roles), len(self.corrupted_roles)}
        if len(counts) > 1 or not self.clean:
            raise InputError(
                f"{len(self.clean)} clean and {len(self.corrupted)} corrupted prompts with "
                f"{len(self.clean_roles)} and {len(self.corrupted_roles)} sets of roles; give as "
                "many of each, and at least one"
            )
        for i, (one, other) in enumerate(zip(self.clean_roles, self.corrupted_roles, strict=True)):
            if one.keys() != other.keys():
                raise InputError(
                    f"pair {i} has the roles {', '.join(one) or 'none'} on its clean side and "
                    f"{', '.join(other) or 'none'} on the other; name the same on both"
                )

    def denoising(self, lm: LanguageModel) -> PatchRuns:
        """Patch clean into corrupted: finds states that are sufficient for the behaviour."""
        clean, corrupted = (
            tuple(with_roles(lm.chat, *prompt) for prompt in zip(texts, roles, strict=True))
            for texts, roles in (
                (self.clean, self.clean_roles),
                (self.corrupted, self.corrupted_roles),
            )
        )
        return PatchRuns(lm, clean, lm, corrupted)

    def noising(self, lm: LanguageModel) -> PatchRuns:
        """Patch corrupted into clean: finds states that are necessary for the behaviour."""
        return self.denoising(lm).reversed()


def with_roles(chat: Chat, prompt: str, roles: Roles) -> Tokens:
    """The prompt's tokens with a span for each role, between roles, and around them.

    The spans are ``system``; ``before ROLE`` and ``ROLE`` for each role in the order of the text;
    ``after ROLE`` after the last role; one span for each token after the instruction. A token that
    contains a letter of a role belongs to the role, because many tokens begin with the space before
    a word.

    Raises:
        InputError: the prompt does not contain a phrase exactly once, or roles overlap.
    """
    row = chat.encode(prompt)
    if not roles:
        return with_each_token(row)
    text = prompt.strip()
    ranges = sorted((*_place(prompt, phrase), name) for name, phrase in roles.items())
    offsets = chat.offsets(prompt)
    spans: dict[str, slice] = {}
    cursor, name = row.spans["instruction"].start, ""
    for start, stop, name in ranges:
        inside = [i for i, (a, b) in enumerate(offsets) if a < stop and b > start]
        if not inside or (spans and inside[0] < cursor):
            raise InputError(f"no token of {text[:60]!r} belongs to the role {name!r} alone")
        # If the template ends with a space, the first word's token begins with that space.
        cursor = min(cursor, inside[0])
        spans.setdefault("system", slice(0, cursor))
        spans[f"before {name}"] = slice(cursor, inside[0])
        spans[name] = slice(inside[0], inside[-1] + 1)
        cursor = inside[-1] + 1
    spans[f"after {name}"] = slice(cursor, max(cursor, row.spans["instruction"].stop))
    # A token of the last role may extend into the template after it.
    behind = row.spans["post_instruction"]
    spans["post_instruction"] = slice(max(cursor, behind.start), behind.stop)
    spans["response_prefix"] = row.spans["response_prefix"]
    return with_each_token(replace(row, spans=spans))


def _place(prompt: str, phrase: Phrase) -> tuple[int, int]:
    """The characters of a phrase, counted from the first character of ``prompt.strip()``."""
    text = prompt.strip()
    if not isinstance(phrase, str):
        start, stop = phrase
        if not 0 <= start < stop <= len(prompt):
            raise InputError(
                f"characters {start}:{stop} are not in {prompt[:60]!r} ({len(prompt)})"
            )
        before = len(prompt) - len(prompt.lstrip())
        return max(start - before, 0), min(stop - before, len(text))
    count = text.count(phrase) if phrase else 0
    if count != 1:
        raise InputError(
            f"{phrase!r} occurs {count} times in {text[:60]!r}; give its first and last character"
        )
    start = text.index(phrase)
    return start, start + len(phrase)
