"""A subspace of several dimensions for one label, beyond its mean difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from einops import rearrange
from jaxtyping import Float

from interp.directions.fitting import (
    Labels,
    Reliable,
    Sample,
    States,
    fit_reliability,
    mean_difference,
    mean_difference_weights,
)
from interp.errors import InputError
from interp.statistics import Bases, Contrast, Counts, overlaps_of_halves


@dataclass(kw_only=True)
class ContrastSubspace(Reliable):
    r"""The dimensions in which positives, but not negatives, deviate from the negatives' mean.

    They are the leading eigenvectors of :math:`E[(x^+ - \mu^-)(x^+ - \mu^-)^\top] - \Sigma^-`, or
    :math:`\delta\delta^\top + \Sigma^+ - \Sigma^-` with the mean difference :math:`\delta`:
    contrastive principal components (Abid et al., Nature Communications 9, 2018) about the
    negatives' mean. The first is near the mean difference where that is clear. The others hold
    variation among positives that is absent among negatives. Common variation cancels; with
    meaningless labels, everything cancels. So, unlike components of paired differences, this
    estimator has a null under permuted labels (:func:`interp.similarity.subspaces.overlap_map`).

    Args:
        dimensions: how many.
        splits, resamples, level, seed: as for :class:`~interp.directions.MeanDifference`.

    Attributes:
        basis_: (layer, dimensions, d_model), orthonormal, largest excess first; the mean difference
            projects positive on each. Zero where all states are equal.
        excess_: (layer, dimensions), second moment minus the negatives' along each, in squared
            units of the states. At zero or below, the dimension does not exist.
        reliability_, reliability_low_, reliability_high_: (layer,), root mean squared cosine of the
            principal angles between halves.
        n_: prompts on the smaller side.

    Example:
        >>> harmful = (prompts["label"] == "harmful").to_numpy()
        >>> found = sp.ContrastSubspace(splits=1, resamples=0).fit(acts.states, harmful)
        >>> found.basis_.shape
        (5, 2, 128)
    """

    dimensions: int = 2

    def fit(self, states: States, labels: Labels, groups: Sequence[object] | None = None) -> Self:
        """Fit at every layer.

        Args:
            states: activations of positive and negative prompts.
            labels: which are positive.
            groups: prompts of one group (a matched pair) are never separated.

        Raises:
            InputError: fewer than four prompts on a side, more dimensions than half of the prompts
                can span, or activations that are not finite.
        """
        contrast = Contrast.from_labels(states, labels, groups)
        most = min(contrast.n // 2, contrast.positive.shape[-1])
        if not 1 <= self.dimensions <= most:
            raise InputError(
                f"a subspace of {self.dimensions} dimensions from {contrast.n} prompts a side in "
                f"{contrast.positive.shape[-1]} dimensions; ask for 1 … {most}"
            )
        sample = Sample.of_contrast(contrast)

        def bases(counts: Counts) -> tuple[Bases, Float[np.ndarray, "sample layer dimension"]]:
            difference = mean_difference_weights(contrast, counts)
            return contrast_bases(sample.coordinates, difference, self.dimensions)

        found, excess = bases(np.ones((1, len(contrast.states))))
        basis = np.einsum("lvk,lvd->lkd", found[0], sample.axes)
        difference = mean_difference(contrast.positive, contrast.negative)
        sign = np.where(np.einsum("lkd,ld->lk", basis, difference) < 0, -1.0, 1.0)
        self.basis_ = basis * sign[:, :, None]
        self.excess_ = excess[0]
        fit_reliability(self, sample, overlaps_of_halves(lambda counts: bases(counts)[0]))
        return self


def contrast_bases(
    coordinates: Float[np.ndarray, "layer row axis"],
    difference: Float[np.ndarray, "sample row"],
    dimensions: int,
) -> tuple[Bases, Float[np.ndarray, "sample layer dimension"]]:
    """Orthonormal bases of the subspaces of several weightings, and the excess along each vector.

    Both are zero where all rows are equal.

    Args:
        coordinates: of the rows, in any orthonormal axes.
        difference: weights of the rows in the mean difference; positives' are above zero.
        dimensions: how many.
    """
    from scipy.linalg import eigh

    shape = (len(difference), len(coordinates))
    bases = np.full((*shape, coordinates.shape[-1], dimensions), np.nan)
    excess = np.full((*shape, dimensions), np.nan)
    for sample, weights in enumerate(difference):
        if not np.isfinite(weights).all():  # a half without one of the labels
            continue
        delta = weights @ coordinates  # (layer, axis)
        negative_mean = np.maximum(-weights, 0.0) @ coordinates
        cross = delta[:, :, None] * negative_mean[:, None, :]
        transposed = rearrange(coordinates, "layer row coordinate -> layer coordinate row")
        moment = transposed @ (weights[:, None] * coordinates)
        moment -= cross + rearrange(cross, "layer coordinate other -> layer other coordinate")
        last = moment.shape[1] - 1
        bases[sample], excess[sample] = 0.0, 0.0
        for layer, of_layer in enumerate(moment):  # the leading ones alone, which NumPy cannot
            if not of_layer.any():
                continue
            values, vectors = eigh(of_layer, subset_by_index=(last - dimensions + 1, last))
            bases[sample, layer], excess[sample, layer] = vectors[:, ::-1], values[::-1]
    return bases, excess
