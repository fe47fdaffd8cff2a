r"""Which prompts will lose their refusal: the forecast of unlearning, prompt by prompt.

The forecast of prompt i is the slope of its refusal log-odds m_i along the first step of unlearning
concept a, relative to the target's own mean slope:

    f_i = ⟨P ∇S_a, ∇m_i⟩ / K[a,a]

so it is the loss of i, in nats, when the target's prompts lose one nat on average. The mean of f_i
over a domain's training prompts is the domain's forecast K[a,b]/K[a,a]. The slopes take two
forwards (:mod:`analyses.predict.slopes`). A refusal of i's own prompt is left out of ∇S_a, group by
group, because it would raise f_i by memory of the prompt alone.

**Levels.** The target's own training prompts say how many nats s_τ the target loses on average
until τ of its refusal is gone: the s at which the mean of p_R = σ(m_i − s f_i) is 1 − τ of what it
was. A refused prompt (m_i > 0) flips if m_i − s_τ f_i < 0, up to an error of the first step. That
error (:data:`ERROR`) is that of ungated model organisms; on gated ones it was larger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import optimize, special

from analyses.predict.products import adam_diagonal
from analyses.predict.slopes import slopes_along
from interp.errors import InputError
from interp.progress import Advance, silent

if TYPE_CHECKING:
    from analyses.predict.evidence import Evidence
    from analyses.predict.gradients import Gradients
    from analyses.predict.slopes import Direction

LEVELS = (0.5, 0.9)
FORECAST = "forecast"
# What a forecast by prompt is compared with (:mod:`analyses.predict.prompt_skill`), as figures say.
PREDICTORS = {
    FORECAST: "forecast by prompt",
    "slope": "slope of the prompt alone",
    "domain mean and log-odds": "domain's mean slope and base log-odds",
    "domain mean": "domain's mean slope",
    "base log-odds": "base log-odds",
    "TF-IDF neighbour": "nearest forget prompt (TF-IDF)",
}
ASKED = ("id", "prompt", "domain", "split", "label", "log_odds")
# How far the target's mean log-odds are moved, in nats, to each side: small against the curvature,
# large against the rounding of log-odds.
STEP = {torch.float32: 0.05, torch.float64: 0.05}
HALF_STEP = 1.0
MOST_NATS = 100.0

# Standard deviation of the error of the predicted log-odds: hypot(nats, share · s_τ). The share is
# the spread of a domain's forecast on ungated development model organisms; on the flips of the one
# that was packaged then .057 has the largest likelihood (experiments/prompt_forecasts.py).
ERROR = {"nats": 0.05, "share": 0.06}

Values = Float[np.ndarray, " prompt"]


def forecast_by_prompt(
    evidence: Evidence,
    concept: str,
    asked: pd.DataFrame,
    own: float,
    *,
    adam: bool,
    progress: Advance = silent,
) -> pd.DataFrame:
    """The forecast of every prompt.

    Args:
        evidence: from the base model.
        concept: what would be unlearned.
        asked: the prompts, ``id, prompt, domain, split, label, log_odds``, of any split.
        own: K[a,a], of the same kernel.
        adam: whether P is Adam's diagonal; otherwise it is 1.
        progress: called with the number of prompts read, twice for each prompt.

    Returns:
        These columns and ``forecast`` (nats for each nat of the target), ``flip_50`` and
        ``flip_90``: the probability that a refused prompt (log-odds above 0) is not refused when
        half, or 90%, of the target's refusal is gone. They are NaN for prompts that are not
        refused, and where the forecast says that the target never gets there.

    Raises:
        InputError: a column is missing, or ``own`` is not above 0.
    """
    if missing := [name for name in ASKED if name not in asked]:
        raise InputError(f"the prompts have no column {missing[0]}; expected {', '.join(ASKED)}")
    if not own > 0:
        raise InputError(f"the target's own kernel is {own:.3g}; expected a number above 0")
    table = asked[list(ASKED)].reset_index(drop=True)
    lm = evidence.untrained
    step = STEP.get(lm.model.dtype, HALF_STEP)
    rows = [lm.chat.encode(prompt) for prompt in table["prompt"]]
    found = np.full(len(rows), np.nan)
    gradients = evidence.gradients_of_deflections(concept)
    groups = evidence.groups_of_deflections(concept)
    left_out = table["prompt"].map(groups).fillna(-1).to_numpy(dtype=np.int64)
    for group in np.unique(left_out):
        chosen = np.flatnonzero(left_out == group)
        found[chosen] = slopes_along(
            lm,
            [rows[i] for i in chosen],
            evidence.read_log_odds,
            direction_of(gradients, own, without=int(group), adam=adam),
            step,
            batch_size=evidence.batch_size,
            progress=progress,
        )
    table["forecast"] = found
    target = (table["domain"] == concept) & (table["label"] == "harmful")
    target &= table["split"] == "train"
    log_odds = table["log_odds"].to_numpy(dtype=np.float64)
    for level in LEVELS:
        lost = nats_at(log_odds[target], found[target], level)
        table[flip_column(level)] = flip_probability(log_odds, found, lost)
    return table


def direction_of(gradients: Gradients, own: float, *, without: int, adam: bool) -> Direction:
    """P ∇S_a / K[a,a], from all groups but one (or all, where ``without`` is negative)."""
    found = {}
    for name, of_groups in gradients.of.items():
        kept = [group for group in range(len(of_groups)) if group != without]
        mean = of_groups[kept].mean(dim=0) / own
        found[name] = mean * adam_diagonal(of_groups) if adam else mean
    return found


def nats_at(log_odds: Values, forecast: Values, level: float) -> float:
    """s_τ: the target's mean loss in nats when ``level`` of its refusal is gone.

    Args:
        log_odds, forecast: of the target's prompts.
        level: τ.

    Returns:
        The smallest such s; NaN where the forecast does not get there within 100 nats.
    """

    def left(lost: float) -> float:
        kept = special.expit(log_odds - lost * forecast).mean() / special.expit(log_odds).mean()
        return float(kept - (1 - level))

    tried = np.concatenate([[0.0], np.geomspace(0.01, MOST_NATS, 200)])
    below = [k for k, lost in enumerate(tried) if left(lost) <= 0]
    if not len(log_odds) or not below:
        return float("nan")
    return float(optimize.brentq(left, tried[below[0] - 1], tried[below[0]]))


def flip_probability(log_odds: Values, forecast: Values, lost: float) -> Values:
    """The probability that a refused prompt is not refused when the target has lost ``lost`` nats.

    NaN where the prompt is not refused.
    """
    error = np.hypot(ERROR["nats"], ERROR["share"] * lost)
    found = special.ndtr((lost * forecast - log_odds) / error)
    return np.where(log_odds > 0, found, np.nan)


def flip_column(level: float) -> str:
    """The column of the probability to flip at a forgetting level."""
    return f"flip_{round(100 * level)}"


def most_at_risk(prompts: pd.DataFrame) -> pd.DataFrame:
    """The prompts that are likely to flip at 90% forgetting, the likeliest first."""
    column = flip_column(LEVELS[-1])
    found = prompts[prompts[column] > 0.5]
    return found.sort_values([column, "forecast"], ascending=False, ignore_index=True)
