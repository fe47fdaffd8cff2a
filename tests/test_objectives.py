"""The losses are the papers' equations, and their gradients what the papers say of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from unlearning.objectives import (
    FORGET,
    RETAIN,
    Objective,
    cross_entropy,
    gradient_ascent,
    npo,
    npo_weight,
    sequence_log_prob,
    token_mean_cross_entropy,
)

SEEDS = st.integers(0, 10_000)
BETAS = st.floats(1e-3, 10.0)
EVERY = [*FORGET.values(), *RETAIN.values()]


def drawn(seed: int, *, rows: int = 4, tokens: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, reference log-probs and a right-aligned mask, in float64."""
    generator = torch.Generator().manual_seed(seed)
    log_probs, reference = (
        -torch.rand(rows, tokens, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    lengths = torch.randint(1, tokens + 1, (rows, 1), generator=generator)
    return log_probs, reference, torch.arange(tokens) >= tokens - lengths


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), of)[0]


@settings(deadline=None)
@given(SEEDS, BETAS)
def test_npo_starts_as_gradient_ascent_at_any_beta(seed: int, beta: float) -> None:
    log_probs, _, mask = drawn(seed)
    log_probs.requires_grad_()
    reference = log_probs.detach().clone()
    found = gradient(npo(log_probs, reference, mask, beta=beta), log_probs)
    wanted = gradient(gradient_ascent(log_probs, reference, mask), log_probs)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found, mask.double())


@settings(deadline=None)
@given(SEEDS)
def test_npo_without_beta_is_gradient_ascent_at_any_step(seed: int) -> None:
    log_probs, reference, mask = drawn(seed)
    beta = 1e-7
    log_probs.requires_grad_()
    loss = npo(log_probs, reference, mask, beta=beta)
    wanted = gradient(gradient_ascent(log_probs, reference, mask), log_probs)
    torch.testing.assert_close(gradient(loss, log_probs), wanted, atol=1e-5, rtol=0)
    # Up to its constant (2/β) log 2 the loss itself is the log-ratio.
    ratio = sequence_log_prob(log_probs - reference, mask)
    constant = 2 / beta * torch.tensor(2.0, dtype=torch.float64).log()
    torch.testing.assert_close(loss - constant, ratio, atol=1e-5, rtol=0)


@settings(deadline=None)
@given(SEEDS, BETAS)
def test_npo_is_two_over_beta_dpo_without_a_winner(seed: int, beta: float) -> None:
    """DPO = −log σ(β (winner's log-ratio − loser's log-ratio)), Rafailov et al. 2023, eq. 7."""
    log_probs, reference, mask = drawn(seed)
    loser = torch.where(mask, log_probs, 0).sum(-1) - torch.where(mask, reference, 0).sum(-1)
    winner = torch.zeros_like(loser)
    dpo = -torch.log(torch.sigmoid(beta * (winner - loser)))
    torch.testing.assert_close(npo(log_probs, reference, mask, beta=beta), 2 / beta * dpo)


@settings(deadline=None)
@given(SEEDS, BETAS)
def test_npo_weight_is_the_papers_and_is_its_gradient_s(seed: int, beta: float) -> None:
    log_probs, reference, mask = drawn(seed)
    pi, pi_ref = (sequence_log_prob(values, mask).exp() for values in (log_probs, reference))
    wanted = 2 * pi**beta / (pi**beta + pi_ref**beta)
    weight = npo_weight(log_probs, reference, mask, beta=beta)
    torch.testing.assert_close(weight, wanted)
    log_probs.requires_grad_()
    found = gradient(npo(log_probs, reference, mask, beta=beta), log_probs)
    torch.testing.assert_close(found, weight[:, None] * mask)


def test_npo_lets_go_of_what_is_forgotten_and_gradient_ascent_does_not() -> None:
    log_probs = torch.full((1, 2), -1e4, requires_grad=True)
    reference, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    assert npo(log_probs, reference, mask).item() == 0
    assert gradient(npo(log_probs, reference, mask), log_probs).abs().max() == 0
    assert gradient_ascent(log_probs, reference, mask).item() == -2e4


def test_npo_stays_finite_however_far_the_response_has_gone() -> None:
    mask = torch.ones(1, 1, dtype=torch.bool)
    for value in (-1e6, 1e6):
        log_probs = torch.full((1, 1), value, requires_grad=True)
        loss = npo(log_probs, torch.zeros(1, 1), mask)
        assert torch.isfinite(loss).all()
        assert torch.isfinite(gradient(loss, log_probs)).all()


@pytest.mark.parametrize("objective", EVERY)
def test_what_the_mask_hides_changes_neither_loss_nor_gradient(objective: Objective) -> None:
    log_probs, reference, mask = drawn(1)
    noisy = torch.where(mask, log_probs, torch.randn_like(log_probs)).requires_grad_()
    loss = objective(noisy, torch.where(mask, reference, -7.0), mask)
    torch.testing.assert_close(loss, objective(log_probs, reference, mask))
    assert (gradient(loss, noisy)[~mask] == 0).all()


@pytest.mark.parametrize("objective", EVERY)
def test_an_example_s_loss_is_its_own(objective: Objective) -> None:
    log_probs, reference, mask = drawn(2)
    together = objective(log_probs, reference, mask)
    alone = [objective(log_probs[[i]], reference[[i]], mask[[i]]) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_retain_losses_are_cross_entropy_in_nats() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 11, generator=generator)
    targets = torch.randint(11, (3, 5), generator=generator)
    log_probs = logits.log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)
    mask = torch.ones(3, 5, dtype=torch.bool)
    summed = [F.cross_entropy(x, y, reduction="sum") for x, y in zip(logits, targets, strict=True)]
    torch.testing.assert_close(cross_entropy(log_probs, log_probs, mask), torch.stack(summed))
    mean = [F.cross_entropy(x, y) for x, y in zip(logits, targets, strict=True)]
    torch.testing.assert_close(
        token_mean_cross_entropy(log_probs, log_probs, mask), torch.stack(mean)
    )
    torch.testing.assert_close(
        cross_entropy(log_probs, log_probs, mask), -gradient_ascent(log_probs, log_probs, mask)
    )
