"""Intervals of means, shares and areas: closed forms, and a width wherever prompts could differ."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from interp.statistics import (
    Draws,
    auc_interval,
    auc_of,
    mean_of,
    p_above,
    rate_of,
    share_difference,
    share_of,
    share_ratio_bounds,
    skewed_interval,
    unit_count,
)
from interp.statistics.bootstrap import moments


def test_the_interval_of_a_mean_is_student_s_where_nothing_is_skewed() -> None:
    half = np.random.default_rng(0).normal(size=6)
    values = np.concatenate([half, -half])
    found = mean_of(values, resamples=20_000)
    low, high = stats.t.interval(0.95, 11, loc=0, scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=0.05)


def test_the_longer_side_of_an_interval_is_that_of_the_skewness() -> None:
    values = np.random.default_rng(1).exponential(size=20)
    found, mirrored = mean_of(values), mean_of(-values)
    assert found.high - found.value > 1.2 * (found.value - found.low)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


@given(st.floats(-0.9, 0.9), st.integers(4, 60), st.floats(0.6, 0.99))
def test_an_interval_ends_where_its_test_rejects(skew: float, freedom: int, level: float) -> None:
    low, high = skewed_interval(np.array(0.3), np.array(0.1), np.array(skew), freedom, level)
    tail = (1 - level) / 2
    assert p_above(0.3, 0.1, skew, freedom, float(low)) == pytest.approx(tail)
    assert p_above(-0.3, 0.1, -skew, freedom, -float(high)) == pytest.approx(tail)


def test_what_does_not_vary_has_no_p_value() -> None:
    """Five prompts that are alike do not show that others would be."""
    assert np.isnan([p_above(0.0, 0.0, 0.0, 4, bound) for bound in (-0.05, 0.05)]).all()


def test_the_spread_of_draws_is_that_of_a_sample_and_skips_those_that_do_not_exist() -> None:
    for draws in ([0.0, 2.0], [0.0, 2.0, np.nan]):
        assert moments(np.array(draws)) == pytest.approx((np.sqrt(2), 0))


@pytest.mark.parametrize("units", [1, 2, 4])
def test_too_few_units_have_no_interval_and_a_reason(units: int) -> None:
    values = np.random.default_rng(2).normal(size=12)
    found = mean_of(values, np.arange(12) % units)
    assert found.defined and np.isnan([found.low, found.high]).all()
    assert found.reason is not None and "fewer than 5" in found.reason


def test_copies_of_prompts_add_nothing_if_they_are_named_as_groups() -> None:
    values = np.random.default_rng(3).normal(size=15)
    once, thrice = mean_of(values), mean_of(np.repeat(values, 3), np.repeat(np.arange(15), 3))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))


@pytest.mark.parametrize("missing", [None, np.nan])
def test_prompts_without_a_group_are_drawn_alone(missing: object) -> None:
    """As if each had a name of its own, which comes after the others."""
    readings = np.arange(12) % 3 == 0
    values = np.random.default_rng(3).normal(size=12)
    names: list[object] = ["b", "a", "b", "a", *[missing] * 8]
    named = ["b", "a", "b", "a", *(f"c{i}" for i in range(8))]
    assert unit_count(names) == 10
    assert mean_of(values, names) == mean_of(values, named)
    assert share_of(readings, names) == share_of(readings, named)
    assert auc_of(values, readings, names) == auc_of(values, readings, named)


def test_an_interval_ends_at_the_limits_of_its_quantity() -> None:
    draws = np.random.default_rng(4).normal(0.98, 0.05, size=500)
    assert Draws(0.98, draws, 12, limits=(0, 1)).estimate().high == 1


@given(st.integers(0, 30), st.integers(1, 30))
def test_shares_of_independent_readings_are_wilson_s(successes: int, extra: int) -> None:
    n = successes + extra
    readings = np.arange(n) < successes
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    for found in (rate_of(successes, n), share_of(readings, np.arange(n))):
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert not rate_of(0, 0).defined


@pytest.mark.parametrize("share", [0, 1])
def test_readings_that_are_all_alike_count_each_group_once(share: int) -> None:
    found = share_of(np.full(48, share), np.repeat(np.arange(12), 4))
    alone = rate_of(12 * share, 12)
    assert found.high - found.low > alone.high - alone.low > 0.2
    assert (found.low if share == 0 else found.high) == share


def test_groups_widen_a_share_and_never_narrow_it() -> None:
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(12), 4)
    alike = np.repeat(rng.random(12) < 0.5, 4)
    apart = np.tile([0, 1, 0, 1], 12)
    plain = rate_of(24, 48)
    assert share_of(alike, groups).high - share_of(alike, groups).low > 1.5 * (
        plain.high - plain.low
    )
    balanced = share_of(apart, groups)
    assert balanced.high - balanced.low >= plain.high - plain.low


def test_a_share_that_fell_from_all_to_none_has_an_interval() -> None:
    low, high = share_ratio_bounds(np.zeros(12), np.ones(12))
    assert low == 0 and 0.1 < high < 0.4
    low, high = share_ratio_bounds(np.ones(12), np.ones(12))
    assert low < 0.85 and high > 1.1


def test_two_equal_readings_differ_by_zero_with_a_width() -> None:
    alike = share_difference(np.ones(24), np.ones(24))
    assert alike.value == 0 and alike.low < -0.05 and alike.high > 0.05
    readings = np.random.default_rng(6).random(40) < 0.5
    paired = share_difference(readings.astype(float), readings.astype(float))
    shuffled = share_difference(np.sort(readings).astype(float), readings.astype(float))
    assert 0 < paired.high < shuffled.high  # the pairing narrows it


def test_an_auc_of_one_is_not_certain() -> None:
    low, high = auc_interval(1.0, 6, 6)
    assert 0.5 < low < 0.85 and high == 1
    assert auc_interval(0.0, 6, 6) == pytest.approx((0.0, 1 - low))
    narrow = auc_interval(1.0, 60, 60)
    assert narrow[0] > 0.95
