"""Recovery: the share of the leakage that retain data prevents, by set of domains.

    recovery = 1 − Σ_b L_τ contained / Σ_b L_τ plain,   over b with L_τ plain > .1

`retained` sums over domains in the retain set, `held_out` over domains outside it. Only `held_out`
shows containment; `retained` shows retraining. Losses below 0 count, because with few prompts half
of the domains without any loss measure one: if they counted as 0, complete recovery would read .90
to .98. Domains that refuse MORE at the end than before are also summed separately, as overshoot;
with an overshoot, recovery can exceed 1.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from analyses.runs.leakage import ArmLeakage
from interp.statistics import Draws, pooled_freedom

LEAST_LEAKAGE = 0.1


@dataclass(frozen=True)
class Recovery:
    """Recovery and overshoot over one set of domains, as shares of the plain arm's leakage.

    Attributes:
        recovery: 1 where nothing is lost on the whole; above 1 if refusal rises.
        overshoot: the rise, summed over the domains that refuse more; noise alone makes it
            positive.
        domains: that leaked without retain data.
    """

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
    if obstacle is None and plain.low_source:
        obstacle = f"low base in the source, {plain.source}"
    if obstacle is None and not plain.reached:
        obstacle = "level not reached in the plain arm"
    if obstacle is None and not contained.reached:
        obstacle = "level not reached in the contained arm"
    leaks = [before[domain] for domain in domains if domain != plain.source and domain in before]
    if obstacle is None and leaks and not np.isfinite([leak.value for leak in leaks]).any():
        obstacle = leaks[0].reason
    if obstacle is None and not counted:
        obstacle = f"nothing to recover: no domain leaked more than {LEAST_LEAKAGE:g}"
    if obstacle is not None:
        nothing = Draws.undefined(obstacle)
        return Recovery(nothing, nothing, counted)

    lost = Draws(
        sum(before[domain].value for domain in counted),
        np.sum([before[domain].draws for domain in counted], axis=0),
        sum(before[domain].n for domain in counted),
        freedom=_freedom([before[d] for d in counted], [after[d] for d in counted]),
    )
    values = np.array([after[domain].value for domain in counted])
    drawn = np.array([after[domain].draws for domain in counted])
    return Recovery(
        Draws(
            1 - float(values.sum()) / lost.value,
            1 - drawn.sum(axis=0) / lost.draws,
            lost.n,
            freedom=lost.freedom,
        ),
        Draws(
            float(np.maximum(-values, 0).sum()) / lost.value,
            np.maximum(-drawn, 0).sum(axis=0) / lost.draws,
            lost.n,
            freedom=lost.freedom,
        ),
        counted,
    )


def _freedom(before: Sequence[Draws], after: Sequence[Draws]) -> float:
    """Degrees of freedom of a sum over domains, whose prompts differ."""
    pairs = list(zip(before, after, strict=True))
    variances = [one.standard_error**2 + two.standard_error**2 for one, two in pairs]
    return pooled_freedom(variances, [min(one.degrees, two.degrees) for one, two in pairs])
