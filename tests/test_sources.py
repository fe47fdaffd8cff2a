"""Public benchmarks by their own schemas: small files of the same shape, with made-up texts."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.errors import InputError
from unlearning.data import DOMAINS, as_prompts
from unlearning.data.prompts import COLUMNS, GENERAL
from unlearning.data.sources import (
    SOURCES,
    Source,
    Values,
    combined,
    deduplicated,
    find_source,
    leaks,
    load,
    mappings_table,
    read_sources,
    source_from_options,
)
from unlearning.data.sources import loading as loading_module
from unlearning.data.splits import SIMILARITY, shingles

Row = dict[str, Any]
DOCS = Path(__file__).resolve().parent.parent / "docs" / "sources.md"


def unlike(number: int) -> str:
    """Prompts that share no pair of words with one another."""
    return " ".join(f"word{number}x{i}" for i in range(5))


def json_lines(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def json_list(path: Path, rows: list[Row]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def comma_separated(path: Path, rows: list[Row]) -> Path:
    pd.DataFrame(rows).to_csv(path, index=False, lineterminator="\r\n")
    return path


def parquet(path: Path, rows: list[Row]) -> Path:
    pd.DataFrame(rows).to_parquet(path)
    return path


WRITERS: dict[str, Callable[[Path, list[Row]], Path]] = {
    ".jsonl": json_lines,
    ".json": json_list,
    ".csv": comma_separated,
    ".parquet": parquet,
}


def mitre(number: int, tactic: str) -> Row:
    return {
        "base_prompt": unlike(number),
        "mutated_prompt_base": "wrapper",
        "mutated_prompt": f'{{"prompt": "{unlike(number)}"}} answer:',
        "mitre_category": tactic,
        "ttp_id_name_mapping": {"TTP_ID": "T0", "TTP_Name": "none"},
    }


def sorry(number: int, category: int | str, style: str = "base") -> Row:
    return {
        "question_id": number,
        "category": str(category),
        "turns": [unlike(number)],
        "prompt_style": style,
    }


def bbq(number: int, context: str = "ambig", polarity: str = "neg") -> Row:
    return {
        "example_id": number,
        "question_index": "1",
        "question_polarity": polarity,
        "context_condition": context,
        "category": "Religion",
        "answer_info": {"ans0": ["a", "x"], "ans1": ["b", "y"], "ans2": ["c", "unknown"]},
        "additional_metadata": {"subcategory": "None", "stereotyped_groups": ["x"]},
        "context": f"Two people, {unlike(number)}.",
        "question": "Which one?",
        "ans0": "a",
        "ans1": "b",
        "ans2": "c",
        "label": 2,
    }


def toxigen(number: int, machine: float, human: float, group: str = "women") -> Row:
    return {
        "text": unlike(number),
        "target_group": group,
        "factual?": "opinion",
        "ingroup_effect": "none",
        "lewd": "none",
        "framing": "none",
        "predicted_group": "none",
        "stereotyping": "none",
        "intent": human,
        "toxicity_ai": machine,
        "toxicity_human": human,
        "predicted_author": "human",
        "actual_method": "topk",
    }


def behaviour(number: int, category: str, context: str | None = None) -> Row:
    return {
        "Behavior": unlike(number),
        "FunctionalCategory": "contextual" if context else "standard",
        "SemanticCategory": category,
        "Tags": "context" if context else None,
        "ContextString": context,
        "BehaviorID": f"behaviour_{number}",
    }


def goal(number: int, category: str, index: int) -> Row:
    return {
        "Index": index,
        "Goal": unlike(number),
        "Target": "Sure",
        "Behavior": "none",
        "Category": category,
        "Source": "Original",
    }


def harm(number: int, kind: str) -> Row:
    row: Row = {"id": number, "risk_area": "area", "types_of_harm": kind}
    return {**row, "specific_harms": "specific", "question": unlike(number)}


# A file of the published shape, and the (domain, label) of each row that is used, in order.
HARMFUL, BENIGN = "harmful", "benign"
SHAPES: dict[str, tuple[str, list[Row], list[tuple[str, str]]]] = {
    "cyberseceval_mitre": (
        ".json",
        [mitre(1, "C2"), mitre(2, "Lateral Movement")],
        [("cybersecurity", HARMFUL)] * 2,
    ),
    "cyberseceval_interpreter": (
        ".json",
        [{"mutated_prompt": unlike(1), "attack_type": ["one", "two"]}],
        [("cybersecurity", HARMFUL)],
    ),
    "cyberseceval_frr": (
        ".json",
        [
            {
                "mutated_prompt": unlike(1),
                "is_malicious": "False",
                "attack_type": "x",
                "model": "m",
            },
            {"mutated_prompt": unlike(2), "is_malicious": False, "attack_type": "x", "model": "m"},
        ],
        [("cybersecurity", BENIGN)] * 2,
    ),
    "strongreject": (
        ".csv",
        [
            {"category": "Violence", "source": "custom", "forbidden_prompt": unlike(1)},
            {"category": "Sexual content", "source": "AdvBench", "forbidden_prompt": unlike(2)},
        ],
        [("safety", HARMFUL), ("sensitive", HARMFUL)],
    ),
    "sorry_bench": (
        ".jsonl",
        [sorry(1, 12), sorry(2, 16), sorry(3, 20), sorry(4, 44), sorry(5, 1, style="slang")],
        [("cybersecurity", HARMFUL), ("safety", HARMFUL)],
    ),
    "sorry_bench_202406": (
        ".jsonl",
        [sorry(1, 12), sorry(2, 13), sorry(3, 45)],
        [("safety", HARMFUL), ("cybersecurity", HARMFUL), ("safety", HARMFUL)],
    ),
    "do_not_answer": (
        ".csv",
        [
            harm(1, "Toxic language (hate speech)"),
            harm(2, "Risks from leaking or inferring sensitive information (organization/gov)"),
            harm(3, "Treat Chatbot as a Human"),
        ],
        [("toxicity", HARMFUL), ("privacy", HARMFUL)],
    ),
    "toxigen": (
        ".parquet",
        [toxigen(1, 5.0, 5.0), toxigen(2, 1.0, 2.0, "asian folks"), toxigen(3, 2.5, 3.0, "asian")],
        [("toxicity", HARMFUL), ("toxicity", BENIGN), ("toxicity", BENIGN)],
    ),
    "bbq": (
        ".jsonl",
        [bbq(1), bbq(2, context="disambig"), bbq(3, polarity="nonneg"), bbq(4)],
        [("bias", HARMFUL)] * 2,
    ),
    "xstest": (
        ".csv",
        [
            {"id": 1, "prompt": unlike(1), "type": "homonyms", "label": "safe", "focus": "f"},
            {"id": 26, "prompt": unlike(2), "type": "contrast_homonyms", "label": "unsafe"},
            {"id": 301, "prompt": unlike(3), "type": "contrast_discr", "label": "unsafe"},
            {"id": 376, "prompt": unlike(4), "type": "privacy_public", "label": "safe"},
        ],
        [("safety", BENIGN), ("safety", HARMFUL), ("bias", HARMFUL), ("privacy", BENIGN)],
    ),
    "alpaca": (
        ".json",
        [
            {"instruction": unlike(1), "input": "", "output": "o", "text": "t"},
            {"instruction": unlike(2), "input": "More of it", "output": "o", "text": "t"},
        ],
        [(GENERAL, BENIGN)] * 2,
    ),
    "harmbench": (
        ".csv",
        [
            behaviour(1, "cybercrime_intrusion"),
            behaviour(2, "copyright"),
            behaviour(3, "harassment_bullying", context="A context,\nof two lines"),
        ],
        [("cybersecurity", HARMFUL), ("toxicity", HARMFUL)],
    ),
    "jailbreakbench": (
        ".csv",
        [goal(1, "Malware/Hacking", 0), goal(2, "Expert advice", 1)],
        [("cybersecurity", HARMFUL), ("medical_legal", HARMFUL)],
    ),
    "jailbreakbench_benign": (
        ".csv",
        [goal(3, "Malware/Hacking", 0), goal(4, "Expert advice", 1)],
        [("cybersecurity", BENIGN), ("medical_legal", BENIGN)],
    ),
}


def write(folder: Path, name: str, rows: list[Row] | None = None) -> Path:
    suffix, shape, _ = SHAPES[name]
    return WRITERS[suffix](folder / f"{name}{suffix}", shape if rows is None else rows)


def test_every_benchmark_has_a_shape() -> None:
    assert set(SHAPES) == set(SOURCES)


@pytest.mark.parametrize("name", SHAPES)
def test_a_file_of_the_published_shape_is_mapped(tmp_path: Path, name: str) -> None:
    _, rows, expected = SHAPES[name]
    loaded = load(name, write(tmp_path, name))
    table = loaded.prompts
    assert list(zip(table["domain"], table["label"], strict=True)) == expected
    assert len(table) + loaded.left_out["rows"].sum() == len(rows)
    assert table["id"].is_unique
    assert table["id"].str.startswith(f"{name}-").all()
    assert set(table["source"]) == {name}
    assert (table["kind"].isna() == (table["label"] == "harmful")).all()
    assert str(loaded).startswith(f"{len(expected)} prompts")


@pytest.mark.parametrize("name", SHAPES)
def test_the_hub_and_a_file_give_the_same(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading_module, "fetch", lambda source: SHAPES[source.name][1])
    pd.testing.assert_frame_equal(load(name).prompts, load(name, write(tmp_path, name)).prompts)


def test_all_benchmarks_together_are_a_prompts_table(tmp_path: Path) -> None:
    loaded = combined([load(name, write(tmp_path, name)) for name in SHAPES])
    table = as_prompts(loaded.prompts)
    assert list(table.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert set(table["domain"]) == {*DOMAINS, GENERAL}
    assert set(loaded.left_out.columns) == {"source", "reason", "rows"}


def test_pairs_of_jailbreakbench_share_a_name_and_a_split(tmp_path: Path) -> None:
    names = ("jailbreakbench", "jailbreakbench_benign")
    table = as_prompts(combined([load(n, write(tmp_path, n)) for n in names]).prompts)
    assert table["pair"].value_counts().tolist() == [2, 2]
    assert (table.groupby("pair")["split"].nunique() == 1).all()


def test_contexts_and_inputs_precede_and_follow(tmp_path: Path) -> None:
    prompts = load("harmbench", write(tmp_path, "harmbench")).prompts["prompt"]
    assert prompts.tolist() == [unlike(1), f"A context,\nof two lines\n\n{unlike(3)}"]
    prompts = load("alpaca", write(tmp_path, "alpaca")).prompts["prompt"]
    assert prompts.tolist() == [unlike(1), f"{unlike(2)}\n\nMore of it"]
    prompts = load("bbq", write(tmp_path, "bbq")).prompts["prompt"]
    assert prompts.tolist()[0] == f"Two people, {unlike(1)}.\n\nWhich one?"


def test_bbq_says_what_it_left_out(tmp_path: Path) -> None:
    left_out = load("bbq", write(tmp_path, "bbq")).left_out
    assert left_out["reason"].tolist() == [
        'context_condition is "disambig", not ambig',
        'question_polarity is "nonneg", not neg',
    ]


def test_releases_of_xstest_number_alike(tmp_path: Path) -> None:
    later = load("xstest", write(tmp_path, "xstest")).prompts
    second = [
        {"id_v1": None, "id_v2": f"v2-{row['id']}", "type": row["type"], "prompt": row["prompt"]}
        for row in SHAPES["xstest"][1]
    ]
    earlier = load("xstest", comma_separated(tmp_path / "v2.csv", second)).prompts
    pd.testing.assert_frame_equal(earlier, later)


def test_the_first_release_of_sorry_bench_is_not_taken_for_the_second(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='"45" \\(1 rows\\)'):
        load("sorry_bench", write(tmp_path, "sorry_bench_202406"))


def test_spellings_of_one_category_are_one(tmp_path: Path) -> None:
    rows = [goal(n, c, n) for n, c in enumerate(["Privacy:", " privacy ", "PRIVACY/", "Privacy"])]
    table = load("jailbreakbench", write(tmp_path, "jailbreakbench", rows)).prompts
    assert set(table["domain"]) == {"privacy"}
    assert table["category"].tolist() == ["Privacy:", "privacy", "PRIVACY/", "Privacy"]


def test_an_unknown_category_is_an_error_unless_mapped(tmp_path: Path) -> None:
    rows = [goal(1, "Privacy", 1), goal(2, "Novel", 2), goal(3, "Novel", 3)]
    path = write(tmp_path, "jailbreakbench", rows)
    with pytest.raises(InputError, match='"Novel" \\(2 rows\\); known are .*"Expert advice"'):
        load("jailbreakbench", path)
    source = find_source("jailbreakbench")
    assert isinstance(source.domain, Values)
    wider = Values("Category", {**source.domain.values, "novel": "safety"})
    assert (
        load(replace(source, domain=wider), path).prompts["domain"].tolist()[1:] == ["safety"] * 2
    )
    counted = load(replace(source, left_out={"Novel": "not wanted"}), path).left_out
    assert counted["rows"].tolist() == [2]


def test_a_null_category_is_an_error_unless_mapped(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "own.jsonl", [{"q": "a b", "c": None}, {"q": "c d", "c": "x"}])
    source = source_from_options(
        str(path), ["q"], category="c", domains=["x=bias"], label="harmful"
    )
    with pytest.raises(InputError, match='"" \\(1 rows\\)'):
        load(source)
    mapped = replace(source, domain=Values("c", {"x": "bias", "": "safety"}))
    assert load(mapped).prompts["domain"].tolist() == ["safety", "bias"]
    assert load(mapped).prompts["category"].isna().tolist() == [True, False]


def test_line_ends_byte_order_marks_and_windows_1252(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    source = Source("own", str(path), "none", ("q",), "bias", "harmful")
    path.write_bytes('\ufeffq\r\n"one\r\ntwo"\r\n'.encode())
    assert load(source).prompts["prompt"].tolist() == ["one\ntwo"]
    assert load(source).notes == ()
    path.write_bytes("q\r\nDon’t\r\n".encode("cp1252"))
    loaded = load(source)
    assert loaded.prompts["prompt"].tolist() == ["Don’t"]
    assert "line 2" in loaded.notes[0]
    assert "Windows-1252" in str(loaded)
    path.write_bytes(b"q\r\nDon\x92t, one, two\r\n")
    with pytest.raises(InputError, match="own.csv, line 2: more fields") as caught:
        load(source)
    assert str(path) in str(caught.value)


def test_empty_prompts_and_repeated_ids_are_counted(tmp_path: Path) -> None:
    rows = [{"q": " \r\n", "i": 1}, {"q": "a", "i": 1}, {"q": "b", "i": 1}, {"q": None, "i": 2}]
    path = json_lines(tmp_path / "own.jsonl", rows)
    loaded = load(Source("own", str(path), "none", ("q",), "bias", "harmful", id=("i",)))
    assert loaded.prompts["id"].tolist() == ["own-1", "own-1-2"]
    assert loaded.left_out.to_dict("records") == [
        {"source": "own", "reason": "the prompt is empty", "rows": 2}
    ]


BAD = {
    "missing column": ("strongreject.csv", b"category,prompt\nViolence,x\n", '"forbidden_prompt"'),
    "no list": ("alpaca.json", b'{"instruction": "x"}', "not a list of objects"),
    "torn": ("alpaca.json", b'[{"instruction": "x"', "line 1: not valid JSON"),
    "empty list": ("alpaca.json", b"[]", "is empty"),
    "no bytes of either encoding": ("alpaca.json", b"[\x81]", "neither UTF-8 nor Windows-1252"),
    "unknown format": ("alpaca.txt", b"x", "unknown format"),
    "no number": ("toxigen.csv", b"text,toxicity_ai,toxicity_human\nx,,1\n", "expected numbers"),
    "nothing left": (
        "bbq.jsonl",
        json.dumps(bbq(1, polarity="nonneg")).encode(),
        "no rows for bbq \\(1: question_polarity",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, name: str) -> None:
    file, content, message = BAD[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load(Path(file).stem, tmp_path / file)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_sources_domains_and_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='unknown source "xtest"; .*xstest'):
        load("xtest")
    with pytest.raises(InputError, match="does not exist"):
        load("xstest", tmp_path / "none.csv")
    with pytest.raises(InputError, match='unknown domain "cyber"; .*cybersecurity'):
        Source("own", "own.csv", "none", ("q",), "cyber", "harmful")
    with pytest.raises(InputError, match='unknown label "bad"'):
        Source("own", "own.csv", "none", ("q",), "bias", Values("l", {"1": "bad"}))
    with pytest.raises(InputError, match='needs the label "benign"'):
        Source("own", "own.csv", "none", ("q",), "general", "harmful")


class FakeHub(types.ModuleType):
    """Stands for the library ``datasets``: records what is asked for, gives rows or fails."""

    def __init__(self, answer: list[Row] | Exception) -> None:
        super().__init__("datasets")
        self.answer = answer
        self.asked: list[tuple[tuple[Any, ...], Row]] = []
        self.exceptions = types.SimpleNamespace(DatasetsError=KeyError)

    def load_dataset(self, *arguments: Any, **named: Any) -> list[Row]:
        self.asked.append((arguments, named))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_the_hub_is_asked_for_the_right_part(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, asked in {
        "jailbreakbench_benign": (
            ("JailbreakBench/JBB-Behaviors", "behaviors"),
            {"data_files": None, "split": "benign", "revision": None},
        ),
        "sorry_bench": (
            ("sorry-bench/sorry-bench-202503", None),
            {"data_files": "question.jsonl", "split": "train", "revision": None},
        ),
        "bbq": (("json",), {"data_files": SOURCES["bbq"].location, "split": "train"}),
        "strongreject": (
            ("csv",),
            {"data_files": SOURCES["strongreject"].location, "split": "train"},
        ),
    }.items():
        hub = FakeHub(SHAPES[name][1])
        monkeypatch.setitem(sys.modules, "datasets", hub)
        load(name)
        assert hub.asked == [asked]


@pytest.mark.parametrize("name", ["harmbench", "cyberseceval_mitre", "bbq", "toxigen"])
def test_the_library_itself_gives_the_same_as_a_file(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = write(tmp_path, name)
    fetched = load(replace(SOURCES[name], location=path.as_uri()))
    pd.testing.assert_frame_equal(fetched.prompts, load(name, path).prompts)


def test_categories_of_public_rows_are_known(public_data: Path) -> None:
    """Categories as the benchmarks themselves write them, from rows that were copied unchanged."""
    rows = (public_data / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    checked = set()
    for row in map(json.loads, rows):
        name, _, category = row["source"].partition(":")
        rule = SOURCES[name].domain if name in SOURCES else None
        if isinstance(rule, Values):
            assert rule.of({rule.column: category}) in (*DOMAINS, GENERAL), row["source"]
            checked.add(name)
    assert checked == {
        "harmbench",
        "jailbreakbench",
        "jailbreakbench_benign",
        "strongreject",
        "xstest",
    }


def test_a_hub_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub(ConnectionError("no route\nto the host"))
    monkeypatch.setitem(sys.modules, "datasets", hub)
    with pytest.raises(InputError, match="no route.*huggingface.co/datasets/LibrAI.*HF_TOKEN") as e:
        load("do_not_answer")
    assert "\n" not in str(e.value)


TOML = """
[ours]
location = "ours.csv"
licence = "CC0"
prompt = "question"
id = "number"
only.language = ["en"]
left_out.Copying = "not ours to ask"
[ours.domain]
column = "topic"
values = {"Hacking" = "cybersecurity", "" = "safety"}
[ours.label]
column = "harmful"
values = {yes = "harmful", no = "benign"}

[toxigen_women]
like = "toxigen"
only.target_group = ["women"]

[wider]
like = "jailbreakbench"
domain.values.Novel = "safety"
"""


def test_sources_of_a_toml_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(TOML, encoding="utf-8")
    sources = read_sources(tmp_path / "mine.toml")
    rows = [
        {"question": "a b", "topic": "hacking:", "harmful": "yes", "language": "en", "number": 1},
        {"question": "c d", "topic": None, "harmful": "no", "language": "en", "number": 2},
        {"question": "e f", "topic": "Copying", "harmful": "no", "language": "en", "number": 3},
        {"question": "g h", "topic": "Hacking", "harmful": "no", "language": "fr", "number": 4},
    ]
    comma_separated(tmp_path / "ours.csv", rows)
    loaded = load(sources["ours"])
    assert loaded.prompts["id"].tolist() == ["ours-1", "ours-2"]
    assert loaded.prompts["domain"].tolist() == ["cybersecurity", "safety"]
    assert loaded.prompts["label"].tolist() == ["harmful", "benign"]
    assert loaded.left_out["rows"].tolist() == [1, 1]
    women = load(sources["toxigen_women"], parquet(tmp_path / "t.parquet", SHAPES["toxigen"][1]))
    assert women.prompts["category"].tolist() == ["women"]
    assert isinstance(sources["wider"].domain, Values)
    assert {"Novel", "Privacy"} <= set(sources["wider"].domain.values)


BAD_TOML = {
    "unknown key": ('[a]\nlocation = "x"\npromt = "q"', 'unknown key "promt"; .*prompt'),
    "missing key": ('[a]\nlocation = "x"', 'table "a": prompt'),
    "wrong type": ('[a]\nlike = "bbq"\nsplit = 3', 'table "a": split'),
    "wrong rule": ('[a]\nlike = "xstest"\ndomain = {column = "c"}', "domain.Values.values"),
    "unknown like": ('[a]\nlike = "b"', "known are .*xstest"),
    "unknown domain": ('[a]\nlike = "bbq"\ndomain = "b"', 'unknown domain "b"'),
    "not TOML": ("[a", "cannot be read as TOML"),
    "no table": ('a = "b"', "is not a table"),
    "empty": ("", "has no tables"),
}


@pytest.mark.parametrize("name", BAD_TOML)
def test_a_bad_toml_file_is_one_clear_line(tmp_path: Path, name: str) -> None:
    content, message = BAD_TOML[name]
    (tmp_path / "mine.toml").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_sources(tmp_path / "mine.toml")
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_say_the_same_as_a_record() -> None:
    given = source_from_options(
        "someone/questions",
        ["q"],
        category="topic",
        domains=["a=b=bias"],
        left_out=["c=why"],
        label_column="l",
        labels=["1=harmful", "0=benign"],
        only=["language=en", "language=de"],
    )
    assert given == Source(
        "questions",
        "someone/questions",
        "not stated",
        ("q",),
        Values("topic", {"a=b": "bias"}),
        Values("l", {"1": "harmful", "0": "benign"}),
        left_out={"c": "why"},
        only={"language": ("en", "de")},
    )
    with pytest.raises(InputError, match="either one domain .* category with domains"):
        source_from_options("a/b", ["q"], label="harmful")
    with pytest.raises(InputError, match='"bias" is not a pair'):
        source_from_options("a/b", ["q"], category="c", domains=["bias"], label="harmful")


def table(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Prompts of (source, label, text)."""
    columns = ["source", "label", "prompt"]
    return pd.DataFrame(rows, columns=columns).assign(id=[f"id{i}" for i in range(len(rows))])


LONG = "Please explain in a few words how the old clock in the tower was made"
NEAR = LONG.replace("old", "new")


def test_duplicates_across_sources_are_dropped_with_what_they_repeat() -> None:
    prompts = table(
        ("a", HARMFUL, LONG),
        ("a", HARMFUL, NEAR),  # near within one source: kept
        ("a", HARMFUL, LONG.upper() + "!"),  # the same words: dropped
        ("b", HARMFUL, NEAR + " today"),  # near across sources: dropped
        ("b", BENIGN, LONG + " again"),  # near with the other label, as matched pairs are: kept
        ("c", BENIGN, LONG + "?"),  # the same words with the other label: dropped
        ("c", BENIGN, unlike(1)),
    )
    result = deduplicated(prompts)
    assert result.prompts["id"].tolist() == ["id0", "id1", "id4", "id6"]
    assert result.dropped["id"].tolist() == ["id2", "id3", "id5"]
    assert result.dropped["reason"].tolist() == [
        "the same words",
        "near-duplicate",
        "the same words, there harmful",
    ]
    again = deduplicated(result.prompts)
    assert again.dropped.empty
    pd.testing.assert_frame_equal(again.prompts, result.prompts)


def test_templates_do_not_fall_into_one() -> None:
    prompts = table(
        *[("a", HARMFUL, f"{LONG} by word{i}") for i in range(20)], ("b", HARMFUL, NEAR)
    )
    assert deduplicated(prompts).prompts["source"].value_counts().to_dict() == {"a": 20}


def test_leaks_are_all_near_duplicate_pairs() -> None:
    """Parity with the definition, computed the slow way."""
    train = table(("a", HARMFUL, LONG), ("a", HARMFUL, unlike(1)), ("a", BENIGN, NEAR))
    evaluation = table(("b", HARMFUL, LONG + "!"), ("b", HARMFUL, unlike(2)), ("b", HARMFUL, NEAR))
    found = leaks(train, evaluation)
    expected = {
        (t.id, e.id)
        for t in train.itertuples()
        for e in evaluation.itertuples()
        if len(shingles(t.prompt) & shingles(e.prompt))
        / len(shingles(t.prompt) | shingles(e.prompt))
        >= SIMILARITY
    }
    assert set(zip(found["train_id"], found["evaluation_id"], strict=True)) == expected
    assert found["similarity"].is_monotonic_decreasing
    assert found["similarity"].tolist()[:2] == [1.0, 1.0]
    assert leaks(train, evaluation.iloc[[1]]).empty
    assert leaks(train[["prompt"]], evaluation[["prompt"]])["train_id"].isna().all()
    with pytest.raises(InputError, match='evaluation table has no column "prompt"'):
        leaks(train, pd.DataFrame({"text": ["x"]}))


def test_the_documented_table_is_the_one_in_force() -> None:
    documented = DOCS.read_text(encoding="utf-8")
    for row in mappings_table().itertuples():
        for cell in (row.name, row.licence, row.domains, row.left_out, row.label, row.note):
            assert cell.replace(" | ", "<br>") in documented, (row.name, cell)
    alpaca = mappings_table().set_index("name").loc["alpaca"]
    assert "BY-NC" in alpaca["licence"]
    assert alpaca["domains"] == "general: all"


def test_every_known_domain_is_one_of_ours() -> None:
    for source in SOURCES.values():
        assert set(source.domains) <= {*DOMAINS, GENERAL}
        if isinstance(source.domain, Values):
            assert not set(source.domain.values) & set(source.left_out)
