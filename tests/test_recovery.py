"""Recovery on curves with a planted answer; undefined where there is nothing to recover."""

from __future__ import annotations

import numpy as np
import pytest

from analyses.runs import measure, recover
from tests.synthetic_run import PLANTED_LEAKAGE, as_scores, scores_of

PLAIN = PLANTED_LEAKAGE["safety"]
OTHERS = [domain for domain in PLAIN if domain != "safety"]


def _arm(leakage, seed=0, **planted):
    scores = scores_of("arm", leakage, rng=np.random.default_rng(seed), **planted)
    return measure(scores, "safety", resamples=200)


def _scaled(share, domains):
    return PLAIN | {domain: PLAIN[domain] * share for domain in domains}


@pytest.mark.parametrize(("left", "expected"), [(1.0, 0.0), (0.0, 1.0), (0.3, 0.7)])
def test_planted_recovery_is_found(left, expected):
    found = recover(_arm(PLAIN), _arm(_scaled(left, OTHERS)), OTHERS)
    assert found.recovery.value == pytest.approx(expected, abs=0.03)
    assert found.recovery.estimate().low - 0.03 <= expected <= found.recovery.estimate().high + 0.03
    assert "sensitive" not in found.domains  # low base
    assert "safety" not in recover(_arm(PLAIN), _arm(PLAIN), PLAIN).domains


def test_the_same_arm_recovers_exactly_nothing():
    """Arms on the same prompts meet the same resamples: no difference, no width."""
    arm = _arm(PLAIN)
    interval = recover(arm, arm, OTHERS).recovery.estimate()
    assert (interval.value, interval.low, interval.high) == pytest.approx((0, 0, 0), abs=1e-12)


@pytest.mark.slow
def test_intervals_cover_the_recovery_of_the_population():
    """Prompts that differ in level and in how fast they go, under both arms alike."""
    steps = np.linspace(0, 1, 16)

    def arms(prompts: int, rng: np.random.Generator):
        shares = {"a": (1.0, 1.0), "b": (0.3, 0.12), "c": (0.2, 0.05)}
        plain, contained = {}, {}
        for split in ("validation", "test"):
            for domain, (lost, still_lost) in shares.items():
                start = rng.beta(12, 2, (prompts, 1))
                pace = 10 * rng.gamma(4, 0.25, (prompts, 1))
                plain[domain, split] = start * np.exp(-lost * pace * steps)
                contained[domain, split] = start * np.exp(-still_lost * pace * steps)
        resamples = 2 if prompts > 1000 else 200
        return [measure(as_scores(paths), "a", resamples=resamples) for paths in (plain, contained)]

    truth = recover(*arms(5_000, np.random.default_rng(7)), ["b", "c"]).recovery.value
    rng = np.random.default_rng(8)
    intervals = [recover(*arms(40, rng), ["b", "c"]).recovery.estimate() for _ in range(60)]
    covered = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.85 <= covered <= 1.0


def test_a_loss_below_zero_counts_and_is_also_shown_as_overshoot():
    half = _scaled(0.0, OTHERS) | {"toxicity": -0.05, "bias": PLAIN["bias"]}
    found = recover(_arm(PLAIN), _arm(half), ["toxicity", "bias"])
    lost = PLAIN["toxicity"] + PLAIN["bias"]
    assert found.recovery.value == pytest.approx((PLAIN["toxicity"] + 0.05) / lost, abs=0.03)
    assert found.overshoot.value == pytest.approx(0.05 / lost, abs=0.03)


def test_recovery_is_undefined_with_a_reason():
    arm, short = _arm(PLAIN), _arm(PLAIN, level_at_end=0.5)
    for found in (
        recover(arm, short, OTHERS),
        recover(short, arm, OTHERS),
        recover(arm, arm, []),
        recover(arm, arm, OTHERS, obstacle="the contained arm is degenerate"),
        recover(_arm(_scaled(0.0, OTHERS)), arm, OTHERS),
    ):
        assert not found.recovery.estimate().defined and found.recovery.reason


def test_the_reason_is_that_of_the_domains_where_none_has_a_leakage():
    starts = {("a", "validation"): 0.9, ("a", "test"): 0.9, ("b", "test"): 0.9}
    paths = {name: np.tile([rate, 0.01], (6, 1)) for name, rate in starts.items()}
    two = measure(as_scores(paths), "a", resamples=20)
    assert two.reached and "scored at 2 steps" in recover(two, two, ["b"]).recovery.reason


def test_the_source_is_low_by_the_prompts_that_decide():
    """By the validation prompts, whatever the test prompts say."""
    level = np.linspace(0, 0.98, 11)
    rates = {("a", "validation"): 0.1, ("a", "test"): 0.9, ("b", "test"): 0.9}
    paths = {name: np.tile(rate * (1 - level), (6, 1)) for name, rate in rates.items()}
    low = measure(as_scores(paths), "a", resamples=20)
    assert low.low_source and not low.reached
    assert recover(low, low, ["b"]).recovery.reason == "low base in the source, a"


def test_domains_whose_prompts_are_alike_leave_the_sum_no_width():
    """Also where one domain refuses more than before: it counts alike in the value and in draws."""
    level = np.linspace(0, 0.98, 11)

    def arm(**lost):
        paths = {("a", "validation"): 1.0, ("a", "test"): 1.0}
        paths |= {(domain, "test"): share for domain, share in lost.items()}
        alike = {name: np.tile(0.5 * (1 - share * level), (6, 1)) for name, share in paths.items()}
        return measure(as_scores(alike), "a", resamples=30)

    found = recover(arm(b=0.5, c=0.6, d=0.05), arm(b=0.2, c=-0.3, d=0.9), ["b", "c", "d"])
    assert found.domains == ("b", "c")  # d did not leak
    for draws in (found.recovery, found.overshoot):
        assert draws.draws == pytest.approx(draws.value, abs=1e-9)
    assert found.overshoot.value == pytest.approx(0.3 / 1.1)
