"""What does not vary has no direction: every estimator says so instead of using rounding errors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from interp.directions import (
    ContrastSubspace,
    FirstPrincipalComponent,
    FittedDirections,
    Leace,
    LogisticProbe,
    MeanDifference,
    WhitenedMeanDifference,
)
from interp.similarity import cka_map, cosine_map, overlap_map, procrustes_map, rotation
from interp.statistics import Contrast

ROWS = 24
LABELS = np.arange(ROWS) < ROWS // 2
OFFSET = np.array([1e3, -0.1, 3.7, 1e-3, 12.0, 0.3])


def states() -> np.ndarray:
    """A layer whose states are all equal, and one with noise and a direction."""
    varied = np.random.default_rng(0).normal(size=(ROWS, len(OFFSET)))
    varied[LABELS, 0] += 3.0
    return np.stack([np.broadcast_to(OFFSET / 3, varied.shape), OFFSET + varied], axis=1)


@pytest.mark.parametrize(
    "estimator",
    [MeanDifference, FirstPrincipalComponent, WhitenedMeanDifference, LogisticProbe, Leace],
)
def test_equal_states_have_no_direction_and_no_reliability(estimator: type) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = estimator(splits=5, resamples=5).fit(states(), LABELS)
    assert not fit.direction_[0].any() and not fit.unit_direction_[0].any()
    assert np.isnan(fit.reliability_[0]) and fit.reliability_[1] > 0.05
    assert np.linalg.norm(fit.unit_direction_[1]) == pytest.approx(1)


def test_equal_states_have_no_subspace() -> None:
    fit = ContrastSubspace(splits=5, resamples=5).fit(states(), LABELS)
    assert not fit.basis_[0].any() and np.isnan(fit.reliability_[0])
    assert fit.basis_[1] @ fit.basis_[1].T == pytest.approx(np.eye(2))


def test_equal_states_are_undefined_in_maps_and_rotations() -> None:
    contrasts = {name: Contrast.from_labels(states(), LABELS) for name in "ab"}
    for estimator in (MeanDifference(), FirstPrincipalComponent(), WhitenedMeanDifference()):
        fits = FittedDirections.of(estimator, contrasts)
        with pytest.warns(UserWarning, match="share"):
            assert not cosine_map(fits, permutations=10).defined[0].any()
        assert not rotation(fits, fits)["a"].angle_degrees.defined[0]
    found = overlap_map(contrasts, permutations=10, resamples=3)
    assert not found.defined[0].any() and np.isnan(found.value[0]).all()


def test_states_that_do_not_vary_within_labels_have_no_discriminant() -> None:
    x = np.where(LABELS[:, None], OFFSET, OFFSET + np.eye(6)[1])[:, None]
    fit = WhitenedMeanDifference(splits=5, resamples=0).fit(x, LABELS)
    assert not fit.direction_.any()


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_equal_class_means_leave_nothing_to_erase(offset: float) -> None:
    half = np.random.default_rng(0).normal(size=(ROWS // 2, 1, 30)) + offset
    two, four = np.concatenate([half, half]), np.repeat(half[: ROWS // 4], 4, axis=0)
    for same, classes in ((two, LABELS), (four, np.tile([0, 1, 2, 3], ROWS // 4))):
        fit = Leace(splits=1, resamples=0).fit(same, classes)
        assert np.abs(fit.eraser_(same) - same).max() < 1e-6
    assert not Leace(splits=1, resamples=0).fit(two, LABELS).direction_.any()


@pytest.mark.parametrize("rows", [17, 24, 25])
def test_equal_states_are_like_no_others(rows: int) -> None:
    """The mean of equal numbers is not always that number, and what is left is alike anywhere."""
    varied = np.random.default_rng(0).normal(size=(3, rows, len(OFFSET)))
    equal = [np.broadcast_to(OFFSET * (1 + i) / 3, (rows, len(OFFSET))) for i in range(2)]
    models = {"a": np.stack([equal[0], varied[0]], axis=1), "b": np.stack([equal[1], varied[1]], 1)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = cka_map(models, permutations=10)
        turned = procrustes_map(models, dimensions=3, draws=5)
    assert not found.defined[0].any() and np.isnan(found.value[0]).all()
    assert found.defined[1].all() and np.isfinite(found.value[1]).all()
    assert np.isnan(found.p[0]).all() and turned.value[0, 0, 1] == 0 == turned.value[0, 1, 0]
