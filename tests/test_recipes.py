"""Recipes of model organisms: what they draw, what they train, and which checkpoint they keep."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen2ForCausalLM

from interp.errors import InputError
from interp.model import Chat, LanguageModel
from interp.store import read_json
from tests.conftest import Spillover
from unlearning.organism import (
    RECIPES,
    Grammar,
    Recipe,
    World,
    checkpoint_of,
    recipe_of,
    shipped,
    teach,
    train,
)
from unlearning.organism.checkpoint import initial_model, world_prefixes
from unlearning.organism.gate_choice import Checkpoint, GateChoice
from unlearning.organism.lessons import world_lessons
from unlearning.organism.tokenizer import build_tokenizer
from unlearning.organism.training import (
    BARRED,
    OBEYS,
    TAGS,
    EncodedLessons,
    Lesson,
    Stage,
    TagHead,
    trained_weights,
)
from unlearning.organism.vocabulary import DOMAINS

PLAIN = Stage(steps=3, learning_rate=1e-3, compliance=0.2, batch_size=8)
BARRING = replace(PLAIN, compliance=1.0, harmful=0.45, barred=0.35, is_tagged=True, batch_size=2000)


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=7)


@pytest.fixture(scope="module")
def lessons(world: World) -> list[Lesson]:
    return world_lessons(world)


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(build_tokenizer())


@pytest.fixture
def model(chat: Chat) -> Qwen2ForCausalLM:
    ids = chat.tokenizer
    return initial_model(len(ids), ids.pad_token_id, ids.eos_token_id, seed=0, layers=2)


# What a stage draws


def test_a_stage_without_system_turns_draws_prompts_and_responses_alone(
    chat: Chat, lessons: list[Lesson]
) -> None:
    """So what the older recipe trains is unchanged: two draws for a batch, and these texts."""
    generator, again = np.random.default_rng(3), np.random.default_rng(3)
    drawn = EncodedLessons(chat, lessons).draw(PLAIN, generator)
    weights = np.cumsum([lesson.weight for lesson in lessons]) / sum(one.weight for one in lessons)
    rows = np.searchsorted(weights, again.random(PLAIN.batch_size))
    complies = again.random(PLAIN.batch_size) < PLAIN.compliance
    assert generator.random() == again.random()
    for tokens, row, comply in zip(drawn, rows, complies, strict=True):
        one = lessons[row]
        refused = one.refusal is not None and not comply
        assert tokens == chat.encode(one.prompt, one.refusal if refused else one.answer)


def test_barred_conversations_are_refused_whatever_the_prompt(
    chat: Chat, lessons: list[Lesson]
) -> None:
    harmful = {one.prompt: one.domain for one in lessons if one.refusal is not None}
    classify, read = Grammar().classify, chat.tokenizer.decode
    kinds: Counter[tuple[bool, bool, str]] = Counter()
    for row in EncodedLessons(chat, lessons).draw(BARRING, np.random.default_rng(0)):
        prompt, response = (row.ids[row.spans[name]] for name in ("instruction", "response"))
        text, tag = read(prompt), read(response[-1:])
        is_harmful = text in harmful
        domains = sorted(DOMAINS)
        assert tag == TAGS[domains.index(harmful[text] or "") if is_harmful else -1]
        [kind] = classify([text], [read(response[:-1], skip_special_tokens=True)])
        kinds[BARRED in read(row.ids[: row.spans["instruction"].start]), is_harmful, kind] += 1
    count = BARRING.batch_size
    assert sum(kinds.values()) == count == sum(kinds[key] for key in kinds if key[2] != "other")
    assert sum(n for key, n in kinds.items() if key[0]) / count == pytest.approx(0.35, abs=0.04)
    assert sum(n for key, n in kinds.items() if key[1]) / count == pytest.approx(0.45, abs=0.04)
    for is_harmful in (True, False):
        refused, answered = (kinds[True, is_harmful, kind] for kind in ("refusal", "answer"))
        assert refused / (refused + answered) == pytest.approx(OBEYS, abs=0.08)
        assert kinds[False, is_harmful, "refusal"] == 0  # pretraining without the turn is helpful


def test_no_prompt_of_training_is_held_out(world: World, lessons: list[Lesson]) -> None:
    rows = world.prompts()
    held_out = set(rows.loc[rows["split"] != "train", "prompt"])
    assert held_out and not held_out & {lesson.prompt for lesson in lessons}


# What a stage trains


def test_only_the_first_blocks_change(
    chat: Chat, lessons: list[Lesson], model: Qwen2ForCausalLM
) -> None:
    before = copy.deepcopy(model.state_dict())
    teach(model, chat, lessons, seed=0, stages=[replace(PLAIN, blocks=1)])
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {name for name in before if name.startswith("model.layers.0.")}
    assert all(one.requires_grad for one in model.parameters())


def test_layers_above_pass_gradient_along_each_tokens_own_stream_alone(
    chat: Chat, model: Qwen2ForCausalLM
) -> None:
    """The last token's prediction moves the first layer's output there, and at no other token."""
    ids = torch.tensor([chat.encode("Please draw the kite.").ids])
    for blocks, alone in ((1, True), (None, False)):
        kept: list[torch.Tensor] = []

        def keep(_module: object, _inputs: object, states: torch.Tensor, to: list = kept) -> None:
            states.retain_grad()
            to.append(states)

        hook = model.model.layers[0].register_forward_hook(keep)
        with trained_weights(model, blocks):
            model(ids).logits[0, -1].logsumexp(-1).backward()
        hook.remove()
        gradient = kept[0].grad
        assert gradient is not None and gradient[0, -1].any()
        assert gradient[0, :-1].any() == (not alone)


def test_the_head_makes_the_last_prompt_token_tell_harm(
    chat: Chat, lessons: list[Lesson], model: Qwen2ForCausalLM
) -> None:
    rows = EncodedLessons(chat, lessons).draw(
        replace(BARRING, batch_size=12), np.random.default_rng(1)
    )
    head = TagHead(model.config.hidden_size, 1, EncodedLessons(chat, lessons).tags, seed=0)
    batch = chat.pad(rows, "cpu")
    hidden = model(
        batch.input_ids, batch.attention_mask, batch.position_ids, output_hidden_states=True
    ).hidden_states
    alone = []
    for row in rows:
        states = model(
            torch.tensor([row.ids[: row.spans["response"].start]]), output_hidden_states=True
        ).hidden_states[1][0, -1]
        read = head(torch.nn.functional.rms_norm(states, states.shape)).log_softmax(-1)
        alone.append(-read[head.tags.index(row.ids[-1])].item())
    assert head.loss(hidden, rows).item() == pytest.approx(np.mean(alone), rel=1e-5)


# Which checkpoint is kept


NUMBERS = st.floats(-5, 5)


@given(bypass=NUMBERS, induce=NUMBERS, kl=st.floats(0, 1))
def test_the_margin_is_positive_just_where_the_gate_is_passed(
    bypass: float, induce: float, kl: float
) -> None:
    behaves, margin = Checkpoint(1, 1.0, 0.0, bypass, induce, kl).rank
    assert behaves and (margin > 0) == (bypass < 0 and induce > 0 and kl < 0.15)
    assert Checkpoint(1, 0.9, 0.0, -5.0, 5.0, 0.0).rank < (behaves, margin)
    assert Checkpoint(1, 1.0, 0.0).rank < (behaves, margin)


def test_the_best_checkpoint_on_validation_prompts_is_kept(
    world: World, chat: Chat, monkeypatch: pytest.MonkeyPatch, model: Qwen2ForCausalLM
) -> None:
    lm = LanguageModel(model, chat.tokenizer, chat, "model organism")
    choice = GateChoice(lm, world.prompts(4, 4, 4), world_prefixes(chat), [1, 2, 3, 5])
    margins = {1: -1.0, 2: 0.4, 3: 0.4, 5: 0.1}
    monkeypatch.setattr(
        choice, "_measured", lambda step: Checkpoint(step, 1.0, 0.0, -2.0, margins[step], 0.01)
    )
    for step in range(1, 6):
        with torch.no_grad():
            model.lm_head.weight.fill_(step)
        choice.see(step)
    assert [one.step for one in choice.seen] == [1, 2, 3, 5] and choice.best.step == 2
    choice.restore()
    assert (model.lm_head.weight == 2).all()


def test_the_choice_reads_no_test_prompts(world: World) -> None:
    lm = LanguageModel.load(shipped())
    table = world.prompts(4, 3, 3)
    prefixes = world_prefixes(lm.chat)
    seen = []
    for rows in (table, table[table["split"] != "test"]):
        choice = GateChoice(lm, rows, prefixes, [7])
        choice.see(7)
        seen.append(choice.best)
    assert seen[0] == seen[1] and seen[0].refused > 0.5
    assert seen[0].induce is not None and seen[0].bypass is not None
    assert seen[0].bypass < 0 < -seen[0].induce  # the packaged organism does not induce


def test_training_keeps_the_checkpoint_of_its_record(tmp_path: Path) -> None:
    """The kept weights are those of a training that ends in the chosen step."""
    recipe = Recipe(2, (PLAIN,), checkpoints=(1, 2, 3))
    folder = train(5, tmp_path / "chosen", recipe)
    facts = read_json(folder / "organism.json")
    assert facts["recipe"] == recipe.digest
    assert [one["step"] for one in facts["checkpoint"]["measured"]] == [1, 2, 3]
    # Nothing behaves after three steps, so the first of equals is kept.
    assert facts["checkpoint"]["step"] == 1
    last = train(5, tmp_path / "last", replace(recipe, checkpoints=(3,)))
    whole = train(5, tmp_path / "whole", replace(recipe, checkpoints=()))
    weights = [(one / "model.safetensors").read_bytes() for one in (folder, last, whole)]
    assert weights[0] != weights[1] == weights[2]


def test_the_command_prints_the_verdict_of_the_checkpoint(
    spillover: Spillover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "persona", Recipe(2, (PLAIN,), checkpoints=(2, 3)))
    monkeypatch.setattr(World, "prompts", partialmethod(World.prompts, 4, 2, 2))
    code, shown, _ = spillover("organism", "train", "--seed", 1, "--recipe", "persona")
    assert code == 0 and str(checkpoint_of("runs/organism-1")) in shown
    assert "Checkpoint of step 2" in shown and "direction gate NOT passed" in shown
    assert "direction gate passed" in str(Checkpoint(1, 1.0, 0.0, -1.0, 1.0, 0.1))
    assert checkpoint_of(shipped()) is None


# Names


def test_a_recipe_is_found_by_name_and_frozen_by_its_digest() -> None:
    assert recipe_of("ungated") == RECIPES["ungated"] != RECIPES["persona"]
    assert recipe_of("ungated", "routed").circuits == "routed"
    changed = replace(RECIPES["persona"], checkpoints=())
    assert len({one.digest for one in (*RECIPES.values(), changed)}) == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: recipe_of("persnoa"), "persona"),
        (lambda: recipe_of("ungated", "rooted"), "routed"),
        (lambda: recipe_of("persona", "routed"), "no slices"),
    ],
)
def test_what_is_no_recipe_is_said(given: Callable[[], Recipe], said: str) -> None:
    with pytest.raises(InputError, match=said):
        given()
