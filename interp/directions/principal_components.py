"""First principal components: of the positives alone, and of paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float

from interp.directions.registry import estimator
from interp.errors import InputError
from interp.statistics import (
    MINIMUM_UNITS,
    Contrast,
    Coordinates,
    Counts,
    Vectors,
    coordinates_of,
    cosines_of_halves,
    finite,
    in_d_model,
    principal_axes,
    split_half_reliability,
    unit_numbers,
)


@estimator("first_principal_component", title="first principal component")
@dataclass(kw_only=True)
class FirstPrincipalComponent:
    """First principal component of the positives' centred states (arXiv 2511.14017, R3).

    It knows nothing of the negatives: it is the axis on which the label's prompts differ most among
    themselves, which need not be the one that tells them from others.

    Args:
        splits, resamples, level, seed: as for :class:`~interp.directions.MeanDifference`.

    Attributes:
        direction_: (layer, d_model), length one; the positives' own mean projects positive.
        explained_variance_ratio_: (layer,), its share of the positives' variance.
        reliability_, reliability_low_, reliability_high_: (layer,).
        n_: positive prompts.
    """

    splits: int = 50
    resamples: int = 100
    level: float = 0.95
    seed: int = 0

    def fit(
        self,
        states: Float[np.ndarray, "prompt layer d_model"],
        labels: Bool[np.ndarray, " prompt"] | None = None,
        groups: Sequence[object] | None = None,
    ) -> Self:
        """Fit at every layer.

        Args:
            states: activations; only the positive rows are used.
            labels: which are positive; all by default.
            groups: prompts of one group are never separated.

        Raises:
            InputError: fewer than four positive prompts, or activations that are not finite.
        """
        chosen = np.ones(len(states), bool) if labels is None else np.asarray(labels, dtype=bool)
        rows = finite(np.asarray(states)[chosen])
        if len(rows) < MINIMUM_UNITS:
            raise InputError(
                f"{len(rows)} positive prompts; a principal component with a reliability needs at "
                f"least {MINIMUM_UNITS}"
            )
        names = None if groups is None else [g for g, c in zip(groups, chosen, strict=True) if c]
        coordinates, axes = coordinates_of(rows, centre=False)

        def direction(counts: Counts) -> Vectors:
            return _first_components(coordinates, counts, centre=True)[0]

        whole, explained = _first_components(coordinates, np.ones((1, len(rows))), centre=True)
        self.direction_ = in_d_model(whole[0], axes)
        self.explained_variance_ratio_ = explained[0]
        self.n_ = len(rows)
        units = unit_numbers(names, len(rows))
        self.reliability_, self.reliability_low_, self.reliability_high_ = split_half_reliability(
            cosines_of_halves(direction), units, np.zeros(units.max() + 1, dtype=int), self
        )
        return self


@estimator("paired_principal_component", title="first principal component of pairs")
@dataclass(kw_only=True)
class PairedPrincipalComponent:
    """First principal axis of the differences between twins (Zou et al., arXiv 2310.01405).

    The differences are not centred: the axis is that of their second moment, which is what centring
    after random flips of each pair's sign comes to, without the chance of the flips. What twins
    share cancels; what remains is the label and whatever else differs within pairs. Since flips
    change nothing, permuting twins' labels is no null for it.

    Args:
        splits, resamples, level, seed: as for :class:`~interp.directions.MeanDifference`.

    Attributes:
        direction_: (layer, d_model), length one; the mean of the differences projects positive.
        explained_variance_ratio_: (layer,), its share of the differences' squared length.
        reliability_, reliability_low_, reliability_high_: (layer,).
        n_: pairs.
    """

    splits: int = 50
    resamples: int = 100
    level: float = 0.95
    seed: int = 0

    def fit(
        self,
        states: Float[np.ndarray, "prompt layer d_model"],
        labels: Bool[np.ndarray, " prompt"],
        groups: Sequence[object],
    ) -> Self:
        """Fit at every layer.

        Args:
            states: activations of positive and negative prompts.
            labels: which are positive.
            groups: every positive is paired with every negative of its group; prompts without a
                partner are left out.

        Raises:
            InputError: fewer than four pairs, or activations that are not finite.
        """
        contrast = Contrast.from_labels(states, labels, groups)
        pairs = np.empty((0, 2), dtype=int) if contrast.pairs is None else contrast.pairs
        _, units = np.unique(contrast.units[pairs[:, 0]], return_inverse=True)
        if not len(pairs) or units.max() + 1 < MINIMUM_UNITS:
            raise InputError(
                f"{len(np.unique(units))} separate pairs of prompts; a component of paired "
                f"differences needs at least {MINIMUM_UNITS}: name the pairs in groups"
            )
        rows = contrast.positive[pairs[:, 0]] - contrast.negative[pairs[:, 1]]
        coordinates, axes = coordinates_of(rows, centre=False)

        def direction(counts: Counts) -> Vectors:
            return _first_components(coordinates, counts, centre=False)[0]

        whole, explained = _first_components(coordinates, np.ones((1, len(rows))), centre=False)
        self.direction_ = in_d_model(whole[0], axes)
        self.explained_variance_ratio_ = explained[0]
        self.n_ = len(rows)
        self.reliability_, self.reliability_low_, self.reliability_high_ = split_half_reliability(
            cosines_of_halves(direction), units, np.zeros(units.max() + 1, dtype=int), self
        )
        return self


def _first_components(
    coordinates: Coordinates, counts: Counts, *, centre: bool
) -> tuple[Vectors, Float[np.ndarray, "sample layer"]]:
    """The first component and its share of the total, rows counted ``counts`` times.

    It has length one and is turned so that the rows' mean projects positive.
    """
    shape = (len(counts), len(coordinates))
    components = np.empty((*shape, coordinates.shape[-1]))
    explained = np.empty(shape)
    for sample, count in enumerate(counts):
        kept = np.flatnonzero(count)
        rows = coordinates[:, kept]
        mean = (count[kept] / count.sum()) @ rows  # (layer, axis)
        about = rows - mean[:, None] if centre else rows
        values, vectors = principal_axes(np.sqrt(count[kept])[:, None] * about)
        sign = np.where(np.einsum("lv,lv->l", vectors[:, :, -1], mean) < 0, -1.0, 1.0)
        components[sample] = vectors[:, :, -1] * sign[:, None]
        total = values.sum(axis=1)
        explained[sample] = values[:, -1] / np.where(total > 0, total, 1.0)
    return components, explained
