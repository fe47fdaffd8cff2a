"""Nats per response token: the plain computation, whatever the batch; and what is not counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.model import LanguageModel
from unlearning.generation import Answer, AnswerLog, answers_key, generate
from unlearning.losses import likelihood
from unlearning.utility import own_token_nll, response_nll, response_token_nll

ROWS = (
    ("Why?", "No."),
    ("Tell me how to bake bread without yeast, step by step, for four people. " * 3, "I cannot."),
    ("Which tools does a carpenter need?", "A saw, a plane, a hammer and a sharp pencil."),
    ("Say nothing.", ""),
    ("Explain the meaning of consent.", "A"),
)


@torch.no_grad()
def plain(lm: LanguageModel, prompt: str, response: str) -> np.ndarray:
    """One row, no padding, all the logits; without the end of the turn."""
    tokens = lm.chat.encode(prompt, response)
    span = tokens.spans["response"]
    stop = span.stop - len(lm.chat.end_of_turn)
    logits = lm.model(input_ids=torch.tensor([tokens.ids])).logits[0].double()
    targets = torch.tensor(tokens.ids[span.start : stop])
    log_probs = logits.log_softmax(-1)[span.start - 1 : stop - 1].gather(1, targets[:, None])
    return -log_probs[:, 0].numpy()


def test_equals_the_plain_computation_on_every_family(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    found = response_token_nll(lm, ROWS, batch_size=3)
    means = response_nll(lm, ROWS, batch_size=2)
    assert means.dtype == np.float64
    for (prompt, response), tokens, mean in zip(ROWS, found, means, strict=True):
        if not response:
            assert tokens.size == 0 and np.isnan(mean)
            continue
        wanted = plain(lm, prompt, response)
        np.testing.assert_allclose(tokens, wanted, atol=2e-5)
        np.testing.assert_allclose(mean, wanted.mean(), atol=2e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_generation_records_what_a_second_reading_finds(
    checkpoint: Path, tmp_path: Path, temperature: float
) -> None:
    """Under the model as it is, whatever the temperature; also from a log."""
    lm = LanguageModel.load(checkpoint)
    prompts = [prompt for prompt, _ in ROWS]
    settings = {"max_new_tokens": 6, "temperature": temperature}
    log = AnswerLog(tmp_path / "answers.jsonl", answers_key(lm, **settings))
    answers = generate(lm, prompts, batch_size=3, log=log, **settings)
    again = AnswerLog(log.path, answers_key(lm, **settings))
    assert generate(lm, prompts, log=again, **settings) == answers
    wanted = response_token_nll(lm, [(p, a.ids) for p, a in zip(prompts, answers, strict=True)])
    kept = generate(lm, prompts, log=again, **settings)
    unknown = [Answer(a.ids, a.text, a.finished) if i % 2 else a for i, a in enumerate(kept)]
    for found in (own_token_nll(lm, prompts, kept), own_token_nll(lm, prompts, unknown)):
        for mine, read in zip(found, wanted, strict=True):
            np.testing.assert_allclose(mine, read, atol=5e-5)


def test_nothing_is_read_again_where_generation_recorded_it(
    checkpoint_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    answers = generate(lm, ["Why?", "Who?"], max_new_tokens=4)
    assert all(len(answer.nll or ()) == len(answer.ids) for answer in answers)
    forced = generate(lm, ["Why?"], max_new_tokens=4, opening=answers[0].ids[:1])
    assert forced[0].nll is None
    monkeypatch.setattr(lm.model, "forward", None)
    assert all(nll.size for nll in own_token_nll(lm, ["Why?", "Who?"], answers))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_neither_batches_nor_their_size_nor_the_order_matter(
    checkpoint_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    lm = LanguageModel.load(checkpoint_of("gemma2"))
    wanted = response_nll(lm, ROWS, batch_size=4)
    found = response_nll(lm, ROWS[::-1], batch_size=batch_size)[::-1]
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    # With room for no more than one row's logits at a time.
    monkeypatch.setattr(likelihood, "LARGEST_LOGITS", 1)
    np.testing.assert_allclose(response_nll(lm, ROWS), wanted, atol=2e-5)


def test_no_batch_holds_more_logits_than_there_is_room_for(
    checkpoint_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    room = 12 * lm.model.config.vocab_size
    monkeypatch.setattr(likelihood, "LARGEST_LOGITS", room)
    held = []
    logits = type(lm).logits
    monkeypatch.setattr(
        type(lm), "logits", lambda *a, **k: held.append(logits(*a, **k)) or held[-1]
    )
    response_nll(lm, [("Why?", "No.")] * 20)
    assert len(held) > 1
    assert all(found.numel() <= room for found in held)


def test_text_and_its_ids_are_equally_surprising_ended_or_not(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    prompt, response = ROWS[2]
    tokens = lm.chat.encode(prompt, response)
    ids = tokens.ids[tokens.spans["response"]]
    cut = ids[: -len(lm.chat.end_of_turn)]
    found = response_nll(lm, [(prompt, response), (prompt, ids), (prompt, list(cut))])
    np.testing.assert_allclose(found, found[0], atol=2e-5)


def test_nothing_said_has_no_value_and_nothing_asked_gives_nothing(
    checkpoint_of: Callable[[str], Path],
) -> None:
    for family in ("mistral", "qwen2"):  # with a space before the response, and without
        lm = LanguageModel.load(checkpoint_of(family))
        done: list[int] = []
        rows = [("a", ""), ("a", " \n"), ("a", ()), ("a", lm.chat.end_of_turn)]
        assert np.isnan(response_nll(lm, rows, progress=done.append)).all()
        assert sum(done) == len(rows)
        assert response_nll(lm, []).shape == (0,)


def test_a_uniform_model_is_surprised_by_the_logarithm_of_its_vocabulary(
    checkpoint_of: Callable[[str], Path],
) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    lm.model.get_output_embeddings().weight.data.zero_()
    found = response_nll(lm, ROWS[:3])
    np.testing.assert_allclose(found, np.log(lm.model.config.vocab_size), rtol=1e-6)


def test_training_mode_is_left_as_it_was(checkpoint_of: Callable[[str], Path]) -> None:
    lm = LanguageModel.load(checkpoint_of("gpt2"))
    wanted = response_nll(lm, ROWS[:3])
    lm.model.train()
    np.testing.assert_array_equal(response_nll(lm, ROWS[:3]), wanted)  # dropout would show
    assert lm.model.training
