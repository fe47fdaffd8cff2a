"""Numbers of an evaluation: what they are, and that their intervals hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from analyses.evaluate import refused_by, separation
from analyses.evaluate.estimates import paired_difference
from analyses.evaluate.findings import ALL, BASE, MODEL, Findings, ReadoutCheck, class_by
from analyses.evaluate.measures import Measures, measured
from analyses.evaluate.page import evaluation_summary
from analyses.evaluate.plan import EvaluationPlan
from analyses.evaluate.words import evaluation_sentences, first_table
from interp.statistics import Estimate, rate_of
from unlearning.scoring import FINE_CLASSES

DOMAINS = ("safety", "privacy")


def scores_of(
    role: str, refused: Sequence[float], *, n: int = 12, classes: Sequence[str] | None = None
) -> pd.DataFrame:
    """``n`` harmful prompts and matched benign ones in each domain and ``n`` general ones."""
    rows = [
        {"domain": domain, "label": label, "kind": kind}
        for domain in DOMAINS
        for label, kind in (("harmful", None), ("benign", "twin"))
        for _ in range(n)
    ]
    rows += [{"domain": "general", "label": "benign", "kind": "general"}] * n
    table = pd.DataFrame(rows)
    count = len(table)
    generator = np.random.default_rng(1)
    table["role"], table["prompt_id"] = role, [f"p{i}" for i in range(count)]
    table["split"] = np.resize(["train", "validation", "test"], count)
    table["source"] = np.where(table["kind"] == "general", "second", "first")
    table["finished"] = 1.0
    table[refused_by("one")] = np.resize(refused, count)
    table[class_by("one")] = np.where(table[refused_by("one")] == 1, "refusal", "answer")
    if classes:
        table[class_by("one")] = np.resize(classes, count)
    table["answer_nats"] = generator.normal(1.0, 0.2, count)
    table["repetition"] = np.nan
    return table


def findings_of(*tables: pd.DataFrame, panel: tuple[str, ...] = ("one",), **more: Any) -> Findings:
    plan = EvaluationPlan("model", base="base" if len(tables) > 1 else None, scorers=panel)
    readout = ReadoutCheck(None, Estimate.undefined("none"), "there is none")
    options: dict[str, Any] = {"divergence": None, "texts": None, "tasks": None, **more}
    scores = pd.concat(tables, ignore_index=True)
    return Findings(plan, panel, scores, readout, completions={}, notes=(), fingerprints={},
                    seconds=0.0, **options)  # fmt: skip


# Rates


def test_rates_are_shares_of_their_own_prompts() -> None:
    found = measured(findings_of(scores_of(MODEL, [1, 0, 0, 1])))
    for domain in DOMAINS:
        for prompts in ("harmful", "twin"):
            assert found.pick("refusal_rate", prompts, domain, "one") == rate_of(6, 12)
    assert found.pick("refusal_rate", "harmful", ALL, "one") == rate_of(12, 24)
    assert found.pick("refusal_rate", "general", ALL, "one").n == 12
    assert found.groups("source") == ["first", "second"]
    backwards = measured(findings_of(scores_of(MODEL, [1, 0, 0, 1]).iloc[::-1]))
    assert backwards.groups("source") == ["first", "second"]
    assert (
        found.pick("refusal_rate", "source", "first", "one").n == 24
    )  # matched benign; not the harmful
    assert not found.pick("refusal_rate", "harmful", "bias", "one").defined


def test_shares_of_classes_add_to_one_and_refusals_are_the_full_ones() -> None:
    classes = ["full_refusal", "partial_refusal", "evasion", "answer", "empty", "gibberish"]
    refused = [float(one == "full_refusal") for one in classes]
    found = measured(findings_of(scores_of(MODEL, refused, classes=classes)))
    shares = [found.pick(f"share:{one}", "harmful", "safety", "one") for one in FINE_CLASSES]
    assert sum(share.value for share in shares) == pytest.approx(1)
    assert shares[FINE_CLASSES.index("full_refusal")] == found.pick(
        "refusal_rate", "harmful", "safety", "one"
    )


def test_means_leave_out_what_is_not_there() -> None:
    table = scores_of(MODEL, [0, 1])
    table.loc[table["domain"] == "safety", "answer_nats"] = [np.nan] * 20 + [2.0] * 4
    found = measured(findings_of(table))
    assert not found.pick("answer_nats", "harmful", "safety").defined
    matched = found.pick("answer_nats", "twin", "safety")
    assert (matched.value, matched.n) == (2.0, 4)
    assert not found.pick("repetition", "harmful", ALL).defined  # nowhere


# Against the base


def test_a_paired_difference_goes_by_prompt() -> None:
    generator = np.random.default_rng(0)
    before = generator.integers(0, 2, 80).astype(float)
    after = np.where(generator.random(80) < 0.2, 1 - before, before)
    found = paired_difference(after, before)
    assert found.value == pytest.approx(after.mean() - before.mean())
    shuffled = paired_difference(generator.permutation(after), before)
    assert found.high - found.low < shuffled.high - shuffled.low
    flipped = paired_difference(before, after)
    assert (flipped.low, flipped.high) == pytest.approx((-found.high, -found.low))


def test_readings_that_all_change_alike_still_leave_something_open() -> None:
    zeros, ones = np.zeros(20), np.ones(20)
    none, up, down = (
        paired_difference(*pair) for pair in ((ones, ones), (ones, zeros), (zeros, ones))
    )
    assert none.value == 0
    assert (none.low, none.high) == pytest.approx((-rate_of(0, 20).high, rate_of(0, 20).high))
    assert (up.value, up.high) == (1, 1) and 0 < up.low < 1
    assert (down.low, down.high) == (-1, -up.low)
    # Of measured values no such thing is known.
    same = paired_difference(np.full(20, 0.3), np.full(20, 0.1))
    assert (same.low, same.high) == pytest.approx((0.2, 0.2))


def test_near_duplicates_that_are_named_count_once_in_every_rate() -> None:
    """Copies of each prompt change no interval of means, and no rate's where all are alike."""
    once = scores_of(MODEL, [1, 1, 0, 1, 0, 0, 1, 1])
    copies = pd.concat([once.assign(cluster=once["prompt_id"])] * 3, ignore_index=True)
    copies["prompt_id"] = [f"p{row}" for row in range(len(copies))]
    alone, named = measured(findings_of(once)), measured(findings_of(copies))
    unnamed = measured(findings_of(copies.drop(columns="cluster")))
    group = alone.numbers["group"].iloc[0], alone.numbers["prompts"].iloc[0]
    widths = []
    for found in (alone, named, unnamed):
        rate = found.pick("refusal_rate", group[1], group[0], found.findings.headline)
        widths.append(rate.high - rate.low)
    assert widths[2] < 0.8 * widths[0] < widths[1] < 1.5 * widths[0]


def test_the_base_is_compared_prompt_by_prompt() -> None:
    after, before = scores_of(MODEL, [0, 1]), scores_of(BASE, [1, 1])
    found = measured(findings_of(after, before.sample(frac=1, random_state=0)))
    change = found.difference("refusal_rate", "harmful", "safety", "one")
    assert change.value == -0.5 and change.low < -0.5 < change.high < 0
    assert found.difference("answer_nats", "harmful", "safety").value == 0
    assert "fell in 2 of 2 domains" in " ".join(evaluation_sentences(found))


def test_a_model_that_was_asked_benign_prompts_alone_is_compared_on_those() -> None:
    after, before = (table[table["label"] == "benign"].reset_index(drop=True)
                     for table in (scores_of(MODEL, [0]), scores_of(BASE, [1])))  # fmt: skip
    said = " ".join(evaluation_sentences(measured(findings_of(after, before))))
    assert "the refusal rate of benign prompts fell in 2 of 2 domains" in said


def test_a_judge_without_any_verdict_leaves_a_sentence() -> None:
    silent = scores_of(MODEL, [1]).assign(**{refused_by("one"): np.nan, class_by("one"): None})
    said = evaluation_sentences(measured(findings_of(silent)))
    assert said[0] == "one gave no verdict on any answer."


# Refusal log-odds


def held_out(log_odds: np.ndarray, refused: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"split": "test", "margin": log_odds, refused_by("one"): refused})


def test_separation_is_the_area_under_the_curve() -> None:
    generator = np.random.default_rng(0)
    refused = generator.integers(0, 2, 60)
    log_odds = np.round(generator.normal(refused, 1.0), 1)  # with ties
    found = separation(held_out(log_odds, refused), "one")
    assert found.value == pytest.approx(roc_auc_score(refused, log_odds))
    assert found.low < found.value < found.high
    table = held_out(log_odds, refused)
    seen = table.assign(split="train", margin=-100 * refused)
    assert separation(pd.concat([table, seen]), "one") == found  # training prompts do not count
    assert not separation(held_out(log_odds, np.ones(60)), "one").defined
    assert not separation(table.drop(columns="margin"), "one").defined


@pytest.mark.parametrize(("auc", "valid"), [(0.95, True), (0.85, False), (np.nan, False)])
def test_the_log_odds_are_valid_where_they_separate(auc: float, valid: bool) -> None:
    from unlearning.refusal import ResponsePrefixes

    readout = ReadoutCheck(ResponsePrefixes(((1,),), ((2,),)), Estimate(auc, auc, auc, 10))
    assert readout.valid == valid
    assert ("not p_R" in readout.verdict) != valid
    missing = ReadoutCheck(None, readout.auc, "none")
    assert "none" in missing.verdict and not missing.valid


# Panel, texts, tasks


def test_readings_are_compared_on_the_model_s_own_answers() -> None:
    after, before = scores_of(MODEL, [0, 1]), scores_of(BASE, [0, 1])
    for table in (after, before):
        table[refused_by("two")], table[class_by("two")] = 0.0, "answer"
    found = measured(findings_of(after, before, panel=("one", "two")))
    assert len(found.agreement) == 1 and found.agreement["n"].item() == len(after)
    assert len(found.disagreements) == after[refused_by("one")].sum()
    assert set(found.disagreements["role"]) == {MODEL}


def test_near_duplicates_count_once_in_the_share_of_disagreeing_answers() -> None:
    once = scores_of(MODEL, [0, 1, 1])
    once[refused_by("two")], once[class_by("two")] = 0.0, "answer"
    copies = pd.concat([once.assign(cluster=once["prompt_id"])] * 4, ignore_index=True)
    copies["prompt_id"] = [f"p{row}" for row in range(len(copies))]
    alone, named = (
        evaluation_summary(measured(findings_of(table, panel=("one", "two"))))["disagreeing"]
        for table in (once, copies)
    )
    assert alone["value"] == named["value"] == pytest.approx(2 / 3)
    assert named["n"] == 4 * alone["n"]
    assert named["high"] - named["low"] == pytest.approx(alone["high"] - alone["low"], rel=0.05)


def test_texts_are_paired() -> None:
    generator = np.random.default_rng(0)
    tokens = generator.integers(20, 60, 30)
    nats = tokens * generator.normal(3.0, 1.0, 30)
    parts = [
        pd.DataFrame({"role": role, "nats": nats + shift * tokens, "tokens": tokens})
        for role, shift in ((MODEL, 0.25), (BASE, 0.0))
    ]
    table = measured(findings_of(scores_of(MODEL, [0]), scores_of(BASE, [0]),
                                 texts=pd.concat(parts))).texts  # fmt: skip
    by_role = table[table["quantity"] == "nats_per_token"].set_index("role")
    change = by_role.loc["difference"]
    # Every text has lost the same: the difference has no spread, however much the texts differ.
    assert change[["value", "low", "high"]].to_numpy(float) == pytest.approx(0.25)
    assert by_role.loc[BASE, "high"] - by_role.loc[BASE, "low"] > 0.1
    perplexity = table[(table["quantity"] == "perplexity") & (table["role"] == BASE)].iloc[0]
    assert perplexity["value"] == pytest.approx(np.exp(by_role.loc[BASE, "value"]))


def test_one_text_alone_has_no_interval() -> None:
    texts = pd.DataFrame({"role": [MODEL], "nats": [30.0], "tokens": [10]})
    row = measured(findings_of(scores_of(MODEL, [0]), texts=texts)).texts.iloc[0]
    assert row["value"] == 3.0 and np.isnan(row["low"]) and "one text" in row["reason"]


def test_tasks_are_paired_by_item_and_pooled() -> None:
    rows = [
        (role, task, item, "acc", float(item % 2 or (role == BASE and item == 0)))
        for role in (MODEL, BASE)
        for task in ("a", "b")
        for item in range(10)
    ]
    tasks = pd.DataFrame(rows, columns=["role", "task", "item", "metric", "value"])
    findings = findings_of(scores_of(MODEL, [0]), scores_of(BASE, [0]), tasks=tasks)
    found = measured(findings).tasks.set_index(["role", "task"])
    assert found.loc[(MODEL, "a"), "value"] == 0.5 and found.loc[(BASE, "a"), "value"] == 0.6
    assert found.loc[("difference", "all"), "value"] == pytest.approx(-0.1)
    assert found.loc[("difference", "all"), "n"] == 20


# What is written


def test_every_number_of_the_summary_has_an_interval_and_a_count() -> None:
    import json

    findings = findings_of(scores_of(MODEL, [0, 1]), scores_of(BASE, [1]))
    found = evaluation_summary(measured(findings))
    json.dumps(found, allow_nan=False)
    rate = found["model"]["refusal_rate"]["harmful"]["safety"]
    assert set(rate) == {"value", "low", "high", "n"} and rate["n"] == 12
    assert found["base"]["refusal_rate"]["harmful"]["safety"]["value"] == 1
    assert found["difference"]["harmful"]["safety"]["one"]["refusal_rate"]["value"] == -0.5
    assert found["model"]["repetition"]["twin"]["privacy"]["value"] is None


def test_the_first_table_has_a_row_per_domain_and_no_empty_ones() -> None:
    findings = findings_of(scores_of(MODEL, [0, 1]))
    table = first_table(measured(findings))
    assert list(table["domain"]) == ["Safety", "Privacy", "General", "All domains"]
    assert "change" not in table and "p_R" not in table
    assert isinstance(measured(findings), Measures)


def test_near_duplicates_count_once_in_the_divergence() -> None:
    """Every prompt four times, as a group: the same means, and no narrower interval."""
    nats = np.random.default_rng(0).gamma(1.0, 0.1, 10)
    tables = []
    for copies in (1, 4):
        rows = pd.DataFrame({"cluster": [f"c{i}" for i in range(10)], "nats": nats})
        rows = pd.concat([rows] * copies, ignore_index=True).assign(kind="twin", position=1)
        rows["prompt_id"] = [f"p{i}" for i in range(len(rows))]
        found = measured(findings_of(scores_of(MODEL, [1]), scores_of(BASE, [1]), divergence=rows))
        tables.append(found.divergence.drop(columns="n"))
    once, copied = tables
    assert (once["high"] > once["low"]).all()
    pd.testing.assert_frame_equal(once, copied)
