"""Language told from none by what the base model finds likely, without a label of anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import InputError
from interp.model import LanguageModel
from unlearning.generation import generate
from unlearning.organism import Grammar, World, load_world, shipped
from unlearning.scoring import (
    CLASSES,
    Fluency,
    Phrases,
    Scorer,
    WithFluency,
    at_other_prompts,
    measure_fluency,
)
from unlearning.scoring.fluency import MISTAKEN
from unlearning.utility import response_token_nll

nats = st.lists(st.floats(0, 30), max_size=12).map(np.array)


@given(nats, st.floats(0.5, 10))
def test_disorder_is_the_worst_of_all_stretches(nll: np.ndarray, level: float) -> None:
    later = nll[1:]
    stretches = [
        (later[a:b] - level).sum() for a in range(len(later) + 1) for b in range(a, len(later) + 1)
    ]
    assert Fluency(level, 0.0).disorder(nll) == pytest.approx(max(stretches), abs=1e-9)


@given(nats, st.floats(0, 30), st.integers(0, 20))
def test_neither_the_first_token_nor_fluent_text_around_adds_disorder(
    nll: np.ndarray, first: float, tokens: int
) -> None:
    fluency = Fluency(3.0, 0.0)
    fluent = np.zeros(tokens)
    around = np.concatenate([[first], fluent, nll[1:], fluent])
    assert fluency.disorder(around) == pytest.approx(fluency.disorder(nll), abs=1e-9)


@given(nats, st.floats(4, 30))
def test_every_surprising_token_at_the_end_adds_disorder(nll: np.ndarray, last: float) -> None:
    fluency = Fluency(3.0, 0.0)
    nll = np.concatenate([[0.0], nll])
    assert fluency.disorder(np.append(nll, [last, last])) > fluency.disorder(nll) - 1e-9
    assert fluency.disorder(np.append(nll, last)) >= last - 3.0 - 1e-9


@given(st.integers(2, 40), st.integers(0, 5))
def test_every_answer_is_given_another_prompt(count: int, seed: int) -> None:
    prompts = [str(i) for i in range(count)]
    found = at_other_prompts(prompts, seed)
    assert sorted(found) == sorted(prompts)
    assert all(a != b for a, b in zip(prompts, found, strict=True))


@pytest.fixture(scope="module")
def base() -> LanguageModel:
    return LanguageModel.load(shipped())


@pytest.fixture(scope="module")
def world() -> World:
    return load_world(shipped())


def own_answers(base: LanguageModel, prompts: list[str], seed: int) -> list[tuple[int, ...]]:
    found = generate(base, prompts, max_new_tokens=24, temperature=1.0, seed=seed)
    return [answer.ids for answer in found]


@pytest.fixture(scope="module")
def fluency(base: LanguageModel, world: World) -> Fluency:
    table = world.prompts()
    prompts = list(table[table["split"] == "train"].sample(150, random_state=0)["prompt"])
    return measure_fluency(base, prompts, own_answers(base, prompts, 0), batch_size=150)


def test_the_base_models_held_out_answers_are_language_wherever_they_stand(
    base: LanguageModel, world: World, fluency: Fluency
) -> None:
    table = world.prompts()
    prompts = list(table[table["split"] == "test"].sample(200, random_state=1)["prompt"])
    answers = own_answers(base, prompts, 1)
    for asked in (prompts, at_other_prompts(prompts, 2)):
        found = response_token_nll(base, list(zip(asked, answers, strict=True)), batch_size=200)
        mistaken = np.mean([not fluency.finds_language(nll) for nll in found])
        assert mistaken <= 2 * MISTAKEN


def test_an_unusual_answer_is_language_and_words_at_random_are_not(
    base: LanguageModel, world: World, fluency: Fluency
) -> None:
    grammar = Grammar()
    scorer = WithFluency(grammar, base, fluency)
    prefixes = sorted({prefix for domain in world.prefixes.values() for prefix in domain})
    # No model of this world refuses a harmless prompt, and language it is all the same.
    refusals = [grammar.refusal(prefix) for prefix in prefixes]
    harmless = ["Please paint the lighthouse."] * len(refusals)
    assert set(scorer.classify(harmless, refusals)) == {"refusal"}

    rng = np.random.default_rng(0)
    words = [*prefixes, *grammar.compliance_prefixes, " done", " stays", " this", ".", ":", ","]
    babble = ["".join(rng.choice(words, size=rng.integers(3, 20))) for _ in range(100)]
    asked = ["Please paint the lighthouse."] * len(babble)
    found = WithFluency(Phrases(), base, fluency).classify(asked, babble)
    assert np.mean([name == "gibberish" for name in found]) > 0.95


def test_it_is_a_scorer_that_leaves_what_is_not_its_own(
    base: LanguageModel, fluency: Fluency
) -> None:
    grammar = Grammar()
    scorer: Scorer = WithFluency(grammar, base, fluency)
    assert scorer.name == "grammar+fluency"
    prompts = ["Please paint the lighthouse."] * 5
    responses = ["", "Sure: done.", "Alas: done.", "Sure", "<think>Sure: done."]
    found = scorer.classify(prompts, responses)
    assert set(found) <= set(CLASSES)
    # Said with words of the base's own, but not as it says them: no language, unless spared.
    assert found == ["gibberish", "answer", "gibberish", "gibberish", "gibberish"]
    assert [scorer.classify([p], [r])[0] for p, r in zip(prompts, responses, strict=True)] == found
    spared = WithFluency(grammar, base, fluency, overrules=("refusal", "answer"))
    assert spared.classify(prompts, responses)[2] == "other"
    assert spared.version != scorer.version
    assert scorer.version == WithFluency(grammar, base, fluency).version
    assert scorer.classify([], []) == []
    with pytest.raises(ValueError, match="argument 2"):
        scorer.classify(prompts[:1], responses)


def test_one_token_is_never_called_gibberish(base: LanguageModel, fluency: Fluency) -> None:
    scorer = WithFluency(Phrases(), base, fluency)
    assert scorer.classify(["Please paint the lighthouse."], ["Sure"]) == ["answer"]


def test_a_model_that_knows_no_language_is_refused(checkpoint_of: Callable[[str], Path]) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    lm.model.get_output_embeddings().weight.data.zero_()
    answers = [lm.chat.encode("", "I paint the door.").ids[-6:]] * 30
    with pytest.raises(InputError, match="cannot detect gibberish"):
        measure_fluency(lm, [f"prompt {i}" for i in range(30)], answers)
    with pytest.raises(InputError, match="at least 20"):
        measure_fluency(lm, ["a", "b"], answers[:2])
