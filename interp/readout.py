"""Readouts: functions of a model and rows of tokens that give one number per row.

Selection, patching, lenses and prediction take a readout as an argument, so this package does not
depend on the meaning of the number. The simplest readout is a function of the logits at the last
token (:func:`at_last_token`).

A readout may run several forwards, for instance to read the probability of a response of several
tokens. Each forward takes all the rows in their order, every row followed by the same tokens (or by
none), through ``lm.logits``. Patching depends on this: the n-th forward of a patched model takes
the states of the source's n-th forward, column by column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from interp.model import LanguageModel, Tokens, doubled

#: One number per row, with its graph, from one batch of rows.
Readout = Callable[[LanguageModel, Sequence[Tokens]], Float[Tensor, " batch"]]
#: One number per row, from the logits at the row's last token.
OfLogits = Callable[[Float[Tensor, " batch vocab"]], Float[Tensor, " batch"]]


def class_log_odds(
    logits: Float[Tensor, "batch vocab"], token_ids: Sequence[int]
) -> Float[Tensor, " batch"]:
    """log p(T) − log(1 − p(T)) for the set of tokens T, in float64.

    The function computes logsumexp(logits[T]) − logsumexp(logits[not T]), which neither saturates
    nor loses precision if p(T) is close to 0 or 1. Unit: nats.
    """
    inside = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    inside[torch.as_tensor(list(token_ids), device=logits.device)] = True
    values = doubled(logits)
    inside = inside.to(values.device)
    return values[:, inside].logsumexp(-1) - values[:, ~inside].logsumexp(-1)


def last_logits(lm: LanguageModel, rows: Sequence[Tokens]) -> Float[Tensor, "batch vocab"]:
    """The logits at each row's last token, from one forward."""
    return lm.logits(lm.chat.pad(rows, lm.device), keep=1)[:, -1]


def at_last_token(function: OfLogits) -> Readout:
    """The readout that applies ``function`` to the logits at each row's last token."""
    return lambda lm, rows: function(last_logits(lm, rows))


def log_odds(token_ids: Sequence[int]) -> Readout:
    """A readout: the log-odds that the next token is one of ``token_ids``, in nats."""
    return at_last_token(partial(class_log_odds, token_ids=tuple(token_ids)))
