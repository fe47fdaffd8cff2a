"""The base model's answers outlive whatever ends a study before they are scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from analyses.runs import Progress
from analyses.study import Context, establish, organism_plan, study_context
from unlearning.organism import Grammar, load_world, shipped


@pytest.fixture
def context(tmp_path: Path) -> Context:
    table = load_world(shipped()).prompts(train=32, validation=4, test=4)
    path = tmp_path / "prompts.jsonl"
    table[table["domain"].isin(["bias", "safety", "general"])].to_json(
        path, orient="records", lines=True
    )
    plan = replace(organism_plan(str(shipped()), ("bias",), seeds=[0]), prompts=str(path))
    return study_context(plan, tmp_path / "run", Progress(quiet=True))


def test_answers_are_generated_once_whatever_ends_the_study(context: Context) -> None:
    with (
        mock.patch.object(Grammar, "classify", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        establish(context)
    with mock.patch(
        "unlearning.generation.responses.in_fitting_batches",
        side_effect=AssertionError("asked again"),
    ):
        found = establish(context)
    assert len(found.responses) == len(context.prompts)
    assert (found.responses["response"] != "").all()
