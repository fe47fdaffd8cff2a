"""Readouts of a base and an after-model stitched at a layer, with the last token's state moved.

A stitched model runs the later layers of one model (the reader) on the states of one (the start).
Where the models allow it, forwards begin at the layer and at the last token
(:mod:`interp.patching.recording`); otherwise each is a whole forward with the states written in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations import RESIDUAL_OUT, points
from interp.model import Hidden, LanguageModel, Point, Tokens, writing
from interp.patching import (
    PatchRuns,
    Recording,
    in_turn,
    keeping,
    may_record,
    read_out,
    recording_of,
)
from interp.readout import Readout

BASE, AFTER = "base", "after"
Moves = Float[Tensor, "prompt d_model"]


class Stitched(Protocol):
    """Both models over the same prompts."""

    @property
    def own(self) -> Mapping[str, Float[np.ndarray, " prompt"]]:
        """The readouts of the unchanged models, by name."""

    def read(
        self, start: str, reader: str, layer: int, move: Moves | None = None
    ) -> Float[Tensor, " prompt"]:
        """The readout of ``reader`` on the states of ``start`` after ``layer``, with its graph.

        Args:
            start, reader: ``base`` or ``after``.
            layer: 0-based.
            move: is added to the state of each prompt's last token; several moves of all
                prompts, one after the other, give as many readouts.
        """

    def again(self, name: str, layer: int) -> Float[Tensor, " prompt"]:
        """The readout of a model on its own states after ``layer``, with its weights of now."""


class StitchedPrompts:
    """The stitched models of batches of prompts; the last batches are kept.

    Args:
        runs: from the base to the after-model.
        readout: one number per prompt.
        layers: 0-based; the layers at which the models may be stitched.
    """

    def __init__(self, runs: PatchRuns, readout: Readout, layers: Sequence[int]) -> None:
        self.runs, self.readout, self.layers = runs, readout, tuple(layers)
        self._kept: dict[tuple[int, ...], Stitched] = {}

    @property
    def begins_late(self) -> bool:
        """Whether forwards begin at the layer and at the last token."""
        sides = (
            (self.runs.source, self.runs.source_rows),
            (self.runs.target, self.runs.target_rows),
        )
        return all(may_record(lm, rows, self.readout) for lm, rows in sides)

    def of(self, chosen: Sequence[int]) -> Stitched:
        """The stitched models over the prompts with these numbers."""
        key = tuple(chosen)
        if key not in self._kept:
            # A batch that did not fit into memory comes again in parts.
            self._kept = {k: v for k, v in self._kept.items() if not set(k) & set(key)}
            self._kept[key] = self._made(self.runs.subset(chosen))
        return self._kept[key]

    def _made(self, part: PatchRuns) -> Stitched:
        sides = {BASE: (part.source, part.source_rows), AFTER: (part.target, part.target_rows)}
        found = {}
        for name, (lm, rows) in sides.items():
            places = points(lm, self.layers, [RESIDUAL_OUT])[0]
            found[name] = recording_of(lm, rows, self.readout, places)
        base, after = found[BASE], found[AFTER]
        if base is None or after is None or base.layout != after.layout:
            return _Whole(sides, self.readout)
        return _Resumed({BASE: base, AFTER: after})


class _Resumed:
    """Forwards that begin at the layer and at the last token."""

    def __init__(self, sides: Mapping[str, Recording]) -> None:
        self.sides = sides
        self.own = {name: side.values for name, side in sides.items()}
        self._caches: tuple[int, dict[str, object]] = -1, {}

    def read(self, start: str, reader: str, layer: int, move: Moves | None = None) -> Tensor:
        side, tails = self.sides[reader], self.sides[start].tails(layer)
        if move is not None:
            times = len(move) // len(side.rows)
            tails = [tail.repeat(times, 1, 1) for tail in tails]
            moved = (_moved(tail[:, 0], move) for tail in tails)
            tails = [
                torch.cat([first[:, None], tail[:, 1:]], dim=1)
                for first, tail in zip(moved, tails, strict=True)
            ]
        cache = None if start == reader else self._stitched(start, reader, layer)
        return side.read(layer, tails, cache)

    def again(self, name: str, layer: int) -> Tensor:
        return self.sides[name].again(layer)

    def _stitched(self, start: str, reader: str, layer: int) -> object:
        """The cache of ``reader`` over the states of ``start``; of one layer at a time."""
        if self._caches[0] != layer:
            self._caches = layer, {}
        if reader not in self._caches[1]:
            giving = self.sides[start]
            states = giving.states(Point(giving.lm.layers[layer]))
            with torch.no_grad():
                self._caches[1][reader] = self.sides[reader].prefilled(layer, states)
        return self._caches[1][reader]


class _Whole:
    """Whole forwards with the states written in."""

    def __init__(
        self, sides: Mapping[str, tuple[LanguageModel, tuple[Tokens, ...]]], readout: Readout
    ) -> None:
        self.sides, self.readout = sides, readout
        self.own = {name: read_out(*side, readout) for name, side in sides.items()}
        self._states: tuple[int, dict[str, list[Hidden]]] = -1, {}

    def read(self, start: str, reader: str, layer: int, move: Moves | None = None) -> Tensor:
        lm, rows = self.sides[reader]
        # Rows are left-padded, so the last token is the longest row's last column; tokens that the
        # readout appended follow.
        last = max(map(len, rows)) - 1
        states = self._after(layer)[start]
        if move is not None:
            times = len(move) // len(rows)
            rows, states = rows * times, [one.repeat(times, 1, 1) for one in states]
            for one in states:
                one[:, last] = _moved(one[:, last], move)
        with writing(_output(lm, layer), in_turn([partial(_put, one) for one in states])):
            return self.readout(lm, rows)

    def again(self, name: str, layer: int) -> Tensor:
        return self.readout(*self.sides[name])

    def _after(self, layer: int) -> dict[str, list[Hidden]]:
        """The states of each forward of both models after ``layer``."""
        if self._states[0] != layer:
            found = {}
            for name, (lm, rows) in self.sides.items():
                point = _output(lm, layer)
                with torch.no_grad(), keeping([point], rows) as kept:
                    self.readout(lm, rows)
                found[name] = kept[point]
            self._states = layer, found
        return self._states[1]


def _moved(state: Float[Tensor, "prompt d_model"], move: Moves) -> Float[Tensor, "prompt d_model"]:
    return (state.float() + move.to(state.device, torch.float32)).to(state.dtype)


def _output(lm: LanguageModel, layer: int) -> Point:
    return points(lm, [layer], [RESIDUAL_OUT])[0][0]


def _put(states: Hidden, hidden: Hidden) -> Hidden:
    return states.to(hidden).reshape(hidden.shape)
