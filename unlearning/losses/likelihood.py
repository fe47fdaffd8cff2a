"""log π(y|x) for every token; the LM head runs only at response positions.

All quantities of a response are taken at the positions that PREDICT its tokens: from the last
prompt token to the last but one token of the response.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.model import (
    AS_EXPECTED,
    LanguageModel,
    SelfCheck,
    Tokens,
    logits_of_last,
    map_in_batches,
    undisturbed,
)
from interp.progress import Advance, silent

# Elements of logits that are held in float32 at a time: 32 MB.
CHUNK = 2**23
# Logits held at a time, in elements: 1 GB in bfloat16. At a vocabulary of 150,000 a batch of 32
# answers of 256 tokens would need 2.5 GB.
LARGEST_LOGITS = 2**29


def response_logits(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    response_mask: Bool[Tensor, "batch token"],
    check: SelfCheck = AS_EXPECTED,
    *,
    kept: int | None = None,
) -> tuple[Float[Tensor, "batch kept vocab"], Bool[Tensor, "batch kept"]]:
    """Logits that predict the response tokens, and the mask of response positions.

    Rows are left-padded, so the responses are the last columns. The head runs on these only,
    through ``model``'s forward (as wrapped for training, with soft caps and scales), unless the
    model's self-check found that this changes results. ``kept`` is the responses' width, if it is
    known; otherwise it is read from the device.
    """
    kept = response_width(response_mask) if kept is None else kept
    # The token at column t is predicted at column t − 1.
    logits = logits_of_last(model, inputs, kept + 1, check)[:, :-1]
    return logits, response_mask[:, -kept:]


def response_width(response_mask: Bool[Tensor, "batch token"]) -> int:
    """Columns, from the right, that hold all responses of a left-padded batch."""
    return int(response_mask.any(dim=0).sum())


def response_log_probs(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    response_mask: Bool[Tensor, "batch token"],
    check: SelfCheck = AS_EXPECTED,
) -> tuple[Float[Tensor, "batch kept"], Bool[Tensor, "batch kept"]]:
    """Log-probability of every response token, in nats (0 elsewhere), and the response mask."""
    logits, mask = response_logits(model, inputs, response_mask, check)
    return token_log_probs(logits, inputs["input_ids"][:, -mask.shape[1] :], mask), mask


def token_log_probs(
    logits: Float[Tensor, "batch token vocab"],
    targets: Int[Tensor, "batch token"],
    mask: Bool[Tensor, "batch token"],
) -> Float[Tensor, "batch token"]:
    """log softmax(logits) at the targets, 0 outside the mask; in float32 or better.

    Forward and backward process a few rows at a time. So memory never holds a float32 copy of all
    logits or their softmax, which at a vocabulary of 150,000 is most of a step's memory.
    """
    found: Tensor = _TokenLogProbs.apply(logits, targets, mask)
    return found


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        wide = torch.promote_types(logits.dtype, torch.float32)
        log_normaliser = torch.zeros(mask.shape, dtype=wide, device=logits.device)
        found = torch.zeros_like(log_normaliser)
        # Positions outside are computed and dropped: to pick the others, the host would wait for
        # the device in every chunk.
        targets = targets.where(mask, 0)
        for rows in _chunks(logits):
            chunk = logits[rows].to(wide)
            normaliser = chunk.logsumexp(dim=-1)
            at_target = chunk.gather(-1, targets[rows][..., None])[..., 0]
            log_normaliser[rows] = normaliser.where(mask[rows], 0)
            found[rows] = (at_target - normaliser).where(mask[rows], 0)
        ctx.save_for_backward(logits, targets, mask, log_normaliser)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """d log p_y / d logits = 1[y] − softmax."""
        logits, targets, mask, log_normaliser = ctx.saved_tensors
        (gradient,) = gradients
        found = torch.empty_like(logits)
        for rows in _chunks(logits):
            wide = logits[rows].to(log_normaliser.dtype)
            outer = gradient[rows][..., None].to(wide.dtype)
            probability = (wide - log_normaliser[rows][..., None]).exp()
            chunk = (-outer * probability).scatter_add(-1, targets[rows][..., None], outer)
            found[rows] = chunk.to(found.dtype).where(mask[rows][..., None], 0)
        return found, None, None


def _chunks(logits: Float[Tensor, "batch token vocab"]) -> list[slice]:
    batch, tokens, vocabulary = logits.shape
    size = max(1, CHUNK // max(1, tokens * vocabulary))
    return [slice(start, start + size) for start in range(0, batch, size)]


def forced_logits(
    lm: LanguageModel, rows: Sequence[Tokens]
) -> tuple[
    Float[Tensor, "batch kept vocab"], Int[Tensor, "batch kept"], Bool[Tensor, "batch kept"]
]:
    """Logits that predict the rows' response tokens, these tokens, and their mask."""
    batch = lm.chat.pad(rows, lm.device)
    kept = response_width(batch.response_mask)
    first = batch.response_mask.shape[1] - kept
    logits = lm.logits(batch, keep=kept + 1)[:, :-1]
    return logits, batch.input_ids[:, first:], batch.response_mask[:, first:]


def reference_log_probs(
    lm: LanguageModel, rows: Sequence[Tokens], *, batch_size: int = 32, progress: Advance = silent
) -> list[Float[Tensor, " response"]]:
    """Per-token log-probs of each row's response under the model as it is, on the CPU.

    Args:
        batch_size: rows in one forward at most; fewer where the logits would take too much memory,
            or after a batch did not fit into memory.
        progress: called with the number of rows just done.

    Raises:
        MachineError: a single row does not fit into memory.
    """
    vocabulary = int(lm.model.config.get_text_config(decoder=True).vocab_size)

    def read(chosen: list[int]) -> Iterator[Tensor]:
        longest = max(len(rows[i].ids[rows[i].spans["response"]]) for i in chosen)
        fitting = max(1, LARGEST_LOGITS // ((longest + 1) * vocabulary))
        for start in range(0, len(chosen), fitting):
            some = [rows[i] for i in chosen[start : start + fitting]]
            logits, targets, mask = forced_logits(lm, some)
            log_probs = token_log_probs(logits, targets, mask)
            yield from (values[where].cpu() for values, where in zip(log_probs, mask, strict=True))

    with undisturbed(lm.model):
        return map_in_batches(lambda chosen: list(read(chosen)), rows, batch_size, progress)
