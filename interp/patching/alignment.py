"""Align the target's tokens with the source's tokens.

The target's tokens take the states of the source's tokens. Spans are aligned at their ends. If the
source's span is shorter, the target's first tokens all take the state of the source's first token,
so no target state remains in the span. If the source's span is longer, its first tokens are not
used. Between two models the rows are equal, so each token is aligned with itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.model import Tokens
from interp.patching.runs import WHOLE, PatchRuns


@dataclass(frozen=True)
class Alignment:
    """The alignment of two left-padded batches, the source's rows and the target's rows.

    Attributes:
        columns: the source's column for each of the target's columns.
        taken: whether each of the target's columns takes a state; if not, ``columns`` is undefined.
        width: number of the source's columns.
        onwards: whether tokens that a readout appends to the rows take states, too.
    """

    columns: Int[Tensor, "batch token"]
    taken: Bool[Tensor, "batch token"]
    width: int
    onwards: bool

    @classmethod
    def at(cls, runs: PatchRuns, position: str) -> Alignment:
        """Align the spans called ``position``, or every token for :data:`~.runs.WHOLE`.

        A row takes no state if either side has no token of the span.

        Raises:
            InputError: no row has such a span on both sides.
        """
        widths = [max(map(len, rows)) for rows in (runs.source_rows, runs.target_rows)]
        columns = torch.zeros(len(runs.target_rows), widths[1], dtype=torch.long)
        taken = torch.zeros_like(columns, dtype=torch.bool)
        pairs = zip(runs.source_rows, runs.target_rows, strict=True)
        for i, (giving, taking) in enumerate(pairs):
            offsets = widths[0] - len(giving), widths[1] - len(taking)
            for from_span, to_span in _matched(giving, taking, position):
                last = from_span.stop - 1
                for j in range(to_span.start, to_span.stop):
                    column = max(last - (to_span.stop - 1 - j), from_span.start)
                    columns[i, offsets[1] + j] = offsets[0] + column
                    taken[i, offsets[1] + j] = True
        return cls(columns, taken, widths[0], position == WHOLE)

    def replacing(
        self, given: Float[Tensor, "batch source_token width"], features: slice = slice(None)
    ) -> Replacement:
        """The edit that writes the source's states, or some features of them, into the target.

        The states may have more columns than the rows, of tokens that a readout appended.
        """
        appended = given.shape[1] - self.width
        ends = torch.arange(self.width, given.shape[1]).expand(len(given), appended)
        columns = torch.cat([self.columns, ends], dim=1).to(given.device)
        taken = torch.nn.functional.pad(self.taken, (0, appended), value=self.onwards)
        rows = torch.arange(len(given), device=given.device)[:, None]
        return Replacement(given[rows, columns], taken, features)


@dataclass(frozen=True)
class Replacement:
    """An edit that writes the source's aligned states into the columns in ``taken``."""

    aligned: Float[Tensor, "batch token width"]
    taken: Bool[Tensor, "batch token"]
    features: slice

    def __call__(
        self, states: Float[Tensor, "*batch_token width"]
    ) -> Float[Tensor, "*batch_token width"]:
        within = torch.zeros(states.shape[-1], dtype=torch.bool, device=states.device)
        within[self.features] = True
        # Some layers fold batch and token into one axis for their MLP.
        taken = self.taken.to(states.device).reshape(*states.shape[:-1], 1)
        return torch.where(taken & within, self.aligned.to(states).reshape(states.shape), states)


def _matched(giving: Tokens, taking: Tokens, position: str) -> list[tuple[slice, slice]]:
    """Pairs of non-empty spans (source, target)."""
    if position == WHOLE:
        # Align the rows at their ends, then align every common span at its end.
        names = list(taking.spans)
        pairs = [(slice(0, len(giving)), slice(0, len(taking)))]
    else:
        names, pairs = [position], []
    both = giving.spans.keys() & taking.spans.keys()
    pairs += [(giving.spans[name], taking.spans[name]) for name in names if name in both]
    return [(a, b) for a, b in pairs if a.stop > a.start and b.stop > b.start]


def chosen_positions(runs: PatchRuns, positions: Sequence[str] | None) -> tuple[str, ...]:
    """The positions that are asked for, each once; by default all that some row has on both sides.

    Raises:
        InputError: no row has one of them on both sides, or they are not a list of names.
    """
    known = runs.positions()
    if positions is None:
        return known
    there = f"there are {', '.join(known)}, {WHOLE}"
    if isinstance(positions, str) or not isinstance(positions, Sequence) or not positions:
        raise InputError(f"positions {positions!r}: expected a list of names; {there}")
    if missing := [str(name) for name in positions if name not in (*known, WHOLE)]:
        raise InputError(f"no position {', '.join(missing)} on both sides; {there}")
    return tuple(dict.fromkeys(positions))
