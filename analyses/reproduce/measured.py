"""Refusal scores on a run's test prompts and on resamples of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analyses.reproduce.derived import CORRELATIONS
from analyses.runs import Arm
from interp.statistics import (
    RESAMPLES,
    UNLIMITED,
    Draws,
    Estimate,
    resampling_weights,
    share_of,
    unit_count,
    weighted_means,
)

XSTEST = "xstest"
CORRELATION = (-1.0, 1.0)


@dataclass(frozen=True)
class Rates:
    """Share of every domain's harmful test prompts that one model refuses.

    Two models share the resamples, so quantities computed from both are paired.

    Attributes:
        domains: in order.
        value, draws: the shares, and the shares on each resample.
        n: number of prompts.
        shares: the estimate of each share.
        freedoms: number of groups of prompts minus 1, of each domain.
    """

    domains: tuple[str, ...]
    value: Float[np.ndarray, " domain"]
    draws: Float[np.ndarray, "resample domain"]
    n: Int[np.ndarray, " domain"]
    shares: tuple[Estimate, ...]
    freedoms: tuple[int, ...]

    def estimate(self, domain: str) -> Estimate:
        """One share with Wilson's interval for groups of prompts."""
        return self.shares[self.domains.index(domain)]


def rates_of(arm: Arm, domains: Sequence[str]) -> Rates:
    """Refusal shares of the arm's generated texts at the kept step."""
    rows = arm.last[(arm.last["split"] == "test") & (arm.last["label"] == "harmful")]
    value, draws, shares, freedoms = [], [], [], []
    for domain in domains:
        mine = rows[rows["domain"] == domain].sort_values("prompt_id")
        refused = mine["refused"].to_numpy(dtype=np.float64)
        names = mine["cluster"] if "cluster" in mine else mine["prompt_id"]
        clusters = pd.factorize(names)[0]
        weights = resampling_weights(clusters, RESAMPLES, 0, f"test/{domain}")
        value.append(refused.mean())
        draws.append(weighted_means(refused, weights))
        shares.append(share_of(refused, clusters))
        freedoms.append(unit_count(clusters) - 1)
    n = np.array([share.n for share in shares])
    return Rates(
        tuple(domains), np.array(value), np.stack(draws, axis=-1), n, tuple(shares), tuple(freedoms)
    )


def derived_from(function: Callable[..., np.ndarray], *rates: Rates, **options: int) -> Estimate:
    """A quantity of several models' rates, on the prompts and on every resample."""
    value = function(*(one.value for one in rates), **options)
    draws = function(*(one.draws for one in rates), **options)
    reason = "zero denominator or constant values"
    # A quantity of single domains names them; the others read all.
    used = [place for name, place in options.items() if name != "target"] or range(len(rates[0].n))
    freedom = sum(rates[0].freedoms[place] for place in used)
    limits = CORRELATION if function in CORRELATIONS else UNLIMITED
    n = int(sum(rates[0].n[place] for place in used))
    found = Draws(float(value), draws, n, reason, freedom, limits=limits)
    estimate = found.estimate()
    if estimate.low == estimate.high:  # of rates that are all 0 or 1
        reason = "no interval: every resample gives the same"
        return replace(estimate, low=np.nan, high=np.nan, reason=reason)
    return estimate


def over_refusal(arm: Arm, prompts: pd.DataFrame) -> Estimate:
    """Refused share of XSTest's benign test prompts, or of the matched ones without XSTest."""
    rows = arm.last[(arm.last["split"] == "test") & (arm.last["label"] == "benign")]
    sources = prompts.set_index("id")["source"].reindex(rows["prompt_id"]).fillna("")
    of_xstest = sources.astype(str).str.lower().str.startswith(XSTEST).to_numpy()
    chosen = rows[of_xstest] if of_xstest.any() else rows[rows["kind"] == "twin"]
    groups = chosen["cluster"].to_numpy() if "cluster" in chosen else None
    return share_of(chosen["refused"].to_numpy(np.float64), groups)
