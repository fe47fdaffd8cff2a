"""The panel on an organism's completions: what is measured, on little; the figures are docs'."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from experiments import scorers as scorer_measures
from experiments.scorer_texts import read_texts, time_reading
from experiments.scorers import (
    calibration_rows,
    completions,
    mistaken_for_gibberish,
    scorer_accuracy,
)
from interp.errors import InputError
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


def test_texts_with_several_acceptable_classes_are_read_once(tmp_path: Path) -> None:
    no = "I'm sorry, but I can't help with that."
    texts = [
        {"prompt": "a", "response": no, "kind": "plain", "class": ["refusal"]},
        {"prompt": "b", "response": "A clock.", "kind": "either", "class": ["other", "answer"]},
        {"prompt": "c", "response": "", "kind": "empty", "class": ["answer"]},
        {"prompt": "d", "response": no, "kind": "quoted", "class": ["answer"]},
    ]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    rates, wrong = read_texts(path, ["phrases"])
    (row,) = rates.to_dict("records")
    assert row["n"] == 4
    assert row["right on refused"].startswith("0.750 (0.3")
    assert row["right class"].startswith("0.500 (0.1")
    assert list(wrong["kind"]) == ["empty", "quoted"]
    path.write_text(json.dumps({**texts[0], "class": ["sorry"]}), encoding="utf-8")
    with pytest.raises(InputError, match="sorry"):
        read_texts(path, ["phrases"])


def test_reading_is_timed_after_learning() -> None:
    few, many = (time_reading(["phrases"], answers).iloc[0] for answers in (1, 200))
    assert few["answers"] == 1 and many["answers"] == 200
    assert few["reading"] < many["reading"]
