"""Select the tokens to read by the names of a prompt's spans, never by hand-counted indices.

A position is a slice of the prompt's tokens; the states of its tokens are averaged. A function
maps a prompt's tokens to its positions: :func:`last_token`, ``post_instruction``,
``mean_over("instruction")``, ``last_of("instruction")``, or a custom function. To use spans beyond
the chat format's, add them to the tokens: ``replace(tokens, spans={**tokens.spans, "intent":
slice(9, 12)})``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.model import Tokens

Positions = Callable[[Tokens], Sequence[slice]]


def last_token(tokens: Tokens) -> list[slice]:
    """The prompt's last token, where the first token of the answer is predicted."""
    return [slice(len(tokens) - 1, len(tokens))]


def every_token(*names: str) -> Positions:
    """Every token of the named spans, a position each."""

    def positions(tokens: Tokens) -> list[slice]:
        spans = (_span(tokens, name) for name in names)
        return [slice(i, i + 1) for span in spans for i in range(span.start, span.stop)]

    return positions


def mean_over(*names: str) -> Positions:
    """The mean over each of the named spans; each span is one position.

    Raises:
        InputError: when called on a prompt in which a named span has no tokens.
    """

    def positions(tokens: Tokens) -> list[slice]:
        return [_span(tokens, name) for name in names]

    return positions


def last_of(*names: str) -> Positions:
    """The last token of each of the named spans; each is one position.

    Raises:
        InputError: when called on a prompt in which a named span has no tokens.
    """

    def positions(tokens: Tokens) -> list[slice]:
        found = []
        for name in names:
            span = _span(tokens, name)
            if span.stop <= span.start:
                raise InputError(f"the span {name} of a prompt has no tokens, so no last one")
            found.append(slice(span.stop - 1, span.stop))
        return found

    return positions


last_instruction_token = last_of("instruction")
"""The last token of the user's text, before the template's suffix. Spans come from rendering the
chat template, so it is the same token of any template."""


def instruction_and_last(tokens: Tokens) -> list[slice]:
    """Two positions: :data:`last_instruction_token`, then :func:`last_token`."""
    return [*last_instruction_token(tokens), *last_token(tokens)]


post_instruction = every_token("post_instruction", "response_prefix")
"""Every token between the user's text and the answer: the template's suffix and the response
prefix, if one is set."""


def _span(tokens: Tokens, name: str) -> slice:
    if name not in tokens.spans:
        raise InputError(f"no span {name}; the prompt has {', '.join(tokens.spans)}")
    return tokens.spans[name]


@dataclass(frozen=True)
class Take:
    """Copies a batch's positions from its states into new memory.

    Rows with fewer positions than others are aligned at their ends, as left padding aligns prompts;
    missing positions are NaN.

    Attributes:
        columns: of each position's tokens in the padded batch.
        weights: of each token in the position's mean; NaN where a position does not exist.
    """

    columns: Int[Tensor, "batch position token"]
    weights: Float[Tensor, "batch position token"]

    @classmethod
    def of(cls, rows: Sequence[Tokens], places: Sequence[Sequence[slice]], count: int) -> Take:
        """For left-padded ``rows`` and each one's positions, ``count`` of them at most."""
        width = max(len(row) for row in rows)
        longest = max((s.stop - s.start for slices in places for s in slices), default=1)
        columns = np.zeros((len(rows), count, longest), dtype=np.int64)
        weights = np.full(columns.shape, np.nan, dtype=np.float32)
        for i, (row, slices) in enumerate(zip(rows, places, strict=True)):
            for j, span in enumerate(slices, start=count - len(slices)):
                within = np.arange(longest) < span.stop - span.start
                first = width - len(row) + span.start
                columns[i, j] = np.where(within, first + np.arange(longest), first)
                weights[i, j] = within / (span.stop - span.start)
        return cls(torch.from_numpy(columns), torch.from_numpy(weights))

    def to(self, device: torch.device) -> Take:
        """The same on a device: done once, so that no layer waits for a copy from the host."""
        return Take(self.columns.to(device), self.weights.to(device))

    def __call__(
        self, states: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, "batch position width"]:
        """In float32, or wider where the states are."""
        # Indexing with tensors copies: a slice would hold on to the whole batch's storage.
        return self.mean(states[self.rows.to(states.device), self.columns.to(states.device)])

    @property
    def rows(self) -> Int[Tensor, "batch 1 1"]:
        """The row index that matches ``columns``."""
        return torch.arange(len(self.columns), device=self.columns.device)[:, None, None]

    def mean(
        self, taken: Float[Tensor, "batch position token width"]
    ) -> Float[Tensor, "batch position width"]:
        """The mean over each position's tokens, given the states at ``columns``."""
        taken = taken.to(torch.promote_types(taken.dtype, torch.float32))
        return (taken * self.weights.to(taken.device)[..., None]).sum(dim=2)


def places_of(rows: Sequence[Tokens], positions: Positions) -> list[Sequence[slice]]:
    """The positions of every row; each is a slice of its tokens.

    Raises:
        InputError: an empty position, one beyond a row's ends, none in any row, or what is not a
            slice of whole numbers.
    """
    if not callable(positions):
        raise InputError(
            f"positions is {positions!r}; expected a function of a prompt's tokens that gives "
            "slices, as in interp.activations.positions"
        )
    places = [positions(row) for row in rows]
    if not any(places):
        raise InputError("no prompt has a position; choose spans that are not empty")
    for row, slices in zip(rows, places, strict=True):
        for span in slices:
            if not _is_plain(span):
                raise InputError(
                    f"the position {span!r}; expected slice(start, stop) with whole numbers"
                )
            if not 0 <= span.start < span.stop <= len(row):
                raise InputError(
                    f"the position {span.start}:{span.stop} holds none of the {len(row)} tokens "
                    f"of a prompt with the spans {dict(row.spans)}"
                )
    return places


def _is_plain(span: Any) -> bool:
    """Whether a position is a slice of whole numbers without a step."""
    return (
        isinstance(span, slice)
        and span.step in (None, 1)
        and all(is_whole(end) for end in (span.start, span.stop))
    )


def is_whole(number: Any) -> bool:
    """Whether a value is a whole number of Python or NumPy, and no truth value."""
    return isinstance(number, int | np.integer) and not isinstance(number, bool)
