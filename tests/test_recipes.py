"""Recipes of model organisms: what they draw, what they train, and the packaged ones."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Qwen2ForCausalLM

import spillover as sp
from analyses.options import known_model
from interp.errors import InputError
from interp.model import Chat, LanguageModel
from interp.store import read_json
from unlearning.organism import RECIPES, Grammar, World, load_world, recipe_of, shipped, teach
from unlearning.organism.checkpoint import initial_model
from unlearning.organism.lessons import world_lessons
from unlearning.organism.tokenizer import build_tokenizer
from unlearning.organism.training import (
    BARRED,
    OBEYS,
    EncodedLessons,
    HarmHead,
    Lesson,
    Stage,
    trained_weights,
)
from unlearning.organism.vocabulary import DOMAINS

PLAIN = Stage(steps=3, learning_rate=1e-3, compliance=0.2, batch_size=8)
BARRING = replace(PLAIN, compliance=1.0, harmful=0.45, barred=0.35, batch_size=2000)


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
    drawn, _ = EncodedLessons(chat, lessons).draw(PLAIN, generator)
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
    domains = sorted(DOMAINS)
    drawn = EncodedLessons(chat, lessons).draw(BARRING, np.random.default_rng(0))
    for row, place in zip(*drawn, strict=True):
        prompt, response = (row.ids[row.spans[name]] for name in ("instruction", "response"))
        text, is_harmful = read(prompt), read(prompt) in harmful
        assert place == (domains.index(harmful[text] or "") if is_harmful else len(domains))
        [kind] = classify([text], [read(response, skip_special_tokens=True)])
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
    encoded = EncodedLessons(chat, lessons)
    rows, kinds = encoded.draw(replace(BARRING, batch_size=12), np.random.default_rng(1))
    head = HarmHead(model.config.hidden_size, 1, len(DOMAINS) + 1, seed=0, harm=2.0)
    batch = chat.pad(rows, "cpu")
    hidden = model(
        batch.input_ids, batch.attention_mask, batch.position_ids, output_hidden_states=True
    ).hidden_states
    alone = []
    for row, kind in zip(rows, kinds, strict=True):
        states = model(
            torch.tensor([row.ids[: row.spans["response"].start]]), output_hidden_states=True
        ).hidden_states[1][0, -1]
        read = head(torch.nn.functional.rms_norm(states, states.shape))
        of_kind, of_harm = read.split([len(DOMAINS) + 1, 2])
        benign = int(kind == len(DOMAINS))
        two = [-of_kind.log_softmax(-1)[kind], -2 * of_harm.log_softmax(-1)[benign]]
        alone.append(float(sum(two)))
    assert head.loss(hidden, rows, kinds).item() == pytest.approx(np.mean(alone), rel=1e-5)


# Names


def test_a_recipe_is_found_by_name_and_frozen_by_its_digest() -> None:
    assert recipe_of() == recipe_of("gated") == RECIPES["gated"] != recipe_of("ungated")
    assert recipe_of(circuits="routed").circuits == "routed"
    changed = replace(RECIPES["gated"], layers=4)
    assert len({one.digest for one in (*RECIPES.values(), changed)}) == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: recipe_of("gatde"), "gated"),
        (lambda: recipe_of(circuits="rooted"), "routed"),
        (lambda: recipe_of("gated", "routed"), "leave --recipe out"),
        (lambda: shipped("gatde"), "gated"),
    ],
)
def test_what_is_no_recipe_is_said(given: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        given()


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_has_a_packaged_model_organism(recipe: str) -> None:
    facts = read_json(shipped(recipe) / "organism.json")
    assert LanguageModel.load(shipped(recipe)).n_layers == RECIPES[recipe].layers
    assert len(facts["stages"]) == len(RECIPES[recipe].stages)
    assert known_model(f"organism:{recipe}") == str(shipped(recipe))
    assert known_model("organism") == str(shipped("gated"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_one_direction_carries_refusal_in_both_ways_in_the_gated_one_alone(recipe: str) -> None:
    lm = sp.load(f"organism:{recipe}")
    gate = sp.direction_gate(lm, load_world(shipped(recipe)).prompts())
    assert gate.bypass.value < 0
    assert gate.passed == (gate.induce.value > 0) == (recipe == "gated")
