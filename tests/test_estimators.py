"""Estimators of directions: planted truths, identities, parity with scikit-learn, nulls."""

from __future__ import annotations

import numpy as np
import pytest

from interp.directions import (
    ContrastSubspace,
    LogisticProbe,
    MeanDifference,
    PairedPrincipalComponent,
    WhitenedMeanDifference,
)
from interp.errors import InputError
from interp.statistics import error_degrees, shrunk_covariance

D_MODEL = 24
LINEAR = [MeanDifference, PairedPrincipalComponent, WhitenedMeanDifference, LogisticProbe]


def table(
    signal: float, n: int = 40, layers: int = 2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Matched pairs that share content along the second axis; the label is the first axis."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(2 * n, layers, D_MODEL)) + 3.0
    states[..., 1] += 6 * np.repeat(rng.normal(size=(n, layers)), 2, axis=0)
    labels = np.arange(2 * n) % 2 == 0
    states[labels, :, 0] += signal
    return states, labels, list(np.arange(2 * n) // 2)


@pytest.mark.parametrize("estimator", LINEAR)
def test_a_planted_direction_is_found(estimator: type) -> None:
    fitted = estimator(splits=5, resamples=10).fit(*table(8.0))
    cosine = fitted.direction_[:, 0] / np.linalg.norm(fitted.direction_, axis=1)
    assert (cosine > 0.9).all()
    assert (fitted.reliability_ > 0.7).all()
    assert (fitted.reliability_low_ < fitted.reliability_).all()
    assert (fitted.reliability_ < fitted.reliability_high_).all()


@pytest.mark.parametrize("estimator", LINEAR)
@pytest.mark.parametrize("names", [("harmful", "benign"), (1, -1), (1.0, np.nan), (True, None)])
def test_labels_that_are_not_true_or_false_are_not_taken_for_true(
    estimator: type, names: tuple[object, object]
) -> None:
    states, labels, groups = table(8.0)
    named = [names[0] if label else names[1] for label in labels]
    with pytest.raises(InputError, match="the label .* expected true"):
        estimator(splits=1, resamples=0).fit(states, named, groups)


@pytest.mark.parametrize(
    "estimator", [MeanDifference, WhitenedMeanDifference, LogisticProbe, PairedPrincipalComponent]
)
def test_noise_has_no_reliable_direction(estimator: type) -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(40, 40, D_MODEL))
    labels, groups = np.arange(40) % 2 == 0, list(np.arange(40) // 2)
    fitted = estimator(splits=10, resamples=0).fit(states, labels, groups)
    assert abs(fitted.reliability_.mean()) < 0.1


@pytest.mark.parametrize("estimator", LINEAR)
def test_swapping_the_labels_turns_the_direction_round(estimator: type) -> None:
    states, labels, groups = table(2.0)
    fitted = estimator(splits=1, resamples=0).fit(states, labels, groups)
    flipped = estimator(splits=1, resamples=0).fit(states, ~labels, groups)
    np.testing.assert_allclose(flipped.direction_, -fitted.direction_, atol=1e-4)


@pytest.mark.parametrize("estimator", [*LINEAR, ContrastSubspace])
def test_directions_turn_with_the_states_and_do_not_see_a_shift(estimator: type) -> None:
    states, labels, groups = table(2.0)
    basis, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(D_MODEL, D_MODEL)))
    name = "basis_" if estimator is ContrastSubspace else "direction_"
    fitted, rotated = (
        getattr(estimator(splits=1, resamples=0).fit(x, labels, groups), name)
        for x in (states, (states + 100.0) @ basis)
    )
    np.testing.assert_allclose(rotated, fitted @ basis, atol=1e-4)


def test_whitened_difference_is_fishers_with_scikit_learns_shrinkage() -> None:
    from sklearn.covariance import ledoit_wolf

    states, labels, groups = table(2.0)
    fitted = WhitenedMeanDifference(splits=1, resamples=0).fit(states, labels, groups)
    for layer in range(2):
        x = states[:, layer]
        within = np.concatenate([x[side] - x[side].mean(0) for side in (labels, ~labels)])
        covariance, shrinkage = ledoit_wolf(within, assume_centered=True)
        expected = np.linalg.solve(covariance, x[labels].mean(0) - x[~labels].mean(0))
        np.testing.assert_allclose(fitted.direction_[layer], expected, rtol=1e-7)
        assert fitted.shrinkage_[layer] == pytest.approx(shrinkage)


@pytest.mark.parametrize(("n", "d_model"), [(10, 50), (50, 10)])
def test_shrinkage_is_scikit_learns_with_few_and_with_many_prompts(n: int, d_model: int) -> None:
    from sklearn.covariance import ledoit_wolf

    x = np.random.default_rng(0).normal(size=(n, d_model)) * np.arange(1, d_model + 1)
    found = shrunk_covariance(x[None], np.ones(n), d_model)
    covariance, shrinkage = ledoit_wolf(x, assume_centered=True)
    assert found.shrinkage[0] == pytest.approx(shrinkage)
    basis = found.vectors[0]
    rebuilt = (basis * (found.eigenvalues[0] - found.rest[0])) @ basis.T
    np.testing.assert_allclose(rebuilt + found.rest[0] * np.eye(d_model), covariance, rtol=1e-7)


def test_counting_a_row_twice_is_having_it_twice() -> None:
    x = np.random.default_rng(0).normal(size=(9, 20))
    counts = np.array([1, 2, 1, 1, 3, 1, 1, 1, 1.0])
    rooted = np.sqrt(counts)[:, None] * x
    repeated = np.repeat(x, counts.astype(int), axis=0)
    found = shrunk_covariance(rooted[None], counts, 20)
    expected = shrunk_covariance(repeated[None], np.ones(12), 20)
    assert found.shrinkage[0] == pytest.approx(expected.shrinkage[0])
    assert found.eigenvalues[0].max() == pytest.approx(expected.eigenvalues[0].max())


def test_whitening_leans_away_from_what_varies_anyway() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(400, 1, D_MODEL))
    states[..., 1] *= 5
    labels = np.arange(400) % 2 == 0
    states[labels, :, :2] += 2.0
    plain = MeanDifference(splits=1, resamples=0).fit(states, labels).unit_direction_[0]
    whitened = WhitenedMeanDifference(splits=1, resamples=0).fit(states, labels)
    assert plain[1] > 0.4
    assert abs(whitened.unit_direction_[0, 1]) < 0.2


def test_probe_is_scikit_learns_on_scaled_states() -> None:
    from sklearn.linear_model import LogisticRegression

    states, labels, groups = table(2.0)
    fitted = LogisticProbe(splits=1, resamples=0).fit(states, labels, groups)
    for layer in range(2):
        x = states[:, layer]
        scale = np.sqrt(x.var(axis=0).mean())
        reference = LogisticRegression(max_iter=1000, tol=1e-6).fit(x / scale, labels)
        log_odds = x @ fitted.direction_[layer] + fitted.intercept_[layer]
        np.testing.assert_allclose(log_odds, reference.decision_function(x / scale), atol=5e-3)


def test_a_heavily_penalised_probe_is_the_mean_difference() -> None:
    states, labels, groups = table(2.0)
    probe = LogisticProbe(inverse_penalty=1e-6, splits=1, resamples=0).fit(states, labels, groups)
    plain = MeanDifference(splits=1, resamples=0).fit(states, labels, groups)
    np.testing.assert_allclose(probe.unit_direction_, plain.unit_direction_, atol=1e-3)


def test_paired_component_sees_neither_what_pairs_share_nor_their_order() -> None:
    states, labels, groups = table(4.0)
    fitted = PairedPrincipalComponent(splits=1, resamples=0).fit(states, labels, groups)
    assert (abs(fitted.direction_[:, 1]) < 0.2).all()
    assert ((fitted.explained_variance_ratio_ > 0) & (fitted.explained_variance_ratio_ < 1)).all()
    flipped = labels.copy()
    flipped[:20] = ~flipped[:20]
    again = PairedPrincipalComponent(splits=1, resamples=0).fit(states, flipped, groups)
    np.testing.assert_allclose(abs(again.direction_), abs(fitted.direction_), atol=1e-9)
    with pytest.raises(InputError, match="0 separate pairs"):
        PairedPrincipalComponent().fit(states, labels, list(range(len(labels))))


def test_a_planted_subspace_is_found_in_order() -> None:
    rng = np.random.default_rng(0)
    states, labels, groups = table(6.0, n=150)
    for axis, size in ((3, 4.0), (7, 3.0)):  # what differs from positive to positive
        states[labels, :, axis] += size * rng.normal(size=(150, 2))
    fitted = ContrastSubspace(dimensions=3, resamples=10).fit(states, labels, groups)
    np.testing.assert_allclose(
        np.einsum("lkd,lmd->lkm", fitted.basis_, fitted.basis_), np.tile(np.eye(3), (2, 1, 1)),
        atol=1e-9,
    )  # fmt: skip
    planted = np.linalg.norm(fitted.basis_[:, :, [0, 3, 7]], axis=2)
    assert (planted > 0.9).all()
    assert (abs(fitted.basis_[:, 0, 0]) > 0.9).all()  # and not the content that pairs share
    assert (np.diff(fitted.excess_, axis=1) < 0).all() and (fitted.excess_ > 0).all()
    assert (fitted.reliability_ > 0.8).all()
    difference = states[labels].mean(0) - states[~labels].mean(0)
    assert (np.einsum("lkd,ld->lk", fitted.basis_, difference) >= 0).all()
    with pytest.raises(InputError, match="ask for 1 … 24"):
        ContrastSubspace(dimensions=25).fit(states, labels, groups)


def test_subspaces_of_noise_overlap_as_random_ones_do() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(60, 40, D_MODEL))
    labels = np.arange(60) % 2 == 0
    fitted = ContrastSubspace(dimensions=2, splits=10, resamples=0).fit(states, labels)
    assert (fitted.reliability_**2).mean() == pytest.approx(2 / D_MODEL, abs=0.05)


def test_errors_in_degrees_end_at_a_right_angle() -> None:
    assert error_degrees(np.array([-0.2, 0.0, 1.0])).tolist() == [90.0, 90.0, 0.0]


def test_hyperparameters_show_and_bad_input_is_refused() -> None:
    assert "inverse_penalty=2.0" in repr(LogisticProbe(inverse_penalty=2.0))
    states, labels, groups = table(1.0)
    for estimator in (*LINEAR, ContrastSubspace):
        with pytest.raises(InputError):
            estimator().fit(states, np.arange(len(labels)) < 2, groups)
