"""Predictors beside one another: least squares as it is, a proxy that is not the cause, noise."""

from __future__ import annotations

import numpy as np
import pytest

from analyses.predict import LeakageOutcome, skill
from analyses.predict.joint import PARTS, joint, regression
from interp.errors import InputError

DOMAINS = 7
APART = ~np.eye(DOMAINS, dtype=bool)
NO_ORDERS = np.zeros((0, DOMAINS), dtype=int)


def matrix(rng: np.random.Generator, effects: float = 0.0) -> np.ndarray:
    """Noise in every cell, with effects of sources and of targets: cells are dependent."""
    main = rng.normal(size=(DOMAINS, 1)) + rng.normal(size=(1, DOMAINS))
    return rng.normal(size=(DOMAINS, DOMAINS)) + effects * main


def holed(values: np.ndarray) -> np.ndarray:
    return np.where(APART, values, np.nan)


def standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def test_coefficients_and_t_are_those_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    predictors = {name: matrix(rng) for name in "abc"}
    outcome = holed(predictors["a"] - 0.5 * predictors["b"] + matrix(rng))
    x = np.column_stack([np.ones(42), *(standardised(p[APART]) for p in predictors.values())])
    y = standardised(outcome[APART])
    expected, squares, *_ = np.linalg.lstsq(x, y, rcond=None)
    errors = np.sqrt(squares[0] / (42 - 4) * np.diag(np.linalg.inv(x.T @ x)))
    found = regression(predictors, outcome, NO_ORDERS)
    assert [found[name][0] for name in "abc"] == pytest.approx(expected[1:].tolist())
    assert [found[name][1] for name in "abc"] == pytest.approx((expected / errors)[1:].tolist())


def test_a_single_predictor_s_coefficient_is_its_correlation_in_any_unit() -> None:
    rng = np.random.default_rng(1)
    a, outcome = matrix(rng), holed(matrix(rng))
    expected = np.corrcoef(a[APART], outcome[APART])[0, 1]
    for prediction in (a, 1e3 * a - 7):
        value, _, _ = regression({"a": prediction}, outcome, NO_ORDERS)["a"]
        assert value == pytest.approx(expected)


def test_the_interaction_is_least_squares_with_effects_of_sources_and_targets() -> None:
    """Whatever is added to whole rows and columns of leakage or of a prediction changes nothing."""
    rng = np.random.default_rng(2)
    a, b = matrix(rng), matrix(rng)
    outcome = holed(a + matrix(rng))
    other = 3 * (rng.normal(size=(DOMAINS, 1)) + rng.normal(size=(1, DOMAINS)))
    one = regression({"a": a, "b": b}, outcome, NO_ORDERS, part="entanglement")
    moved = regression({"a": a + other, "b": b}, outcome + other, NO_ORDERS, part="entanglement")
    assert moved["a"][1] == pytest.approx(one["a"][1]) and one["a"][1] > 3
    by_target = np.tile(rng.normal(size=DOMAINS), (DOMAINS, 1))
    found = regression({"a": a, "target": by_target}, outcome, NO_ORDERS, part="entanglement")
    assert np.isnan(found["target"][0]) and found["a"][1] == pytest.approx(
        regression({"a": a}, outcome, NO_ORDERS, part="entanglement")["a"][1]
    )


def test_cells_may_be_missing_and_domains_come_in_any_order() -> None:
    rng = np.random.default_rng(3)
    predictors = {name: matrix(rng) for name in "ab"}
    outcome = holed(predictors["a"] + matrix(rng))
    outcome[2] = np.nan  # a degenerate source
    predictors["b"][3, 4] = np.nan  # an undefined cell of a predictor
    one = regression(predictors, outcome, NO_ORDERS)
    order = rng.permutation(DOMAINS)
    permuted = {name: p[np.ix_(order, order)] for name, p in predictors.items()}
    other = regression(permuted, outcome[np.ix_(order, order)], NO_ORDERS)
    for name in "ab":
        assert other[name][:2] == pytest.approx(one[name][:2]) and np.isfinite(one[name][0])


@pytest.mark.parametrize(("part", "effects"), [("all_pairs", 1.5), ("entanglement", 1.5)])
def test_a_proxy_of_the_cause_is_significant_at_the_nominal_rate(part: str, effects: float) -> None:
    """Collinear, with dependent cells: looked at alone the proxy passes nearly always."""
    rng = np.random.default_rng(4)
    repeats = 250
    proxy = alone = found_cause = 0
    for repeat in range(repeats):
        cause = matrix(rng, effects)
        predictors = {"cause": cause, "proxy": cause + matrix(rng, effects)}
        outcome = holed(2 * cause + matrix(rng, effects))
        worlds = {name: [p] for name, p in predictors.items()}
        found = joint(worlds, [outcome], part=part, seed=0, permutations=99)
        proxy += found["proxy"].p <= 0.05
        found_cause += found["cause"].p <= 0.05
        if repeat < 40:
            by_itself = skill(
                [predictors["proxy"]], [LeakageOutcome(outcome)], seed=0, permutations=99
            )
            alone += by_itself[part].p <= 0.05
    assert 3 <= proxy <= 26  # 99.9% of binomial counts of 250 at .05
    assert alone >= 36 and found_cause >= 0.95 * repeats


def test_noise_with_dependent_cells_is_not_found_though_least_squares_finds_it() -> None:
    rng = np.random.default_rng(5)
    joint_found = squares_found = 0
    repeats = 200
    for _ in range(repeats):
        worlds = {name: [matrix(rng, 2.0)] for name in "abc"}
        outcome = holed(matrix(rng, 2.0))
        found = joint(worlds, [outcome], seed=0, permutations=99)
        joint_found += found["a"].p <= 0.05
        one = regression({name: p[0] for name, p in worlds.items()}, outcome, NO_ORDERS)
        squares_found += abs(one["a"][1]) > 2.02  # Student's 97.5% at 38 degrees of freedom
    assert 1 <= joint_found <= 22
    assert squares_found > 30


def test_worlds_together_find_what_each_alone_does_not() -> None:
    rng = np.random.default_rng(6)
    causes, proxies, outcomes = [], [], []
    for _ in range(8):
        cause = matrix(rng, 1.0)
        causes.append(cause)
        proxies.append(cause + matrix(rng, 1.0))
        outcomes.append(holed(0.4 * cause + matrix(rng, 1.0)))
    found = joint({"cause": causes, "proxy": proxies}, outcomes, seed=0)
    assert found["cause"].p < 0.01 < found["proxy"].p
    assert found["cause"].low < found["cause"].value < found["cause"].high
    assert len(found["cause"].worlds) == 8
    lone = joint({"cause": causes[:1]}, outcomes[:1], seed=0, permutations=9)
    assert np.isnan(lone["cause"].low)


def test_a_copy_of_another_predictor_says_nothing_beside_it() -> None:
    rng = np.random.default_rng(7)
    a, constant = matrix(rng), np.ones((DOMAINS, DOMAINS))
    predictors = {"a": [a], "copy": [2 * a + 1], "constant": [constant], "b": [matrix(rng)]}
    for part in PARTS:
        found = joint(predictors, [holed(matrix(rng))], part=part, seed=0, permutations=9)
        said = {name for name, each in found.items() if np.isfinite(each.value)}
        assert said == {"b"} and np.isnan(found["copy"].p)


def test_too_few_cells_are_refused() -> None:
    outcome = np.full((DOMAINS, DOMAINS), np.nan)
    outcome[0, 1:4] = [0.1, 0.2, 0.3]
    with pytest.raises(InputError, match="3 cells are too few for 2 predictors"):
        regression({"a": outcome, "b": outcome}, outcome, NO_ORDERS)
