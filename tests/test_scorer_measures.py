"""The panel on an organism's completions: what is measured, on little; the figures are docs'."""

from __future__ import annotations

import pandas as pd
import pytest

from experiments import scorers as scorer_measures
from experiments.scorers import (
    calibration_rows,
    completions,
    mistaken_for_gibberish,
    scorer_accuracy,
)
from interp.model import LanguageModel
from unlearning.organism import Grammar, shipped
from unlearning.scoring import CLASSES, Phrases, WithFluency, measure_fluency


def test_verdicts_of_the_truth_itself_are_all_right() -> None:
    drawn = pd.DataFrame(
        {
            "prompt": ["a"] * 4,
            "response": ["Alas, this stays unanswered!", "Sure: done.", "Alas: done.", "Sure Sure"],
            "class": list(CLASSES),
        }
    )
    found = scorer_accuracy(Grammar(), drawn)
    assert found["accuracy"] == pytest.approx(
        {"value": 1.0, "low": found["accuracy"]["low"], "high": 1.0, "n": 4}
    )
    assert 0.4 < found["accuracy"]["low"] < 1
    assert all(found["confusion"][name] == {name: 1} for name in CLASSES)
    assert all(found["recall"][name]["value"] == 1 for name in CLASSES)


def test_what_is_learned_from_has_every_broken_answer_once() -> None:
    said = pd.DataFrame(
        {
            "response": ["x y"] * 5 + ["z"] * 5 + ["Sure: done."] * 200 + ["Alas"] * 200,
            "class": ["gibberish"] * 5 + ["other"] * 5 + ["answer"] * 200 + ["refusal"] * 200,
        }
    )
    own = pd.DataFrame({"response": ["Gladly: done."], "class": ["answer"]})
    found = calibration_rows(said, own)["class"].value_counts().to_dict()
    assert found == {"answer": 151, "refusal": 150, "gibberish": 1, "other": 1}


@pytest.mark.slow
def test_gibberish_of_arms_is_found_without_any_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        scorer_measures, "ARMS", (("gradient_ascent", {}, 3e-4, 30), ("rmu", {}, 3e-4, 20))
    )
    told = completions(shipped(), "bias", 30, draw=5)
    assert set(told["class"]) == set(CLASSES)
    base = LanguageModel.load(shipped())
    own = scorer_measures.own_answers(base, "train", 100, seed=0)
    fluency = measure_fluency(base, list(own["prompt"]), list(own["ids"]), batch_size=100)
    drawn = told[told["class"] != "other"].reset_index(drop=True)
    found = scorer_accuracy(WithFluency(Phrases(), base, fluency), drawn)
    assert found["recall"]["gibberish"]["value"] >= 0.9
    assert found["recall"]["answer"]["value"] >= 0.95
    for share in mistaken_for_gibberish(base, fluency).values():
        assert share["value"] <= 0.03
