"""The retain losses vanish where nothing changed, and agree with torch's own implementations."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F

from unlearning.losses.objectives import gradient_ascent
from unlearning.losses.retain import cross_entropy, feature_l2, kl, token_mean_cross_entropy

SEEDS = st.integers(0, 10_000)


def drawn(seed: int, *, width: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    """Two tensors "batch token width" in float64 (logits or states), and a right-aligned mask."""
    generator = torch.Generator().manual_seed(seed)
    ours, reference = (
        3 * torch.randn(3, 5, width, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    lengths = torch.randint(1, 6, (3, 1), generator=generator)
    return ours, reference, torch.arange(5) >= 5 - lengths


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), of)[0]


@given(SEEDS)
def test_cross_entropy_is_torch_s_in_nats(seed: int) -> None:
    logits, _, mask = drawn(seed)
    targets = torch.randint(11, (3, 5), generator=torch.Generator().manual_seed(seed))
    log_probs = logits.log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)
    rows = [(x[kept], y[kept]) for x, y, kept in zip(logits, targets, mask, strict=True)]
    summed = torch.stack([F.cross_entropy(x, y, reduction="sum") for x, y in rows])
    torch.testing.assert_close(cross_entropy(log_probs, mask), summed)
    torch.testing.assert_close(cross_entropy(log_probs, mask), -gradient_ascent(log_probs, mask))
    mean = torch.stack([F.cross_entropy(x, y) for x, y in rows])
    torch.testing.assert_close(token_mean_cross_entropy(log_probs, mask), mean)


@given(SEEDS)
def test_kl_is_torch_s_from_the_reference_to_the_model(seed: int) -> None:
    logits, reference, mask = drawn(seed)
    forward = kl_divergence(Categorical(logits=reference), Categorical(logits=logits))
    torch.testing.assert_close(kl(logits, reference, mask), (forward * mask).sum(-1))
    backward = kl_divergence(Categorical(logits=logits), Categorical(logits=reference))
    assert not torch.allclose(kl(logits, reference, mask), (backward * mask).sum(-1))


@given(SEEDS)
def test_kl_is_0_only_between_equal_distributions(seed: int) -> None:
    logits, reference, mask = drawn(seed)
    assert (kl(logits, reference, mask) > 0).all()
    # A constant added to a position's logits leaves its distribution as it is.
    shifted = (logits + 5.0).requires_grad_()
    same = kl(shifted, logits, mask)
    torch.testing.assert_close(same, torch.zeros_like(same))
    torch.testing.assert_close(gradient(same, shifted), torch.zeros_like(shifted))


@given(SEEDS)
def test_feature_l2_is_the_mean_square_of_what_moved(seed: int) -> None:
    states, reference, mask = drawn(seed, width=6)
    wanted = []
    for row, other, kept in zip(states.tolist(), reference.tolist(), mask.tolist(), strict=True):
        moved = [
            (a - b) ** 2
            for x, y, inside in zip(row, other, kept, strict=True)
            if inside
            for a, b in zip(x, y, strict=True)
        ]
        wanted.append(sum(moved) / len(moved))
    found = feature_l2(states, reference, mask)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
    torch.testing.assert_close(feature_l2(2 * states, 2 * reference, mask), 4 * found)


def test_feature_l2_and_its_gradient_are_0_where_nothing_moved() -> None:
    states, _, mask = drawn(6)
    ours = states.clone().requires_grad_()
    loss = feature_l2(ours, states, mask)
    assert (loss == 0).all()
    assert (gradient(loss, ours) == 0).all()
