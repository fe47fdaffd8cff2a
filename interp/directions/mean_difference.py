"""Mean of the positives minus mean of the negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float

from interp.directions.registry import estimator
from interp.statistics import (
    Contrast,
    Counts,
    Vectors,
    coordinates_of,
    cosines_of_halves,
    kinds_of_units,
    split_half_reliability,
    unit,
)


@estimator("mean_difference", title="mean difference")
@dataclass(kw_only=True)
class MeanDifference:
    """Mean of the positives minus mean of the negatives (Marks and Tegmark 2023; Arditi 2024).

    Args:
        splits: random halvings that the reliability averages.
        resamples: bootstrap samples behind its interval; 0 leaves it out (NaN).
        level: coverage of that interval.
        seed: of halvings and resamples.

    Attributes:
        direction_: (layer, d_model), raw length.
        unit_direction_: the same with length one; zero where the difference is zero.
        reliability_, reliability_low_, reliability_high_: (layer,).
        n_: prompts on the smaller side.
    """

    splits: int = 50
    resamples: int = 100
    level: float = 0.95
    seed: int = 0

    def fit(
        self,
        states: Float[np.ndarray, "prompt layer d_model"],
        labels: Bool[np.ndarray, " prompt"],
        groups: Sequence[object] | None = None,
    ) -> Self:
        """Fit at every layer.

        Args:
            states: activations of positive and negative prompts.
            labels: which are positive.
            groups: prompts of one group (twins) are never separated.

        Raises:
            InputError: fewer than four prompts on a side, or activations that are not finite.
        """
        contrast = Contrast.from_labels(states, labels, groups)
        coordinates, _ = coordinates_of(contrast.states)

        def direction(counts: Counts) -> Vectors:
            weights = mean_difference_weights(contrast, counts)
            return np.einsum("sr,lrv->slv", weights, coordinates, optimize=True)

        self.direction_ = contrast.positive.mean(axis=0) - contrast.negative.mean(axis=0)
        self.unit_direction_ = unit(self.direction_)
        self.n_ = contrast.n
        self.reliability_, self.reliability_low_, self.reliability_high_ = split_half_reliability(
            cosines_of_halves(direction), contrast.units, kinds_of_units(contrast), self
        )
        return self


def mean_difference_weights(
    contrast: Contrast, counts: Float[np.ndarray, "*sample row"]
) -> Float[np.ndarray, "*sample row"]:
    """Weights of the rows in the mean difference where each counts so often; they add to 0."""
    up, down = counts * (contrast.classes == 0), counts * (contrast.classes == 1)
    return up / up.sum(-1, keepdims=True) - down / down.sum(-1, keepdims=True)
