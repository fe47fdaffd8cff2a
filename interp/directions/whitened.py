"""Whitened mean difference: the direction of linear discriminant analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float

from interp.directions.mean_difference import mean_difference_weights
from interp.directions.registry import estimator
from interp.statistics import (
    Contrast,
    Coordinates,
    Counts,
    Vectors,
    centring_matrix,
    coordinates_of,
    cosines_of_halves,
    in_d_model,
    kinds_of_units,
    shrunk_covariance,
    split_half_reliability,
    unit,
)


@estimator("whitened_mean_difference", title="whitened mean difference (LDA)")
@dataclass(kw_only=True)
class WhitenedMeanDifference:
    r""":math:`\hat\Sigma^{-1}(\mu^+ - \mu^-)` with the pooled within-label covariance.

    Fisher's discriminant with Ledoit and Wolf's shrinkage (:mod:`interp.statistics.shrinkage`). It
    *reads*: among all directions it tells the labels apart best, leaning away from whatever varies
    anyway. It is not what the label adds to a state; to steer, add the mean difference (Haufe et
    al., NeuroImage 87, 2014, on filters and patterns).

    Args:
        splits, resamples, level, seed: as for :class:`~interp.directions.MeanDifference`.

    Attributes:
        direction_: (layer, d_model), raw: its product with a state is the log-odds of the label,
            up to a constant, where both labels are normal with the same covariance.
        unit_direction_: the same with length one.
        shrinkage_: (layer,), 0 the sample's covariance, 1 a multiple of the identity.
        reliability_, reliability_low_, reliability_high_: (layer,); every half whitens by itself.
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
        coordinates, axes = coordinates_of(contrast.states)

        def direction(counts: Counts) -> Vectors:
            return np.stack([_whitened(contrast, coordinates, count)[0] for count in counts])

        whole, self.shrinkage_ = _whitened(contrast, coordinates, np.ones(len(contrast.states)))
        self.direction_ = in_d_model(whole, axes)
        self.unit_direction_ = unit(self.direction_)
        self.n_ = contrast.n
        self.reliability_, self.reliability_low_, self.reliability_high_ = split_half_reliability(
            cosines_of_halves(direction), contrast.units, kinds_of_units(contrast), self
        )
        return self


def _whitened(
    contrast: Contrast, coordinates: Coordinates, counts: Float[np.ndarray, " row"]
) -> tuple[Float[np.ndarray, "layer axis"], Float[np.ndarray, " layer"]]:
    """The whitened difference and the shrinkage, per layer; NaN without one of the labels."""
    kept = np.flatnonzero(counts)
    classes, count = contrast.classes[kept], counts[kept]
    if len(np.unique(classes)) < 2:  # a half of a small bootstrap sample
        nothing = np.full(coordinates[:, 0].shape, np.nan)
        return nothing, nothing[:, 0]
    centred = np.sqrt(count)[:, None] * (centring_matrix(classes, count) @ coordinates[:, kept])
    covariance = shrunk_covariance(centred, count, contrast.positive.shape[-1])
    difference = mean_difference_weights(contrast, counts) @ coordinates  # (layer, axis)
    along, rest = covariance.power(-1.0)
    extra = (along - rest[:, None]) * np.einsum("lvk,lv->lk", covariance.vectors, difference)
    whitened = rest[:, None] * difference + np.einsum("lvk,lk->lv", covariance.vectors, extra)
    return whitened, covariance.shrinkage
