"""Decide from the data on one cause, or on none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.causes.change import CAUSES, PLAYERS, ROUTING
from interp.causes.undoing import Shares, Undone

LEAST_GAP = 1.0
"""Shares of a smaller loss, in the readout's unit, are not reported."""
CONTROL_QUANTILE = 0.95


@dataclass(frozen=True)
class CauseVerdict:
    """What carries the loss at one layer.

    Attributes:
        layer: 0-based decoder layer.
        gap: what was lost, in the readout's unit.
        shares: by player.
        cause: one of :data:`CAUSES`, or None: not decided by these data.
        because: the reason why no cause is named; otherwise empty.
        control_high: 95th percentile of the leading cause's controls; NaN where none were drawn.
    """

    layer: int
    gap: float
    shares: Shares
    cause: str | None
    because: str
    control_high: float


def leading(shares: Shares) -> str:
    """The player with the largest share."""
    return max(PLAYERS, key=lambda name: shares.shapley[name].value)


def entry_layer(undone: Sequence[Undone]) -> Undone:
    """The first layer after which less than half of the loss remains to be made.

    Before this layer, later layers make most of the loss; from it on, the states hold most of it.
    If no layer's states hold half of it, this is the last layer; then only the head remains.
    """
    for at_layer in undone:
        if at_layer.shares(resamples=1).shapley[ROUTING].value < 0.5:
            return at_layer
    return undone[-1]


def decide(
    undone: Undone,
    controls: Float[np.ndarray, " draw"] | None = None,
    *,
    least_gap: float = LEAST_GAP,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> CauseVerdict:
    """Name the cause with the largest share if four things hold; else say which does not.

    The readout lost more than ``least_gap``; the largest share's interval lies above the second's;
    it lies above the 95th percentile of the controls; and both ways round (undone in the after-
    model, done to the base) the effect is above zero, so that the edit opened no dormant path.

    Args:
        undone: of one layer.
        controls: of the leading cause, from :func:`~interp.causes.controls.control_effects`.
        least_gap: in the readout's unit.
        level, resamples, seed: of the bootstrap over prompts.
    """
    shares = undone.shares(level=level, resamples=resamples, seed=seed)
    band = float("nan") if controls is None else float(np.quantile(controls, CONTROL_QUANTILE))
    because = _objection(undone.gap, shares, band, least_gap)
    named = None if because else leading(shares)
    return CauseVerdict(undone.layer, undone.gap, shares, named, because, band)


def _objection(gap: float, shares: Shares, band: float, least_gap: float) -> str:
    if not gap > least_gap:
        return f"the loss of {gap:.2f} is not above {least_gap:g}"
    first, second = sorted(PLAYERS, key=lambda name: -shares.shapley[name].value)[:2]
    largest = shares.shapley[first]
    if first not in CAUSES:
        return "most of it lies in deviations of single prompts from their mean, or in other tokens"
    if largest.low <= shares.shapley[second].high:
        return f"{first} and {second} carry similar shares"
    if largest.low <= band:
        return f"{first} carries no more than random edits of equal size"
    if min(shares.restored[first].low, shares.removed[first].low) <= 0:
        return f"{first} works one way only, undone or done"
    return ""
