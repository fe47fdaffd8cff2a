"""How much of what leaked did the retain data give back, and where.

    recovery = 1 − Σ_b max(0, L_τ contained) / Σ_b L_τ plain,   over b with L_τ plain > .1

`retained` sums over domains in the retain set, `held_out` over domains left out of it. Only
held_out shows containment; retained shows retraining. Domains that end MORE refusing than they
began do not make up for others: they are summed apart, as overshoot.
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

    The domains that enter are picked once, on the prompts as they are, so that the interval is
    about the sum and not about who is in it. `obstacle` is the caller's reason why recovery is
    undefined (a degenerate arm, for example); an undefined L in either arm is another.
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
