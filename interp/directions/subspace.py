"""A subspace for one label: more than its mean difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float

from interp.contrast import Contrast
from interp.directions.mean_difference import mean_difference_weights
from interp.directions.rows import Gram, centred, gram_of, kinds_of_units
from interp.errors import InputError
from interp.reliability import Bases, Counts, overlaps_of_halves, split_half_reliability
from interp.shrinkage import RANK_TOLERANCE


@dataclass(kw_only=True)
class ContrastSubspace:
    r"""The dimensions in which positives lie off the negatives' mean and negatives do not.

    The leading eigenvectors of :math:`E[(x^+ - \mu^-)(x^+ - \mu^-)^\top] - \Sigma^-`, that is of
    :math:`\delta\delta^\top + \Sigma^+ - \Sigma^-` with the mean difference :math:`\delta`:
    contrastive principal components (Abid et al., Nature Communications 9, 2018) about the
    negatives' mean. The first is near the mean difference where that is clear; the others hold what
    differs from positive to positive and not among negatives. What both vary in cancels, and with
    labels that mean nothing so does all the rest: unlike components of paired differences, this has
    a null under permuted labels (:func:`interp.subspaces.overlap_map`).

    Args:
        dimensions: how many.
        splits, resamples, level, seed: as for :class:`~interp.directions.MeanDifference`.

    Attributes:
        basis_: (layer, dimensions, d_model), orthonormal, largest excess first; the mean difference
            projects positive on each.
        excess_: (layer, dimensions), second moment beyond the negatives' along each, in squared
            units of the states. Not above zero: there is no such dimension.
        reliability_, reliability_low_, reliability_high_: (layer,), root mean squared cosine of the
            principal angles between halves.
        n_: prompts on the smaller side.
    """

    dimensions: int = 2
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
        rows = centred(contrast.states)
        gram = gram_of(rows)

        def bases(counts: Counts) -> Bases:
            difference = mean_difference_weights(contrast, counts)
            return contrast_bases(gram, difference, counts, self.dimensions)[0]

        everything = np.ones((1, len(rows)))
        whole, excess = contrast_bases(
            gram, mean_difference_weights(contrast, everything), everything, self.dimensions
        )
        basis = np.einsum("lrk,rld->lkd", whole[0], rows, optimize=True)
        difference = contrast.positive.mean(axis=0) - contrast.negative.mean(axis=0)
        sign = np.where(np.einsum("lkd,ld->lk", basis, difference) < 0, -1.0, 1.0)
        self.basis_ = basis * sign[:, :, None]
        self.excess_ = excess[0]
        self.n_ = contrast.n
        self.reliability_, self.reliability_low_, self.reliability_high_ = split_half_reliability(
            overlaps_of_halves(gram, bases), contrast.units, kinds_of_units(contrast), self
        )
        return self


def contrast_bases(
    gram: Gram, difference: Counts, counts: Counts, dimensions: int
) -> tuple[Bases, Float[np.ndarray, "sample layer dimension"]]:
    """Weights of the rows in each basis vector, and the excess along each.

    Args:
        gram: inner products of the rows.
        difference: weights in the mean difference: 1/n⁺ for positives, -1/n⁻ for negatives.
        counts: how often each row counts at all.
        dimensions: how many.
    """
    bases = np.zeros((len(counts), len(gram), gram.shape[1], dimensions))
    excess = np.full((len(counts), len(gram), dimensions), np.nan)
    for sample, (signed, count) in enumerate(zip(difference, counts, strict=True)):
        kept = np.flatnonzero(count)
        weights = signed[kept]
        if not np.isfinite(weights).all():  # a half without one of the labels
            bases[sample] = np.nan
            continue
        inner = gram[:, kept[:, None], kept[None, :]]
        negative_mean = np.maximum(-weights, 0.0)
        to_mean = inner @ negative_mean
        about = inner - to_mean[:, :, None] - to_mean[:, None, :]
        about += (to_mean @ negative_mean)[:, None, None]
        # In orthonormal coordinates of the rows the moment is symmetric, if not positive.
        values, vectors = np.linalg.eigh(about)
        root = np.sqrt(np.where(values > RANK_TOLERANCE * values[:, -1:], values, 0.0))
        coordinates = vectors * root[:, None, :]
        moment = np.einsum("lrv,r,lrw->lvw", coordinates, weights, coordinates, optimize=True)
        found, axes = np.linalg.eigh(moment)
        leading = axes[:, :, : -dimensions - 1 : -1]
        rows = (vectors / np.where(root > 0, root, np.inf)[:, None, :]) @ leading
        rows -= rows.sum(axis=1, keepdims=True) * negative_mean[:, None]
        bases[sample][:, kept] = rows
        excess[sample] = found[:, : -dimensions - 1 : -1]
    return bases, excess
