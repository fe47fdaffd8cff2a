"""log π(y|x), token by token, with the LM head run only where there is a response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from interp.activations import batches_by_length
from interp.chat import Tokens
from interp.model import LanguageModel


def response_log_probs(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    response_mask: Bool[Tensor, "batch token"],
) -> tuple[Float[Tensor, "batch kept"], Bool[Tensor, "batch kept"]]:
    """Log-probability of every response token, in nats, and the mask of response positions.

    Rows are left-padded, so the responses are the last columns: the head runs on ``kept`` columns
    only, through ``model``'s own forward (as wrapped for training, soft caps included).

    Returns:
        Log-probs (0 where the mask is False) and the mask, both over the last ``kept`` columns.
    """
    kept = int(response_mask.any(dim=0).sum())
    # The token at column t is predicted at column t − 1.
    logits = model(**inputs, logits_to_keep=kept + 1, use_cache=False).logits[:, -kept - 1 : -1]
    mask = response_mask[:, -kept:]
    targets = inputs["input_ids"][:, -kept:]
    values = token_log_probs(logits[mask], targets[mask])
    return torch.zeros(mask.shape, device=values.device).masked_scatter(mask, values), mask


def token_log_probs(
    logits: Float[Tensor, "token vocab"], targets: Int[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Log-probability of each target, in float32 whatever the logits are."""
    return -F.cross_entropy(logits.float(), targets, reduction="none")


@torch.no_grad()
def reference_log_probs(
    lm: LanguageModel, rows: Sequence[Tokens], *, batch_size: int = 32
) -> list[Float[Tensor, " response"]]:
    """Per-token log-probs of each row's response under the model as it is, on the CPU."""
    training = lm.model.training
    lm.model.eval()
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    for chosen in batches_by_length(rows, batch_size):
        batch = lm.chat.pad([rows[i] for i in chosen], lm.device)
        log_probs, mask = response_log_probs(lm.model, lm.inputs(batch), batch.response_mask)
        for i, values, where in zip(chosen, log_probs, mask, strict=True):
            found[i] = values[where].cpu()
    lm.model.train(training)
    return found
