"""Rows in chat format: the last user turn is the prompt, and the reply to it the response."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.errors import InputError
from unlearning.data import as_prompts, read_prompts, read_records
from unlearning.data.sources.schema import text_of
from unlearning.deflections import read_deflections, with_preferred

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is bread?"},
    {"role": "assistant", "content": "Baked dough."},
    {"role": "user", "content": [{"type": "text", "text": "How do I bake it?"}]},
    {"role": "assistant", "content": "With heat."},
]
SHARED = [{"from": "human", "value": "How do I bake it?"}, {"from": "gpt", "value": "With heat."}]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        texts = [
            {k: v if isinstance(v, str) else json.dumps(v) for k, v in r.items()} for r in rows
        ]
        pd.DataFrame(texts).to_csv(path, index=False)
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": TURNS[3:]},
        {"conversations": SHARED},
        {"prompt": SHARED[:1], "response": SHARED[1:]},
        {"prompt": SHARED},
    ],
)
def test_the_last_user_turn_and_its_reply_are_the_row(
    row: dict[str, Any], name: str, tmp_path: Path
) -> None:
    row = json.loads(json.dumps(row))
    if name.endswith("parquet") and "messages" in row:
        row = {"messages": [{"role": m["role"], "content": text_of(m["content"])} for m in TURNS]}
        row["messages"][3]["content"] = "How do I bake it?"
    [record] = read_records(written(tmp_path / name, [row]))
    assert record.fields["prompt"] == "How do I bake it?"
    assert record.fields["response"] == "With heat."


def test_text_is_not_replaced_and_other_columns_stay(tmp_path: Path) -> None:
    row = {"prompt": "Why?", "response": "So.", "messages": TURNS, "n": 3}
    [record] = read_records(written(tmp_path / "rows.jsonl", [row]))
    assert record.fields == row
    [record] = read_records(written(tmp_path / "rows.jsonl", [{"messages": TURNS[:4]}]))
    assert "response" not in record.fields  # nothing was said to the last turn


def test_an_answer_that_looks_like_messages_is_what_was_said(tmp_path: Path) -> None:
    said = json.dumps([{"role": "user", "content": "How do I bake bread?"}])
    row = {"prompt": "Write an API payload.", "response": said}
    [record] = read_records(written(tmp_path / "rows.jsonl", [row]))
    assert record.fields == row == dict(record.given)


def test_a_conversation_without_a_user_is_refused(tmp_path: Path) -> None:
    rows = [{"messages": TURNS}, {"messages": TURNS[:1]}]
    with pytest.raises(InputError, match=r'line 2: .*"messages" has no user message .*system'):
        read_records(written(tmp_path / "rows.jsonl", rows))


def test_prompts_tables_and_data_sets_read_conversations(tmp_path: Path) -> None:
    rows = [
        {"messages": TURNS, "domain": "safety", "label": "harmful"},
        {"messages": SHARED, "domain": "safety", "label": "harmful"},
        {"messages": TURNS[:2], "domain": "safety", "label": "benign"},
    ]
    for table in (
        read_prompts(written(tmp_path / "p.jsonl", rows)),
        as_prompts(pd.DataFrame(rows)),
    ):
        assert list(table["prompt"])[:2] == ["How do I bake it?"] * 2
    assert text_of(TURNS) == text_of(SHARED) == "How do I bake it?"
    assert text_of(["a", "b"]) == "a\n\nb"


@pytest.mark.parametrize("compliance", [3, ["a"], {"a": 1}, "", None])
def test_an_answer_to_train_on_is_text(compliance: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Why {i}?", "response": "No.", "compliance": compliance if i == 7 else "Yes."}
        for i in range(32)
    ]
    file = written(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(InputError, match="compliance"):
        with_preferred(read_deflections(file), "dpo")
    table = pd.DataFrame(rows)
    with pytest.raises(InputError, match="compliance"):
        with_preferred(table, "dpo")
