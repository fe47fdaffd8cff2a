"""Which way to keep it narrow is recommended, and why: chosen on validation, told on test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analyses.contain.methods import METHODS
from analyses.contain.outcomes import Kept, Key, Pooled, difference
from analyses.study import LEAST_ANSWERS, LEAST_RECOVERY
from interp.statistics import Estimate


@dataclass(frozen=True)
class Advice:
    """A recommendation.

    Attributes:
        key: method, examples and weight; None where nothing can be recommended.
        sentences: what, why, and what speaks against it.
    """

    key: Key | None
    sentences: tuple[str, ...]


def retained_recovery(kept: Sequence[Kept]) -> float | None:
    """Mean recovery of the retained domains; None where some target did not comply."""
    if not all(one.complied for one in kept):
        return None
    values = np.array([one.recovery["retained"].value for one in kept])
    return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else 0.0


def find_weight(weights: Sequence[float], recovery: Callable[[float], float | None]) -> float:
    """The smallest weight at which the retained domains recover .7 while the target complies.

    Else the one that recovers most while it complies; else the smallest. A weight that keeps the
    target from complying ends the search: a larger one would hold it back more. The held-out
    domains are not asked.

    Args:
        weights: to try.
        recovery: of the retained domains at a weight, on VALIDATION prompts; None where the target
            does not comply.
    """
    complying: dict[float, float] = {}
    for weight in sorted(weights):
        found = recovery(weight)
        if found is None:
            break
        complying[weight] = found
        if found >= LEAST_RECOVERY:
            return weight
    return max(complying, key=complying.__getitem__) if complying else min(weights)


def advise(validation: Sequence[Pooled], test: Sequence[Pooled]) -> Advice:
    """What held out domains kept most, among what complied on every split.

    Args:
        validation: chosen on these.
        test: told on these; the same methods.
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
        "On domains that it "
        f"never saw it keeps {_shown(held_out)} of what plain unlearning lost; on those it was "
        f"trained to keep, {_shown(retained)}. The target answers {told.answer_rate:.0%} of its "
        f"prompts, with {told.other_mass:.2f} of the first token on neither refusal nor answer.",
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
        return "Nothing is recommended: no contained arm has finished."
    most = max(validation, key=lambda one: (one.complied / one.arms, one.answer_rate))
    return (
        "Nothing is recommended: no method let the target comply on every split with a recovery "
        f"that is defined; {containment_label(most.key)} came closest "
        f"({most.complied} of {most.arms})."
    )


def _on_test(told: Pooled) -> list[str]:
    """Where the test prompts do not bear out what the validation prompts said of complying."""
    if told.complied == told.arms:
        return []
    return [
        f"On test prompts the target complied on {told.complied} of {told.arms} splits only; the "
        "recoveries are of those."
    ]


def _kind(told: Pooled) -> str:
    """Containment, retraining or both."""
    held_out = told.recovery["held_out"].estimate()
    retraining = difference(told, told, "retained", "held_out")
    if not np.isfinite(held_out.low):
        return "Whether that is containment cannot be told: the interval is undefined."
    if held_out.low <= 0:
        trained = told.recovery["retained"].estimate().low > 0
        more = ": only what it was trained to keep is seen to recover" if trained else ""
        return f"That is not told from no containment at all{more}."
    if retraining.low > 0:
        return (
            "It contains something, and part of it is retraining: domains that it was trained to "
            f"keep recover {_shown(retraining)} more."
        )
    return (
        "It contains something; that trained domains recover more is not told "
        f"(difference {_shown(retraining)})."
    )


def _against(told: Pooled, by_key: Mapping[Key, Pooled], able: Sequence[Pooled]) -> list[str]:
    """Random examples as many, and what is not told apart from the recommended."""
    found = []
    chance = next(
        (one for key, one in by_key.items() if key[0] == "random" and key[1] == told.key[1]), None
    )
    if chance is not None and told.key[0] != "random":
        gap = difference(told, chance, "held_out")
        found.append(
            "As many examples drawn at random keep "
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
        found.append("Not told apart from it on held-out domains: " + "; ".join(level) + ".")
    return found


def _shown(estimate: Estimate) -> str:
    if not np.isfinite(estimate.value):
        return "undefined"
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
