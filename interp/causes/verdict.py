"""Name the cause of a loss if the data support one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.causes.change import CAUSES, PLAYERS, ROUTING
from interp.causes.undoing import Shares, Undone
from interp.statistics import Estimate

LEAST_GAP = 1.0
"""The smallest loss for which shares are reported, in the readout's unit."""
CONTROL_QUANTILE = 0.95
LEAST_SHARE = 0.5
"""The share of the loss that the whole interval of a named cause's share must exceed."""
MIXED = "mixed"
"""The verdict if no change carries that share for certain."""


@dataclass(frozen=True)
class CauseVerdict:
    """The cause of the loss at one layer.

    Attributes:
        layer: 0-based decoder layer.
        gap: mean loss of the readout, in its unit.
        shares: shares of the loss by player.
        cause: one of :data:`CAUSES`; :data:`MIXED` if no change carries half of the loss for
            certain; None if the data do not support a verdict.
        because: the reason if no cause is named; otherwise empty.
        control_high: 95th percentile of the leading cause's controls; NaN without controls.
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
    """The first layer at which the share of routing is below one half.

    Before this layer, routing has most of the loss. At this layer, the changes of the states have
    most of it. If routing has at least half at every layer, this is the last layer; only the final
    norm and the head follow it.
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
    """Name the cause with the largest share if six conditions hold; else give the first failure.

    1. The loss of the readout is above ``least_gap``.
    2. The interval of the largest share lies above one half of the loss; otherwise the verdict is
       ``mixed``. Without an interval (too few prompts) nothing is decided.
    3. The largest share is not the remainder's.
    4. The interval of the largest share lies above the interval of the second largest.
    5. It also lies above the 95th percentile of the controls.
    6. The intervals of both direct effects (undone in the after-model, applied to the base) lie
       above zero, so the edit does not merely activate a dormant path.

    Args:
        undone: readouts of every coalition at one layer.
        controls: effects of controls for the leading cause, from
            :func:`~interp.causes.controls.control_effects`; without them, condition 5 is skipped.
        least_gap: smallest loss to attribute, in the readout's unit.
        level, resamples, seed: settings of the bootstrap over prompts.
    """
    shares = undone.shares(level=level, resamples=resamples, seed=seed)
    band = None if controls is None else float(np.quantile(controls, CONTROL_QUANTILE))
    because = _objection(undone.gap, shares, band, least_gap)
    named = None if because else leading(shares)
    if undone.gap > least_gap and _surely(shares, leading(shares)) <= LEAST_SHARE:
        named = MIXED
    high = float("nan") if band is None else band
    return CauseVerdict(undone.layer, undone.gap, shares, named, because, high)


def _objection(gap: float, shares: Shares, band: float | None, least_gap: float) -> str:
    if not gap > least_gap:
        return f"the loss of {gap:.2f} is not above {least_gap:g}"
    first, second = sorted(PLAYERS, key=lambda name: -shares.shapley[name].value)[:2]
    largest = shares.shapley[first]
    if not np.isfinite(largest.low):
        return largest.reason or "no interval of the shares"
    if _surely(shares, first) <= LEAST_SHARE:
        parts = (f"{name} {_shown(shares.shapley[name])}" for name in (first, second))
        return (
            f"no change carries half of it for certain; the largest shares are {', '.join(parts)}"
        )
    if first not in CAUSES:
        return "most of it lies in deviations of single prompts from their mean, or in other tokens"
    if largest.low <= shares.shapley[second].high:
        return f"{first} and {second} carry similar shares"
    if band is not None and not np.isfinite(band):
        return "some random edits of equal size have effects that are not finite"
    if band is not None and largest.low <= band:
        return f"{first} carries no more than random edits of equal size"
    if min(shares.restored[first].low, shares.removed[first].low) <= 0:
        return f"{first} works one way only, undone or done"
    return ""


def _surely(shares: Shares, name: str) -> float:
    """The least share of a cause; the remainder is never named, so its estimate is enough."""
    share = shares.shapley[name]
    return share.low if name in CAUSES else share.value


def _shown(share: Estimate) -> str:
    return f"{share.value:.2f} ({share.low:.2f} to {share.high:.2f})"
