"""Containment methods compared over splits, and the paper's map of cosines."""

from __future__ import annotations

import numpy as np

from analyses.contain.outcomes import Pooled, difference
from analyses.reproduce.entanglement import entanglement
from experiments.calibration.settings import Setting, Tally, covered
from interp.statistics import Draws, resampling_weights, weighted_means

PROMPTS = 24


def _method(
    truth: float, prompts: np.ndarray, splits: float, shared: np.ndarray, rng: np.random.Generator
) -> Pooled:
    """Recovery of one method on every split; splits differ alike for all methods, and by method."""
    weights = resampling_weights(PROMPTS, 400, 0, "calibration")
    found = {}
    for split, effect in enumerate(shared):
        values = truth + effect + splits * rng.normal() / 2 + prompts + rng.normal(size=PROMPTS) / 4
        found[split] = Draws(float(values.mean()), weighted_means(values, weights), PROMPTS)
    return Pooled(("equal", None, 1.0), len(shared), 0, 1.0, 0.0, {"held_out": found})


def _difference(count: int, splits: float, prompts: float) -> Setting:
    def run(rng: np.random.Generator, replications: int) -> Tally:
        found = []
        for _ in range(replications):
            shared = splits * rng.normal(size=count)
            own = [prompts * rng.normal(size=PROMPTS) for _ in range(2)]
            one, other = (
                _method(truth, of_prompts, splits, shared, rng)
                for truth, of_prompts in zip((0.5, 0.3), own, strict=True)
            )
            found.append(difference(one, other, "held_out"))
        return covered(0.2, [(one.low, one.high) for one in found])

    setting = f"{count} splits, spread of splits {splits:g}, of prompts {prompts:g}"
    return Setting("difference of two containment methods", setting, "coverage", run, 500)


def _recovery(count: int, splits: float, prompts: float) -> Setting:
    def run(rng: np.random.Generator, replications: int) -> Tally:
        found = []
        for _ in range(replications):
            shared, own = splits * rng.normal(size=count), prompts * rng.normal(size=PROMPTS)
            found.append(_method(0.5, own, splits, shared, rng).recovery["held_out"].estimate())
        return covered(0.5, [(one.low, one.high) for one in found])

    setting = f"{count} splits, spread of splits {splits:g}, of prompts {prompts:g}"
    quick = count == 6 and splits == prompts
    return Setting("recovery of a containment method", setting, "coverage", run, 500, quick)


def _outside(domains: int, prompts: int) -> Setting:
    """Whether any entry of a map of unrelated prompts lies outside its band."""
    off = ~np.eye(domains, dtype=bool)

    def run(rng: np.random.Generator, replications: int) -> Tally:
        outside = 0
        for _ in range(replications):
            mean = 3 * rng.normal(size=32)
            states = {str(d): mean + rng.normal(size=(prompts, 32)) for d in range(domains)}
            found = entanglement(states, halves=1)
            beyond = (found.cosine < found.low) | (found.cosine > found.high)
            outside += bool(beyond[off].any())
        return Tally(outside, replications)

    setting = f"{domains} domains, {prompts} prompts each"
    return Setting("map of cosines (R3): any entry outside", setting, "error", run, 100)


SETTINGS = (
    *(_difference(6, *spreads) for spreads in ((0.2, 0.2), (0.1, 1.0), (0.3, 0.1))),
    _difference(3, 0.2, 0.2),
    *(_recovery(6, *spreads) for spreads in ((0.2, 0.2), (0.1, 1.0), (0.3, 0.1))),
    _recovery(3, 0.2, 0.2),
    *(_outside(domains, prompts) for domains, prompts in ((7, 12), (6, 24))),
)
