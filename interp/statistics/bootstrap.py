"""The bootstrap over prompts, as weights: any mean of any table is resampled by one product."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def resampling_weights(
    prompts: int, *, resamples: int, seed: int, groups: Sequence[object] | None = None
) -> Float[np.ndarray, "resample prompt"]:
    """Weights of the prompts in every resample; each row sums to one.

    Args:
        prompts: how many there are.
        resamples: how often they are drawn with replacement.
        seed: of the draws.
        groups: prompts of one group (paraphrases, say) are drawn together.
    """
    rng = np.random.default_rng(seed)
    labels = (
        np.arange(prompts)
        if groups is None
        else np.unique(np.asarray(groups), return_inverse=True)[1]
    )
    units = int(labels.max()) + 1
    counts = rng.multinomial(units, np.full(units, 1 / units), size=resamples)[:, labels]
    return counts / counts.sum(axis=1, keepdims=True)


def percentile_interval(
    resampled: Float[np.ndarray, "resample *value"], level: float = 0.95
) -> tuple[Float[np.ndarray, "*value"], Float[np.ndarray, "*value"]]:
    """The central interval of a resampled quantity (Efron and Tibshirani 1993, chapter 13)."""
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return low, high
