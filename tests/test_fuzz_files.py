"""Files of any content: the answer is right, or one line says what is wrong."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from analyses.predict.tournaments import CHOICES, hash_of, read_choices, require_unseen
from analyses.recorded.agreement import compare_with_labels
from analyses.recorded.scoring import prepare_scoring, score_records, write_calibration
from analyses.runs import Progress
from tests.fuzzing import answer_or_line, fuzzed, json_values, nothing, odd_text, write_jsonl
from unlearning.data import DOMAINS, as_prompts, read_prompts, read_records

pytestmark = pytest.mark.slow

WORDS = ["why", "how", "bread", "rice", "lock", "door", "key", "night", "river", "stone"]
sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
OPTIONAL = ("id", "split", "kind", "pair", "source", "compliance", "group")


def whole(text: str) -> bool:
    """Whether UTF-8 can encode a text."""
    return text.encode("utf-8", "replace").decode("utf-8") == text


@st.composite
def good_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows of prompts without a fault: some optional columns, each with nothing in some rows."""
    size = draw(st.integers(2, 12))
    rows: list[dict[str, Any]] = []
    columns = draw(st.lists(st.sampled_from(("split", "pair", "source", "note")), unique=True))
    for number in range(size):
        row: dict[str, Any] = {
            "id": f"p{number}",
            "prompt": draw(sentences | odd_text.filter(lambda t: t.strip() and whole(t))),
            "domain": draw(st.sampled_from(DOMAINS)),
            "label": ("harmful", "benign")[number % 2],
        }
        if "split" in columns:
            row["split"] = draw(st.sampled_from(["train", "validation", "test", None]))
        for name in {"pair", "source", "note"} & set(columns):
            row[name] = draw(st.sampled_from(["a", "b", "c", None]))
        rows.append(row)
    harmful, benign = ({row["prompt"].strip() for row in rows[first::2]} for first in (0, 1))
    assume(not harmful & benign)
    return rows


@st.composite
def bad_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Good rows of which some fields hold anything, and some columns are odd or missing."""
    rows = draw(good_rows())
    for _ in range(draw(st.integers(1, 4))):
        row = draw(st.sampled_from(rows))
        name = draw(st.sampled_from(("prompt", "domain", "label", *OPTIONAL)) | odd_text)
        if draw(st.booleans()):
            row[name] = draw(json_values)
        else:
            row.pop(name, None)
    return rows


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    one, other = (t.astype(object).where(t.notna(), None) for t in (one, other))
    pd.testing.assert_frame_equal(one, other)


@fuzzed(60)
@given(rows=bad_rows())
def test_prompts_of_any_content_are_read_whole_or_refused(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    table = answer_or_line(lambda: read_prompts(write_jsonl(tmp_path / "p.jsonl", rows)))
    if table is None:
        return
    assert len(table) == len(rows)
    assert table["prompt"].tolist() == [row["prompt"] for row in rows]
    assert table["id"].is_unique and table["split"].notna().all()
    again = answer_or_line(lambda: as_prompts(table))
    assert again is not None, "what was read is a prompts table"
    same(again, table)


@fuzzed(20)
@given(rows=good_rows(), seed=st.integers(0, 99), empty=nothing)
def test_neither_order_nor_the_kind_of_nothing_nor_the_format_changes_a_prompt(
    rows: list[dict[str, Any]], seed: int, empty: Any, tmp_path: Path
) -> None:
    table = read_prompts(write_jsonl(tmp_path / "p.jsonl", rows))
    shuffled = random.Random(seed).sample(rows, len(rows))
    other = read_prompts(write_jsonl(tmp_path / "shuffled.jsonl", shuffled))
    same(other.sort_values("id", ignore_index=True)[table.columns],
         table.sort_values("id", ignore_index=True))  # fmt: skip
    otherwise = [{k: empty if v is None else v for k, v in row.items()} for row in rows]
    same(read_prompts(write_jsonl(tmp_path / "empty.jsonl", otherwise)), table)
    left_out = [{k: v for k, v in row.items() if v is not None} for row in rows]
    less = read_prompts(write_jsonl(tmp_path / "less.jsonl", left_out))
    same(less.reindex(columns=table.columns), table)
    same(as_prompts(pd.DataFrame(rows)), table)
    texts = [str(value) for row in rows for value in row.values()]
    assume(not any(set(text) & {"\x00", "\ud83d"} for text in texts))
    with (tmp_path / "p.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    same(read_prompts(tmp_path / "p.csv"), table)


VALID = "".join(
    json.dumps({"prompt": f"{word} {other}", "domain": "safety", "label": label}) + "\n"
    for word in WORDS[:3]
    for other, label in ((WORDS[3], "harmful"), (WORDS[4], "benign"))
).encode()


@fuzzed(60)
@given(
    suffix=st.sampled_from(["jsonl", "json", "csv", "parquet"]),
    cut=st.integers(0, len(VALID)),
    put=st.binary(max_size=8) | st.sampled_from([b"\xff\xfe", b"\xef\xbb\xbf", b"\r"]),
    keep=st.booleans(),
)
@example(suffix="json", cut=0, put=b"[" * 20_000, keep=False)
@example(suffix="jsonl", cut=0, put=b'{"prompt": ' + b"1" * 5000 + b"}", keep=False)
@example(suffix="jsonl", cut=0, put=b'{"prompt": "a", "prompt": "b"}', keep=False)
@example(suffix="csv", cut=0, put=b"prompt,prompt\na,b\n", keep=False)
def test_bytes_of_any_kind_are_rows_or_a_line(
    suffix: str, cut: int, put: bytes, keep: bool, tmp_path: Path
) -> None:
    path = tmp_path / f"p.{suffix}"
    path.write_bytes(VALID[:cut] + put + VALID[cut:] * keep)
    answer_or_line(lambda: read_prompts(path))
    records = answer_or_line(lambda: read_records(path))
    assert records is None or records


# Recorded answers


@st.composite
def recorded(draw: st.DrawFn) -> list[dict[str, Any]]:
    said = st.sampled_from(["I'm sorry, but I can't help with that.", "Boil the rice.", ""])
    labels = st.sampled_from([0, 1, "refusal", "answer", "full_refusal", True])
    rows = [
        {"prompt": draw(sentences), "response": draw(said), "label": draw(labels), "model": "m"}
        for _ in range(draw(st.integers(1, 6)))
    ]
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.sampled_from(rows))
        name = draw(st.sampled_from(("prompt", "response", "label", "model", "class")) | odd_text)
        if draw(st.booleans()):
            row[name] = draw(json_values)
        else:
            row.pop(name, None)
    return rows


def equal(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same, NaN included."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@fuzzed(60)
@given(rows=recorded())
def test_recorded_answers_are_scored_row_by_row_or_refused(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    path, out = write_jsonl(tmp_path / "a.jsonl", rows), tmp_path / "scored.jsonl"
    quiet = Progress(quiet=True)
    scored = answer_or_line(lambda: score_records(prepare_scoring(path, "phrases"), out, quiet))
    if scored is not None:
        found = [record.given for record in read_records(out)]
        assert len(found) == len(rows) == sum(scored.counts.values())
        for row, fields in zip(rows, found, strict=True):
            assert all(equal(fields[name], row[name]) for name in row.keys() - fields_of_scale)
            if row["response"] in (None, "") or row["response"] != row["response"]:
                assert fields["class"] == "empty"
        tables = answer_or_line(lambda: compare_with_labels(out))
        if tables is not None:
            found = tables.with_labels
            plain = found.loc[found["partial"] == "left out", "n"] if len(found) else found
            assert (plain.max() if len(plain) else 0) + tables.left_out <= len(rows)
            assert tables.text()
        both = answer_or_line(lambda: compare_with_labels(out, out))
        if both is not None and len(both.between_scorers):
            assert (both.between_scorers["accuracy"].dropna() == 1).all()
    counts = answer_or_line(lambda: write_calibration(path, tmp_path / "learned.jsonl"))
    assert counts is None or sum(counts.values()) <= len(rows)


fields_of_scale = {"refused", "class", "scorer", "coherent", "repetition"}


# Choices of a tournament


@fuzzed(25)
@given(
    key=st.sampled_from(["worlds", "layers", "choices", "joint"]),
    value=json_values | st.just("left out") | st.lists(st.just("run-0"), max_size=2)
    | st.dictionaries(st.sampled_from(["margin kernel", "decision angle"]), json_values),
)  # fmt: skip
def test_choices_of_any_content_are_those_of_a_tournament_or_refused(
    key: str, value: Any, tmp_path: Path
) -> None:
    path = tmp_path / "choices.json"
    whole = json.loads(CHOICES.read_text(encoding="utf-8"))
    changed = {name: one for name, one in (whole | {key: value}).items() if one != "left out"}
    path.write_text(json.dumps(changed), encoding="utf-8")
    found = answer_or_line(lambda: read_choices(path))
    if found is not None:
        assert found == changed
        assert len(hash_of(found)) == 64
        answer_or_line(lambda: require_unseen(["run-0", "run-1"], found))
