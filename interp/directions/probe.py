"""Logistic probe."""

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
    in_d_model,
    kinds_of_units,
    split_half_reliability,
    unit,
)


@estimator("logistic_probe", title="logistic probe")
@dataclass(kw_only=True)
class LogisticProbe:
    """Logistic regression with a squared penalty, of the label on the state.

    The penalised solution lies in the span of the prompts (representer theorem), so it is fitted in
    as many coordinates as there are prompts. All coordinates are divided by *one* number per layer,
    so that their variance is one on average: ``inverse_penalty`` then means the same at every
    layer, and the geometry stays that of the residual stream. With a heavy penalty and as many
    positives as negatives the direction becomes the mean difference. Like every probe it *reads*.

    Args:
        inverse_penalty: scikit-learn's C: weight of the log-likelihood against half the squared
            length.
        splits, resamples, level, seed: as for :class:`~interp.directions.MeanDifference`; fewer by
            default, since every half is a regression of its own.

    Attributes:
        direction_: (layer, d_model), raw: log-odds of the label per unit of the state.
        unit_direction_: the same with length one.
        intercept_: (layer,): state · direction + intercept is the log-odds.
        reliability_, reliability_low_, reliability_high_: (layer,).
        n_: prompts on the smaller side.
    """

    inverse_penalty: float = 1.0
    splits: int = 20
    resamples: int = 25
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
        positive = contrast.classes == 0
        variance = (coordinates**2).sum(axis=(1, 2)) / len(positive) / axes.shape[-1]
        scale = np.sqrt(np.where(variance > 0, variance, 1.0))
        scaled = coordinates / scale[:, None, None]

        def fitted(count: Float[np.ndarray, " row"]) -> tuple[np.ndarray, np.ndarray]:
            found = [_fit(rows, positive, count, self.inverse_penalty) for rows in scaled]
            slopes = np.stack([slope for slope, _ in found]) / scale[:, None]
            return slopes, np.array([intercept for _, intercept in found])

        def direction(counts: Counts) -> Vectors:
            return np.stack([fitted(count)[0] for count in counts])

        whole, intercept = fitted(np.ones(len(positive)))
        self.direction_ = in_d_model(whole, axes)
        self.unit_direction_ = unit(self.direction_)
        middle = contrast.states.mean(axis=0)
        self.intercept_ = intercept - np.einsum("ld,ld->l", self.direction_, middle)
        self.n_ = contrast.n
        self.reliability_, self.reliability_low_, self.reliability_high_ = split_half_reliability(
            cosines_of_halves(direction), contrast.units, kinds_of_units(contrast), self
        )
        return self


def _fit(
    coordinates: Float[np.ndarray, "row coordinate"],
    positive: Bool[np.ndarray, " row"],
    counts: Float[np.ndarray, " row"],
    inverse_penalty: float,
) -> tuple[Float[np.ndarray, " coordinate"], float]:
    from sklearn.linear_model import LogisticRegression

    kept = counts > 0
    if len(np.unique(positive[kept])) < 2:  # a half of a small bootstrap sample
        return np.full(coordinates.shape[1], np.nan), np.nan
    model = LogisticRegression(C=inverse_penalty, max_iter=1000)
    model.fit(coordinates[kept], positive[kept], sample_weight=counts[kept])
    return model.coef_[0], float(model.intercept_[0])
