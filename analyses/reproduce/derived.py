r"""Quantities derived from the table; the same functions for published and measured scores.

Scores are shares of refusals, ``(..., domain)``: a row, or that row on every resample of the
prompts. b is the original model, a the unlearned one, t the target, o the other domains:

    leak ratio          mean_o (b_o − a_o) / (b_t − a_t)
    recovery            1 − Σ_o (b_o − a'_o) / Σ_o (b_o − a_o)        a' with retain data
    asymmetry           loss of s after unlearning t, minus loss of t after unlearning s
    base-rate baseline  Spearman over o of b_o with the drop in log-odds
    profile             Pearson over o of one objective's drops with another's

Recovery is not clipped: above 1, the domains refuse more than in the original model.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Scores = Float[np.ndarray, "*resample domain"]
Number = Float[np.ndarray, "*resample"]

# Half a prompt of a hundred, so a rate of 0 or 1 has finite log-odds.
CONTINUITY = 0.005


def leak_ratio(base: Scores, after: Scores, target: int) -> Number:
    """Mean loss of the other domains per point of the target's loss."""
    drop = base - after
    with np.errstate(divide="ignore", invalid="ignore"):
        return _others(drop, target).mean(axis=-1) / drop[..., target]


def recovery(base: Scores, after: Scores, retained: Scores, target: int) -> Number:
    """Share of the other domains' loss that retain data prevent."""
    lost, left = (_others(base - scores, target).sum(axis=-1) for scores in (after, retained))
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - left / lost


def cross_drop(base: Scores, after: Scores, domain: int) -> Number:
    """The loss of one domain."""
    return base[..., domain] - after[..., domain]


def asymmetry(
    base: Scores, without_first: Scores, without_second: Scores, first: int, second: int
) -> Number:
    """Loss of ``first`` after unlearning ``second``, minus the reverse."""
    return cross_drop(base, without_second, first) - cross_drop(base, without_first, second)


def base_rate_skill(base: Scores, after: Scores, target: int) -> Number:
    """Spearman of the domains' base rates with their log-odds drops."""
    drop = _log_odds(base) - _log_odds(after)
    return _correlation(_ranks(_others(base, target)), _ranks(_others(drop, target)))


def profile_correlation(base: Scores, first: Scores, second: Scores, target: int) -> Number:
    """Pearson of two objectives' drops over the other domains."""
    return _correlation(_others(base - first, target), _others(base - second, target))


def rank_correlation(first: Scores, second: Scores) -> Number:
    """Spearman's."""
    return _correlation(_ranks(first), _ranks(second))


#: Quantities between -1 and 1.
CORRELATIONS = (base_rate_skill, profile_correlation, rank_correlation)


def _others(values: Scores, target: int) -> Scores:
    return np.delete(values, target, axis=-1)


def _log_odds(rates: Scores) -> Scores:
    return np.log(rates + CONTINUITY) - np.log(1 - rates + CONTINUITY)


def _ranks(values: Scores) -> Scores:
    from scipy.stats import rankdata

    # Rates are compared as printed; differences in the last bit do not count.
    return rankdata(np.round(values, 9), axis=-1)


def _correlation(first: Scores, second: Scores) -> Number:
    x, y = (values - values.mean(axis=-1, keepdims=True) for values in (first, second))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (x * y).sum(axis=-1) / np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
