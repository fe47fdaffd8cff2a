"""The forget losses are the papers' equations, and their gradients what the papers say of them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from unlearning.losses import FORGET, npo_weight, sequence_log_ratio
from unlearning.losses.objectives import (
    dpo,
    fine_tuning,
    grad_diff,
    gradient_ascent,
    idk_dpo,
    npo,
    rmu,
    sequence_log_prob,
    sim_npo,
)
from unlearning.losses.retain import cross_entropy

SEEDS = st.integers(0, 10_000)
BETAS = st.floats(1e-3, 10.0)


def drawn(seed: int, *, rows: int = 4, tokens: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, reference log-probs and a right-aligned mask, in float64."""
    generator = torch.Generator().manual_seed(seed)
    log_probs, reference = (
        -torch.rand(rows, tokens, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    lengths = torch.randint(1, tokens + 1, (rows, 1), generator=generator)
    return log_probs, reference, torch.arange(tokens) >= tokens - lengths


def drawn_states(seed: int, *, rows: int = 3, tokens: int = 5, d_model: int = 7) -> list[Tensor]:
    """States, a right-aligned mask and a unit vector, in float64."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, tokens, d_model, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, tokens + 1, (rows, 1), generator=generator)
    control = torch.randn(d_model, generator=generator, dtype=torch.float64)
    return [states, torch.arange(tokens) >= tokens - lengths, control / control.norm()]


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), of)[0]


def total(row: Tensor, mask: Tensor) -> float:
    """Sum of a row where the mask is True, by plain addition."""
    return sum(float(value) for value, kept in zip(row, mask, strict=True) if kept)


# Negative preference optimisation


@given(SEEDS, BETAS)
def test_npo_starts_as_gradient_ascent_at_any_beta(seed: int, beta: float) -> None:
    log_probs, _, mask = drawn(seed)
    log_probs.requires_grad_()
    reference = log_probs.detach().clone()
    found = gradient(npo(log_probs, reference, mask, beta=beta), log_probs)
    wanted = gradient(gradient_ascent(log_probs, mask), log_probs)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found, mask.double())


@given(SEEDS)
def test_npo_without_beta_is_gradient_ascent_at_any_step(seed: int) -> None:
    log_probs, reference, mask = drawn(seed)
    beta = 1e-7
    log_probs.requires_grad_()
    loss = npo(log_probs, reference, mask, beta=beta)
    wanted = gradient(gradient_ascent(log_probs, mask), log_probs)
    torch.testing.assert_close(gradient(loss, log_probs), wanted, atol=1e-5, rtol=0)
    # Up to its constant (2/β) log 2 the loss itself is the log-ratio.
    ratio = sequence_log_ratio(log_probs, reference, mask)
    torch.testing.assert_close(loss - 2 / beta * math.log(2), ratio, atol=1e-5, rtol=0)


@given(SEEDS, BETAS)
def test_npo_is_two_over_beta_dpo_whose_winner_stands_still(seed: int, beta: float) -> None:
    log_probs, reference, mask = drawn(seed)
    winner, _, winner_mask = drawn(seed + 1, tokens=9)
    pair = dpo(log_probs, reference, mask, winner, winner.clone(), winner_mask, beta=beta)
    torch.testing.assert_close(npo(log_probs, reference, mask, beta=beta), 2 / beta * pair)


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


@given(SEEDS, BETAS, st.floats(1e-3, 1e6))
def test_npo_weight_lies_between_0_and_2(seed: int, beta: float, scale: float) -> None:
    log_probs, reference, mask = drawn(seed)
    for one, other in ((log_probs * scale, reference), (log_probs, reference * scale)):
        weight = npo_weight(one, other, mask, beta=beta)
        assert ((weight >= 0) & (weight <= 2)).all()
    assert (npo_weight(log_probs, log_probs.clone(), mask, beta=beta) == 1).all()


@given(SEEDS, BETAS)
def test_npo_is_its_equation(seed: int, beta: float) -> None:
    log_probs, reference, mask = drawn(seed)
    wanted = []
    for row, other, kept in zip(log_probs, reference, mask, strict=True):
        ratio = math.exp(total(row, kept) - total(other, kept))
        wanted.append(2 / beta * math.log(1 + ratio**beta))
    wanted = torch.tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(npo(log_probs, reference, mask, beta=beta), wanted)


def test_npo_lets_go_of_what_is_forgotten_and_gradient_ascent_does_not() -> None:
    log_probs = torch.full((1, 2), -1e4, requires_grad=True)
    reference, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    assert npo(log_probs, reference, mask).item() == 0
    assert gradient(npo(log_probs, reference, mask), log_probs).abs().max() == 0
    assert gradient_ascent(log_probs, mask).item() == -2e4


@pytest.mark.parametrize("value", [-1e6, 1e6])
def test_the_bounded_losses_stay_finite_however_far_the_response_has_gone(value: float) -> None:
    mask = torch.ones(1, 1, dtype=torch.bool)
    log_probs = torch.full((1, 1), value, requires_grad=True)
    still = torch.zeros(1, 1)
    losses = [
        npo(log_probs, still, mask),
        sim_npo(log_probs, mask),
        dpo(log_probs, still, mask, still, still, mask),
    ]
    for loss in losses:
        assert torch.isfinite(loss).all()
        assert (loss >= 0).all()
        assert torch.isfinite(gradient(loss, log_probs)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_equal_to_its_reference_has_a_log_ratio_of_exactly_0(dtype: torch.dtype) -> None:
    log_probs, _, mask = drawn(3, tokens=100)
    log_probs = (100 * log_probs).to(dtype)
    ratio = sequence_log_ratio(log_probs, log_probs.clone(), mask)
    assert ratio.dtype == torch.float32
    assert (ratio == 0).all()


def test_half_precision_is_summed_in_float32() -> None:
    # In bfloat16 a sum of ones stops growing at 256.
    ones = -torch.ones(1, 2000, dtype=torch.bfloat16)
    mask = torch.ones(1, 2000, dtype=torch.bool)
    assert sequence_log_prob(ones, mask).item() == -2000


# Gradient ascent, GradDiff, fine-tuning


@given(SEEDS)
def test_ascent_and_its_relatives_are_sums_of_log_probs(seed: int) -> None:
    log_probs, _, mask = drawn(seed)
    wanted = [total(row, kept) for row, kept in zip(log_probs, mask, strict=True)]
    wanted = torch.tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(gradient_ascent(log_probs, mask), wanted)
    torch.testing.assert_close(grad_diff(log_probs, mask), wanted)
    torch.testing.assert_close(fine_tuning(log_probs, mask), -wanted)
    torch.testing.assert_close(fine_tuning(log_probs, mask), cross_entropy(log_probs, mask))


def test_only_grad_diff_requires_a_retain_term() -> None:
    built_in = [one for one in FORGET.values() if one.loss.__module__ == npo.__module__]
    assert [one.name for one in built_in if one.requires_retain] == ["grad_diff"]


# SimNPO


@given(SEEDS, BETAS, st.floats(-2, 2))
def test_sim_npo_is_its_equation(seed: int, beta: float, delta: float) -> None:
    log_probs, _, mask = drawn(seed)
    wanted = []
    for row, kept in zip(log_probs, mask, strict=True):
        gamma = beta * delta
        inner = -beta / int(kept.sum()) * total(row, kept) - gamma
        wanted.append(-2 / beta * math.log(1 / (1 + math.exp(-inner))))
    found = sim_npo(log_probs, mask, beta=beta, delta=delta)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
    assert (found <= 2 / beta * math.log(1 + math.exp(beta * delta)) + 1e-9).all()


@given(SEEDS, BETAS, st.integers(2, 5))
def test_sim_npo_does_not_see_length(seed: int, beta: float, times: int) -> None:
    log_probs, _, mask = drawn(seed)
    longer, longer_mask = (values.repeat(1, times) for values in (log_probs, mask))
    torch.testing.assert_close(
        sim_npo(longer, longer_mask, beta=beta), sim_npo(log_probs, mask, beta=beta)
    )
    assert (gradient_ascent(longer, longer_mask) < gradient_ascent(log_probs, mask)).all()


@given(SEEDS, BETAS, st.floats(-2, 2))
def test_sim_npo_weight_is_the_papers_and_shared_by_the_tokens(
    seed: int, beta: float, delta: float
) -> None:
    log_probs, _, mask = drawn(seed)
    log_probs.requires_grad_()
    length = mask.sum(-1)
    root = (sequence_log_prob(log_probs, mask) / length).exp() ** beta
    gamma = math.exp(-beta * delta)
    wanted = (2 * root / (root + gamma) / length)[:, None] * mask
    found = gradient(sim_npo(log_probs, mask, beta=beta, delta=delta), log_probs)
    torch.testing.assert_close(found, wanted.detach())


def test_npo_with_a_uniform_reference_is_sim_npo_up_to_length() -> None:
    """One token and a reference of log-prob −δ: the same loss."""
    log_probs, _, _ = drawn(5, tokens=1)
    mask = torch.ones_like(log_probs, dtype=torch.bool)
    reference = torch.full_like(log_probs, -0.7)
    torch.testing.assert_close(
        sim_npo(log_probs, mask, beta=2.0, delta=0.7), npo(log_probs, reference, mask, beta=2.0)
    )


# Direct preference optimisation


@given(SEEDS, BETAS)
def test_dpo_is_its_equation(seed: int, beta: float) -> None:
    loser, loser_reference, loser_mask = drawn(seed)
    winner, winner_reference, winner_mask = drawn(seed + 1, tokens=4)
    pair = loser, loser_reference, loser_mask, winner, winner_reference, winner_mask
    wanted = []
    for i in range(len(loser)):
        gain = total(winner[i], winner_mask[i]) - total(winner_reference[i], winner_mask[i])
        lost = total(loser[i], loser_mask[i]) - total(loser_reference[i], loser_mask[i])
        wanted.append(math.log(1 + math.exp(-beta * (gain - lost))))
    wanted = torch.tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(dpo(*pair, beta=beta), wanted)
    torch.testing.assert_close(idk_dpo(*pair, beta=beta), wanted)


@given(SEEDS, BETAS)
def test_swapping_the_pair_changes_dpo_by_the_margin(seed: int, beta: float) -> None:
    """softplus(−z) − softplus(z) = −z, with z = β (winner's − loser's log-ratio)."""
    loser, winner = drawn(seed), drawn(seed + 1)
    margin = beta * (sequence_log_ratio(*winner) - sequence_log_ratio(*loser))
    difference = dpo(*loser, *winner, beta=beta) - dpo(*winner, *loser, beta=beta)
    torch.testing.assert_close(difference, -margin)


@given(SEEDS, BETAS)
def test_dpo_starts_at_log_2_and_moves_the_pair_apart(seed: int, beta: float) -> None:
    (loser, _, loser_mask), (winner, _, winner_mask) = drawn(seed), drawn(seed + 1)
    pair = loser.clone().requires_grad_(), winner.clone().requires_grad_()
    loss = dpo(pair[0], loser, loser_mask, pair[1], winner, winner_mask, beta=beta)
    torch.testing.assert_close(loss, torch.full_like(loss, math.log(2)))
    by_loser, by_winner = torch.autograd.grad(loss.sum(), pair)
    torch.testing.assert_close(by_loser, beta / 2 * loser_mask.double())
    torch.testing.assert_close(by_winner, -beta / 2 * winner_mask.double())


# Representation misdirection


@given(SEEDS, st.floats(-20, 20))
def test_rmu_is_its_equation(seed: int, steering: float) -> None:
    states, mask, control = drawn_states(seed)
    wanted = [
        F.mse_loss(row[kept], (steering * control).expand_as(row[kept]))
        for row, kept in zip(states, mask, strict=True)
    ]
    torch.testing.assert_close(rmu(states, mask, control, steering=steering), torch.stack(wanted))


@given(SEEDS, st.floats(0.1, 20))
def test_rmu_is_0_exactly_where_every_state_is_the_target(seed: int, steering: float) -> None:
    states, mask, control = drawn_states(seed)
    there = torch.where(mask[..., None], steering * control, states)
    assert (rmu(there, mask, control, steering=steering) == 0).all()
    moved = there.clone()
    moved[:, -1, 2] += 1e-3
    assert (rmu(moved, mask, control, steering=steering) > 0).all()
