"""Leakage against closed forms, its invariances, its verdict, and the coverage of its intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.runs import (
    Inputs,
    TargetOutcome,
    TargetVerdict,
    at_crossing,
    measure,
    running_maximum,
    trajectories,
    with_clusters,
)
from analyses.runs.leakage import area, leakage_curves, untouched_p_value
from interp.errors import InputError
from interp.statistics import Draws, Estimate, mean_of, rate_of, resampling_weights, weighted_means
from tests.synthetic_run import LAG, PLANTED_LEAKAGE, STEPS, as_scores, scores_of

LEVEL = np.linspace(0, 1, 2001)


@pytest.mark.parametrize("tau", [0.5, 0.9])
@pytest.mark.parametrize(
    ("curve", "expected_crossing", "expected_area"),
    [
        (lambda x: x, lambda t: t, lambda t: 1.0),
        (lambda x: 0 * x, lambda t: 0.0, lambda t: 0.0),
        (lambda x: 0.3 * x, lambda t: 0.3 * t, lambda t: 0.3),
        (lambda x: x**2, lambda t: t**2, lambda t: 2 * t / 3),
        (lambda x: np.sqrt(x), np.sqrt, lambda t: 4 / (3 * np.sqrt(t))),  # falls first: A > 1
    ],
)
def test_closed_forms(tau, curve, expected_crossing, expected_area):
    assert at_crossing(LEVEL, curve(LEVEL), tau) == pytest.approx(expected_crossing(tau), abs=1e-4)
    assert area(LEVEL, curve(LEVEL), tau) == pytest.approx(expected_area(tau), abs=1e-4)


def test_the_integral_stops_exactly_at_tau_between_steps():
    """In step with the target, A = 1 and L = τ on any grid, however coarse and whatever follows."""
    level = np.array([0.0, 0.2, 1.0])
    assert area(level, level, 0.9) == pytest.approx(1.0)
    assert at_crossing(level, level, 0.9) == pytest.approx(0.9)
    longer, wild = np.array([0.0, 0.2, 1.0, 1.0, 1.0]), np.array([0.0, 0.2, 1.0, -7.0, 40.0])
    assert area(longer, wild, 0.9) == pytest.approx(1.0)


def test_a_level_that_is_not_reached_gives_nothing():
    assert np.isnan(area(LEVEL * 0.8, LEVEL, 0.9))
    assert np.isnan(at_crossing(LEVEL * 0.8, LEVEL, 0.9))
    assert at_crossing(LEVEL * 0.8, LEVEL, 0.5) == pytest.approx(0.625, abs=1e-3)


def test_the_forgetting_level_never_falls_and_ignores_a_rise_of_refusal():
    """First steps that RAISE the target's refusal, or a relapse, add nothing to the area."""
    level = running_maximum(np.array([0.0, -0.2, 0.4, 0.3, 1.0]))
    assert level.tolist() == [0.0, 0.0, 0.4, 0.4, 1.0]
    aside = np.array([0.0, 0.5, 0.4, 0.4, 1.0])  # what u_b does while the level rests is left out
    assert area(level, aside) == pytest.approx(area(level[[1, 2, 3, 4]], aside[[1, 2, 3, 4]]))


def _planted(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return scores_of("arm", PLANTED_LEAKAGE["cybersecurity"], rng=rng)


def test_planted_leakage_is_found_and_low_bases_are_marked():
    found = measure(_planted(), "cybersecurity", resamples=200)
    assert found.reached
    for domain, share in PLANTED_LEAKAGE["cybersecurity"].items():
        if domain == "sensitive":  # planted with a base rate of .15
            assert not found.estimate("L_90", domain).defined
            assert found.estimate("L_90", domain).reason == "low base"
            assert found.estimate("log_odds_drop", domain).defined
        elif domain == "cybersecurity":  # its test prompts lag behind those of its level
            assert found.estimate("L_90", domain).value == pytest.approx(0.9**LAG, abs=0.02)
        else:
            assert found.estimate("L_90", domain).value == pytest.approx(0.9 * share, abs=0.02)
            assert found.estimate("area", domain).value == pytest.approx(share, abs=0.02)


@given(st.lists(st.integers(1, 50), min_size=18, max_size=18), st.integers(0, 5))
@settings(max_examples=10)
def test_retiming_the_steps_changes_nothing(gaps, seed):
    scores = _planted(seed)
    times = np.concatenate([[0], np.cumsum(gaps)])
    retimed = scores.assign(step=times[scores["step"].to_numpy()])
    tables = [
        measure(rows, "cybersecurity", resamples=20).to_dataframe() for rows in (scores, retimed)
    ]
    # An onset is a step, and says so.
    before, after = (table[table["quantity"] != "onset"] for table in tables)
    pd.testing.assert_frame_equal(before, after)


def test_the_order_of_rows_changes_nothing():
    scores = _planted()
    shuffled = scores.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(
        measure(scores, "cybersecurity", resamples=20).to_dataframe(),
        measure(shuffled, "cybersecurity", resamples=20).to_dataframe(),
    )


def test_curves_start_at_zero_pass_where_the_drop_is_and_go_on():
    scores = _planted()
    curves = leakage_curves(scores, "cybersecurity", resamples=50)
    assert (curves.loc[curves["step"] == 0, ["dose", "value", "low", "high"]] == 0).all(axis=None)
    of_safety = curves[curves["domain"] == "safety"].set_index("step")["value"]
    drop = measure(scores, "cybersecurity", resamples=50).estimate("drop", "safety").value
    assert of_safety[STEPS] == pytest.approx(drop)
    assert of_safety.index.max() > STEPS and of_safety.iloc[-1] < 0.8 * drop


def test_without_a_source_only_the_drop_exists():
    found = measure(_planted(), None, resamples=20)
    assert set(found.quantities) == {"drop", "text_drop", "log_odds_drop"} and not found.reached


def test_the_loss_of_refusal_in_text_stands_beside_that_of_mass():
    scores = _planted()
    found = measure(scores, "cybersecurity", resamples=100)
    for domain in ("safety", "toxicity", "privacy"):
        text, mass = (found.estimate(name, domain) for name in ("text_drop", "drop"))
        assert text.value == pytest.approx(mass.value, abs=0.1)
    for written in ("boolean", object):  # as different writers leave the column
        same = scores.assign(refused=scores["refused"].astype("boolean").astype(written))
        again = measure(same, "cybersecurity", resamples=10).estimate("text_drop", "safety")
        assert again.value == found.estimate("text_drop", "safety").value
    silent = measure(scores.drop(columns="refused"), "cybersecurity", resamples=10)
    assert "no text" in (silent.estimate("text_drop", "safety").reason or "")


def test_bad_scores_are_named():
    scores = _planted()
    with pytest.raises(InputError, match="step 0"):
        trajectories(scores[scores["step"] > 0], "test")
    torn = scores.drop(scores.index[(scores["label"] == "harmful") & (scores["step"] == 3)][0])
    with pytest.raises(InputError, match="every step"):
        trajectories(torn, "validation")
    with pytest.raises(InputError, match="no harmful validation prompts of astrology"):
        measure(scores, "astrology")


def test_prompts_of_one_cluster_are_drawn_together():
    clusters = np.repeat(np.arange(10), 3)
    weights = resampling_weights(clusters, 50, 0, "test/a")
    assert (weights.reshape(50, 10, 3) == weights.reshape(50, 10, 3)[..., :1]).all()
    assert (weights.sum(axis=1) == 27).all()  # all clusters but one
    values = np.repeat(np.random.default_rng(0).normal(size=10), 3)  # three copies say no more
    together, apart = mean_of(values, clusters), mean_of(values)
    assert together.high - together.low > 1.4 * (apart.high - apart.low)


def test_a_cluster_column_widens_the_interval():
    scores = _planted()
    scores["cluster"] = scores["prompt_id"].str.slice(0, -1)  # ten prompts a cluster
    wide = measure(scores, "cybersecurity", resamples=300).estimate("log_odds_drop", "safety")
    plain = measure(_planted(), "cybersecurity", resamples=300).estimate("log_odds_drop", "safety")
    assert wide.value == plain.value and wide.high - wide.low != plain.high - plain.low


def test_undefined_numbers_are_null_with_a_reason():
    assert Estimate.undefined("low base", 7).to_json() == {
        "value": None,
        "low": None,
        "high": None,
        "n": 7,
        "reason": "low base",
    }
    half = Draws(0.4, np.array([0.3, np.nan, 0.5, np.nan]), 9).estimate()
    assert half.value == 0.4 and np.isnan(half.low) and "50%" in (half.reason or "")


def _draws_of(values: np.ndarray, rng: np.random.Generator) -> Draws:
    weights = rng.multinomial(values.size, np.full(values.size, 1 / values.size), 400)
    return Draws(float(values.mean()), weights @ values / values.size, values.size)


def test_does_not_leak_is_claimed_at_most_at_the_nominal_rate():
    """At the edge of the margin, |L| = .05, TOST at 5% says "untouched" in about 5% of cases."""
    rng = np.random.default_rng(0)
    samples = [_draws_of(rng.normal(0.05, 0.08, 40), rng) for _ in range(400)]
    claims = np.mean([untouched_p_value(sample) < 0.05 for sample in samples])
    assert 0.01 <= claims <= 0.09
    untouched = [_draws_of(rng.normal(0, 0.08, 60), rng) for _ in range(100)]
    assert np.mean([untouched_p_value(sample) < 0.05 for sample in untouched]) > 0.9
    leaks = [_draws_of(rng.normal(0.2, 0.08, 60), rng) for _ in range(100)]
    assert not any(untouched_p_value(sample) < 0.05 for sample in leaks)
    assert np.isnan(untouched_p_value(Draws.undefined("low base")))


def _verdict(refusal: float, answer: float, other: float, n: int = 1000) -> TargetVerdict:
    rates = (rate_of(round(share * n), n) for share in (refusal, answer))
    return TargetVerdict(
        *rates, Estimate(other, other - 0.01, other + 0.01, n), Estimate(0.01, 0, 0.02, n)
    )


@pytest.mark.parametrize(
    ("refusal", "answer", "other", "outcome"),
    [
        (0.02, 0.97, 0.01, TargetOutcome.COMPLIED),
        (0.10, 0.80, 0.06, TargetOutcome.COMPLIED),  # every threshold is included
        (0.02, 0.50, 0.48, TargetOutcome.DEGENERATE),
        (0.02, 0.97, 0.30, TargetOutcome.DEGENERATE),  # the mass went elsewhere
        (0.60, 0.40, 0.01, TargetOutcome.STILL_REFUSES),
    ],
)
def test_verdicts(refusal, answer, other, outcome):
    assert _verdict(refusal, answer, other).outcome is outcome


def test_a_verdict_on_few_prompts_is_not_decided():
    assert _verdict(0.02, 0.97, 0.01).decided
    assert not _verdict(0.0, 0.85, 0.01, n=20).decided
    nothing = Estimate.undefined("no text")
    assert TargetVerdict(nothing, nothing, nothing, nothing).outcome is TargetOutcome.UNKNOWN


def test_onset_is_the_step_at_which_half_of_a_domain_is_gone() -> None:
    """Planted: each domain's p_R falls linearly, to a tenth, or to three quarters of itself."""
    steps = np.arange(11)
    rows = [
        {
            "prompt_id": f"{domain} {split} {n}", "domain": domain, "label": "harmful",
            "split": split, "step": int(step), "p_R": 0.8 * (1 - (1 - left) * step / 10),
            "margin": 0.0,
        }
        for domain, left in (("safety", 0.1), ("bias", 0.3), ("privacy", 0.75))
        for split in ("validation", "test")
        for n in range(5)
        for step in steps
    ]  # fmt: skip
    found = measure(pd.DataFrame(rows), "safety", resamples=20)
    for domain, gone in (("safety", 0.9), ("bias", 0.7)):
        onset = found.estimate("onset", domain)
        assert onset.value == pytest.approx(10 * 0.5 / gone)
        assert onset.low == pytest.approx(onset.value) == onset.high
    never = found.estimate("onset", "privacy")
    assert not never.defined and never.reason == "half of it was never gone"


# What is read where: planted curves, exact where all prompts of a domain are alike


def _alike(curves: dict[tuple[str, str], list[float]], prompts: int = 6) -> pd.DataFrame:
    """Scores in which every prompt of a domain and split has the same p_R at every step."""
    return as_scores({name: np.tile(curve, (prompts, 1)) for name, curve in curves.items()})


FALLING = st.lists(st.floats(0.01, 0.99), min_size=4, max_size=9)


@given(FALLING, FALLING, st.floats(0.3, 0.95))
@settings(max_examples=15)
def test_where_all_prompts_are_alike_no_resample_differs(
    source: list[float], other: list[float], start: float
) -> None:
    """Whatever the curves do: they rise again after a fall, and go on past the crossing."""
    steps = min(len(source), len(other))
    source, other = ([start, *curve[:steps]] for curve in (source, other))
    scores = _alike({("a", "validation"): source, ("a", "test"): source, ("b", "test"): other})
    found = measure(scores, "a", resamples=20)
    for quantity, by_domain in found.quantities.items():
        for domain, draws in by_domain.items():
            if np.isfinite(draws.value):
                assert draws.draws == pytest.approx(draws.value, abs=1e-9), (quantity, domain)


@given(st.floats(0.05, 1.0), st.sampled_from([0.5, 0.9]))
@settings(max_examples=8)
def test_the_level_is_of_validation_prompts_and_what_leaks_of_test_prompts(
    share: float, tau: float
) -> None:
    """Each split has a curve of its own; the other domain's validation prompts count nowhere."""
    level = np.linspace(0, 0.98, 11)
    scores = _alike(
        {
            ("a", "validation"): list(0.9 * (1 - level)),
            ("a", "test"): list(0.9 * (1 - level**3)),
            ("b", "validation"): list(0.9 * (1 - level**2)),
            ("b", "test"): list(0.8 * (1 - share * level)),
        }
    )
    found = measure(scores, "a", resamples=5)
    name = f"L_{round(100 * tau)}"
    assert found.estimate(name, "b").value == pytest.approx(share * tau)
    assert found.estimate("area", "b").value == pytest.approx(share)
    assert found.estimate(name, "a").value == pytest.approx(
        np.interp(tau, level, level**3)  # between its scored steps a curve is straight
    )
    curves = leakage_curves(scores, "a", resamples=5)
    of_b = curves[curves["domain"] == "b"]
    assert of_b["dose"].to_numpy() == pytest.approx(level)
    assert of_b["value"].to_numpy() == pytest.approx(share * level)


def test_losses_are_read_at_the_step_that_was_kept_although_the_curve_goes_on() -> None:
    """Text is generated before, and at the step whose weights are kept."""
    source, other = [0.9, 0.5, 0.05, 0.02, 0.01], [0.8, 0.7, 0.6, 0.3, 0.1]
    scores = _alike({("a", "validation"): source, ("a", "test"): source, ("b", "test"): other})
    kept = 2
    number = scores["prompt_id"].str.slice(-1).astype(int)
    refuses = np.where(scores["step"] == 0, number < 6, number < 3)
    has_text = scores["step"].isin([0, kept])
    scores["class"] = np.where(has_text, np.where(refuses, "refusal", "answer"), None)
    scores["refused"] = np.where(has_text, refuses, np.nan)
    found = measure(scores, "a", resamples=200)
    assert found.estimate("drop", "b").value == pytest.approx(1 - 0.6 / 0.8)
    # All prompts have the same curve, so a resample of them has it, too.
    assert found.quantities["drop"]["b"].draws == pytest.approx(1 - 0.6 / 0.8)
    fall = np.log(0.8 / 0.2) - np.log(0.6 / 0.4)
    assert found.estimate("log_odds_drop", "b").value == pytest.approx(fall)
    text = found.estimate("text_drop", "b")
    assert text.value == pytest.approx(0.5)
    # Half of the texts refuse, so other prompts would give another share.
    assert text.low < 0.5 < text.high
    assert found.quantities["text_drop"]["b"].standard_error > 0.05


def test_a_text_that_is_missing_is_not_one_that_complied() -> None:
    curve = [0.9, 0.5, 0.05]
    scores = _alike({("a", "validation"): curve, ("a", "test"): curve})
    ends = scores["step"].isin([0, 2])
    scores["class"] = np.where(ends, "refusal", None)
    scores["refused"] = np.where(ends, 1.0, np.nan)
    whole = measure(scores, "a", resamples=20).estimate("text_drop", "a")
    assert whole.value == 0
    first = scores.index[(scores["split"] == "test") & (scores["step"] == 2)][0]
    scores.loc[first, ["class", "refused"]] = None, np.nan
    torn = measure(scores, "a", resamples=20).estimate("text_drop", "a")
    assert (not torn.defined and "no text" in (torn.reason or "")) or torn.value == 0


def test_a_source_that_hardly_refused_reaches_nothing_whatever_its_test_prompts_did() -> None:
    gone = [1.0, 0.5, 0.01]
    scores = _alike(
        {("a", "validation"): [0.15 * x for x in gone], ("a", "test"): [0.9 * x for x in gone]}
    )
    low = measure(scores, "a", resamples=5)
    assert not low.reached
    assert "low base in the source" in (low.estimate("area", "a").reason or "")
    scores = _alike(
        {("a", "validation"): [0.9 * x for x in gone], ("a", "test"): [0.15 * x for x in gone]}
    )
    assert measure(scores, "a", resamples=5).reached


@pytest.mark.parametrize("tau", [0.5, 0.9])
def test_a_level_that_is_reached_exactly_is_reached(tau: float) -> None:
    """At a scored step there is nothing to interpolate, whatever comes next."""
    drop = np.array([0.0, 0.3, 0.8])
    for after in (tau, 1.0):
        assert at_crossing(np.array([0.0, tau, after]), drop, tau) == pytest.approx(0.3)
    assert at_crossing(np.array([0.0, tau / 2, tau]), drop, tau) == pytest.approx(0.8)
    assert np.isfinite(area(np.array([0.0, tau / 2, tau]), drop, tau))


def test_resamples_differ_by_seed_and_by_stratum_and_by_nothing_else() -> None:
    first = resampling_weights(12, 8, 0, "test/a")
    assert np.array_equal(first, resampling_weights(12, 8, 0, "test/a"))
    for other in (
        resampling_weights(12, 8, 1, "test/a"),
        resampling_weights(12, 8, 0, "test/b"),
        resampling_weights(12, 8, 0, "validation/a"),
    ):
        assert not np.array_equal(first, other)
    assert len({row.tobytes() for row in first}) > 4  # of eight resamples of twelve prompts


@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=9).filter(lambda labels: len(set(labels)) > 1),
    st.integers(0, 99),
)
@settings(max_examples=40)
def test_a_resample_s_mean_is_that_of_the_prompts_it_drew(clusters: list[int], seed: int) -> None:
    """Also where clusters are of unequal size, so that resamples differ in their number."""
    values = np.random.default_rng(seed).normal(size=(len(clusters), 2))
    weights = resampling_weights(np.array(clusters), 5, seed, "x", fewest=2)
    means = weighted_means(values, weights)
    assert means == pytest.approx(
        np.array([np.average(values, axis=0, weights=row) for row in weights])
    )
    assert weighted_means(values[:, 0], weights) == pytest.approx(means[:, 0])
    assert weighted_means(np.full(len(clusters), 7.0), weights) == pytest.approx(7.0)


def test_a_repeated_prompt_is_one_unit() -> None:
    """By its text or its group; without repeats nothing is marked."""
    scores = _planted()
    names = scores["prompt_id"].unique()
    prompts = pd.DataFrame({"id": names, "prompt": [f"{name}? " for name in names]})
    assert "cluster" not in with_clusters(scores, prompts)
    twos = [f"{name[:-3]}{int(name[-3:]) // 2}" for name in names]
    prompts["prompt"] = [f"{two}?" + " " * (i % 2) for i, two in enumerate(twos)]
    copies = with_clusters(scores, prompts)
    grouped = with_clusters(scores, prompts.assign(group=twos))
    one, other = (
        measure(table, "cybersecurity", resamples=300).estimate("log_odds_drop", "safety")
        for table in (copies, grouped)
    )
    assert copies["cluster"].nunique() == grouped["cluster"].nunique() < len(names)
    assert one.value == other.value
    assert one.high - one.low == pytest.approx(other.high - other.low, rel=0.3)


def test_an_input_that_became_part_of_the_key_leaves_older_results_finished() -> None:
    parts = {"model": "m", "stops": [1], "configuration": "c"}
    now = Inputs(("training",), parts, added=("stops", "configuration"))
    for known in ({"model"}, {"model", "stops"}, set(parts)):
        older = Inputs(("training",), {name: parts[name] for name in parts if name in known})
        assert older.key in now
    assert Inputs(("training",), {**parts, "stops": [2]}).key not in now


def test_an_input_that_left_the_key_leaves_older_results_finished() -> None:
    parts = {"model": "m", "stops": [1]}
    now = Inputs(("training",), parts, added=("stops",), dropped={"micro": 4})
    for older in ({**parts, "micro": 4}, {"model": "m", "micro": 4}):
        assert Inputs(("training",), older).key in now
    assert Inputs(("training",), {**parts, "micro": 2}).key not in now
