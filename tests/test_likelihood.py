"""log π(y|x) equals the plain way of getting it, whatever the batch looks like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from interp.model import LanguageModel, Tokens
from tests.checkpoints import WIDTH
from unlearning.losses import (
    likelihood,
    reference_log_probs,
    response_log_probs,
    response_width,
    token_log_probs,
)

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


# Row by row, in value and gradient


def drawn(seed: int, *, rows: int = 5, tokens: int = 6, vocabulary: int = 9) -> list[Tensor]:
    """Logits in float64, targets, and a right-aligned mask some of whose rows are empty."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, tokens, vocabulary, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocabulary, (rows, tokens), generator=generator)
    lengths = torch.randint(0, tokens + 1, (rows, 1), generator=generator)
    lengths[0] = 0
    return [logits, targets, torch.arange(tokens) >= tokens - lengths]


@pytest.fixture(params=[1, 100, 2**23], ids=["a row at a time", "two rows", "all rows"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(likelihood, "CHUNK", request.param)
    return int(request.param)


@pytest.mark.parametrize("seed", range(10))
def test_equals_torch_s_cross_entropy_in_value_and_gradient(seed: int, chunk: int) -> None:
    logits, targets, mask = drawn(seed)
    outer = torch.randn(mask.shape, generator=torch.Generator().manual_seed(seed + 1)).double()
    found, wanted = [], []
    for kept in (found, wanted):
        leaf = logits.clone().requires_grad_()
        if kept is found:
            values = token_log_probs(leaf, targets, mask)
        else:
            labels = torch.where(mask, targets, -100)
            values = -F.cross_entropy(leaf.transpose(1, 2), labels, reduction="none")
        kept += [values.detach(), *torch.autograd.grad((values * outer).sum(), leaf)]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert (found[0][~mask] == 0).all() and (found[1][~mask] == 0).all()


@given(st.integers(0, 10_000), st.sampled_from([1, 20, 54, 108, 10**6]))
def test_chunks_change_no_bit(seed: int, size: int) -> None:
    logits, targets, mask = (x.float() if x.is_floating_point() else x for x in drawn(seed))
    whole, before = token_log_probs(logits, targets, mask), likelihood.CHUNK
    try:
        likelihood.CHUNK = size
        assert torch.equal(token_log_probs(logits, targets, mask), whole)
    finally:
        likelihood.CHUNK = before


def test_without_a_response_there_is_neither_a_value_nor_a_gradient(chunk: int) -> None:
    logits, targets, mask = drawn(0)
    logits.requires_grad_()
    values = token_log_probs(logits, targets, torch.zeros_like(mask))
    assert (values == 0).all()
    assert (torch.autograd.grad(values.sum(), logits)[0] == 0).all()


@pytest.mark.parametrize("hidden", [float("inf"), float("-inf"), float("nan")])
def test_logits_outside_the_mask_are_not_looked_at(hidden: float, chunk: int) -> None:
    logits, targets, mask = drawn(1)
    dirty = torch.where(mask[..., None], logits, hidden).requires_grad_()
    values = token_log_probs(dirty, targets, mask)
    assert torch.equal(values, token_log_probs(logits, targets, mask))
    (gradient,) = torch.autograd.grad(values.sum(), dirty)
    assert (gradient[~mask] == 0).all() and torch.isfinite(gradient).all()


def test_what_autograd_holds_is_the_logits_as_they_came() -> None:
    """Neither a float32 copy of the logits nor a softmax of their size is kept for backward."""
    logits, targets, mask = drawn(2, rows=8, tokens=16, vocabulary=512)
    logits = logits.bfloat16().requires_grad_()
    saved: list[Tensor] = []

    def note(values: Tensor) -> Tensor:
        saved.append(values)
        return values

    with torch.autograd.graph.saved_tensors_hooks(note, lambda values: values):
        token_log_probs(logits, targets, mask)
    large = [one for one in saved if one.numel() >= logits.numel()]
    assert [(one.dtype, one.data_ptr()) for one in large] == [(torch.bfloat16, logits.data_ptr())]


# Families that scale or cap their logits, and some that do not

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320}
SCALED = {
    "cohere": ("CohereConfig", {**WIDTH, **HEADS, "logit_scale": 0.3}),
    "granite": ("GraniteConfig", {**WIDTH, **HEADS, "logits_scaling": 8.0,
                                  "residual_multiplier": 0.4, "embedding_multiplier": 3.0}),
}  # fmt: skip
PARITY = ("gemma2", "qwen2", "mistral", "llama", "gpt2", *SCALED)


def built(family: str, checkpoint_of: Callable[[str], Path]) -> torch.nn.Module:
    """A small random model of ``family`` with a loud head; in float64 where that is possible."""
    torch.manual_seed(0)
    if family in SCALED:
        name, options = SCALED[family]
        config = getattr(transformers, name)(**options, pad_token_id=0)
        model = transformers.AutoModelForCausalLM.from_config(config)
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint_of(family))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(10)
    # Gemma 2 masks with its dtype's minimum before a softmax in float32: float64's is -inf there.
    return (model if family == "gemma2" else model.double()).eval()


@pytest.mark.parametrize("family", PARITY)
def test_parity_with_all_logits_in_value_and_gradient(
    family: str, checkpoint_of: Callable[[str], Path]
) -> None:
    model = built(family, checkpoint_of)
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(1, 300, (n,), generator=generator) for n in (9, 17, 12)]
    responses = (3, 8, 1)
    width = max(map(len, rows))
    batch = {name: torch.zeros(3, width, dtype=torch.long)
             for name in ("input_ids", "attention_mask", "position_ids")}  # fmt: skip
    response_mask = torch.zeros(3, width, dtype=torch.bool)
    for i, (row, length) in enumerate(zip(rows, responses, strict=True)):
        batch["input_ids"][i, -len(row) :] = row
        batch["attention_mask"][i, -len(row) :] = 1
        batch["position_ids"][i, -len(row) :] = torch.arange(len(row))
        response_mask[i, -length:] = True
    found, mask = response_log_probs(model, batch, response_mask)
    assert mask.sum(dim=1).tolist() == list(responses)
    found.sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    total = torch.zeros((), dtype=found.dtype)
    for i, (row, length) in enumerate(zip(rows, responses, strict=True)):
        logits = model(input_ids=row[None]).logits[0, -length - 1 : -1]
        wanted = -F.cross_entropy(logits, row[-length:], reduction="none")
        torch.testing.assert_close(
            found[i, -length:].detach(), wanted.detach(), rtol=1e-6, atol=1e-5
        )
        total = total + wanted.sum()
    total.backward()
    assert len(gradients) > 20
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            difference = (gradients[name] - parameter.grad).norm()
            # Rotary angles and norms are in float32 in some of these models.
            assert difference <= 1e-5 * parameter.grad.norm() + 1e-9, name


@pytest.mark.parametrize("family", [*SCALED, "gemma2"])
def test_trunk_and_head_by_hand_would_not_be_the_model(
    family: str, checkpoint_of: Callable[[str], Path]
) -> None:
    """The test above can fail: these families do something between the head and the logits."""
    model = built(family, checkpoint_of)
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        by_hand = model.get_output_embeddings()(model.base_model(input_ids=ids).last_hidden_state)
        difference = (by_hand - model(input_ids=ids).logits).abs().max()
    assert difference > 0.1


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any))
def test_the_head_runs_on_the_longest_response_and_no_further(lengths: list[int]) -> None:
    mask = torch.arange(10) >= 10 - torch.tensor(lengths)[:, None]
    assert response_width(mask) == max(lengths)
