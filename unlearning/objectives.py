"""The losses: pure functions of (log-probs, reference log-probs, mask), one number per example.

Every loss is minimised, and is a property of whole responses: log π(y|x) is SUMMED over the
response's tokens, so that forget and retain terms are in the same unit (nats per response).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

LogProbs = Float[Tensor, "batch token"]
Mask = Bool[Tensor, "batch token"]
PerExample = Float[Tensor, "batch"]


def sequence_log_prob(log_probs: LogProbs, mask: Mask) -> PerExample:
    """log π(y|x) = Σ_t log π(y_t | x, y_<t), in nats."""
    return (log_probs * mask).sum(dim=-1)


def npo(log_probs: LogProbs, reference: LogProbs, mask: Mask, *, beta: float = 0.1) -> PerExample:
    """Negative preference optimisation: y is the losing response and there is no winner.

        L = −(2/β) log σ(−β log(π_θ(y|x) / π_ref(y|x)))

    Its gradient is W ∇log π_θ with W = 2 π_θ^β / (π_θ^β + π_ref^β): gradient ascent at the start
    (W = 1), vanishing as the response is forgotten. Zhang et al. 2024 (arXiv 2404.05868), eq. 3;
    Mushtaq et al. 2025 (arXiv 2511.14017).
    """
    log_ratio = sequence_log_prob(log_probs - reference, mask)
    return -(2 / beta) * F.logsigmoid(-beta * log_ratio)


def npo_weight(
    log_probs: LogProbs, reference: LogProbs, mask: Mask, *, beta: float = 0.1
) -> PerExample:
    """W of :func:`npo`: 1 where nothing is forgotten yet, towards 0 where all is."""
    log_ratio = sequence_log_prob(log_probs - reference, mask)
    return 2 * (beta * log_ratio).sigmoid()


def gradient_ascent(log_probs: LogProbs, reference: LogProbs, mask: Mask) -> PerExample:
    """Gradient ascent on the negative log-likelihood: L = log π_θ(y|x). Unbounded below."""
    return sequence_log_prob(log_probs, mask)


def cross_entropy(log_probs: LogProbs, reference: LogProbs, mask: Mask) -> PerExample:
    """L = −log π_θ(y|x), summed over the response: the paper's retain term, in NPO's unit."""
    return -sequence_log_prob(log_probs, mask)


def token_mean_cross_entropy(log_probs: LogProbs, reference: LogProbs, mask: Mask) -> PerExample:
    """L = −(1/|y|) log π_θ(y|x): |y| times weaker than a summed forget term beside it."""
    return -sequence_log_prob(log_probs, mask) / mask.sum(dim=-1).clamp(min=1)


Objective = Callable[..., PerExample]

FORGET: Mapping[str, Objective] = {"npo": npo, "gradient_ascent": gradient_ascent}
RETAIN: Mapping[str, Objective] = {"sum": cross_entropy, "token_mean": token_mean_cross_entropy}
