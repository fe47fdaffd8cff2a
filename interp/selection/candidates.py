"""Candidate directions with their effects, and two rules to choose among them.

:meth:`Candidates.best` is the paper's rule. It overestimates the effect of the best candidate,
because the same prompts choose the candidate and measure its effect. So :func:`choose_held_out`
holds out every fold of prompts once: it chooses a candidate on the other folds and measures its
effect on this fold. The final choice uses all prompts; the reported effect is the mean over
held-out prompts of the folds' choices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.errors import InputError
from interp.statistics import Estimate, mean_of

if TYPE_CHECKING:
    import pandas as pd

# Arditi et al. 2024, appendix C.
KL_AT_MOST = 0.1
INDUCE_AT_LEAST = 0.0

SCORES = ("bypass", "induce", "kl")


@dataclass(frozen=True)
class Choice:
    """The chosen direction.

    Attributes:
        layer: 0-based decoder layer; the direction comes from its input.
        position: token, counted from the prompt's end; -1 is the last token.
        direction: the mean difference, not normalised.
    """

    layer: int
    position: int
    direction: Float[np.ndarray, " d_model"]


@dataclass(frozen=True)
class Candidates:
    """Directions by layer and position, and the effect of each on every validation prompt.

    Attributes:
        layers, positions: layers and tokens of the directions; positions count from the prompt's
            end.
        directions: mean differences, positives minus negatives, in float64.
        bypass, induce, kl: the scores that :mod:`interp.selection` defines.
        positive, negative: readouts of the unchanged model on each kind of prompt.
    """

    layers: tuple[int, ...]
    positions: tuple[int, ...]
    directions: Float[np.ndarray, "layer position d_model"]
    bypass: Float[np.ndarray, "layer position positive"]
    induce: Float[np.ndarray, "layer position negative"]
    kl: Float[np.ndarray, "layer position negative"]
    positive: Float[np.ndarray, " positive"]
    negative: Float[np.ndarray, " negative"]

    def allowed(
        self, *, kl_at_most: float = KL_AT_MOST, induce_at_least: float = INDUCE_AT_LEAST
    ) -> Bool[np.ndarray, "layer position"]:
        """Whether each candidate has a small KL and induces the behaviour; False for NaN scores."""
        bypass, induce, kl = (x.mean(axis=-1) for x in (self.bypass, self.induce, self.kl))
        return np.isfinite(bypass) & (kl <= kl_at_most) & (induce >= induce_at_least)

    def best(
        self, *, kl_at_most: float = KL_AT_MOST, induce_at_least: float = INDUCE_AT_LEAST
    ) -> Choice:
        """The allowed candidate with the lowest mean bypass.

        Raises:
            InputError: no candidate is allowed.
        """
        allowed = self.allowed(kl_at_most=kl_at_most, induce_at_least=induce_at_least)
        if not allowed.any():
            kl, induce = self.kl.mean(axis=-1), self.induce.mean(axis=-1)
            raise InputError(
                f"none of {allowed.size} directions is allowed: {(kl > kl_at_most).sum()} cost "
                f"over {kl_at_most:g} nats, {(induce < induce_at_least).sum()} do not reach "
                f"{induce_at_least:g} when added, {(~np.isfinite(kl)).sum()} are not finite; see "
                "to_dataframe(), or give more prompts"
            )
        return self.choice(np.where(allowed, self.bypass.mean(axis=-1), np.inf).argmin())

    def choice(self, index: int | np.intp) -> Choice:
        """The candidate with this number; numbers run by layer, then by position."""
        layer, position = np.unravel_index(index, self.kl.shape[:2])
        direction = self.directions[layer, position]
        return Choice(self.layers[layer], self.positions[position], direction)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per candidate: layer, position, norm, mean scores, and whether it is allowed."""
        import pandas as pd

        layer, position = (index.ravel() for index in np.indices(self.kl.shape[:2]))
        means = {name: getattr(self, name).mean(axis=-1).ravel() for name in SCORES}
        return pd.DataFrame(
            {
                "layer": np.array(self.layers)[layer],
                "position": np.array(self.positions)[position],
                "norm": np.linalg.norm(self.directions, axis=-1).ravel(),
                **means,
                "allowed": self.allowed().ravel(),
            }
        )


@dataclass(frozen=True)
class HeldOutChoice:
    """A direction chosen by causal effect, with its effect on held-out prompts.

    Attributes:
        choice: the direction chosen on all prompts.
        removed: decrease of the readout on held-out positives by ablation, in its unit.
        induced: increase of the readout on held-out negatives by addition, in its unit.
        by_fold: the choice made without each fold; if these differ, the choice is unstable.
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
    """Choose the candidate with the largest sum of the mean effects of ablation and addition.

    Args:
        candidates: scores from :func:`interp.selection.score_candidates`.
        kl_at_most: largest mean KL of an allowed candidate, in nats.
        folds: number of parts into which the prompts of each kind are split.
        level, resamples: settings of the intervals over prompts.
        seed: seed of folds and resamples.

    Raises:
        InputError: fewer prompts of a kind than folds, or all candidates exceed ``kl_at_most``.
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
