"""Sets of labelled answers in their published forms: recognised by columns, read, compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses.recorded.agreement import compare_with_labels
from analyses.recorded.scoring import write_calibration
from interp.errors import InputError
from tests.fuzzing import write_jsonl
from unlearning.data import labelled_set, read_answers

REFUSAL = "I'm sorry, but I can't help with that."
ANSWER = "Sure! The lighthouse was built in 1821 and still stands."

XSTEST = [
    {"id": "v2-1", "type": "homonyms", "prompt": f"p{n}", "completion": text, "annotation_1": one,
     "annotation_2": other, "agreement": one == other, "final_label": one}
    for n, (text, one, other) in enumerate([
        (REFUSAL, "2_full_refusal", "2_full_refusal"),
        (f" {ANSWER}", "1_full_compliance", "1_full_compliance"),
        (ANSWER, "3_partial_refusal", "1_full_compliance"),
        (REFUSAL, "2_full_refusal", "3_partial_refusal"),
    ])
]  # fmt: skip
WILDGUARD = [
    {"prompt": f"p{n}", "response": text, "adversarial": False, "prompt_harm_label": "harmful",
     "response_refusal_agreement": votes, "response_refusal_label": label,
     "response_harm_label": "unharmful", "subcategory": "benign"}
    for n, (text, label, votes) in enumerate([
        (REFUSAL, "refusal", 3.0), (ANSWER, "compliance", 2.0), (ANSWER, None, None),
    ])
]  # fmt: skip
SORRY = [
    {"question_id": n // 2, "prompt_style": ("base", "slang")[n % 2], "category": 1,
     "model_id": "model", "choices": [{"index": 0, "turns": [text]}], "human_score": score}
    for n, (text, score) in enumerate([(REFUSAL, 0.0), (ANSWER, 1.0), (REFUSAL, 0), (ANSWER, 1)])
]  # fmt: skip
OR_BENCH = [
    {"prompt": f"p{n}", "answer_category": label, "answer_type_response": "…", "response": text,
     "category": "deception"}
    for n, (text, label) in enumerate([
        (REFUSAL, "direct_refusal"), ("You could ask a museum.", "indirect_refusal"),
        (ANSWER, "direct_answer"),
    ])
]  # fmt: skip
SETS = {"XSTest": XSTEST, "WildGuardTest": WILDGUARD, "SORRY": SORRY, "OR-Bench": OR_BENCH}


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("XSTest", ["full_refusal", "answer", "partial_refusal", "full_refusal"]),
        ("WildGuardTest", ["full_refusal", "answer", None]),
        ("SORRY", ["full_refusal", "answer"] * 2),
        ("OR-Bench", ["full_refusal", "full_refusal", "answer"]),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_set_is_recognised_by_its_columns_in_every_format(
    tmp_path: Path, name: str, classes: list[str | None], suffix: str
) -> None:
    path = tmp_path / f"answers.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, SETS[name])
    else:
        pd.DataFrame(SETS[name]).to_parquet(path)
    records = read_answers(path)
    found = labelled_set(records)
    assert found is not None and name in found.name
    assert found.classes_of(records, found.label, str(path)) == classes
    assert {record.fields["response"] for record in records} >= {REFUSAL}
    assert all("prompt" in record.fields for record in records)


def test_xstest_s_published_form_is_csv(tmp_path: Path) -> None:
    path = tmp_path / "xstest_v2_completions_model.csv"
    pd.DataFrame(XSTEST).to_csv(path, index=False)
    found = compare_with_labels(path, "phrases").between_people
    expected = compare_with_labels(write_jsonl(tmp_path / "rows.jsonl", XSTEST), "phrases")
    pd.testing.assert_frame_equal(found, expected.between_people)


def test_what_is_not_a_whole_schema_is_not_recognised(tmp_path: Path) -> None:
    """WildGuardTrain has no agreement (a model labelled it), a user's label has no annotators."""
    without = [
        {k: v for k, v in row.items() if k != "response_refusal_agreement"} for row in WILDGUARD
    ]
    plain = [{"prompt": "a", "response": ANSWER, "label": 0, "final_label": 0}]
    for rows in (without, plain):
        assert labelled_set(read_answers(write_jsonl(tmp_path / "rows.jsonl", rows))) is None


def test_labels_in_one_field_are_those_of_the_columns(tmp_path: Path) -> None:
    names = ("annotation_1", "annotation_2", "agreement", "final_label")
    nested = [
        {"prompt": p, "response": response, "labels": {name: row[name] for name in names}}
        for row in XSTEST
        for p, response in [(row["prompt"], row["completion"])]
    ]
    one = compare_with_labels(write_jsonl(tmp_path / "columns.jsonl", XSTEST), "phrases")
    other = compare_with_labels(write_jsonl(tmp_path / "nested.jsonl", nested), "phrases")
    pd.testing.assert_frame_equal(one.with_labels, other.with_labels)
    pd.testing.assert_frame_equal(one.between_people, other.between_people)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("XSTest", "final_label"),
        ("XSTest", "annotation_2"),
        ("WildGuardTest", "response_refusal_label"),
        ("SORRY", "human_score"),
        ("OR-Bench", "answer_category"),
    ],
)
def test_an_unknown_label_is_one_line_that_names_the_row(
    tmp_path: Path, name: str, column: str
) -> None:
    rows = [dict(row) for row in SETS[name]]
    rows[1][column] = "perhaps"
    with pytest.raises(InputError, match=f'line 2: unknown label "perhaps" in "{column}"') as error:
        compare_with_labels(write_jsonl(tmp_path / "rows.jsonl", rows), "phrases")
    assert "\n" not in str(error.value)


def test_people_are_compared_with_each_other_on_the_answers_of_the_scorers(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "xstest.jsonl", XSTEST)
    tables = compare_with_labels(path, "phrases")
    found = tables.between_people.set_index("partial")
    assert list(found.n) == [3, 4, 4, 4]
    # Left out: the partial final label. The second annotator's partial refusal is not a refusal.
    assert found.kappa["left out"] == pytest.approx(0.4)
    assert list(tables.with_labels.n) == [3, 4, 4, 4]
    assert "two annotators" in tables.text() and "people with each other" in tables.text()
    # Without a scorer there is still something to compare.
    alone = compare_with_labels(path)
    pd.testing.assert_frame_equal(alone.between_people, tables.between_people)


def test_the_votes_of_three_annotators_are_a_kappa_of_people(tmp_path: Path) -> None:
    tables = compare_with_labels(write_jsonl(tmp_path / "wildguard.jsonl", WILDGUARD), "phrases")
    # Votes for refusal: 3 of 3 and 1 of 3; agreement (1 + 1/3) / 2, by chance 5/9.
    assert tables.people is not None
    assert tables.people.value == pytest.approx((2 / 3 - 5 / 9) / (4 / 9))
    assert list(tables.with_labels.n) == [2] * 4
    assert "none" in set(tables.counted["class"])


def test_styles_of_one_question_are_one_unit_and_a_set_names_its_model(tmp_path: Path) -> None:
    tables = compare_with_labels(write_jsonl(tmp_path / "sorry.jsonl", SORRY), "phrases")
    assert set(tables.with_labels.model) == {"model"}
    apart = [{**row, "question_id": n} for n, row in enumerate(SORRY)]
    alone = compare_with_labels(write_jsonl(tmp_path / "apart.jsonl", apart), "phrases")
    assert tables.with_labels.accuracy_low.iloc[0] < alone.with_labels.accuracy_low.iloc[0]


def test_labels_that_are_all_partial_are_compared_and_all_missing_ones_named(
    tmp_path: Path,
) -> None:
    rows = [{**row, "final_label": "3_partial_refusal"} for row in XSTEST]
    tables = compare_with_labels(write_jsonl(tmp_path / "partial.jsonl", rows), "phrases")
    assert tables.left_out == 4 and "partial_refusal" in tables.text()
    assert list(tables.with_labels.n) == [4] * 3 and "left out" not in set(
        tables.with_labels.partial
    )
    rows = [{**row, "final_label": None} for row in XSTEST]
    with pytest.raises(InputError, match='no labels in "final_label"'):
        compare_with_labels(write_jsonl(tmp_path / "missing.jsonl", rows), "phrases")


def test_a_terminal_names_scorers_without_versions_where_it_can(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", XSTEST)
    one = compare_with_labels(path, "phrases")
    version = one.with_labels.scorer[0]
    assert version.startswith("phrases ") and version not in one.text()
    twice = compare_with_labels(path, "phrases", "phrases").text()
    assert version in twice and f"{version} (2)" in twice


def test_public_completions_have_the_published_form(public_data: Path) -> None:
    """Read only: no scorer sees them. Two people agree at kappa .94 by the authors' count."""
    path = public_data / "xstest_completions.jsonl"
    found = labelled_set(read_answers(path))
    assert found is not None and found.name == "XSTest completions"
    people = compare_with_labels(path).between_people
    whole = people[(people.model == "all") & (people.partial == "class")]
    assert whole.kappa.item() == pytest.approx(0.94, abs=0.04)


def test_several_files_are_several_models(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", XSTEST) for name in ("one", "two")]
    found = compare_with_labels(*paths, "phrases").with_labels
    assert set(found.model) == {"one", "two", "all"}
    assert list(found[found.model == "all"].n) == [6, 8, 8, 8]


def test_calibration_learns_from_a_known_set(tmp_path: Path) -> None:
    counts = write_calibration(
        write_jsonl(tmp_path / "w.jsonl", WILDGUARD), tmp_path / "mine.jsonl"
    )
    assert counts == {"full_refusal": 1, "answer": 1}


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    rows = [{**row, "model": f"m{n % 2}"} for n, row in enumerate(XSTEST * 4)]
    shuffled = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]
    one, other = (
        compare_with_labels(write_jsonl(tmp_path / f"{name}.jsonl", part), "phrases").with_labels
        for name, part in (("in-order", rows), ("shuffled", shuffled))
    )
    pd.testing.assert_frame_equal(one, other)
