"""A direction chosen by what it does, with its effect on prompts that did not choose it.

The best of many candidates looks better than it is on the prompts that it was the best on. Here
every fold of prompts is left out once: the candidate is chosen on the others, and what it does is
read off the fold. The choice itself is made on all prompts; the effect belongs to the procedure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from interp.errors import InputError
from interp.selection.candidates import KL_AT_MOST, Candidates, Choice
from interp.statistics import Estimate, mean_of


@dataclass(frozen=True)
class HeldOutChoice:
    """A choice by causal effect.

    Attributes:
        choice: the direction chosen on all prompts.
        removed: by how much ablating lowers the readout on held-out positives, in its unit.
        induced: by how much adding raises it on held-out negatives, in its unit.
        by_fold: what was chosen with each fold left out; where they differ, the choice is weak.
    """

    choice: Choice
    removed: Estimate
    induced: Estimate
    by_fold: tuple[Choice, ...]


def choose_held_out(
    candidates: Candidates,
    *,
    kl_at_most: float = KL_AT_MOST,
    folds: int = 5,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> HeldOutChoice:
    """The candidate whose ablation removes and whose addition induces most, on average.

    Args:
        candidates: as :func:`interp.selection.score_candidates` gives them.
        kl_at_most: in nats; candidates that cost more are left out.
        folds: parts that the prompts of each kind are dealt to.
        level, resamples: of the intervals over prompts.
        seed: of folds and resamples.

    Raises:
        InputError: fewer prompts of a kind than folds, or no candidate that costs little enough.
    """
    counts = len(candidates.positive), len(candidates.negative)
    if folds < 2 or min(counts) < folds:
        raise InputError(
            f"{counts[0]} positive and {counts[1]} negative prompts in {folds} folds; give at "
            "least two folds and a prompt of each kind for every fold"
        )
    rng = np.random.default_rng(seed)
    parts = [rng.permutation(count) % folds for count in counts]
    held_out = [np.empty(count) for count in counts]
    chosen = []
    for fold in range(folds):
        index = _largest(_without(candidates, [part == fold for part in parts]), kl_at_most)
        chosen.append(candidates.choice(index))
        for values, effects, part in zip(held_out, _effects(candidates), parts, strict=True):
            values[part == fold] = effects.reshape(-1, len(part))[index, part == fold]
    removed, induced = (
        mean_of(values, level=level, resamples=resamples, seed=seed) for values in held_out
    )
    choice = candidates.choice(_largest(candidates, kl_at_most))
    return HeldOutChoice(choice, removed, induced, tuple(chosen))


def _effects(
    candidates: Candidates,
) -> tuple[
    Float[np.ndarray, "layer position positive"], Float[np.ndarray, "layer position negative"]
]:
    return candidates.positive - candidates.bypass, candidates.induce - candidates.negative


def _largest(candidates: Candidates, kl_at_most: float) -> np.intp:
    size = sum(effects.mean(axis=-1) for effects in _effects(candidates))
    allowed = candidates.allowed(kl_at_most=kl_at_most, induce_at_least=-np.inf)
    if not allowed.any():
        raise InputError(
            f"every one of {allowed.size} directions costs more than {kl_at_most:g} nats on "
            "negative prompts; see to_dataframe(), or allow more with kl_at_most"
        )
    return np.where(allowed, size, -np.inf).argmax()


def _without(candidates: Candidates, left_out: list[Int[np.ndarray, " prompt"]]) -> Candidates:
    positive, negative = (~mask for mask in left_out)
    return replace(
        candidates,
        bypass=candidates.bypass[..., positive],
        induce=candidates.induce[..., negative],
        kl=candidates.kl[..., negative],
        positive=candidates.positive[positive],
        negative=candidates.negative[negative],
    )
