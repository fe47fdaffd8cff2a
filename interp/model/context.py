"""The model's context: how many tokens it reads, and whether prompts fit.

Without this check a model with learned positions stops with an index error in the middle of its
work, and a model with rotary positions answers without a note, although it was never trained there.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from interp.errors import InputError
from interp.model.chat import Tokens

# Names of the limit in the configurations of different architectures.
LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx")
SHOWN = 3


def context_length(config: Any) -> int | None:
    """The number of tokens that a model reads; None if its configuration has no limit.

    A context that is extended by scaled rotary positions counts in full.
    """
    text = config.get_text_config(decoder=True)
    limits = (getattr(text, name, None) for name in LIMITS)
    limit = next((one for one in limits if isinstance(one, int) and one > 0), None)
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None)
    if limit is None or not isinstance(rope, dict):
        return limit
    before, factor = rope.get("original_max_position_embeddings"), rope.get("factor")
    if isinstance(factor, int | float) and rope.get("rope_type") != "default":
        # Some configurations hold the limit before the extension, others the one after it.
        limit = max(limit, int((before or limit) * factor))
    return limit


def require_room(
    model: Any, tokenizer: Any, rows: Sequence[Tokens], *, new_tokens: int = 0
) -> None:
    """Check that every row fits into the model's context, with ``new_tokens`` after it.

    If only the new tokens do not fit, a model with learned positions cannot write them; any other
    model can, and a warning says so.

    Raises:
        InputError: some do not; the message names them, their lengths and the limit.
    """
    limit = context_length(model.config)
    lengths = [len(row) for row in rows]
    longest = max(lengths, default=0)
    if limit is None or longest + new_tokens <= limit:
        return
    if longest <= limit and not _has_learned_positions(model, limit):
        warnings.warn(
            f"the longest prompt ({longest} tokens) with {new_tokens} new tokens exceeds the "
            f"model's context of {limit} tokens; answers beyond it may be unreliable",
            stacklevel=3,
        )
        return
    long = [i for i in range(len(rows)) if lengths[i] + new_tokens > limit]
    long.sort(key=lambda i: -lengths[i])
    named = ", ".join(
        f"{_beginning(tokenizer, rows[i])!r} ({lengths[i]} tokens)" for i in long[:SHOWN]
    )
    more = ", …" if len(long) > SHOWN else ""
    room = limit - max(lengths)
    after = f" with {new_tokens} new tokens" if new_tokens else ""
    fewer = f", or give --max-new-tokens {room} at most" if new_tokens and room > 0 else ""
    raise InputError(
        f"{len(long)} of {len(rows)} prompts{after} do not fit into the model's context of {limit} "
        f"tokens: {named}{more}; shorten them or leave them out{fewer}"
    )


def _has_learned_positions(model: Any, limit: int) -> bool:
    """Whether a table of embeddings has a row for every position (some models skip a few rows)."""
    words = model.get_input_embeddings()
    return any(
        isinstance(module, nn.Embedding)
        and module is not words
        and limit <= module.num_embeddings <= limit + 4
        for module in model.modules()
    )


def _beginning(tokenizer: Any, row: Tokens) -> str:
    ids = row.ids[row.spans["instruction"]] if "instruction" in row.spans else row.ids
    text = str(tokenizer.decode(list(ids[: SHOWN * 4]))).strip()
    return f"{text[:40]}…"
