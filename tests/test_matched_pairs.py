"""The built-in pairs: counts, splits, matching, and what separates harmful from benign."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from unlearning.data import (
    DOMAINS,
    SPLITS,
    as_prompts,
    controls,
    matched_pairs,
    near_duplicate_groups,
    require_concepts,
)
from unlearning.data.prompts import GENERAL
from unlearning.data.prompts import MATCHED_PAIRS as FILE

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "how-to" / "prompts.md"
FUNCTION_WORDS = """
    a an the this that these those my mine your our his her its their i you he she it we they me him
    us them myself everyone everybody someone somebody nobody no any some every each all both one
    other another own more most least less few much many too very so not never always only just of
    in on at to from for with without by about against between into through over under after before
    behind out off up down near while until if as than and or but because what which who whom whose
    how why when where whether is are was were be been being am do does did have has had will would
    could can may might should must shall let please there here now then yes
"""
# Capitals inside a sentence: peoples, places, languages, abbreviations and one made-up title.
CAPITALISED = """
    I I'm I've I'd IT TVs PIN ID Python French Spanish Italian European Europe Jewish Muslim Polish
    Roma Catholics Manchester Lake District Friday Saturday Mondays Rome Mum The Plumber Calls Twice
"""


@pytest.fixture(scope="module")
def prompts() -> pd.DataFrame:
    return matched_pairs()


@pytest.fixture(scope="module")
def pairs(prompts: pd.DataFrame) -> pd.DataFrame:
    """One row per pair: ``harmful`` and ``benign`` text, ``domain`` and ``split``."""
    paired = prompts[prompts["domain"] != GENERAL]
    table = paired.pivot(index="pair", columns="label", values="prompt")
    return table.join(paired.groupby("pair")[["domain", "split"]].first())


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def four_in_a_row(text: str) -> set[str]:
    joined = " ".join(words(text))
    return {joined[i : i + 4] for i in range(len(joined) - 3)}


def template(text: str) -> tuple[Any, ...]:
    """First word, marks in their order, and case pattern of the first letter: no topic, no length.

    Hyphens and apostrophes belong to words, so they are no marks.
    """
    marks = "".join(c for c in text if c in string.punctuation and c not in "-'")
    return text.split()[0], marks, text[0].isupper(), text.endswith("?")


def surface(text: str) -> dict[str, float]:
    """Length, punctuation, casing, first word, function words: all but the words of the topic."""
    tokens = words(text)
    return {
        "characters": len(text),
        "words": len(tokens),
        "letters per word": sum(map(len, tokens)) / len(tokens),
        "longest word": max(map(len, tokens)),
        "capitals": sum(c.isupper() for c in text),
        "starts with a capital": float(text[0].isupper()),
        "sentences": len(re.findall(r"[.?!](?:\s|$)", text)),
        **{f"mark {c}": text.count(c) for c in string.punctuation if c in text},
        f"ends with {text[-1] if text[-1] in string.punctuation else 'a letter'}": 1.0,
        f"first word {tokens[0]}": 1.0,
        **{f"word {w}": tokens.count(w) for w in set(FUNCTION_WORDS.split()).intersection(tokens)},
    }


def surface_classifier() -> Pipeline:
    features = FunctionTransformer(lambda texts: [surface(text) for text in texts])
    return make_pipeline(
        features, DictVectorizer(sparse=False), StandardScaler(), LogisticRegression(max_iter=2000)
    )


def word_classifier() -> Pipeline:
    return make_pipeline(TfidfVectorizer(), LogisticRegression(C=10, max_iter=2000))


def told_apart(table: pd.DataFrame, classifier: Callable[[], Pipeline]) -> tuple[float, float]:
    """AUC over prompts, and share of pairs in which the harmful prompt gets the higher score.

    Each score is from a classifier that saw neither the prompt nor its matched one.
    """
    harmful = (table["label"] == "harmful").to_numpy()
    scores = cross_val_predict(
        classifier(),
        table["prompt"].tolist(),
        harmful,
        groups=table["pair"].to_numpy(),
        cv=GroupKFold(10, shuffle=True, random_state=0),
        method="decision_function",
    )
    by_pair = pd.DataFrame({"pair": table["pair"], "label": table["label"], "score": scores})
    score = by_pair.pivot(index="pair", columns="label", values="score")
    difference = score["harmful"] - score["benign"]
    # Scores that are equal up to rounding are a tie, which is half a success.
    wins = np.where(difference.abs() < 1e-9, 0.5, difference > 0)
    return float(roc_auc_score(harmful, scores)), float(wins.mean())


def stated(row: str) -> list[float]:
    """Numbers in the row of the documented table that begins with ``row``."""
    found = re.search(rf"^\| {re.escape(row)} \|(.*)\|$", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert found, f'docs/how-to/prompts.md has no row "{row}"'
    return [float(cell) for cell in found[1].split("|")]


def test_counts_of_each_domain_and_split(prompts: pd.DataFrame, pairs: pd.DataFrame) -> None:
    """Training needs 32 refusals of a concept, and no model refuses every request."""
    assert set(pairs["domain"]) == set(DOMAINS)
    for _, rows in pairs.groupby("domain"):
        counts = rows["split"].value_counts()
        assert len(rows) >= 120
        assert counts["train"] >= 72 and counts["validation"] >= 15 and counts["test"] >= 24
    assert (prompts["domain"] == GENERAL).sum() >= 160
    for _, rows in prompts.groupby("domain"):
        shares = rows["split"].value_counts(normalize=True)
        assert shares["train"] == pytest.approx(0.6, abs=0.02)
        assert shares["validation"] == pytest.approx(0.2, abs=0.01)
        assert shares["test"] == pytest.approx(0.2, abs=0.01)


def test_the_table_fits_the_schema_and_every_concept_can_be_unlearned(
    prompts: pd.DataFrame,
) -> None:
    pd.testing.assert_frame_equal(as_prompts(prompts), prompts)
    require_concepts(prompts, DOMAINS)
    assert (prompts["source"] == "spillover").all()
    benign = prompts[prompts["label"] == "benign"]
    assert (
        benign["kind"] == benign["domain"].eq(GENERAL).map({True: "general", False: "twin"})
    ).all()
    assert prompts["pair"].isna().equals(prompts["domain"] == GENERAL)
    for split in SPLITS:
        assert controls(prompts, split).note is None


def test_pairs_share_domain_and_split(prompts: pd.DataFrame) -> None:
    for _, rows in prompts[prompts["domain"] != GENERAL].groupby("pair"):
        assert rows["label"].tolist() == ["harmful", "benign"]
        assert rows["domain"].nunique() == rows["split"].nunique() == 1


def test_pairs_have_the_same_template_and_length(pairs: pd.DataFrame) -> None:
    for pair, row in pairs.iterrows():
        harmful, benign = row["harmful"], row["benign"]
        assert harmful != benign
        assert template(harmful) == template(benign), pair
        assert abs(len(harmful.split()) - len(benign.split())) <= 1, pair
        allowed = max(6, 0.1 * max(len(harmful), len(benign)))
        assert abs(len(harmful) - len(benign)) <= allowed, pair
        assert max(len(harmful.split()), len(benign.split())) <= 20, pair


def test_pairs_are_of_one_length_on_average(pairs: pd.DataFrame) -> None:
    """Small differences of one sign would separate the two all the same."""
    difference = pairs["harmful"].str.len() - pairs["benign"].str.len()
    assert abs(difference.mean()) < 0.5
    longer, shorter = (difference > 0).sum(), (difference < 0).sum()
    # Two standard deviations of a fair coin.
    assert abs(longer - shorter) < 2 * (longer + shorter) ** 0.5


def test_syntax_varies_within_each_domain(pairs: pd.DataFrame) -> None:
    for _, rows in pairs.groupby("domain"):
        texts = rows["harmful"]
        assert texts.str.split().str[0].str.lower().nunique() >= 20
        assert 0.15 < texts.str.contains("?", regex=False).mean() < 0.5
        assert texts.str[-1].str.isalpha().any()
        assert not texts.str[0].str.isupper().all()
        patterns = texts.str.lower().str.split().str[:4].str.join(" ")
        assert patterns.value_counts().max() <= 3


def test_no_text_stands_twice(prompts: pd.DataFrame) -> None:
    assert prompts["prompt"].str.lower().is_unique


def test_no_near_duplicates_across_splits(prompts: pd.DataFrame) -> None:
    """By word bigrams as everywhere in the package, and by four characters in a row."""
    linked = prompts["pair"].fillna(prompts["id"])
    groups = pd.Series(near_duplicate_groups(prompts["prompt"].tolist(), linked.tolist()))
    assert linked.groupby(groups).nunique().max() == 1
    fours = CountVectorizer(analyzer=four_in_a_row, binary=True).fit_transform(prompts["prompt"])
    shared = (fours @ fours.T).toarray()
    count = shared.diagonal()
    split = prompts["split"].to_numpy()
    across = split[:, None] != split
    assert (shared < 0.5 * (count[:, None] + count - shared))[across].all()


def test_text_is_plain(prompts: pd.DataFrame) -> None:
    """No numbers (so no amounts), no addresses, no marks of copied text."""
    assert FILE.read_bytes().isascii()
    for text in prompts["prompt"]:
        assert text.isprintable()
        assert text == " ".join(text.split())
        assert not re.search(r"\d|https?:|www\.|@|\w\.(com|org|net)\b", text), text
        assert len(text) <= 100


def test_no_person_is_named(prompts: pd.DataFrame) -> None:
    found = {
        word.strip(",:;\"'").removesuffix("'s").rstrip(".?!")
        for text in prompts["prompt"]
        for sentence in re.split(r"(?<=[.?!])\s", text)
        for word in sentence.split()[1:]
        if word.strip("\"'")[:1].isupper()
    }
    assert found <= set(CAPITALISED.split())


@pytest.mark.parametrize("domain", ["all domains", *DOMAINS])
def test_what_separates_harmful_from_benign_is_as_stated(
    prompts: pd.DataFrame, domain: str
) -> None:
    """Length, punctuation, case, first word and function words tell nothing; topic words do."""
    chosen = (
        prompts["domain"] != GENERAL if domain == "all domains" else prompts["domain"] == domain
    )
    surface_auc, surface_pairs = told_apart(prompts[chosen], surface_classifier)
    assert surface_auc <= 0.6
    # 120 pairs of one domain do not settle this share: 0.5 has a standard error of 0.05.
    assert surface_pairs <= 0.6 or domain in DOMAINS
    measured = [surface_auc, surface_pairs, *told_apart(prompts[chosen], word_classifier)]
    assert measured == pytest.approx(stated(domain), abs=0.03)


def test_the_classifiers_find_a_template_where_there_is_one(prompts: pd.DataFrame) -> None:
    """The check of the check: two words more on one side are found."""
    paired = prompts[prompts["domain"] != GENERAL].copy()
    harmful = paired["label"] == "harmful"
    paired["prompt"] = paired["prompt"].where(~harmful, paired["prompt"] + " or so")
    assert told_apart(paired, surface_classifier)[0] > 0.95
