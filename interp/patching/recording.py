"""The forwards of a readout over a batch of rows, kept so that a part of them can run again.

An edit after a layer changes nothing below this layer. Attention is causal, so it changes nothing
before the first edited token either. A forward with an edit therefore begins at the layer and at
the token, with the kept states and the cache of what comes before.

A row has up to three pieces and a tail: the tokens with which all rows begin (computed once for all
rows), the rest without the last tokens, and the last tokens before the tail. The tail is the last
token with the tokens that the readout appends; it runs once for each forward of the readout.

:func:`recording_of` first checks on two rows that the model gives the same logits in this way.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.model import (
    Batch,
    CannotEnter,
    Hidden,
    LanguageModel,
    Point,
    Tokens,
    active_edits,
    container_of,
    entering,
    is_out_of_memory,
    reading,
    relative_difference,
    same_numbers,
    shared_beginning,
    undisturbed,
    writing,
)
from interp.readout import Readout

# Tokens before the last one that are a piece: few edited tokens need no more to run again.
LATE = 8


@dataclass(frozen=True)
class Answering(LanguageModel):
    """A model with other logits, to give to a readout."""

    of: LanguageModel = field(kw_only=True)
    answer: Callable[[Batch, int], Tensor] = field(kw_only=True)

    @classmethod
    def by(cls, lm: LanguageModel, answer: Callable[[Batch, int], Tensor]) -> Answering:
        return cls(
            lm.model, lm.tokenizer, lm.chat, lm.name, layers_path=lm.layers_path,
            of=lm, answer=answer,
        )  # fmt: skip

    @property
    def found_out(self) -> dict[str, Any]:
        return self.of.found_out

    def logits(self, batch: Batch, *, keep: int) -> Float[Tensor, "batch keep vocab"]:
        return self.answer(batch, keep)


class Recording:
    """The forwards of a readout over some rows of a model.

    Attributes:
        lm, rows, readout: of whom.
        beginning: number of tokens that all rows share, in one piece.
        late: number of tokens in the piece before the tail.
        width: number of columns of the piece between these two.
        pieces: inputs of the forward over each piece.
        forwards: number of forwards of the readout.
        values: the readout of each row, in float64.
    """

    def __init__(
        self, lm: LanguageModel, rows: Sequence[Tokens], readout: Readout, points: Sequence[Point]
    ) -> None:
        self.lm, self.rows, self.readout = lm, tuple(rows), readout
        self._lay_out()
        self.forwards = 0
        self._caches: list[Any] = [None]
        self._states: dict[Point, list[Hidden]] = {point: [] for point in dict.fromkeys(points)}
        with self._keeping():
            for number, piece in enumerate(self.pieces):
                output = self._forward(piece, self._caches[-1], keep=1)
                self._caches.append(self._for_all_rows(output.past_key_values, number))
            self.values = numbers(self._read(self._caches[-1], lambda _: nullcontext()))
        if any(len(k) != len(self.pieces) + self.forwards for k in self._states.values()):
            raise CannotEnter("a module did not run once in every forward")

    @property
    def layout(self) -> tuple[int, ...]:
        """The columns of each piece, and the number of forwards."""
        return self.beginning, self.width, self.late, self.forwards

    def states(self, point: Point) -> list[Hidden]:
        """The states at a point: of each piece, then of each forward's tail."""
        return self._states[point]

    def tails(self, layer: int) -> list[Hidden]:
        """The states of the tails after ``layer``, for each forward of the readout."""
        return self.states(Point(self.lm.layers[layer]))[len(self.pieces) :]

    def columns(self, spans: Sequence[Sequence[slice]]) -> list[Bool[Tensor, "row token"]]:
        """Where tokens of the rows lie: for each piece, and for the first column of the tail.

        Args:
            spans: some tokens of each row.

        Raises:
            CannotEnter: rows differ in tokens that they share.
        """
        widths = [self.beginning, self.width, self.late, 1]
        masks = [torch.zeros(len(self.rows), width, dtype=torch.bool) for width in widths]
        for i, row in enumerate(self.rows):
            ends = [self.beginning, len(row) - 1 - self.late, len(row) - 1, len(row)]
            for token in (j for span in spans[i] for j in range(span.start, span.stop)):
                part = next(number for number, end in enumerate(ends) if token < end)
                masks[part][i, widths[part] - (ends[part] - token)] = True
        if not (masks[0] == masks[0][:1]).all():
            raise CannotEnter("rows take states at other tokens of their common beginning")
        masks[0] = masks[0][:1]
        return [*(mask for mask in masks[:-1] if mask.shape[1]), masks[-1]]

    def prefilled(self, layer: int, states: Sequence[Hidden], first: int = 0) -> Any:
        """What the tail attends to, if the later layers run again on the pieces from ``first`` on.

        Args:
            layer: 0-based; -1 for all layers.
            states: after ``layer``, of every piece.
            first: number of the first piece to run.
        """
        cache = self._caches[first]
        for number in range(first, len(self.pieces)):
            with self._entering(layer, states[number]):
                output = self._forward(self.pieces[number], cache, keep=1)
            cache = self._for_all_rows(output.past_key_values, number)
            known = _copied(self._caches[number + 1])
            cache.layers[: layer + 1] = known.layers[: layer + 1]
        return cache

    def read(self, layer: int, tails: Sequence[Hidden], cache: Any = None) -> Float[Tensor, " row"]:
        """The readout, with its graph, if the later layers run on ``tails``.

        Args:
            layer: 0-based; -1 for all layers.
            tails: states of the tails after ``layer``, for each forward of the readout; of all
                rows, or several times of all rows, which gives as many readouts.
            cache: what they attend to; as it was recorded by default.
        """
        cache = self._caches[-1] if cache is None else cache
        times = 1 if tails[0] is None else len(tails[0]) // len(self.rows)
        if times > 1 and cache is not None:
            cache = _copied(cache)
            cache.batch_select_indices(torch.arange(len(self.rows)).repeat(times))
        return self._read(cache, lambda number: self._entering(layer, tails[number]), times)

    def again(self, layer: int, first: int = 0) -> Float[Tensor, " row"]:
        """The readout if the later layers run again, on the recorded states from ``first`` on.

        Hooks and weights act as they are now, from piece ``first`` on.
        """
        states: Sequence[Any] = [None] * (len(self.pieces) + self.forwards)
        if layer >= 0:
            states = self.states(Point(self.lm.layers[layer]))
        cache = self.prefilled(layer, states, first)
        return self.read(layer, states[len(self.pieces) :], cache)

    def _lay_out(self) -> None:
        lm, rows = self.lm, self.rows
        shared = shared_beginning(lm, rows)
        self.beginning = len(shared)
        inside = [row.ids[len(shared) : -1] for row in rows]
        self.late = min(LATE, *map(len, inside))
        bodies = [ids[: len(ids) - self.late] for ids in inside]
        self.width = max(map(len, bodies))
        self.pieces: list[dict[str, Tensor]] = []
        self._mask = torch.ones(len(rows), len(shared), dtype=torch.long, device=lm.device)
        if shared:
            self.pieces.append(lm.inputs(lm.chat.pad([Tokens(shared, {})], lm.device)))
        if self.width:
            self.pieces.append(self._following([Tokens(ids, {}) for ids in bodies]))
        if self.late:
            late = [Tokens(ids[len(ids) - self.late :], {}) for ids in inside]
            self.pieces.append(self._following(late))

    def _following(self, rows: Sequence[Tokens]) -> dict[str, Tensor]:
        """Inputs of a forward over ``rows`` after the pieces so far."""
        batch = self.lm.chat.pad(rows, self.lm.device)
        before = self._mask.sum(dim=1, keepdim=True)
        self._mask = torch.cat([self._mask, batch.attention_mask], dim=1)
        inputs = {"input_ids": batch.input_ids, "attention_mask": self._mask}
        if "position_ids" in self.lm.forward_options:
            inputs["position_ids"] = batch.position_ids + before
        return inputs

    def _tail_inputs(self, batch: Batch, keep: int) -> dict[str, Tensor]:
        """Inputs of a forward over the last token of ``batch``'s prompts and what follows."""
        columns = batch.input_ids.shape[1] - max(map(len, self.rows)) + 1
        times, rest = divmod(len(batch.input_ids), len(self.rows))
        if columns < keep or rest:
            raise CannotEnter("a readout asks for logits before the last token")
        mask = self._mask.repeat(times, 1)
        inputs = {
            "input_ids": batch.input_ids[:, -columns:],
            "attention_mask": torch.cat([mask, mask.new_ones(len(mask), columns)], dim=1),
        }
        if "position_ids" in self.lm.forward_options:
            inputs["position_ids"] = batch.position_ids[:, -columns:]
        return inputs

    def _read(self, cache: Any, entry: Callable[[int], Any], times: int = 1) -> Tensor:
        numbered = count()

        def answer(batch: Batch, keep: int) -> Tensor:
            inputs, number = self._tail_inputs(batch, keep), next(numbered)
            with entry(number):
                self.forwards = max(self.forwards, number + 1)
                return self._forward(inputs, cache, keep=keep).logits[:, -keep:]

        return self.readout(Answering.by(self.lm, answer), self.rows * times)

    def _forward(self, inputs: dict[str, Tensor], cache: Any, *, keep: int) -> Any:
        options = self.lm.checked.keeping(keep)
        return self.lm.model(**inputs, **options, past_key_values=_copied(cache), use_cache=True)

    def _for_all_rows(self, cache: Any, number: int) -> Any:
        """What all rows share runs as one row."""
        if number == 0 and self.beginning:
            cache.batch_repeat_interleave(len(self.rows))
        return cache

    def _entering(self, layer: int, states: Hidden | None) -> Any:
        if layer < 0 or states is None:
            return nullcontext()
        return entering(self.lm.layers, layer, states, self._containers)

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """Keep the states at all points, and how each layer hands its states on."""
        points, containers = list(self._states), {}
        with ExitStack() as stack:
            for i, layer in enumerate(self.lm.layers):

                def kept(_module: Any, _inputs: Any, output: Any, i: int = i) -> None:
                    containers[i] = container_of(output)

                stack.enter_context(layer.register_forward_hook(kept))
            keep = reading(points, lambda i, hidden: self._states[points[i]].append(hidden))
            stack.enter_context(keep)
            yield
        self._containers = [containers[i] for i in range(len(self.lm.layers))]


def recording_of(
    lm: LanguageModel, rows: Sequence[Tokens], readout: Readout, points: Sequence[Point]
) -> Recording | None:
    """The recording of a readout; None where the model does not allow one.

    Args:
        lm: the model.
        rows: prompts.
        readout: one number per row.
        points: places whose states are kept; outputs of the layers at which forwards may begin.
    """
    if not may_record(lm, rows, readout):
        return None
    return Recording(lm, rows, readout, points)


def numbers(read: Tensor) -> Float[np.ndarray, " row"]:
    """The values of a readout, in float64."""
    return read.detach().cpu().double().numpy()


def may_record(lm: LanguageModel, rows: Sequence[Tokens], readout: Readout) -> bool:
    """Whether a recording gives the same logits; see :func:`interp.model.same_numbers`."""
    check = lm.checked
    fits = check.cache and check.rows == check.decoding == "padded" and not check.bypassed
    if not fits or not rows or active_edits(lm.model):
        return False
    if "past_key_values" not in lm.forward_options:
        return False
    try:
        return same_numbers(lm, readout, rows, partial(_same_logits, lm, readout), kept="recorded")
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False  # a batch that does not fit says what to do


def _same_logits(lm: LanguageModel, readout: Readout, rows: Sequence[Tokens]) -> bool:
    try:
        with undisturbed(lm.model):
            return _largest_error(lm, rows, readout) <= lm.checked.limit
    except Exception as error:  # of a cache or a layer with another interface
        if is_out_of_memory(error):
            raise
        return False


def _largest_error(lm: LanguageModel, rows: Sequence[Tokens], readout: Readout) -> float:
    """The largest relative difference of logits from those of whole forwards with the same edit."""
    seen: list[Tensor] = []

    def noting(one: LanguageModel, some: Sequence[Tokens]) -> Tensor:
        def answer(batch: Batch, keep: int) -> Tensor:
            seen.append(one.logits(batch, keep=keep))
            return seen[-1]

        return readout(Answering.by(one, answer), some)

    def logits(work: Callable[[], object]) -> list[Tensor]:
        seen.clear()
        work()
        return list(seen)

    layers, last = sorted({0, lm.n_layers // 2}), max(map(len, rows)) - 1
    recording = Recording(lm, rows, noting, [Point(lm.layers[layer]) for layer in layers])
    plain = logits(lambda: noting(lm, rows))
    found = [(logits(lambda: recording.again(-1)), plain)]
    for layer in layers:
        own = recording.tails(layer)
        noise = torch.randn(own[0].shape[-1], generator=torch.Generator().manual_seed(layer))
        noise = noise.to(own[0]) * own[0][:, 0].norm(dim=-1).mean() / noise.norm()
        with writing(lm.layers[layer], partial(_with_added, noise, last)):
            wanted = logits(lambda: noting(lm, rows))
        moved = [_with_added(noise, 0, tail) for tail in own]
        for _ in range(2):  # a forward must leave the caches as they are
            found.append((logits(partial(recording.read, layer, moved)), wanted))
        found.append((logits(partial(recording.again, layer)), plain))
    return max(relative_difference(*pair) for each in found for pair in zip(*each, strict=True))


def _with_added(added: Tensor, column: int, states: Hidden) -> Hidden:
    states = states.clone()
    states[:, column] += added
    return states


def _copied(cache: Any) -> Any:
    """A cache that grows without this one: new layers of the same tensors."""
    if cache is None:
        return None
    grown = copy.copy(cache)
    grown.layers = [copy.copy(layer) for layer in cache.layers]
    return grown
