"""Rotation, gain and offset: identities, planted truths, coverage, nulls."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from interp.errors import InputError
from interp.similarity import Rotation, against_controls, plain_cosines, rotation
from interp.similarity.rotations import QUANTITIES
from interp.statistics import Confidence, Contrast, class_means, inner_products
from tests.benchmarks.rotation_coverage import covered
from tests.planted_directions import Planted, planted_change


def planted_rotation(planted: Planted, same_prompts: bool = True, **world: float) -> Rotation:
    settings = {"snr": 1.0, "n": 32, "worlds": 100, "seed": 0, **world}
    before, after = planted_change(planted, same_prompts=same_prompts, **settings)
    return rotation(before, after, same_prompts=same_prompts)


def mean_difference(contrast: Contrast) -> np.ndarray:
    return contrast.positive.mean(axis=0) - contrast.negative.mean(axis=0)


def test_closed_form_is_the_average_over_every_split_into_halves() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 6, 5)) + 1  # differences of six pairs in two models
    halves = [list(half) for half in combinations(range(6), 3)]
    rest = [[i for i in range(6) if i not in half] for half in halves]
    by_splits = [
        np.mean([v[a].mean(0) @ w[b].mean(0) for a, b in zip(halves, rest, strict=True)])
        for v, w in ((before, before), (after, after), (before, after))
    ]
    means = class_means(
        np.concatenate([before, after])[:, None],
        np.repeat([0, 1], 6),
        np.tile(np.arange(6), 2),
        np.eye(2),
    )
    products = inner_products(means, [(0, 0), (1, 1), (0, 1)])
    np.testing.assert_allclose(products.value[0], by_splits, rtol=1e-10)


def test_variance_is_the_jackknife_without_its_second_order_bias() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 30)) + 0.3

    def cross_fitted(rows: np.ndarray) -> float:
        means = class_means(
            rows[:, None], np.zeros(len(rows), int), np.arange(len(rows)), np.eye(1)
        )
        return float(inner_products(means, [(0, 0)]).value[0, 0])

    left_out = np.array([cross_fitted(np.delete(x, i, axis=0)) for i in range(len(x))])
    jackknife = (len(x) - 1) * left_out.var()
    means = class_means(x[:, None], np.zeros(40, int), np.arange(40), np.eye(1))
    products = inner_products(means, [(0, 0)])
    ours = products.signal_variance(1.0) + 2 * products.noise_variance(1.0)
    np.testing.assert_allclose(ours, jackknife, rtol=0.01)


def test_variance_of_pure_noise_is_right_where_the_jackknife_doubles_it() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(24, 2000, 20))
    means = class_means(noise, np.zeros(24, int), np.arange(24), np.eye(1))
    products = inner_products(means, [(0, 0)])
    measured = products.value.var()
    assert products.noise_variance(1.0).mean() == pytest.approx(measured, rel=0.1)
    assert abs(products.signal_variance(1.0).mean()) < 0.1 * measured


@pytest.mark.parametrize("same_prompts", [True, False])
@pytest.mark.parametrize("angle", [0, 15, 40, 90])
def test_planted_change_is_recovered(angle: float, same_prompts: bool) -> None:
    planted = Planted(angle, gain=0.6, offset=-0.5, offset_orthogonal=0.3)
    found = planted_rotation(planted, same_prompts, snr=4.0)
    assert np.median(found.angle_degrees.value) == pytest.approx(angle, abs=1.0)
    assert np.median(found.gain.value) == pytest.approx(0.6, abs=0.03)
    assert np.median(found.offset.value) == pytest.approx(-0.5, abs=0.03)
    assert np.median(found.offset_orthogonal.value) == pytest.approx(0.3, abs=0.03)


def test_plain_angles_are_biased_in_both_directions_and_ours_is_not() -> None:
    world = {"snr": 0.3, "n": 32, "worlds": 200, "seed": 1}
    before, after = planted_change(Planted(0.0), same_prompts=False, **world)
    assert np.median(_plain_angles(before, after)) > 20  # nothing rotated: fresh noise did that
    assert np.nanmedian(rotation(before, after, same_prompts=False).angle_degrees.value) < 10

    before, after = planted_change(Planted(90.0), same_prompts=True, **world)
    assert np.median(_plain_angles(before, after)) < 82  # shared noise pulls it back
    found = rotation(before, after).angle_degrees
    assert np.nanmedian(found.value) == pytest.approx(90, abs=4)


def _plain_angles(before: Contrast, after: Contrast) -> np.ndarray:
    cosines = plain_cosines(np.stack([mean_difference(before), mean_difference(after)]))
    return np.degrees(np.arccos(cosines[:, 0, 1]))


@pytest.mark.parametrize(
    ("angle", "snr", "n", "same_prompts"),
    [
        (0, 0.5, 32, True),
        (0, 1, 64, False),
        (5, 1, 32, True),
        (5, 4, 32, False),
        (15, 0.5, 32, False),
        (15, 1, 64, True),
        (40, 0.5, 64, True),
        (40, 4, 32, False),
        (90, 1, 32, False),
        (90, 4, 32, True),
    ],
)
def test_intervals_cover_what_was_planted(
    angle: float, snr: float, n: int, same_prompts: bool
) -> None:
    """A sample of the grid; ``tests/benchmarks/rotation_coverage.py`` runs all of it.

    SNR is ‖r‖ / sqrt(trace of the noise covariance), see ``tests/planted_directions.py``.
    """
    planted = Planted(angle, gain=0.7, offset=-0.3, offset_orthogonal=0.2)
    found = planted_rotation(planted, same_prompts, snr=snr, n=n, worlds=400, seed=int(7 + angle))
    assert found.angle_degrees.defined.mean() > 0.9
    for quantity, truth in (("angle_degrees", angle), ("gain", 0.7), ("offset", -0.3)):
        # 92–98% is the aim; 400 worlds add ±2 points of chance.
        assert 91 <= covered(getattr(found, quantity), truth) <= 99, quantity


@pytest.mark.parametrize("same_prompts", [True, False])
@pytest.mark.parametrize("n", [32, 128])
def test_noise_has_no_angle(n: int, same_prompts: bool) -> None:
    found = planted_rotation(Planted(), same_prompts, snr=0.0, n=n, worlds=400)
    assert found.angle_degrees.defined.mean() <= 0.1
    assert np.isnan(found.angle_degrees.value[~found.angle_degrees.defined]).all()


def test_an_unturned_direction_lies_in_the_null_band() -> None:
    found = planted_rotation(Planted(0.0, gain=1.5), worlds=400, seed=3)
    beyond = found.angle_degrees.value > found.angle_degrees.null_high
    assert 0.02 <= beyond.mean() <= 0.09
    gain = planted_rotation(Planted(30.0), worlds=400, seed=4).gain
    outside = (gain.value < gain.null_low) | (gain.value > gain.null_high)
    assert 0.02 <= outside.mean() <= 0.09


def test_a_model_compared_with_itself_has_not_changed() -> None:
    before, _ = planted_change(Planted(), snr=2.0, n=16, same_prompts=True, worlds=3, seed=0)
    found = rotation(before, before)
    np.testing.assert_allclose(found.angle_degrees.value, 0, atol=1e-4)
    np.testing.assert_allclose(found.angle_degrees.high, 0, atol=0.05)
    np.testing.assert_allclose(found.gain.value, 1)
    np.testing.assert_allclose(found.offset.value, 0, atol=1e-12)
    np.testing.assert_allclose(found.offset_orthogonal.value, 0, atol=1e-6)


def test_invariances() -> None:
    before, after = planted_change(
        Planted(30.0, 0.8, -0.2, 0.1), snr=2.0, n=20, same_prompts=True, worlds=2, seed=0
    )
    found = rotation(before, after)
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))

    def mapped(contrast: Contrast) -> Contrast:
        return Contrast(contrast.positive @ basis, contrast.negative @ basis, contrast.pairs)

    rotated = rotation(mapped(before), mapped(after))
    grown = rotation(before, Contrast(3 * after.positive, 3 * after.negative, after.pairs))
    swapped = rotation(_swapped(before), _swapped(after))
    # In another basis, in another unit, and about another origin nothing has changed.
    scaled, moved = (
        rotation(*(Contrast(f(c.positive), f(c.negative), c.pairs) for c in (before, after)))
        for f in (lambda states: 7.0 * states, lambda states: states + 3.0)
    )
    for quantity in QUANTITIES:
        for other in (rotated, scaled, moved):
            for bound in ("value", "low", "high", "null_low", "null_high"):
                np.testing.assert_allclose(
                    getattr(getattr(other, quantity), bound),
                    getattr(getattr(found, quantity), bound),
                    atol=1e-5,
                )
    np.testing.assert_allclose(grown.gain.value, 3 * found.gain.value)
    np.testing.assert_allclose(grown.angle_degrees.value, found.angle_degrees.value)
    np.testing.assert_allclose(swapped.angle_degrees.high, found.angle_degrees.high, atol=1e-6)
    np.testing.assert_allclose(swapped.offset.value, -found.offset.value)


def _swapped(contrast: Contrast) -> Contrast:
    return Contrast(contrast.negative, contrast.positive, contrast.pairs)


def test_a_direction_that_vanished_has_a_small_gain_and_no_angle() -> None:
    before, after = planted_change(Planted(), snr=4.0, n=32, same_prompts=False, worlds=20, seed=0)
    gone = Contrast(
        after.positive - after.positive.mean(0), after.negative - after.negative.mean(0)
    )
    found = rotation(before, gone, same_prompts=False)
    assert not found.angle_degrees.defined.any()
    assert not found.gain.defined.any()
    assert (found.gain.low == 0).all()
    assert (found.gain.high < 0.2).all()
    assert found.offset.defined.all()


def test_a_direction_of_which_only_noise_is_left_may_have_any_small_gain() -> None:
    """Its length is not 0 in this sample; that it is 0 in truth cannot be excluded."""
    before, _ = planted_change(Planted(), snr=4.0, n=32, same_prompts=False, worlds=60, seed=0)
    silent, _ = planted_change(Planted(), snr=0.0, n=32, same_prompts=False, worlds=60, seed=1)
    found = rotation(before, silent, same_prompts=False)
    vanished = ~found.gain.defined
    assert vanished.mean() > 0.8 and np.isnan(found.gain.value[vanished]).all()
    assert (found.gain.low[vanished] == 0).all()
    assert (found.gain.high[vanished] > 0.01).all() and (found.gain.high[vanished] < 0.5).all()
    assert (found.gain.low[found.gain.defined] > 0).all()


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("room", [0.0, 0.3, 1.0, 2.0, 3.5, 9.0])
def test_a_value_near_its_boundary_is_accepted_as_often_as_stated(
    level: float, room: float
) -> None:
    """Feldman and Cousins: the same coverage at the boundary, near it and far away."""
    confidence = Confidence(level, 1e9)
    observed = np.linspace(-8, 8, 16001)  # minus the hypothesis, in standard deviations
    ones = np.ones_like(observed)
    accepted = confidence.below_boundary(observed, room * ones, ones)
    covered = np.diff(stats.norm.cdf(observed))[accepted[1:] & accepted[:-1]].sum()
    assert covered == pytest.approx(level, abs=2e-3)
    # What lies beyond the boundary speaks for the boundary itself, and never against it.
    assert confidence.below_boundary(observed, 0 * ones, ones)[observed >= 0].all()
    # One stretch without holes, which the observation on the hypothesis itself belongs to.
    assert (np.abs(np.diff(accepted.astype(int))).sum() <= 2) and accepted[8000]


def test_a_small_sample_widens_what_is_accepted_as_student_s_t_does() -> None:
    for n in (5, 20, 200):
        confidence = Confidence(0.95, n)
        assert confidence.two_sided == pytest.approx(stats.t.ppf(0.975, n - 1))
        assert confidence.one_sided > stats.norm.ppf(0.95)
    assert Confidence(0.95, 1e9).one_sided == pytest.approx(stats.norm.ppf(0.95), abs=1e-4)


def test_controls_widen_the_null_band() -> None:
    rotated = planted_rotation(Planted(40.0), snr=4.0, worlds=4)
    harmless = planted_rotation(Planted(10.0, gain=0.9), snr=4.0, worlds=4, seed=5)
    judged = against_controls(rotated, [harmless, harmless])
    np.testing.assert_array_equal(judged.angle_degrees.null_high, harmless.angle_degrees.high)
    assert (judged.angle_degrees.low > judged.angle_degrees.null_high).all()
    assert (judged.gain.null_low <= harmless.gain.low).all()
    np.testing.assert_array_equal(judged.angle_degrees.value, rotated.angle_degrees.value)
    with pytest.raises(InputError, match="no control"):
        against_controls(rotated, [])
    with pytest.raises(InputError, match="other layers"):
        against_controls(rotated, [replace(harmless, layers=(9, 8, 7, 6))])


def test_table_has_one_row_per_layer_and_quantity() -> None:
    table = planted_rotation(Planted(20.0), worlds=3).to_dataframe()
    assert list(table.columns) == [
        *("layer", "quantity", "value", "low", "high", "n", "null_low", "null_high", "defined")
    ]
    assert len(table) == 3 * len(QUANTITIES)
    assert set(table["quantity"]) == set(QUANTITIES)
    assert (table["low"] <= table["high"]).all()


def test_partly_paired_prompts_are_accepted() -> None:
    before, after = planted_change(
        Planted(20.0), snr=4.0, n=20, same_prompts=True, worlds=2, seed=0
    )
    some = before.pairs[:12]
    found = rotation(
        Contrast(before.positive, before.negative[:18], some),
        Contrast(after.positive, after.negative[:18], some),
    )
    np.testing.assert_allclose(found.angle_degrees.value, 20, atol=5)


def test_errors_are_one_line() -> None:
    before, after = planted_change(Planted(), snr=1.0, n=8, same_prompts=True, worlds=2, seed=0)
    with pytest.raises(InputError, match="same_prompts=False"):
        rotation(before, Contrast(after.positive[:6], after.negative[:6]))
    with pytest.raises(InputError, match="same architecture"):
        rotation(before, Contrast(after.positive[..., :9], after.negative[..., :9]))
    with pytest.raises(InputError, match="layer names"):
        rotation(before, after, layers=[0])
    others = np.column_stack([after.pairs[:, 0], after.pairs[::-1, 1]])
    with pytest.raises(InputError, match="pairs or groups of prompts differ"):
        rotation(before, Contrast(after.positive, after.negative, others))
