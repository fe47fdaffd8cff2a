"""log π(y|x) equals the plain way of getting it, whatever the batch looks like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from interp.chat import Tokens
from interp.model import LanguageModel
from unlearning.likelihood import reference_log_probs, response_log_probs, token_log_probs

PAIRS = (
    ("Why?", "No."),
    ("Tell me how to bake bread without yeast, step by step, for four people. " * 3, "I cannot."),
    ("Which tools does a carpenter need?", "Sorry, but I will not list the tools that he needs."),
    ("Explain the meaning of consent.", "A"),
)


def encoded(lm: LanguageModel) -> list[Tokens]:
    return [lm.chat.encode(prompt, response) for prompt, response in PAIRS]


@torch.no_grad()
def plain(lm: LanguageModel, tokens: Tokens) -> Tensor:
    """One row, no padding, all the logits."""
    logits = lm.model(input_ids=torch.tensor([tokens.ids])).logits[0].double()
    span = tokens.spans["response"]
    targets = torch.tensor(tokens.ids[span])
    return logits.log_softmax(-1)[span.start - 1 : span.stop - 1].gather(1, targets[:, None])[:, 0]


def test_equals_the_log_softmax_of_all_logits(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    rows = encoded(lm)
    found = reference_log_probs(lm, rows)
    for values, tokens in zip(found, rows, strict=True):
        wanted = plain(lm, tokens)
        assert values.shape == wanted.shape
        torch.testing.assert_close(values.double(), wanted, atol=2e-5, rtol=0)


def test_the_soft_cap_is_part_of_the_likelihood(checkpoint_of: Callable[[str], Path]) -> None:
    """Gemma 2 caps its logits at ±30: with a loud head that decides the log-probs."""
    lm = LanguageModel.load(checkpoint_of("gemma2"))
    with torch.no_grad():
        lm.model.lm_head.weight.mul_(40)  # type: ignore[union-attr, operator]
    tokens = encoded(lm)[1]
    (found,) = reference_log_probs(lm, [tokens])
    torch.testing.assert_close(found.double(), plain(lm, tokens), atol=1e-4, rtol=0)
    # No log-prob can lie below the cap's range, 60 nats, and the size of the vocabulary.
    assert found.min() > -60 - torch.tensor(float(lm.model.config.vocab_size)).log()
    cap, lm.model.config.final_logit_softcapping = lm.model.config.final_logit_softcapping, None
    (without,) = reference_log_probs(lm, [tokens])
    lm.model.config.final_logit_softcapping = cap
    assert (without - found).abs().max() > 0.1


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_do_not_matter_nor_does_the_order(
    batch_size: int, checkpoint_of: Callable[[str], Path]
) -> None:
    lm = LanguageModel.load(checkpoint_of("mistral"))
    rows = encoded(lm)
    together = reference_log_probs(lm, rows)
    for found, wanted in zip(
        reference_log_probs(lm, rows[::-1], batch_size=batch_size)[::-1], together, strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)


def test_the_mask_marks_the_responses_and_nothing_else_counts(
    checkpoint_of: Callable[[str], Path],
) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    rows = encoded(lm)
    batch = lm.chat.pad(rows)
    values, mask = response_log_probs(lm.model, lm.inputs(batch), batch.response_mask)
    lengths = [len(row.ids[row.spans["response"]]) for row in rows]
    assert mask.sum(dim=1).tolist() == lengths
    assert mask.shape[1] == max(lengths)
    assert (values[~mask] == 0).all() and (values[mask] < 0).all()
    values.sum().backward()
    gradients = [p.grad for p in lm.model.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)


def test_rows_without_a_response_have_none(checkpoint_of: Callable[[str], Path]) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    rows = [lm.chat.encode("Why?"), lm.chat.encode("Why?", "No.")]
    batch = lm.chat.pad([rows[1]])
    with torch.no_grad():
        alone, _ = response_log_probs(lm.model, lm.inputs(batch), batch.response_mask)
    assert alone.shape[1] == len(rows[1]) - len(rows[0])


def test_reference_is_taken_without_dropout_and_leaves_the_mode(
    checkpoint_of: Callable[[str], Path],
) -> None:
    lm = LanguageModel.load(checkpoint_of("gpt2"))
    wanted = reference_log_probs(lm, encoded(lm))
    lm.model.train()
    found = reference_log_probs(lm, encoded(lm))
    assert lm.model.training
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b) and not a.requires_grad


def test_half_precision_logits_are_normalised_in_float32() -> None:
    logits = torch.randn(2, 3, 5000, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.arange(6).view(2, 3)
    wanted = logits.double().log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    found = token_log_probs(logits, targets, torch.ones_like(targets, dtype=torch.bool))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=0)
