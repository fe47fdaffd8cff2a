"""Whitened mean difference: the direction of linear discriminant analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float

from interp.contrast import Contrast
from interp.directions.mean_difference import mean_difference_weights
from interp.directions.rows import Gram, centred, combined, gram_of, kinds_of_units, unit
from interp.reliability import Counts, Weights, cosines_of_halves, split_half_reliability
from interp.shrinkage import centring_matrix, shrunk_covariance


@dataclass(kw_only=True)
class WhitenedMeanDifference:
    r""":math:`\hat\Sigma^{-1}(\mu^+ - \mu^-)` with the pooled within-label covariance.

    Fisher's discriminant with Ledoit and Wolf's shrinkage (:mod:`interp.shrinkage`). It *reads*:
    among all directions it tells the labels apart best, leaning away from whatever varies anyway.
    It is not what the label adds to a state; to steer, add the mean difference (Haufe et al.,
    NeuroImage 87, 2014, on filters and patterns).

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
        rows = centred(contrast.states)
        gram = gram_of(rows)

        def weights(counts: Counts) -> Weights:
            return np.stack([_weights(contrast, gram, count)[0] for count in counts])

        whole, self.shrinkage_ = _weights(contrast, gram, np.ones(len(rows)))
        self.direction_ = combined(whole, rows)
        self.unit_direction_ = unit(self.direction_)
        self.n_ = contrast.n
        self.reliability_, self.reliability_low_, self.reliability_high_ = split_half_reliability(
            cosines_of_halves(gram, weights), contrast.units, kinds_of_units(contrast), self
        )
        return self


def _weights(
    contrast: Contrast, gram: Gram, counts: Float[np.ndarray, " row"]
) -> tuple[Float[np.ndarray, "layer row"], Float[np.ndarray, " layer"]]:
    """Weights of the rows in the whitened difference, and the shrinkage, per layer."""
    weights = np.full(gram.shape[:2], np.nan)
    kept = np.flatnonzero(counts)
    classes = contrast.classes[kept]
    if len(np.unique(classes)) < 2:  # a half of a small bootstrap sample
        return weights, weights[:, 0]
    count, inner = counts[kept], gram[:, kept[:, None], kept[None, :]]
    centring = np.sqrt(count)[:, None] * centring_matrix(classes, count)
    covariance = shrunk_covariance(
        centring @ inner @ centring.T, count, contrast.positive.shape[-1]
    )
    eigenvectors = centring.T @ covariance.weights  # as weights of the kept rows
    difference = mean_difference_weights(contrast, counts)[kept]
    along, rest = covariance.powered(-1.0)
    coordinates = np.einsum("lrv,lrs,s->lv", eigenvectors, inner, difference, optimize=True)
    weights[:] = 0.0
    weights[:, kept] = rest[:, None] * difference + np.einsum(
        "lrv,lv->lr", eigenvectors, (along - rest[:, None]) * coordinates
    )
    return weights, covariance.shrinkage
