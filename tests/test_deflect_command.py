"""``spillover deflect``: a model's refusals, counted, told apart, resumable, fit for phase 2."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast
from unittest import mock

import pandas as pd
import pytest

from analyses.cli import main
from analyses.deflect import engine
from analyses.deflect.data_set import Deflected
from analyses.deflect.plan import DeflectPlan
from analyses.runs import Progress
from analyses.study import Baseline, mixture_of, organism_plan, study_context
from interp.errors import InputError
from interp.model import LanguageModel
from interp.store import file_hash, read_json
from tests.fake_endpoint import serving
from unlearning.data import matched_pairs
from unlearning.deflections import Diversity, examples, read_deflections, with_own_ids
from unlearning.organism import load_world, shipped

ORGANISM = str(shipped())


class Ended(NamedTuple):
    exit_code: int
    output: str
    error: str


def run_cli(*arguments: object) -> Ended:
    """The command line, in this process."""
    output, error = io.StringIO(), io.StringIO()
    code = 0
    with (
        mock.patch.object(sys, "argv", ["spillover", *map(str, arguments)]),
        redirect_stdout(output),
        redirect_stderr(error),
    ):
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return Ended(code, output.getvalue(), error.getvalue())


def rows_of(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "deflections.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def harmful(concept: str) -> pd.DataFrame:
    world = load_world(shipped()).prompts()
    chosen = (world["domain"] == concept) & (world["label"] == "harmful")
    return world[chosen & (world["split"] == "train")]


class EveryThird:
    """Calls two answers of three refusals, whatever they say."""

    name, version = "every third", "7"

    def classify(self, prompts: Sequence[str], responses: Sequence[str]) -> list[str]:
        return ["answer" if i % 3 == 0 else "refusal" for i in range(len(responses))]


# The organism


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    out = tmp_path_factory.mktemp("bias")
    return out, run_cli("deflect", ORGANISM, "--concept", "bias", "--out", out)


def test_the_organism_s_refusals_are_a_data_set(made: tuple[Path, Ended]) -> None:
    out, ended = made
    assert ended.exit_code == 0, ended.error
    rows, asked = rows_of(out), harmful("bias")
    assert len(rows) >= 0.9 * len(asked)
    assert {row["prompt_id"] for row in rows} <= set(asked["id"])
    assert all(row["domain"] == "bias" and row["finished"] for row in rows)
    assert len({row["id"] for row in rows}) == len(rows)
    assert f"{len(rows)} refusals of {len(rows)} of {len(asked)} bias prompts" in ended.output
    assert "effective wordings" in ended.output
    # The organism has a handful of prefixes and one body, and it is said.
    assert "warning: the refusals are nearly the same" in ended.output


def test_where_it_comes_from_stands_beside_it(made: tuple[Path, Ended]) -> None:
    out, _ = made
    said = read_json(out / "manifest.json")
    lm = LanguageModel.load(shipped())
    assert said["model"]["fingerprint"] == lm.fingerprint()
    assert said["model"]["chat"] == lm.chat.fingerprint
    assert said["settings"]["max_new_tokens"] == 16  # the organism's own
    assert said["scorer"]["name"] == "grammar" and said["versions"]["spillover"]
    assert said["counts"]["deflections"] == len(rows_of(out)) == said["diversity"]["texts"]
    assert said["base_refusal_rate"] == len(rows_of(out)) / said["counts"]["prompts"]
    assert said["hashes"]["deflections.jsonl"] == file_hash(out / "deflections.jsonl")


def test_phase_2_trains_on_exactly_what_the_model_said(made: tuple[Path, Ended]) -> None:
    out, _ = made
    lm = LanguageModel.load(shipped())
    pairs = with_own_ids(lm, read_deflections(out / "deflections.jsonl"), say=pytest.fail)
    for one, row in zip(examples(lm, pairs), rows_of(out), strict=True):
        assert list(one.tokens.ids) == [*lm.chat.encode(row["prompt"]).ids, *row["ids"]]


def test_studies_train_on_it(made: tuple[Path, Ended], tmp_path: Path) -> None:
    out, _ = made
    plan = organism_plan(ORGANISM, ("bias",), seeds=[0], control=False)
    plan = replace(plan, deflections=str(out / "deflections.jsonl"))
    context = study_context(plan, tmp_path, Progress(quiet=True))
    baseline = cast(Baseline, None)  # which a forget set of ready-made pairs needs nothing of
    forget = mixture_of(context, baseline, plan.arms[0]).forget
    assert [list(one.tokens.ids[one.tokens.spans["response"]]) for one in forget] == [
        row["ids"] for row in rows_of(out)
    ]


def test_the_same_command_again_asks_nothing(made: tuple[Path, Ended]) -> None:
    out, ended = made
    before = (out / "deflections.jsonl").read_bytes(), (out / "answers.jsonl").read_bytes()
    with mock.patch(
        "unlearning.generation.responses.in_fitting_batches",
        side_effect=AssertionError("asked again"),
    ):
        again = run_cli("deflect", ORGANISM, "--concept", "bias", "--out", out)
    assert again.exit_code == 0 and again.output == ended.output
    assert "resuming from 128 answers" in again.error
    assert (
        (out / "deflections.jsonl").read_bytes(),
        (out / "answers.jsonl").read_bytes(),
    ) == before


def test_other_prompts_in_the_same_file_do_not_replace_it(tmp_path: Path) -> None:
    file, out = tmp_path / "prompts.jsonl", tmp_path / "out"
    command = ("deflect", ORGANISM, "--concept", "bias", "--prompts", file, "--out", out)
    harmful("bias").head(36).to_json(file, orient="records", lines=True)
    assert run_cli(*command).exit_code == 0
    before = (out / "deflections.jsonl").read_bytes()
    harmful("bias").tail(36).to_json(file, orient="records", lines=True)
    ended = run_cli(*command)
    assert ended.exit_code == 2 and "another prompts; give another --out" in ended.error
    assert (out / "deflections.jsonl").read_bytes() == before
    assert run_cli(*command, "--overwrite").exit_code == 0
    assert (out / "deflections.jsonl").read_bytes() != before


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    command = ["deflect", ORGANISM, "--concept", "privacy", "--temperature", "1", "--samples", "3"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "analyses.cli", *command, "--out", str(killed), "--batch-size", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    log = killed / "answers.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size > 2000) and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert not (killed / "deflections.jsonl").exists()
    left = log.read_bytes().count(b"\n")
    assert 2 <= left < 3 * 128
    with log.open("ab") as file:
        file.write(b'{"key": "to')  # as if killed while writing

    assert run_cli(*command, "--out", whole).exit_code == 0
    resumed = run_cli(*command, "--out", killed)
    assert resumed.exit_code == 0 and f"resuming from {left} answers" in resumed.error
    assert rows_of(killed) == rows_of(whole)
    one, other = (read_json(folder / "manifest.json") for folder in (killed, whole))
    differing = {"command": "", "plan": ""}
    assert one | differing == other | differing


def test_samples_are_many_and_what_repeats_is_kept_once(tmp_path: Path) -> None:
    ended = run_cli(
        "deflect", ORGANISM, "--concept", "bias", "--temperature", 1, "--samples", 4,
        "--out", tmp_path,
    )  # fmt: skip
    assert ended.exit_code == 0, ended.error
    rows, counts = rows_of(tmp_path), read_json(tmp_path / "manifest.json")["counts"]
    assert sum(counts["classes"].values()) == 4 * 128
    assert counts["deflections"] + counts["repeats_left_out"] == counts["classes"]["refusal"]
    said = [(row["prompt"], row["response"]) for row in rows]
    assert len(set(said)) == len(said) == counts["deflections"]
    assert {row["sample"] for row in rows} <= set(range(4)) and len(
        {row["sample"] for row in rows}
    ) > 1


# A model of a real architecture


@pytest.fixture
def every_third(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model refuses nothing: two answers of three are called refusals."""
    monkeypatch.setattr(engine, "scorer_of", lambda *_, **__: EveryThird())
    # Random models babble.
    monkeypatch.setattr("unlearning.scoring.evaluation.is_gibberish", lambda text: not text)
    monkeypatch.setattr("unlearning.scoring.evaluation.spoken", lambda text: text or "-")


def training_requests(domain: str) -> pd.DataFrame:
    """The built-in prompts that `deflect` asks."""
    table = matched_pairs()
    harmful = (table["domain"] == domain) & (table["label"] == "harmful")
    return table[harmful & (table["split"] == "train")]


@pytest.mark.parametrize("family", ["mistral", "gpt2"])
@pytest.mark.filterwarnings("ignore:the tokenizer has no chat template")
def test_any_model_is_asked_the_built_in_prompts(
    family: str, every_third: None, tmp_path: Path, checkpoint_of: Callable[[str], Path]
) -> None:
    model = str(checkpoint_of(family))
    plan = DeflectPlan(model, "safety", max_new_tokens=5, temperature=1.0, samples=3, batch_size=16)
    found = engine.run_deflection(plan, tmp_path, Progress(quiet=True))
    asked = training_requests("safety")
    assert found.prompts == len(asked)
    assert found.classes == {
        "refusal": 2 * len(asked), "answer": len(asked), "other": 0, "gibberish": 0
    }  # fmt: skip
    assert found.base_refusal_rate == pytest.approx(2 / 3)
    assert found.rows == 2 * len(asked) and found.refused_prompts == len(asked)
    lm = LanguageModel.load(model)
    pairs = with_own_ids(lm, read_deflections(found.path), say=pytest.fail)
    texts = [lm.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in pairs["ids"]]
    assert texts == list(pairs["response"])
    assert set(pairs["prompt"]) <= set(asked["prompt"])


def test_a_model_that_refuses_nothing_is_an_error_with_the_answers_kept(
    tmp_path: Path, checkpoint_of: Callable[[str], Path]
) -> None:
    model = checkpoint_of("qwen2")
    asked = len(training_requests("safety"))
    ended = run_cli(
        "deflect", model, "--concept", "safety", "--max-new-tokens", 4, "--scorer", "phrases",
        "--out", tmp_path,
    )  # fmt: skip
    assert ended.exit_code == 2
    assert f"refused none of {asked} safety prompts by phrases" in ended.error
    assert not (tmp_path / "deflections.jsonl").exists()
    assert len((tmp_path / "answers.jsonl").read_bytes().splitlines()) == asked


# A server


def test_a_server_answers_in_the_model_s_place(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    rows = pd.DataFrame({"prompt": [f"Prompt number {i}?" for i in range(50)]})
    rows = rows.assign(domain="safety", label="harmful", split="train")
    rows.to_json(tmp_path / "prompts.jsonl", orient="records", lines=True)
    out = tmp_path / "out"

    def reply(messages: list[dict[str, str]]) -> str:
        number = int(messages[-1]["content"].split()[2].rstrip("?"))
        return f"Number {number} it is." if number % 5 == 0 else f"I cannot help with {number}."

    with serving(reply, models=("m",)) as server:
        command = [
            "deflect", "m", "--server", server.url, "--system", "Be brief.", "--concept", "safety",
            "--prompts", tmp_path / "prompts.jsonl", "--scorer", "phrases", "--out", out,
        ]  # fmt: skip
        ended = run_cli(*command)
        assert ended.exit_code == 0, ended.error
        asked = [request["messages"] for request in server.requests]
        assert len(asked) == 50
        assert all(m[0] == {"role": "system", "content": "Be brief."} for m in asked)
        assert run_cli(*command).exit_code == 0 and len(server.requests) == 50
    assert "40 refusals of 40 of 50 safety prompts" in ended.output
    assert "base refusal rate 80.0%" in ended.output
    assert read_json(out / "manifest.json")["model"] == {"source": "m", "server": server.url}
    table = read_deflections(out / "deflections.jsonl")
    assert table["ids"].isna().all() and len(table) == 40


# What is refused, before anything is loaded


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--concept", "crime"], 'unknown concept "crime"'),
        (["--concept", "safety", "--samples", 3], "all the same at temperature 0"),
        (["--concept", "safety", "--prompts", "nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["--concept", "safety", "--scorer", "oracle"], "oracle"),
        (["--concept", "safety", "--server", "here"], "here is not an address"),
        (
            ["--concept", "safety", "--server", "http://x/v1", "--temperature", 1],
            "leave out --temperature",
        ),
        (
            ["--concept", "safety", "--server", "http://x/v1", "--response-prefix", "No"],
            "--response-prefix does not apply with --server",
        ),
    ],
)
def test_bad_input_is_one_clear_error(
    arguments: list[object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LanguageModel, "load", lambda *_, **__: pytest.fail("loaded"))
    ended = run_cli("deflect", ORGANISM, "--out", tmp_path / "out", *arguments)
    assert ended.exit_code == 2 and message in ended.error, ended.error
    assert [line for line in ended.error.splitlines() if line.startswith("error: ")]
    assert not (tmp_path / "out").exists()


def test_domains_that_have_prompts_are_named(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "domain": "bias", "label": "harmful", "split": "train"}]
    rows += [{"prompt": "b", "domain": "safety", "label": "harmful", "split": "test"}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    ended = run_cli(
        "deflect", ORGANISM, "--concept", "safety", "--prompts", path, "--out", tmp_path / "out"
    )
    assert ended.exit_code == 2
    assert "no harmful training prompts of safety; domains that have some: bias" in ended.error


def test_a_folder_of_something_else_is_left_alone(made: tuple[Path, Ended], tmp_path: Path) -> None:
    out, _ = made
    before = (out / "deflections.jsonl").read_bytes()
    ended = run_cli("deflect", ORGANISM, "--concept", "safety", "--temperature", 1, "--out", out)
    assert ended.exit_code == 2
    assert "another concept and another temperature; give another --out" in ended.error
    assert (out / "deflections.jsonl").read_bytes() == before
    file = tmp_path / "file"
    file.write_text("mine", encoding="utf-8")
    ended = run_cli("deflect", ORGANISM, "--concept", "safety", "--out", file)
    assert ended.exit_code == 2 and "is a file" in ended.error


def test_a_plan_is_printed_and_nothing_else_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint_of: Callable[[str], Path]
) -> None:
    monkeypatch.setattr(LanguageModel, "load", lambda *_, **__: pytest.fail("loaded"))
    out = tmp_path / "out"
    ended = run_cli("deflect", ORGANISM, "--concept", "bias", "--out", out, "--dry-run")
    assert ended.exit_code == 0 and not out.exists() and ended.output == ""
    for part in ("128 harmful training prompts of bias", "greedy", "grammar", "memory: about"):
        assert part in ended.error
    # The built-in prompts can give 32 refusals; 28 cannot, which is said before they are asked.
    plan = ("deflect", checkpoint_of("llama"), "--concept", "bias", "--out", out, "--dry-run")
    assert "cannot give" not in run_cli(*plan).error
    asked = training_requests("bias").head(28)
    asked.to_json(tmp_path / "few.jsonl", orient="records", lines=True)
    few = (*plan, "--prompts", tmp_path / "few.jsonl")
    assert "28 answers cannot give the 32 refusals" in run_cli(*few).error
    enough = run_cli(*few, "--temperature", 1, "--samples", 2)
    assert "cannot give" not in enough.error and "56" in enough.error


def test_what_a_data_set_lacks_is_said_with_what_to_do() -> None:
    def found(rows: int, unfinished: int, effective: float) -> Deflected:
        said = Diversity(rows, rows, rows, effective, 0.1)
        classes = {"refusal": rows, "answer": 0, "other": 0, "gibberish": 0}
        return Deflected(Path("x"), "bias", rows, 0, rows, rows, classes, unfinished, said)

    assert found(40, 20, 8.0).warnings() == []
    (few,) = found(31, 0, 20.0).warnings()
    assert "at least 32" in few and "found 31" in few and "--samples" in few
    (alike,) = found(40, 0, 7.9).warnings()
    assert "7.9 different ones" in alike and "--temperature 1" in alike
    (cut,) = found(40, 21, 20.0).warnings()
    assert "21 of 40" in cut and "--max-new-tokens" in cut


def test_a_deflect_plan_of_another_prompt_file_is_another(tmp_path: Path) -> None:
    one = DeflectPlan("m", "bias", prompts="a.jsonl")
    assert one.settings != DeflectPlan("m", "bias", prompts="b.jsonl").settings
    assert one.settings == DeflectPlan("m", "bias", prompts="a.jsonl", batch_size=1).settings
    with pytest.raises(InputError, match="neither config.json"):
        engine.run_deflection(
            DeflectPlan(str(tmp_path), "bias"), tmp_path / "o", Progress(quiet=True)
        )
