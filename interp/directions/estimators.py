"""Estimators of one direction per layer; :mod:`interp.directions` says which to choose.

To add one, register a class with :func:`~interp.directions.estimator` whose
``fit(states, labels, groups)`` sets ``direction_`` and returns the estimator. A
:class:`~interp.directions.DirectionSet` computes its reliability by fitting copies to halves of the
prompts. For an estimator that can weight its rows,
:func:`~interp.directions.fitting.fit_direction` does this faster and adds an interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from interp.directions.discriminant import discriminants
from interp.directions.fitting import (
    Directed,
    Labellings,
    Labels,
    Refit,
    Sample,
    States,
    fit_direction,
    mean_difference,
    one_by_one,
)
from interp.directions.logistic import logistic_fits
from interp.directions.registry import estimator
from interp.errors import InputError
from interp.statistics import (
    MINIMUM_UNITS,
    Contrast,
    Coordinates,
    Counts,
    Vectors,
    finite,
    labelled_weights,
    principal_axes,
    truth_values,
    unit,
    unit_numbers,
)

# Variance below this share of the mean square is a rounding error: all states are equal.
ROUNDING = 1e-24


@estimator(
    "mean_difference",
    title="mean difference",
    paper="Marks and Tegmark 2023, arXiv 2310.06824",
    badge="faithful",
)
@dataclass(kw_only=True)
class MeanDifference(Directed):
    """Mean of the positives minus mean of the negatives (Marks and Tegmark 2023; Arditi 2024).

    It finds what the label adds to a state, so use it to steer and to ablate.

    Args:
        splits: number of random halvings; the reliability is their average.
        resamples: number of further halvings, for its interval; 0 omits the interval (NaN).
        level: coverage of that interval.
        seed: of the halvings.

    Attributes:
        direction_: (layer, d_model), raw length.
        unit_direction_: the same with length one; zero where the difference is zero.
        reliability_, reliability_low_, reliability_high_: (layer,).
        n_: prompts on the smaller side.

    Example:
        >>> dirs = sp.fit_directions(acts, prompts, sp.MeanDifference(resamples=0))
        >>> dirs.to_set().vectors.shape
        (7, 5, 128)
    """

    def _learn(self, contrast: Contrast, number: Float[np.ndarray, " layer"]) -> None:
        # The plain means, because those in coordinates have rounding errors.
        self.direction_ = mean_difference(contrast.positive, contrast.negative)
        self.unit_direction_ = unit(self.direction_)

    def prepared(self, contrast: Contrast) -> tuple[Sample, Refit]:
        """See :class:`~interp.directions.fitting.Directed`."""
        sample = Sample.of_contrast(contrast)

        def differences(
            positive: Labellings, counts: Counts
        ) -> tuple[Vectors, Float[np.ndarray, "sample layer"]]:
            weights = labelled_weights(positive, counts)
            found = np.einsum("sr,lrv->slv", weights, sample.coordinates, optimize=True)
            return found, np.linalg.norm(found, axis=-1)

        return sample, differences


@estimator(
    "first_principal_component",
    title="first principal component",
    paper="Mushtaq et al. 2025, arXiv 2511.14017",
    badge="faithful",
)
@dataclass(kw_only=True)
class FirstPrincipalComponent(Directed):
    """First principal component of the positives' centred states (arXiv 2511.14017, R3).

    It ignores the negatives. It is the axis along which the label's prompts differ most from one
    another. This axis need not separate them from other prompts.

    Args:
        splits, resamples, level, seed: as for :class:`~interp.directions.MeanDifference`.

    Attributes:
        direction_: (layer, d_model), length one; the positives' mean projects positive. Zero where
            all positives are equal; the reliability is NaN there.
        explained_variance_ratio_: (layer,), its share of the positives' variance.
        reliability_, reliability_low_, reliability_high_: (layer,).
        n_: positive prompts.

    Example:
        >>> found = sp.FirstPrincipalComponent(resamples=0)
        >>> dirs = sp.fit_directions(acts, prompts, found)
    """

    no_null: ClassVar[str] = (
        "the first principal component uses only the positives; permuted labels mix them with "
        "the negatives, so they do not test it"
    )
    # Measured: nominal 95% intervals covered 14 to 70% where two variances were similar.
    no_interval: ClassVar[str] = "in halves of the prompts, another component may come first"

    def fit(
        self, states: States, labels: Labels | None = None, groups: Sequence[object] | None = None
    ) -> Self:
        """Fit at every layer.

        Args:
            states: activations; only the positive rows are used.
            labels: which are positive; all by default.
            groups: prompts of one group are never separated.

        Raises:
            InputError: fewer than four positive prompts, labels that are not true or false, or
                activations that are not finite.
        """
        chosen = truth_values(np.ones(len(states), bool) if labels is None else labels, len(states))
        rows = finite(np.asarray(states)[chosen])
        if len(rows) < MINIMUM_UNITS:
            raise InputError(
                f"{len(rows)} positive prompts; a principal component with a reliability needs at "
                f"least {MINIMUM_UNITS}"
            )
        names = None if groups is None else [g for g, c in zip(groups, chosen, strict=True) if c]
        sample = Sample.of_rows(rows, unit_numbers(names, len(rows)))
        solve = one_by_one(partial(_component, sample.coordinates, centre=True))
        self.explained_variance_ratio_ = fit_direction(self, sample, solve)
        return self

    def prepared(self, contrast: Contrast) -> tuple[Sample, Refit]:
        """See :class:`~interp.directions.fitting.Directed`; labels are as they are."""
        own = len(contrast.positive)
        sample = Sample.of_rows(contrast.positive, unit_numbers(contrast.units[:own].tolist(), own))
        solve = one_by_one(partial(_component, sample.coordinates, centre=True))
        return sample, lambda _positive, counts: solve(counts[:, :own])


@estimator(
    "paired_principal_component",
    title="first principal component of pairs",
    paper="Zou et al. 2023, arXiv 2310.01405",
    badge="variant",
    differs="second moment of the differences, without random signs",
)
@dataclass(kw_only=True)
class PairedPrincipalComponent(Directed):
    """First principal axis of the differences of matched pairs (Zou et al., arXiv 2310.01405).

    The differences are not centred: the axis is that of their second moment. Centring after random
    sign flips of each pair gives the same axis in expectation, plus noise from the flips. The
    shared part of each pair cancels. The label, and anything else that differs within pairs,
    remains. Flips change nothing, so permuted pair labels do not give a null.

    Args:
        splits, resamples, level, seed: as for :class:`~interp.directions.MeanDifference`.

    Attributes:
        direction_: (layer, d_model), length one; the mean of the differences projects positive.
        explained_variance_ratio_: (layer,), its share of the differences' squared length.
        reliability_, reliability_low_, reliability_high_: (layer,).
        n_: pairs.

    Example:
        >>> found = sp.PairedPrincipalComponent(resamples=0)
        >>> dirs = sp.fit_directions(acts, prompts, found)
    """

    no_null: ClassVar[str] = (
        "swapping the labels of a pair changes the sign of its difference, but the component of "
        "paired differences does not depend on signs"
    )

    def fit(self, states: States, labels: Labels, groups: Sequence[object] | None = None) -> Self:
        """Fit at every layer.

        Args:
            states: activations of positive and negative prompts.
            labels: which are positive.
            groups: every positive is paired with every negative of its group; unpaired prompts are
                omitted.

        Raises:
            InputError: fewer than four pairs, or activations that are not finite.
        """
        sample, _ = self._paired(Contrast.from_labels(states, labels, groups))
        solve = one_by_one(partial(_component, sample.coordinates, centre=False))
        self.explained_variance_ratio_ = fit_direction(self, sample, solve)
        return self

    def prepared(self, contrast: Contrast) -> tuple[Sample, Refit]:
        """See :class:`~interp.directions.fitting.Directed`; labels are as they are."""
        sample, pairs = self._paired(contrast)
        solve = one_by_one(partial(_component, sample.coordinates, centre=False))
        # Linked rows count alike.
        return sample, lambda _positive, counts: solve(counts[:, pairs[:, 0]])

    @staticmethod
    def _paired(contrast: Contrast) -> tuple[Sample, Int[np.ndarray, "pair 2"]]:
        """The differences of pairs, and the pairs."""
        own = np.split(contrast.units, [len(contrast.positive)])
        pairs = np.argwhere(own[0][:, None] == own[1])
        _, units = np.unique(own[0][pairs[:, 0]], return_inverse=True)
        if not len(pairs) or units.max() + 1 < MINIMUM_UNITS:
            raise InputError(
                f"{len(np.unique(units))} separate pairs of prompts; a component of paired "
                f"differences needs at least {MINIMUM_UNITS}: name the pairs in groups"
            )
        rows = contrast.positive[pairs[:, 0]] - contrast.negative[pairs[:, 1]]
        return Sample.of_rows(rows, units), pairs


@estimator(
    "whitened_mean_difference",
    title="whitened mean difference (LDA)",
    paper="Fisher 1936; Ledoit and Wolf 2004",
    badge="faithful",
)
@dataclass(kw_only=True)
class WhitenedMeanDifference(Directed):
    r""":math:`\hat\Sigma^{-1}(\mu^+ - \mu^-)` with the pooled within-label covariance.

    Fisher's discriminant with Ledoit and Wolf's shrinkage (:mod:`interp.statistics.rows`). It
    *reads* a label: of all directions it separates the labels best, because it avoids dimensions
    with much variation within labels. It is not what the label adds to a state. To steer, add the
    mean difference (Haufe et al., NeuroImage 87, 2014, on filters and patterns).

    Args:
        splits, resamples, level, seed: as for :class:`~interp.directions.MeanDifference`.

    Attributes:
        direction_: (layer, d_model), raw: its product with a state is the log-odds of the label,
            up to a constant, where both labels are normal with the same covariance.
        unit_direction_: the same with length one.
        shrinkage_: (layer,), 0 the sample's covariance, 1 a multiple of the identity.
        reliability_, reliability_low_, reliability_high_: (layer,); each half is whitened by its
            own covariance.
        n_: prompts on the smaller side.

    Example:
        >>> found = sp.WhitenedMeanDifference(splits=5, resamples=0)
        >>> dirs = sp.fit_directions(acts, prompts, found)
    """

    def _learn(self, contrast: Contrast, number: Float[np.ndarray, " layer"]) -> None:
        self.shrinkage_ = number

    def prepared(self, contrast: Contrast) -> tuple[Sample, Refit]:
        """See :class:`~interp.directions.fitting.Directed`."""
        sample = Sample.of_contrast(contrast)
        width = contrast.states.shape[-1]
        return sample, partial(discriminants, sample.coordinates, d_model=width, within=True)


@estimator(
    "logistic_probe",
    title="logistic probe",
    paper="Alain and Bengio 2016, arXiv 1610.01644",
    badge="variant",
    differs="one scale per layer, squared penalty",
)
@dataclass(kw_only=True)
class LogisticProbe(Directed):
    """Logistic regression with a squared penalty, of the label on the state.

    The penalised solution lies in the span of the prompts (representer theorem), so the fit uses as
    many coordinates as prompts. All coordinates are divided by *one* number per layer, so their
    mean variance is one. ``inverse_penalty`` then has the same meaning at every layer, and the
    geometry of the residual stream is unchanged. With a strong penalty and equal numbers of
    positives and negatives, the direction becomes the mean difference. Like every probe, it
    *reads* a label.

    Args:
        inverse_penalty: scikit-learn's C: weight of the log-likelihood against half the squared
            length.
        splits, resamples, level, seed: as for :class:`~interp.directions.MeanDifference`; the
            defaults are smaller because every half needs a separate regression.

    Attributes:
        direction_: (layer, d_model), raw: log-odds of the label per unit of the state.
        unit_direction_: the same with length one.
        intercept_: (layer,): state · direction + intercept is the log-odds.
        reliability_, reliability_low_, reliability_high_: (layer,).
        n_: prompts on the smaller side.

    Example:
        >>> harmful = (prompts["label"] == "harmful").to_numpy()
        >>> probe = sp.LogisticProbe(splits=1, resamples=0).fit(acts.states, harmful)
        >>> probe.direction_.shape
        (5, 128)
    """

    inverse_penalty: float = 1.0
    splits: int = 20
    resamples: int = 25

    def _learn(self, contrast: Contrast, number: Float[np.ndarray, " layer"]) -> None:
        middle = contrast.states.mean(axis=0)
        self.intercept_ = number - np.einsum("ld,ld->l", self.direction_, middle)

    def prepared(self, contrast: Contrast) -> tuple[Sample, Refit]:
        """See :class:`~interp.directions.fitting.Directed`."""
        sample = Sample.of_contrast(contrast)
        size = sample.coordinates.shape[1] * sample.axes.shape[-1]
        variance = (sample.coordinates**2).sum(axis=(1, 2)) / size
        scale = np.sqrt(np.where(variance > 0, variance, 1.0))
        scaled = sample.coordinates / scale[:, None, None]

        def fitted(
            positive: Labellings, counts: Counts
        ) -> tuple[Vectors, Float[np.ndarray, "sample layer"]]:
            each = [logistic_fits(rows, positive, counts, self.inverse_penalty) for rows in scaled]
            slopes, intercepts = (np.stack(part, axis=1) for part in zip(*each, strict=True))
            return slopes / scale[:, None], intercepts

        return sample, fitted


def _component(
    coordinates: Coordinates, count: Float[np.ndarray, " row"], *, centre: bool
) -> tuple[Float[np.ndarray, "layer axis"], Float[np.ndarray, " layer"]]:
    """The first principal component of weighted rows, and its share of the total.

    It has length one. Its sign makes the rows' mean project positive.
    """
    kept = np.flatnonzero(count)
    rows = coordinates[:, kept]
    mean = (count[kept] / count.sum()) @ rows  # (layer, axis)
    about = rows - mean[:, None] if centre else rows
    size, spread = ((part**2).sum(axis=(1, 2)) for part in (rows, about))
    about = about * (spread > ROUNDING * size)[:, None, None]
    values, vectors = principal_axes(np.sqrt(count[kept])[:, None] * about)
    sign = np.where(np.einsum("lv,lv->l", vectors[:, :, -1], mean) < 0, -1.0, 1.0)
    total = values.sum(axis=1)
    return vectors[:, :, -1] * sign[:, None], values[:, -1] / np.where(total > 0, total, 1.0)
