"""Try every candidate direction on validation prompts, by ablating it and by adding it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.activations import RESIDUAL_IN, Positions, chosen_layers, collect, post_instruction
from interp.errors import InputError
from interp.interventions import ablate, add
from interp.model import LanguageModel, Tokens, in_fitting_batches, undisturbed
from interp.patching import read_all, read_out
from interp.progress import Advance, silent
from interp.readout import Readout, last_logits
from interp.selection.candidates import Candidates

# Arditi et al. 2024, appendix C.
SHARE_OF_LAYERS = 0.8
# Relative to a state's length; states are stored in float32.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Prompts:
    """Prompts that show a behaviour and prompts that do not.

    Attributes:
        positive, negative: their texts.
        groups: group of a text; texts of one group (near-duplicates) count as one prompt. Texts
            without a group are one prompt if their tokens are equal.
    """

    positive: Sequence[str]
    negative: Sequence[str]
    groups: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def pooled(cls, parts: Iterable[Prompts]) -> Prompts:
        """The prompts of several parts; what has one group in two parts is one prompt."""
        found = cls([], [], {})
        for part in parts:
            found = cls(
                [*found.positive, *part.positive],
                [*found.negative, *part.negative],
                {**found.groups, **part.groups},
            )
        return found


def score_candidates(
    lm: LanguageModel,
    train: Prompts,
    validation: Prompts,
    readout: Readout,
    *,
    layers: Sequence[int] | None = None,
    positions: Positions = post_instruction,
    batch_size: int = 32,
    include_massive: bool = False,
    progress: Advance = silent,
) -> Candidates:
    """Fit a direction at every layer and position on ``train``, and try each on ``validation``.

    Args:
        lm: the model.
        train, validation: disjoint prompts; the paper uses 128 and 32 of each kind.
        readout: one number per prompt; above 0 if the model treats a prompt like a positive.
        layers: 0-based layers to try; by default the first 80%, like the paper.
        positions: tokens at the end of the prompts.
        batch_size: prompts in one forward.
        include_massive: edit tokens of massive activation too, like the paper.
        progress: called with the number of prompts just tried, times that of the candidates.

    Raises:
        InputError: no positive prompt has a readout above 0, or no negative prompt one below 0.
    """
    tried = chosen_layers(
        lm, range(int(SHARE_OF_LAYERS * lm.n_layers)) if layers is None else layers
    )
    kept = [
        _right_side(lm, prompts, sign, readout, batch_size)
        for part in (train, validation)
        for prompts, sign in ((part.positive, 1), (part.negative, -1))
    ]
    where: dict[str, Any] = {"layers": tried, "positions": positions, "sites": [RESIDUAL_IN]}
    means = [
        collect(lm, rows, batch_size=batch_size, **where)[RESIDUAL_IN].mean(axis=0, dtype=float)
        for rows, _ in kept[:2]
    ]
    # Positions are aligned at the prompts' ends; the two kinds may have different numbers.
    count = min(mean.shape[1] for mean in means)
    directions = _difference(*(mean[:, -count:] for mean in means))
    whole = ~np.isnan(directions).any(axis=(0, 2))
    offsets = tuple(int(i) for i in np.arange(-count, 0)[whole])
    directions = directions[:, whole]
    (rows_positive, positive), (rows_negative, negative) = kept[2:]
    bypass = np.empty((*directions.shape[:2], len(positive)))
    induce, kl = np.empty((2, *directions.shape[:2], len(negative)))

    def ablated(layer: int, position: int) -> AbstractContextManager[None]:
        direction = directions[layer, position]
        if not direction.any():
            return nullcontext()
        return ablate(lm, direction, include_massive=include_massive)

    added: dict[str, Any] = {"sites": [RESIDUAL_IN], "include_massive": include_massive}
    with undisturbed(lm.model):

        def try_positive(chosen: list[int]) -> None:
            batch = [rows_positive[i] for i in chosen]
            for i, j in np.ndindex(directions.shape[:2]):
                with ablated(i, j):
                    bypass[i, j, chosen] = read_out(lm, batch, readout)

        def try_negative(chosen: list[int]) -> None:
            batch = [rows_negative[i] for i in chosen]
            base = last_logits(lm, batch)
            for i, j in np.ndindex(directions.shape[:2]):
                with ablated(i, j):
                    kl[i, j, chosen] = next_token_divergence(base, last_logits(lm, batch)).numpy()
                with add(lm, directions[i, j], layers=[tried[i]], **added):
                    induce[i, j, chosen] = read_out(lm, batch, readout)

        for rows, work in ((rows_positive, try_positive), (rows_negative, try_negative)):
            for chosen, _ in in_fitting_batches(rows, batch_size, work, lm.together(rows)):
                progress(len(chosen) * directions.shape[0] * directions.shape[1])
    return Candidates(tried, offsets, directions, bypass, induce, kl, positive, negative)


def _difference(
    positive: Float[np.ndarray, "layer position d_model"],
    negative: Float[np.ndarray, "layer position d_model"],
) -> Float[np.ndarray, "layer position d_model"]:
    """Difference of means, with rounding errors set to zero.

    All prompts share the template's embeddings, so their true difference is zero.
    """
    difference = positive - negative
    length, scale = (np.linalg.norm(x, axis=-1, keepdims=True) for x in (difference, positive))
    return np.where(length > ROUNDING * scale, difference, 0.0 * difference)


def next_token_divergence(
    base: Float[Tensor, "batch vocab"], other: Float[Tensor, "batch vocab"]
) -> Float[Tensor, " batch"]:
    """KL(base ‖ other) of the next token, in nats and float64; tokens with p = 0 add 0."""
    p, q = (logits.cpu().double().log_softmax(dim=-1) for logits in (base, other))
    terms = p.exp() * (p - q)
    return terms.masked_fill(p.isneginf(), 0.0).sum(dim=-1)


def _right_side(
    lm: LanguageModel, prompts: Sequence[str], sign: int, readout: Readout, batch_size: int
) -> tuple[list[Tokens], Float[np.ndarray, " kept"]]:
    rows = [lm.chat.encode(prompt) for prompt in prompts]
    with undisturbed(lm.model):
        values = read_all(lm, rows, readout, batch_size)
    kept = np.flatnonzero(sign * values > 0)
    if not len(kept):
        kind = "positive prompts has a readout above" if sign > 0 else "negative ones has one below"
        raise InputError(f"none of {len(rows)} {kind} 0: the model does not separate them")
    return [rows[i] for i in kept], values[kept]
