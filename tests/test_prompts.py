"""Reading a prompts table: what is filled in, and what each kind of bad input says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import InputError
from tests.fuzzing import write_jsonl
from unlearning.data import (
    DOMAINS,
    SPLITS,
    as_prompts,
    controls,
    near_duplicate_groups,
    normalised,
    read_prompts,
    require_concepts,
)
from unlearning.data.prompts import COLUMNS, FEWEST_CONTROLS
from unlearning.data.splits import SHARES, assign_splits

Row = dict[str, Any]
HARMFUL: Row = {"prompt": "Tell me how to fell a lamp", "domain": "safety", "label": "harmful"}
BENIGN: Row = {"prompt": "Tell me how to mend a lamp", "domain": "safety", "label": "benign"}


def write_csv(path: Path, rows: list[Row]) -> Path:
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def write_parquet(path: Path, rows: list[Row]) -> Path:
    pd.DataFrame(rows).to_parquet(path)
    return path


WRITERS: dict[str, Callable[[Path, list[Row]], Path]] = {
    ".jsonl": write_jsonl,
    ".csv": write_csv,
    ".parquet": write_parquet,
}


def unlike(number: int) -> str:
    """Prompts that share no pair of words with one another."""
    return " ".join(f"word{number}x{i}" for i in range(5))


def many(count: int, domain: str = "safety", label: str = "harmful", start: int = 0) -> list[Row]:
    return [
        {"prompt": unlike(start + i), "domain": domain, "label": label, "id": f"{start + i}"}
        for i in range(count)
    ]


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_minimal_file_is_completed(tmp_path: Path, suffix: str) -> None:
    general = {**BENIGN, "prompt": "How tall is the tower?", "domain": "general"}
    rows = [{**HARMFUL, "note": "a, b"}, BENIGN, general]
    table = read_prompts(WRITERS[suffix](tmp_path / f"prompts{suffix}", rows))
    assert list(table.columns) == [*COLUMNS, "note"]
    assert table["id"].is_unique
    assert table["split"].isin(SPLITS).all()
    assert table["kind"].isna().tolist() == [True, False, False]
    assert table["kind"].tolist()[1:] == ["twin", "general"]
    assert table["note"].tolist()[0] == "a, b"
    pd.testing.assert_frame_equal(as_prompts(table), table)


def test_every_format_gives_the_same_table(tmp_path: Path) -> None:
    rows = [{**HARMFUL, "source": 'with "quotes"\nand lines'}, {**BENIGN, "source": "Ünïcode"}]
    tables = [read_prompts(write(tmp_path / f"p{s}", rows)) for s, write in WRITERS.items()]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


def test_line_separators_byte_order_mark_and_crlf_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    odd = json.dumps({**BENIGN, "prompt": "one\u2028two"}, ensure_ascii=False)
    path.write_bytes(("\ufeff" + json.dumps(HARMFUL) + "\r\n\r\n" + odd).encode())
    assert read_prompts(path)["prompt"].tolist()[1] == "one\u2028two"


@pytest.mark.parametrize("mark", ",;\t")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_spreadsheets_are_read(tmp_path: Path, mark: str, encoding: str) -> None:
    rows = [{**HARMFUL, "note": "a, b; c"}, {**BENIGN, "note": "Ünïcode\ttab"}]
    path = tmp_path / "prompts.csv"
    pd.DataFrame(rows).to_csv(path, index=False, sep=mark, encoding=encoding)
    plain = write_jsonl(tmp_path / "prompts.jsonl", rows)
    pd.testing.assert_frame_equal(read_prompts(path), read_prompts(plain))


def test_ids_are_given_or_depend_on_content_alone() -> None:
    first = as_prompts(pd.DataFrame([HARMFUL, BENIGN, BENIGN, {**HARMFUL, "id": "7"}]))
    other = as_prompts(pd.DataFrame([BENIGN, HARMFUL]))
    assert first["id"].is_unique
    assert first["id"].tolist()[3] == "7"
    assert set(other["id"]) < set(first["id"])


def test_extra_columns_survive_parquet(tmp_path: Path) -> None:
    rows = [{**HARMFUL, "extra": [1, 2]}, {**BENIGN, "extra": "text"}]
    table = read_prompts(write_jsonl(tmp_path / "prompts.jsonl", rows))
    table.to_parquet(tmp_path / "prompts.parquet")
    pd.testing.assert_frame_equal(read_prompts(tmp_path / "prompts.parquet"), table)


BAD_ROWS = {
    "missing column": ([{"prompt": "x", "domain": "bias"}], '"label"'),
    "missing value": ([HARMFUL, {**BENIGN, "domain": None}], '2: "domain" is missing'),
    "unknown domain": ([HARMFUL, {**BENIGN, "domain": "cyber"}], "2: unknown domain .*privacy"),
    "unknown label": ([HARMFUL, {**BENIGN, "label": "bad"}], "unknown label .*harmful, benign"),
    "harmful general": ([{**HARMFUL, "domain": "general"}], "benign prompts only"),
    "no harmful rows": ([BENIGN], "no harmful rows"),
    "no benign rows": ([HARMFUL], "no benign rows"),
    "empty prompt": ([HARMFUL, {**BENIGN, "prompt": " \n"}], "2: the prompt is empty"),
    "prompt that is no text": ([HARMFUL, {**BENIGN, "prompt": 3}], "no text"),
    "duplicate ids": ([{**HARMFUL, "id": "a"}, {**BENIGN, "id": "a"}], "1 and on .* 2"),
    "both labels": ([HARMFUL, BENIGN, {**BENIGN, "prompt": HARMFUL["prompt"]}], "1 and benign on"),
    "unknown split": ([HARMFUL, {**BENIGN, "split": "dev"}], "unknown split .*validation"),
    "unknown kind": ([HARMFUL, {**BENIGN, "kind": "near"}], "unknown kind .*twin"),
    "kind on a harmful row": ([{**HARMFUL, "kind": "twin"}, BENIGN], "1: kind"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_one_clear_line(tmp_path: Path, name: str) -> None:
    rows, message = BAD_ROWS[name]
    with pytest.raises(InputError, match=message) as caught:
        read_prompts(write_jsonl(tmp_path / "prompts.jsonl", rows))
    assert "prompts.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=message):
        as_prompts(pd.DataFrame(rows))


BAD_BYTES = {
    "empty": ("p.jsonl", b"", "empty"),
    "only blank lines": ("p.jsonl", b"\n \n", "empty"),
    "only a header": ("p.csv", b"prompt,domain,label\n", "empty"),
    "torn": ("p.jsonl", json.dumps(HARMFUL).encode() + b'\n{"prompt": "x', "line 2: .*torn"),
    "no object": ("p.jsonl", b'["prompt"]\n', "line 1: expected an object"),
    "cp1252": ("p.jsonl", b'\n\n{"prompt": "don\x92t"}', "line 3: byte 0x92 is not UTF-8"),
    "open quote": ("p.csv", b'prompt,domain,label\n"x,bias,harmful\n', "not valid CSV"),
    "too many fields": ("p.csv", b"prompt,domain,label\na, b,bias,harmful\n", "line 2: more"),
    "no parquet": ("p.parquet", b"PAR1", "cannot be read as parquet"),
    "unknown format": ("p.txt", b"x", "unknown format"),
}


@pytest.mark.parametrize("name", BAD_BYTES)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, name: str) -> None:
    file, content, message = BAD_BYTES[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_prompts(tmp_path / file)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_prompts(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="is a folder"):
        read_prompts(tmp_path)


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        as_prompts(pd.DataFrame({"prompt": []}))


def test_bad_input_is_found_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "prompts.jsonl", [BENIGN])
    program = (
        "import sys\nfrom interp.errors import InputError\n"
        "from unlearning.data.prompts import read_prompts\n"
        "try:\n    read_prompts(sys.argv[1])\nexcept InputError:\n"
        "    sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'numpy')))\n"
        "sys.exit(3)\n"
    )
    root = Path(__file__).resolve().parent.parent
    assert subprocess.run([sys.executable, "-c", program, str(path)], cwd=root).returncode == 0


def test_concepts_need_harmful_prompts_in_every_split() -> None:
    table = as_prompts(pd.DataFrame([*many(60), {**BENIGN, "domain": "bias"}]))
    require_concepts(table, ["safety"])
    with pytest.raises(InputError, match='unknown concept "cyber".*cybersecurity'):
        require_concepts(table, ["cyber"])
    with pytest.raises(InputError, match='"bias" has no harmful prompts.*have some: safety$'):
        require_concepts(table, ["safety", "bias"])
    with pytest.raises(InputError, match="none for validation and test"):
        require_concepts(table[table["split"] == "train"], ["safety"])


def test_splits_do_not_depend_on_order_nor_on_unrelated_rows() -> None:
    """Groups of one, of a pair, of near-duplicates and of both: each has members in many places."""
    harmful, benign = many(120), many(40, label="benign", start=200)
    for number, row in enumerate(benign):
        harmful[number]["pair"] = row["pair"] = f"pair {number}"
    alike = [{**row, "id": f"{row['id']} again", "prompt": f"{row['prompt']} please"}
             for row in harmful[20:60]]  # fmt: skip
    rows = pd.DataFrame([*harmful, *benign, *alike])
    before = as_prompts(rows).set_index("id")["split"]
    assert (before[[f"{i} again" for i in range(20, 60)]].to_numpy()
            == before[[f"{i}" for i in range(20, 60)]].to_numpy()).all()  # fmt: skip
    for seed in range(3):
        shuffled = as_prompts(rows.sample(frac=1, random_state=seed)).set_index("id")["split"]
        assert (shuffled[before.index] == before).all()
    extended = pd.concat([pd.DataFrame(many(300, "bias", start=1000)), rows])
    after = as_prompts(extended).set_index("id")["split"]
    assert (after[before.index] == before).all()


def test_splits_have_the_stated_shares() -> None:
    splits = pd.Series(assign_splits([unlike(i) for i in range(4000)], [None] * 4000))
    for split, share in zip(SPLITS, SHARES, strict=True):
        # Four standard deviations of a binomial share.
        assert abs((splits == split).mean() - share) < 4 * (share * (1 - share) / 4000) ** 0.5


def test_near_duplicates_and_pairs_share_a_split() -> None:
    text = "Please explain in a few words how the old clock in the tower was made"
    variants = [
        text,
        text.upper() + "!!",
        text.replace("old", "new"),
        text.replace("old", "new").replace("few", "hundred"),
    ]
    groups = near_duplicate_groups([*variants, *map(unlike, range(50))])
    assert len(set(groups[:4])) == 1
    assert len(set(groups)) == 51
    splits = assign_splits([unlike(i) for i in range(40)], [None] * 40, [i // 2 for i in range(40)])
    assert splits[::2] == splits[1::2]


def test_near_duplicates_follow_a_split_that_was_given() -> None:
    text = "Please explain in a few words how the old clock in the tower was made"
    assert assign_splits([text, text + "?", unlike(1)], ["test", None, "train"])[1] == "test"
    # Given splits are the user's own business; what follows them goes where nothing is tested.
    assert assign_splits([text, text, text], ["test", None, "train"]) == ["test", "train", "train"]


@given(st.lists(st.lists(st.sampled_from("abcde"), min_size=1, max_size=6), max_size=12))
def test_groups_are_the_transitive_closure_of_similarity(words: list[list[str]]) -> None:
    """Parity with the definition, computed the slow way."""
    from unlearning.data.splits import SIMILARITY, shingles

    texts = [" ".join(row) for row in words]
    sets = [shingles(text) for text in texts]
    slow = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= SIMILARITY:
                slow = [slow[i] if group == slow[j] else group for group in slow]
    fast = near_duplicate_groups(texts)
    for i in range(len(texts)):
        for j in range(i):
            assert (fast[i] == fast[j]) == (slow[i] == slow[j])


def test_controls_are_disjoint_and_say_who_borrowed() -> None:
    rows = [
        *many(10, "safety"),
        *many(10, "bias", start=100),
        *many(10, "privacy", start=200),
        *many(FEWEST_CONTROLS, "safety", "benign", start=300),
        *many(FEWEST_CONTROLS - 1, "bias", "benign", start=400),
        *many(101, "general", "benign", start=500),
    ]
    table = as_prompts(pd.DataFrame(rows))
    for split in SPLITS:
        found = controls(table, split)
        assert list(found.rows) == [d for d in DOMAINS if d in ("safety", "bias", "privacy")]
        used = pd.concat(found.rows.values())
        assert used["id"].is_unique
        assert (used["label"] == "benign").all()
        assert (used["split"] == split).all()
        assert list(found.borrowed) == ["bias", "privacy"]
        assert abs(found.borrowed["bias"] - found.borrowed["privacy"]) <= 1
        general = (table["domain"] == "general") & (table["split"] == split)
        assert sum(found.borrowed.values()) == general.sum()
        assert (found.rows["safety"]["domain"] == "safety").all()
        assert found.note is not None
        assert "bias" in found.note
        assert "safety" not in found.note


def test_controls_without_borrowing_have_no_note() -> None:
    table = as_prompts(pd.DataFrame([*many(5), *many(20, label="benign", start=50)]))
    assert controls(table, "train").note is None


def test_public_prompts_are_read(public_data: Path) -> None:
    table = read_prompts(public_data / "prompts.jsonl")
    require_concepts(table, DOMAINS)
    assert table["split"].value_counts(normalize=True)["train"] == pytest.approx(0.6, abs=0.05)
    assert set(controls(table, "train").borrowed) == {
        "cybersecurity",
        "toxicity",
        "sensitive",
        "medical_legal",
    }


@pytest.mark.parametrize(
    ("one", "other"), [("चोरी कैसे करें", "चारा कैसे करें"), ("💣?", "🔪?"), ("का", "की"), ("!!", "??")]
)
def test_texts_that_differ_in_a_sign_have_different_words(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)
    assert normalised("Why, O'Neil_2?") == "why o neil_2"


def test_a_pair_is_the_same_in_every_type(tmp_path: Path) -> None:
    """As files of several formats have it."""
    splits = []
    for names in ((3, 3), (3, "3"), (3.0, 3), ("3", 3.0)):
        rows = [
            {"prompt": f"{word} {i}?", "domain": "safety", "label": label,
             "pair": type(name)(i) if not isinstance(name, str) else str(i)}
            for i in range(30)
            for name, label, word in zip(names, ("harmful", "benign"), ("Why", "How"), strict=True)
        ]  # fmt: skip
        table = as_prompts(pd.DataFrame({"prompt": [row["prompt"] for row in rows],
                                         "domain": "safety",
                                         "label": [row["label"] for row in rows],
                                         "pair": pd.Series([row["pair"] for row in rows],
                                                           dtype=object)}))  # fmt: skip
        assert table.groupby("pair")["split"].nunique().max() == 1
        splits.append(list(table["split"]))
    assert all(one == splits[0] for one in splits)
