"""The tokens with which all prompts begin, such as a system prompt, are computed once.

Every later forward of a batch then holds only the rest of its prompts. Callers compare on some of
their rows whether a model gives the same numbers in this way (:func:`same_numbers`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.model.chat import Tokens
from interp.model.hooks import active_edits
from interp.model.probes import relative_difference

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel

# Fewer tokens are not worth a forward.
FEWEST = 8


def shared_beginning(lm: LanguageModel, rows: Sequence[Tokens]) -> tuple[int, ...]:
    """The ids with which all rows begin; every row has at least one more.

    Empty where they are few, or where a cache may give other numbers: without a right cache, with
    rows that may not share a batch, under an edit.
    """
    check = lm.checked
    caches = check.cache and check.rows == check.decoding == "padded"
    if len(rows) < 2 or not caches or active_edits(lm.model):
        return ()
    if "past_key_values" not in lm.forward_options:
        return ()
    first, last = min(row.ids for row in rows), max(row.ids for row in rows)
    most = min(len(row) for row in rows) - 1
    pairs = zip(first[:most], last[:most], strict=True)
    length = next((i for i, (one, other) in enumerate(pairs) if one != other), most)
    return tuple(first[:length]) if length >= FEWEST else ()


def begin(
    lm: LanguageModel, rows: Sequence[Tokens], beginning: tuple[int, ...]
) -> tuple[dict[str, Tensor], Any]:
    """The inputs of a forward over the rest of ``rows``, and the cache of what they begin with.

    Without a beginning: the inputs of whole rows, and no cache.
    """
    if not beginning:
        return lm.inputs(lm.chat.pad(rows, lm.device)), None
    length = len(beginning)
    start = lm.inputs(lm.chat.pad([Tokens(beginning, {})], lm.device))
    keep = lm.checked.keeping(1)
    cache = lm.model(**start, **keep, use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(rows))
    inputs = lm.inputs(lm.chat.pad([Tokens(row.ids[length:], {}) for row in rows], lm.device))
    mask = inputs["attention_mask"]
    inputs["attention_mask"] = torch.cat([mask.new_ones(len(rows), length), mask], dim=1)
    if "position_ids" in inputs:
        inputs["position_ids"] = inputs["position_ids"] + length
    return inputs, cache


def same_numbers(
    lm: LanguageModel,
    shortcut: Hashable,
    rows: Sequence[Tokens],
    compare: Callable[[Sequence[Tokens]], bool],
    *,
    kept: str = "shortcuts",
) -> bool:
    """Whether a shortcut is right for ``rows``: compared on the longest and the shortest of them.

    The result is kept in ``lm.found_out[kept]`` under the shortcut. It holds for rows between a
    pair that was compared; longer or shorter rows are compared again. A wrong attention window
    shows only in long rows, and only in short ones next to them: their padding lies after the
    shared beginning, inside the window.
    """
    longest, shortest = max(rows, key=len), min(rows, key=len)
    most, fewest = len(longest), len(shortest)
    known = lm.found_out.setdefault(kept, {})
    right, sizes = known.get(shortcut, (True, ()))
    if right and not any(most <= high and fewest >= low for low, high in sizes):
        right = compare([longest, shortest])
        known[shortcut] = right, (*sizes, (fewest, most))
    return bool(right)


def equal_up_to_rounding(
    lm: LanguageModel, wanted: Float[Tensor, "n vocab"], found: Float[Tensor, "n vocab"]
) -> bool:
    """Whether log-probabilities are equal up to the rounding of the model's numbers."""
    return relative_difference(found, wanted) <= lm.checked.limit
