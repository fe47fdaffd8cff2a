"""Tasks by the LM Evaluation Harness, on a model that is loaded already."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from interp.errors import InputError
from interp.model import LanguageModel
from unlearning.utility import run_tasks

QUESTIONS = [f"Which of the two is number {number}?" for number in range(6)]
CHOICES = ("first", "second")
TAKE = {"function": "take_first"}


def write_task(folder: Path, name: str = "tiny_choice", **changes: object) -> Path:
    """A multiple-choice task, or one with ``changes``, in YAML with its data beside it."""
    folder.mkdir(exist_ok=True)
    data = folder / f"{name}.jsonl"
    rows = [{"question": text, "answer": n % 2} for n, text in enumerate(QUESTIONS)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\nAnswer:",
        "doc_to_choice": list(CHOICES),
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
        **changes,
    }
    # JSON is YAML.
    (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def mistral(checkpoint_of: Callable[[str], Path]) -> LanguageModel:
    return LanguageModel.load(checkpoint_of("mistral"))


def chosen(lm: LanguageModel, text: str) -> int:
    """The likelier choice, by two forwards of our own."""
    scores = []
    for choice in CHOICES:
        ids = lm.tokenizer(f"{text} {choice}")["input_ids"]
        start = len(lm.tokenizer(text)["input_ids"])
        with torch.no_grad():
            log_p = lm.model(torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
        scores.append(sum(float(log_p[i - 1, ids[i]]) for i in range(start, len(ids))))
    return int(scores[1] > scores[0])


def test_items_are_scored_as_by_hand(mistral: LanguageModel, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    template, padding = mistral.tokenizer.chat_template, mistral.tokenizer.pad_token
    found = run_tasks(mistral, ["tiny_choice"], folder=write_task(tmp_path / "tasks"))
    assert list(found.columns) == ["task", "item", "metric", "value"]
    expected = [
        float(chosen(mistral, f"{text}\nAnswer:") == n % 2) for n, text in enumerate(QUESTIONS)
    ]
    assert list(found.sort_values("item")["value"]) == expected
    assert set(found["task"]) == {"tiny_choice"} and set(found["metric"]) == {"acc"}
    assert (mistral.tokenizer.chat_template, mistral.tokenizer.pad_token) == (template, padding)


def test_a_model_that_cannot_be_padded_takes_one_item_at_a_time(
    mistral: LanguageModel, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval")
    folder, sizes = write_task(tmp_path / "tasks"), []
    checked = mistral.checked
    handle = mistral.layers[0].register_forward_pre_hook(
        lambda _, given: sizes.append(len(given[0]))
    )
    try:
        for found in (checked, replace(checked, rows="single")):
            sizes.append(0)
            mistral.found_out["checked"] = found
            run_tasks(mistral, ["tiny_choice"], folder=folder)
    finally:
        mistral.found_out["checked"] = checked
        handle.remove()
    last = sizes.index(0, 1)
    assert max(sizes[:last]) > 1 and set(sizes[last + 1 :]) == {1}


def test_every_filter_of_an_answer_is_a_metric_of_its_own(
    mistral: LanguageModel, tmp_path: Path
) -> None:
    """As in gsm8k, whose answers are read strictly and flexibly."""
    pytest.importorskip("lm_eval")
    filters = [
        {"name": name, "filter": [{"function": "regex", "regex_pattern": pattern}, TAKE]}
        for name, pattern in (("strict", "(never this)"), ("loose", "()"))
    ]
    folder = write_task(
        tmp_path / "tasks",
        output_type="generate_until",
        generation_kwargs={"max_gen_toks": 2, "until": ["."]},
        doc_to_choice=None,
        doc_to_target="{{ '' }}",
        filter_list=filters,
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
    found = run_tasks(mistral, ["tiny_choice"], folder=folder, limit=3)
    wide = found.pivot(index=["task", "item"], columns="metric", values="value")
    assert wide["exact_match,strict"].tolist() == [0.0] * 3
    assert wide["exact_match,loose"].tolist() == [1.0] * 3


def test_the_chat_format_is_a_choice(
    mistral: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM

    asked: list[str] = []
    read = HFLM.loglikelihood

    def listening(self: HFLM, requests: list, *more: object, **named: object) -> list:
        asked.extend(request.args[0] for request in requests)
        return read(self, requests, *more, **named)

    monkeypatch.setattr(HFLM, "loglikelihood", listening)
    folder = write_task(tmp_path / "tasks")
    for chat in (False, True):
        asked.clear()
        run_tasks(mistral, ["tiny_choice"], folder=folder, chat_template=chat, limit=2)
        assert len(asked) == 2 * len(CHOICES)
        assert all(("[INST]" in text) == chat for text in asked)


def test_a_task_that_is_not_there(
    mistral: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = pytest.importorskip("lm_eval.tasks")
    # Looking through the harness's own thousands takes half a minute.
    few = partial(tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(tasks, "TaskManager", few)
    with pytest.raises(InputError, match="no task absent"):
        run_tasks(mistral, ["absent"], folder=write_task(tmp_path / "tasks"))


def test_without_the_extra_one_is_told_what_to_install(
    mistral: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"pip install 'spillover\[utility\]'"):
        run_tasks(mistral, ["mmlu_philosophy"])
