"""The part that all estimators share: rows in coordinates, and split-half reliability.

An estimator defines how its direction follows from weighted rows. The functions here fit it to all
rows and to halves of them. For an estimator that sets only ``direction_``,
:func:`refitted_reliability` fits copies of it to the halves instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar, Protocol, Self

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from interp.errors import InputError
from interp.statistics import (
    Axes,
    Contrast,
    Coordinates,
    Counts,
    Vectors,
    coordinates_of,
    cosines_of_halves,
    effective_number,
    exact_mean,
    in_d_model,
    kinds_of_units,
    labelled_weights,
    split_half_reliability,
    unit,
)

States = Float[np.ndarray, "prompt layer d_model"]
Labels = Bool[np.ndarray, " prompt"]
Solve = Callable[[Counts], tuple[Vectors, Float[np.ndarray, "sample layer"]]]
Labellings = Bool[np.ndarray, "sample row"]
# Which rows are positive and how often each counts → directions in the sample's coordinates, and
# one more number per layer.
Refit = Callable[[Labellings, Counts], tuple[Vectors, Float[np.ndarray, "sample layer"]]]

# Number of halvings for a refitted estimator: each needs two fits.
REFITTED_SPLITS = 10


class Estimator(Protocol):
    """An estimator of one direction per layer; see :mod:`interp.directions`."""

    direction_: Float[np.ndarray, "layer d_model"]

    def fit(self, states: np.ndarray, labels: np.ndarray, groups: Sequence[object]) -> Self:
        """Fit at every layer."""


class Learned:
    """Declares what :func:`fit_reliability` sets."""

    reliability_: Float[np.ndarray, " layer"]
    reliability_low_: Float[np.ndarray, " layer"]
    reliability_high_: Float[np.ndarray, " layer"]
    n_: int


@dataclass(kw_only=True)
class Reliable(Learned):
    """The settings of a split-half reliability; see :class:`~interp.directions.MeanDifference`."""

    splits: int = 50
    resamples: int = 100
    level: float = 0.95
    seed: int = 0


class Directed(Reliable):
    """Fits a direction and its reliability; an estimator defines :meth:`prepared`.

    ``no_null`` gives the reason why permuted labels do not give a null for the estimator.
    ``no_interval`` gives the reason why refits to halves of the prompts do not give an interval.
    Both are empty if the null or the interval exists.
    """

    no_null: ClassVar[str] = ""
    no_interval: ClassVar[str] = ""
    direction_: Float[np.ndarray, "layer d_model"]
    unit_direction_: Float[np.ndarray, "layer d_model"]

    def prepared(self, contrast: Contrast) -> tuple[Sample, Refit]:
        """The rows of ``contrast`` in few coordinates, and the function that refits them.

        It takes labels and counts of the rows of ``contrast.states``, positive rows first.
        """
        raise NotImplementedError

    def fit(self, states: States, labels: Labels, groups: Sequence[object] | None = None) -> Self:
        """Fit at every layer.

        Args:
            states: activations of positive and negative prompts.
            labels: which are positive.
            groups: prompts of one group (a matched pair) are never separated.

        Raises:
            InputError: fewer than four prompts on a side, or activations that are not finite.
        """
        contrast = Contrast.from_labels(states, labels, groups)
        sample, refit = self.prepared(contrast)
        positive = contrast.classes == 0

        def solve(counts: Counts) -> tuple[Vectors, Float[np.ndarray, "sample layer"]]:
            return refit(np.broadcast_to(positive, counts.shape), counts)

        self._learn(contrast, fit_direction(self, sample, solve))
        return self

    def _learn(self, contrast: Contrast, number: Float[np.ndarray, " layer"]) -> None:
        """Set the other learned attributes; ``number`` is the second output of the refit."""


@dataclass(frozen=True)
class Sample:
    """The rows that an estimator is fitted to.

    Attributes:
        coordinates: of the rows, in orthonormal ``axes`` of their span.
        units: rows with the same number are never separated.
        kinds: units of one kind are spread evenly over the halves.
        n: number of separate prompts (units) that the estimator reports.
        effective_n: their effective number.
    """

    coordinates: Coordinates
    axes: Axes
    units: Int[np.ndarray, " row"]
    kinds: Int[np.ndarray, " unit"]
    n: int
    effective_n: float

    @classmethod
    def of_contrast(cls, contrast: Contrast) -> Sample:
        """Positive rows, then negative rows, about their common mean."""
        coordinates, axes = coordinates_of(contrast.states)
        return cls(
            coordinates,
            axes,
            contrast.units,
            kinds_of_units(contrast),
            contrast.n,
            contrast.effective_n,
        )

    @classmethod
    def of_rows(cls, rows: States, units: Int[np.ndarray, " row"]) -> Sample:
        """Rows of one kind, about zero."""
        coordinates, axes = coordinates_of(rows, centre=False)
        n = int(units.max()) + 1
        return cls(coordinates, axes, units, np.zeros(n, dtype=int), n, effective_number(units))


def fit_direction(estimator: Directed, sample: Sample, solve: Solve) -> Float[np.ndarray, " layer"]:
    """Set the learned attributes that all estimators of a direction share.

    Sets ``direction_``, ``unit_direction_``, ``n_``, ``reliability_``, ``reliability_low_`` and
    ``reliability_high_``.

    Args:
        estimator: the estimator to fit.
        sample: the rows that it is fitted to.
        solve: maps the count of each row to the directions in the sample's coordinates, and one
            more number per layer.

    Returns:
        That number for all rows.
    """
    (whole,), (number,) = solve(np.ones((1, len(sample.units))))
    estimator.direction_ = in_d_model(whole, sample.axes)
    estimator.unit_direction_ = unit(estimator.direction_)
    fit_reliability(estimator, sample, cosines_of_halves(lambda counts: solve(counts)[0]))
    return number


def fit_reliability(
    estimator: Reliable, sample: Sample, similarity: Callable[[Counts, Counts], np.ndarray]
) -> None:
    """Set ``n_`` and the split-half reliability with its interval.

    Args:
        estimator: the estimator to fit.
        sample: the rows that it is fitted to.
        similarity: of the fits to two halves, (sample, layer).
    """
    estimator.n_ = sample.n
    found = split_half_reliability(similarity, sample.units, sample.kinds, estimator)
    estimator.reliability_, estimator.reliability_low_, estimator.reliability_high_ = found


def one_by_one(
    solve: Callable[[Float[np.ndarray, " row"]], tuple[np.ndarray, np.ndarray]],
) -> Solve:
    """A solver of one sample, applied to each of several."""

    def solved(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
        vectors, numbers = zip(*map(solve, counts), strict=True)
        return np.stack(vectors), np.stack(numbers)

    return solved


def copies_of(estimator: Estimator, contrast: Contrast) -> Callable[[Labellings, Counts], Vectors]:
    """A function that fits copies of any estimator, one after another, in d_model.

    A row counts once or not at all. Directions are NaN where the fit of a copy fails
    (``InputError``, ``ValueError``).
    """
    states, units = contrast.states, contrast.units
    plain = deepcopy(estimator)
    # The reliabilities of the copies are not used.
    for name, value in {"splits": 1, "resamples": 0}.items():
        if hasattr(plain, name):
            setattr(plain, name, value)

    def fitted(positive: Labellings, counts: Counts) -> Vectors:
        directions = np.full((len(counts), *states.shape[1:]), np.nan)
        for direction, label, count in zip(directions, positive, counts, strict=True):
            rows = np.flatnonzero(count)
            try:
                fit = deepcopy(plain).fit(states[rows], label[rows], units[rows].tolist())
            except (InputError, ValueError):
                continue
            direction[:] = fit.direction_
        return directions

    return fitted


def refitted_reliability(
    estimator: Estimator, contrast: Contrast, *, splits: int = REFITTED_SPLITS, seed: int = 0
) -> Float[np.ndarray, " layer"]:
    """Split-half reliability of any estimator, by refitting copies of it.

    It is NaN where the fit to half of the prompts fails (``InputError``, ``ValueError``).
    """
    positive, units, copies = contrast.classes == 0, contrast.units, copies_of(estimator, contrast)

    def refitted(counts: Counts) -> Vectors:
        return copies(np.broadcast_to(positive, counts.shape), counts)

    halving = SimpleNamespace(splits=splits, resamples=0, seed=seed)
    similarity = cosines_of_halves(refitted)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")
        return split_half_reliability(similarity, units, kinds_of_units(contrast), halving)[0]


def mean_difference(
    positive: Shaped[np.ndarray, " positive *state"],
    negative: Shaped[np.ndarray, " negative *state"],
) -> Shaped[np.ndarray, "*state"]:
    """Mean of the positive rows minus mean of the negative rows; zero if all rows are equal."""
    return exact_mean(positive) - exact_mean(negative)


def mean_difference_weights(
    contrast: Contrast, counts: Float[np.ndarray, "*sample row"]
) -> Float[np.ndarray, "*sample row"]:
    """Weights of the rows in the mean difference, given the count of each; they sum to 0."""
    return labelled_weights(contrast.classes == 0, counts)
