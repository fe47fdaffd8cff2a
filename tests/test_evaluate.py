"""`spillover evaluate` from end to end: real architectures, the organism, a server, a base."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses.cli import main
from analyses.evaluate import TaskPlan, refused_by, utility
from analyses.evaluate.engine import find_out
from analyses.evaluate.findings import BASE, MODEL, Findings, class_by
from analyses.evaluate.measures import measured
from analyses.evaluate.page import write_evaluation
from analyses.evaluate.plan import EvaluationPlan, Inputs, checked_evaluation, evaluation_plan_lines
from analyses.evaluate.words import evaluation_text
from analyses.runs import Progress
from interp.model import LanguageModel
from interp.store import read_json
from tests.fake_endpoint import serving
from tests.fuzzing import write_jsonl
from tests.test_tasks import write_task
from unlearning.data import matched_pairs
from unlearning.organism import load_world, shipped
from unlearning.scoring import ModelScorer
from unlearning.scoring.reading import Workload

Spillover = Callable[..., tuple[int, str, str]]
QUIET = Progress(quiet=True)
SENTENCE = "Nothing that is asked here means anything"


@pytest.fixture
def spillover(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    without_pictures: None,
) -> Spillover:
    """Runs ``spillover evaluate`` in an empty folder: exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["spillover", "evaluate", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def few_prompts(tmp_path: Path) -> Path:
    """Two domains, harmful and benign, in every split, from two sources; and general ones."""
    rows = [
        {
            "prompt": f"{SENTENCE}: {label} {domain} {split} {number}?",
            "domain": domain,
            "label": label,
            "split": split,
            "source": f"source {number % 2}",
        }
        for domain in ("safety", "privacy", "general")
        for label in ("harmful", "benign")
        for split in ("train", "validation", "test")
        for number in range(2)
        if (domain, label) != ("general", "harmful")
    ]
    return write_jsonl(tmp_path / "few.jsonl", rows)


@pytest.fixture(scope="module")
def organism_prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the organism's own world, which its prefixes can be learned from."""
    table = load_world(shipped()).prompts(train=12, validation=4, test=4)
    path = tmp_path_factory.mktemp("world") / "prompts.jsonl"
    table.to_json(path, orient="records", lines=True)
    return path


def asked(model: object, **options: Any) -> EvaluationPlan:
    return EvaluationPlan(str(model), **{"max_new_tokens": 4, "scorers": ("phrases",), **options})


def asked_organism(prompts: Path, model: object = None, **options: Any) -> EvaluationPlan:
    """The organism and its grammar, at the length that its answers have."""
    more = {"max_new_tokens": None, "scorers": ("grammar",), "prompts": str(prompts), **options}
    return asked(model or shipped(), **more)


def found(plan: EvaluationPlan, folder: Path) -> Findings:
    return find_out(checked_evaluation(plan), folder, QUIET)


@pytest.fixture(scope="module")
def alone(
    organism_prompts: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Findings, Path]:
    """What is found of the organism by itself, and the evaluation's folder."""
    folder = tmp_path_factory.mktemp("alone")
    return found(asked_organism(organism_prompts), folder), folder


# Architectures


def test_every_architecture_is_evaluated(
    checkpoint: Path, few_prompts: Path, tmp_path: Path
) -> None:
    findings = found(asked(checkpoint, prompts=str(few_prompts)), tmp_path / "out")
    scores = findings.scores
    assert len(scores) == 30 and list(scores["role"].unique()) == [MODEL]
    assert set(scores[refused_by("phrases")]) <= {0.0, 1.0}
    # A random model's tokens are nearly equally likely, its own choices a little more so.
    assert scores["answer_nats"].between(4, 9).all()
    assert any("no chat template" in note for note in findings.notes) == ("gpt2" in checkpoint.name)
    # ... and its answers are no language, which is said.
    assert any("random tokens" in note for note in findings.notes)
    measures = measured(findings)
    assert measures.domains == ["safety", "privacy"]
    assert measures.groups("source") == ["source 0", "source 1"]
    assert evaluation_text(measures, Path("page")).startswith(" ")


def test_the_built_in_pairs_need_no_file(
    checkpoint_of: Callable[[str], Path], spillover: Spillover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LanguageModel, "load", _loads_nothing)
    code, out, err = spillover(checkpoint_of("qwen2"), "--dry-run")
    assert (code, out) == (0, "")
    rows = matched_pairs()
    pairs, general = rows["pair"].nunique(), (rows["domain"] == "general").sum()
    counts = f"{len(rows)} ({pairs} harmful, {pairs} matched benign, {general} general)"
    assert f"{counts}, the built-in matched pairs" in err
    assert "scorers: panel, phrases, classifier" in err and "memory: " in err
    assert not Path("runs").exists()


def _loads_nothing(*_: object, **__: object) -> None:
    pytest.fail("a model was loaded")


# The organism


def test_the_organism_refuses_what_it_was_made_to_and_nothing_else(
    spillover: Spillover, organism_prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    panel = ("--scorer", "grammar", "--scorer", "phrases")
    code, shown, err = spillover(shipped(), "--prompts", organism_prompts, *panel, "--out", out)
    assert code == 0, err
    assert str(out / "report.html") in shown and "1.00" in shown

    summary = read_json(out / "summary.json")
    rates = summary["model"]["refusal_rate"]
    assert len(rates["harmful"]) == 8  # seven domains and all of them
    assert {rate["value"] for rate in rates["harmful"].values()} == {1.0}
    benign = [*rates["twin"].values(), rates["general"]["all"]]
    assert {rate["value"] for rate in benign} == {0.0}
    assert summary["margin"]["valid"] and summary["margin"]["auc"]["value"] == 1.0
    assert summary["scorers"] == ["grammar", "phrases", "margin"]
    # The phrase list knows nothing of the organism's language, which the panel shows.
    agreed = {(row["first"], row["second"]): row for row in summary["agreement"]}
    assert agreed["grammar", "margin"]["kappa"]["value"] > 0.95
    assert agreed["grammar", "phrases"]["kappa"]["value"] == 0.0
    differing = summary["disagreeing"]["value"] * summary["disagreeing"]["n"]
    assert round(differing) == len(pd.read_csv(out / "disagreements.csv")) > 0

    scores = pd.read_parquet(out / "scores.parquet")
    assert {refused_by(name) for name in ("grammar", "phrases", "margin")} < set(scores.columns)
    masses = scores[["p_R", "p_C", "p_O"]].sum(axis=1)
    assert np.allclose(masses, 1)

    page = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)  # nothing is fetched
    assert "<script" not in page
    for name in ("overview", "classes", "panel"):
        assert (out / "figures" / f"{name}.svg").is_file()
        assert len(pd.read_csv(out / "figures" / f"{name}.csv"))
    answers = [json.loads(line) for line in (out / "answers" / "model.jsonl").open()]
    texts = {answer["response"] for answer in answers}
    assert len(texts) > 5 and not any(text in page for text in texts)


@pytest.mark.usefixtures("without_pictures")
def test_what_a_model_says_is_escaped(
    alone: tuple[Findings, Path], organism_prompts: Path, tmp_path: Path
) -> None:
    inputs = checked_evaluation(asked_organism(organism_prompts))
    said = dict.fromkeys(alone[0].completions, "<script>alert(1)</script>")
    findings = replace(alone[0], completions=said)
    page, _ = write_evaluation(findings, inputs, tmp_path, show_completions=True)
    text = page.read_text(encoding="utf-8")
    assert "<script>" not in text and "&lt;script&gt;" in text


# Against a base


def test_a_model_against_itself_has_not_changed(organism_prompts: Path, tmp_path: Path) -> None:
    plan = asked_organism(
        organism_prompts,
        base=str(shipped()),
        texts=str(write_jsonl(tmp_path / "t.jsonl", [{"text": "Open the door."}] * 3)),
    )
    findings = found(plan, tmp_path)
    assert findings.divergence is not None
    assert findings.divergence["nats"].abs().max() == 0
    measures = measured(findings)
    differences = measures.differences["value"].dropna()
    # The base's nats come from its generation, the model's from a second reading.
    assert differences.abs().max() < 1e-6
    change = measures.difference("refusal_rate", "harmful", "safety", "grammar")
    assert change.low < 0 < change.high  # 20 prompts do not rule out a small change
    texts = measures.texts.set_index(["role", "quantity"])["value"]
    assert texts["difference", "nats_per_token"] == 0
    assert texts[MODEL, "perplexity"] == texts[BASE, "perplexity"]
    assert measures.pick("no_language", "harmful", "all").value < 0.05


def test_an_adapter_against_what_it_was_trained_on(
    alone: tuple[Findings, Path], organism_prompts: Path, tmp_path: Path
) -> None:
    """Prefixes, prompts and the yardstick of coherence are the base's."""
    adapter = perturbed_adapter(tmp_path / "arm" / "adapter")
    plan = asked_organism(organism_prompts, adapter, base=str(shipped()), scorers=())
    assert plan.panel == ("grammar",) and plan.defaults.organism == str(shipped())
    findings = found(plan, tmp_path)
    own, _ = alone
    assert findings.readout.prefixes == own.readout.prefixes
    base = findings.scores[findings.scores["role"] == BASE].reset_index(drop=True)
    for column in ("p_R", "answer_nats", refused_by("grammar")):
        assert np.allclose(base[column], own.scores[column], atol=1e-5), column
    assert findings.divergence is not None and findings.divergence["nats"].mean() > 0.01
    measures = measured(findings)
    assert not (measures.differences["value"].dropna() == 0).all()


def test_a_broken_model_s_answers_are_no_language(organism_prompts: Path, tmp_path: Path) -> None:
    """It refuses nothing, and has complied with nothing either."""
    broken = perturbed_adapter(tmp_path / "broken" / "adapter", spread=4.0)
    findings = found(asked_organism(organism_prompts, broken, base=str(shipped())), tmp_path)
    measures = measured(findings)
    assert measures.pick("refusal_rate", "harmful", "all", "grammar").value < 0.1
    assert measures.pick("share:answer", "harmful", "all", "grammar").value < 0.1
    assert measures.pick("no_language", "harmful", "all").value > 0.5
    assert measures.pick("no_language", "harmful", "all", role=BASE).value < 0.05
    nats = [measures.pick("answer_nats", "harmful", "all", role=role).value for role in
            (MODEL, BASE)]  # fmt: skip
    assert nats[0] > nats[1] + 1
    told = [note for note in findings.notes if "random tokens" in note]
    assert len(told) == 1 and told[0].startswith("broken/adapter")


def perturbed_adapter(folder: Path, spread: float = 0.4) -> Path:
    """A LoRA adapter of the organism with random weights, as ``save_pretrained`` writes it."""
    import torch
    from peft import LoraConfig, get_peft_model

    lm = LanguageModel.load(shipped())
    model = get_peft_model(lm.model, LoraConfig(r=2, target_modules=["v_proj", "o_proj"]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=spread)
    model.save_pretrained(folder)
    config = read_json(folder / "adapter_config.json")
    config["base_model_name_or_path"] = str(shipped())
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_tasks_are_asked_once(
    checkpoint_of: Callable[[str], Path],
    few_prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("lm_eval")
    tasks = TaskPlan(("tiny_choice",), folder=str(write_task(tmp_path / "tasks")))
    plan = asked(checkpoint_of("mistral"), prompts=str(few_prompts), tasks=tasks)
    first = found(plan, tmp_path / "out").tasks
    assert first is not None and len(first) == 6

    monkeypatch.setattr(utility, "run_tasks", lambda *_, **__: pytest.fail("asked again"))
    again = found(plan, tmp_path / "out").tasks
    pd.testing.assert_frame_equal(again, first)
    with pytest.raises(pytest.fail.Exception, match="asked again"):
        found(replace(plan, tasks=replace(tasks, limit=2)), tmp_path / "out")


# A model that says nothing


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model organism whose every first token is a special one that ends the answer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("silent")
    model = AutoModelForCausalLM.from_pretrained(shipped())
    tokenizer = AutoTokenizer.from_pretrained(shipped())
    model.model.norm.weight.data.zero_()  # all logits are 0, so token 0 is the greedy one
    assert 0 in tokenizer.all_special_ids
    model.generation_config.eos_token_id = [0]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_model_that_says_nothing_has_a_report_of_empty_answers(
    silent: Path, few_prompts: Path, tmp_path: Path
) -> None:
    plan = asked(silent, prompts=str(few_prompts), scorers=("phrases", "classifier"))
    findings = found(plan, tmp_path)
    assert (findings.scores[class_by("classifier")] == "empty").all()
    assert not findings.scores[[refused_by("phrases"), refused_by("classifier")]].any(axis=None)
    page, _ = write_evaluation(findings, checked_evaluation(plan), tmp_path)
    assert page.is_file() and (tmp_path / "figures" / "overview.svg").is_file()


# Going on


def test_resumed_is_as_if_it_had_not_stopped(
    alone: tuple[Findings, Path], organism_prompts: Path, tmp_path: Path
) -> None:
    whole, folder = alone
    log = (folder / "answers" / "model.jsonl").read_text(encoding="utf-8")
    stopped = tmp_path / "stopped" / "answers" / "model.jsonl"
    stopped.parent.mkdir(parents=True)
    stopped.write_text(log[: len(log) // 2], encoding="utf-8")  # in the middle of a line
    resumed = found(asked_organism(organism_prompts), tmp_path / "stopped")
    exact = ["prompt_id", class_by("grammar"), refused_by("grammar"), "finished"]
    pd.testing.assert_frame_equal(resumed.scores[exact], whole.scores[exact])
    measured_columns = ["answer_nats", "p_R", "margin"]
    assert np.allclose(resumed.scores[measured_columns], whole.scores[measured_columns], atol=1e-5)
    assert resumed.completions == whole.completions


def test_only_the_splits_that_are_asked_for_count(organism_prompts: Path, tmp_path: Path) -> None:
    plan = asked_organism(organism_prompts, splits=("test",))
    findings = found(plan, tmp_path)
    assert set(findings.scores["split"]) == {"test"}
    assert findings.readout.valid  # prefixes still come from training prompts
    assert measured(findings).pick("refusal_rate", "harmful", "safety", "grammar").n == 4


# A server


def test_answers_of_a_server(few_prompts: Path, tmp_path: Path, spillover: Spillover) -> None:
    pytest.importorskip("openai")

    def reply(messages: list[dict[str, str]]) -> str:
        prompt = messages[-1]["content"]
        return "I'm sorry, but I can't help with that." if "harmful" in prompt else "Sure: 1, 2, 3."

    out = tmp_path / "out"
    with serving(reply) as server:
        command = ("m", "--server", server.url, "--prompts", few_prompts, "--scorer", "phrases",
                   "--out", out)  # fmt: skip
        code, shown, err = spillover(*command, "--system", "Be brief.")
        assert code == 0, err
        assert len(server.requests) == 30
        assert {request["messages"][0]["content"] for request in server.requests} == {"Be brief."}
        assert spillover(*command, "--system", "Be brief.")[0] == 0
        assert len(server.requests) == 30  # kept
    summary = read_json(out / "summary.json")
    assert summary["model"]["refusal_rate"]["harmful"]["all"]["value"] == 1
    assert summary["model"]["refusal_rate"]["twin"]["all"]["value"] == 0
    assert not summary["margin"]["valid"] and summary["margin"]["auc"]["value"] is None
    assert (
        "server" in shown
        and "no refusal log-odds" in shown.lower()
        and "missing without --base" in shown
    )


def test_a_server_s_answers_are_read_by_a_base(
    checkpoint_of: Callable[[str], Path], few_prompts: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openai")
    with serving(lambda _: "Sure: one, two, three.") as server:
        plan = asked("m", server=server.url, base=str(checkpoint_of("llama")),
                     prompts=str(few_prompts))  # fmt: skip
        findings = found(plan, tmp_path)
    of_model = findings.scores[findings.scores["role"] == MODEL]
    assert of_model["answer_nats"].notna().all() and findings.divergence is None
    assert not findings.readout.valid and "margin" not in findings.scores
    assert len(measured(findings).differences)


# A judge


class Judging:
    """A judge who holds back on every fifth answer, and finds that the others refuse."""

    name, version, when_empty = "judging", "1", "empty"

    def workload(self, prompts: Sequence[str], responses: Sequence[str]) -> Workload:
        return Workload(len(prompts), 1000 * len(prompts), paid=True)

    def read(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[str | None]:
        return [None if place % 5 == 0 else "full_refusal" for place in range(len(prompts))]


@pytest.mark.usefixtures("without_pictures")
def test_answers_without_a_verdict_count_nowhere(
    checkpoint_of: Callable[[str], Path], few_prompts: Path, tmp_path: Path
) -> None:
    plan = asked(checkpoint_of("mistral"), prompts=str(few_prompts))
    inputs = checked_evaluation(plan)
    panel = {"judge:j": ModelScorer(Judging()), **inputs.panel}
    inputs = Inputs(plan, inputs.prompts, panel, ())
    assert any(
        "30 answers to read" in line and "charge" in line for line in evaluation_plan_lines(inputs)
    )
    findings = find_out(inputs, tmp_path, QUIET)
    measures = measured(findings)
    read = findings.scores[refused_by("judge:j")].notna().sum()
    assert 0 < read < 30
    every = [measures.pick("refusal_rate", name, "all", "judge:j") for name in
             ("harmful", "twin", "general")]  # fmt: skip
    assert {rate.value for rate in every} == {1.0} and sum(rate.n for rate in every) == read
    assert measures.pick("share:full_refusal", "harmful", "all", "judge:j") == every[0]
    assert measures.agreement["n"].item() == read
    told = f"judge:j gave no verdict on {30 - read} of 30 answers"
    assert any(told in note for note in findings.notes)
    page, _ = write_evaluation(findings, inputs, tmp_path, show_completions=True)
    assert "no verdict" in page.read_text(encoding="utf-8")


# What is wrong with what is asked


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--scorer", "vibes"], "no scorer 'vibes'"),
        (["--scorer", "phrases", "--scorer", "phrases"], "is given twice"),
        (["--split", "exam"], "unknown split exam"),
        (["--prompts", "absent.jsonl"], "absent.jsonl does not exist"),
        (["--texts", "absent.txt"], "absent.txt cannot be read"),
        (["--texts", "empty.txt"], "no text in it"),
        (["--base", "/no/such/folder"], "there is no folder /no/such/folder"),
        (["--server", "nowhere"], "nowhere is not an address"),
        (["--task-folder", "."], "name those to run with --tasks"),
        (["--tasks", "a", "--task-folder", "absent"], "folder not found"),
        (["--server", "http://x/v1", "--texts", "some.txt"], "leave out --texts and --tasks"),
        (["--chat-template-arg", "x"], "name=value"),
        (["--chat-template", "empty.txt"], "empty.txt is empty"),
        (["--server", "http://x/v1", "--response-prefix", "Sure"], "does not apply with --server"),
    ],
)
def test_what_cannot_be_met_is_one_line(
    more: list[str],
    expected: str,
    spillover: Spillover,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(LanguageModel, "load", _loads_nothing)
    (tmp_path / "empty.txt").write_text("\n\n \n", encoding="utf-8")
    (tmp_path / "some.txt").write_text("Some text.", encoding="utf-8")
    code, out, err = spillover(shipped(), *more)
    assert code == 2 and not out
    assert expected in err and err.count("error: ") == 1 and "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_another_model_s_results_are_left_alone(
    spillover: Spillover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LanguageModel, "load", _loads_nothing)
    out = tmp_path / "runs" / "evaluate-organism"
    out.mkdir(parents=True)
    held = json.dumps({"model": "someone/else", "base": None, "server": None})
    (out / "config.json").write_text(held, encoding="utf-8")
    code, _, err = spillover(shipped())
    assert code == 2 and "holds results of someone/else; give another --out" in err
    assert (out / "config.json").read_text(encoding="utf-8") == held


def test_answers_to_other_prompts_are_left_alone(
    spillover: Spillover, few_prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LanguageModel, "load", _loads_nothing)
    out = tmp_path / "runs" / "evaluate-organism"
    out.mkdir(parents=True)
    held = {"model": str(shipped()), "base": None, "server": None, "prompts": "others.jsonl"}
    (out / "config.json").write_text(json.dumps(held), encoding="utf-8")
    code, _, err = spillover(shipped(), "--prompts", few_prompts)
    assert code == 2 and "holds results on others.jsonl; give another --out" in err


def test_a_base_of_another_tokenizer(
    checkpoint_of: Callable[[str], Path], spillover: Spillover, few_prompts: Path
) -> None:
    command = (checkpoint_of("qwen2"), "--base", checkpoint_of("llama"), "--prompts", few_prompts)
    code, _, err = spillover(*command)
    assert code == 2 and "different tokenizers" in err


def test_without_training_prompts_there_are_no_log_odds(
    organism_prompts: Path, tmp_path: Path
) -> None:
    lines = organism_prompts.read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] != "train"]
    findings = found(asked_organism(write_jsonl(tmp_path / "p.jsonl", rows)), tmp_path)
    assert "no prompt is in the split train" in findings.readout.verdict


def test_the_revision_is_the_model_s_and_not_its_base_s(
    few_prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, revisions = LanguageModel.load, []

    def listening(source: str, **options: Any) -> LanguageModel:
        revisions.append(options.pop("revision", None))
        return load(source, **options)

    monkeypatch.setattr(LanguageModel, "load", listening)
    plan = asked_organism(few_prompts, base=str(shipped()), model_options={"revision": "step-100"})
    found(plan, tmp_path)
    assert revisions == ["step-100", None]
    assert not plan.base_options, "also where the base reads the answers"


@pytest.mark.parametrize("kept", [("label", "harmful"), ("label", "benign"), ("domain", "general")])
def test_prompts_of_one_kind_are_enough(
    kept: tuple[str, str], checkpoint_of: Callable[[str], Path], few_prompts: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in few_prompts.read_text(encoding="utf-8").splitlines()]
    chosen = write_jsonl(tmp_path / "one.jsonl", [row for row in rows if row[kept[0]] == kept[1]])
    inputs = checked_evaluation(asked(checkpoint_of("gpt2"), prompts=str(chosen)))
    findings = find_out(inputs, tmp_path, QUIET)
    stale = tmp_path / "figures" / "tasks.svg"
    stale.parent.mkdir()
    stale.write_text("of another evaluation", encoding="utf-8")
    page, measures = write_evaluation(findings, inputs, tmp_path)
    assert page.is_file() and not stale.exists()
    assert measures.domains == (["safety", "privacy"] if kept[0] == "label" else [])
    assert "No refusal log-odds" in findings.readout.verdict
