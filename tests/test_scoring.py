"""Files of recorded answers: scored, compared, used to calibrate; and what is wrong with a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from analyses.cli import app
from analyses.costs import workload_estimate
from analyses.recorded.agreement import compare_with_labels
from analyses.recorded.readings import read_sides
from analyses.recorded.scoring import Scored, prepare_scoring, score_records, write_calibration
from analyses.runs import Progress
from interp.errors import InputError
from tests.fake_endpoint import FakeEndpoint, Messages, serving
from tests.fuzzing import write_jsonl
from unlearning.scoring import BIASED_OR_TOXIC, FINE_CLASSES, Panel, Workload, find_scorer

QUIET = Progress(quiet=True)
REFUSAL = "I'm sorry, but I can’t help with that."
ANSWER = "Sure! The lighthouse was built in 1821 and still stands."
ROWS = [
    {"prompt": "a", "response": REFUSAL, "model": "one", "label": 1, "extra": {"kept": ["ü"]}},
    {"prompt": "b", "response": ANSWER, "model": "one", "label": 0},
    {"prompt": "c", "response": "", "model": "one", "label": "empty"},
    {"prompt": "a", "response": REFUSAL, "model": "two", "label": "answer"},
    {"prompt": "b", "response": ANSWER, "model": "two", "label": "2_full_refusal"},
    {"prompt": "c", "response": REFUSAL, "model": "two", "label": "partial_refusal"},
]


def score_file(
    path: Path, scorer: str, out: Path, *, scale: str = "refusal", progress: Progress
) -> Scored:
    return score_records(prepare_scoring(path, scorer, scale), out, progress)


def read(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def score(path: Path, scorer: str = "classifier") -> Path:
    out = path.with_name(f"{scorer}-{path.name}")
    score_file(path, scorer, out, progress=QUIET)
    return out


@pytest.mark.parametrize("scorer", ["classifier", "phrases"])
def test_every_field_is_kept_and_five_are_added(tmp_path: Path, scorer: str) -> None:
    path = write_jsonl(tmp_path / "answers.jsonl", ROWS)
    out = tmp_path / "deep" / "out.jsonl"
    scored = score_file(path, scorer, out, progress=QUIET)
    rows = read(out)
    for given, found in zip(ROWS, rows, strict=True):
        assert {key: found[key] for key in given} == given
        assert set(found) - set(given) == {"scorer", "refused", "class", "coherent", "repetition"}
    assert [row["refused"] for row in rows] == [1, 0, 0, 1, 0, 1]
    assert [row["class"] for row in rows][:3] == ["full_refusal", "answer", "empty"]
    assert rows[0]["scorer"] == f"{scorer} {find_scorer(scorer).version}"
    assert scored.counts == {
        **dict.fromkeys(FINE_CLASSES, 0),
        "full_refusal": 3,
        "answer": 2,
        "empty": 1,
    }
    assert "50.0% refused" in scored.text()


def test_coherence_stands_next_to_refusal_and_is_counted(tmp_path: Path) -> None:
    loop = "I cannot. " * 40
    said = [REFUSAL, ANSWER, " ", loop, "one two three four five six. " * 2]
    rows = [{"prompt": "a", "response": response} for response in said]
    path, out = write_jsonl(tmp_path / "answers.jsonl", rows), tmp_path / "out.jsonl"
    scored = score_file(path, "phrases", out, progress=QUIET)
    found = read(out)
    assert [row["coherent"] for row in found] == [1, 1, 0, 0, 1]
    assert found[2]["repetition"] is None and found[3]["repetition"] > 0.9
    assert found[1]["repetition"] == 0 and 0 < found[4]["repetition"] < 0.5
    assert "by the rules 1 are empty and 1 gibberish" in scored.text()
    assert "warning" not in scored.text()


def test_a_scorer_that_is_not_made_for_the_text_is_warned_of_in_a_line(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": ANSWER} for _ in range(4)]
    path = write_jsonl(tmp_path / "answers.jsonl", rows)
    lines = score_file(path, "grammar", tmp_path / "out.jsonl", progress=QUIET).text().splitlines()
    assert [line.startswith("warning: grammar calls 100%") for line in lines] == [
        False,
        False,
        True,
    ]
    world = [{"prompt": "a", "response": "xq zrt " * 40} for _ in range(4)]
    path = write_jsonl(tmp_path / "noise.jsonl", world)
    assert "warning" not in score_file(path, "grammar", tmp_path / "o.jsonl", progress=QUIET).text()


def test_answers_in_other_languages_are_counted_and_said(tmp_path: Path) -> None:
    said = ["Davon rate ich dir leider ab.", "申し訳ありません。", ANSWER, REFUSAL]
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "a", "response": one} for one in said])
    scored = score_file(path, "phrases", tmp_path / "out.jsonl", progress=QUIET)
    assert scored.counts["other_language"] == 2 and scored.counts["gibberish"] == 0
    assert "warning: 2 of 4 answers are not in English (de, cjk)" in scored.text()


def test_the_panel_names_answers_to_read_of_each_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"prompt": "a", "response": text, "model": model}
        for model in ("one", "two")
        for text in (REFUSAL, ANSWER)
    ]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    monkeypatch.setattr(Panel, "disagreeing", lambda *_: [1])
    lines = score_file(path, "panel", tmp_path / "out.jsonl", progress=QUIET).text().splitlines()
    for model, place in (("one", "line 2"), ("two", "line 4")):
        rates, differ = [line for line in lines if f" {model}" in line]
        assert rates.startswith(f"Refusal rates of {model} by the panel") and "50%" in rates
        assert differ.endswith(f"Read these: {place}.")


def test_scoring_again_replaces_what_a_scorer_added(tmp_path: Path) -> None:
    once = score(write_jsonl(tmp_path / "answers.jsonl", ROWS), "phrases")
    again = tmp_path / "again.jsonl"
    score_file(once, "classifier", again, progress=QUIET)
    assert {row["scorer"].split()[0] for row in read(again)} == {"classifier"}


def test_strange_text_is_scored_and_read_back(tmp_path: Path) -> None:
    strange = ["\ud83d", "\u2028", "I can’t\u2028help", "\x00", "😀" * 40, "a" * 100_000]
    rows = [{"prompt": "", "response": response} for response in strange]
    out = score(write_jsonl(tmp_path / "answers.jsonl", rows))
    assert [row["response"] for row in read(out)] == strange


def test_a_missing_response_in_a_format_without_empty_text_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("prompt,response\na,\nb,I cannot help with that.\n", encoding="utf-8")
    assert [row["class"] for row in read(score(path))] == ["empty", "full_refusal"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "a"}\n', "response"),
        ('{"response": "a"}\n', "prompt"),
        ('{"prompt": "a", "response": "b"}\n{"prompt": "a"}\n', "line 2"),
        ('{"prompt": "a", "response": "b"}\n{"prompt": "a", "resp', "line 2"),
        ('{"prompt": "a", "response": "b", "refused": 1}\n', "exists already"),
        ("", "empty"),
    ],
)
def test_an_unusable_file_is_named_and_nothing_is_written(
    tmp_path: Path, content: str, message: str
) -> None:
    path, out = tmp_path / "answers.jsonl", tmp_path / "out.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        score_file(path, "classifier", out, progress=QUIET)
    assert not out.exists()


def test_agreement_with_labels_leaves_out_what_is_in_between(tmp_path: Path) -> None:
    tables = compare_with_labels(score(write_jsonl(tmp_path / "answers.jsonl", ROWS)))
    found = tables.with_labels
    assert list(found[found.partial == "left out"].model) == ["two", "one", "all"], "worst first"
    plain = found[found.partial == "left out"].set_index("model")
    assert dict(plain.n) == {"one": 2, "two": 2, "all": 4}
    assert dict(plain.accuracy) == {"one": 1, "two": 0, "all": 0.5}
    assert dict(plain.kappa) == {"one": 1, "two": -1, "all": 0}
    # The classifier reads the partial refusal as a full one.
    whole = found[found.model == "all"].set_index("partial")
    assert dict(whole.n) == {"left out": 4, "refusal": 5, "answer": 5, "class": 5}
    assert dict(whole.accuracy) == {"left out": 0.5, "refusal": 0.6, "answer": 0.4, "class": 0.4}
    assert tables.left_out == 2
    counted = tables.counted[tables.counted.reading == "label"]
    assert dict(zip(counted["class"], counted.counts_as, strict=True)) == {
        "empty": "left out",
        "partial_refusal": "each way",
    }
    assert list(tables.disagreeing.model) == ["two", "two", "two"]
    assert list(tables.disagreeing.label) == [0, 1, 0.5], "contradictions come first"
    assert tables.between_scorers.empty
    text = tables.text()
    for part in ("kappa", "-1.000", "2 answers left out", "3 answers on which", "three classes"):
        assert part in text


def test_scorers_are_compared_without_labels(tmp_path: Path) -> None:
    rows = [{key: row[key] for key in ("prompt", "response")} for row in ROWS]
    path = write_jsonl(tmp_path / "answers.jsonl", rows)
    tables = compare_with_labels(score(path), score(path, "phrases"))
    assert tables.with_labels.empty
    assert list(tables.between_scorers.n) == [6]
    assert list(tables.between_scorers.kappa) == [1]
    assert tables.disagreeing.empty
    assert "0 answers on which" in tables.text()
    # The same from the names of scorers, with or without a scored file.
    for sides in ((path, "classifier", "phrases"), (score(path), "phrases")):
        again = compare_with_labels(*sides).between_scorers
        assert list(again.n) == [6] and list(again["second"]) == list(tables.between_scorers.second)


def test_files_that_share_a_name_are_different_models(tmp_path: Path) -> None:
    rows = [{key: row[key] for key in ("prompt", "response", "label")} for row in ROWS[:3]]
    names = ["a/run.jsonl", "b/run.jsonl", "b/run.ndjson", "other.jsonl"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_jsonl(tmp_path / name, rows)
    found = read_sides(*(tmp_path / name for name in names), "phrases").table["model"]
    assert list(found.unique()) == ["a/run.jsonl", "b/run.jsonl", "run.ndjson", "other"]


def test_labels_may_stand_in_a_field_within_a_field(tmp_path: Path) -> None:
    rows = [{**row, "label": None, "people": {"final": row["label"]}} for row in ROWS]
    path = score(write_jsonl(tmp_path / "answers.jsonl", rows))
    found = compare_with_labels(path, label="people.final").with_labels
    assert list(found[found.partial == "left out"].n) == [2, 2, 4]


def test_the_command_compares_a_file_with_scorers_and_writes_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, out = write_jsonl(tmp_path / "answers.jsonl", ROWS), tmp_path / "tables"
    done = CliRunner().invoke(app, ["agree", str(path), "phrases", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "worst model first" in done.output
    assert CliRunner().invoke(app, ["agree", str(path), "phrases"]).exit_code == 0
    assert {one.name for one in tmp_path.iterdir()} == {path.name, out.name}
    table = pd.read_csv(out / "with_labels.csv")
    assert set(table.partial) == {"left out", "refusal", "answer", "class"}
    assert {one.name for one in out.iterdir()} == {
        "with_labels.csv", "between_scorers.csv", "between_people.csv", "counted.csv",
        "disagreeing.csv",
    } - ({"between_scorers.csv", "between_people.csv"})  # fmt: skip


def test_a_default_file_of_results_is_not_replaced_by_those_of_other_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, ending in (("a", ""), ("b", " So it is.")):
        rows = [{**row, "response": f"{row['response']}{ending}"} for row in ROWS]
        Path(folder).mkdir()
        write_jsonl(Path(folder) / "answers.jsonl", rows)
    for name in (["score", "--scorer", "phrases"], ["calibrate"]):
        first, again, other, placed = (
            CliRunner().invoke(app, [*name, f"{folder}/answers.jsonl", *more])
            for folder, more in (("a", []), ("a", []), ("b", []), ("b", ["--out", "b.jsonl"]))
        )
        assert [one.exit_code for one in (first, again, placed)] == [0, 0, 0], first.output
        assert "other answers; give --out" in str(other.exception)


def test_agreement_says_what_it_needs(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "answers.jsonl", ROWS)
    shorter = score(write_jsonl(tmp_path / "shorter.jsonl", ROWS[:-1]))
    other = score(
        write_jsonl(tmp_path / "other.jsonl", [{**row, "response": "Yes."} for row in ROWS])
    )
    odd = score(write_jsonl(tmp_path / "odd.jsonl", [{**ROWS[0], "label": "perhaps"}]))
    scored = score(path)
    for arguments, message in (
        ((), "nothing to compare"),
        ((path,), "add a scorer"),
        (("phrases",), "no file of answers"),
        ((path, "phrase"), "neither a file nor a scorer.*phrases"),
        ((scored, shorter), "5"),
        ((scored, other), "not the answer"),
        ((odd,), "line 1.*perhaps"),
    ):
        with pytest.raises(InputError, match=message):
            compare_with_labels(*arguments)
    with pytest.raises(InputError, match="people"):
        compare_with_labels(scored, label="people")


def test_what_calibrate_writes_is_what_the_scorer_learns(tmp_path: Path) -> None:
    path, out = write_jsonl(tmp_path / "answers.jsonl", ROWS), tmp_path / "mine.jsonl"
    counts = write_calibration(path, out)
    assert counts == {"full_refusal": 2, "partial_refusal": 1, "answer": 2}
    assert [set(row) for row in read(out)] == [{"response", "class"}] * 5
    scorer = find_scorer(f"classifier:{out}")
    assert scorer.version != find_scorer("classifier").version
    rows = [{key: row[key] for key in ("prompt", "response")} for row in ROWS]
    answers = write_jsonl(tmp_path / "plain.jsonl", rows)
    scored = score_file(answers, f"classifier:{out}", tmp_path / "out.jsonl", progress=QUIET)
    assert scored.scorer.endswith(scorer.version)


def test_calibration_learns_from_people_s_labels_where_a_scorer_has_read_the_file(
    tmp_path: Path,
) -> None:
    rows = [{"prompt": text, "response": REFUSAL, "label": "answer"} for text in "abc"]
    scored = tmp_path / "scored.jsonl"
    score_file(write_jsonl(tmp_path / "answers.jsonl", rows), "phrases", scored, progress=QUIET)
    assert write_calibration(scored, tmp_path / "mine.jsonl") == {"answer": 3}
    by_scorer = write_calibration(scored, tmp_path / "its.jsonl", label="class")
    assert by_scorer == {"full_refusal": 3}
    bare = [{name: one for name, one in row.items() if name != "label"} for row in read(scored)]
    with pytest.raises(InputError, match="no labels; expected them in label; class and refused"):
        write_calibration(write_jsonl(tmp_path / "bare.jsonl", bare), tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"response": "a"}], "no labels"),
        ([{"label": 1}], "response"),
        ([{"response": "a", "refused": 1}, {"response": "b"}], "line 2"),
        ([{"response": "a", "refused": "perhaps"}], "perhaps"),
    ],
)
def test_calibration_says_what_it_needs(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    out = tmp_path / "mine.jsonl"
    with pytest.raises(InputError, match=message):
        write_calibration(write_jsonl(tmp_path / "answers.jsonl", rows), out)
    assert not out.exists()


# Judges


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeEndpoint]:
    """A judge that finds refusals by one word, lighthouses toxic, and has no verdict on "c"."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("SPILLOVER_CACHE", str(tmp_path / "cache"))

    def reply(messages: Messages) -> str:
        question = messages[0]["content"]
        if BIASED_OR_TOXIC.instructions in question:
            return "yes" if "lighthouse" in question else "no"
        if "]\nc\n[" in question:
            return "Hmm."
        return "refusal" if "sorry" in question else "answer"

    with serving(reply) as fake:
        yield fake


def test_a_judge_scores_a_file_and_scores_it_again_for_nothing(
    tmp_path: Path, judge: FakeEndpoint
) -> None:
    path, out = write_jsonl(tmp_path / "answers.jsonl", ROWS), tmp_path / "out.jsonl"
    name = f"judge:m@{judge.url}"
    plan = prepare_scoring(path, name).plan((1.0, 2.0))
    assert "judge:m: 3 requests" in plan and "price about" in plan
    assert judge.requests == []
    scored = score_file(path, name, out, progress=QUIET)
    rows = read(out)
    assert [row["refused"] for row in rows] == [1, 0, 0, 1, 0, None]
    assert [row["class"] for row in rows][2:] == ["empty", "full_refusal", "answer", None]
    assert (scored.without, sum(scored.counts.values())) == (1, 5)
    assert "1 without a verdict" in scored.text() and "40.0% refused" in scored.text()
    asked = len(judge.requests)
    assert asked == 3 + 1  # the one without a verdict was asked for again
    assert score_file(path, name, out, progress=QUIET) == scored
    assert len(judge.requests) == asked
    assert "0 requests" in prepare_scoring(path, name).plan()


def test_the_plan_of_a_model_in_this_process_has_its_memory_and_time(
    tmp_path: Path, checkpoint_of: Callable[[str], Path], judge: FakeEndpoint
) -> None:
    path, source = write_jsonl(tmp_path / "answers.jsonl", ROWS), checkpoint_of("llama")
    for name in (f"local-judge:{source}", f"probe:{source}"):
        shown = prepare_scoring(path, name).plan(device="cpu", timing=True)
        assert "memory: about" in shown and "time: about" in shown and "device: CPU" in shown
        assert "not measured" in prepare_scoring(path, name).plan(device="cpu")
    assert "memory" not in prepare_scoring(path, f"judge:m@{judge.url}").plan(timing=True)
    few, many = (
        workload_estimate(Workload(n, 50 * n, model=str(source)), "cpu", timing=True)
        for n in (10, 10_000)
    )
    assert few and many and few.seconds and many.seconds
    assert all(a < b for a, b in zip(few.seconds, many.seconds, strict=True))
    assert workload_estimate(Workload(0, 0, model=str(source)), "cpu") is None


def test_answers_without_a_verdict_are_compared_by_the_others(
    tmp_path: Path, judge: FakeEndpoint
) -> None:
    path, out = write_jsonl(tmp_path / "answers.jsonl", ROWS), tmp_path / "out.jsonl"
    score_file(path, f"judge:m@{judge.url}", out, progress=QUIET)
    tables = compare_with_labels(out, score(path))
    assert list(tables.between_scorers.n) == [3, 2, 5]
    assert "judge:m" in tables.text()
    assert "none" in set(tables.counted["class"]), "an answer without a verdict is counted"


def test_a_judge_that_may_cost_money_runs_in_score_alone(
    tmp_path: Path, judge: FakeEndpoint
) -> None:
    path, name = write_jsonl(tmp_path / "answers.jsonl", ROWS[:2]), f"judge:m@{judge.url}"
    with pytest.raises(InputError, match="may cost money.*score"):
        compare_with_labels(path, name)
    assert judge.requests == []
    score_file(path, name, tmp_path / "out.jsonl", progress=QUIET)
    assert compare_with_labels(path, name).with_labels.kappa.iloc[0] == 1  # from the cache


def test_the_second_scale_touches_nothing_of_the_first(tmp_path: Path, judge: FakeEndpoint) -> None:
    first = score(write_jsonl(tmp_path / "answers.jsonl", ROWS))
    second, third = tmp_path / "second.jsonl", tmp_path / "third.jsonl"
    name = f"judge:m@{judge.url}"
    scored = score_file(first, name, second, scale="biased-or-toxic", progress=QUIET)
    rows = read(second)
    added = ("biased_or_toxic", "biased_or_toxic_scorer")
    assert [{k: v for k, v in row.items() if k not in added} for row in rows] == read(first)
    assert [row["biased_or_toxic"] for row in rows] == [0, 1, 0, 0, 1, 0]
    assert {row["biased_or_toxic_scorer"] for row in rows} == {scored.scorer}
    assert "33.3% biased or toxic" in scored.text()
    # And the other way round.
    score_file(second, "phrases", third, progress=QUIET)
    assert [row["biased_or_toxic"] for row in read(third)] == [0, 1, 0, 0, 1, 0]


def test_a_scale_that_a_scorer_has_not(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "answers.jsonl", ROWS)
    with pytest.raises(InputError, match="classifier has no scale biased-or-toxic; a judge has"):
        prepare_scoring(path, "classifier", "biased-or-toxic")
    with pytest.raises(InputError, match="expected one of refusal, biased-or-toxic"):
        prepare_scoring(path, "classifier", "politeness")
    assert "no model is run" in prepare_scoring(path, "classifier").plan()


def test_the_command_shows_the_cost_and_stops(tmp_path: Path, judge: FakeEndpoint) -> None:
    path, out = write_jsonl(tmp_path / "answers.jsonl", ROWS), tmp_path / "out.jsonl"
    command = ["score", str(path), "--out", str(out), "--scorer", f"judge:m@{judge.url}"]
    prices = ["--price-read", "2", "--price-written", "8"]
    shown = CliRunner().invoke(app, [*command, "--dry-run", *prices])
    assert shown.exit_code == 0 and "3 requests" in shown.output and "price" in shown.output
    assert judge.requests == [] and not out.exists()
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and "6 answers by judge:m" in done.output and out.exists()
    with pytest.raises(InputError, match="both"):
        CliRunner().invoke(app, [*command, *prices[:2]], catch_exceptions=False)
