"""How well a prediction ranks leakage: identities, what is planted, and pure noise."""

from __future__ import annotations

import numpy as np
import pytest

from analyses.predict import LeakageOutcome, skill
from analyses.predict.accuracy import PARTS
from analyses.runs import over_worlds

DOMAINS = 7


def matrix(rng: np.random.Generator, *, source: float = 0, target: float = 0) -> np.ndarray:
    """Noise in every cell, and effects of a source and of a target of these sizes."""
    found = rng.normal(size=(DOMAINS, DOMAINS))
    found += source * rng.normal(size=(DOMAINS, 1)) + target * rng.normal(size=(1, DOMAINS))
    np.fill_diagonal(found, np.nan)
    return found


def only(prediction: np.ndarray, outcome: LeakageOutcome) -> dict[str, float]:
    return {part: float(v[0]) for part, v in outcome.of(prediction[None]).items()}


def test_leakage_itself_is_a_perfect_prediction_in_any_unit() -> None:
    leakage = matrix(np.random.default_rng(0), source=1, target=1)
    for prediction in (leakage, 3 * leakage - 2):
        found = only(prediction, LeakageOutcome(leakage))
        assert found == pytest.approx(dict.fromkeys(PARTS, 1.0))
    assert only(-leakage, LeakageOutcome(leakage)) == pytest.approx(dict.fromkeys(PARTS, -1.0))


def test_a_prediction_by_target_alone_says_nothing_of_sources_and_pairs() -> None:
    rng = np.random.default_rng(1)
    leakage = matrix(rng, target=2)
    target_effect = np.nanmean(leakage, axis=0)
    found = only(np.tile(target_effect, (DOMAINS, 1)), LeakageOutcome(leakage))
    assert found["susceptibility"] > 0.9 and found["within_source"] > 0.6
    assert np.isnan(found["potency"]) and np.isnan(found["entanglement"])


def test_a_prediction_of_what_belongs_to_the_pair_survives_other_main_effects() -> None:
    rng = np.random.default_rng(2)
    pairs = matrix(rng)
    other = matrix(rng, source=5, target=5) - matrix(rng)
    found = only(pairs + 10 * rng.normal(size=(DOMAINS, 1)), LeakageOutcome(pairs))
    assert found["entanglement"] == pytest.approx(1.0)
    assert found["within_source"] == pytest.approx(1.0)
    assert np.isfinite(only(other, LeakageOutcome(pairs))["entanglement"])


def test_domains_may_come_in_any_order_and_cells_may_be_missing() -> None:
    rng = np.random.default_rng(3)
    leakage, prediction = matrix(rng, source=1), matrix(rng, source=1)
    leakage[2] = np.nan  # a degenerate source
    leakage[4, 5] = np.nan
    order = rng.permutation(DOMAINS)
    moved = only(prediction[np.ix_(order, order)], LeakageOutcome(leakage[np.ix_(order, order)]))
    assert moved == pytest.approx(only(prediction, LeakageOutcome(leakage)))
    prediction[2] = 99  # cells that were not measured count for nothing
    assert only(prediction, LeakageOutcome(leakage)) == pytest.approx(moved)


def test_an_undefined_cell_counts_as_average() -> None:
    rng = np.random.default_rng(4)
    leakage, prediction = matrix(rng), matrix(rng)
    holed = prediction.copy()
    holed[1, 2] = np.nan
    cells = np.isfinite(holed)
    filled = np.where(cells, holed, holed[cells].mean())
    np.fill_diagonal(filled, np.nan)
    assert only(holed, LeakageOutcome(leakage)) == pytest.approx(
        only(filled, LeakageOutcome(leakage))
    )


@pytest.mark.parametrize("effects", [0.0, 2.0])
def test_noise_is_significant_at_the_nominal_rate(effects: float) -> None:
    """In every part, with and without main effects in both: cells of a matrix are dependent."""
    rng = np.random.default_rng(5)
    significant = dict.fromkeys(PARTS, 0)
    repeats = 200
    for _ in range(repeats):
        outcomes = [LeakageOutcome(matrix(rng, source=effects, target=effects)) for _ in range(2)]
        noise = [matrix(rng, source=effects, target=effects) for _ in outcomes]
        found = skill(noise, outcomes, seed=0, permutations=199)
        for part in PARTS:
            significant[part] += found[part].p <= 0.05
    # 99.9% of binomial counts at .05 lie within these.
    assert all(1 <= count <= 22 for count in significant.values()), significant


def test_what_a_prediction_says_of_a_domain_and_itself_is_no_part_of_its_null() -> None:
    """Rows and columns are permuted together, so that the diagonal stays the diagonal."""
    rng = np.random.default_rng(8)
    outcomes = [LeakageOutcome(matrix(rng)) for _ in range(2)]
    plain = [matrix(rng) for _ in outcomes]
    loud = [np.where(np.eye(DOMAINS, dtype=bool), 99.0, one) for one in plain]
    one, other = (skill(p, outcomes, seed=0, permutations=99) for p in (plain, loud))
    for part in PARTS:
        assert (one[part].p, one[part].null_high) == (other[part].p, other[part].null_high)


def test_planted_skill_is_found_with_an_interval_that_holds_it() -> None:
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(60):
        outcomes, predictions = [], []
        for _ in range(12):
            leakage = matrix(rng)
            outcomes.append(LeakageOutcome(leakage))
            predictions.append(leakage + rng.normal(size=leakage.shape))
        found = skill(predictions, outcomes, seed=0, permutations=99)["all_pairs"]
        assert found.p == 0.01 and found.value > found.null_high
        covered += found.low <= 0.69 <= found.high  # Spearman of r = 1/√2, over 42 cells
    assert covered >= 48


def test_worlds_and_predictions_are_as_many() -> None:
    worlds = [LeakageOutcome(matrix(np.random.default_rng(seed))) for seed in (0, 1)]
    with pytest.raises(ValueError):
        skill([matrix(np.random.default_rng(0))], worlds, seed=0, permutations=9)


def test_one_world_has_no_interval() -> None:
    rng = np.random.default_rng(7)
    found = skill([matrix(rng)], [LeakageOutcome(matrix(rng))], seed=0, permutations=9)["all_pairs"]
    assert np.isfinite(found.value) and np.isnan(found.low) and found.worlds == (found.value,)


def test_a_flat_outcome_has_no_correlation_with_anything() -> None:
    """Flat but for rounding: one target effect for all targets, no interaction."""
    rng = np.random.default_rng(9)
    flat = np.add.outer(rng.normal(size=7), np.zeros(7)) / 3
    found = LeakageOutcome(flat).of(matrix(rng)[None])
    assert np.isnan(
        [found[part][0] for part in ("susceptibility", "within_source", "entanglement")]
    ).all()
    assert np.isfinite([found[part][0] for part in ("all_pairs", "potency")]).all()


def test_the_interval_over_worlds_is_student_s_within_the_range_of_a_correlation() -> None:
    rng = np.random.default_rng(10)
    leakage = [matrix(rng) for _ in range(3)]
    noisy = [one + rng.normal(size=one.shape) for one in leakage]
    outcomes = [LeakageOutcome(one) for one in leakage]
    for predictions in (noisy, leakage):
        found = skill(predictions, outcomes, seed=0, permutations=9)["all_pairs"]
        student = over_worlds(found.worlds)
        expected = np.clip([student.low, student.high], -1, 1)
        assert [found.low, found.high] == pytest.approx(expected)
