"""``spillover prompts``: one file out of many sources, without leaks."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import Spillover
from unlearning.data import matched_pairs, read_prompts
from unlearning.data.sources import SOURCES, Above

MAPPED = ("--prompt-column", "question", "--category-column", "topic", "--label", "harmful")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.csv"
    lines = [
        "question,topic",
        "Where do wombats dream of blue kites?,Theft",
        "Why are rivers so long?,Law",
    ]
    path.write_text("\r\n".join(lines), encoding="utf-8")
    return path


def test_every_source_is_listed_with_its_licence_and_shown_with_its_mapping(
    spillover: Spillover,
) -> None:
    code, out, _ = spillover("prompts", "list")
    assert code == 0
    for name, source in SOURCES.items():
        assert f"{name}: {source.licence}" in out
    code, out, _ = spillover("prompts", "list", "xstest")
    assert code == 0
    assert "contrast_privacy" in out and "CC BY 4.0" in out


def test_the_built_in_pairs_come_out_as_they_are_and_leak_nothing(
    spillover: Spillover, tmp_path: Path
) -> None:
    out = tmp_path / "prompts.jsonl"
    code, text, _ = spillover("prompts", "make", "built-in", "--out", out)
    table, built_in = read_prompts(out), matched_pairs()
    assert code == 0 and f"{len(built_in)} prompts" in text
    pd.testing.assert_frame_equal(
        table[["id", "prompt", "pair"]], built_in[["id", "prompt", "pair"]]
    )
    code, text, _ = spillover("prompts", "leaks", out)
    held_out = (table["split"] != "train").sum()
    assert code == 0 and text.startswith(f"0 of {held_out}")


def test_own_data_is_mapped_on_the_command_line(
    spillover: Spillover, own: Path, tmp_path: Path
) -> None:
    out = tmp_path / "prompts.jsonl"
    mapping = ("--map", "Theft=safety", "--leave-out", "Law=not asked")
    code, text, said = spillover(
        "prompts", "make", "built-in", "--own", own, *MAPPED, *mapping, "--out", out
    )
    assert code == 0 and f"{len(matched_pairs()) + 1} prompts" in text and "not asked" in said
    [row] = [row for row in map(json.loads, out.open(encoding="utf-8")) if row["source"] == "own"]
    assert (row["domain"], row["label"]) == ("safety", "harmful")


def test_a_source_described_in_toml_is_known_by_its_name(
    spillover: Spillover, own: Path, tmp_path: Path
) -> None:
    definitions, out = tmp_path / "mine.toml", tmp_path / "prompts.jsonl"
    definitions.write_text(
        f'[mine]\nlocation = "{own.name}"\nprompt = "question"\ndomain = "privacy"\n'
        'label = "harmful"\n',
        encoding="utf-8",
    )
    code, text, _ = spillover(
        "prompts", "make", "built-in", "mine", "--sources", definitions, "--out", out
    )
    assert code == 0 and f"{len(matched_pairs()) + 2} prompts" in text


def test_what_training_has_seen_is_found_and_can_be_left_out(
    spillover: Spillover, own: Path, tmp_path: Path
) -> None:
    training, evaluation = tmp_path / "training.jsonl", tmp_path / "evaluation.jsonl"
    mapped = ("--own", own, *MAPPED, "--map", "Theft=safety", "--map", "Law=privacy")
    spillover("prompts", "make", "built-in", *mapped, "--out", training)
    near = own.read_text(encoding="utf-8").replace("kites?", "kites now?")
    own.write_text(near, encoding="utf-8")
    spillover("prompts", "make", "built-in", *mapped, "--out", evaluation)
    code, text, _ = spillover("prompts", "leaks", training, evaluation)
    rows = len(matched_pairs()) + 2
    assert code == 1 and text.startswith(f"{rows} of {rows} ")
    code, _, said = spillover(
        "prompts", "make", *mapped, "--apart-from", training, "--out", tmp_path / "apart.jsonl"
    )
    # Nothing is left, and what is missing is said.
    assert code == 2 and "2 dropped" in said and "error: " in said


def test_prompts_of_one_label_are_made_and_compared_too(
    spillover: Spillover, own: Path, tmp_path: Path
) -> None:
    out = tmp_path / "harmful.jsonl"
    mapped = ("--own", own, *MAPPED, "--map", "Theft=safety", "--map", "Law=privacy")
    code, text, said = spillover("prompts", "make", *mapped, "--out", out)
    assert code == 0 and "2 prompts" in text, said
    twice = tmp_path / "twice.jsonl"
    lines = out.read_text(encoding="utf-8")
    twice.write_text(lines + lines.replace('"id": "own', '"id": "again'), encoding="utf-8")
    code, text, _ = spillover("prompts", "leaks", out, twice)
    assert code == 1 and text.startswith("4 of 4 ")  # rows, not different texts
    code, _, said = spillover("prompts", "make", *mapped, "--apart-from", out, "--out", "x.jsonl")
    assert code == 2 and "2 dropped" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("nonsuch",), 'unknown source "nonsuch"'),
        (("built-in=own.csv",), "built-in prompts come from no file"),
        ((), "no sources"),
        (("--own", "own.csv"), "--prompt-column"),
        (("--own", "own.csv", *MAPPED, "--map", "Theft=safety"), '"Law" (1 rows)'),
        (("xstest=absent.csv",), "absent.csv does not exist"),
        (("built-in", "built-in", "--keep-duplicates"), "make ids unique"),
    ],
)
def test_what_cannot_be_made_is_one_line(
    spillover: Spillover, own: Path, arguments: tuple[str, ...], expected: str
) -> None:
    code, out, said = spillover("prompts", "make", *arguments, "--out", "out.jsonl")
    assert (code, out) == (2, "") and expected in said.splitlines()[-1]
    assert not Path("out.jsonl").exists()


def test_a_score_that_is_no_number_has_no_label() -> None:
    rule = Above(("ai", "human"), 5.5)
    said = {text: rule.of({"ai": 3, "human": text}) for text in ("3.0", "1.0", "nan", "", "many")}
    assert said == {"3.0": "harmful", "1.0": "benign", "nan": None, "": None, "many": None}
