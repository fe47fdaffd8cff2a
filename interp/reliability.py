"""Split-half reliability of any direction that is a weighted sum of prompts.

The value is the mean cosine between the directions of two halves, over random halvings; linked
prompts stay together. The interval draws prompts with replacement first and halves them then, so
that no prompt meets its own copy in the other half. It takes only the spread from these samples, on
Fisher's z scale: their level is too low, since resampling adds noise of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from interp.intervals import normal_quantile

Counts = Float[np.ndarray, "sample row"]
Weights = Float[np.ndarray, "sample layer row"]

# Halvings averaged within one bootstrap sample: more would cost more and tighten little.
HALVINGS_PER_RESAMPLE = 2


def split_half_reliability(
    gram: Float[np.ndarray, "layer row row"],
    direction: Callable[[Counts], Weights],
    units: Int[np.ndarray, " row"],
    kinds: Int[np.ndarray, " unit"],
    *,
    splits: int,
    resamples: int,
    level: float,
    seed: int,
) -> tuple[Float[np.ndarray, " layer"], ...]:
    """Reliability, low and high per layer.

    Args:
        gram: inner products of the rows.
        direction: how often each row counts → the weights of rows in the direction.
        units: rows with the same number are never separated.
        kinds: units of one kind are spread evenly over the halves; kinds that share a class of
            rows carry neighbouring numbers.
        splits: halvings averaged.
        resamples: bootstrap samples; none gives NaN for low and high.
        level: coverage.
        seed: of all of it.
    """
    rng = np.random.default_rng(seed)

    def cosines(counts: Float[np.ndarray, "sample unit"]) -> Float[np.ndarray, "sample layer"]:
        order = np.lexsort((rng.random(counts.shape), np.broadcast_to(kinds, counts.shape)))
        first = np.empty_like(counts)
        np.put_along_axis(first, order, (np.arange(len(kinds)) % 2).astype(float)[None], axis=1)
        a, b = (direction((half * counts)[:, units]) for half in (first, 1 - first))
        return _inner(gram, a, b) / np.sqrt(_inner(gram, a, a) * _inner(gram, b, b))

    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.nanmean(cosines(np.ones((splits, len(kinds)))), axis=0)
        if not resamples:
            missing = np.full_like(value, np.nan)
            return value, missing, missing
        drawn = np.zeros((resamples, len(kinds)))
        for kind in np.unique(kinds):
            members = np.flatnonzero(kinds == kind)
            even = np.full(len(members), 1 / len(members))
            drawn[:, members] = rng.multinomial(len(members), even, size=resamples)
        levels = [cosines(drawn) for _ in range(HALVINGS_PER_RESAMPLE)]
        spread = np.nanstd(_fisher(np.mean(levels, axis=0)), axis=0)
    reach = normal_quantile((1 + level) / 2) * spread
    return value, np.tanh(_fisher(value) - reach), np.tanh(_fisher(value) + reach)


def _inner(
    gram: Float[np.ndarray, "layer row row"], a: Weights, b: Weights
) -> Float[np.ndarray, "sample layer"]:
    return np.einsum("lsr,slr->sl", a.transpose(1, 0, 2) @ gram, b)


def _fisher(cosine: np.ndarray) -> np.ndarray:
    return np.arctanh(np.clip(cosine, -1 + 1e-12, 1 - 1e-12))
