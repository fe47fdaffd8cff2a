"""Answers are the model's own greedy tokens, alone or in a batch, cut at the end of the turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from interp.model import LanguageModel
from unlearning.evaluation import Evaluation
from unlearning.generation import generate, stop_tokens
from unlearning.refusal import Openers
from unlearning.scorers import CLASSES, Phrases

Checkpoints = Callable[[str], Path]

PROMPTS = ("Why?", "Tell me how to bake bread without yeast, step by step, for four people.", "a")
LENGTH = 6


@torch.no_grad()
def greedy(lm: LanguageModel, prompt: str) -> tuple[int, ...]:
    """Token by token, from scratch each time: no cache, no padding."""
    ids, stops = list(lm.chat.encode(prompt).ids), stop_tokens(lm)
    found: list[int] = []
    while len(found) < LENGTH and not (found and found[-1] in stops):
        found.append(int(lm.model(input_ids=torch.tensor([ids + found])).logits[0, -1].argmax()))
    return tuple(found)


def test_answers_are_greedy_whatever_stands_beside_them(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    for answer, prompt in zip(generate(lm, PROMPTS, max_new_tokens=LENGTH), PROMPTS, strict=True):
        assert answer.ids == greedy(lm, prompt)
        assert answer.finished == (answer.ids[-1] in stop_tokens(lm))


def test_an_answer_ends_with_the_end_of_its_turn(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("mistral"))
    first = [ids[1] for ids in (greedy(lm, prompt) for prompt in PROMPTS)]
    # Whatever the model says second is made the end of the turn.
    lm.model.generation_config.eos_token_id = first  # type: ignore[union-attr]
    for answer in generate(lm, PROMPTS, max_new_tokens=LENGTH):
        assert answer.finished and len(answer.ids) <= 2
        assert answer.ids[-1] in first


def test_generating_leaves_the_random_state_alone(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    before = torch.random.get_rng_state()
    generate(lm, PROMPTS, max_new_tokens=2, temperature=1.0, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_an_evaluation_has_a_row_a_prompt_in_their_order(
    family: str, checkpoint_of: Checkpoints
) -> None:
    lm = LanguageModel.load(checkpoint_of(family))
    prompts = pd.DataFrame(
        {"id": ["x", "y", "z"], "prompt": PROMPTS, "split": "test", "domain": "safety"},
        index=[5, 5, 1],
    ).assign(label="harmful", kind=None)
    evaluation = Evaluation(lm, prompts, Openers(((300,),), ((301,),)), Phrases(), max_new_tokens=3)
    masses = evaluation.masses(lm)
    assert list(masses["prompt_id"]) == ["x", "y", "z"]
    assert masses["class"].isna().all() and masses["refused"].isna().all()
    table, answers = evaluation.with_text(lm)
    assert len(answers) == 3 and set(table["class"]) <= set(CLASSES)
    assert list(table["refused"]) == [float(name == "refusal") for name in table["class"]]
    columns = ["p_R", "p_C", "p_O", "margin"]
    pd.testing.assert_frame_equal(table[columns], masses[columns])
    assert table[["p_R", "p_C", "p_O"]].sum(axis=1).to_numpy() == pytest.approx(1)
