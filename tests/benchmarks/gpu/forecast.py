"""The kernel of a forecast over all weights: its seconds, and its memory next to the model."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analyses.predict.streamed import streamed_kernel
from analyses.predict.traces import Side
from interp.model import LanguageModel, Tokens
from tests.benchmarks.gpu.models import held, peak, random_model, random_rows, wait
from unlearning.refusal import ResponsePrefixes, refusal_log_odds

PREFIXES = ResponsePrefixes(((11, 12),), ((11, 13), (14,)))


@dataclass(frozen=True)
class KernelWorkload:
    """Domains, and the prompts of each; the layers whose traces are held together."""

    domains: int = 7
    rows: int = 8
    tokens: int = 48
    groups: int = 4
    layers_at_once: int = 4


SMALL = KernelWorkload(domains=3, rows=3, tokens=6, groups=3, layers_at_once=1)


def forecast_kernel(name: str, workload: KernelWorkload = KernelWorkload()) -> dict[str, Any]:
    """The log-odds kernel of all domains, next to one forward and backward of the same rows."""
    lm = random_model(name)
    rows = {
        f"domain {i}": random_rows(lm, [workload.tokens] * workload.rows, seed=i)
        for i in range(workload.domains)
    }
    side = Side(rows, _log_odds)
    plain = _seconds_of_backward(lm, [row for part in rows.values() for row in part])
    wait()
    peak(reset=True)
    before, start = held(), perf_counter()
    kernel = streamed_kernel(
        lm,
        side,
        side,
        groups=workload.groups,
        batch_size=workload.rows,
        layers_at_once=workload.layers_at_once,
    )
    wait()
    seconds = perf_counter() - start
    values = kernel.values
    return {
        "domains": workload.domains,
        "layers_at_once": workload.layers_at_once,
        "tokens": workload.domains * workload.rows * workload.tokens,
        "seconds_of_the_kernel": seconds,
        "seconds_of_one_backward": plain,
        "kernel_over_backward": seconds / plain,
        "peak_gigabytes_over_model": (peak() - before) / 1e9,
        "met": {
            "finite": bool(np.isfinite(values).all()),
            # Both sides are the same function of the same rows.
            "symmetric": bool(np.allclose(values, values.T, atol=1e-3 * np.abs(values).max())),
        },
    }


def _log_odds(lm: LanguageModel, rows: Any) -> Tensor:
    return refusal_log_odds(lm, rows, PREFIXES)


def _seconds_of_backward(lm: LanguageModel, rows: list[Tokens]) -> float:
    """One forward and backward over the rows with the layers' states in the graph, twice."""
    found = 0.0
    embeddings = lm.model.get_input_embeddings()
    for _ in range(2):  # the first one warms up
        wait()
        start = perf_counter()
        for i in range(0, len(rows), 8):
            batch = lm.chat.pad(rows[i : i + 8], lm.device)
            states = embeddings(batch.input_ids).detach().requires_grad_()
            output = lm.model(
                inputs_embeds=states, attention_mask=batch.attention_mask, use_cache=False
            )
            torch.autograd.grad(output.logits[:, -1].float().sum(), [states])
        wait()
        found = perf_counter() - start
    return found
