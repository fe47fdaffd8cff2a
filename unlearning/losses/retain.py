"""The losses of the retain sets: each keeps one aspect of the model unchanged.

Pure functions under the conventions of :mod:`unlearning.losses.objectives`: one number per example,
minimised; values outside the mask have no influence; float32 or better. All are bounded below
by 0.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from unlearning.losses.objectives import (
    at_least_float32,
    response_mean,
    sequence_log_prob,
    state_distance,
)
from unlearning.losses.registry import Logits, LogProbs, Mask, PerExample, States, retain_term


@retain_term(title="cross-entropy", paper="Mushtaq et al. 2025, arXiv 2511.14017", badge="faithful")
def cross_entropy(log_probs: LogProbs, mask: Mask) -> PerExample:
    """Cross-entropy: keeps the response likely.

        L = −log π_θ(y|x)

    Summed over the response's tokens: nats per response, NPO's unit. The retain term of Mushtaq
    et al. 2025 (arXiv 2511.14017).
    """
    return -sequence_log_prob(log_probs, mask)


@retain_term(title="cross-entropy per token")
def token_mean_cross_entropy(log_probs: LogProbs, mask: Mask) -> PerExample:
    """Mean cross-entropy per token, as in language-model training.

        L = −(1/|y|) log π_θ(y|x)

    In nats per token: |y| times weaker than a forget term that is summed over tokens.
    """
    return -response_mean(log_probs, mask)


@retain_term(
    title="KL",
    paper="Maini et al. 2024, arXiv 2401.06121",
    badge="variant",
    differs="over the response's tokens, not over all positions",
)
def kl(logits: Logits, reference_logits: Logits, mask: Mask) -> PerExample:
    """Keeps the whole next-token distribution, not only the response's likelihood.

        L = Σ_t KL(π_ref(·|x, y_<t) ‖ π_θ(·|x, y_<t))

    The FORWARD direction: tokens that the reference finds probable must stay probable. Summed
    over the response's tokens, in nats per response; 0 only where the distributions are equal. The
    gradient by a position's logits is π_θ − π_ref. As in the "KL minimization" of Maini et al.
    2024 (TOFU, arXiv 2401.06121), whose code averages over all positions instead.
    """
    # Only response positions are promoted to float32: logits are large because of the vocabulary.
    log_probs, reference = (
        at_least_float32(values[mask]).log_softmax(dim=-1) for values in (logits, reference_logits)
    )
    per_token = F.kl_div(log_probs, reference, reduction="none", log_target=True).sum(dim=-1)
    placed = torch.zeros(mask.shape, dtype=per_token.dtype, device=per_token.device)
    return placed.masked_scatter(mask, per_token).sum(dim=-1)


@retain_term(
    title="feature L2",
    paper="Li et al. 2024, arXiv 2403.03218",
    badge="variant",
    differs="the mean runs over the response's tokens, not over all tokens of a text",
)
def feature_l2(states: States, reference_states: States, mask: Mask) -> PerExample:
    """Keeps the residual stream unchanged.

        L = (1/|y|) Σ_t (1/d_model) ‖h_t − h_t^ref‖²

    h_t is the state after the chosen layer where response token t is predicted; the means are
    those of :func:`unlearning.losses.objectives.rmu`, whose retain term this is. In squared units
    of the residual stream. Li et al. 2024 (arXiv 2403.03218).
    """
    return state_distance(states, reference_states, mask)
