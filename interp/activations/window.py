"""Track which tokens of which rows a forward computes, so positions have one meaning everywhere.

A hook receives columns: all columns of a padded batch in one forward, or one at a time during
generation. A :class:`Window` gives each column its index in its row, and each row the length of its
prompt. So padding and generation do not shift positions. Functions of a window choose
:data:`Columns`.

The prompt of a row ends where the chat format last ends one, so a response may follow it; a row
without these closing tokens is all prompt. A later forward of the same generation continues the one
before it: it reads a cache, or its rows are the rows before with one token more.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from interp.activations.positions import is_whole
from interp.errors import InputError
from interp.model import LanguageModel, is_probing


@dataclass(frozen=True)
class Window:
    """The columns that one forward computes.

    Attributes:
        input_ids: their tokens.
        index: the index of each column in its row, from 0; -1 in padding.
        prompt: number of tokens of each row's prompt.
        past: number of columns in the cache from earlier forwards.
    """

    input_ids: Int[Tensor, "batch token"]
    index: Int[Tensor, "batch token"]
    prompt: Int[Tensor, "batch 1"]
    past: int


Columns = Callable[[Window], Bool[Tensor, "batch token"]]
NOWHERE = torch.zeros(1, 1, dtype=torch.bool)


def in_prompt(window: Window) -> Bool[Tensor, "batch token"]:
    """Every token of the prompt."""
    return (window.index >= 0) & (window.index < window.prompt)


def generated(window: Window) -> Bool[Tensor, "batch token"]:
    """Every generated token that the model reads again."""
    return window.index >= window.prompt


def first_token(window: Window) -> Bool[Tensor, "batch token"]:
    """The first token of the row."""
    return window.index == 0


def last_prompt_token(window: Window) -> Bool[Tensor, "batch token"]:
    """The prompt's last token, where the first token of the answer is predicted."""
    return from_end(-1)(window)


def from_end(*offsets: int) -> Columns:
    """Tokens of the prompt counted from its end: -1 is the last one.

    Raises:
        InputError: an offset is not a whole number below 0.
    """
    if not offsets or not all(is_whole(one) and one < 0 for one in offsets):
        raise InputError(f"offsets {offsets} from the prompt's end; they start at -1 and go down")

    def columns(window: Window) -> Tensor:
        after = window.index - window.prompt
        chosen = torch.isin(after, torch.tensor(offsets, device=after.device))
        return chosen & in_prompt(window)

    return columns


def known_beginning(
    ids: tuple[int, ...], known: Container[tuple[int, ...]], lengths: Sequence[int]
) -> tuple[int, ...] | None:
    """The longest beginning of ``ids`` that is a known row; None if there is none.

    Args:
        ids: tokens of a row, which may go on after the known one.
        known: rows, by their tokens.
        lengths: of the known rows, the longest first.
    """
    # A slice beyond the end is the row itself, so longer rows must be left out.
    beginnings = (ids[:length] for length in lengths if length <= len(ids))
    return next((beginning for beginning in beginnings if beginning in known), None)


@contextmanager
def selecting(
    lm: LanguageModel, columns: Columns, *, required: bool = True
) -> Iterator[Callable[[], Bool[Tensor, "batch token"]]]:
    """Yields a function that returns the columns chosen in the current forward.

    If they are not ``required``, it returns a single False in a forward whose rows cannot be
    identified.

    Raises:
        InputError: ``columns`` is not a function; in the forward, the attention mask does not
            identify the rows.
    """
    if not callable(columns):
        raise InputError(
            f"positions is {columns!r}; expected a function of a window, such as "
            "interp.activations.window.last_prompt_token"
        )
    trunk = next(m for m in lm.model.modules() if any(c is lm.layers for c in m.children()))
    # Adapters bypass the hooks of the whole model, and a model of images gives its trunk embeddings
    # and a finished mask: what identifies the rows may be seen at any level.
    levels = [m for m in lm.model.modules() if any(inner is trunk for inner in m.modules())]
    calls: list[Mapping[str, Any]] = []
    follower = _Follower(lm.chat.closing)
    now: list[Tensor] = [NOWHERE]

    def look(level: int, module: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> None:
        del calls[level:]  # of a forward that did not come to its end
        calls.append(_named(module, arguments, keywords))
        if module is trunk:
            if not is_probing():
                now[:] = [NOWHERE]
                with nullcontext() if required else suppress(InputError):
                    now[:] = [columns(follower.window(calls))]
            calls.clear()

    with ExitStack() as stack:
        for level, module in enumerate(levels):
            hook = partial(look, level)
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield lambda: now[0]


def _named(
    module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> Mapping[str, Any]:
    try:
        found = signature(module.forward).bind_partial(*arguments, **keywords).arguments
    except TypeError:
        found = dict(keywords)
    return {**found, **keywords}


@dataclass
class _Follower:
    """Follows a generation from forward to forward.

    Attributes:
        closing: the tokens with which the chat format ends every prompt.
        ids, present: all columns so far, and whether they hold a token.
        prompt: number of tokens of each row's prompt.
        caches: what the forward got that could be a cache, by the argument's name.
    """

    closing: tuple[int, ...] = ()
    ids: Tensor | None = None
    present: Tensor = field(init=False)
    prompt: Tensor = field(init=False)
    caches: Mapping[str, Any] = field(default_factory=dict)

    def window(self, calls: Sequence[Mapping[str, Any]]) -> Window:
        """The window of a forward, from the arguments of the model and of the modules inside."""
        ids = _first(calls, "input_ids")
        if ids is None:
            raise InputError("positions are found by token ids; call the model with input_ids")
        mask = _first(calls, "attention_mask")
        given = calls[-1].get("attention_mask")
        caches = {name: value for name, value in calls[-1].items() if _may_be_cache(value)}
        past = self._past(ids, mask, caches)
        width = past + ids.shape[1]
        if mask is None and given is None:
            before = self.present if self._follows(ids, past) else ids.new_ones(len(ids), past)
            mask = torch.cat([before.to(ids), torch.ones_like(ids)], dim=1)
        shape = getattr(given if mask is None else mask, "shape", None)
        if mask is None or shape != (len(ids), width):
            raise InputError(
                f"an attention mask of shape {shape and tuple(shape)} for {past} cached and "
                f"{ids.shape[1]} new columns; positions need one entry for each token, as a cache "
                "that grows gives it"
            )
        present = mask.bool()
        if not (self._follows(ids, past) if past else self._grows(ids)):
            self.prompt = (present[:, :past] if past else present).sum(dim=1, keepdim=True)
            if not past:
                self._end_at_closings(ids, present)
        cached = ids[:, :0] if not past else self.ids if self._follows(ids, past) else None
        self.ids = None if cached is None else torch.cat([cached, ids], dim=1)
        self.present, self.caches = present, caches
        index = (present.cumsum(dim=1) - 1).masked_fill(~present, -1)
        return Window(ids, index[:, past:], self.prompt, past)

    def _end_at_closings(self, ids: Tensor, present: Tensor) -> None:
        """End each row's prompt at the last closing in it."""
        size = len(self.closing)
        for row, there, prompt in zip(ids, present, self.prompt, strict=True):
            tokens = tuple(row[there].tolist())
            ends = range(len(tokens), size - 1, -1) if size else ()
            prompt[:] = next((e for e in ends if tokens[e - size : e] == self.closing), len(tokens))

    def _past(self, ids: Tensor, mask: Tensor | None, caches: Mapping[str, Any]) -> int:
        """Number of columns in the cache."""
        if mask is not None and mask.shape[1] > ids.shape[1]:
            return mask.shape[1] - ids.shape[1]
        for cache in caches.values():
            try:
                if past := int(cache.get_seq_length()):
                    return past
            except (AttributeError, ValueError, TypeError):
                continue  # a recurrent state has no length
        if self.ids is None or len(self.ids) != len(ids):
            return 0
        for name, cache in caches.items():
            if self.caches.get(name) is cache or (name not in self.caches and ids.shape[1] == 1):
                return self.ids.shape[1]
        return 0

    def _follows(self, ids: Tensor, past: int) -> bool:
        """Whether the cache holds the columns so far."""
        return self.ids is not None and self.ids.shape == (len(ids), past)

    def _grows(self, ids: Tensor) -> bool:
        """Whether the rows are the rows so far with one token more."""
        before = self.ids
        return before is not None and torch.equal(ids[:, :-1], before)


def _first(calls: Sequence[Mapping[str, Any]], name: str) -> Tensor | None:
    """An argument as the outermost module got it, if it has one entry for each row and token."""
    found = (call.get(name) for call in calls)
    return next((t for t in found if isinstance(t, Tensor) and t.ndim == 2), None)


def _may_be_cache(value: Any) -> bool:
    plain = value is None or isinstance(value, Tensor | bool | int | float | str | Mapping)
    return not plain
