"""Answers are the model's own greedy tokens, alone or in a batch, cut at the end of the turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch

from interp.errors import InputError, MachineError
from interp.interventions import ablate
from interp.model import LanguageModel, Point, shared_beginning, writing
from tests.checkpoints import LAYERS
from tests.more_families import GROUPED, random_model
from unlearning.generation import Answer, AnswerLog, answers_key, generate, stop_tokens
from unlearning.refusal import ResponsePrefixes
from unlearning.scoring import CLASSES, Evaluation, Phrases
from unlearning.utility import response_nll

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


BEGUN = "Tell me in a few plain words how a carpenter can make "
SHARED = (f"{BEGUN}a chair.", f"{BEGUN}a long table out of old boards.", BEGUN)


def test_what_all_prompts_begin_with_is_computed_once_and_changes_no_answer(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = LanguageModel.load(checkpoint)
    rows = [lm.chat.encode(prompt) for prompt in SHARED]
    assert len(shared_beginning(lm, rows)) > len(BEGUN.split())
    for answer, prompt in zip(generate(lm, SHARED, max_new_tokens=LENGTH), SHARED, strict=True):
        assert answer.ids == greedy(lm, prompt)
    assert lm.found_out["shortcuts"]["generates from a shared beginning"][0]
    seen = []
    forward = lm.model.forward

    def counted(*given: Any, **named: Any) -> Any:
        ids = named["input_ids"] if "input_ids" in named else given[0]
        seen.append(tuple(ids.shape))
        return forward(*given, **named)

    monkeypatch.setattr(lm.model, "forward", counted)
    generate(lm, SHARED, max_new_tokens=2)
    (one, width), (count, rest), _ = seen
    assert (one, count) == (1, 3) and width + rest == max(map(len, rows))


def test_a_cache_that_forgets_its_beginning_is_not_used(
    checkpoint_of: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    monkeypatch.setattr(
        "transformers.cache_utils.DynamicCache.batch_repeat_interleave",
        lambda self, repeats: [layer.keys.zero_() and None for layer in self.layers] and None,
    )
    answers = generate(lm, SHARED, max_new_tokens=LENGTH)
    assert [answer.ids for answer in answers] == [greedy(lm, prompt) for prompt in SHARED]
    assert not lm.found_out["shortcuts"]["generates from a shared beginning"][0]


def test_a_window_that_a_cache_gets_wrong_is_noticed_in_longer_prompts() -> None:
    """Even where the logits are almost equal, and only where a prompt is longer than the window."""
    settings = {**GROUPED, "sliding_window": 32, "layer_types": ["sliding_attention"] * LAYERS}
    lm = random_model("Cohere2Config", settings)
    for prompts, right in ((["a b c d e f g h i", "a b c d e f g h"], True), (SHARED, False)):
        answers = generate(lm, prompts, max_new_tokens=LENGTH)
        assert [answer.ids for answer in answers] == [greedy(lm, prompt) for prompt in prompts]
        assert lm.found_out["shortcuts"]["generates from a shared beginning"][0] == right


def test_a_window_that_answers_leave_is_noticed(checkpoint_of: Checkpoints) -> None:
    """Prompts fit into the window, and prompts with their answers do not."""
    lm = LanguageModel.load(checkpoint_of("mistral"), dtype=torch.float32)
    longest = max(len(lm.chat.encode(prompt)) for prompt in SHARED)
    assert longest + LENGTH < lm.model.config.sliding_window < longest + 40
    for length in (LENGTH, 40):
        together = generate(lm, SHARED, max_new_tokens=length)
        alone = [generate(lm, [prompt], max_new_tokens=length)[0] for prompt in SHARED]
        assert [answer.ids for answer in together] == [answer.ids for answer in alone]


def test_an_edit_reaches_what_prompts_begin_with(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    with ablate(lm, torch.ones(lm.d_model)):
        assert not shared_beginning(lm, [lm.chat.encode(prompt) for prompt in SHARED])


def test_an_answer_ends_with_the_end_of_its_turn(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("mistral"))
    first = [ids[1] for ids in (greedy(lm, prompt) for prompt in PROMPTS)]
    # Whatever the model says second is made the end of the turn.
    lm.model.generation_config.eos_token_id = first  # type: ignore[union-attr]
    for answer in generate(lm, PROMPTS, max_new_tokens=LENGTH):
        assert answer.finished and len(answer.ids) <= 2
        assert answer.ids[-1] in first


def test_an_answer_without_a_token_is_refused(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    for length in (0, -1):
        with pytest.raises(InputError, match=f"max_new_tokens is {length}; expected at least 1"):
            generate(lm, PROMPTS, max_new_tokens=length)


def test_generating_leaves_the_random_state_alone(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    before = torch.random.get_rng_state()
    generate(lm, PROMPTS, max_new_tokens=2, temperature=1.0, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_checkpoint_s_decoding_settings_do_not_count(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    expected = [greedy(lm, prompt) for prompt in PROMPTS]
    config: Any = lm.model.generation_config
    config.do_sample, config.temperature, config.top_k = True, 0.7, 5
    config.repetition_penalty, config.no_repeat_ngram_size = 5.0, 1
    config.suppress_tokens = [ids[0] for ids in expected]
    assert [answer.ids for answer in generate(lm, PROMPTS, max_new_tokens=LENGTH)] == expected


def test_a_model_in_training_answers_without_dropout_and_goes_on_in_training(
    checkpoint_of: Checkpoints,
) -> None:
    lm = LanguageModel.load(checkpoint_of("gpt2"))  # the one that has dropout
    expected = generate(lm, PROMPTS, max_new_tokens=LENGTH)
    lm.model.train()
    assert generate(lm, PROMPTS, max_new_tokens=LENGTH) == expected
    assert lm.model.training
    with (
        mock.patch.object(lm.model, "generate", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        generate(lm, PROMPTS)
    assert lm.model.training


# Memory


class Crowded:
    """A model's generate that holds only so many rows at a time, and notes what it was asked."""

    def __init__(self, lm: LanguageModel, rows: int) -> None:
        self.generate, self.rows = lm.model.generate, rows  # type: ignore[attr-defined]
        self.tried: list[int] = []

    def __call__(self, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        self.tried.append(len(input_ids))
        if len(input_ids) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return self.generate(input_ids=input_ids, **options)


MANY = [f"{prompt} {i}" for i in range(4) for prompt in PROMPTS]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_backing_off_changes_no_answer(temperature: float, checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("mistral"))
    options: dict[str, Any] = {"max_new_tokens": LENGTH, "temperature": temperature}
    expected = generate(lm, MANY, **options)
    counts: list[int] = []
    with mock.patch.object(lm.model, "generate", Crowded(lm, 3)) as crowded:
        assert generate(lm, MANY, progress=counts.append, **options) == expected
    assert crowded.tried == [12, 6, 3, 3, 3, 3]
    assert sum(counts) == len(MANY)


def test_a_prompt_that_does_not_fit_alone_is_one_clear_error(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    longest = max(len(lm.chat.encode(prompt)) for prompt in PROMPTS)
    with (
        mock.patch.object(lm.model, "generate", Crowded(lm, 0)),
        pytest.raises(MachineError, match=f"a single prompt of {longest} tokens does not fit"),
    ):
        generate(lm, PROMPTS)


# Sampling


def test_a_sample_depends_on_nothing_that_stands_beside_it(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("gemma2"))
    options: dict[str, Any] = {"max_new_tokens": LENGTH, "temperature": 1.0, "seed": 3}
    together = generate(lm, MANY, **options)
    assert generate(lm, MANY, batch_size=1, **options) == together
    assert generate(lm, MANY[::-1], batch_size=5, **options) == together[::-1]
    assert generate(lm, MANY[4:5], **options) == together[4:5]
    twice = generate(lm, [*MANY, *MANY], **options)
    assert twice[: len(MANY)] == together
    assert all(a != b for a, b in zip(together, twice[len(MANY) :], strict=True))


@torch.no_grad()
def test_samples_follow_the_model_s_own_distribution(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    ids = torch.tensor([lm.chat.encode("Why?").ids])
    likely = (lm.model(input_ids=ids).logits[0, -1].double() / 0.1).softmax(-1).numpy()
    answers = generate(lm, ["Why?"] * 600, max_new_tokens=1, temperature=0.1, batch_size=300)
    counts = Counter(answer.ids[0] for answer in answers)
    for token in np.argsort(likely)[-5:]:
        deviation = np.sqrt(likely[token] * (1 - likely[token]) / 600)
        assert abs(counts[int(token)] / 600 - likely[token]) < 4 * deviation


# Resuming


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_interrupted_run_generates_what_is_missing(
    temperature: float, tmp_path: Path, checkpoint_of: Checkpoints
) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    settings: dict[str, Any] = {"max_new_tokens": LENGTH, "temperature": temperature}
    path, key = tmp_path / "answers.jsonl", answers_key(lm, **settings)
    expected = generate(lm, MANY, **settings)
    logged = {**settings, "batch_size": 5}

    class Killed(Crowded):
        def __call__(self, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
            if self.tried:
                raise KeyboardInterrupt
            return super().__call__(input_ids, **options)

    with mock.patch.object(lm.model, "generate", Killed(lm, 64)), pytest.raises(KeyboardInterrupt):
        generate(lm, MANY, log=AnswerLog(path, key), **logged)
    assert len(AnswerLog(path, key)) == 5
    with mock.patch.object(lm.model, "generate", Crowded(lm, 64)) as second:
        assert generate(lm, MANY, log=AnswerLog(path, key), **logged) == expected
    assert sum(second.tried) == len(MANY) - 5
    with mock.patch.object(lm.model, "generate", Crowded(lm, 64)) as third:
        assert generate(lm, MANY, log=AnswerLog(path, key), **logged) == expected
    assert third.tried == []


def test_prompts_that_are_the_same_are_answered_once(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    counts: list[int] = []
    with mock.patch.object(lm.model, "generate", Crowded(lm, 64)) as model:
        answers = generate(lm, [*PROMPTS, *PROMPTS], max_new_tokens=2, progress=counts.append)
    assert model.tried[-1:] == [3] and sum(model.tried[:-1]) <= 4 and sum(counts) == 6
    assert answers[:3] == answers[3:]


def test_the_key_is_of_all_that_an_answer_depends_on(checkpoint_of: Checkpoints) -> None:
    folder = checkpoint_of("llama")
    lm = LanguageModel.load(folder)
    keys = [
        answers_key(lm),
        answers_key(lm, max_new_tokens=49),
        answers_key(lm, temperature=0.5),
        answers_key(lm, temperature=0.5, seed=1),
        answers_key(LanguageModel.load(folder, system="Be brief.")),
        answers_key(LanguageModel.load(folder, response_prefix="Well,")),
    ]
    changed = LanguageModel.load(folder)
    with torch.no_grad():
        next(changed.model.parameters())[0, 0] += 1
    keys.append(answers_key(changed))
    other = LanguageModel.load(folder)
    other.tokenizer.add_tokens([PROMPTS[0][:4]])  # the same text in other tokens
    keys.append(answers_key(other))
    stretched = LanguageModel.load(folder)  # the same weights compute something else
    stretched.model.config.rope_parameters = {"rope_type": "default", "rope_theta": 123.0}
    keys.append(answers_key(stretched))
    assert len(set(keys)) == len(keys)
    assert answers_key(lm, seed=1) == keys[0]  # nothing is drawn at temperature 0
    assert answers_key(LanguageModel.load(folder), fingerprint=lm.fingerprint()) == keys[0]


def test_answers_under_an_edit_are_not_kept_as_the_model_s_own(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    log = AnswerLog(tmp_path / "answers.jsonl", answers_key(lm, max_new_tokens=LENGTH))
    with writing(Point(lm.layers[0]), lambda hidden: hidden.flip(-1)):
        edited = generate(lm, PROMPTS, max_new_tokens=LENGTH, log=log)
    own = generate(lm, PROMPTS, max_new_tokens=LENGTH, log=log)
    assert own == generate(lm, PROMPTS, max_new_tokens=LENGTH) != edited
    with writing(Point(lm.layers[0]), lambda hidden: hidden.flip(-1)):
        assert generate(lm, PROMPTS, max_new_tokens=LENGTH, log=log) == edited


def test_a_whole_number_is_a_temperature_like_any_other(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("mistral"))
    for whole in (0, 2):
        one, other = (
            generate(lm, PROMPTS, max_new_tokens=LENGTH, temperature=t)
            for t in (whole, float(whole))
        )
        assert one == other
        assert answers_key(lm, temperature=whole) == answers_key(lm, temperature=float(whole))


# Scoring


def said(answers: list[Answer]) -> list[tuple[str, tuple[int, ...]]]:
    """The prompts with the answers' tokens."""
    return [(prompt, answer.ids) for prompt, answer in zip(PROMPTS, answers, strict=True)]


def test_another_model_s_answers_surprise_the_base_which_stays_as_it_is(
    checkpoint_of: Checkpoints,
) -> None:
    base, broken = (LanguageModel.load(checkpoint_of("llama")) for _ in range(2))
    with torch.no_grad():
        for weights in broken.model.parameters():
            weights.mul_(-1)
    prompts = pd.DataFrame({"id": [*"xyz"], "prompt": PROMPTS, "split": "test", "domain": "safety"})
    prompts = prompts.assign(label="harmful", kind=None)
    before = base.fingerprint()
    prefixes = ResponsePrefixes(((300,),), ((301,),))
    evaluation = Evaluation(base, prompts, prefixes, Phrases(), max_new_tokens=LENGTH)
    table, answers = evaluation.with_text(broken)
    assert list(table["nll"]) == pytest.approx(response_nll(base, said(answers)))
    assert table["nll"].mean() > response_nll(broken, said(answers)).mean()
    assert base.fingerprint() == before and not base.model.training


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_an_evaluation_has_a_row_a_prompt_in_their_order(
    family: str, checkpoint_of: Checkpoints
) -> None:
    lm = LanguageModel.load(checkpoint_of(family))
    prompts = pd.DataFrame(
        {"id": ["x", "y", "z"], "prompt": PROMPTS, "split": "test", "domain": "safety"},
        index=[5, 5, 1],
    ).assign(label="harmful", kind=None)
    evaluation = Evaluation(
        lm, prompts, ResponsePrefixes(((300,),), ((301,),)), Phrases(), max_new_tokens=3
    )
    masses = evaluation.masses(lm)
    assert list(masses["prompt_id"]) == ["x", "y", "z"]
    assert masses["class"].isna().all() and masses["refused"].isna().all()
    table, answers = evaluation.with_text(lm)
    assert len(answers) == 3 and set(table["class"]) <= set(CLASSES)
    assert list(table["refused"]) == [float(name == "refusal") for name in table["class"]]
    assert masses[["nll", "repetition"]].isna().all(axis=None)
    np.testing.assert_allclose(table["nll"], response_nll(lm, said(answers)), atol=1e-5)
    columns = ["p_R", "p_C", "p_O", "margin"]
    pd.testing.assert_frame_equal(table[columns], masses[columns])
    assert table[["p_R", "p_C", "p_O"]].sum(axis=1).to_numpy() == pytest.approx(1)
