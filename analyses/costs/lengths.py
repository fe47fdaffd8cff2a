"""Lengths of prompts in tokens: by the model's tokenizer if it is here, else from characters."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.costs.checkpoints import lineage
from analyses.costs.work import USUAL_ANSWER, Reading
from interp.errors import SpilloverError

if TYPE_CHECKING:
    from interp.model import Chat

CHARACTERS_A_TOKEN = 4
TEMPLATE_TOKENS = 20
MOST_PROMPTS = 200  # of which lengths are taken
CHAT = ("template", "template_arguments", "system", "response_prefix")


def reading_of(
    prompts: Sequence[str],
    answer: float,
    source: str | None,
    options: Mapping[str, Any],
    *,
    usual: float = USUAL_ANSWER,
) -> Reading:
    """The lengths of ``prompts`` in the chat format of the model ``source``.

    Args:
        answer: maximum tokens of an answer.
        options: arguments of ``LanguageModel.load``.
        usual: share of ``answer`` to which a batch of answers usually goes.
    """
    places = np.linspace(0, len(prompts) - 1, min(len(prompts), MOST_PROMPTS), dtype=int)
    chosen = [prompts[i] for i in places]
    rows = _tokens(chosen, source, options) if source else None
    if rows is None:
        characters = float(np.mean([len(text) for text in chosen]))
        length = characters / CHARACTERS_A_TOKEN + TEMPLATE_TOKENS
        return Reading(length, length, answer, usual)
    length = float(np.mean([len(row) for row in rows]))
    return Reading(length, max(1.0, length - _in_common(rows)), answer, usual)


def _in_common(rows: Sequence[tuple[int, ...]]) -> int:
    """Tokens with which all rows begin; 0 for a single one."""
    pairs = zip(min(rows), max(rows), strict=False)
    same = [one == other for one, other in pairs]
    return same.index(False) if False in same else 0


def _tokens(
    prompts: Sequence[str], source: str, options: Mapping[str, Any]
) -> list[tuple[int, ...]] | None:
    try:
        chat = chat_of(source, options)
        return None if chat is None else [chat.encode(prompt).ids for prompt in prompts]
    except (ValueError, KeyError, TypeError, SpilloverError):
        return None  # loading the model says what is wrong


def chat_of(source: str, options: Mapping[str, Any]) -> Chat | None:
    """The chat format of a model, if its tokenizer is on this machine; only that is loaded.

    Args:
        source: hub id, folder, adapter folder or GGUF file.
        options: arguments of ``LanguageModel.load``.
    """
    from transformers import AutoTokenizer

    from interp.model import Chat, is_gguf

    given = {name: options[name] for name in CHAT if name in options}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            base = [*lineage(source)][-1]
            file = {"gguf_file": Path(base).name} if is_gguf(base) else {}
            tokenizer = AutoTokenizer.from_pretrained(
                str(Path(base).parent) if file else base, local_files_only=True, **file
            )
            return Chat(tokenizer, **given)
    except (OSError, ValueError, KeyError, TypeError, ImportError, SpilloverError):
        return None
