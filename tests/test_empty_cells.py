"""Null, NaN and blank text are the same in every column; what is no plain text is one line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import spillover as sp
from interp.errors import InputError
from tests.fuzzing import write_jsonl
from unlearning.data import as_prompts, read_prompts, read_records
from unlearning.deflections import read_deflections

Spillover = Callable[..., tuple[int, str, str]]
EMPTY: dict[str, Any] = {
    "null": None,
    "NaN": float("nan"),
    "blank": "",
    "spaces": "  ",
    "numpy": np.float64("nan"),
    "missing": pd.NA,
    "no time": pd.NaT,
}
OPTIONAL = ("id", "source", "split", "kind", "pair", "notes")


def sixty() -> list[dict[str, Any]]:
    words = [f"{verb} {noun}" for verb in ("mend", "melt", "move") for noun in "abcdefghij"]
    return [
        {"prompt": f"{text} {label}", "domain": "safety", "label": label}
        for text in words
        for label in ("harmful", "benign")
    ]


@pytest.mark.parametrize("empty", EMPTY.values(), ids=EMPTY)
def test_an_empty_cell_is_no_cell_in_every_optional_column(empty: Any) -> None:
    rows = sixty()
    expected = as_prompts(pd.DataFrame(rows))
    assert set(expected["split"]) == {"train", "validation", "test"}
    for column in OPTIONAL:
        found = as_prompts(pd.DataFrame([{**row, column: empty} for row in rows]))
        pd.testing.assert_frame_equal(found[list(expected)], expected)
        if column not in expected:
            assert found[column].isna().all()


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_an_empty_cell_is_no_cell_in_every_format(tmp_path: Path, suffix: str) -> None:
    rows = sixty()
    expected = as_prompts(pd.DataFrame(rows))
    path = tmp_path / f"prompts{suffix}"
    for empty in ("", float("nan"), None):
        table = pd.DataFrame([{**row, **dict.fromkeys(OPTIONAL, empty)} for row in rows])
        if suffix == ".csv":
            table.to_csv(path, index=False)
        elif suffix == ".parquet":
            table.to_parquet(path)
        else:
            lines = [json.dumps(row) for row in table.astype(object).to_dict("records")]
            whole = "\n".join(lines) if suffix == ".jsonl" else f"[{','.join(lines)}]"
            path.write_text(whole, encoding="utf-8")
        pd.testing.assert_frame_equal(read_prompts(path)[list(expected)], expected)


@pytest.mark.parametrize("column", ["prompt", "domain", "label"])
@pytest.mark.parametrize("empty", [None, float("nan"), "", " "])
def test_an_empty_cell_of_a_column_that_is_needed_names_its_line(column: str, empty: Any) -> None:
    rows = sixty()
    rows[3][column] = empty
    with pytest.raises(InputError, match=f'row 4: ("{column}" is missing|the prompt is empty)'):
        as_prompts(pd.DataFrame(rows))


@pytest.mark.parametrize("column", ["id", "prompt", "domain", "label", "source", "split", "pair"])
@pytest.mark.parametrize("value", [["a"], {"a": 1}, [], np.arange(2)], ids=str)
def test_a_list_where_one_value_belongs_names_its_line(column: str, value: Any) -> None:
    rows = sixty()
    rows[2][column] = value
    kind = "an object" if isinstance(value, dict) else "a list"
    with pytest.raises(InputError, match=f'row 3: "{column}" is {kind}'):
        as_prompts(pd.DataFrame(rows))


@pytest.mark.parametrize("column", ["id", "prompt", "source", "pair", "notes"])
def test_half_a_character_names_its_line(tmp_path: Path, column: str) -> None:
    rows = sixty()
    for value in ("cut \ud83d", "\ude00"):
        rows[1][column] = value
        with pytest.raises(InputError, match=rf'line 2: "{column}" holds half of a character'):
            read_prompts(write_jsonl(tmp_path / "prompts.jsonl", rows))
    rows[1][column] = "whole \U0001f600"  # which JSON writes as both halves
    assert len(read_prompts(write_jsonl(tmp_path / "prompts.jsonl", rows))) == 60
    nested = [{**row, "notes": [{"a": "\ud83d"}]} for row in sixty()]
    with pytest.raises(InputError, match='line 1: "notes" holds half'):
        read_prompts(write_jsonl(tmp_path / "prompts.jsonl", nested))


def test_deflections_with_half_a_character_are_refused(tmp_path: Path) -> None:
    rows = [{"prompt": f"p {n}", "response": "No."} for n in range(40)]
    rows[5]["response"] = "No \ud83d"
    with pytest.raises(InputError, match='line 6: "response" holds half of a character'):
        read_deflections(write_jsonl(tmp_path / "deflections.jsonl", rows))


def test_a_response_that_is_missing_is_an_empty_answer() -> None:
    said = [float("nan"), None, "", " ", np.float64("nan"), pd.NA, "Sure, boil it."]
    scored = sp.score(["How do I boil rice?"] * len(said), said)  # type: ignore[arg-type]
    assert list(scored["class"]) == ["empty"] * 6 + ["answer"]
    assert not scored["refused"].any()
    with pytest.raises(InputError, match='row 1: "response" is a list; expected text'):
        sp.score(["How do I boil rice?"], [["Sure"]])  # type: ignore[list-item]


def test_recorded_answers_keep_their_fields_as_they_were(
    tmp_path: Path, spillover: Spillover
) -> None:
    rows = [
        {"prompt": "p", "response": "", "note": ""},
        {"prompt": "p", "response": "Sorry, I can't \ud83d", "note": [1]},
        {"prompt": 3, "response": None, "note": None},
    ]
    code, _, err = spillover("score", write_jsonl(tmp_path / "a.jsonl", rows), "--out", "out.jsonl")
    assert code == 0, err
    scored = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [{name: row[name] for name in rows[0]} for row in scored] == rows
    assert [row["class"] for row in scored] == ["empty", "full_refusal", "empty"]


# CSV


def test_a_long_field_is_read(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    rows = [*sixty(), {**sixty()[0], "prompt": "long " * 30_000, "id": "long"}]
    pd.DataFrame(rows).to_csv(tmp_path / "prompts.csv", index=False)
    assert len(read_prompts(tmp_path / "prompts.csv")["prompt"].iloc[-1]) == 150_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a,b\n1,2\n3,"open\n5,6\n7,8\n', "line 3: not valid CSV \\(a quote is not closed\\)"),
        ('a,b\n1,2\n\n"x\ny",4\n5,"6"7\n', "line 6: not valid CSV"),
        ('a,b\n"x\ny",4\n5,6,7\n', "line 4: more fields than the header"),
        ('a,b\n1,"' + "x" * 200_000 + '"\n2,"open\n', "line 3: not valid CSV"),
    ],
    ids=["open", "after quote", "too many", "after a long field"],
)
def test_what_is_wrong_is_said_with_the_line_on_which_it_begins(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_records(path)


def test_rows_are_named_by_the_line_on_which_they_begin(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('a,b\n\n"x\ny",4\nshort\n5,6\n', encoding="utf-8")
    records = read_records(path)
    assert [one.place for one in records] == ["line 3", "line 5", "line 6"]
    assert [one.fields for one in records] == [
        {"a": "x\ny", "b": "4"}, {"a": "short", "b": None}, {"a": "5", "b": "6"},
    ]  # fmt: skip
