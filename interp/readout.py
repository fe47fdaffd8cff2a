"""Readouts: functions from last-token logits to one number per prompt.

Selection, patching, lenses and prediction take a readout as an argument, so this package does not
depend on the meaning of the number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Readout = Callable[[Float[Tensor, "batch vocab"]], Float[Tensor, "batch"]]


def class_log_odds(
    logits: Float[Tensor, "batch vocab"], token_ids: Sequence[int]
) -> Float[Tensor, "batch"]:
    """log p(T) − log(1 − p(T)) for the set of tokens T, in float64.

    The function computes logsumexp(logits[T]) − logsumexp(logits[not T]), which neither saturates
    nor loses precision if p(T) is close to 0 or 1. Unit: nats.
    """
    inside = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    inside[torch.as_tensor(list(token_ids), device=logits.device)] = True
    # MPS has no float64, so convert on the CPU.
    values = logits.double() if logits.device.type != "mps" else logits.cpu().double()
    inside = inside.to(values.device)
    return values[:, inside].logsumexp(-1) - values[:, ~inside].logsumexp(-1)


def log_odds(token_ids: Sequence[int]) -> Readout:
    """A readout: the log-odds that the next token is one of ``token_ids``, in nats."""
    frozen = tuple(token_ids)
    return lambda logits: class_log_odds(logits, frozen)
