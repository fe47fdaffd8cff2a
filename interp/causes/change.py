"""A contrast in the base and the after-model, with the possible changes of its positive mean."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.errors import InputError
from interp.similarity import GainByUnit, gain_by_unit
from interp.statistics import Contrast

ROTATION, GAIN, OFFSET, ROUTING, REMAINDER = "rotation", "gain", "offset", "routing", "remainder"
MOVES = (ROTATION, GAIN, OFFSET)
"""Causes that change the states at the layer."""
CAUSES = (*MOVES, ROUTING)
PLAYERS = (*CAUSES, REMAINDER)


@dataclass(frozen=True)
class ClassMean:
    """The mean of the positive class, given by the midpoint and the difference of the class means.

    The arrays may have a leading axis, for instance of units that are left out in turn.

    Attributes:
        direction: the difference, from the negative to the positive mean, divided by ``length``.
        length: length of the difference, in the states' unit; in the after-model, the base's length
            times the gain. Noise lengthens the difference of a short direction more than that of a
            long one. So the ratio of the plain lengths is not the gain, and the after-model's
            ``direction`` is longer than one by its noise.
        midpoint: midpoint between the two means.
    """

    direction: Float[np.ndarray, "*any d_model"]
    length: Float[np.ndarray, "*any 1"]
    midpoint: Float[np.ndarray, "*any d_model"]

    @property
    def state(self) -> Float[np.ndarray, "*any d_model"]:
        return self.midpoint + 0.5 * self.length * self.direction


@dataclass(frozen=True)
class ClassMeans:
    """The positive mean in the base and the after-model, at one layer."""

    base: ClassMean
    after: ClassMean

    @classmethod
    def of(
        cls, parts: Sequence[Float[np.ndarray, "*any d_model"]], gain: Float[np.ndarray, "*any 1"]
    ) -> ClassMeans:
        """From the four class means and the gain.

        If the direction does not exist in one of the models, the remaining difference is noise, not
        a rotation. Then the whole loss along the base's direction counts as gain.

        Args:
            parts: positive and negative mean in the base, then in the after-model.
            gain: the length after over the length before; NaN where a direction does not exist.
        """
        base, after = _class_mean(*parts[:2]), _class_mean(*parts[2:])
        if np.isfinite(gain).all():
            length, difference = gain * base.length, after.length * after.direction
            after = replace(after, direction=difference / length, length=length)
        else:
            along = after.length * (after.direction * base.direction).sum(axis=-1, keepdims=True)
            after = replace(after, direction=base.direction, length=along)
        return cls(base, after)

    def move(self, coalition: Collection[str]) -> Float[np.ndarray, "*any d_model"]:
        """What a coalition adds to the states of the model that its remainder comes from."""
        unmoved = MOVES if REMAINDER in coalition else ()
        return self.with_base(coalition) - self.with_base(unmoved)

    def with_base(self, causes: Collection[str]) -> Float[np.ndarray, "*any d_model"]:
        """The after-model's mean with the base's value for each of ``causes``."""
        base, after = self.base, self.after
        return replace(
            after,
            direction=(base if ROTATION in causes else after).direction,
            length=(base if GAIN in causes else after).length,
            midpoint=(base if OFFSET in causes else after).midpoint,
        ).state

    def restoring(self, cause: str) -> Float[np.ndarray, " d_model"]:
        """The vector that undoes ``cause`` alone when added to the after-model's states."""
        return self.with_base([cause]) - self.with_base([])

    def removing(self, cause: str) -> Float[np.ndarray, " d_model"]:
        """The vector that applies ``cause`` alone when added to the base's states."""
        return self.with_base([c for c in MOVES if c != cause]) - self.with_base(MOVES)


@dataclass(frozen=True)
class Change:
    """The states of the same prompts in two models.

    Attributes:
        base, after: the contrast in each model, (prompt, layer, d_model), with the same pairs.
        layers: 0-based decoder layers whose outputs the states are.

    Raises:
        InputError: the two have different numbers of prompts or layers, or ``layers`` does not
            fit the states.
    """

    base: Contrast
    after: Contrast
    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        shapes = [(c.positive.shape, c.negative.shape) for c in (self.base, self.after)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"states of shape {shapes[0]} before and {shapes[1]} after; collect the same "
                "prompts and layers in both models"
            )
        if len(self.layers) != self.base.positive.shape[1]:
            raise InputError(
                f"{len(self.layers)} layers named for states of {self.base.positive.shape[1]}"
            )

    def halves(self, seed: int) -> Int[np.ndarray, " row"]:
        """The half (0 or 1) of every row, positive rows first; linked rows share a half."""
        units = self.base.units
        names = np.unique(units)
        order = np.random.default_rng(seed).permutation(len(names))
        side = np.empty(len(names), dtype=np.int64)
        side[order] = np.arange(len(names)) % 2
        return side[np.searchsorted(names, units)]

    def means(self, layer: int, rows: Bool[np.ndarray, " row"] | None = None) -> ClassMeans:
        """Positive means in both models at one layer, from some of the rows.

        The gain is the cross-fitted one of all rows (:func:`interp.similarity.rotation`).

        Raises:
            InputError: the rows have none of one class.
        """
        rows = np.ones(len(self.base.classes), dtype=bool) if rows is None else rows
        gain = self.gains.value[self.layers.index(layer)]
        return ClassMeans.of(self.parts(layer, rows), np.atleast_1d(gain))

    def parts(
        self, layer: int, rows: Bool[np.ndarray, " row"]
    ) -> list[Float[np.ndarray, " d_model"]]:
        """The means of the positive and the negative rows in the base, then in the after-model."""
        sides = [rows & (self.base.classes == label) for label in (0, 1)]
        if not all(side.any() for side in sides):
            raise InputError("a half of the prompts has none of one class; give more prompts")
        column = self.layers.index(layer)
        return [
            contrast.states[side, column].mean(axis=0)
            for contrast in (self.base, self.after)
            for side in sides
        ]

    @cached_property
    def gains(self) -> GainByUnit:
        """The cross-fitted gain at every layer, from all rows."""
        return gain_by_unit(self.base, self.after)


def _class_mean(
    positive: Float[np.ndarray, "*any d_model"], negative: Float[np.ndarray, "*any d_model"]
) -> ClassMean:
    difference = positive - negative
    length = np.linalg.norm(difference, axis=-1, keepdims=True)
    return ClassMean(difference / np.maximum(length, 1e-300), length, (positive + negative) / 2)
