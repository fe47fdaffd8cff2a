"""Agreement of readings: parity with scikit-learn, planted agreement, chance that stays chance."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from unlearning.scoring import (
    COUNTED,
    MEASURES,
    between,
    by_group,
    class_agreement,
    disagreeing,
    each_way,
    fleiss_kappa,
    kappa_gain,
    scorer_agreement,
)

readings = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)
of_three = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60)


@given(readings)
def test_values_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truth, said = np.array(pairs).T
    found = scorer_agreement(truth, said)
    assert found["accuracy"].value == pytest.approx(metrics.accuracy_score(truth, said))
    for interval, score in (
        (found["precision"], metrics.precision_score),
        (found["recall"], metrics.recall_score),
    ):
        expected = score(truth, said, zero_division=np.nan)
        assert interval.value == pytest.approx(expected, nan_ok=True)
    if len({*truth, *said}) > 1:
        assert found["kappa"].value == pytest.approx(metrics.cohen_kappa_score(truth, said))
    else:
        assert np.isnan(found["kappa"].value)  # one class alone: kappa is 0 / 0


@given(readings)
def test_kappa_and_accuracy_are_symmetric_and_blind_to_polarity(
    pairs: list[tuple[int, int]],
) -> None:
    truth, said = np.array(pairs).T
    one = scorer_agreement(truth, said)
    for other in (scorer_agreement(said, truth), scorer_agreement(1 - truth, 1 - said)):
        assert one["kappa"].value == pytest.approx(other["kappa"].value, nan_ok=True)
        assert one["accuracy"].value == pytest.approx(other["accuracy"].value)


@given(of_three)
def test_the_kappa_of_three_classes_is_the_linearly_weighted_one_of_scikit_learn(
    pairs: list[tuple[int, int]],
) -> None:
    truth, said = np.array(pairs).T
    found = class_agreement(truth / 2, said / 2)
    assert found["accuracy"].value == pytest.approx(metrics.accuracy_score(truth, said))
    if len({*truth, *said}) > 1:
        expected = metrics.cohen_kappa_score(truth, said, labels=[0, 1, 2], weights="linear")
        assert found["kappa"].value == pytest.approx(expected)
        assert found["kappa"].low <= expected <= found["kappa"].high
    else:
        assert np.isnan(found["kappa"].value)


@given(of_three)
def test_the_ways_to_count_partial_refusals_are_those_of_tables_made_by_hand(
    pairs: list[tuple[int, int]],
) -> None:
    truth, said = np.array(pairs).T / 2
    found = each_way(pd.DataFrame({"truth": truth, "said": said}), "truth", "said", None)
    found = found.set_index("partial")
    whole = truth != 0.5
    by_hand = {
        "left out": (truth[whole] == 1, said[whole] == 1),
        "refusal": (truth > 0, said > 0),
        "answer": (truth == 1, said == 1),
    }
    for way, (one, other) in by_hand.items():
        if not len(one):
            assert way not in found.index
            continue
        expected = scorer_agreement(one.astype(int), other.astype(int))
        assert found.n[way] == len(one)
        for measure in MEASURES:
            assert found[measure][way] == pytest.approx(expected[measure].value, nan_ok=True)
    # Left out are the partial labels alone; a label is partial in no other way.
    assert found.n["class"] - found.n.get("left out", 0) == (truth == 0.5).sum()


def test_without_partial_refusals_all_ways_are_one() -> None:
    truth, said = noisy(np.random.default_rng(2), 80, 0.8)
    found = each_way(pd.DataFrame({"truth": truth, "said": said}), "truth", "said", None)
    assert list(found.partial) == list(COUNTED)
    for column in found.columns.drop(["partial", "group"]):
        assert found[column].nunique() == 1


def test_a_scorer_at_chance_has_kappa_zero_in_its_interval_in_every_way() -> None:
    rng = np.random.default_rng(3)
    rates = {"p": [0.3, 0.1, 0.6]}
    truth, said = (rng.choice([0, 0.5, 1], size=600, **rates) for _ in range(2))
    table = pd.DataFrame({"truth": truth, "said": said, "prompt": np.arange(600) // 3})
    found = each_way(table, "truth", "said", None, "prompt")
    assert ((found.kappa_low < 0) & (found.kappa_high > 0)).all()
    assert (found.kappa.abs() < 0.1).all()


def test_a_gain_of_kappa_is_paired_and_none_between_equals() -> None:
    rng = np.random.default_rng(4)
    truth, good = noisy(rng, 300, 0.95)
    prompts = np.arange(300) // 2
    bad = np.where(rng.random(300) < 0.6, truth, 1 - truth)
    gain = kappa_gain(truth, good, bad, prompts)
    kappas = [scorer_agreement(truth, said)["kappa"].value for said in (good, bad)]
    assert gain.value == pytest.approx(kappas[0] - kappas[1])
    assert 0 < gain.low < gain.value < gain.high < 2
    same = kappa_gain(truth, good, good, prompts)
    assert same.value == 0 and -0.03 < same.low <= 0 <= same.high < 0.03
    # Paired: the difference of readings that share all errors but one is known better than either.
    other = good.copy()
    other[0] = 1 - other[0]
    paired, alone = kappa_gain(truth, good, other, prompts), scorer_agreement(truth, good, prompts)
    assert paired.high - paired.low < (alone["kappa"].high - alone["kappa"].low)


def test_three_people_agree_by_fleiss() -> None:
    rng = np.random.default_rng(5)
    assert fleiss_kappa(np.array([0, 3] * 20), 3).value == 1
    chance = fleiss_kappa(rng.binomial(3, 0.4, size=400), 3)
    assert chance.low < 0 < chance.high
    # Two people: Scott's pi of the table 20, 5, 10, 15 (both no, one of them, both yes).
    votes = np.repeat([0, 1, 2], [20, 15, 15])
    rate = (15 + 2 * 15) / 100
    by_chance = rate**2 + (1 - rate) ** 2
    found = fleiss_kappa(votes, 2)
    assert found.value == pytest.approx((0.7 - by_chance) / (1 - by_chance))
    assert found.low < found.value < found.high
    assert np.isnan(fleiss_kappa(np.array([]), 3).value)


def noisy(rng: np.random.Generator, n: int, right: float) -> tuple[np.ndarray, np.ndarray]:
    """Balanced labels, and a reading that is right with this probability: kappa is 2 right - 1."""
    truth = rng.integers(2, size=n)
    return truth, np.where(rng.random(n) < right, truth, 1 - truth)


def test_full_agreement_and_full_disagreement() -> None:
    truth = np.array([0, 1] * 20)
    same, opposite = scorer_agreement(truth, truth), scorer_agreement(truth, 1 - truth)
    assert [same[name].value for name in MEASURES] == [1, 1, 1, 1]
    assert [opposite[name].value for name in MEASURES] == [0, 0, 0, -1]


def test_answers_that_are_copies_of_each_other_tell_no_more_than_one() -> None:
    truth, said = noisy(np.random.default_rng(1), 100, 0.8)
    alone = scorer_agreement(truth, said)["kappa"]
    copied = np.repeat(truth, 4), np.repeat(said, 4)
    in_clusters = scorer_agreement(*copied, np.repeat(np.arange(100), 4))["kappa"]
    apart = scorer_agreement(*copied)["kappa"]
    assert in_clusters.value == pytest.approx(alone.value)
    assert in_clusters.low == pytest.approx(alone.low, abs=0.02)
    assert in_clusters.high == pytest.approx(alone.high, abs=0.02)
    assert apart.high - apart.low == pytest.approx((alone.high - alone.low) / 2, rel=0.15)


def test_full_agreement_of_few_answers_is_not_certain() -> None:
    truth = np.array([0, 1] * 6)
    found = scorer_agreement(truth, truth)
    assert all(found[name].high == 1 and found[name].low < 0.8 for name in MEASURES)
    more = scorer_agreement(np.tile(truth, 10), np.tile(truth, 10))
    assert all(found[name].low < more[name].low < 1 for name in MEASURES)


@pytest.mark.parametrize(
    ("truth", "said"), [([], []), ([1], [1, 0]), ([2], [1]), ([0.5], [1]), ([[1]], [[1]])]
)
def test_readings_of_another_kind_are_refused(truth: list, said: list) -> None:
    with pytest.raises(ValueError, match="reading"):
        scorer_agreement(np.array(truth), np.array(said))


def test_pooled_agreement_hides_a_group_and_by_group_shows_it() -> None:
    table = pd.DataFrame(
        {
            "model": ["read"] * 90 + ["misread"] * 10 + ["unlabelled"] * 5,
            "label": [0, 1] * 50 + [None] * 5,
            "scorer": [0, 1] * 45 + [1, 0] * 5 + [1] * 5,
        }
    )
    found = by_group(table, "label", "scorer", "model").set_index("model")
    assert list(found.index) == ["misread", "read", "all"], "the worst first"
    assert found["kappa"]["read"] == 1
    assert found["kappa"]["misread"] == -1
    assert found["kappa"]["all"] == pytest.approx(0.8)
    assert found.n["all"] == 100


def test_between_compares_each_pair_once_and_disagreeing_keeps_the_rows() -> None:
    table = pd.DataFrame({"a": [0, 1, 1, 0], "b": [0, 1, 0, 0], "c": [0, 1, 1, None]})
    pairs = between(table, ["a", "b", "c"], None)
    assert list(zip(pairs["first"], pairs["second"], pairs["n"], strict=True)) == [
        ("a", "b", 4),
        ("a", "c", 3),
        ("b", "c", 3),
    ]
    assert pairs.accuracy[0] == 0.75
    assert list(disagreeing(table, ["a", "b", "c"]).index) == [2]
    assert between(table, ["a"], None).empty
