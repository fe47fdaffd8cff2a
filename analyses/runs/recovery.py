"""Recovery: the share of the leakage that retain data prevents, by set of domains.

    recovery = 1 − Σ_b max(0, L_τ contained) / Σ_b L_τ plain,   over b with L_τ plain > .1

`retained` sums over domains in the retain set, `held_out` over domains outside it. Only `held_out`
shows containment; `retained` shows retraining. Domains that refuse MORE at the end than before do
not compensate for others: they are summed separately, as overshoot.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from analyses.runs.leakage import ArmLeakage
from interp.statistics import Draws

LEAST_LEAKAGE = 0.1


@dataclass(frozen=True)
class Recovery:
    """Recovery and overshoot over one set of domains, as shares of the plain arm's leakage."""

    recovery: Draws
    overshoot: Draws
    domains: tuple[str, ...]


def recover(
    plain: ArmLeakage,
    contained: ArmLeakage,
    domains: Collection[str],
    *,
    quantity: str = "L_90",
    obstacle: str | None = None,
) -> Recovery:
    """Recovery of `contained` against `plain` over `domains`, the source left out.

    The set of domains is fixed on the original prompts, not per resample, so that the interval
    covers the sum and not the choice of domains. `obstacle` is the caller's reason why recovery is
    undefined (a degenerate arm, for example). An undefined L in either arm is another reason.
    """
    before, after = plain.quantities[quantity], contained.quantities[quantity]
    counted = tuple(
        domain
        for domain in sorted(domains)
        if domain != plain.source and domain in before and before[domain].value > LEAST_LEAKAGE
    )
    if obstacle is None and not domains:
        obstacle = "no such domain"
    if obstacle is None and not plain.reached:
        obstacle = "the plain arm did not reach the forgetting level"
    if obstacle is None and not contained.reached:
        obstacle = "the contained arm did not reach the forgetting level"
    if obstacle is None and not counted:
        obstacle = f"nothing to recover: no domain leaked more than {LEAST_LEAKAGE:g}"
    if obstacle is not None:
        nothing = Draws.undefined(obstacle)
        return Recovery(nothing, nothing, counted)

    lost = Draws(
        sum(before[domain].value for domain in counted),
        np.sum([before[domain].draws for domain in counted], axis=0),
        sum(before[domain].n for domain in counted),
    )
    values = np.array([after[domain].value for domain in counted])
    drawn = np.array([after[domain].draws for domain in counted])
    return Recovery(
        Draws(
            1 - float(np.maximum(values, 0).sum()) / lost.value,
            1 - np.maximum(drawn, 0).sum(axis=0) / lost.draws,
            lost.n,
        ),
        Draws(
            float(np.maximum(-values, 0).sum()) / lost.value,
            np.maximum(-drawn, 0).sum(axis=0) / lost.draws,
            lost.n,
        ),
        counted,
    )
