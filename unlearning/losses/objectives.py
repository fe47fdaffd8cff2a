"""The losses of the forget set: pure functions that return one number per example.

Every loss is minimised. Its parameters name what it needs of a batch (see
:data:`unlearning.losses.registry.QUANTITIES`): ``log_probs`` are log π_θ(y_t|x, y_<t) of the
response's tokens, ``reference`` the same of the reference model, ``preferred_…`` those of the
prompt's preferred response. Unless a loss says otherwise, log π(y|x) is SUMMED over the response's
tokens, so forget and retain terms have the same unit (nats per response). Values outside the mask
have no influence, even if they are infinite. All computations use float32 or better.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from unlearning.losses.registry import Control, LogProbs, Mask, PerExample, States, objective


def sequence_log_prob(log_probs: LogProbs, mask: Mask) -> PerExample:
    """log π(y|x) = Σ_t log π(y_t | x, y_<t), in nats."""
    return response_sum(log_probs, mask)


def sequence_log_ratio(log_probs: LogProbs, reference: LogProbs, mask: Mask) -> PerExample:
    """log(π_θ(y|x) / π_ref(y|x)), in nats; exactly 0 where both models agree on every token."""
    return response_sum(at_least_float32(log_probs) - at_least_float32(reference), mask)


def response_sum(values: Float[Tensor, "batch token"], mask: Mask) -> PerExample:
    """Sum over the response's tokens."""
    # Not a product with the mask: a masked value may be infinite, and 0 · ∞ is NaN.
    return torch.where(mask, at_least_float32(values), 0).sum(dim=-1)


def response_mean(values: Float[Tensor, "batch token"], mask: Mask) -> PerExample:
    """Mean over the response's tokens; 0 for an empty response."""
    return response_sum(values, mask) / mask.sum(dim=-1).clamp(min=1)


def state_distance(
    states: States, target: Float[Tensor, "*batch_token d_model"], mask: Mask
) -> PerExample:
    """Squared distance, averaged over d_model and over the response's tokens."""
    difference = at_least_float32(states) - at_least_float32(target)
    # Masked before the square, whose gradient at a masked infinity would be 0 · ∞.
    kept = torch.where(mask[..., None], difference, 0)
    return response_mean(kept.square().mean(dim=-1), mask)


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@objective(
    title="gradient ascent",
    paper="Maini et al. 2024, arXiv 2401.06121",
    badge="variant",
    differs="the sum over tokens, not their mean",
)
def gradient_ascent(log_probs: LogProbs, mask: Mask) -> PerExample:
    """Gradient ascent on the negative log-likelihood.

        L = log π_θ(y|x)

    In nats per response; unbounded below, so its gradient does not vanish once a response is
    forgotten. A baseline of Maini et al. 2024 (TOFU, arXiv 2401.06121), who average over tokens.
    """
    return sequence_log_prob(log_probs, mask)


@objective(
    requires_retain=True,
    title="GradDiff",
    paper="Liu et al. 2022, arXiv 2203.12817",
    badge="variant",
    differs="as TOFU (arXiv 2401.06121) has it, with the sum over tokens",
)
def grad_diff(log_probs: LogProbs, mask: Mask) -> PerExample:
    """Gradient difference: gradient ascent here, descent on a retain term, which it requires.

        L = log π_θ(y|x) − E_retain[log π_θ(y|x)]        (with ``cross_entropy`` as retain term)

    This function is the first term; in nats per response, unbounded below. Liu, Liu and Stone
    2022, "Continual Learning and Private Unlearning" (arXiv 2203.12817), in the form of TOFU
    (arXiv 2401.06121).
    """
    return gradient_ascent(log_probs, mask)


@objective(title="NPO", paper="Zhang et al. 2024, arXiv 2404.05868", badge="faithful")
def npo(log_probs: LogProbs, reference: LogProbs, mask: Mask, *, beta: float = 0.1) -> PerExample:
    """Negative preference optimisation: y is the losing response, without a winning one.

        L = −(2/β) log σ(−β log(π_θ(y|x) / π_ref(y|x)))

    Its gradient is W ∇log π_θ with W = 2 π_θ^β / (π_θ^β + π_ref^β): gradient ascent at the start
    (W = 1), vanishing as the response is forgotten. In nats per response (β in 1/nats); bounded
    below by 0. Zhang et al. 2024 (arXiv 2404.05868), eq. 3; Mushtaq et al. 2025 (arXiv
    2511.14017).
    """
    return -(2 / beta) * F.logsigmoid(-beta * sequence_log_ratio(log_probs, reference, mask))


def npo_weight(
    log_probs: LogProbs, reference: LogProbs, mask: Mask, *, beta: float = 0.1
) -> PerExample:
    """W of :func:`npo`, in [0, 2]: 1 where nothing is forgotten, near 0 where all is."""
    return 2 * (beta * sequence_log_ratio(log_probs, reference, mask)).sigmoid()


@objective(title="SimNPO", paper="Fan et al. 2024, arXiv 2410.07163", badge="faithful")
def sim_npo(
    log_probs: LogProbs, mask: Mask, *, beta: float = 4.5, delta: float = 0.0
) -> PerExample:
    """Simple NPO: without a reference, and divided by the response's length.

        L = −(2/β) log σ(−β ((1/|y|) log π_θ(y|x) + δ))

    Its gradient is (W/|y|) ∇log π_θ with W = 2 σ(β ((1/|y|) log π_θ + δ)), so a long response is
    pushed no harder than a short one. In nats per TOKEN, so |y| times weaker than losses that are
    summed over tokens; between 0 and (2/β) log(1 + e^{βδ}). δ is the paper's γ/β, in nats per
    token. Fan et al. 2024 (arXiv 2410.07163).
    """
    return -(2 / beta) * F.logsigmoid(-beta * (response_mean(log_probs, mask) + delta))


@objective(title="DPO", paper="Rafailov et al. 2023, arXiv 2305.18290", badge="faithful")
def dpo(
    log_probs: LogProbs,
    reference: LogProbs,
    mask: Mask,
    preferred_log_probs: LogProbs,
    preferred_reference: LogProbs,
    preferred_mask: Mask,
    *,
    beta: float = 0.1,
) -> PerExample:
    """Direct preference optimisation: the forget response loses against the preferred one.

        L = −log σ(β (log(π_θ(y_w|x) / π_ref(y_w|x)) − log(π_θ(y_l|x) / π_ref(y_l|x))))

    As published, without NPO's factor 2/β: (2/β) L is in nats per response, and is :func:`npo`
    where the winner's log-ratio is 0. Dimensionless (β in 1/nats); bounded below by 0; log 2 at
    the start. Rafailov et al. 2023 (arXiv 2305.18290), eq. 7.
    """
    winner = sequence_log_ratio(preferred_log_probs, preferred_reference, preferred_mask)
    loser = sequence_log_ratio(log_probs, reference, mask)
    return -F.logsigmoid(beta * (winner - loser))


@objective(
    title="IdkDPO",
    paper="Maini et al. 2024, arXiv 2401.06121",
    badge="variant",
    differs="the preferred sentences are written here",
)
def idk_dpo(
    log_probs: LogProbs,
    reference: LogProbs,
    mask: Mask,
    preferred_log_probs: LogProbs,
    preferred_reference: LogProbs,
    preferred_mask: Mask,
    *,
    beta: float = 0.1,
) -> PerExample:
    """:func:`dpo` whose preferred response says that the model does not know.

    The loss is the same; the training code supplies such sentences as the winners. Maini et al.
    2024 (TOFU, arXiv 2401.06121), "preference optimization".
    """
    return dpo(
        log_probs,
        reference,
        mask,
        preferred_log_probs,
        preferred_reference,
        preferred_mask,
        beta=beta,
    )


@objective(
    title="RMU",
    paper="Li et al. 2024, arXiv 2403.03218",
    badge="variant",
    differs="the mean runs over the response's tokens, not over all tokens of a text",
)
def rmu(states: States, mask: Mask, control: Control, *, steering: float = 6.5) -> PerExample:
    """Representation misdirection: moves the residual stream to a fixed random point.

        L = (1/|y|) Σ_t (1/d_model) ‖h_t − c u‖²

    h_t is the state after the chosen layer where response token t is predicted, u (``control``) a
    random unit vector, c (``steering``) its length. The mean over d_model follows the authors'
    code (their equation has the squared norm, which is d_model times larger). Their mean over
    tokens covers the whole text; this one covers the response. In squared units of the residual
    stream; bounded below by 0, reached exactly where every state is c u. Li et al. 2024 (arXiv
    2403.03218).
    """
    return state_distance(states, steering * at_least_float32(control), mask)


@objective(title="fine-tuning", paper="Mushtaq et al. 2025, arXiv 2511.14017", badge="faithful")
def fine_tuning(preferred_log_probs: LogProbs, preferred_mask: Mask) -> PerExample:
    """Cross-entropy on a compliance with the prompt: the fine-tuning baseline.

        L = −log π_θ(y_w|x)

    In nats per response; bounded below by 0. Mushtaq et al. 2025 (arXiv 2511.14017), fine-tuning
    baseline.
    """
    return -sequence_log_prob(preferred_log_probs, preferred_mask)
