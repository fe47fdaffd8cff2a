"""Track which tokens of which rows a forward computes, so positions have one meaning everywhere.

A hook receives columns: all columns of a padded batch in one forward, or one at a time during
generation. A :class:`Window` gives each column its index in its row, from the attention mask and
the length of the cache. So padding and generation do not shift positions, and no state is kept
between forwards. Functions of a window choose :data:`Columns`.

The prompt of a generation is the input of its first forward, which starts with an empty cache. If a
row also holds a response, or if generation uses no cache, only :func:`positions_of` knows the end
of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from interp.activations.positions import Positions
from interp.errors import InputError
from interp.model import LanguageModel, Tokens


@dataclass(frozen=True)
class Window:
    """The columns that one forward computes.

    Attributes:
        input_ids: their tokens.
        index: the index of each column in its row, from 0; -1 in padding.
        past: number of columns in the cache from earlier forwards.
    """

    input_ids: Int[Tensor, "batch token"]
    index: Int[Tensor, "batch token"]
    past: int


Columns = Callable[[Window], Bool[Tensor, "batch token"]]


def in_prompt(window: Window) -> Bool[Tensor, "batch token"]:
    """Every token of the prompt."""
    return (window.index >= 0) & (window.past == 0)


def generated(window: Window) -> Bool[Tensor, "batch token"]:
    """Every generated token that the model reads again."""
    return (window.index >= 0) & (window.past > 0)


def last_prompt_token(window: Window) -> Bool[Tensor, "batch token"]:
    """The prompt's last token, where the first token of the answer is predicted."""
    return from_end(-1)(window)


def from_end(*offsets: int) -> Columns:
    """Tokens of the prompt counted from its end: -1 is the last one.

    Raises:
        InputError: an offset is not negative.
    """
    if not offsets or max(offsets) >= 0:
        raise InputError(f"offsets {offsets} from the prompt's end; they start at -1 and go down")

    def columns(window: Window) -> Tensor:
        after = window.index - window.index.amax(dim=1, keepdim=True) - 1
        chosen = torch.isin(after, torch.tensor(offsets, device=after.device))
        return chosen & in_prompt(window)

    return columns


def positions_of(rows: Sequence[Tokens], positions: Positions) -> Columns:
    """Positions of known rows, at any place in a batch and before any continuation.

    Args:
        rows: as the chat format encodes them; a row is identified by its tokens.
        positions: a function of a row's tokens, see :mod:`interp.activations.positions`.

    Raises:
        InputError: in the forward, a row that is not among ``rows``.
    """
    known = {row.ids: positions(row) for row in rows}
    lengths = sorted({len(ids) for ids in known}, reverse=True)

    def columns(window: Window) -> Tensor:
        chosen = torch.zeros_like(window.index, dtype=torch.bool)
        if window.past:
            return chosen
        for i, present in enumerate(window.index >= 0):
            ids = tuple(window.input_ids[i][present].tolist())
            beginnings = (ids[:length] for length in lengths if length <= len(ids))
            row = next((beginning for beginning in beginnings if beginning in known), None)
            if row is None:
                raise InputError(
                    f"a row of {len(ids)} tokens is not one of the {len(known)} with known "
                    "positions; encode the same prompts with the same chat format"
                )
            places = present.nonzero().flatten()
            for span in known[row]:
                chosen[i, places[span]] = True
        return chosen

    return columns


@contextmanager
def selecting(
    lm: LanguageModel, columns: Columns
) -> Iterator[Callable[[], Bool[Tensor, "batch token"]]]:
    """Yields a function that returns the columns chosen in the current forward.

    Raises:
        InputError: in the forward, the attention mask does not identify the rows.
    """
    trunk = next(m for m in lm.model.modules() if any(c is lm.layers for c in m.children()))
    now: list[Tensor] = []

    def look(_module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        window = _window(**{"input_ids": arguments[0] if arguments else None, **keywords})
        nobody = torch.zeros_like(window.index, dtype=torch.bool)
        now[:] = [nobody if _PROBING.get() else columns(window)]

    # On the trunk, not on the whole model: adapters bypass the hooks of the whole model.
    handle = trunk.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield lambda: now[0]
    finally:
        handle.remove()


def _window(
    input_ids: Tensor, *, attention_mask: Any = None, past_key_values: Any = None, **_others: Any
) -> Window:
    if input_ids is None:
        raise InputError("positions are found by token ids; call the model with input_ids")
    past = 0 if past_key_values is None else int(past_key_values.get_seq_length())
    batch, columns = input_ids.shape
    if attention_mask is None:
        attention_mask = torch.ones(batch, past + columns, device=input_ids.device)
    shape = getattr(attention_mask, "shape", None)
    if shape != (batch, past + columns):
        raise InputError(
            f"an attention mask of shape {shape and tuple(shape)} for {past} cached and {columns} "
            "new columns; positions need one entry for each token, as a cache that grows gives it"
        )
    present = attention_mask.bool()
    index = (present.cumsum(dim=1) - 1).masked_fill(~present, -1)
    return Window(input_ids, index[:, past:], past)
