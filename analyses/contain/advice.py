"""The recommended containment method: chosen on validation prompts, reported on test prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analyses.contain.methods import METHODS
from analyses.contain.outcomes import Kept, Key, Pooled, difference
from analyses.runs import TargetOutcome
from analyses.study import LEAST_ANSWERS, LEAST_RECOVERY
from interp.statistics import Estimate


@dataclass(frozen=True)
class Advice:
    """A recommendation.

    Attributes:
        key: method, examples and weight; None without a recommendation.
        sentences: the recommendation, its reasons and its limits.
    """

    key: Key | None
    sentences: tuple[str, ...]


def retained_recovery(kept: Sequence[Kept]) -> float | None:
    """Mean recovery of the retained domains.

    NaN if some target is degenerate or its arm cannot be trained; None if one still refuses or does
    not reach the forgetting level.
    """
    coherent = [
        one for one in kept if not (one.failed or one.verdict.outcome is TargetOutcome.DEGENERATE)
    ]
    if not all(one.complied for one in coherent):
        return None
    if len(coherent) < len(kept):
        return float("nan")
    values = np.array([one.recovery["retained"].value for one in kept])
    return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else 0.0


def find_weight(weights: Sequence[float], recovery: Callable[[float], float | None]) -> float:
    """The smallest weight at which the retained domains recover .7 while the target complies.

    Else the weight with the largest recovery while it complies; else the smallest. The search ends
    at a weight with which the target still refuses, because larger weights oppose unlearning more.
    A degenerate target may be coherent at a larger weight. Held-out domains play no part.

    Args:
        weights: to try.
        recovery: of the retained domains at a weight, on VALIDATION prompts; NaN if the target is
            degenerate, None if it still refuses (:func:`retained_recovery`).
    """
    complying: dict[float, float] = {}
    for weight in sorted(weights):
        found = recovery(weight)
        if found is None:
            break
        if np.isfinite(found):
            complying[weight] = found
        if found >= LEAST_RECOVERY:
            return weight
    return max(complying, key=complying.__getitem__) if complying else min(weights)


def advise(validation: Sequence[Pooled], test: Sequence[Pooled]) -> Advice:
    """The method with the largest held-out recovery among those that complied on every split.

    Args:
        validation: outcomes that decide the choice.
        test: outcomes that are reported; the same methods.
    """
    able = [
        one
        for one in validation
        if one.complied == one.arms
        and one.answer_rate >= LEAST_ANSWERS
        and np.isfinite(one.recovery["held_out"].value)
    ]
    if not able:
        return Advice(None, (_nothing(validation),))
    best = max(able, key=lambda one: one.recovery["held_out"].value)
    by_key = {one.key: one for one in test}
    told = by_key[best.key]
    held_out, retained = (told.recovery[name].estimate() for name in ("held_out", "retained"))
    sentences = [
        f"Recommended: {containment_label(best.key)} ({METHODS[best.key[0]].does}). "
        "In held-out "
        f"domains it recovers {_shown(held_out)} of the leakage of plain unlearning; in retained "
        f"domains, {_shown(retained)}. The target answers {told.answer_rate:.0%} of its "
        f"prompts; the mean p_O is {told.other_mass:.2f}.",
        *_on_test(told),
        _kind(told),
        *_against(told, by_key, able),
    ]
    return Advice(best.key, tuple(sentences))


def containment_label(key: Key) -> str:
    """``kernel, 32 examples, weight 10``."""
    name, examples, weight = key
    method = METHODS[name]
    parts = [method.about.title]
    if method.retains:
        parts.append(f"{examples} examples" if examples else "all examples")
    if weight is not None:
        parts.append(f"weight {weight:g}")
    return ", ".join(parts)


def _nothing(validation: Sequence[Pooled]) -> str:
    if not validation:
        return "No recommendation: no contained arm has finished."
    most = max(validation, key=lambda one: (one.complied / one.arms, one.answer_rate))
    return (
        "No recommendation: no method made the target comply on every split with a defined "
        f"recovery; {containment_label(most.key)} came closest "
        f"({most.complied} of {most.arms})."
    )


def _on_test(told: Pooled) -> list[str]:
    """A sentence if the target complied on fewer splits on test than on validation prompts."""
    if told.complied == told.arms:
        return []
    return [
        f"On test prompts the target complied on only {told.complied} of {told.arms} splits; the "
        "recoveries cover those splits."
    ]


def _kind(told: Pooled) -> str:
    """Whether the recovery shows containment, retraining or both."""
    held_out = told.recovery["held_out"].estimate()
    retraining = difference(told, told, "retained", "held_out")
    if not np.isfinite(held_out.low):
        return "Whether this is containment is not decided: the interval is undefined."
    if held_out.low <= 0:
        trained = told.recovery["retained"].estimate().low > 0
        more = ": only retained domains recover significantly" if trained else ""
        return f"Containment is not shown{more}."
    if retraining.low > 0:
        return (
            "Containment is shown, and part of the recovery is retraining: retained domains "
            f"recover {_shown(retraining)} more."
        )
    return (
        "Containment is shown; retained domains do not recover significantly more "
        f"(difference {_shown(retraining)})."
    )


def _against(told: Pooled, by_key: Mapping[Key, Pooled], able: Sequence[Pooled]) -> list[str]:
    """As many random examples, and the methods that do not differ significantly."""
    found = []
    chance = next(
        (one for key, one in by_key.items() if key[0] == "random" and key[1] == told.key[1]), None
    )
    if chance is not None and told.key[0] != "random":
        gap = difference(told, chance, "held_out")
        found.append(
            "With as many random examples, held-out recovery is "
            f"{_shown(chance.recovery['held_out'].estimate())} (difference {_shown(gap)})."
        )
    level = []
    for one in able:
        if one.key == told.key or one.key not in by_key:
            continue
        gap = difference(told, by_key[one.key], "held_out")
        if not gap.low > 0:
            level.append(containment_label(one.key))
    if level:
        found.append("Not significantly different in held-out domains: " + "; ".join(level) + ".")
    return found


def _shown(estimate: Estimate) -> str:
    if not np.isfinite(estimate.value):
        return "undefined"
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
