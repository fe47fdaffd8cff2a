"""Check generation and ``logits_to_keep`` against the plain forward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.model.chat import Tokens
from interp.model.probes import STEPS, Ids, Seen, relative_difference, run, tried
from interp.model.self_check import Rows

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel

Far = Callable[[str, float], bool]


def last_logits_hold(lm: LanguageModel, row: Ids, full: Seen, far: Far) -> bool:
    """Whether ``logits_to_keep`` gives the last of all logits, and layers still see all tokens."""
    if "logits_to_keep" not in lm.forward_options:
        return False
    found = tried(lambda: run(lm, [row], keep=2))
    if found is None:
        return False
    if [_shape(states) for _, states in found.out] != [_shape(states) for _, states in full.out]:
        return False
    return not far("last_logits", relative_difference(found.logits[:, -2:], full.logits[:, -2:]))


def _shape(states: Any) -> tuple[int, ...]:
    return tuple(getattr(states, "shape", ()))


def decoding_batches(
    lm: LanguageModel, ids: tuple[Ids, Ids, Ids], rows: Rows, far: Far
) -> tuple[Rows, bool, bool]:
    """Batches in which generation equals the forward; whether it does so with a cache; at all."""
    if not hasattr(lm.model, "generate"):
        return rows, True, True
    short, other, long = ids
    forced = other[:STEPS]
    wanted = [run(lm, [short + forced[:step]]).logits[:, -1] for step in range(STEPS)]
    batches: dict[Rows, list[Ids]] = {
        "padded": [short, long],
        "equal": [short, other],
        "single": [short],
    }
    kinds = list(batches)[list(batches).index(rows) :]
    for cache in (True, False):
        for kind in kinds:
            found = _generated(lm, batches[kind], forced, cache=cache)
            sizes = [relative_difference(*pair) for pair in zip(found, wanted, strict=False)]
            name = f"decoding_{kind}" if cache else f"decoding_{kind}_without_cache"
            if not far(name, max(sizes, default=math.inf)):
                return kind, cache, True
    return "single", False, False


def _generated(
    lm: LanguageModel, rows: Sequence[Ids], forced: Ids, *, cache: bool
) -> list[Float[Tensor, "1 vocab"]]:
    """The first row's logits at every step; none if the model cannot generate in this way."""
    batch = lm.chat.pad([Tokens(row, {}) for row in rows], lm.device)
    width = batch.input_ids.shape[1]

    def force(ids: Tensor, scores: Tensor) -> Tensor:
        only = torch.full_like(scores, -math.inf)
        only[:, forced[ids.shape[1] - width]] = 0.0
        return only

    output: Any = tried(
        lambda: lm.model.generate(  # type: ignore[operator]
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            max_new_tokens=len(forced),
            do_sample=False,
            num_beams=1,
            use_cache=cache,
            pad_token_id=0,
            logits_processor=[force],
            return_dict_in_generate=True,
            output_logits=True,
        )
    )
    return [] if output is None else [logits[:1] for logits in output.logits]
