"""The next token's distribution after a prompt and after prefixes of a response.

Without a cache there is one forward for each path of the tree, over the prompt and the path. With a
cache there is one forward over the prompt and one step of a single token for every other inner
node.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.model import (
    LanguageModel,
    Tokens,
    active_edits,
    begin,
    equal_up_to_rounding,
    same_numbers,
)
from unlearning.refusal.prefix_tree import ResponsePrefix, ResponsePrefixes

Following = Float[Tensor, "batch vocab"]


def distributions(
    lm: LanguageModel, rows: Sequence[Tokens], prefixes: ResponsePrefixes
) -> Iterator[tuple[ResponsePrefix, Following]]:
    """Every inner node with the log-probabilities of the token after it, in float64 with graph.

    Parents come before their children. Each forward holds all rows, followed by the same tokens.
    """
    seen: set[ResponsePrefix] = set()
    # Later tokens of a path change what some models say at its earlier ones.
    for path in prefixes.paths if lm.checked.causal else prefixes.inner:
        extended = [Tokens((*row.ids, *path), row.spans) for row in rows] if path else rows
        logits = lm.logits(lm.chat.pad(extended, lm.device), keep=len(path) + 1)
        for depth in range(0 if lm.checked.causal else len(path), len(path) + 1):
            if path[:depth] not in seen:
                seen.add(path[:depth])
                yield path[:depth], _log_probs(logits[:, depth])


def cached_distributions(
    lm: LanguageModel,
    rows: Sequence[Tokens],
    prefixes: ResponsePrefixes,
    beginning: tuple[int, ...] = (),
) -> Iterator[tuple[ResponsePrefix, Following]]:
    """The same as :func:`distributions`, with a cache and without a graph.

    ``beginning``: token ids with which all rows begin, computed once for all of them.
    """
    inputs, begun = begin(lm, rows, beginning)
    keep = lm.checked.keeping(1)
    children: dict[ResponsePrefix, list[ResponsePrefix]] = {}
    for node in prefixes.inner[1:]:
        children.setdefault(node[:-1], []).append(node)

    def visit(
        node: ResponsePrefix, inputs: dict[str, Tensor], cache: Any
    ) -> Iterator[tuple[ResponsePrefix, Following]]:
        output = lm.model(**inputs, **keep, past_key_values=cache, use_cache=True)
        yield node, _log_probs(output.logits[:, -1])
        for number, child in enumerate(children.get(node, ()), 1):
            last = number == len(children[node])
            own = output.past_key_values if last else copy.deepcopy(output.past_key_values)
            yield from visit(child, _one_more(inputs, child[-1]), own)

    yield from visit((), inputs, begun)


def may_cache(
    lm: LanguageModel,
    prefixes: ResponsePrefixes,
    rows: Sequence[Tokens],
    beginning: tuple[int, ...] = (),
) -> bool:
    """Whether a cache gives the same numbers; compared on a long and a short prompt."""
    is_idle = len(prefixes.inner) == 1 and not beginning
    if is_idle or active_edits(lm.model) or torch.is_grad_enabled():
        return False
    check, key = lm.checked, f"cached_distributions{'_begun' if beginning else ''}"
    if check.rows != "padded" or check.decoding != "padded" or not check.cache:
        return False
    return same_numbers(lm, key, rows, partial(_caches_rightly, lm, prefixes, beginning))


def _caches_rightly(
    lm: LanguageModel,
    prefixes: ResponsePrefixes,
    beginning: tuple[int, ...],
    rows: Sequence[Tokens],
) -> bool:
    if "past_key_values" not in lm.forward_options:
        return False
    plain = dict(distributions(lm, rows, prefixes))
    try:
        cached = dict(cached_distributions(lm, rows, prefixes, beginning))
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError):
        return False  # of a cache with another interface; the forward without it is right
    return all(equal_up_to_rounding(lm, plain[node], cached[node]) for node in plain)


def _one_more(inputs: dict[str, Tensor], token: int) -> dict[str, Tensor]:
    """The inputs of a step with one more token, after a forward over ``inputs``."""
    mask = inputs["attention_mask"]
    more = {
        "input_ids": inputs["input_ids"].new_full((len(mask), 1), token),
        "attention_mask": torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1),
    }
    if "position_ids" in inputs:
        more["position_ids"] = inputs["position_ids"][:, -1:] + 1
    return more


def _log_probs(logits: Float[Tensor, "batch vocab"]) -> Following:
    return logits.cpu().double().log_softmax(dim=-1)
