"""What else a model lost: divergence from the base, and the likelihood of texts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.errors import InputError, ModelError
from interp.model import LanguageModel
from unlearning.utility import answer_logits, text_likelihood
from unlearning.utility.divergence import kl_divergence, kl_to_base

pytestmark = pytest.mark.filterwarnings("ignore:the tokenizer has no chat template")

PROMPTS = ["What is the time?", "Tell me something about the sea, and about ships too.", "Hello"]
ANSWERS = [(5, 6, 7, 8), (9,), (11, 12, 13, 14, 15, 16)]


@pytest.fixture(scope="module")
def mistral(checkpoint_of: Callable[[str], Path]) -> LanguageModel:
    return LanguageModel.load(checkpoint_of("mistral"))


@pytest.fixture(scope="module")
def uniform(mistral: LanguageModel) -> LanguageModel:
    """A model that finds every token equally likely, always."""
    model = copy.deepcopy(mistral.model)
    model.lm_head.weight.data.zero_()
    return replace(mistral, model=model)


# KL


def test_a_model_does_not_differ_from_itself(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    found = kl_to_base(lm, lm, PROMPTS, ANSWERS, positions=4)
    assert found.shape == (3, 4) and found.dtype == np.float64
    assert np.array_equal(np.isnan(found).sum(axis=1), [0, 3, 0])
    assert np.nanmax(np.abs(found)) == 0


def test_a_model_of_broken_weights_is_named(mistral: LanguageModel) -> None:
    model = copy.deepcopy(mistral.model)
    model.lm_head.weight.data[0, 0] = float("nan")
    broken = replace(mistral, model=model, name="broken")
    for pair in ((mistral, broken), (broken, mistral)):
        with pytest.raises(ModelError, match="broken gives NaN as logits: its weights hold NaN"):
            kl_to_base(*pair, PROMPTS, ANSWERS)


def test_against_a_uniform_model_it_is_what_entropy_lacks(
    mistral: LanguageModel, uniform: LanguageModel
) -> None:
    """KL(p ‖ uniform) = log V − H(p)."""
    found = kl_to_base(mistral, uniform, PROMPTS, ANSWERS, positions=6, batch_size=2)
    for row, prompt, answer in zip(found, PROMPTS, ANSWERS, strict=True):
        ids = mistral.chat.encode(prompt, answer).ids
        with torch.no_grad():
            logits = mistral.model(torch.tensor([ids])).logits[0].double()
        log_p = logits[-len(answer) - 1 : -1].log_softmax(dim=-1)
        entropy = -(log_p.exp() * log_p).sum(dim=-1)
        expected = np.log(logits.shape[-1]) - entropy.numpy()
        assert np.allclose(row[: len(answer)], expected, atol=1e-6)


def test_a_raised_logit_has_a_closed_form() -> None:
    """Uniform over V against one logit raised by d: log((V − 1 + e^d) / V) − d / V."""
    vocabulary, raised = 50, torch.tensor([0.5, 2.0, -3.0], dtype=torch.float64)
    base = torch.zeros(3, vocabulary)
    other = base.clone().double()
    other[:, 0] += raised
    expected = torch.log((vocabulary - 1 + raised.exp()) / vocabulary) - raised / vocabulary
    assert np.allclose(kl_divergence(base, other), expected.numpy(), atol=1e-12)


def test_tokens_that_are_ruled_out() -> None:
    ruled_out = torch.tensor([[0.0, 1.0, -torch.inf]])
    free = torch.tensor([[0.0, 1.0, 0.0]])
    # By both: as if there were no such token. By the base: finite. By the other only: infinite.
    assert kl_divergence(ruled_out, ruled_out) == 0
    assert kl_divergence(ruled_out, free) == pytest.approx(np.log((1 + np.e + 1) / (1 + np.e)))
    assert kl_divergence(free, ruled_out) == np.inf


def test_batches_and_later_positions_change_nothing(
    mistral: LanguageModel, uniform: LanguageModel
) -> None:
    whole = kl_to_base(mistral, uniform, PROMPTS, ANSWERS, positions=6)
    first = kl_to_base(mistral, uniform, PROMPTS, ANSWERS, positions=1, batch_size=1)
    assert np.allclose(whole[:, :1], first, atol=1e-6)


def test_logits_keep_the_model_s_own_format(mistral: LanguageModel) -> None:
    half = replace(mistral, model=copy.deepcopy(mistral.model).to(torch.bfloat16))
    logits = answer_logits(half, PROMPTS, ANSWERS, positions=2)
    assert [tuple(one.shape[:1]) for one in logits] == [(2,), (1,), (2,)]
    assert {one.dtype for one in logits} == {torch.bfloat16}


def test_different_vocabularies_have_no_divergence() -> None:
    with pytest.raises(InputError, match="different vocabularies"):
        kl_divergence(torch.zeros(1, 5), torch.zeros(1, 6))


# Texts

TEXTS = ["The sea is wide, and ships are small.", "x", "One more, of several words.\n" * 20]


def test_a_text_s_likelihood_is_the_sum_over_its_tokens(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    found = text_likelihood(lm, TEXTS)
    for text, nats, tokens, size in zip(TEXTS, found.nats, found.tokens, found.bytes, strict=True):
        ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            log_p = lm.model(ids).logits[0, :-1].double().log_softmax(dim=-1)
        expected = -log_p.gather(-1, ids[0, 1:, None]).sum()
        assert nats == pytest.approx(float(expected), abs=1e-3)
        assert tokens == ids.shape[1] - 1 and size == len(text.encode())


def test_perplexity_under_a_uniform_model_is_the_vocabulary(uniform: LanguageModel) -> None:
    found = text_likelihood(uniform, TEXTS)
    assert found.perplexity == pytest.approx(uniform.model.config.vocab_size)
    # Wherever the pieces are cut, every token but the very first is read exactly once.
    cut = text_likelihood(uniform, TEXTS, window=5)
    assert np.array_equal(cut.tokens, found.tokens) and np.allclose(cut.nats, found.nats)
    assert np.isnan(text_likelihood(uniform, []).perplexity)
