r"""Affine concept editing: set the component along a direction to its mean over other prompts.

Zero is a point like any other on a direction. If a class lies at 10 and the other at −60, setting
the component to 0 moves nothing. The affine edit sets it to the mean of a reference class
(Marshall, Scherlis and Belrose 2024, arXiv 2411.09003): with an orthonormal basis B of the
direction or subspace and the mean :math:`\mu`,
:math:`h \leftarrow h + B^\top B(\mu - h)`.

The mean differs between layers and tokens. :class:`TokenMeans` holds one for each layer and place:
every token after the instruction has its own, all earlier tokens share one, and tokens of the
response take that of the prompt's last token. The edit acts at the input of every layer from a
given one on. It spares tokens of massive activation, and the means leave them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations import (
    RESIDUAL_IN,
    Window,
    is_massive,
    known_beginning,
    points,
    selecting,
    stream_norms,
)
from interp.errors import InputError
from interp.interventions.edits import Vectors, orthonormal_basis
from interp.interventions.steering import intervene
from interp.model import (
    Hidden,
    LanguageModel,
    Tokens,
    map_in_batches,
    reading,
    stopping_after,
    undisturbed,
)


@dataclass(frozen=True)
class TokenMeans:
    """Mean states of prompts at the input of every layer, by the token's place.

    Attributes:
        means: place 0 holds the ordinary tokens before the last ``places - 1``: neither the first
            one nor those of massive activation at the layer, unless a prompt has no others. The
            other places are counted from the prompt's end, so the last place is the prompt's last
            token. In float64.
    """

    means: Float[np.ndarray, "layer place d_model"]

    def place(self, window: Window, lengths: Int[Tensor, "batch 1"]) -> Int[Tensor, "batch token"]:
        """The place of every column, for prompts of these lengths."""
        count = self.means.shape[1]
        return (window.index - lengths + count).clamp(0, count - 1)


def token_means(
    lm: LanguageModel, rows: Sequence[Tokens], *, ending: int, batch_size: int = 32
) -> TokenMeans:
    """Means over ``rows`` at the input of every layer.

    Args:
        lm: the model, with its active interventions.
        rows: prompts without a response.
        ending: number of tokens at the end of a prompt that get their own mean.
        batch_size: prompts in one forward.

    Raises:
        InputError: no rows, or ``ending`` is below 1 or leaves no earlier token.
    """
    shortest = min(map(len, rows), default=0)
    if not 0 < ending < shortest:
        raise InputError(f"means of the last {ending} tokens of prompts of {shortest} or more")

    (entries,) = points(lm, range(lm.n_layers), [RESIDUAL_IN])
    norms = stream_norms(lm)

    def read(chosen: list[int]) -> Float[Tensor, "chosen layer place d_model"]:
        batch = lm.chat.pad([rows[i] for i in chosen], lm.device)
        earlier = batch.attention_mask[:, :-ending, None].bool()
        # The first token reads no other one, and is often massive.
        later = batch.position_ids[:, :-ending, None] > 0
        found: dict[int, Tensor] = {}

        def keep(layer: int, hidden: Hidden) -> None:
            states = hidden.reshape(*batch.input_ids.shape, -1)
            states = states.to(torch.promote_types(states.dtype, torch.float32))
            begun, ended = states[:, :-ending], states[:, -ending:]
            ordinary = later.to(begun.device) & ~is_massive(begun, norms.limit_into(layer))
            counted = ordinary | earlier.to(begun.device) & ~ordinary.any(dim=1, keepdim=True)
            mean = torch.where(counted, begun, 0).sum(dim=1) / counted.sum(dim=1)
            found[layer] = torch.cat([mean[:, None], ended], dim=1).cpu()

        with undisturbed(lm.model), reading(entries, keep), stopping_after(lm.layers[-1]):
            lm.model(**lm.inputs(batch), use_cache=False)
        return torch.stack([found[layer] for layer in range(lm.n_layers)], dim=1)

    states = map_in_batches(read, rows, batch_size, together=lm.together(rows))
    return TokenMeans(torch.stack(states).mean(dim=0, dtype=torch.float64).numpy())


@contextmanager
def set_to_means(
    lm: LanguageModel,
    vectors: Vectors,
    means: TokenMeans,
    *,
    first_layer: int,
    rows: Sequence[Tokens] = (),
) -> Iterator[None]:
    """Set the component along a direction or in a subspace to the means, from a layer on.

    Args:
        lm: the model.
        vectors: (d_model), or several (vector, d_model); only their span matters.
        means: of the reference prompts.
        first_layer: 0-based; the edit acts at the input of this layer and of all later ones.
        rows: the prompts, if the model also reads tokens after them in the same forward. The ends
            of others are found as in :mod:`interp.activations.window`.

    Raises:
        InputError: the layer does not exist, or the vectors are zero.

    Source:
        Marshall et al. 2024, arXiv 2411.09003.
    """
    if not 0 <= first_layer < lm.n_layers:
        raise InputError(f"layer {first_layer}; the layers are 0 … {lm.n_layers - 1}")
    basis = orthonormal_basis(vectors)
    layers = range(first_layer, lm.n_layers)
    ends = PromptEnds.of(rows)
    targets = torch.as_tensor(means.means) @ basis.T  # (layer, place, rank)

    @cache
    def placed(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Moved once: at each copy from the host, a layer would wait for all earlier ones."""
        return basis.to(device, dtype), targets.to(device, dtype)

    def places(window: Window) -> Tensor:
        return means.place(window, ends.lengths(window))

    with selecting(lm, places) as now:

        def setting(layer: int) -> Callable[[Tensor], Tensor]:
            def edit(states: Tensor) -> Tensor:
                wide = states.to(torch.promote_types(states.dtype, torch.float32))
                axes, every = placed(wide.device, wide.dtype)
                target = every[layer][now().to(wide.device)].reshape(*wide.shape[:-1], -1)
                return (wide + (target - wide @ axes.T) @ axes).to(states.dtype)

            return edit

        edits = [setting(layer) for layer in layers]
        with intervene(lm, edits, layers=layers, sites=[RESIDUAL_IN]):
            yield


@dataclass(frozen=True)
class PromptEnds:
    """Where the prompts of a forward end, from the prompts' tokens."""

    known: frozenset[tuple[int, ...]]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, rows: Sequence[Tokens]) -> PromptEnds:
        known = frozenset(row.ids for row in rows)
        return cls(known, tuple(sorted({len(ids) for ids in known}, reverse=True)))

    def lengths(self, window: Window) -> Int[Tensor, "batch 1"]:
        """Number of tokens of each row's prompt; that of the window for an unknown row."""
        lengths = window.prompt.clone()
        if window.past or not self.known:
            return lengths
        for i, present in enumerate(window.index >= 0):
            ids = tuple(window.input_ids[i][present].tolist())
            if prompt := known_beginning(ids, self.known, self.sizes):
                lengths[i] = len(prompt)
        return lengths
