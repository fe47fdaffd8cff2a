"""Collect the residual stream at the last prompt token, all wanted layers in one forward.

The forward stops at the last wanted layer, so the LM head never runs; prompts are sorted by
length, so that little is padded; slices are cloned, so that the batch's storage is freed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from interp.chat import Tokens
from interp.errors import InputError
from interp.hooks import Hidden, early_exit, reading
from interp.model import LanguageModel


@dataclass(frozen=True)
class Activations:
    """States after each of ``layers`` (0-based decoder layers, their outputs), in float32."""

    states: Float[np.ndarray, "prompt layer d_model"]
    layers: tuple[int, ...]


def collect(
    lm: LanguageModel,
    prompts: Sequence[str],
    *,
    layers: Sequence[int] | None = None,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Activations:
    """Residual stream at the last prompt token (where the first answer token is predicted).

    Args:
        lm: the model; must be in eval mode.
        prompts: texts, rendered by the model's chat format.
        layers: 0-based decoder layers; all by default.
        batch_size: prompts in one forward.
        progress: called with the number of prompts just done.

    Raises:
        InputError: no prompts, an unknown layer, or a model in train mode.
    """
    wanted = tuple(range(lm.n_layers)) if layers is None else tuple(sorted(set(layers)))
    if not prompts:
        raise InputError("no prompts to collect activations for; give at least one")
    if not wanted or wanted[0] < 0 or wanted[-1] >= lm.n_layers:
        raise InputError(f"layers {list(wanted)} asked for; the model has 0 … {lm.n_layers - 1}")
    if lm.model.training:
        raise InputError("the model is in train mode, where dropout is on; call model.eval() first")

    states = np.empty((len(prompts), len(wanted), lm.d_model), dtype=np.float32)
    rows = [lm.chat.encode(prompt) for prompt in prompts]
    modules = [lm.layers[i] for i in wanted]
    for chosen in batches_by_length(rows, batch_size):
        kept: list[torch.Tensor] = []

        def keep(_index: int, hidden: Hidden, kept: list[torch.Tensor] = kept) -> None:
            kept.append(hidden[:, -1].detach().float().clone())

        batch = lm.chat.pad([rows[i] for i in chosen], lm.device)
        with torch.no_grad(), reading(modules, keep, stop_after=True), early_exit():
            lm.model(**lm.inputs(batch), use_cache=False)
        states[chosen] = torch.stack(kept, dim=1).cpu().numpy()
        if progress is not None:
            progress(len(chosen))
    return Activations(states, wanted)


def batches_by_length(rows: Sequence[Tokens], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in batches of like length, longest first (memory runs out at once or never)."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
