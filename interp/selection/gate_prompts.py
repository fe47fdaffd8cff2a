"""The prompts of the direction gate: those that the model treats as labelled, and their states."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from interp.activations import RESIDUAL_IN, collect, listed_layers
from interp.errors import InputError
from interp.interventions.affine import TokenMeans, token_means
from interp.model import LanguageModel, Tokens
from interp.numbers import evenly_spread
from interp.patching import read_all
from interp.readout import Readout
from interp.selection.trials import SHARE_OF_LAYERS, Prompts
from interp.statistics import unit_numbers

FEWEST = 8  # training prompts of each kind
FEWEST_HELD_OUT = 4  # validation and test prompts of each kind
FEWEST_OWN = 4  # training prompts of each kind of a group with its own direction
MOST_LAYERS = 8  # at which directions are tried
POOLED = "pooled"


class TooFewPromptsError(InputError):
    """The model treats too few prompts as their label says."""


@dataclass(frozen=True)
class Sides:
    """Rows that the model treats as their label says, with their readouts.

    Rows with one unit number are copies or near-duplicates.
    """

    positive: list[Tokens]
    negative: list[Tokens]
    positive_values: Float[np.ndarray, " positive"]
    negative_values: Float[np.ndarray, " negative"]
    positive_units: Int[np.ndarray, " positive"]
    negative_units: Int[np.ndarray, " negative"]

    def first(self, count: int) -> Sides:
        """At most ``count`` rows of each kind, evenly picked."""
        one, two = (evenly_spread(len(rows), count) for rows in (self.positive, self.negative))
        return Sides(
            [self.positive[i] for i in one],
            [self.negative[i] for i in two],
            self.positive_values[one],
            self.negative_values[two],
            self.positive_units[one],
            self.negative_units[two],
        )


@dataclass(frozen=True)
class Fitted:
    """What the training prompts say: mean states of each kind, and the states of some layers.

    Attributes:
        means: of all negatives, by layer and place.
        layers, offsets: of the states; offsets count from the prompt's end.
        positive, negative: states of each kind at the inputs of ``layers``.
        groups: group of each positive and negative.
    """

    means: TokenMeans
    layers: tuple[int, ...]
    offsets: tuple[int, ...]
    positive: Float[np.ndarray, "positive layer offset d_model"]
    negative: Float[np.ndarray, "negative layer offset d_model"]
    groups: tuple[tuple[str, ...], tuple[str, ...]]

    def at(
        self, layer: int, offset: int
    ) -> tuple[Float[np.ndarray, "positive d_model"], Float[np.ndarray, "negative d_model"]]:
        """The states of each kind at the input of a layer and at a token."""
        place = np.s_[:, self.layers.index(layer), self.offsets.index(offset)]
        return self.positive[place], self.negative[place]

    def difference(self, layer: int, offset: int, group: str = POOLED) -> np.ndarray | None:
        """Mean difference in float64; None if the group has too few prompts of a kind."""
        means = []
        for states, names in zip(self.at(layer, offset), self.groups, strict=True):
            own = np.array([group in (POOLED, name) for name in names], dtype=bool)
            if own.sum() < FEWEST_OWN:
                return None
            means.append(states[own].mean(axis=0, dtype=np.float64))
        return means[0] - means[1]


def training_sides_of(
    lm: LanguageModel, train: Mapping[str, Prompts], readout: Readout, batch_size: int
) -> tuple[Sides, tuple[tuple[str, ...], tuple[str, ...]]]:
    names = [
        [group for group, part in train.items() for _ in getattr(part, side)]
        for side in ("positive", "negative")
    ]
    pooled = Prompts.pooled(train.values())
    kept: list[np.ndarray] = []
    sides = sides_of(lm, pooled, readout, batch_size, FEWEST, "training", kept)
    one, two = (tuple(np.array(n, object)[k].tolist()) for n, k in zip(names, kept, strict=True))
    return sides, (one, two)


def sides_of(
    lm: LanguageModel,
    prompts: Prompts,
    readout: Readout,
    batch_size: int,
    fewest: int,
    name: str,
    kept: list[np.ndarray] | None = None,
) -> Sides:
    """The rows on the right side of 0.

    Raises:
        TooFewPromptsError: there are too few.
    """
    rows, values, units = [], [], []
    for texts, sign, what in (
        (prompts.positive, 1, "positive prompts has a readout above 0"),
        (prompts.negative, -1, "negative prompts has a readout below 0"),
    ):
        encoded = [lm.chat.encode(text) for text in texts]
        read = read_all(lm, encoded, readout, batch_size) if encoded else np.empty(0)
        right = np.flatnonzero(sign * read > 0)
        groups = [prompts.groups.get(texts[i], encoded[i].ids) for i in right.tolist()]
        own = unit_numbers(groups, len(right))
        if (separate := len(np.unique(own))) < fewest:
            raise TooFewPromptsError(
                f"the direction gate cannot be tested: {separate} of {len(texts)} {name} {what} "
                f"(copies count once), and it needs {fewest}; the model shows too little of the "
                "behaviour, or give more prompts"
            )
        units.append(own)
        rows.append([encoded[i] for i in right])
        values.append(read[right])
        if kept is not None:
            kept.append(right)
    return Sides(rows[0], rows[1], values[0], values[1], units[0], units[1])


def fit_of(
    lm: LanguageModel,
    sides: Sides,
    groups: tuple[tuple[str, ...], tuple[str, ...]],
    layers: Sequence[int] | None,
    positions: Sequence[int] | None,
    batch_size: int,
) -> Fitted:
    rows = [*sides.positive, *sides.negative]
    spans = [row.spans.get("post_instruction", slice(len(row) - 1, len(row))) for row in rows]
    ending = max(
        1,
        min(
            min(len(row) - span.start for row, span in zip(rows, spans, strict=True)),
            min(map(len, rows)) - 1,
        ),
    )
    usable = range(math.ceil(SHARE_OF_LAYERS * lm.n_layers))
    if layers is None:
        layers = [usable[i] for i in evenly_spread(len(usable), MOST_LAYERS)]
    tried = tuple(listed_layers(lm, layers))
    if positions is None:
        positions = range(-ending, 0) if lm.n_layers <= MOST_LAYERS else (-1,)
    offsets = tuple(positions)
    if not offsets or not all(-min(map(len, rows)) <= one < 0 for one in offsets):
        raise InputError(f"positions {list(offsets)}; count from the prompt's end: -1 is the last")

    def at(row: Tokens) -> list[slice]:
        return [slice(len(row) + one, len(row) + one + 1) for one in offsets]

    states = [
        collect(lm, part, layers=tried, positions=at, sites=[RESIDUAL_IN], batch_size=batch_size)[
            RESIDUAL_IN
        ]
        for part in (sides.positive, sides.negative)
    ]
    means = token_means(lm, sides.negative, ending=ending, batch_size=batch_size)
    return Fitted(means, tried, offsets, states[0], states[1], groups)
